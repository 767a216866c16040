"""Attention and cross entropy against loops in plain NumPy, derivatives against differences."""

from __future__ import annotations

import numpy as np
import pytest
from function_cases import assert_gradients, gradients, run, typed, ulps_apart

from rung.core import dtype as dt
from rung.core.errors import DTypeError, RungError, ShapeError
from rung.ops.attention import attention
from rung.ops.loss import cross_entropy

RNG = np.random.default_rng(0)


def attend(q, k, v, mask=None, causal=False, scale=None):
    """Query by query, in f64. `mask` is [B, H, T, S]."""
    batch, heads, num_q, depth = q.shape
    num_k, groups = k.shape[2], heads // k.shape[1]
    result = np.zeros((batch, heads, num_q, v.shape[3]))
    for b, h, i in np.ndindex(batch, heads, num_q):
        scores = k[b, h // groups] @ q[b, h, i] * (depth**-0.5 if scale is None else scale)
        seen = np.ones(num_k, bool)
        if mask is not None and mask.dtype == bool:
            seen &= mask[b, h, i]
        elif mask is not None:
            scores = scores + mask[b, h, i]
            seen &= mask[b, h, i] > -np.inf
        if causal:
            seen &= np.arange(num_k) <= i + num_k - num_q
        if seen.any():
            weights = np.exp(scores[seen] - scores[seen].max())
            result[b, h, i] = weights / weights.sum() @ v[b, h // groups][seen]
    return result


def _operands(heads=2, kv_heads=2, num_q=3, num_k=3):
    return (
        RNG.standard_normal((2, heads, num_q, 4)),
        RNG.standard_normal((2, kv_heads, num_k, 4)),
        RNG.standard_normal((2, kv_heads, num_k, 5)),
    )


def test_the_future_does_not_reach_the_past():
    """Terms that a causal mask rules out do not count, whatever they are."""
    q, k, v = np.random.default_rng(1).standard_normal((3, 2, 2, 6, 5))
    k[:, :, 4], v[:, :, 5] = np.nan, np.inf
    y = run(lambda *a: attention(*a, causal=True), q, k, v)
    np.testing.assert_allclose(y[:, :, :4], attend(q, k, v, causal=True)[:, :, :4])
    assert np.isnan(y[:, :, 4:]).all()
    past = np.zeros((2, 2, 6, 5))
    past[:, :, :4] = 1.0
    clean = [q, k.copy(), v.copy()]
    clean[1][:, :, 4:], clean[2][:, :, 4:] = 0.0, 0.0
    causal = lambda *a: attention(*a, causal=True)  # noqa: E731
    (found,), (want,) = (gradients(causal, x, [0], past) for x in ([q, k, v], clean))
    np.testing.assert_allclose(found[:, :, :4], want[:, :, :4], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sizes, static",
    [
        ({}, {}),
        ({}, {"scale": 0.3}),
        ({}, {"causal": True}),
        ({"heads": 4}, {}),
        ({"heads": 4, "kv_heads": 1, "num_k": 5}, {"causal": True}),
        ({"num_q": 4, "num_k": 2}, {"causal": True}),
        ({"num_q": 1, "num_k": 6}, {"causal": True}),
    ],
)
def test_attention(sizes, static):
    operands = _operands(**sizes)
    function = lambda *a: attention(*a, **static)  # noqa: E731
    np.testing.assert_allclose(run(function, *operands), attend(*operands, **static), rtol=1e-11)
    assert_gradients(function, *operands)


@pytest.mark.parametrize("mask_shape", [(2, 4, 3, 5), (1, 1, 3, 5), (5,), (2, 1, 1, 5)])
@pytest.mark.parametrize("added", [False, True])
def test_masks(mask_shape, added):
    operands = _operands(heads=4, num_k=5)
    mask = RNG.random(mask_shape) < 0.6
    if added:
        mask = np.where(mask, RNG.standard_normal(mask_shape), -np.inf)
    whole = np.broadcast_to(mask, (2, 4, 3, 5))
    expected = attend(*operands, whole)
    np.testing.assert_allclose(run(attention, *operands, mask), expected, rtol=1e-11, atol=1e-15)
    assert_gradients(attention, *operands, mask, wrt=[0, 1, 2])


def test_a_query_that_may_look_at_nothing_gives_zero():
    q, k, v = _operands()
    mask = np.ones((3, 3), bool)
    mask[1] = False
    result = run(attention, q, k, v, mask)
    assert not result[:, :, 1].any()
    found = gradients(attention, [q, k, v, mask], [0, 1, 2], np.ones_like(result))
    assert all(np.isfinite(g).all() for g in found)


def test_causal_with_a_mask():
    operands = _operands()
    mask = np.array([[True, False, True]] * 3)
    expected = attend(*operands, np.broadcast_to(mask, (2, 2, 3, 3)), causal=True)
    found = run(lambda *a: attention(*a, causal=True), *operands, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15)


def test_weights_are_dropped_and_the_rest_scaled():
    q, k = np.zeros((1, 1, 50, 4)), np.zeros((1, 1, 400, 4))
    v, key = np.ones((1, 1, 400, 1)), np.array([3, 4], np.uint32)
    drop = lambda *a: attention(*a[:3], key=a[3], dropout=0.5)  # noqa: E731
    sums = run(drop, q, k, v, key)[0, 0, :, 0]
    assert abs(sums.mean() - 1) < 4 / np.sqrt(400 * 50)
    assert sums.std() > 0
    with pytest.raises(RungError, match="attention: dropout needs a random key"):
        run(lambda *a: attention(*a, dropout=0.5), q, k, v)


def test_attention_of_bf16_is_near_the_exact_one():
    operands = [a.astype(dt.bfloat16.numpy) for a in _operands(num_k=64)]
    exact = attend(*(a.astype(np.float64) for a in operands))
    assert np.abs(run(attention, *operands).astype(np.float64) - exact).max() < 0.02


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((2, 3, 4), (2, 3, 5), (2, 3, 5)),
         "attention: q f32[2,3,4] and k f32[2,3,5] differ in their last dim"),
        (((2, 3, 4), (2, 3, 4), (2, 5, 4)),
         "attention: k f32[2,3,4] and v f32[2,5,4] differ in heads or positions"),
        (((3, 3, 4), (2, 3, 4), (2, 3, 4)),
         "attention: q f32[3,3,4] has 3 heads, k f32[2,3,4] has 2"),
        (((2, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)),
         "attention: q f32[2,2,3,4] and k f32[1,2,3,4] differ in their batch dims"),
        (((3, 4), (3, 4), (3, 4)), "attention: q f32[3,4], k f32[3,4], v f32[3,4]"),
    ],
)  # fmt: skip
def test_attention_errors(shapes, message):
    with pytest.raises(ShapeError) as caught:
        typed(attention, *((dt.float32, s) for s in shapes))
    assert caught.value.message == message


