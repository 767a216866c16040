"""Exponentials and what is made of them: hyperbolic functions, the error function."""

from __future__ import annotations

import math

from rung.codegen.llvm.coefficients import (
    ERF,
    ERF_POWER,
    ERF_REST,
    ERF_TABLE,
    ERF_TABLE_LIMIT,
    ERF_TABLE_SCALE,
    ERF_TABLE_SHIFT,
    ERFC,
    EXP,
    EXP2,
    NORMAL,
    NORMAL_STEP,
    NORMAL_TABLE,
)
from rung.codegen.llvm.reals import Reals
from rung.codegen.llvm.types import Val

_EXP_LIMITS = {"f32": (-104.0, 100.0), "f64": (-746.0, 720.0)}
_EXP2_LIMITS = {"f32": (-151.0, 140.0), "f64": (-1076.0, 1040.0)}
_EXPM1_LIMITS = {"f32": (-20.0, 89.5), "f64": (-40.0, 710.5)}

_TANH_LIMIT = {"f32": 10.0, "f64": 20.0}
_ERF_LIMIT = 3.95
_ERF_MIDDLE = 0.875
_ERFC_LIMIT = 10.5
_NORMAL_LIMIT = 5.6


def _reduce(r: Reals, x: Val) -> tuple[Val, Val]:
    """`n` and `rest` with `x = n ln2 + rest`, `n` integral, `|rest| <= ln2 / 2`; `x` is so small
    that `n` has no more than half of the digits."""
    scale, magic = r.c(1.0 / math.log(2.0)), r.c(r.format.magic)
    if r.has_avx512:
        n = r.sub(r.fma(x, scale, magic), magic)
    else:  # a constant less, of 16 registers
        n = r.round(r.mul(x, scale))
    rest = r.fma(n, r.c(-r.format.ln2_high), x)
    return n, r.fma(n, r.c(-r.format.ln2_low), rest)


def _expm1_rest(r: Reals, rest: Val) -> Val:
    """`exp(rest) - 1` for `|rest| <= ln2 / 2`."""
    p = r.poly(rest, EXP[r.dtype])
    return r.fma(r.mul(rest, rest), p, rest)


def _exp_rest(r: Reals, rest: Val) -> Val:
    """`exp(rest)` for `|rest| <= ln2 / 2`; the shorter form keeps more registers busy."""
    one = r.c(1.0)
    if r.has_avx512:
        return r.fma(rest, r.fma(rest, r.poly(rest, EXP[r.dtype]), one), one)
    return r.add(_expm1_rest(r, rest), one)


def exp(r: Reals, x: Val) -> Val:
    """`e**x`. What underflows to 0, as masked elements of a softmax do, is kept from the scaling:
    an underflow there costs the processor hundreds of cycles."""
    low, high = _EXP_LIMITS[r.dtype]
    kept = r.compare("uge", x, low)
    n, rest = _reduce(r, r.at_most(_harmless(r, kept, x), high))
    return r.scale_where(kept, _exp_rest(r, rest), n)


def _harmless(r: Reals, kept: Val, x: Val) -> Val:
    """`x`, and 0 where it is not kept unless the scaling itself can leave lanes out."""
    return x if r.has_avx512 else r.select(kept, x, 0.0)


def exp2(r: Reals, x: Val) -> Val:
    """`2**x`, with underflow as in `exp`."""
    low, high = _EXP2_LIMITS[r.dtype]
    kept = r.compare("uge", x, low)
    x = r.at_most(_harmless(r, kept, x), high)
    n = r.round(x)
    rest = r.sub(x, n)
    return r.scale_where(kept, r.fma(rest, r.poly(rest, EXP2[r.dtype]), r.c(1.0)), n)


def _quarter_expm1(r: Reals, x: Val) -> Val:
    """`(e**x - 1) / 4`, finite a little beyond where `e**x / 2` is."""
    low, high = _EXPM1_LIMITS[r.dtype]
    n, rest = _reduce(r, r.at_most(r.at_least(x, low), high))
    quarter = r.pow2(r.sub(n, r.c(2.0)))
    return r.fma(_expm1_rest(r, rest), quarter, r.sub(quarter, r.c(0.25)))


