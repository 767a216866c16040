"""Element-wise functions of analysis: powers, roots, exponentials, logarithms, circular and
hyperbolic functions.

NumPy's functions are the reference. The code generators state the accuracy of theirs in units in
the last place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rung.core.dtype import as_dtype
from rung.ir.expr import Expr, const
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Facts, Op
from rung.ops.creation import full_like, zeros_like
from rung.ops.eager.elementwise import by_function, in_double, inverse_root, power_rule
from rung.ops.eager.special import erf_rule, normal_rule
from rung.ops.elementwise import (
    cancelling_vjp,
    divide,
    equal,
    greater_equal,
    isinf,
    logical_and,
    multiply,
    negative,
    plus,
    scale,
    subtract,
    where,
)
from rung.ops.families import (
    NUMBERS,
    binary,
    number,
    predicate,
    scalar,
    select,
    unary,
    widened,
)

# ---- powers and roots


def _power(x: Array, y: Array) -> Array:
    if x.dtype.kind != "i":
        return np.asarray(np.power(x, y))
    raised = np.power(x, np.maximum(y, 0))
    sign = np.where(y & 1 != 0, x, x * x)
    inverse = np.where(np.abs(x) == 1, sign, np.zeros_like(x))
    return np.where(y < 0, inverse, raised)


def _power_by_exponent(x: Value, y: Value, z: Value, dy: Value) -> Value:
    zero = zeros_like(x)
    nothing = logical_and(equal(x, zero), greater_equal(y, zero))
    return multiply(dy, multiply(z, log(where(nothing, full_like(x, 1), x))))


def _power_by_base(x: Value, y: Value, z: Value, dx: Value) -> Value:
    slope = multiply(y, power(x, plus(y, -1)))
    return multiply(dx, where(equal(y, zeros_like(y)), zeros_like(y), slope))


power: Op = binary(
    "power",
    _power,
    "x to the power y, as C's pow. Integers wrap around; a negative exponent gives 1 / x rounded "
    "towards zero, and 0 where x is 0. The derivative by y at x = 0 is 0 unless y is negative.",
    dtypes=NUMBERS,
    derivatives=(_power_by_base, _power_by_exponent),
    eager=power_rule(_power),
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
    derivative=lambda x, y, dx: divide(multiply(dx, scale(y, -0.5)), x),
    eager=inverse_root,
    flops=4,
    facts=Facts(monotone=-1, domain=(0.1, 4.0)),
)


def _hypot_part(operand: int) -> Any:
    def rule(x: Value, y: Value, z: Value, t: Value) -> Value:
        ratio = divide((x, y)[operand], z)
        return multiply(t, where(equal(z, zeros_like(z)), zeros_like(z), ratio))

    return rule


def _hypot_vjp(
    attrs: Attrs,
    inputs: Sequence[Value],
    cotangents: Sequence[Value | None],
    wanted: Sequence[int],
) -> Sequence[Value | None]:
    found = cancelling_vjp(
        hypot(*inputs),
        inputs,
        cotangents,
        lambda x, y, rest: [multiply(rest, x), multiply(rest, y)],
        lambda x, y, z, ct: [_hypot_part(k)(x, y, z, ct) for k in (0, 1)],
    )
    return [found[i] for i in wanted]


hypot: Op = binary(
    "hypot",
    np.hypot,
    "sqrt(x² + y²) without overflow between; infinite if one is. Derivative 0 where both are 0; "
    "that of its square is 2x and 2y all the same.",
    derivatives=(_hypot_part(0), _hypot_part(1)),
    vjp=_hypot_vjp,
    flops=10,
    facts=Facts(commutative=True),
)


# ---- exponentials and logarithms

exp: Op = unary(
    "exp",
    np.exp,
    "e to the power x.",
    derivative=lambda x, y, dx: multiply(dx, y),
    eager=in_double(np.exp),
    flops=12,
    facts=Facts(monotone=1),
)

exp2: Op = unary(
    "exp2",
    np.exp2,
    "2 to the power x.",
    derivative=lambda x, y, dx: multiply(dx, scale(y, math.log(2))),
    eager=in_double(np.exp2),
    flops=12,
    facts=Facts(monotone=1),
)

expm1: Op = unary(
    "expm1",
    np.expm1,
    "exp(x) - 1, accurate near 0.",
    derivative=lambda x, y, dx: multiply(dx, exp(x)),
    eager=in_double(np.expm1),
    flops=14,
    facts=Facts(monotone=1),
)

log: Op = unary(
    "log",
    np.log,
    "Natural logarithm; -inf at 0, NaN below.",
    derivative=lambda x, y, dx: divide(dx, x),
    eager=in_double(np.log),
    flops=14,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)

log1p: Op = unary(
    "log1p",
    np.log1p,
    "log(1 + x), accurate near 0.",
    derivative=lambda x, y, dx: divide(dx, plus(x, 1)),
    eager=in_double(np.log1p),
    flops=16,
    facts=Facts(monotone=1, domain=(-0.8, 3.0)),
)

log2: Op = unary(
    "log2",
    np.log2,
    "Logarithm to base 2.",
    derivative=lambda x, y, dx: divide(dx, scale(x, math.log(2))),
    eager=in_double(np.log2),
    flops=14,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)

log10: Op = unary(
    "log10",
    np.log10,
    "Logarithm to base 10.",
    derivative=lambda x, y, dx: divide(dx, scale(x, math.log(10))),
    eager=in_double(np.log10),
    flops=15,
    facts=Facts(monotone=1, domain=(0.1, 4.0)),
)


def _below(x: Value, y: Value, z: Value) -> Value:
    """x - z, the logarithm of the share of x in z = logaddexp(x, y); of an infinite z half where
    both are that, else all or nothing."""
    wins = where(equal(x, z), zeros_like(x), full_like(x, -math.inf))
    share = where(equal(x, y), full_like(x, math.log(0.5)), wins)
    return where(isinf(z), share, subtract(x, z))


logaddexp: Op = binary(
    "logaddexp",
    np.logaddexp,
    "log(exp(x) + exp(y)) without overflow between.",
    derivatives=(
        lambda x, y, z, dx: multiply(dx, exp(_below(x, y, z))),
        lambda x, y, z, dy: multiply(dy, exp(_below(y, x, z))),
    ),
    eager=in_double(np.logaddexp),
    flops=30,
    facts=Facts(commutative=True, associative=True, identity=-math.inf),
)


# ---- circular functions

sin: Op = unary(
    "sin",
    np.sin,
    "Sine of x in radians.",
    derivative=lambda x, y, dx: multiply(dx, cos(x)),
    eager=in_double(np.sin),
    flops=16,
)

cos: Op = unary(
    "cos",
    np.cos,
    "Cosine of x in radians.",
    derivative=lambda x, y, dx: negative(multiply(dx, sin(x))),
    eager=in_double(np.cos),
    flops=16,
)

tan: Op = unary(
    "tan",
    np.tan,
    "Tangent of x in radians.",
    derivative=lambda x, y, dx: multiply(dx, plus(square(y), 1)),
    eager=in_double(np.tan),
    flops=33,
    facts=Facts(domain=(-1.2, 1.2)),
)

atan2: Op = binary(
    "atan2",
    np.arctan2,
    "The angle of the point (x, y), in [-pi, pi]: the arc tangent of y / x in its quadrant. "
    "Derivative 0 where both are 0.",
    operands=("y", "x"),
    derivatives=(
        lambda y, x, z, dy: multiply(dy, _over_square(x, x, y)),
        lambda y, x, z, dx: negative(multiply(dx, _over_square(y, x, y))),
    ),
    eager=in_double(np.arctan2),
    flops=25,
    facts=Facts(domain=(0.2, 3.0)),
)


def _over_square(part: Value, x: Value, y: Value) -> Value:
    """part / (x² + y²), without overflow between; 0 where that is 0."""
    length = hypot(x, y)
    nothing = equal(length, zeros_like(length))
    safe = where(nothing, full_like(length, 1), length)
    return where(nothing, zeros_like(part), divide(divide(part, safe), safe))


asin: Op = unary(
    "asin",
    np.arcsin,
    "Arc sine in [-pi/2, pi/2]; NaN outside [-1, 1].",
    derivative=lambda x, y, dx: multiply(dx, rsqrt(_one_minus_square(x))),
    eager=in_double(np.arcsin),
    flops=30,
    facts=Facts(monotone=1, domain=(-0.9, 0.9)),
)

acos: Op = unary(
    "acos",
    np.arccos,
    "Arc cosine in [0, pi]; NaN outside [-1, 1].",
    derivative=lambda x, y, dx: negative(multiply(dx, rsqrt(_one_minus_square(x)))),
    eager=in_double(np.arccos),
    flops=34,
    facts=Facts(monotone=-1, domain=(-0.9, 0.9)),
)

atan: Op = unary(
    "atan",
    np.arctan,
    "Arc tangent in [-pi/2, pi/2].",
    derivative=lambda x, y, dx: _over_one_plus_square(dx, x),
    eager=in_double(np.arctan),
    flops=25,
    facts=Facts(monotone=1),
)


def _over_one_plus_square(dx: Value, x: Value) -> Value:
    """dx / (1 + x²), without overflow between."""
    length = hypot(x, full_like(x, 1))
    return divide(divide(dx, length), length)


def _one_minus_square(x: Value) -> Value:
    one = full_like(x, 1)
    return multiply(subtract(one, x), plus(x, 1))


# ---- hyperbolic functions

sinh: Op = unary(
    "sinh",
    np.sinh,
    "Hyperbolic sine.",
    derivative=lambda x, y, dx: multiply(dx, cosh(x)),
    flops=20,
    facts=Facts(monotone=1),
)

cosh: Op = unary(
    "cosh",
    np.cosh,
    "Hyperbolic cosine.",
    derivative=lambda x, y, dx: multiply(dx, sinh(x)),
    eager=in_double(np.cosh),
    flops=20,
)

tanh: Op = unary(
    "tanh",
    np.tanh,
    "Hyperbolic tangent.",
    derivative=lambda x, y, dx: multiply(dx, subtract(full_like(y, 1), square(y))),
    eager=in_double(np.tanh),
    flops=16,
    facts=Facts(monotone=1),
)

asinh: Op = unary(
    "asinh",
    np.arcsinh,
    "Inverse of sinh.",
    derivative=lambda x, y, dx: divide(dx, hypot(x, full_like(x, 1))),
    flops=28,
    facts=Facts(monotone=1),
)

acosh: Op = unary(
    "acosh",
    np.arccosh,
    "Inverse of cosh, at least 0; NaN below 1.",
    derivative=lambda x, y, dx: multiply(multiply(dx, rsqrt(plus(x, -1))), rsqrt(plus(x, 1))),
    flops=28,
    facts=Facts(monotone=1, domain=(1.2, 4.0)),
)

atanh: Op = unary(
    "atanh",
    np.arctanh,
    "Inverse of tanh; infinite at -1 and 1, NaN outside.",
    derivative=lambda x, y, dx: divide(dx, _one_minus_square(x)),
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
    eager=erf_rule(_erf),
    flops=20,
    facts=Facts(monotone=1),
)


def _normal_cdf(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * _erf(x.astype(np.float64) * math.sqrt(0.5))).astype(x.dtype)


normal_cdf: Op = unary(
    "normal_cdf",
    _normal_cdf,
    "The distribution function of the normal distribution, (1 + erf(x / √2)) / 2; its error is one"
    " relative to 1.",
    derivative=lambda x, y, dx: multiply(
        dx, scale(exp(scale(square(x), -0.5)), 1 / math.sqrt(2 * math.pi))
    ),
    eager=normal_rule(_normal_cdf),
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


def _nextafter_bits(x: Expr, y: Expr) -> Expr:
    """The neighbour by integer arithmetic on the bits, which also serves 16-bit floats."""
    ints = as_dtype(f"i{x.dtype.bits}")
    wide_x, wide_y = widened(x), widened(y)
    zero = number(0, wide_x)
    outward = predicate("equal", predicate("less", wide_x, wide_y), predicate("less", zero, wide_x))
    step = select(outward, const(1, ints), const(-1, ints))
    moved = scalar("add", scalar("bitcast", x, dtype=ints), step)
    sign_bit = const(-(2 ** (x.dtype.bits - 1)), ints)
    sign = scalar("bitwise_and", scalar("bitcast", y, dtype=ints), sign_bit)
    tiny = scalar("bitwise_or", sign, const(1, ints))
    at_zero = predicate("equal", wide_x, zero)
    found = scalar("bitcast", select(at_zero, tiny, moved), dtype=x.dtype)
    found = select(predicate("equal", wide_x, wide_y), y, found)
    nan = predicate("logical_or", predicate("isnan", wide_x), predicate("isnan", wide_y))
    return select(nan, const(math.nan, x.dtype), found)


nextafter: Op = replace(
    binary(
        "nextafter",
        _nextafter,
        "The neighbour of x in its dtype in the direction of y; NaN if one is. Derivative 1 by x.",
        derivatives=(lambda x, y, z, dx: dx, lambda x, y, z, dy: None),
        eager=by_function(_nextafter),
        body=_nextafter_bits,
    ),
    ref=lambda attrs, operands: (_nextafter(*operands),),
)

RECORDS = (
    power, sqrt, rsqrt, hypot, exp, exp2, expm1, log, log1p, log2, log10, logaddexp,
    sin, cos, tan, asin, acos, atan, atan2, sinh, cosh, tanh, asinh, acosh, atanh, erf, normal_cdf,
    nextafter,
)  # fmt: skip
