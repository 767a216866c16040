"""Models: sizes, names, shapes, learning, generating, published weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import CheckpointError, RungError, ShapeError
from rung.models import (
    CHAR,
    GPT,
    GPT2,
    MLP,
    ConvNet,
    GPTConfig,
    resnet18,
    resnet50,
)
from rung.models.resnet import BasicBlock, Bottleneck, ResNet

TINY = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8)
rng = np.random.default_rng(0)


def draw(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def fit(model: nn.Module, loss_of: Any, steps: int, lr: float = 1e-2) -> tuple[float, float]:
    """The first and the last loss of some steps on one batch."""
    optimizer = optim.AdamW(model, lr=lr)

    @rung.jit
    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    losses = [float(step()) for _ in range(steps)]
    assert step.explain_recompiles() == ["first call"]
    return losses[0], losses[-1]


def test_mlp() -> None:
    model = MLP([4, 8, 3])
    assert list(model.state_dict()) == [
        "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"
    ]  # fmt: skip
    x = draw(5, 4)
    w0, b0, w1, b1 = (np.asarray(p) for p in model.parameters())
    wanted = np.maximum(x @ w0.T + b0, 0) @ w1.T + b1
    np.testing.assert_allclose(model(x), wanted, rtol=1e-5, atol=1e-5)
    assert MLP([784, 512, 512, 10]).num_parameters == 669706


def test_convnet_learns() -> None:
    rung.manual_seed(0)
    model = ConvNet(width=4)
    assert ConvNet().num_parameters == 43762
    x, y = rung.asarray(draw(8, 1, 8, 8)), rung.asarray(np.arange(8))
    first, last = fit(model, lambda: nn.functional.cross_entropy(model(x), y), 30)
    assert last < 0.3 * first
    assert int(model.bn1.num_batches_tracked) == 30
    model.eval()
    assert model(x).shape == (8, 10)


def test_resnet_names_and_sizes() -> None:
    model = resnet18()
    assert model.num_parameters == 11689512
    names = list(model.state_dict())
    assert names[:2] == ["conv1.weight", "bn1.weight"]
    assert "layer2.0.downsample.1.running_var" in names
    assert "layer4.1.bn2.num_batches_tracked" in names
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert len(names) == 122
    assert "layer1.0.downsample.0.weight" not in names


def test_resnet50_block_shapes() -> None:
    block = Bottleneck(8, 4, stride=2)
    assert {n: t.shape for n, t in block.named_parameters() if "conv" in n} == {
        "conv1.weight": (4, 8, 1, 1),
        "conv2.weight": (4, 4, 3, 3),
        "conv3.weight": (16, 4, 1, 1),
    }
    assert block(rung.asarray(draw(2, 8, 6, 6))).shape == (2, 16, 3, 3)
    assert callable(resnet50)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_small_resnet_runs(block: Any) -> None:
    model = ResNet(block, (1, 1), num_classes=5, width=4)
    assert model(rung.asarray(draw(2, 3, 16, 16))).shape == (2, 5)


# ---- GPT


def layer_norm(x: Any, p: Any, name: str) -> Any:
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return standard * p[name + ".weight"] + p[name + ".bias"]


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gpt_logits(p: dict[str, Any], tokens: Any, config: GPTConfig) -> Any:
    """GPT-2 in NumPy, one sequence [T]."""
    p = {n.removeprefix("transformer."): np.asarray(a, np.float64) for n, a in p.items()}
    t, size, heads = len(tokens), config.n_embd, config.n_head
    x = p["wte.weight"][tokens] + p["wpe.weight"][:t]
    for i in range(config.n_layer):
        h = f"h.{i}."
        y = layer_norm(x, p, h + "ln_1") @ p[h + "attn.c_attn.weight"].T + p[h + "attn.c_attn.bias"]
        q, k, v = (a.reshape(t, heads, -1).transpose(1, 0, 2) for a in np.split(y, 3, -1))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(size // heads)
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = (weights @ v).transpose(1, 0, 2).reshape(t, size)
        x = x + y @ p[h + "attn.c_proj.weight"].T + p[h + "attn.c_proj.bias"]
        y = gelu(layer_norm(x, p, h + "ln_2") @ p[h + "mlp.c_fc.weight"].T + p[h + "mlp.c_fc.bias"])
        x = x + y @ p[h + "mlp.c_proj.weight"].T + p[h + "mlp.c_proj.bias"]
    return layer_norm(x, p, "ln_f") @ p["lm_head.weight"].T


def test_gpt_is_gpt2() -> None:
    model = GPT(TINY)
    state = {n: 4 * draw(*t.shape) * 0.3 for n, t in model.named_parameters()}
    model.load_state_dict(state)
    tokens = rng.integers(0, 11, (3, 8))
    found = np.asarray(model(rung.asarray(tokens)))
    full = {**state, "lm_head.weight": state["transformer.wte.weight"]}
    for row, sequence in zip(found, tokens, strict=True):
        np.testing.assert_allclose(row, gpt_logits(full, sequence, TINY), rtol=2e-3, atol=2e-3)


def test_gpt_sizes_names_and_initial_loss() -> None:
    assert GPT(CHAR).num_parameters == 1013120
    counted = GPTConfig(GPT2.block_size, GPT2.vocab_size, 1, 12, 768)
    block = 7087872
    assert GPT(counted).num_parameters == 124439808 - 11 * block
    rung.manual_seed(0)
    model = GPT(TINY)
    names = [n for n, _ in model.named_parameters()]
    assert names[:2] == ["transformer.wte.weight", "transformer.wpe.weight"]
    assert "transformer.h.1.attn.c_attn.bias" in names
    assert "lm_head.weight" not in names
    assert model.lm_head.weight is model.transformer.wte.weight
    tokens = rung.asarray(rng.integers(0, 11, (4, 8)))
    assert float(model.loss(tokens, tokens)) == pytest.approx(math.log(11), abs=0.1)
    with pytest.raises(ShapeError, match="at most 8 positions"):
        model(rung.zeros((1, 9), dtype="i64"))
    with pytest.raises(ShapeError, match="8 features in 3 heads"):
        GPT(GPTConfig(8, 11, 1, 3, 8))
    untied = GPT(GPTConfig(8, 11, 1, 2, 8, tie_weights=False))
    assert "lm_head.weight" in dict(untied.named_parameters())


def test_gpt_learns_and_generates_what_it_learned() -> None:
    rung.manual_seed(0)
    model = GPT(TINY)
    sequence = np.arange(16) % 5
    x = rung.asarray(np.stack([sequence[i : i + 8] for i in range(5)]))
    y = rung.asarray(np.stack([sequence[i + 1 : i + 9] for i in range(5)]))
    first, last = fit(model, lambda: model.loss(x, y), 60, lr=2e-2)
    assert last < 0.1 * first
    assert model.generate([2], 12, temperature=0) == [(3 + i) % 5 for i in range(12)]
    drawn = model.generate([2], 12, temperature=0.1, top_k=2, generator=rung.Generator(1))
    assert drawn == model.generate([2], 12, temperature=0.1, top_k=2, generator=rung.Generator(1))
    assert model.training


def test_generate_draws_by_the_probabilities() -> None:
    model = GPT(GPTConfig(2, 4, 1, 1, 4, tie_weights=False))
    for p in model.parameters():
        p.assign(0)
    logits = np.log([0.1, 0.2, 0.3, 0.4]).astype(np.float32)
    model.transformer.ln_f.bias.assign([1.0, 0.0, 0.0, 0.0])
    model.lm_head.weight.assign(np.stack([logits, *np.zeros((3, 4), np.float32)], 1))
    drawn = model.generate([0], 400, generator=rung.Generator(0))
    counts = np.bincount(drawn, minlength=4) / 400
    np.testing.assert_allclose(counts, [0.1, 0.2, 0.3, 0.4], atol=0.08)
    drawn = model.generate([0], 200, top_k=2, generator=rung.Generator(0))
    assert set(drawn) == {2, 3}
    with pytest.raises(RungError, match="0 tokens"):
        model.generate([], 3)


def test_parameter_groups() -> None:
    decayed, other = GPT(TINY).parameter_groups(0.1)
    assert all(p.ndim == 2 for _, p in decayed["params"])
    assert all(p.ndim == 1 for _, p in other["params"])
    assert other["weight_decay"] == 0


def test_published_weights(tmp_path: Path) -> None:
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=1, n_embd=64)
    model = GPT(config)
    arrays: dict[str, Any] = {}
    for name, p in model.named_parameters():
        turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        array = np.asarray(p)
        arrays[name.removeprefix("transformer.")] = array.T if turned else array
    for i in range(2):
        arrays[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 8, 8), np.float32))
    path = tmp_path / "model.safetensors"
    nn.write_safetensors(path, arrays)
    loaded = GPT.from_gpt2(path)
    assert loaded.config == config
    for (_, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    del arrays["wpe.weight"]
    nn.write_safetensors(path, arrays)
    with pytest.raises(CheckpointError, match=r"is no GPT-2: it has no transformer\.wpe"):
        GPT.from_gpt2(path)
