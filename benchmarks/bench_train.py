"""Training steps (forward, backward, AdamW): an MLP, character GPT, GPT-2, the ConvNet for digits.

python -m benchmarks.bench_train
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Case, Options, Step, main

LR = 3e-4


def batch(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """One batch of the case: inputs, and labels or next tokens."""
    rng = np.random.default_rng(0)
    n = options["batch"]
    if options["model"] == "gpt":
        shape = (n, options["context"])
        vocabulary = options["config"]["vocab_size"]
        return rng.integers(0, vocabulary, shape), rng.integers(0, vocabulary, shape)
    x = rng.standard_normal((n, *options["input"])).astype(np.float32)
    return x, rng.integers(0, 10, n)


def prepare_rung(options: Options) -> Step:
    """The whole step under one jit."""
    train, x, y = rung_training(options)
    return lambda: finite(float(train(x, y)))


def rung_training(options: Options) -> tuple[Any, Any, Any]:
    """The jitted step, and its batch."""
    import rung
    from rung import models, optim
    from rung.nn import functional as f

    rung.manual_seed(0)
    loss_of: Callable[[Any, Any], Any]
    model: Any
    if options["model"] == "gpt":
        model = models.GPT(models.GPTConfig(**options["config"]))
        loss_of = model.loss
    else:
        model = models.MLP(options["sizes"]) if options["model"] == "mlp" else models.ConvNet()
        loss_of = lambda x, y: f.cross_entropy(model(x), y)  # noqa: E731
    optimizer = optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)

    @rung.jit
    def train(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = (rung.asarray(a) for a in batch(options))
    return train, x, y


def torch_step(options: Options, compiled: bool) -> Step:
    """The step in torch, eager or by torch.compile."""
    import torch
    import torch.nn.functional as f

    from benchmarks.peers import torch_models

    torch.manual_seed(0)
    loss_of: Callable[[Any, Any], Any]
    model: Any
    if options["model"] == "gpt":
        model = torch_models.GPT(torch_models.GPTConfig(**options["config"]))
        run = torch.compile(model) if compiled else model
        loss_of = run
    else:
        mlp = options["model"] == "mlp"
        model = torch_models.mlp(options["sizes"]) if mlp else torch_models.ConvNet()
        run = torch.compile(model) if compiled else model
        loss_of = lambda x, y: f.cross_entropy(run(x), y)  # noqa: E731
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    x, y = (torch.from_numpy(a) for a in batch(options))

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        finite(loss.item())

    return step


def finite(loss: float) -> None:
    """Raise ArithmeticError for a loss that is no number: such a step proves nothing."""
    if not np.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss}")


def prepare_torch(options: Options) -> Step:
    """Eager torch."""
    return torch_step(options, compiled=False)


def prepare_torch_compile(options: Options) -> Step:
    """torch.compile, with its default options."""
    return torch_step(options, compiled=True)


def prepare_jax(options: Options) -> Step:
    """The MLP in JAX, with AdamW written out (JAX has no optimizers of its own)."""
    import jax
    import jax.numpy as jnp

    if options["model"] != "mlp":
        raise ImportError(name="JAX peer for this model")
    x, y = (jnp.asarray(a) for a in batch(options))
    rng = np.random.default_rng(0)
    sizes = options["sizes"]
    params = [
        (
            jnp.asarray(rng.uniform(-1, 1, (o, i)) / np.sqrt(i), jnp.float32),
            jnp.zeros(o, jnp.float32),
        )
        for i, o in pairwise(sizes)
    ]
    moments = jax.tree.map(jnp.zeros_like, (params, params))

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w.T + b)
        logits = jax.nn.log_softmax(x @ params[-1][0].T + params[-1][1])
        return -jnp.take_along_axis(logits, y[:, None], 1).mean()

    def update(p: Any, g: Any, m: Any, v: Any, t: Any) -> Any:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        change = m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return p * (1 - LR * 0.01) - LR * change, m, v

    def train(params: Any, moments: Any, t: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        new = jax.tree.map(lambda p, g, m, v: update(p, g, m, v, t), params, grads, *moments)
        pick = [jax.tree.map(lambda n, i=i: n[i], new, is_leaf=is_update) for i in range(3)]
        return loss, pick[0], (pick[1], pick[2])

    def is_update(node: Any) -> bool:
        return isinstance(node, tuple) and len(node) == 3

    compiled = jax.jit(train, donate_argnums=(0, 1))
    state = [params, moments, 1.0]

    def step() -> None:
        loss, state[0], state[1] = compiled(state[0], state[1], state[2], x, y)
        state[2] += 1.0
        finite(float(loss))

    return step


def gpt(layers: int, heads: int, width: int, vocabulary: int, context: int, n: int) -> Options:
    """Options of a GPT case."""
    config = {
        "block_size": context, "vocab_size": vocabulary, "n_layer": layers, "n_head": heads,
        "n_embd": width, "bias": vocabulary > 1000,
    }  # fmt: skip
    return {"model": "gpt", "config": config, "context": context, "batch": n}


def mlp(sizes: list[int], n: int) -> Options:
    """Options of an MLP case."""
    return {"model": "mlp", "sizes": sizes, "input": [sizes[0]], "batch": n}


CONVNET = {"model": "convnet", "input": [1, 8, 8], "batch": 64}
GPT2 = gpt(12, 12, 768, 50257, 256, 2)
CHAR = gpt(6, 6, 384, 65, 256, 12)
MLP = mlp([784, 512, 512, 10], 64)
TORCH = ("rung", "torch", "torch compile")

BENCHMARK = Benchmark(
    name="train",
    doc="training steps, forward + backward + AdamW",
    peers={
        "rung": prepare_rung,
        "torch": prepare_torch,
        "torch compile": prepare_torch_compile,
        "jax": prepare_jax,
    },
    cases=(
        Case(
            "MLP 784-512-512-10, batch 64",
            MLP,
            (*TORCH, "jax"),
            {"torch": 1.7, "torch compile": 1.5},
            rounds=9,
        ),
        Case("char-GPT 10 M, batch 12 x 256", CHAR, TORCH, {"best": 1.1}, rounds=11),
        Case("GPT-2 124 M, batch 2 x 256", GPT2, TORCH, {"best": 1.0}, rounds=4),
        Case("digits ConvNet, batch 64", CONVNET, TORCH, {"best": 1.0}, rounds=9),
    ),
    tiny=(
        Case("tiny MLP", mlp([12, 8, 10], 4), ("rung", "torch", "jax")),
        Case("tiny GPT", gpt(1, 2, 16, 11, 8, 2), ("rung", "torch")),
        Case("ConvNet, batch 2", {**CONVNET, "batch": 2}, ("rung", "torch")),
    ),
    memory=True,
)


if __name__ == "__main__":
    main(BENCHMARK, "benchmarks.bench_train")
