"""Special functions: the error functions, the gamma function and its derivatives, Bessel's I, and
what statistics makes of them. Names are those of `torch.special` and `scipy.special`.

They are computed in f64 and rounded to the dtype of the argument (f32 for integers). Each says how
accurate it is: the largest relative error in f64 that the tests allow. Derivatives are exact
formulas, of any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from rung.core import dtype as dt
from rung.core.arguments import between
from rung.core.errors import DomainError
from rung.tensor import elementwise as e
from rung.tensor.arithmetic import logit, sinc, xlog1py, xlogy
from rung.tensor.creation import ones_like, zeros_like
from rung.tensor.custom import custom_jvp
from rung.tensor.functional import floats, log_softmax, sigmoid, softmax
from rung.tensor.operate import Operand, as_tensor, cast_to
from rung.tensor.precision import rounded_once
from rung.tensor.reductions import logsumexp
from rung.tensor.series import ERFCX, I0_LARGE, I0_SMALL, I1_LARGE, I1_SMALL, Series

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

erf, exp2, expm1, log1p, round = e.erf, e.exp2, e.expm1, e.log1p, e.round
expit = sigmoid
__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0",
    "i0e", "i1", "i1e", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln",
    "ndtr", "ndtri", "polygamma", "psi", "round", "sinc", "softmax", "xlog1py", "xlogy", "zeta",
]  # fmt: skip

Function = Callable[..., Any]
_ROOT_TWO: Final = math.sqrt(2.0)
_LOG_PI: Final = math.log(math.pi)
_STIRLING: Final = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""B₂ₖ / (2k (2k - 1)), k = 1 …, of Stirling's series."""
_BERNOULLI: Final = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""B₂ₖ, k = 1 …"""
_SHIFT: Final = 10
"""Asymptotic series are used from here on; smaller arguments are brought there by recurrence."""


def _in_f64(name: str, doc: str, compute: Function, slope: Function) -> Function:
    """A function of one tensor, computed in f64, with the derivative `slope(x)`."""

    def inner(x: Tensor) -> Tensor:
        return cast_to(compute(cast_to(x, dt.float64)), x.dtype)

    inner.__name__ = name
    ruled = custom_jvp(inner)

    @ruled.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (dx,) = primals, tangents
        moved = cast_to(dx, dt.float64) * slope(cast_to(x, dt.float64))
        return ruled(x), cast_to(moved, x.dtype)

    def function(x: Operand) -> Tensor:
        found: Tensor = ruled(floats(x))
        return found

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _clenshaw(series: Series, t: Tensor) -> Tensor:
    """Σ series[k] T_k(t)."""
    twice, later, latest = t * 2, t * 0.0, t * 0.0
    for c in series[:0:-1]:
        later, latest = twice * later - latest + c, later
    return t * later - latest + series[0]


def _horner(series: Series, x: Tensor) -> Tensor:
    """Σ series[k] x^k."""
    found = x * 0.0 + series[-1]
    for c in series[-2::-1]:
        found = found * x + c
    return found


# ---- the error functions


def _erfcx_positive(x: Tensor) -> Tensor:
    """exp(x²) erfc(x) for x >= 0."""
    t = e.where(x < 1e17, (x - 3.75) / (x + 3.75), 1.0)
    return _clenshaw(ERFCX, t) * 0.5 / (x + 0.5)


def _square_of_large(x: Tensor) -> tuple[Tensor, Tensor]:
    """x² as a sum of two numbers, the first exact in few bits, so that exp of it loses nothing."""
    head = e.trunc(x * 1048576.0) / 1048576.0
    return head * head, (x - head) * (x + head)


def _exp_minus_square(x: Tensor) -> Tensor:
    """exp(-x²) with the rounding of x² made good."""
    size = e.minimum(e.abs(x), 60.0)
    head, rest = _square_of_large(size)
    return e.exp(-head) * e.exp(-rest)


def _erfc64(x: Tensor) -> Tensor:
    size = e.abs(x)
    tail = _exp_minus_square(size) * _erfcx_positive(size)
    return e.where(e.isnan(x), x, e.where(size < 0.5, 1 - e.erf(x), e.where(x < 0, 2 - tail, tail)))


def _erfcx64(x: Tensor) -> Tensor:
    size = e.abs(x)
    positive = _erfcx_positive(size)
    head, rest = _square_of_large(e.minimum(size, 60.0))
    negative = 2 * e.exp(head) * e.exp(rest) - positive
    return e.where(e.isnan(x), x, e.where(x < 0, negative, positive))


_SLOPE: Final = 2 / math.sqrt(math.pi)
_ERFCX_SLOPE: Final = (1.0, -3 / 2, 15 / 4, -105 / 8, 945 / 16, -10395 / 32)
"""Of -x² sqrt(pi) times the slope of erfcx, in powers of 1 / x²."""


def _erfcx_slope(x: Tensor) -> Tensor:
    """2 x erfcx(x) - 2 / sqrt(pi), by its asymptotic series where that would cancel."""
    large = x > 40
    near, inverse = e.where(large, 0.0, x), 1 / e.where(large, x, 40.0)
    series = _horner(_ERFCX_SLOPE, e.square(inverse)) * e.square(inverse)
    return e.where(large, series * (-0.5 * _SLOPE), 2 * near * erfcx(near) - _SLOPE)


erfc = _in_f64(
    "erfc",
    "1 - erf(x), accurate where it is small (to 1e-13 where it is a normal number).",
    _erfc64,
    lambda x: _exp_minus_square(x) * -_SLOPE,
)
erfcx = _in_f64(
    "erfcx",
    "exp(x²) erfc(x), without overflow for positive x (to 1e-13).",
    _erfcx64,
    _erfcx_slope,
)


def _erfinv64(y: Tensor) -> Tensor:
    """Winitzki's approximation and three steps of Halley's method, which triple the digits."""
    inside = e.abs(y) < 1
    safe = e.where(inside, y, 0.0)
    log = e.log1p(-e.square(safe))
    middle = 2 / (math.pi * 0.147) + log * 0.5
    x = e.copysign(e.sqrt(e.sqrt(e.square(middle) - log / 0.147) - middle), safe)
    for _ in range(3):
        left = e.where(e.abs(x) < 1, e.erf(x) - safe, 0.0)
        tail = e.sign(x) * ((1 - e.abs(safe)) - _erfc64(e.abs(x)))
        step = e.where(e.abs(x) < 1, left, tail) / (_SLOPE * e.exp(-e.square(x)))
        x = x - step / (1 + x * step)
    edge = e.where(y == 1, math.inf, e.where(y == -1, -math.inf, math.nan))
    return e.where(inside, e.where(safe == 0, safe, x), edge)


erfinv = _in_f64(
    "erfinv",
    "The x with erf(x) = y; infinite at -1 and 1, NaN outside (to 1e-12).",
    _erfinv64,
    lambda y: e.exp(e.square(erfinv(y))) * (1 / _SLOPE),
)


# ---- the normal distribution


ndtr = _in_f64(
    "ndtr",
    "The normal distribution function: the probability of less than x (to 1e-12).",
    lambda x: _erfc64(x * (-1 / _ROOT_TWO)) * 0.5,
    lambda x: _exp_minus_square(x * (1 / _ROOT_TWO)) * (1 / math.sqrt(2 * math.pi)),
)


def _log_ndtr64(x: Tensor) -> Tensor:
    scaled = x * (-1 / _ROOT_TWO)
    below = e.log(_erfcx_positive(e.maximum(scaled, 0.0)) * 0.5) - e.square(scaled)
    above = e.log1p(-0.5 * _erfc64(-scaled))
    return e.where(e.isnan(x), x, e.where(x < -1, below, above))


log_ndtr = _in_f64(
    "log_ndtr",
    "log(ndtr(x)), accurate where ndtr(x) is small, or nearly 1 (to 1e-12).",
    _log_ndtr64,
    lambda x: (2 / (math.sqrt(2 * math.pi))) / erfcx(x * (-1 / _ROOT_TWO)),
)


def _ndtri64(p: Tensor) -> Tensor:
    """Newton's method for log(ndtr(x)) = log(p), of the smaller tail, from its asymptote."""
    inside = (p > 0) & (p < 1)
    small = e.where(inside, e.minimum(p, 1 - p), 0.25)
    wanted = e.log(small)
    root = e.sqrt(-2 * wanted)
    x = -(root - (2.30753 + 0.27061 * root) / (1 + root * (0.99229 + root * 0.04481)))
    for _ in range(4):
        slope = math.sqrt(2 / math.pi) / _erfcx64(x * (-1 / _ROOT_TWO))
        x = x - (_log_ndtr64(x) - wanted) / slope
    x = e.where(p < 0.5, x, e.where(p == 0.5, 0.0, -x))
    edge = e.where(p == 1, math.inf, e.where(p == 0, -math.inf, math.nan))
    return e.where(inside, x, edge)


