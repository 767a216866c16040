"""Roots, rounding, division with remainder, signs and classes of floating-point numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rung.codegen.llvm.reals import Reals
from rung.codegen.llvm.types import Val, like


def sqrt(r: Reals, x: Val) -> Val:
    """The square root, correctly rounded."""
    return r.sqrt(x)


def rsqrt(r: Reals, x: Val) -> Val:
    """`1 / sqrt(x)`; on AVX-512 in f32 an estimate and one Newton step."""
    if r.dtype == "f64" or not r.has_avx512:
        return r.div(r.c(1.0), r.sqrt(x))
    estimate = r.by_registers(r.rsqrt14, x)
    error = r.fma(r.neg(r.mul(x, estimate)), estimate, r.c(1.0))
    refined = r.fma(r.mul(estimate, r.c(0.5)), error, estimate)
    return r.select(r.is_nan(error), estimate, refined)


def reciprocal(r: Reals, x: Val) -> Val:
    """`1 / x`, correctly rounded."""
    return r.div(r.c(1.0), x)


def hypot(r: Reals, x: Val, y: Val) -> Val:
    """`sqrt(x*x + y*y)` without overflow; f32 in double precision."""
    if r.dtype == "f32":
        wide = r.wider("f64")
        a, b = r.b.cast(x, "f32", "f64"), r.b.cast(y, "f32", "f64")
        root = wide.sqrt(wide.fma(a, a, wide.mul(b, b)))
        length = r.b.cast(root, "f64", "f32")
    else:
        length = _scaled_hypot(r, r.abs(x), r.abs(y))
    infinite = r.b.or_(_is_infinite(r, x), _is_infinite(r, y))
    return r.select(infinite, math.inf, length)


def _scaled_hypot(r: Reals, a: Val, b: Val) -> Val:
    """Scales by a power of two, and corrects the root by the rounding errors of the squares."""
    larger, smaller = r.b.maximum(a, b), r.b.minimum(a, b)
    huge = r.compare("ogt", larger, 2.0**500)
    tiny = r.compare("olt", larger, 2.0**-500)
    scale = r.select(huge, 2.0**-600, r.select(tiny, 2.0**600, 1.0))
    back = r.select(huge, 2.0**600, r.select(tiny, 2.0**-600, 1.0))
    larger, smaller = r.mul(larger, scale), r.mul(smaller, scale)
    square = r.fma(larger, larger, r.mul(smaller, smaller))
    return r.mul(r.sqrt(square), back)


def floor(r: Reals, x: Val) -> Val:
    """The integer not above `x`."""
    return r.b.intrinsic("floor", x)


def ceil(r: Reals, x: Val) -> Val:
    """The integer not below `x`."""
    return r.b.intrinsic("ceil", x)


def round_even(r: Reals, x: Val) -> Val:
    """The nearest integer, ties to even."""
    return r.round(x)


def trunc(r: Reals, x: Val) -> Val:
    """The integer toward zero."""
    return r.trunc(x)


def fmod(r: Reals, x: Val, y: Val) -> Val:
    """The rest of the division that truncates, exact, with the sign of `x`."""
    b = r.b
    quotient = r.trunc(r.div(x, y))
    limit = 2.0 ** (r.format.mantissa_bits - 1)
    small = r.compare("olt", r.abs(quotient), limit)
    easy = b.all(b.and_(small, r.compare("olt", r.abs(y), math.inf)))

    def fast() -> Sequence[Val]:
        rest = r.fma(r.neg(quotient), y, x)
        wrong = b.icmp("slt", b.xor(r.bits(rest), r.bits(x)), r.ci(0))
        wrong = b.and_(wrong, r.compare("une", rest, 0.0))
        repaired = r.add(rest, r.copysign(y, x))
        return [r.copysign(r.select(wrong, repaired, rest), x)]

    def slow() -> Sequence[Val]:
        return [r.outlined("fmod_any", _fmod_any, x, y)]

    return b.if_else(easy, fast, slow, likely=True)[0]


def _fmod_any(r: Reals, args: Sequence[Val]) -> Val:
    return r.libm("fmodf" if r.dtype == "f32" else "fmod", *args)


def remainder(r: Reals, x: Val, y: Val) -> Val:
    """The rest of the division that rounds down, with the sign of `y` (Python's `%`)."""
    rest = fmod(r, x, y)
    return r.select(r.compare("oeq", rest, 0.0), r.copysign(rest, y), _shift_rest(r, rest, y))


def _shift_rest(r: Reals, rest: Val, y: Val) -> Val:
    return r.select(_signs_differ(r, rest, y), r.add(rest, y), rest)


def _signs_differ(r: Reals, rest: Val, y: Val) -> Val:
    """Where a rest that is not zero has the other sign than `y`."""
    other = r.b.icmp("slt", r.b.xor(r.bits(rest), r.bits(y)), r.ci(0))
    return r.b.and_(other, r.compare("one", rest, 0.0))


def floor_divide(r: Reals, x: Val, y: Val) -> Val:
    """The quotient of the division that rounds down (Python's `//`)."""
    rest = fmod(r, x, y)
    exact = r.div(r.sub(x, rest), y)
    down = r.select(_signs_differ(r, rest, y), r.sub(exact, r.c(1.0)), exact)
    whole = r.b.intrinsic("floor", down)
    low = r.compare("ogt", r.sub(down, whole), 0.5)
    whole = r.select(low, r.add(whole, r.c(1.0)), whole)
    plain = r.div(x, y)
    whole = r.select(r.compare("oeq", down, 0.0), r.copysign(r.c(0.0), plain), whole)
    return r.select(r.compare("oeq", y, 0.0), plain, whole)


def sign(r: Reals, x: Val) -> Val:
    """-1, +0 or 1; NaN stays."""
    one = r.copysign(r.c(1.0), x)
    return r.select(r.compare("one", x, 0.0), one, r.add(x, r.c(0.0)))


def copysign(r: Reals, x: Val, y: Val) -> Val:
    """`|x|` with the sign of `y`."""
    return r.copysign(x, y)


def nextafter(r: Reals, x: Val, y: Val) -> Val:
    """The next number after `x` toward `y`."""
    b = r.b
    bits = r.bits(x)
    rising = r.compare("ogt", y, x)
    positive = b.icmp("sge", bits, r.ci(0))
    outward = b.icmp("eq", rising, positive)
    step = b.select(outward, r.ci(1), r.ci(-1))
    moved = r.real(b.add(bits, step))
    moved = r.select(r.compare("oeq", x, 0.0), r.copysign(r.real(r.ci(1)), y), moved)
    moved = r.select(r.compare("oeq", x, y), y, moved)
    return r.select(r.compare("uno", x, y), math.nan, moved)


def isnan(r: Reals, x: Val) -> Val:
    """`i1`: where `x` is NaN."""
    return r.is_nan(x)


def isinf(r: Reals, x: Val) -> Val:
    """`i1`: where `x` is an infinity."""
    return _is_infinite(r, x)


def isfinite(r: Reals, x: Val) -> Val:
    """`i1`: where `x` is neither NaN nor an infinity."""
    return r.compare("olt", r.abs(x), math.inf)


def signbit(r: Reals, x: Val) -> Val:
    """`i1`: where the sign bit is set, zeros and NaN included."""
    return r.b.emit(like(x.type, "i1"), f"icmp slt {r.ints} {r.bits(x).name}, zeroinitializer")


def _is_infinite(r: Reals, x: Val) -> Val:
    return r.compare("oeq", r.abs(x), math.inf)
