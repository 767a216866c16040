"""Trigonometric functions and their inverses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rung.codegen.llvm.coefficients import ASIN, ATAN, COS, SIN
from rung.codegen.llvm.reals import Reals
from rung.codegen.llvm.types import Val, float_literal

_HALF_PI = {
    "f32": (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    "f64": (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
}
"""pi/2 as a sum of three numbers of the dtype."""

_SMALL = {"f32": 65536.0, "f64": 1048576.0}
"""Below this, three-part subtraction of multiples of pi/2 is exact enough."""

_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561
_TWO_OVER_PI_BITS = 256
_FIRST_EXPONENT = 15
_HIGH_BITS = 27


class Angle:
    """`high + low`, an angle in [-pi/4, pi/4], and the `quadrant` it was moved from (low bits)."""

    def __init__(self, high: Val, low: Val, quadrant: Val):
        self.high = high
        self.low = low
        self.quadrant = quadrant


Reduction = Callable[[Reals, Val], Angle]


def _reduce_small(r: Reals, x: Val) -> Angle:
    first, second, third = _HALF_PI[r.dtype]
    n = r.round(r.mul(x, r.c(2.0 / math.pi)))
    rough = r.fma(n, r.c(-first), x)
    part = r.mul(n, r.c(-second))
    high = r.add(rough, part)
    moved = r.sub(high, rough)  # the error of a sum (Knuth): either term may be the larger one
    low = r.add(r.sub(rough, r.sub(high, moved)), r.sub(part, moved))
    low = r.add(low, r.fma(n, r.c(-second), r.neg(part)))
    return Angle(high, r.fma(n, r.c(-third), low), r.small_int(n))


def _reduce_any(r: Reals, x: Val) -> Angle:
    """Payne and Hanek's way, for f32 in double precision.

    `x = m 2**k` with a 24-bit `m`, so `x 2/pi mod 4 = m (2**k 2/pi mod 4) mod 4`; the factor comes
    from a table by exponent, as a 29-bit part, for which the product is exact, and a rest.
    """
    b, wide = r.b, r.wider("f64")
    exponent = b.and_(b.lshr(r.bits(x), 23), r.ci(0xFF))
    index = b.maximum(b.sub(exponent, r.ci(127 + _FIRST_EXPONENT)), r.ci(0))
    index = b.minimum(index, r.ci(127 - _FIRST_EXPONENT))
    table = Val("ptr", b.module.add_global("rung.two_over_pi", _table_text()))
    double = b.mul(index, r.ci(2))
    high_factor = b.gather(wide.type, b.gep(table, double, "double"))
    low_factor = b.gather(wide.type, b.gep(table, b.add(double, r.ci(1)), "double"))
    power = b.resize(index, "i64", signed=False)
    power = b.shl(b.sub(wide.ci(1023 + 23 - _FIRST_EXPONENT), power), 52)
    m = wide.mul(b.cast(x, "f32", "f64"), wide.real(power))
    product = wide.mul(m, high_factor)
    n = wide.round(product)
    turns = wide.fma(m, low_factor, wide.sub(product, n))
    angle = wide.mul(turns, wide.c(math.pi / 2))
    high = b.cast(angle, "f64", "f32")
    low = b.cast(wide.sub(angle, b.cast(high, "f32", "f64")), "f64", "f32")
    quadrant = b.resize(wide.small_int(n), "i32")
    infinite = r.sub(x, x)
    return Angle(r.add(high, infinite), low, quadrant)


def _table_text() -> str:
    items = []
    for exponent in range(_FIRST_EXPONENT, 128):
        high, low = _two_over_pi_scaled(exponent - 23)
        items += [float_literal("double", high), float_literal("double", low)]
    values = ", ".join(f"double {item}" for item in items)
    return f"private unnamed_addr constant [{len(items)} x double] [{values}], align 16"


def _two_over_pi_scaled(power: int) -> tuple[float, float]:
    """`2**power * 2/pi mod 4` as a multiple of `2**-27` and the rest."""
    fraction_bits = _TWO_OVER_PI_BITS - power
    value = _TWO_OVER_PI % (1 << (fraction_bits + 2))
    keep = fraction_bits - _HIGH_BITS
    high = value >> keep << keep
    scale = 1 << fraction_bits
    return high / scale, (value - high) / scale


def _sine_parts(r: Reals, angle: Angle) -> tuple[Val, Val]:
    """The sine as a sum of a large and a small part."""
    x = angle.high
    square = r.mul(x, x)
    cubic = r.mul(square, x)
    return x, r.fma(cubic, r.poly(square, SIN[r.dtype]), angle.low)


def _sine(r: Reals, angle: Angle) -> Val:
    return r.add(*_sine_parts(r, angle))


def _cosine(r: Reals, angle: Angle) -> Val:
    return r.add(*_cosine_parts(r, angle))


def _cosine_parts(r: Reals, angle: Angle) -> tuple[Val, Val]:
    """The cosine as a sum of a large and a small part."""
    x = angle.high
    square = r.mul(x, x)
    half = r.mul(square, r.c(0.5))
    rough = r.sub(r.c(1.0), half)
    lost = r.sub(r.sub(r.c(1.0), rough), half)
    lost = r.fma(x, r.neg(angle.low), lost)
    return rough, r.fma(r.mul(square, square), r.poly(square, COS[r.dtype]), lost)


def _quarter_turns(r: Reals, x: Val, angle: Angle, offset: int) -> Val:
    """The sine of the angle and `quadrant + offset` quarter turns."""
    b = r.b
    quadrant = b.add(angle.quadrant, r.ci(offset)) if offset else angle.quadrant
    odd = b.icmp("ne", b.and_(quadrant, r.ci(1)), r.ci(0))
    value = r.select(odd, _cosine(r, angle), _sine(r, angle))
    sign = b.shl(b.and_(quadrant, r.ci(2)), r.format.mantissa_bits + _exponent_bits(r) - 1)
    return r.real(b.xor(r.bits(value), sign))


def _exponent_bits(r: Reals) -> int:
    return (r.format.max_exponent + 1).bit_length()


def _sin(r: Reals, x: Val, reduce: Reduction) -> Val:
    return _quarter_turns(r, x, reduce(r, x), 0)


def _cos(r: Reals, x: Val, reduce: Reduction) -> Val:
    return _quarter_turns(r, x, reduce(r, x), 1)


def _tan(r: Reals, x: Val, reduce: Reduction) -> Val:
    """The quotient of sine and cosine, both with what rounding takes from them, and a step of
    division more for that and for what the quotient leaves."""
    b = r.b
    angle = reduce(r, x)
    odd = b.icmp("ne", b.and_(angle.quadrant, r.ci(1)), r.ci(0))
    sine, sine_lost = _rounded(r, *_sine_parts(r, angle))
    cosine, cosine_lost = _rounded(r, *_cosine_parts(r, angle))
    over, over_lost = r.select(odd, cosine, sine), r.select(odd, cosine_lost, sine_lost)
    under, under_lost = r.select(odd, sine, cosine), r.select(odd, sine_lost, cosine_lost)
    y = r.div(over, under)
    left = r.fma(r.neg(y), under, over)
    left = r.add(left, r.fma(r.neg(y), under_lost, over_lost))
    y = r.add(y, r.div(left, under))
    return r.select(odd, r.neg(y), y)


def _rounded(r: Reals, large: Val, small: Val) -> tuple[Val, Val]:
    """The sum, and what rounding takes from it."""
    total = r.add(large, small)
    return total, r.sub(small, r.sub(total, large))


def _circular(r: Reals, name: str, formula: Callable[[Reals, Val, Reduction], Val], x: Val) -> Val:
    """The formula on small angles; a call of the slow way if a lane is large or not finite."""

    def fast() -> Sequence[Val]:
        return [formula(r, x, _reduce_small)]

    def slow() -> Sequence[Val]:
        return [r.outlined(f"{name}_any", _slow_way(name, formula), x)]

    small = r.b.all(r.compare("olt", r.abs(x), _SMALL[r.dtype]))
    y = r.b.if_else(small, fast, slow, likely=True)[0]
    return y if name == "cos" else r.select(r.compare("oeq", x, 0.0), x, y)


def _slow_way(
    name: str, formula: Callable[[Reals, Val, Reduction], Val]
) -> Callable[[Reals, Sequence[Val]], Val]:
    def body(r: Reals, args: Sequence[Val]) -> Val:
        if r.dtype == "f64":
            return r.libm(name, args[0])
        return formula(r, args[0], _reduce_any)

    return body


def sin(r: Reals, x: Val) -> Val:
    """The sine of an angle in radians, of any size."""
    return _circular(r, "sin", _sin, x)


def cos(r: Reals, x: Val) -> Val:
    """The cosine of an angle in radians, of any size."""
    return _circular(r, "cos", _cos, x)


def tan(r: Reals, x: Val) -> Val:
    """The tangent of an angle in radians, of any size."""
    return _circular(r, "tan", _tan, x)


# -- inverses

_ATAN_FOLD = math.sqrt(2.0) - 1.0


def _atan_ratio(r: Reals, num: Val, den: Val) -> Val:
    """`atan(num / den)` for `0 <= num <= den`, by `(num - den) / (num + den)` in the upper half."""
    upper = r.compare("ogt", num, r.mul(den, r.c(_ATAN_FOLD)))
    x = r.div(r.select(upper, r.sub(num, den), num), r.select(upper, r.add(num, den), den))
    z = r.mul(x, x)
    rest = r.mul(r.mul(z, x), r.poly(z, ATAN[r.dtype]))
    high, low, _ = _HALF_PI[r.dtype]
    rest = r.add(rest, r.select(upper, low / 2, 0.0))
    return r.add(r.select(upper, high / 2, 0.0), r.add(x, rest))


def atan(r: Reals, x: Val) -> Val:
    """The arc tangent."""
    a = r.abs(x)
    steep = r.compare("ogt", a, 1.0)
    num = r.select(steep, 1.0, a)
    y = _atan_ratio(r, num, r.select(steep, a, 1.0))
    return r.copysign(r.select(steep, _from_half_pi(r, y), y), x)


def _from_half_pi(r: Reals, y: Val) -> Val:
    high, low, _ = _HALF_PI[r.dtype]
    return r.add(r.c(high), r.sub(r.c(low), y))


def atan2(r: Reals, y: Val, x: Val) -> Val:
    """The angle of the point `(x, y)`, in [-pi, pi]."""
    b = r.b
    up, right = r.abs(y), r.abs(x)
    steep = r.compare("ogt", up, right)
    num, den = r.select(steep, right, up), r.select(steep, up, right)
    shrink = r.select(r.compare("ogt", den, 2.0 ** (r.format.max_exponent - 1)), 0.25, 1.0)
    both_infinite = r.compare("oeq", num, math.inf)
    zero = r.compare("oeq", den, 0.0)
    num = r.select(both_infinite, 1.0, r.mul(num, shrink))
    den = r.select(b.or_(both_infinite, zero), 1.0, r.mul(den, shrink))
    angle = _atan_ratio(r, num, den)
    angle = r.select(r.compare("oeq", den, math.inf), 0.0, angle)
    angle = r.select(steep, _from_half_pi(r, angle), angle)
    high, low, _ = _HALF_PI[r.dtype]
    left = b.icmp("slt", r.bits(x), r.ci(0))
    other = r.add(r.c(2 * high), r.sub(r.c(2 * low), angle))
    angle = r.select(left, other, angle)
    angle = r.copysign(angle, y)
    return r.select(r.compare("uno", x, y), math.nan, angle)


def _asin_rest(r: Reals, x: Val, square: Val) -> Val:
    """`asin(x) - x` for `|x| <= 1/2`."""
    return r.mul(r.mul(x, square), r.poly(square, ASIN[r.dtype]))


def _half_angle(r: Reals, x: Val) -> tuple[Val, Val, Val]:
    """For `a = |x|`: where `a > 1/2`; there `sqrt((1-a)/2)`, else `a`; and its square."""
    a = r.abs(x)
    large = r.compare("ogt", a, 0.5)
    square = r.select(large, r.fma(a, r.c(-0.5), r.c(0.5)), r.mul(a, a))
    return large, r.select(large, r.sqrt(square), a), square


def asin(r: Reals, x: Val) -> Val:
    """The arc sine: `pi/2 - 2 asin(sqrt((1-a)/2))` for `a = |x| > 1/2`."""
    large, s, square = _half_angle(r, x)
    rest = _asin_rest(r, s, square)
    high, low, _ = _HALF_PI[r.dtype]
    twice = r.sub(r.c(low), r.mul(rest, r.c(2.0)))
    folded = r.add(r.fma(s, r.c(-2.0), r.c(high)), twice)
    return r.copysign(r.select(large, folded, r.add(s, rest)), x)


def acos(r: Reals, x: Val) -> Val:
    """The arc cosine, by the same polynomial as `asin`."""
    large, s, square = _half_angle(r, x)
    rest = _asin_rest(r, s, square)
    high, low, _ = _HALF_PI[r.dtype]
    near = r.mul(r.add(s, rest), r.c(2.0))
    far = r.add(r.fma(s, r.c(-2.0), r.c(2 * high)), r.fma(rest, r.c(-2.0), r.c(2 * low)))
    outer = r.select(r.compare("olt", x, 0.0), far, near)
    signed = r.copysign(s, x)
    signed_rest = r.copysign(rest, x)
    inner = r.sub(r.c(high), r.add(signed, r.sub(signed_rest, r.c(low))))
    return r.select(large, outer, inner)