ndtri = _in_f64(
    "ndtri",
    "The x with ndtr(x) = p, after Abramowitz and Stegun 26.2.22; infinite at 0 and 1, NaN "
    "outside.",
    _ndtri64,
    lambda p: math.sqrt(2 * math.pi) * e.exp(e.square(ndtri(p)) * 0.5),
)


def _entr64(x: Tensor) -> Tensor:
    positive = x > 0
    safe = e.where(positive, x, 1.0)
    other = e.where(e.isnan(x), x, e.where(x < 0, -math.inf, 0.0))
    return e.where(positive, -safe * e.log(safe), other)


entr = _in_f64("entr", "-x log(x), 0 at 0, -inf below.", _entr64, lambda x: -1 - e.log(x))


# ---- the gamma function


def _fraction(x: Tensor) -> Tensor:
    """x without the nearest whole number."""
    return x - e.round(x)


def _gammaln64(x: Tensor) -> Tensor:
    """Stirling's series from 10 on, recurrence below, reflection below 1/2."""
    reflect = x < 0.5
    y = e.where(reflect, 1 - x, x)
    product, z = ones_like(y), y
    for _ in range(_SHIFT):
        near = z < _SHIFT
        product = e.where(near, product * z, product)
        z = e.where(near, z + 1, z)
    series = _horner(_STIRLING, 1 / e.square(z)) / z
    found = (z - 0.5) * e.log(z) - z + 0.5 * math.log(2 * math.pi) + series
    found = found - e.log(product)
    found = e.where((y == 1) | (y == 2), 0.0, e.where(e.isinf(y), math.inf, found))
    part = e.abs(_fraction(x))
    sine = e.where(part < 1e-8, part, e.abs(e.sin(part * math.pi)) / math.pi)
    mirrored = -e.log(sine) - found
    whole = (x <= 0) & (e.floor(x) == x)
    found = e.where(reflect, e.where(whole, math.inf, mirrored), found)
    return e.where(e.isinf(x), math.inf, found)