def expm1(r: Reals, x: Val) -> Val:
    """`e**x - 1`, exact near 0."""
    y = r.mul(_quarter_expm1(r, x), r.c(4.0))
    negligible = 2.0 ** -(r.format.mantissa_bits + 2)
    return r.select(r.compare("olt", r.abs(x), negligible), x, y)


def expm1_negative(r: Reals, x: Val) -> Val:
    """`e**x - 1` for `-60 < x <= 0`."""
    n, rest = _reduce(r, x)
    power = r.pow2(n)
    return r.fma(_expm1_rest(r, rest), power, r.sub(power, r.c(1.0)))


def tanh(r: Reals, x: Val) -> Val:
    """The hyperbolic tangent, `-t / (t + 2)` with `t = expm1(-2|x|)`; what `t`, the sum and the
    quotient lose by rounding is added at the end."""
    a = r.at_most(r.abs(x), _TANH_LIMIT[r.dtype])
    t, lost = _expm1_parts(r, r.mul(a, r.c(-2.0)))
    under = r.add(t, r.c(2.0))
    y = r.div(t, under)
    left = r.add(r.fma(r.neg(y), under, t), lost)
    left = r.fma(r.neg(y), r.sub(t, r.sub(under, r.c(2.0))), left)
    inverse = r.fma(y, r.c(-0.5), r.c(0.5))  # 1 / (t + 2) = (1 - t / (t + 2)) / 2
    return r.copysign(r.fma(left, inverse, y), x)


def _expm1_parts(r: Reals, x: Val) -> tuple[Val, Val]:
    """`expm1_negative`, and what its roundings take from it."""
    n, rest = _reduce(r, x)
    power = r.pow2(n)
    square, p = r.mul(rest, rest), r.poly(rest, EXP[r.dtype])
    part = r.fma(square, p, rest)
    part_lost = r.fma(square, p, r.sub(rest, part))
    whole = r.sub(power, r.c(1.0))
    y = r.fma(part, power, whole)
    y_lost = r.fma(part, power, r.sub(whole, y))
    whole_lost = r.sub(power, r.add(whole, r.c(1.0)))
    return y, r.fma(part_lost, power, r.add(y_lost, whole_lost))


