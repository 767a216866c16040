"""Layers against plain NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import RungError, ShapeError

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=2e-5, atol=2e-5)


def conv2d(x: Any, w: Any, stride: int = 1, padding: int = 0) -> Any:
    """Plain loops over the window."""
    x = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    k, m = w.shape[2:]
    rows = (x.shape[2] - k) // stride + 1
    columns = (x.shape[3] - m) // stride + 1
    y = np.zeros((x.shape[0], w.shape[0], rows, columns))
    for i in range(k):
        for j in range(m):
            part = x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            y += np.einsum("ncij,oc->noij", part[:, :, :rows, :columns], w[:, :, i, j])
    return y


def test_linear() -> None:
    layer = nn.Linear(4, 3)
    x = draw(2, 5, 4)
    close(layer(x), x @ np.asarray(layer.weight).T + np.asarray(layer.bias))
    bare = nn.Linear(4, 3, bias=False)
    assert bare.bias is None
    close(bare(x), x @ np.asarray(bare.weight).T)
    with pytest.raises(ShapeError, match="linear"):
        layer(draw(2, 3))


def test_embedding() -> None:
    table = nn.Embedding(5, 3)
    index = np.array([[0, 4], [2, 2]])
    np.testing.assert_array_equal(table(index), np.asarray(table.weight)[index])


def test_identity_flatten_unflatten() -> None:
    x = rung.asarray(draw(2, 3, 4))
    assert nn.Identity(1, a=2)(x) is x
    assert nn.Flatten()(x).shape == (2, 12)
    assert nn.Unflatten(1, (3, 4))(nn.Flatten()(x)).shape == (2, 3, 4)
    with pytest.raises(ShapeError, match="Unflatten"):
        nn.Unflatten(1, (2, 2))(x)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_conv2d(stride: int, padding: int) -> None:
    layer = nn.Conv2d(3, 4, 3, stride=stride, padding=padding)
    x = draw(2, 3, 7, 6)
    wanted = conv2d(x, np.asarray(layer.weight), stride, padding)
    close(layer(x), wanted + np.asarray(layer.bias)[:, None, None])


def test_conv1d_and_groups() -> None:
    layer = nn.Conv1d(4, 6, 3, groups=2, bias=False)
    assert layer.weight.shape == (6, 2, 3)
    x, w = draw(2, 4, 8), np.asarray(layer.weight)
    halves = [
        conv2d(x[:, 2 * g : 2 * g + 2, None], w[3 * g : 3 * g + 3, :, None])[:, :, 0]
        for g in range(2)
    ]
    close(layer(x), np.concatenate(halves, 1))
    with pytest.raises(ShapeError, match="2 groups for 3 -> 4"):
        nn.Conv1d(3, 4, 3, groups=2)


def test_conv_transpose_is_the_transpose() -> None:
    up = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1, bias=False)
    assert up.weight.shape == (4, 3, 3, 3)
    x, y = draw(1, 3, 8, 8), draw(1, 4, 4, 4)
    down = conv2d(x, np.asarray(up.weight), stride=2, padding=1)
    assert up(y).shape == x.shape
    left, right = (down * y).sum(), (x * np.asarray(up(y))).sum()
    assert abs(left - right) < 1e-3 * abs(left)


def test_layer_norm_and_rms_norm() -> None:
    x = draw(2, 3, 8)
    norm = nn.LayerNorm(8)
    norm.weight.assign(draw(8))
    norm.bias.assign(draw(8))
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    close(norm(x), standard * np.asarray(norm.weight) + np.asarray(norm.bias))
    rms = nn.RMSNorm(8)
    close(rms(x), x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))
    assert nn.LayerNorm(8, bias=False).bias is None
    assert list(nn.LayerNorm(8, elementwise_affine=False).parameters()) == []


def test_group_norm() -> None:
    x = draw(2, 4, 3, 3)
    grouped = x.reshape(2, 2, -1)
    standard = grouped - grouped.mean(-1, keepdims=True)
    standard /= np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    close(nn.GroupNorm(2, 4)(x), standard.reshape(x.shape))
    with pytest.raises(ShapeError, match="4 channels in 3 groups"):
        nn.GroupNorm(3, 4)


def test_batch_norm_trains_and_evaluates() -> None:
    norm = nn.BatchNorm2d(3)
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = 2 * draw(4, 3, 5, 5) + 1
        m, v = x.mean((0, 2, 3)), x.var((0, 2, 3))
        y = norm(x)
        close(y, (x - m[:, None, None]) / np.sqrt(v[:, None, None] + 1e-5))
        mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * 100 / 99
    close(norm.running_mean, mean)
    close(norm.running_var, var)
    assert int(norm.num_batches_tracked) == 3
    norm.eval()
    close(norm(x), (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5))
    assert int(norm.num_batches_tracked) == 3


def test_batch_norm_inside_jit_updates_its_statistics() -> None:
    plain, jitted = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    step = rung.jit(lambda x: jitted(x).detach())
    with rung.no_grad():
        for _ in range(3):
            x = rung.asarray(draw(8, 3))
            close(step(x), np.asarray(plain(x)))
    close(jitted.running_var, np.asarray(plain.running_var))
    assert int(jitted.num_batches_tracked) == 3
    assert step.explain_recompiles() == ["first call"]


def test_batch_norm_average_of_all_batches() -> None:
    norm = nn.BatchNorm1d(2, momentum=None)
    xs = [draw(6, 2) for _ in range(3)]
    for x in xs:
        norm(x)
    close(norm.running_mean, np.mean([x.mean(0) for x in xs], 0))


def test_batch_norm_checks_its_input() -> None:
    with pytest.raises(ShapeError, match=r"BatchNorm2d\(3\): x is f32\[2,3\]"):
        nn.BatchNorm2d(3)(rung.ones((2, 3)))
    with pytest.raises(ShapeError, match="x must be"):
        nn.BatchNorm1d(3)(rung.ones((2, 4)))


def test_pooling() -> None:
    x = draw(2, 3, 6, 6)
    windows = x.reshape(2, 3, 3, 2, 3, 2)
    np.testing.assert_array_equal(nn.MaxPool2d(2)(x), windows.max((3, 5)))
    close(nn.AvgPool2d(2)(x), windows.mean((3, 5)))
    close(nn.AdaptiveAvgPool2d(1)(rung.asarray(x)), x.mean((2, 3), keepdims=True))
    with pytest.raises(RungError, match="for 2 dims"):
        nn.AdaptiveAvgPool2d((2, 2, 2))(x)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "ReLU": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "LeakyReLU": (nn.LeakyReLU(0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
    "ELU": (nn.ELU(2.0), lambda x: np.where(x > 0, x, 2 * np.expm1(x))),
    "GELU": (nn.GELU(), lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2)))),
    "GELU tanh": (
        nn.GELU("tanh"),
        lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "SiLU": (nn.SiLU(), lambda x: x * sigmoid(x)),
    "Mish": (nn.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "Sigmoid": (nn.Sigmoid(), sigmoid),
    "LogSigmoid": (nn.LogSigmoid(), lambda x: np.log(sigmoid(x))),
    "Tanh": (nn.Tanh(), np.tanh),
    "Softplus": (nn.Softplus(2.0), lambda x: np.log1p(np.exp(2 * x)) / 2),
    "Hardsigmoid": (nn.Hardsigmoid(), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "Hardswish": (nn.Hardswish(), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "GLU": (nn.GLU(), lambda x: x[:, :4] * sigmoid(x[:, 4:])),
    "Softmax": (nn.Softmax(-1), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "LogSoftmax": (nn.LogSoftmax(0), lambda x: x - np.log(np.exp(x).sum(0))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    module, wanted = ACTIVATIONS[name]
    x = 2 * draw(5, 8)
    close(module(rung.asarray(x)), wanted(x.astype(np.float64)))


def test_dropout() -> None:
    rung.manual_seed(0)
    drop = nn.Dropout(0.25)
    y = np.asarray(drop(rung.ones(20000)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    with pytest.raises(RungError, match="p=2"):
        nn.Dropout(2)


def log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_losses() -> None:
    x, t = draw(6, 4), draw(6, 4)
    target = np.array([0, 3, 1, 2, 2, 0])
    picked = log_softmax(x)[np.arange(6), target]
    close(nn.CrossEntropyLoss()(x, target), -picked.mean())
    close(nn.CrossEntropyLoss(reduction="none")(x, target), -picked)
    smooth = 0.9 * -picked + 0.1 * -log_softmax(x).mean(-1)
    close(nn.CrossEntropyLoss(label_smoothing=0.1)(x, target), smooth.mean())
    skipped = np.where(target == 2, -100, target)
    close(nn.CrossEntropyLoss()(x, skipped), -picked[target != 2].mean())
    weights = np.array([1, 2, 3, 4], np.float32)
    weighed = -(picked * weights[target]).sum() / weights[target].sum()
    close(nn.CrossEntropyLoss(weight=weights)(x, target), weighed)
    close(nn.NLLLoss()(log_softmax(x), target), -picked.mean())
    close(nn.MSELoss()(x, t), ((x - t) ** 2).mean())
    close(nn.L1Loss("sum")(x, t), np.abs(x - t).sum())
    away = np.abs(x - t)
    close(
        nn.HuberLoss(delta=0.5)(x, t), np.where(away < 0.5, away**2 / 2, 0.5 * (away - 0.25)).mean()
    )
    chance = (t > 0).astype(np.float32)
    binary = -(chance * np.log(sigmoid(x)) + (1 - chance) * np.log(sigmoid(-x)))
    close(nn.BCEWithLogitsLoss()(x, chance), binary.mean())
    with pytest.raises(RungError, match="reduction='average'"):
        nn.MSELoss("average")


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(m: nn.MultiheadAttention, q: Any, k: Any, v: Any, seen: Any) -> tuple[Any, Any]:
    """The definition, head by head."""
    d = m.embed_dim // m.num_heads
    parts = zip((q, k, v), np.split(np.asarray(m.in_proj_weight), 3), strict=True)
    q, k, v = (x @ w.T for x, w in parts)
    outs, weights = [], []
    for h in range(m.num_heads):
        s = slice(h * d, h * d + d)
        scores = q[..., s] @ np.swapaxes(k[..., s], -1, -2) / math.sqrt(d)
        p = softmax(np.where(seen, scores, -np.inf))
        outs.append(p @ v[..., s])
        weights.append(p)
    out = np.concatenate(outs, -1) @ np.asarray(m.out_proj.weight).T
    return out + np.asarray(m.out_proj.bias), np.mean(weights, 0)


@pytest.mark.parametrize("case", ["self", "cross", "causal", "mask", "padding", "both"])
def test_multihead_attention(case: str) -> None:
    m = nn.MultiheadAttention(6, 2, batch_first=True)
    q = draw(2, 4, 6)
    k, v = (draw(2, 5, 6), draw(2, 5, 6)) if case == "cross" else (q, q)
    given: dict[str, Any] = {"need_weights": True}
    seen = np.ones((2, 4, k.shape[1]), bool)
    if case == "causal":
        given["is_causal"] = True
        seen = np.tril(seen)
    if case in ("mask", "both"):
        hidden = np.array([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
        given["attn_mask"] = hidden
        seen = seen & ~hidden
    if case in ("padding", "both"):
        padding = np.array([[0, 0, 0, 1], [0, 0, 1, 0]], bool)
        given["key_padding_mask"] = padding
        seen = seen & ~padding[:, None, :]
    if case == "cross":
        out, weights = m(q, k, v, **given)
    else:
        out, weights = m(q, **given)
    wanted, wanted_weights = attend(m, q, k, v, seen)
    close(out, wanted)
    close(weights, wanted_weights)


def test_multihead_attention_names_and_layouts() -> None:
    m = nn.MultiheadAttention(6, 2)
    names = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert list(m.state_dict()) == names
    x = rung.asarray(draw(4, 2, 6))
    first = nn.MultiheadAttention(6, 2, batch_first=True)
    first.load_state_dict(m.state_dict())
    out, weights = m(x)
    assert weights is None
    close(out, np.asarray(first(x.permute(1, 0, 2))[0]).transpose(1, 0, 2))
    with pytest.raises(ShapeError, match="6 features in 4 heads"):
        nn.MultiheadAttention(6, 4)