def _digamma64(x: Tensor) -> Tensor:
    reflect = x < 0
    y = e.where(reflect, 1 - x, x)
    total, z = zeros_like(y), y
    for _ in range(_SHIFT):
        near = z < _SHIFT
        total = e.where(near, total - 1 / z, total)
        z = e.where(near, z + 1, z)
    square = 1 / e.square(z)
    terms = tuple(-b / (2 * k) for k, b in enumerate(_BERNOULLI, 1))
    found = total + e.log(z) - 0.5 / z + square * _horner(terms, square)
    angle = _fraction(x) * math.pi
    mirrored = found - math.pi * e.cos(angle) / e.sin(angle)
    whole = (x < 0) & (e.floor(x) == x)
    found = e.where(reflect, e.where(whole, math.nan, mirrored), found)
    return e.where(x == 0, e.where(e.signbit(x), math.inf, -math.inf), found)


gammaln = _in_f64(
    "gammaln",
    "The logarithm of |gamma(x)|; infinite at 0, -1, -2, … (to 1e-13, absolute near 1 and 2).",
    _gammaln64,
    lambda x: digamma(x),
)
digamma = _in_f64(
    "digamma",
    "The derivative of log gamma; NaN at -1, -2, …, infinite at 0 (to 1e-13, absolute near zeros).",
    _digamma64,
    lambda x: polygamma(1, x),
)
psi = digamma


@rounded_once
def zeta(x: Operand, q: Operand) -> Tensor:
    """Hurwitz' zeta function Σ (q + k)^-x, k = 0, 1, …, for x > 1 and q > -20 (NaN below; infinite
    at q = 0, -1, …); the sum of the first terms and Euler and Maclaurin's of the others."""
    a, b = floats(x), floats(q)
    dtype = dt.promote(a.dtype, b.dtype)
    s, y = cast_to(a, dt.float64), cast_to(b, dt.float64)
    total = s * 0.0
    for k in range(2 * _SHIFT + 8):
        at = y + float(k)
        total = total + e.pow(at, -s)
    z = y + float(2 * _SHIFT + 8)
    power = e.pow(z, -s)
    total = total + e.pow(z, 1 - s) / (s - 1) + power * 0.5
    factor = s * power / z
    for k, b2k in enumerate(_BERNOULLI, 1):
        total = total + factor * (b2k / math.factorial(2 * k))
        factor = factor * (s + (2 * k - 1)) * (s + 2 * k) / e.square(z)
    pole = (y <= 0) & (e.floor(y) == y)
    odd = (s < 1) | ((y < 0) & (e.floor(s) != s)) | (y <= -20)
    found = e.where(s == 1, math.inf, e.where(odd, math.nan, e.where(pole, math.inf, total)))
    return cast_to(found, dtype)