def sinh(r: Reals, x: Val) -> Val:
    """The hyperbolic sine, `h + h / (2h + 1)` with `h = expm1(|x|) / 2`; x where it is small."""
    a = r.abs(x)
    h = r.mul(_quarter_expm1(r, a), r.c(2.0))
    finite = r.at_most(h, r.format.largest)
    y = r.copysign(r.add(h, r.div(finite, r.add(r.add(h, h), r.c(1.0)))), x)
    negligible = 2.0 ** -(r.format.mantissa_bits // 2 + 1)
    return r.select(r.compare("olt", a, negligible), x, y)


def cosh(r: Reals, x: Val) -> Val:
    """The hyperbolic cosine, `h + 1 / (4h)` with `h = exp(|x|) / 2`."""
    low, high = _EXP_LIMITS[r.dtype]
    n, rest = _reduce(r, r.at_most(r.at_least(r.abs(x), low), high))
    h = r.scale(r.add(_expm1_rest(r, rest), r.c(1.0)), r.sub(n, r.c(1.0)))
    return r.add(h, r.div(r.c(0.25), h))


def erf(r: Reals, x: Val) -> Val:
    """The error function: the C library's in f64.

    f32, with `a = |x|`: `a + a p(a*a)` up to 0.875, `1 - 2**(a q(a))` from there on; on AVX-512 a
    polynomial around one of 32 points, whose coefficients are looked up in registers.
    """
    if r.dtype == "f64":
        return r.libm("erf", x)
    if r.has_avx512:
        return _erf_by_table(r, x)
    a = r.at_most(r.abs(x), _ERF_LIMIT)
    near = r.fma(a, r.poly(r.mul(a, a), ERF_REST[r.dtype]), a)
    return r.copysign(r.select(r.compare("olt", a, _ERF_MIDDLE), near, _erf_far(r, a)), x)


def _erf_far(r: Reals, a: Val) -> Val:
    """`1 - 2**(a q(a))`: the power is at most 1 / 4, and so are its errors in the result."""
    magic = r.c(r.format.magic)
    q = r.poly(a, ERF[r.dtype])
    shifted = r.fma(a, q, magic)  # the low bits are the exponent, rounded
    rest = r.fma(a, q, r.sub(magic, shifted))
    exponent = r.b.shl(r.bits(shifted), r.format.mantissa_bits)
    power = r.real(r.b.add(exponent, r.bits(r.c(-1.0))))  # -2**n
    return r.fma(r.poly(rest, ERF_POWER[r.dtype]), power, r.c(1.0))


def _erf_by_table(r: Reals, x: Val) -> Val:
    """Points and constant terms are such that both are very nearly numbers of the format ("accurate
    tables", Gal). The first point is 0, where the result is `d + d (...)`: the others' constant
    terms are greater than any `d`."""
    a = r.at_most(r.abs(x), ERF_TABLE_LIMIT)
    shifted = r.fma(a, r.c(ERF_TABLE_SCALE), r.c(ERF_TABLE_SHIFT))
    place = r.b.lshr(r.bits(shifted), r.format.mantissa_bits - 4)
    points, constants, *rows, last = ERF_TABLE
    d = r.sub(a, r.lookup(points, place))
    result = r.lookup(last, place)
    for row in reversed(rows):
        result = r.fma(result, d, r.lookup(row, place))
    return r.copysign(r.fma(result, d, r.at_least(d, r.lookup(constants, place))), x)


def normal_cdf(r: Reals, x: Val) -> Val:
    """The normal distribution function, `1/2 + sign(x) h(|x|)` with `h(a) = erf(a / sqrt(2)) / 2`;
    by the C library in f64.

    f32: `1/2 - exp(-a q(a)) / 2`; on AVX-512 a polynomial around the nearest `NORMAL_STEP`.
    """
    half = r.c(0.5)
    if r.dtype == "f64":
        return r.fma(r.libm("erf", r.mul(x, r.c(math.sqrt(0.5)))), half, half)
    if r.has_avx512:
        a = r.at_most(r.abs(x), NORMAL_STEP * 31.4)
        shifted = r.fma(a, r.c(1 / NORMAL_STEP), r.c(r.format.magic))
        place = r.bits(shifted)  # the low bits are the number of the entry
        d = r.fma(r.sub(shifted, r.c(r.format.magic)), r.c(-NORMAL_STEP), a)
        *rows, last = NORMAL_TABLE
        h = r.lookup(last, place)
        for row in reversed(rows):
            h = r.fma(h, d, r.lookup(row, place))
        return r.add(half, r.copysign(h, x))
    a = r.at_most(r.abs(x), _NORMAL_LIMIT)
    t = expm1_negative(r, r.neg(r.mul(a, r.poly(a, NORMAL[r.dtype]))))
    return r.fma(r.copysign(t, x), half, half)


def erfc(r: Reals, x: Val) -> Val:
    """The complementary error function; the C library's in f64.

    f32: `exp(-a*a) t q(t)` with `a = |x|`, `t = 2 / (2 + a)`; the rounding errors of `a*a` and
    of `t`, to which the factor is nearly proportional, go into the exponent. Negative numbers by
    `erfc(x) = 2 - erfc(-x)`, small ones by `1 - erf(x)`.
    """
    if r.dtype == "f64":
        return r.libm("erfc", x)
    a = r.at_most(r.abs(x), _ERFC_LIMIT)
    sum = r.add(a, r.c(2.0))
    t = r.div(r.c(2.0), sum)
    lost = r.sub(a, r.sub(sum, r.c(2.0)))
    too_small = r.mul(r.fma(t, r.neg(lost), r.fma(t, r.neg(sum), r.c(2.0))), r.c(0.5))
    square = r.mul(a, a)
    error = r.sub(r.fma(a, a, r.neg(square)), too_small)
    factor = r.mul(t, r.poly(t, ERFC[r.dtype]))
    n, rest = _reduce(r, r.neg(square))
    rest = r.sub(rest, error)
    y = r.scale(r.fma(factor, _expm1_rest(r, rest), factor), n)
    y = r.select(r.compare("olt", x, 0.0), r.sub(r.c(2.0), y), y)
    return r.select(r.compare("olt", a, 0.5), r.sub(r.c(1.0), erf(r, x)), y)
