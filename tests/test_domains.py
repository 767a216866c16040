"""Numbers that a function does not take: found by trying what users get wrong. Each is a typed
error on the line of the call; none gives a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim, random
from rung.core.errors import RungError
from rung.core.settings import configure, settings
from rung.nn import functional as F
from rung.nn import init


@pytest.fixture(autouse=True)
def interpreted() -> Any:
    before = settings().interpret
    configure(interpret=True)
    yield
    configure(interpret=before)


X = rung.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
IMAGE = rung.ones((1, 4, 6, 6))
KERNEL = rung.ones((4, 4, 3, 3))
REFUSED: dict[str, Callable[[], Any]] = {
    "quantile below 0": lambda: rung.quantile(X, -1.0),
    "quantile above 1": lambda: rung.quantile(X, [0.5, 1.5]),
    "quantile of an array": lambda: rung.nanquantile(X, np.array([0.1, math.nan])),
    "randint beyond the dtype": lambda: random.randint(0, 300, (3,), dtype="i8"),
    "randint below the dtype": lambda: random.randint(-1, 3, (3,), dtype="u8"),
    "randint of bools": lambda: random.randint(0, 3, (3,), dtype="bool"),
    "bernoulli above 1": lambda: random.bernoulli(1.5, (3,)),
    "bernoulli below 0": lambda: random.bernoulli(-0.1, (3,)),
    "bernoulli NaN": lambda: random.bernoulli(math.nan, (3,)),
    "bernoulli of an array": lambda: random.bernoulli(np.array([0.5, 2.0])),
    "normal with negative std": lambda: random.normal((3,), std=-1.0),
    "normal with NaN": lambda: random.normal((3,), std=math.nan),
    "uniform backwards": lambda: random.uniform((3,), 2.0, 1.0),
    "uniform without end": lambda: random.uniform((3,), 0.0, math.inf),
    "uniform beyond f16": lambda: random.uniform((3,), 0.0, 1e6, dtype="f16"),
    "choice of none": lambda: random.choice(-1, (2,)),
    "permutation of none": lambda: rung.randperm(-3),
    "permutation of a scalar": lambda: rung.randperm(rung.tensor(1.5)),
    "split into less than none": lambda: random.split(random.key(0), -1),
    "masked_scatter with too few": lambda: rung.masked_scatter(X, X > 5, rung.ones(3)),
    "masked_scatter with none": lambda: rung.masked_scatter(X, X > 5, rung.ones(0)),
    "conv with negative padding": lambda: F.conv2d(IMAGE, KERNEL, padding=-1),
    "conv with padding below": lambda: F.conv2d(IMAGE, KERNEL, padding=(1, -1)),
    "conv with stride 0": lambda: F.conv2d(IMAGE, KERNEL, stride=0),
    "conv with dilation 0": lambda: F.conv2d(IMAGE, KERNEL, dilation=0),
    "conv with groups 0": lambda: F.conv2d(IMAGE, KERNEL, groups=0),
    "conv with too many strides": lambda: F.conv2d(IMAGE, KERNEL, stride=(1, 1, 1)),
    "transposed, more than a stride": lambda: F.conv_transpose2d(IMAGE, KERNEL, output_padding=1),
    "transposed, less than 0": lambda: F.conv_transpose2d(
        IMAGE, KERNEL, stride=2, output_padding=-1
    ),
    "transposed, negative padding": lambda: F.conv_transpose2d(IMAGE, KERNEL, padding=-1),
    "max pool with stride 0": lambda: F.max_pool2d(IMAGE, 2, (0, 1)),
    "lp pool with norm 0": lambda: F.lp_pool2d(IMAGE, 0, 2),
    "donate beyond the arguments": lambda: rung.jit(lambda x: x + 1, donate=3)(rung.ones(2)),
    "donate below 0": lambda: rung.jit(lambda x: x + 1, donate=-1),
    "a step of 0": lambda: X[::0],
    "writing by a step of 0": lambda: rung.ones(3).__setitem__(slice(None, None, 0), 1),
    "round to 10^400": lambda: rung.ones(2).round(400),
    "arange to NaN": lambda: rung.arange(0, math.nan),
    "arange to infinity": lambda: rung.arange(0.0, math.inf),
    "one_hot of floats": lambda: rung.one_hot(X),
    "one_hot of -2 classes": lambda: rung.one_hot(rung.tensor([0]), -2),
    "a rate of NaN": lambda: optim.SGD([nn.Parameter([1.0])], lr=math.nan),
    "a rate without end": lambda: optim.Adam([nn.Parameter([1.0])], lr=math.inf),
    "eps of NaN": lambda: optim.Adam([nn.Parameter([1.0])], eps=math.nan),
    "decay of NaN": lambda: optim.SGD([nn.Parameter([1.0])], 0.1, weight_decay=math.nan),
    "init of negative std": lambda: init.normal_(rung.ones(3), std=-1.0),
    "init backwards": lambda: init.uniform_(rung.ones(3), 1.0, 0.0),
    "too many dims": lambda: rung.ones((1,) * 40),
    "more than any memory": lambda: rung.ones((2**40, 2**40)),
    "a fori_loop to a float": lambda: rung.fori_loop(0, 1.5, lambda i, x: x, 0.0),
    "a fori_loop beyond i64": lambda: rung.fori_loop(0, 2**64, lambda i, x: x, 0.0),
}  # fmt: skip
TORCHLIKE: dict[str, Callable[[], Any]] = {
    "label smoothing above 1": lambda: F.cross_entropy(
        X, rung.tensor([0, 1, 2]), label_smoothing=2.0
    ),
    "huber of 0": lambda: F.huber_loss(X, X, delta=0.0),
    "smooth_l1 below 0": lambda: F.smooth_l1_loss(X, X, beta=-1.0),
    "softshrink below 0": lambda: F.softshrink(X, -1.0),
    "hardtanh backwards": lambda: F.hardtanh(X, 1.0, -1.0),
    "rrelu backwards": lambda: F.rrelu(X, 0.9, 0.1, training=True),
    "renorm of power 0": lambda: rung.renorm(X, 0.0, 0, 1.0),
    "renorm to less than 0": lambda: rung.renorm(X, 2.0, 0, -1.0),
    "cdist of power below 0": lambda: rung.cdist(X, X, p=-1.0),
    "pdist of power below 0": lambda: rung.pdist(X, p=-1.0),
    "max pool with much padding": lambda: F.max_pool2d(IMAGE, 2, padding=2),
    "avg pool with much padding": lambda: F.avg_pool2d(IMAGE, 2, padding=2),
    "avg pool divided by 0": lambda: F.avg_pool2d(IMAGE, 2, divisor_override=0),
    "local response of none": lambda: F.local_response_norm(IMAGE, 0),
    "adaptive pool below 0": lambda: F.adaptive_avg_pool2d(IMAGE, -1),
    "interpolate by 0": lambda: F.interpolate(IMAGE, scale_factor=0.0),
    "interpolate to nothing": lambda: F.interpolate(IMAGE, size=0),
    "shuffle by 0": lambda: F.pixel_shuffle(IMAGE, 0),
    "unshuffle by 0": lambda: F.pixel_unshuffle(IMAGE, 0),
    "reflect beyond": lambda: F.pad(IMAGE, (7, 7), "reflect"),
    "histc of no bins": lambda: rung.histc(X, 0),
    "bincount below 0": lambda: rung.bincount(rung.tensor([-1, 2])),
    "kthvalue 0": lambda: rung.kthvalue(X, 0),
    "kthvalue beyond": lambda: rung.kthvalue(X, 9),
    "topk beyond": lambda: rung.topk(X, 9),
    "topk below 0": lambda: rung.topk(X, -1),
    "diff below 0": lambda: rung.diff(X, n=-1),
    "chunks of 0": lambda: rung.chunk(X, 0),
    "split by 0": lambda: rung.split(X, 0),
    "repeat below 0": lambda: rung.repeat(X, -1),
    "tile below 0": lambda: rung.tile(X, (-1,)),
    "gradient of order 3": lambda: rung.gradient(X, edge_order=3),
    "Linear of -1": lambda: nn.Linear(-1, 2),
    "Embedding, padding beyond": lambda: nn.Embedding(5, 3, padding_idx=7),
    "GroupNorm that does not divide": lambda: nn.GroupNorm(3, 4),
    "Dropout of NaN": lambda: nn.Dropout(math.nan),
    "triplet margin of 0": lambda: F.triplet_margin_loss(X, X, X, margin=0.0),
    "multi_margin of power 3": lambda: F.multi_margin_loss(X, rung.tensor([0, 1, 2]), p=3),
    "reduction of another name": lambda: F.mse_loss(X, X, reduction="max"),
    "an order of nothing": lambda: rung.polygamma(-1, X),
    "a window of -1": lambda: rung.windows.hann(-1),
    "eye of -1": lambda: rung.eye(-1),
    "MultiheadAttention of 0 heads": lambda: nn.MultiheadAttention(4, 0),
    "LSTM of 0 layers": lambda: nn.LSTM(3, 4, 0),
    "clip to NaN norm": lambda: optim.ExponentialMovingAverage(nn.Linear(2, 2), math.nan),
}  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED, *TORCHLIKE])
def test_refused(name: str) -> None:
    call = {**REFUSED, **TORCHLIKE}[name]
    with pytest.raises(RungError) as caught:
        result = call()
        for x in rung.tree.leaves(result):
            if isinstance(x, rung.Tensor):
                np.asarray(x)
    assert "Window(" not in caught.value.message
    assert "at test_domains.py:" in str(caught.value)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize(
    ("low", "high"),
    [(100, 101), (-101, -100), (0, 1), (1, 1.01), (-1, 1), (0, 1e-3), (60000, 60032), (3, 3)],
)
def test_uniform_is_half_open(dtype: str, low: float, high: float) -> None:
    x = random.uniform((1 << 16,), low, high, dtype=dtype, key=random.key(1))
    first, last = (float(rung.asarray(float(v), dtype=dtype)) for v in (low, high))
    values = np.asarray(x).astype(np.float64)
    assert values.min() >= first
    assert values.max() < last or (first == last == values.max())
    filled = init.uniform_(rung.zeros(1 << 16, dtype=dtype), low, high, random.key(1))
    values = np.asarray(filled).astype(np.float64)
    assert values.min() >= first
    assert values.max() < last or (first == last == values.max())


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("u64", 2**63, 2**64), ("i64", -(2**63), 2**63), ("i8", -128, 128), ("u8", 0, 256),
     ("bool", 0, 2), ("f32", -5, 6)],
)  # fmt: skip
def test_randint_reaches_the_ends_of_the_dtype(dtype: str, low: int, high: int) -> None:
    x = random.randint(low, high, (20_000,), dtype=dtype, key=random.key(1))
    values = [int(v) for v in np.asarray(x)]
    assert min(values) >= low
    assert max(values) < high
    assert max(values) - min(values) >= 0.99 * (high - 1 - low)


def test_what_an_argument_is_kept_as() -> None:
    """Scalars of NumPy have dtypes, which arguments that are read as numbers keep."""
    assert rung.arange(np.int64(3)).dtype is rung.int64
    assert rung.full((2,), np.float64(1)).dtype is rung.float64
    assert rung.full(np.array([2, 3]), 1.0).shape == (2, 3)
    assert rung.sum(X, np.int64(1)).shape == (3,)
    with pytest.raises(rung.ArgumentError, match="sum: keepdims is 'yes'") as caught:
        rung.sum(X, 0, keepdims="yes")
    assert caught.value.fix == "give bool"
