"""Logarithms and what is made of them: inverse hyperbolic functions, powers."""

from __future__ import annotations

import math

from rung.codegen.llvm.coefficients import LOG, LOG_ODD, POW_EXP2, POW_LOG2
from rung.codegen.llvm.reals import Reals
from rung.codegen.llvm.types import Val
from rung.codegen.llvm.vmath_exp import exp

_LN2 = math.log(2.0)
_BIG = {"f32": 2.0**60, "f64": 2.0**500}
_POW_LIMITS = (-300.0, 300.0)


def _log_rest(r: Reals, f: Val) -> Val:
    """`log(1 + f) - f` for `-0.25 <= f < 0.5`."""
    square = r.mul(f, f)
    if r.dtype == "f32":
        cubic = r.mul(r.mul(square, f), r.poly(f, LOG["f32"]))
        return r.fma(square, r.c(-0.5), cubic)
    half = r.mul(square, r.c(0.5))
    s = r.div(f, r.add(f, r.c(2.0)))
    z = r.mul(s, s)
    odd = r.mul(z, r.poly(z, LOG_ODD[r.dtype]))
    return r.fma(s, r.add(half, odd), r.neg(half))


def _log_of_parts(r: Reals, e: Val, f: Val) -> Val:
    """`e ln2 + log(1 + f)`."""
    low = r.fma(e, r.c(r.format.ln2_low), _log_rest(r, f))
    return r.fma(e, r.c(r.format.ln2_high), r.add(f, low))


def log(r: Reals, x: Val) -> Val:
    """The natural logarithm."""
    e, m = r.split(x)
    return r.fix_log(x, _log_of_parts(r, e, r.sub(m, r.c(1.0))))


def log2(r: Reals, x: Val) -> Val:
    """The logarithm to base 2, exact for powers of 2; the error of the main sum is kept."""
    e, m = r.split(x)
    f = r.sub(m, r.c(1.0))
    high, low = _LOG2_E[r.dtype]
    rest = r.fma(f, r.c(low), r.mul(_log_rest(r, f), r.c(high)))
    product = r.mul(f, r.c(high))
    rest = r.add(rest, r.fma(f, r.c(high), r.neg(product)))
    main = r.add(e, product)
    lost = r.sub(product, r.sub(main, e))
    y = r.add(main, r.add(lost, rest))
    y = r.select(r.compare("oeq", x, math.inf), x, y)
    return r.fix_log(x, y)


def log10(r: Reals, x: Val) -> Val:
    """The logarithm to base 10."""
    e, m = r.split(x)
    f = r.sub(m, r.c(1.0))
    high, low = _LOG10_E[r.dtype]
    rest = r.fma(f, r.c(low), r.mul(_log_rest(r, f), r.c(high)))
    two_high, two_low = _LOG10_2[r.dtype]
    rest = r.fma(e, r.c(two_low), rest)
    return r.fix_log(x, r.fma(e, r.c(two_high), r.fma(f, r.c(high), rest)))


_LOG10_2 = {
    "f32": (0.301025390625, 4.605039066518657e-06),
    "f64": (0.30102999566361177, 3.694239077158931e-13),
}
# 1/ln(2) and 1/ln(10) as the nearest number of the dtype and what that leaves out.
_LOG2_E = {
    "f32": (1.4426950216293335, 1.92596298909109e-08),
    "f64": (1.4426950408889634, 2.0355273740931033e-17),
}
_LOG10_E = {
    "f32": (0.4342944920063019, -1.010305006321488e-08),
    "f64": (0.4342944819032518, 1.098319650216765e-17),
}


def log1p(r: Reals, x: Val) -> Val:
    """`log(1 + x)`: what the rounding of `1 + x` loses is added back to its mantissa."""
    u = r.add(x, r.c(1.0))
    lost = _lost_by_add_one(r, x, u)
    e, m = r.split(u)
    shrink = r.pow2(r.neg(r.at_most(r.at_least(e, -1.0), float(r.format.max_exponent - 1))))
    f = r.fma(lost, shrink, r.sub(m, r.c(1.0)))
    y = r.fix_log(u, _log_of_parts(r, e, f))
    y = r.select(r.compare("oeq", x, math.inf), x, y)
    return r.select(r.compare("oeq", x, 0.0), x, y)


