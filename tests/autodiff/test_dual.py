"""Dual numbers: each function, against differences and against the derivatives of graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rung
from rung.autodiff import dual
from rung.core.errors import GradientError

RNG = np.random.default_rng(5)
UNARY = {
    "negative": 0.7, "abs": -0.7, "square": 0.7, "reciprocal": 0.7, "sqrt": 0.7, "rsqrt": 0.7,
    "exp": 0.7, "exp2": 0.7, "expm1": 0.7, "log": 0.7, "log1p": 0.7, "log2": 0.7, "log10": 0.7,
    "sin": 0.7, "cos": 0.7, "tan": 0.7, "asin": 0.4, "acos": 0.4, "atan": 0.7, "sinh": 0.7,
    "cosh": 0.7, "tanh": 0.7, "asinh": 0.7, "acosh": 1.7, "atanh": 0.4, "erf": 0.4, "sign": 0.7,
    "floor": 0.7, "ceil": 0.7, "trunc": 0.7, "round": 0.7, "sigmoid": 0.7, "relu": 0.7,
}  # fmt: skip
BINARY = [
    "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "pow", "maximum",
    "minimum", "atan2", "hypot", "logaddexp",
]  # fmt: skip


def difference(function, x, step=1e-6):
    return (function(x + step) - function(x - step)) / (2 * step)


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number(name):
    f, x = getattr(dual, name), UNARY[name]
    found = dual.derivative(f)(x)
    assert found == pytest.approx(difference(f, x), rel=1e-7, abs=1e-7)
    second = dual.derivative(dual.derivative(f))(x)
    assert second == pytest.approx(difference(dual.derivative(f), x), rel=1e-6, abs=1e-6)
    wide = rung.asarray([x, x], dtype=rung.float64)
    value, tangent = dual.jvp(f, (wide,), (rung.ones_like(wide),))
    theirs = rung.jvp(getattr(rung, name), (wide,), (rung.ones_like(wide),))
    np.testing.assert_allclose(value.numpy(), theirs[0].numpy(), rtol=1e-14)
    np.testing.assert_allclose(tangent.numpy(), theirs[1].numpy(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers(name):
    f = getattr(dual, name)
    for x, y in ((1.3, 0.8), (0.8, 2.1)):
        _, found = dual.jvp(f, (x, y), (1.0, 0.5))
        want = difference(lambda t, x=x, y=y: f(x + t, y + 0.5 * t), 0.0)
        assert found == pytest.approx(want, rel=1e-7, abs=1e-7)
        given = [rung.asarray(v, dtype=rung.float64) for v in (x, y)]
        moving = [rung.asarray(v, dtype=rung.float64) for v in (1.0, 0.5)]
        theirs = rung.jvp(getattr(rung, name), given, moving)[1]
        assert dual.jvp(f, given, moving)[1].item() == pytest.approx(theirs.item(), rel=1e-13)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x**3 - 2 / x + 5 % x - (x // 2) * +x,
        lambda x: 2.0**x + x**x,
        lambda x: np.sin(x) * np.float64(3.0) + np.arctan2(x, 2.0) / np.sqrt(x) + np.power(x, 3),
        lambda x: x.__array_namespace__().exp(-x) if isinstance(x, dual.Dual) else math.exp(-x),
        lambda x: x if x > 2 else x * x,
        lambda x: dual.where(x > 1, x * x, 7.0) + dual.where(x > 5, 1.0, x),
        lambda x: abs(-x) + (-x) ** 2,
    ],
)
def test_python_functions(function):
    found = dual.derivative(function)(1.7)
    assert found == pytest.approx(difference(function, 1.7), rel=1e-6)


def test_loops_follow_python():
    def root(a):
        x = a
        while abs(x * x - a) > 1e-14:
            x = 0.5 * (x + a / x)
        return x

    assert dual.derivative(root)(3.0) == pytest.approx(0.5 / 3**0.5, rel=1e-9)
    assert dual.derivative(dual.derivative(root))(3.0) == pytest.approx(-0.25 / 3**1.5, rel=1e-6)


def test_each_derivative_has_its_own_epsilon():
    inner = lambda x: dual.derivative(lambda y: x * y)(3.0)  # noqa: E731
    assert dual.derivative(lambda x: x * inner(x))(2.0) == 4.0
    assert dual.derivative(lambda x: dual.derivative(lambda y: y * y)(3.0) + 0 * x)(2.0) == 0.0


def layer(x, w):
    return (((x @ w).tanh() + w[0]) ** 2).mean() * x.T.reshape(-1).sum(axis=0)


def test_arrays_and_tensors():
    x, w = RNG.standard_normal((4, 3)), RNG.standard_normal((3, 2))
    tensors = rung.asarray(x), rung.asarray(w)
    want = rung.grad(layer, argnums=(0, 1))(*tensors)
    by_x = dual.gradient(lambda t: layer(t, tensors[1]))(tensors[0])
    by_w = dual.gradient(lambda t: layer(tensors[0], t))(tensors[1])
    np.testing.assert_allclose(by_x.numpy(), want[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(by_w.numpy(), want[1].numpy(), rtol=1e-12)
    both = dual.jvp(layer, (x, w), (x, w))  # arrays: dual numbers on both sides
    moved = rung.jvp(layer, tensors, tensors)
    assert both[1] == pytest.approx(moved[1].item(), rel=1e-12)
    square = dual.gradient(lambda t: (t * t).sum())(x)
    np.testing.assert_allclose(square, 2 * x, rtol=1e-14)


def test_a_constant_spreads_to_the_shape_of_its_value():
    x = rung.asarray([1.0, 2.0, 3.0])
    found = dual.jvp(lambda s: (s + x).sum(), (2.0,), (1.0,))[1]
    assert found.item() == 3.0 and found.dtype is rung.float32
    assert dual.derivative(lambda s: (s * np.ones(4)).sum())(2.0) == 4.0


def test_trees_of_results():
    value, tangent = dual.jvp(lambda x: {"a": x * x, "b": 3.0}, (2.0,), (1.0,))
    assert value == {"a": 4.0, "b": 3.0} and tangent == {"a": 4.0, "b": 0.0}


def test_equal_arguments_share_the_derivative():
    assert dual.derivative(lambda x: dual.maximum(x, 1.0))(1.0) == 0.5
    assert dual.derivative(lambda x: dual.minimum(x, x))(1.0) == 1.0


def test_functions_of_math_are_refused():
    with pytest.raises(GradientError, match="would lose its derivative") as e:
        dual.derivative(lambda x: math.sin(x))(1.0)
    assert "rung.autodiff.dual" in str(e.value) and "math.sin(x)" in str(e.value)
    with pytest.raises(TypeError):
        dual.derivative(lambda x: np.add.reduce(x))(np.ones(3))


def test_looks_as_it_is_written():
    assert repr(dual.Dual(0, 2.0, 1.0)) == "Dual(2.0 + 1.0 ε)"
    assert len(dual.Dual(0, np.ones(3), 0.0)) == 3
