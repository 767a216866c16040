"""Activation functions, as composites. 16-bit floats are computed in f32 and rounded once.

They are written so that neither value nor derivative overflows, and that the derivative at a kink
is the one from the left (0 for relu), as PyTorch has it.
"""

from __future__ import annotations

from math import pi, sqrt

from rung.core.errors import DomainError, RungError
from rung.ir.node import Value
from rung.ops.composite import composite, composite_with_jvp, composite_with_kernel
from rung.ops.eager import functions as kernels
from rung.ops.elementwise import (
    absolute,
    divide,
    greater,
    greater_equal,
    less,
    less_equal,
    multiply,
    negative,
    plus,
    subtract,
    where,
)
from rung.ops.families import add
from rung.ops.shorthand import as_type, number, require_float, times, wide
from rung.ops.transcendental import exp, expm1, log1p, normal_cdf, tanh


@composite_with_kernel(lambda call: kernels.relu(call.types[0]))
def relu(x: Value) -> Value:
    """x where it is positive, else 0; NaN stays. Any shape and number dtype."""
    zero = number(0, x)
    return where(less_equal(x, zero), zero, x)


@composite_with_kernel(lambda call: kernels.leaky_relu(call.types[0], call.number("slope")))
def leaky_relu(x: Value, *, slope: float = 0.01) -> Value:
    """x where it is positive, else slope * x."""
    require_float("leaky_relu", "x", x)
    w = wide(x)
    return as_type(where(less_equal(w, number(0, w)), times(w, slope), w), x.dtype)


@composite
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    require_float("elu", "x", x)
    w = wide(x)
    zero = number(0, w)
    positive = greater(w, zero)
    below = times(expm1(where(positive, zero, w)), alpha)
    return as_type(where(positive, w, below), x.dtype)


def _folded(w: Value) -> Value:
    """-|x|, with derivative -1 at 0, so that exp of it is at most 1."""
    return where(less(w, number(0, w)), w, negative(w))


def _softplus(w: Value) -> Value:
    zero = number(0, w)
    return add(where(less(w, zero), zero, w), log1p(exp(_folded(w))))


def _sigmoid_jvp(x: Value, y: Value, dx: Value) -> Value:
    w = wide(y)
    slope = multiply(w, subtract(number(1, w), w))
    return as_type(multiply(slope, wide(dx)), x.dtype)


@composite_with_jvp(_sigmoid_jvp, eager=lambda call: kernels.sigmoid(call.types[0]))
def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x)). A derivative keeps the result y alone: it is y (1 - y)."""
    require_float("sigmoid", "x", x)
    w = wide(x)
    e = exp(_folded(w))
    y = divide(where(less(w, number(0, w)), e, number(1, w)), plus(e, 1.0))
    return as_type(y, x.dtype)


@composite
def log_sigmoid(x: Value) -> Value:
    """log(sigmoid(x)), accurate for large negative x."""
    require_float("log_sigmoid", "x", x)
    return as_type(negative(_softplus(negative(wide(x)))), x.dtype)


@composite
def softplus(x: Value, *, beta: float = 1.0) -> Value:
    """log(1 + exp(beta * x)) / beta."""
    require_float("softplus", "x", x)
    if not beta:
        raise DomainError(f"softplus: beta={beta}", fix="give a number other than 0")
    return as_type(times(_softplus(times(wide(x), beta)), 1.0 / beta), x.dtype)


@composite_with_kernel(lambda call: kernels.silu(call.types[0]))
def silu(x: Value) -> Value:
    """x * sigmoid(x), also called swish."""
    require_float("silu", "x", x)
    w = wide(x)
    return as_type(multiply(w, sigmoid(w)), x.dtype)


@composite
def mish(x: Value) -> Value:
    """x * tanh(softplus(x))."""
    require_float("mish", "x", x)
    w = wide(x)
    return as_type(multiply(w, tanh(_softplus(w))), x.dtype)


@composite_with_kernel(
    lambda call: kernels.gelu(call.types[0])
    if call.static["approximate"] == "none"
    else None
)
def gelu(x: Value, *, approximate: str = "none") -> Value:
    """x * Phi(x), Phi being the normal distribution function (Hendrycks and Gimpel, 2016);
    `approximate="tanh"` for the form with tanh that GPT-2 uses."""
    require_float("gelu", "x", x)
    w = wide(x)
    if approximate == "tanh":
        inner = multiply(w, plus(times(multiply(w, w), 0.044715), 1.0))
        phi = plus(tanh(times(inner, sqrt(2 / pi))), 1.0)
        return as_type(multiply(times(w, 0.5), phi), x.dtype)
    if approximate != "none":
        raise RungError(f"gelu: approximate={approximate!r}", fix='give "none" or "tanh"')
    return as_type(multiply(w, normal_cdf(w)), x.dtype)


def _softsign_jvp(x: Value, y: Value, dx: Value) -> Value:
    size = plus(absolute(wide(x)), 1.0)
    return as_type(divide(divide(wide(dx), size), size), x.dtype)


@composite_with_jvp(_softsign_jvp)
def softsign(x: Value) -> Value:
    """x / (1 + |x|)."""
    require_float("softsign", "x", x)
    w = wide(x)
    return as_type(divide(w, plus(absolute(w), 1.0)), x.dtype)


@composite
def hard_sigmoid(x: Value) -> Value:
    """x / 6 + 1/2 held within [0, 1]."""
    require_float("hard_sigmoid", "x", x)
    return as_type(_hard_sigmoid(wide(x)), x.dtype)


@composite
def hard_swish(x: Value) -> Value:
    """x * hard_sigmoid(x)."""
    require_float("hard_swish", "x", x)
    w = wide(x)
    return as_type(multiply(w, _hard_sigmoid(w)), x.dtype)


def _hard_sigmoid(w: Value) -> Value:
    line = plus(times(w, 1 / 6), 0.5)
    below, above = less_equal(w, number(-3, w)), greater_equal(w, number(3, w))
    return where(below, number(0, w), where(above, number(1, w), line))
