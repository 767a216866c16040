"""Activations, softmax, normalizations, dropout, linear maps: values against plain NumPy in f64,
derivatives against differences, accuracy in narrow types."""

from __future__ import annotations

from functools import partial
from math import erf

import numpy as np
import pytest
from function_cases import assert_gradients, gradients, run, typed, ulps_apart

from rung.core import dtype as dt
from rung.core.errors import DTypeError, RungError, ShapeError
from rung.ops import activation, normalization, softmax
from rung.ops.dropout import dropout
from rung.ops.linear import embedding, linear

RNG = np.random.default_rng(0)
POINTS = np.array([0.0, 1.0, -1.0, 30.0, -30.0, 1e-5, -1e-5, 2.5, -2.5, 0.3, -7.0])
LARGE = np.array([100.0, -100.0, 800.0, -800.0])


def _sigmoid(x):
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1.0) / (1 + np.exp(-np.abs(x)))


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


_PHI = np.vectorize(lambda x: 0.5 * (1 + erf(x / 2**0.5)))
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": _sigmoid,
    "log_sigmoid": lambda x: -_softplus(-x),
    "softplus": _softplus,
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "gelu": lambda x: x * _PHI(x),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}
ONE_DERIVATIVE_AT_0 = {"relu": 0.0, "leaky_relu": 0.01, "sigmoid": 0.25, "softplus": 0.5}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    function, oracle = getattr(activation, name), ACTIVATIONS[name]
    x = np.concatenate([POINTS, LARGE])
    np.testing.assert_allclose(run(function, x), oracle(x), rtol=1e-13, atol=1e-300)
    smooth = POINTS[np.abs(POINTS) > 1e-3] if "elu" in name else POINTS
    assert_gradients(function, smooth)
    (slope,) = gradients(function, [LARGE], [0], np.ones(4))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", ONE_DERIVATIVE_AT_0)
def test_derivatives_at_zero(name):
    (slope,) = gradients(getattr(activation, name), [np.zeros(2)], [0], np.ones(2))
    assert slope.tolist() == [ONE_DERIVATIVE_AT_0[name]] * 2


def test_relu_keeps_nan():
    assert np.isnan(run(activation.relu, np.float32([np.nan]))[0])


def test_gelu_by_tanh():
    x = POINTS
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    found = run(lambda v: activation.gelu(v, approximate="tanh"), x)
    np.testing.assert_allclose(found, 0.5 * x * (1 + np.tanh(inner)), rtol=1e-13)
    assert_gradients(lambda v: activation.gelu(v, approximate="tanh"), x)
    with pytest.raises(RungError, match="gelu: approximate='exact'"):
        run(lambda v: activation.gelu(v, approximate="exact"), x)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [dt.bfloat16, dt.float16], ids=str)
def test_activations_round_narrow_floats_once(name, dtype):
    x = RNG.uniform(-4, 4, 200).astype(dtype.numpy)
    exact = ACTIVATIONS[name](x.astype(np.float64))
    assert ulps_apart(run(getattr(activation, name), x), exact) <= 0.6


# ---- softmax and its relatives


def _exact_softmax(x, dim):
    e = np.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_family(dim):
    x = RNG.standard_normal((4, 5)) * 3
    probabilities = _exact_softmax(x, dim)
    cases = {
        softmax.softmax: probabilities,
        softmax.masked_softmax: probabilities,
        softmax.log_softmax: np.log(probabilities),
        softmax.logsumexp: np.log(np.exp(x).sum(axis=dim)),
    }
    for function, exact in cases.items():
        along = partial(function, dim=dim)
        np.testing.assert_allclose(run(along, x), exact, rtol=1e-12)
        assert_gradients(along, x)


def test_softmax_of_huge_and_infinite_values():
    x = np.float32([[1e30, 1e30, -1e30], [-np.inf, 0, 0], [-np.inf] * 3, [1, np.inf, 1]])
    found = run(softmax.softmax, x)
    assert found[:2].tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5]]
    assert np.isnan(found[2:]).any(axis=1).all()
    assert run(softmax.masked_softmax, x)[:3].tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]]
    assert run(softmax.logsumexp, x)[1:].tolist() == [np.float32(np.log(2)), -np.inf, np.inf]


def test_masked_softmax_has_finite_gradients():
    x = np.array([[-np.inf, 0.0, 1.0], [-np.inf] * 3])
    (found,) = gradients(softmax.masked_softmax, [x], [0], np.array([[1.0, 2.0, 3.0]] * 2))
    assert np.isfinite(found).all()
    assert found[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [dt.bfloat16, dt.float16], ids=str)
def test_softmax_of_narrow_floats_is_rounded_once(dtype):
    x = RNG.standard_normal((8, 300)).astype(dtype.numpy)
    exact = _exact_softmax(x.astype(np.float64), 1)
    assert ulps_apart(run(softmax.softmax, x), exact) <= 0.52


# ---- normalizations


def _exact_standard(x, dims, eps):
    mean = x.mean(axis=dims, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=dims, keepdims=True) + eps)


def test_layer_norm():
    x, weight, bias = (RNG.standard_normal(s) for s in ((2, 3, 4), (4,), (4,)))
    found = run(normalization.layer_norm, x, weight, bias)
    np.testing.assert_allclose(found, _exact_standard(x, 2, 1e-5) * weight + bias, rtol=1e-12)
    assert_gradients(normalization.layer_norm, x, weight, bias)
    whole = run(lambda v: normalization.layer_norm(v, num_dims=2, eps=0.1), x)
    np.testing.assert_allclose(whole, _exact_standard(x, (1, 2), 0.1), rtol=1e-12)


