"""Element-wise functions of analysis: powers, roots, exponentials, logarithms, circular and
hyperbolic functions.

The code generators know few of them by name (`emit`): sqrt, rsqrt, exp, exp2, expm1, log, log2,
log1p, sin, cos, atan2, tanh, erf and power. The others are composed of those in their loop form.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import as_dtype
from rung.ir.expr import Expr, const, raw_call
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Facts, LoopForm, Op
from rung.ops.creation import full_like, zeros_like
from rung.ops.elementwise import (
    divide,
    equal,
    multiply,
    negative,
    plus,
    scale,
    subtract,
    where,
)
from rung.ops.families import (
    NUMBERS,
    Types,
    add,
    axis_vars,
    binary,
    number,
    predicate,
    reads,
    scalar,
    select,
    unary,
    widened,
)

# ---- scalar arithmetic on expressions, for the bodies


def _add(a: Expr, b: Expr) -> Expr:
    return scalar("add", a, b)


def _sub(a: Expr, b: Expr) -> Expr:
    return scalar("subtract", a, b)


def _mul(a: Expr, b: Expr) -> Expr:
    return scalar("multiply", a, b)


def _div(a: Expr, b: Expr) -> Expr:
    return scalar("divide", a, b)


# ---- powers and roots


def _power(x: Array, y: Array) -> Array:
    if x.dtype.kind != "i":
        return np.asarray(np.power(x, y))
    raised = np.power(x, np.maximum(y, 0))
    sign = np.where(y & 1 != 0, x, x * x)
    inverse = np.where(np.abs(x) == 1, sign, np.zeros_like(x))
    return np.where(y < 0, inverse, raised)


def _power_by_exponent(x: Value, y: Value, z: Value, dy: Value) -> Value:
    slope = multiply(z, log(where(equal(x, zeros_like(x)), full_like(x, 1), x)))
    return multiply(dy, slope)


def _power_by_base(x: Value, y: Value, z: Value, dx: Value) -> Value:
    slope = multiply(y, power(x, plus(y, -1)))
    return multiply(dx, where(equal(y, zeros_like(y)), zeros_like(y), slope))


power: Op = binary(
    "power",
    _power,
    "x to the power y, as C's pow. Integers wrap around; a negative exponent gives 1 / x rounded "
    "towards zero, and 0 where x is 0. The derivative by y at x = 0 is 0.",
    dtypes=NUMBERS,
    derivatives=(_power_by_base, _power_by_exponent),
    flops=30,
    facts=Facts(domain=(0.3, 3.0)),
)


def square(x: Value) -> Value:
    """x * x."""
    return multiply(x, x)


sqrt: Op = unary(
    "sqrt",
    np.sqrt,
    "Square root; NaN below 0.",
    derivative=lambda x, y, dx: divide(scale(dx, 0.5), y),
    flops=4,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)

rsqrt: Op = unary(
    "rsqrt",
    lambda x: 1 / np.sqrt(x),
    "1 / sqrt(x); infinite at 0, NaN below.",
    derivative=lambda x, y, dx: multiply(dx, divide(scale(y, -0.5), x)),
    flops=4,
    facts=Facts(monotone=-1, domain=(0.1, 4.0)),
)


def _hypot(x: Expr, y: Expr) -> Expr:
    a, b = scalar("abs", x), scalar("abs", y)
    large, small = scalar("maximum", a, b), scalar("minimum", a, b)
    ratio = _div(small, large)
    root = _mul(large, scalar("sqrt", _add(number(1, x), _mul(ratio, ratio))))
    zero = predicate("equal", large, number(0, x))
    endless = raw_call(
        "logical_or",
        (predicate("equal", a, number(math.inf, x)), predicate("equal", b, number(math.inf, x))),
        dt.bool_,
    )
    return select(endless, number(math.inf, x), select(zero, large, root))


def _hypot_part(operand: int) -> Any:
    def rule(x: Value, y: Value, z: Value, t: Value) -> Value:
        ratio = divide((x, y)[operand], z)
        return multiply(t, where(equal(z, zeros_like(z)), zeros_like(z), ratio))

    return rule


hypot: Op = binary(
    "hypot",
    np.hypot,
    "sqrt(x² + y²) without overflow between; infinite if one is. Derivative 0 where both are 0.",
    derivatives=(_hypot_part(0), _hypot_part(1)),
    body=_hypot,
    flops=10,
    facts=Facts(commutative=True),
)


# ---- exponentials and logarithms

exp: Op = unary(
    "exp",
    np.exp,
    "e to the power x.",
    derivative=lambda x, y, dx: multiply(dx, y),
    flops=12,
    facts=Facts(monotone=1),
)

exp2: Op = unary(
    "exp2",
    np.exp2,
    "2 to the power x.",
    derivative=lambda x, y, dx: multiply(dx, scale(y, math.log(2))),
    flops=12,
    facts=Facts(monotone=1),
)

expm1: Op = unary(
    "expm1",
    np.expm1,
    "exp(x) - 1, accurate near 0.",
    derivative=lambda x, y, dx: multiply(dx, plus(y, 1)),
    flops=14,
    facts=Facts(monotone=1),
)

log: Op = unary(
    "log",
    np.log,
    "Natural logarithm; -inf at 0, NaN below.",
    derivative=lambda x, y, dx: divide(dx, x),
    flops=14,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)

log1p: Op = unary(
    "log1p",
    np.log1p,
    "log(1 + x), accurate near 0.",
    derivative=lambda x, y, dx: divide(dx, plus(x, 1)),
    flops=16,
    facts=Facts(monotone=1, domain=(-0.8, 3.0)),
)

log2: Op = unary(
    "log2",
    np.log2,
    "Logarithm to base 2.",
    derivative=lambda x, y, dx: divide(dx, scale(x, math.log(2))),
    flops=14,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)

log10: Op = unary(
    "log10",
    np.log10,
    "Logarithm to base 10.",
    derivative=lambda x, y, dx: divide(dx, scale(x, math.log(10))),
    body=lambda x: _mul(scalar("log", x), number(1 / math.log(10), x)),
    flops=15,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)


def _logaddexp(x: Expr, y: Expr) -> Expr:
    distance = scalar("abs", _sub(x, y))
    tail = scalar("log1p", scalar("exp", scalar("negative", distance)))
    same = predicate("equal", x, y)
    return _add(scalar("maximum", x, y), select(same, number(math.log(2), x), tail))


logaddexp: Op = binary(
    "logaddexp",
    np.logaddexp,
    "log(exp(x) + exp(y)) without overflow between.",
    derivatives=(
        lambda x, y, z, dx: multiply(dx, exp(subtract(x, z))),
        lambda x, y, z, dy: multiply(dy, exp(subtract(y, z))),
    ),
    body=_logaddexp,
    flops=30,
    facts=Facts(commutative=True, associative=True, identity=-math.inf),
)


# ---- circular functions

sin: Op = unary(
    "sin",
    np.sin,
    "Sine of x in radians.",
    derivative=lambda x, y, dx: multiply(dx, cos(x)),
    flops=16,
)

cos: Op = unary(
    "cos",
    np.cos,
    "Cosine of x in radians.",
    derivative=lambda x, y, dx: negative(multiply(dx, sin(x))),
    flops=16,
)

tan: Op = unary(
    "tan",
    np.tan,
    "Tangent of x in radians.",
    derivative=lambda x, y, dx: multiply(dx, plus(square(y), 1)),
    body=lambda x: _div(scalar("sin", x), scalar("cos", x)),
    flops=33,
    facts=Facts(domain=(-1.2, 1.2)),
)

atan2: Op = binary(
    "atan2",
    np.arctan2,
    "The angle of the point (x, y), in [-pi, pi]: the arc tangent of y / x in its quadrant.",
    operands=("y", "x"),
    derivatives=(
        lambda y, x, z, dy: multiply(dy, divide(x, _norm(x, y))),
        lambda y, x, z, dx: negative(multiply(dx, divide(y, _norm(x, y)))),
    ),
    flops=25,
    facts=Facts(domain=(0.2, 3.0)),
)


def _norm(x: Value, y: Value) -> Value:
    return add(square(x), square(y))


asin: Op = unary(
    "asin",
    np.arcsin,
    "Arc sine in [-pi/2, pi/2]; NaN outside [-1, 1].",
    derivative=lambda x, y, dx: multiply(dx, rsqrt(_one_minus_square(x))),
    body=lambda x: scalar("atan2", x, scalar("sqrt", _mul(_below_one(x), _above_one(x)))),
    flops=30,
    facts=Facts(monotone=1, domain=(-0.9, 0.9)),
)

acos: Op = unary(
    "acos",
    np.arccos,
    "Arc cosine in [0, pi]; NaN outside [-1, 1].",
    derivative=lambda x, y, dx: negative(multiply(dx, rsqrt(_one_minus_square(x)))),
    body=lambda x: _mul(
        number(2, x),
        scalar("atan2", scalar("sqrt", _below_one(x)), scalar("sqrt", _above_one(x))),
    ),
    flops=34,
    facts=Facts(monotone=-1, domain=(-0.9, 0.9)),
)

atan: Op = unary(
    "atan",
    np.arctan,
    "Arc tangent in [-pi/2, pi/2].",
    derivative=lambda x, y, dx: divide(dx, plus(square(x), 1)),
    body=lambda x: scalar("atan2", x, number(1, x)),
    flops=25,
    facts=Facts(monotone=1),
)


def _below_one(x: Expr) -> Expr:
    return _sub(number(1, x), x)


def _above_one(x: Expr) -> Expr:
    return _add(number(1, x), x)


def _one_minus_square(x: Value) -> Value:
    one = full_like(x, 1)
    return multiply(subtract(one, x), plus(x, 1))


# ---- hyperbolic functions

_FAR = 80.0
"""Beyond it exp(-x) no longer matters beside exp(x), and exp(x) may overflow before the result."""

_VAST = 1e8
"""Beyond it 1 no longer matters beside x², and x² may overflow."""


def _half_exp(a: Expr) -> Expr:
    """exp(a) / 2 without overflow between."""
    root = scalar("exp", _mul(number(0.5, a), a))
    return _mul(_mul(number(0.5, a), root), root)


def _sinh(x: Expr) -> Expr:
    a = scalar("abs", x)
    e = scalar("expm1", a)
    near = _mul(number(0.5, x), _add(e, _div(e, _add(e, number(1, x)))))
    far = predicate("greater", a, number(_FAR, x))
    return scalar("copysign", select(far, _half_exp(a), near), x)


def _cosh(x: Expr) -> Expr:
    a = scalar("abs", x)
    e = scalar("exp", a)
    near = _add(_mul(number(0.5, x), e), _div(number(0.5, x), e))
    return select(predicate("greater", a, number(_FAR, x)), _half_exp(a), near)


def _log_double(a: Expr) -> Expr:
    return _add(scalar("log", a), number(math.log(2), a))


def _asinh(x: Expr) -> Expr:
    a = scalar("abs", x)
    square = _mul(a, a)
    root = scalar("sqrt", _add(square, number(1, x)))
    near = scalar("log1p", _add(a, _div(square, _add(root, number(1, x)))))
    vast = predicate("greater", a, number(_VAST, x))
    return scalar("copysign", select(vast, _log_double(a), near), x)


def _acosh(x: Expr) -> Expr:
    t = _sub(x, number(1, x))
    near = scalar("log1p", _add(t, scalar("sqrt", _mul(t, _add(x, number(1, x))))))
    inside = select(predicate("less", x, number(1, x)), number(math.nan, x), near)
    return select(predicate("greater", x, number(_VAST, x)), _log_double(x), inside)


def _atanh(x: Expr) -> Expr:
    a = scalar("abs", x)
    ratio = _div(_add(a, a), _sub(number(1, x), a))
    return scalar("copysign", _mul(number(0.5, x), scalar("log1p", ratio)), x)


sinh: Op = unary(
    "sinh",
    np.sinh,
    "Hyperbolic sine.",
    derivative=lambda x, y, dx: multiply(dx, cosh(x)),
    body=_sinh,
    flops=20,
    facts=Facts(monotone=1),
)

cosh: Op = unary(
    "cosh",
    np.cosh,
    "Hyperbolic cosine.",
    derivative=lambda x, y, dx: multiply(dx, sinh(x)),
    body=_cosh,
    flops=20,
)

tanh: Op = unary(
    "tanh",
    np.tanh,
    "Hyperbolic tangent.",
    derivative=lambda x, y, dx: multiply(dx, subtract(full_like(y, 1), square(y))),
    flops=16,
    facts=Facts(monotone=1),
)

asinh: Op = unary(
    "asinh",
    np.arcsinh,
    "Inverse of sinh.",
    derivative=lambda x, y, dx: divide(dx, hypot(x, full_like(x, 1))),
    body=_asinh,
    flops=28,
    facts=Facts(monotone=1),
)

acosh: Op = unary(
    "acosh",
    np.arccosh,
    "Inverse of cosh, at least 0; NaN below 1.",
    derivative=lambda x, y, dx: multiply(dx, rsqrt(multiply(plus(x, -1), plus(x, 1)))),
    body=_acosh,
    flops=28,
    facts=Facts(monotone=1, domain=(1.2, 4.0)),
)

atanh: Op = unary(
    "atanh",
    np.arctanh,
    "Inverse of tanh; infinite at -1 and 1, NaN outside.",
    derivative=lambda x, y, dx: divide(dx, _one_minus_square(x)),
    body=_atanh,
    flops=22,
    facts=Facts(monotone=1, domain=(-0.9, 0.9)),
)


# ---- erf


def _erf(x: Array) -> Array:
    values = np.fromiter(map(math.erf, x.reshape(-1).tolist()), np.float64, x.size)
    return values.reshape(x.shape).astype(x.dtype)


erf: Op = unary(
    "erf",
    _erf,
    "The error function 2/sqrt(pi) ∫₀ˣ exp(-t²) dt.",
    derivative=lambda x, y, dx: multiply(
        dx, scale(exp(negative(square(x))), 2 / math.sqrt(math.pi))
    ),
    flops=20,
    facts=Facts(monotone=1),
)


# ---- nextafter


def _nextafter(x: Array, y: Array) -> Array:
    ints = np.dtype(f"i{x.dtype.itemsize}")
    bits = x.view(ints)
    with np.errstate(invalid="ignore"):
        outward = (x < y) == (x > 0)
    moved = (bits + np.where(outward, 1, -1).astype(ints)).view(x.dtype)
    tiny = np.copysign(np.ones(x.shape, ints).view(x.dtype), y)
    found = np.where(x == 0, tiny, moved)
    found = np.where(x == y, y, found)
    return np.where(np.isnan(x) | np.isnan(y), np.full_like(x, np.nan), found)


def _nextafter_axes(attrs: Attrs, types: Types) -> LoopForm:
    dtype = types[0].dtype
    ints = as_dtype(f"i{dtype.bits}")
    axes = axis_vars(types[0].shape)
    x, y = reads(types, axes)
    wide_x, wide_y = widened(x), widened(y)
    zero = number(0, wide_x)
    outward = predicate("equal", predicate("less", wide_x, wide_y), predicate("less", zero, wide_x))
    step = select(outward, const(1, ints), const(-1, ints))
    bits = scalar("bitcast", x, dtype=ints)
    moved = scalar("bitcast", scalar("add", bits, step), dtype=dtype)
    sign = scalar(
        "bitwise_and", scalar("bitcast", y, dtype=ints), const(-(2 ** (dtype.bits - 1)), ints)
    )
    tiny = scalar("bitcast", scalar("bitwise_or", sign, const(1, ints)), dtype=dtype)
    found = select(predicate("equal", wide_x, zero), tiny, moved)
    found = select(predicate("equal", wide_x, wide_y), y, found)
    ordered = scalar(
        "logical_and",
        predicate("equal", wide_x, wide_x),
        predicate("equal", wide_y, wide_y),
        dtype=dt.bool_,
    )
    return LoopForm(axes, (select(ordered, found, const(math.nan, dtype)),))


nextafter: Op = replace(
    binary(
        "nextafter",
        _nextafter,
        "The neighbour of x in its dtype in the direction of y; NaN if one is. Derivative 1 by x.",
        derivatives=(lambda x, y, z, dx: dx, lambda x, y, z, dy: None),
        blank={"emit": "made from its loop form, which composes other scalar ops"},
    ),
    ref=lambda attrs, operands: (_nextafter(*operands),),
    axes=_nextafter_axes,
    emit=None,
)

RECORDS = (
    power, sqrt, rsqrt, hypot, exp, exp2, expm1, log, log1p, log2, log10, logaddexp,
    sin, cos, tan, asin, acos, atan, atan2, sinh, cosh, tanh, asinh, acosh, atanh, erf, nextafter,
)  # fmt: skip