def polygamma(n: int, x: Operand) -> Tensor:
    """The derivative number n of digamma, x > -20 for n > 1 (see `zeta`)."""
    between("polygamma", 0, _MOST_DERIVATIVES, n=n)
    if n == 0:
        return digamma(x)
    found: Tensor = _polygamma_of(n)(x)
    return found


_POLYGAMMAS: dict[int, Function] = {}
_MOST_DERIVATIVES = 170
"""Of digamma; the factorials of larger numbers are beyond f64."""


def _polygamma_of(n: int) -> Function:
    if n not in _POLYGAMMAS:
        factor = (-1.0) ** (n + 1) * math.factorial(n)

        def compute(x: Tensor) -> Tensor:
            order = as_tensor(float(n + 1), dt.float64)
            if n > 1:
                return zeta(order, x) * factor
            reflect = x < 0.5
            found = zeta(order, e.where(reflect, 1 - x, x))
            sine = e.sin(_fraction(x) * math.pi)
            return e.where(reflect, math.pi**2 / e.square(sine) - found, found)

        _POLYGAMMAS[n] = _in_f64(f"polygamma{n}", "", compute, lambda x: polygamma(n + 1, x))
    return _POLYGAMMAS[n]


@rounded_once
def multigammaln(x: Operand, p: int) -> Tensor:
    """The logarithm of the gamma function of p dims, for x > (p - 1) / 2."""
    if not 1 <= p <= 1000:
        raise DomainError(f"multigammaln: p={p}", fix="give a number of dims from 1 to 1000")
    x = floats(x)
    total = gammaln(x)
    for k in range(1, p):
        total = total + gammaln(x - k / 2)
    return total + p * (p - 1) / 4 * _LOG_PI


# ---- Bessel's functions of imaginary argument


def _bessel(small: Series, large: Series, x: Tensor) -> Tensor:
    """The series of exp(-x) I(x) for x >= 0, by where x is."""
    near = x <= 8
    inner = _clenshaw(small, e.where(near, x, 8.0) * 0.25 - 1)
    away = e.where(near, 8.0, x)
    return e.where(near, inner, _clenshaw(large, 16 / away - 1) / e.sqrt(away))


def _i0e64(x: Tensor) -> Tensor:
    return _bessel(I0_SMALL, I0_LARGE, e.abs(x))


def _i1e64(x: Tensor) -> Tensor:
    size = e.abs(x)
    found = _bessel(I1_SMALL, I1_LARGE, size)
    return e.copysign(e.where(size <= 8, found * size, found), x)


def _i0_slope(x: Tensor) -> Tensor:
    return i1(x)


def _i1_slope(x: Tensor) -> Tensor:
    """I0(x) - I1(x) / x."""
    safe = e.where(x == 0, 1.0, x)
    return e.where(x == 0, 0.5, i0(x) - i1(safe) / safe)


def _i1e_slope(x: Tensor) -> Tensor:
    safe = e.where(x == 0, 1.0, x)
    return e.where(x == 0, 0.5, i0e(x) - i1e(safe) * (e.sign(safe) + 1 / safe))


i0e = _in_f64(
    "i0e",
    "exp(-|x|) I0(x) (to 1e-14).",
    _i0e64,
    lambda x: i1e(x) - e.sign(x) * i0e(x),
)
i1e = _in_f64("i1e", "exp(-|x|) I1(x) (to 1e-14).", _i1e64, _i1e_slope)
def _unscaled(scaled: Tensor, x: Tensor) -> Tensor:
    """exp(|x|) times `scaled`, without overflow between; infinite with x."""
    half = e.exp(e.abs(x) * 0.5)
    return e.where(e.isinf(x), e.copysign(half, scaled), scaled * half * half)


i0 = _in_f64(
    "i0",
    "Bessel's function I0(x) (to 1e-13).",
    lambda x: _unscaled(_i0e64(x), x),
    _i0_slope,
)
i1 = _in_f64(
    "i1",
    "Bessel's function I1(x) (to 1e-13).",
    lambda x: _unscaled(_i1e64(x), x),
    _i1_slope,
)
