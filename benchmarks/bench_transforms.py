"""What transforms cost: an LSTM as a scan, gradients of each example, a Hessian.

python -m benchmarks.bench_transforms
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Case, Options, Step, main


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of f32, the same in every process."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def mlp_shapes(options: Options) -> list[tuple[int, ...]]:
    """x, targets, then a weight and a bias for each layer."""
    sizes, batch = options["sizes"], options["batch"]
    layers = [s for a, b in pairwise(sizes) for s in ((a, b), (b,))]
    return [(batch, sizes[0]), (batch, sizes[-1]), *layers]


# ---- rung


def rung_lstm(options: Options) -> Step:
    """Forward and backward of `nn.LSTM`, under jit."""
    import rung
    from rung import nn

    hidden, steps, batch = options["lstm"]
    layer = nn.LSTM(hidden, hidden)
    x = rung.asarray(drawn((steps, batch, hidden))[0])

    @rung.jit
    def step(x: Any) -> Any:
        layer.zero_grad()
        loss = (layer(x)[0] ** 2).mean()
        loss.backward()
        return loss.detach()

    return lambda: step(x).numpy()


def rung_examples(options: Options) -> Step:
    """vmap(grad) of a multi-layer perceptron."""
    import rung

    x, y, *weights = map(rung.asarray, drawn(*mlp_shapes(options)))

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        for w, b in zip(weights[::2], weights[1::2], strict=True):
            x = rung.tanh(x @ w * 0.05 + b)
        return ((x - y) ** 2).mean()

    each = rung.jit(rung.vmap(rung.grad(loss), in_axes=(None, 0, 0)))
    return lambda: each(weights, x, y)[0].numpy()


def rung_hessian(options: Options) -> Step:
    """The Hessian of a scalar function of `size` numbers."""
    import rung

    size = options["size"]
    x, matrix = map(rung.asarray, drawn((size,), (size, size)))
    whole = rung.jit(rung.hessian(lambda x: (rung.tanh(matrix @ x * 0.1) ** 2 * x).sum()))
    return lambda: whole(x).numpy()


# ---- torch


def torch_lstm(options: Options) -> Step:
    """Eager torch."""
    import torch

    hidden, steps, batch = options["lstm"]
    layer = torch.nn.LSTM(hidden, hidden)
    x = torch.from_numpy(drawn((steps, batch, hidden))[0])

    def step() -> object:
        layer.zero_grad()
        loss = (layer(x)[0] ** 2).mean()
        loss.backward()
        return loss.detach().numpy()

    return step


def torch_examples(options: Options) -> Step:
    """torch.func.vmap(grad)."""
    import torch
    from torch.func import grad, vmap

    x, y, *weights = map(torch.from_numpy, drawn(*mlp_shapes(options)))

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        for w, b in zip(weights[::2], weights[1::2], strict=True):
            x = torch.tanh(x @ w * 0.05 + b)
        return ((x - y) ** 2).mean()

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    return lambda: each(weights, x, y)[0].numpy()


def torch_hessian(options: Options) -> Step:
    """torch.func.hessian."""
    import torch

    size = options["size"]
    x, matrix = map(torch.from_numpy, drawn((size,), (size, size)))
    whole = torch.func.hessian(lambda x: (torch.tanh(matrix @ x * 0.1) ** 2 * x).sum())
    return lambda: whole(x).numpy()


STEPS: dict[str, dict[str, Callable[[Options], Step]]] = {
    "rung": {"lstm": rung_lstm, "examples": rung_examples, "hessian": rung_hessian},
    "torch": {"lstm": torch_lstm, "examples": torch_examples, "hessian": torch_hessian},
}


def prepare(library: str) -> Callable[[Options], Step]:
    """The step of a case in one library."""
    return lambda options: STEPS[library][options["kind"]](options)


def case(name: str, least: float, **options: Any) -> Case:
    """A case with what is asked of it."""
    return Case(name, options, targets={"torch": least})


BENCHMARK = Benchmark(
    name="transforms",
    doc="scan, vmap(grad) and Hessians of f32",
    peers={"rung": prepare("rung"), "torch": prepare("torch")},
    cases=[
        case("LSTM 256, 128 steps, batch 32", 2.0, kind="lstm", lstm=(256, 128, 32)),
        case("vmap(grad) MLP, batch 64", 3.0, kind="examples", sizes=(784, 512, 512, 10), batch=64),
        case("hessian of 100 parameters", 3.0, kind="hessian", size=100),
    ],
    tiny=[
        case("LSTM 8, 4 steps", 1.0, kind="lstm", lstm=(8, 4, 2)),
        case("vmap(grad) small", 1.0, kind="examples", sizes=(5, 4, 3), batch=3),
        case("hessian of 6", 1.0, kind="hessian", size=6),
    ],
)

if __name__ == "__main__":
    main(BENCHMARK, "benchmarks.bench_transforms")