def test_layer_norm_of_a_large_mean_keeps_its_accuracy():
    x = (1000 + RNG.standard_normal((4, 256))).astype(np.float32)
    exact = _exact_standard(x.astype(np.float64), 1, 1e-5)
    assert np.abs(run(normalization.layer_norm, x) - exact).max() < 3e-4


def test_rms_norm():
    x, weight = RNG.standard_normal((2, 3, 4)), RNG.standard_normal(4)
    exact = x / np.sqrt((x**2).mean(axis=2, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(run(normalization.rms_norm, x, weight), exact, rtol=1e-12)
    assert_gradients(normalization.rms_norm, x, weight)


def test_batch_norm():
    x, weight, bias = (RNG.standard_normal(s) for s in ((3, 2, 2, 2), (2,), (2,)))
    column = (slice(None), None, None)
    exact = _exact_standard(x, (0, 2, 3), 1e-5) * weight[column] + bias[column]
    np.testing.assert_allclose(run(normalization.batch_norm, x, weight, bias), exact, rtol=1e-11)
    assert_gradients(lambda *v: normalization.batch_norm(*v)[0], x, weight, bias)
    mean = run(lambda v: normalization.batch_norm(v)[1], x)
    variance = run(lambda v: normalization.batch_norm(v)[2], x)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var(axis=(0, 2, 3)), rtol=1e-12)
    fixed = run(normalization.batch_norm_inference, x, mean, variance, weight, bias)
    np.testing.assert_allclose(fixed, exact, rtol=1e-10, atol=1e-12)
    assert_gradients(normalization.batch_norm_inference, x, mean, variance, weight, bias)


def test_group_norm():
    x, weight, bias = (RNG.standard_normal(s) for s in ((2, 4, 3), (4,), (4,)))
    exact = _exact_standard(x.reshape(2, 2, 2, 3), (2, 3), 1e-5).reshape(x.shape)
    exact = exact * weight[:, None] + bias[:, None]
    group = lambda *v: normalization.group_norm(*v, num_groups=2)  # noqa: E731
    np.testing.assert_allclose(run(group, x, weight, bias), exact, rtol=1e-12)
    assert_gradients(group, x, weight, bias)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm"])
def test_norms_of_bf16_are_computed_in_f32(name):
    x = (5 + RNG.standard_normal((2, 64, 8))).astype(dt.bfloat16.numpy)
    function = getattr(normalization, name)
    result = lambda v: function(v)[0] if name == "batch_norm" else function(v)  # noqa: E731
    wide = run(result, x.astype(np.float32))
    assert np.array_equal(run(result, x), wide.astype(dt.bfloat16.numpy))


# ---- dropout, linear, embedding


def test_dropout():
    x, key = np.ones((200, 300), np.float32), np.array([1, 2], np.uint32)
    y = run(lambda v, k: dropout(v, k, rate=0.25), x, key)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / x.size)
    again = run(lambda v, k: dropout(v, k, rate=0.25), x, key)
    assert np.array_equal(y, again)
    other = run(lambda v, k: dropout(v, k, rate=0.25), x, key + np.uint32(1))
    assert not np.array_equal(y, other)
    (slope,) = gradients(lambda v, k: dropout(v, k, rate=0.25), [x, key], [0], x)
    assert np.array_equal(slope, y)
    assert np.array_equal(run(lambda v, k: dropout(v, k, rate=0.0), x, key), x)
    assert not run(lambda v, k: dropout(v, k, rate=1.0), x, key).any()


def test_linear_and_embedding():
    x, weight, bias = (RNG.standard_normal(s) for s in ((2, 3, 4), (5, 4), (5,)))
    np.testing.assert_allclose(run(linear, x, weight, bias), x @ weight.T + bias, rtol=1e-12)
    assert_gradients(linear, x, weight, bias)
    assert_gradients(linear, x[0, 0], weight)
    index = np.array([[0, 4], [4, 2]], np.int32)
    np.testing.assert_array_equal(run(embedding, weight, index), weight[index])
    assert_gradients(embedding, weight, index)


@pytest.mark.parametrize(
    "error, function, shapes, message, fix",
    [
        (ShapeError, linear, ((2, 3), (4, 5)),
         "linear: x f32[2,3] with weight f32[4,5]",
             "x must end in 5 features, or weight must be [outputs, 3]"),
        (ShapeError, linear, ((2, 3), (4, 3), (3,)),
         "linear: bias is f32[3]", "bias must have shape [4]"),
        (ShapeError, normalization.layer_norm, ((2, 3), (2,)),
         "layer_norm: weight is f32[2]", "weight must have shape [3]"),
        (ShapeError, normalization.batch_norm, ((1, 3),),
         "batch_norm: x f32[1,3] has one value a channel, which has no variance",
         "a larger batch, or the running statistics: batch_norm_inference"),
        (ShapeError, lambda x: normalization.group_norm(x, num_groups=2), ((2, 3),),
         "group_norm: 3 channels of x f32[2,3] in 2 groups",
         "the number of groups must divide the channels"),
        (RungError, lambda x: dropout(x, x, rate=1.5), ((2,),),
         "dropout: rate=1.5", "a rate from 0 to 1"),
    ],
)  # fmt: skip
def test_errors(error, function, shapes, message, fix):
    with pytest.raises(error) as caught:
        typed(function, *((dt.float32, s) for s in shapes))
    assert (caught.value.message, caught.value.fix) == (message, fix)


@pytest.mark.parametrize("name", ["softmax", "gelu", "layer_norm"])
def test_integers_are_refused(name):
    function = next(
        getattr(m, name) for m in (softmax, activation, normalization) if hasattr(m, name)
    )
    with pytest.raises(DTypeError, match=rf"{name}: x i64\[2,3\] is not float"):
        typed(function, (dt.int64, (2, 3)))