def _lost_by_add_one(r: Reals, x: Val, u: Val) -> Val:
    """`(1 + x) - u` where `u` is `1 + x` rounded."""
    big = r.compare("ogt", x, 1.0)
    larger = r.select(big, x, 1.0)
    smaller = r.select(big, 1.0, x)
    return r.sub(smaller, r.sub(u, larger))


def asinh(r: Reals, x: Val) -> Val:
    """The inverse hyperbolic sine, `log1p(a + a*a / (1 + sqrt(1 + a*a)))`."""
    a = r.abs(x)
    big = r.compare("ogt", a, _BIG[r.dtype])
    square = r.mul(a, a)
    root = r.sqrt(r.add(square, r.c(1.0)))
    sum = r.add(a, r.div(square, r.add(root, r.c(1.0))))
    y = log1p(r, r.select(big, a, sum))
    return r.copysign(r.add(y, r.select(big, _LN2, 0.0)), x)


def acosh(r: Reals, x: Val) -> Val:
    """The inverse hyperbolic cosine, `log1p(t + sqrt(2t + t*t))` with `t = x - 1`."""
    big = r.compare("ogt", x, _BIG[r.dtype])
    t = r.sub(x, r.c(1.0))
    root = r.sqrt(r.fma(t, t, r.add(t, t)))
    y = log1p(r, r.select(big, x, r.add(t, root)))
    y = r.add(y, r.select(big, _LN2, 0.0))
    return r.select(r.compare("oge", x, 1.0), y, math.nan)


def atanh(r: Reals, x: Val) -> Val:
    """The inverse hyperbolic tangent, `log1p(2a / (1 - a)) / 2`."""
    a = r.abs(x)
    y = log1p(r, r.div(r.add(a, a), r.sub(r.c(1.0), a)))
    y = r.mul(y, r.c(0.5))
    y = r.select(r.compare("ogt", a, 1.0), math.nan, y)
    return r.copysign(y, x)


def logaddexp(r: Reals, x: Val, y: Val) -> Val:
    """`log(e**x + e**y)` without overflow."""
    larger = r.b.maximum(x, y)
    distance = r.neg(r.abs(r.sub(x, y)))
    same = r.compare("oeq", x, y)
    distance = r.select(same, 0.0, distance)
    return r.add(larger, log1p(r, exp(r, distance)))


def pow(r: Reals, x: Val, y: Val) -> Val:
    """`x**y`: f32 through `2**(y log2|x|)` in double precision, the C library's in f64."""
    if r.dtype == "f64":
        return r.libm("pow", x, y)
    a = r.abs(x)
    magnitude = _positive_power(r, a, y)
    is_int = r.compare("oeq", r.trunc(y), y)
    half = r.mul(y, r.c(0.5))
    odd = r.b.and_(is_int, r.compare("une", r.trunc(half), half))
    signed = r.select(odd, r.copysign(magnitude, x), magnitude)
    negative = r.b.and_(r.compare("olt", x, 0.0), r.compare("ogt", x, -math.inf))
    undefined = r.b.and_(negative, r.b.not_(is_int))
    undefined = r.b.or_(undefined, r.is_nan(y))
    result = r.select(undefined, math.nan, signed)
    one = r.b.or_(r.compare("oeq", y, 0.0), r.compare("oeq", x, 1.0))
    return r.select(one, 1.0, result)


def _positive_power(r: Reals, a: Val, y: Val) -> Val:
    wide = r.wider("f64")
    b = r.b
    base = b.cast(a, "f32", "f64")
    e, m = wide.split(base)
    f = wide.sub(m, wide.c(1.0))
    log = wide.fma(f, wide.poly(f, POW_LOG2["f64"]), e)
    log = wide.fix_log(base, log)
    product = wide.mul(b.cast(y, "f32", "f64"), log)
    product = wide.select(wide.compare("oeq", log, 0.0), 0.0, product)
    low, high = _POW_LIMITS
    product = wide.at_most(wide.at_least(product, low), high)
    n = wide.round(product)
    rest = wide.sub(product, n)
    mantissa = wide.fma(rest, wide.poly(rest, POW_EXP2["f64"]), wide.c(1.0))
    return b.cast(wide.mul(mantissa, wide.pow2(n)), "f64", "f32")