# ---- cross entropy


def entropy(logits, targets, weights=None, ignore_index=-100, smoothing=0.0, reduction="mean"):
    """Row by row, in f64; logits [N, C]."""
    num_classes = logits.shape[1]
    weights = np.ones(num_classes) if weights is None else weights
    losses, norm = np.zeros(len(targets)), 0.0
    for i, target in enumerate(targets):
        if target == ignore_index:
            continue
        logs = logits[i] - logits[i].max()
        logs = logs - np.log(np.exp(logs).sum())
        even = -(weights * logs).mean()
        losses[i] = (1 - smoothing) * -weights[target] * logs[target] + smoothing * even
        norm += weights[target]
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / norm}[reduction]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(reduction, smoothing, weighted):
    logits, targets = RNG.standard_normal((4, 5)) * 4, np.array([1, -100, 0, 4])
    weights = [RNG.uniform(0.5, 2, 5)] if weighted else []
    function = lambda *a: cross_entropy(  # noqa: E731
        *a, label_smoothing=smoothing, reduction=reduction
    )
    expected = entropy(logits, targets, *weights, smoothing=smoothing, reduction=reduction)
    np.testing.assert_allclose(run(function, logits, targets, *weights), expected, rtol=1e-12)
    assert_gradients(function, logits, targets, *weights)


def test_classes_are_dim_one():
    logits, targets = RNG.standard_normal((2, 5, 3)), RNG.integers(0, 5, (2, 3))
    flat = logits.transpose(0, 2, 1).reshape(6, 5)
    expected = entropy(flat, targets.reshape(6))
    np.testing.assert_allclose(run(cross_entropy, logits, targets), expected, rtol=1e-12)
    single = run(cross_entropy, logits[0, :, 0], targets[0, 0])
    np.testing.assert_allclose(single, entropy(flat[:1], targets[0, :1]), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_narrow_targets_may_have_many_classes(dtype):
    logits, targets = RNG.standard_normal((3, 300)), np.array([0, 127, 90], dtype)
    expected = entropy(logits, targets.astype(int))
    np.testing.assert_allclose(run(cross_entropy, logits, targets), expected, rtol=1e-12)


def test_own_ignore_index_and_nothing_left():
    logits, targets = RNG.standard_normal((2, 3)), np.array([2, 2])
    found = run(lambda *a: cross_entropy(*a, ignore_index=2), logits, targets)
    assert np.isnan(found)
    found = run(lambda *a: cross_entropy(*a, ignore_index=2, reduction="sum"), logits, targets)
    assert found == 0


def test_huge_logits_and_16_bit():
    logits, targets = np.float32([[1e30, -1e30], [5e4, 5e4]]), np.array([0, 1])
    found = run(lambda *a: cross_entropy(*a, reduction="none"), logits, targets)
    np.testing.assert_allclose(found, [0, np.log(2)], atol=4e-3)
    narrow = RNG.standard_normal((4, 1000)).astype(dt.bfloat16.numpy)
    index = RNG.integers(0, 1000, 4)
    found = run(cross_entropy, narrow, index)
    assert found.dtype == np.float32
    assert ulps_apart(found, np.asarray(entropy(narrow.astype(np.float64), index))) < 4


@pytest.mark.parametrize(
    "error, types, message, fix",
    [
        (ShapeError, ((dt.float32, (4, 5)), (dt.int64, (5,))),
         "cross_entropy: logits f32[4,5] with targets i64[5]",
         "targets must have shape [4]: logits without the classes (dim 1)"),
        (DTypeError, ((dt.float32, (4, 5)), (dt.float32, (4,))),
         "cross_entropy: targets f32[4] are not integers",
         "give the class numbers as i64 or i32"),
        (DTypeError, ((dt.int32, (4, 5)), (dt.int32, (4,))),
         "cross_entropy: logits i32[4,5] is not float", "cast logits to f32 first"),
        (ShapeError, ((dt.float32, (4, 5)), (dt.int64, (4,)), (dt.float32, (4,))),
         "cross_entropy: class_weights is f32[4]", "class_weights must have shape [5]"),
    ],
)  # fmt: skip
def test_cross_entropy_errors(error, types, message, fix):
    with pytest.raises(error) as caught:
        typed(cross_entropy, *types)
    assert (caught.value.message, caught.value.fix) == (message, fix)
