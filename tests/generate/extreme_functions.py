"""The functions that `extremes` tries, what is exact, and what is promised.

A promise is a number of units in the last place (ulp) of f32 and f64 results; those of 16-bit
floats are within one of theirs. `docs/accuracy.md` shows the promises beside what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final

import rung
import rung.nn.functional as F
from rung.codegen.llvm.vmath import ACCURACY
from tests.generate.exact import Exact, mp

Function = Callable[..., Any]
sp = rung.special
HALF: Final = mp.mpf(1) / 2
ROOT_PI: Final = mp.sqrt(mp.pi)
SELU: Final = (mp.mpf("1.6732632423543772848170429916717"),
               mp.mpf("1.0507009873554804934193349852946"))  # fmt: skip


@dataclass(frozen=True)
class Unary:
    """A function of one number: ours, the exact one and its slope.

    `ulp`: promised for f32 and f64. `slope_ulp` and `slope_eps`: the slope is within so many ulp,
    plus so many times the step at 1 (slopes that are made from the result, as 1 - tanh²).
    `limits`: the values at -inf and inf, and the slopes there. `at_zero`: the values at 0 and -0,
    where they are not what `exact` says of 0. `odd`: f(-0) is -0. `floor`: a magnitude below which
    the value is promised only absolutely, as near a zero in between. No slope is promised at
    `kinks`."""

    name: str
    ours: Function
    exact: Exact
    slope: Exact | None
    ulp: float | tuple[float, float] = 1.0
    slope_ulp: float = 8.0
    slope_eps: float = 0.0
    limits: tuple[float, float] = (math.nan, math.nan)
    slope_limits: tuple[float, float] | None = None
    odd: bool = False
    floor: float = 0.0
    domain: tuple[float, float] = (-math.inf, math.inf)
    kinks: tuple[float, ...] = ()
    at_zero: tuple[float, float] | None = None

    def promised(self, dtype: str) -> float:
        """Ulp of the value."""
        if dtype in ("f16", "bf16"):
            return 1.0
        pair = self.ulp if isinstance(self.ulp, tuple) else (self.ulp, self.ulp)
        return pair[dtype == "f64"]


def _stated(name: str) -> tuple[float, float]:
    """What the code generator states (the same for all vector units)."""
    f32, f64 = ACCURACY[name][:2]
    return float(f32), float(f64)


NONE, ZERO, ONE = math.nan, 0.0, 1.0
INF = math.inf


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _softplus(x: Any) -> Any:
    return mp.log1p(mp.exp(x)) if x < 200 else x + mp.exp(-x)


def _phi(x: Any) -> Any:
    if abs(x) > 1e9:
        return mp.mpf(x > 0)
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _density(x: Any) -> Any:
    if abs(x) > 1e9:
        return mp.mpf(0)
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def _erfcx(x: Any) -> Any:
    if x > 100:
        terms = 1 - 1 / (2 * x * x) + 3 / (4 * x**4) - 15 / (8 * x**6) + 105 / (16 * x**8)
        return (terms - 945 / (32 * x**10)) / (x * ROOT_PI)
    return mp.exp(x * x) * mp.erfc(x)


def _erfcx_slope(x: Any) -> Any:
    if x > 100:
        return (-1 / (x * x) + 3 / (2 * x**4) - 15 / (4 * x**6) + 105 / (8 * x**8)) / ROOT_PI
    return 2 * x * _erfcx(x) - 2 / ROOT_PI


@lru_cache(maxsize=4096)
def _erfinv(y: Any) -> Any:
    if not abs(y) < 1:
        return y * mp.inf if abs(y) == 1 else mp.nan
    if abs(y) < 0.1:
        x = y * ROOT_PI / 2
        for _ in range(7):
            x = x - (mp.erf(x) - y) * ROOT_PI / 2 * mp.exp(x * x)
        return x
    return -mp.sign(y) * _ndtri((1 - abs(y)) / 2) / mp.sqrt(2)


@lru_cache(maxsize=4096)
def _ndtri(p: Any) -> Any:
    """Newton's method from the value in f64, which doubles the digits, of the smaller tail."""
    if not 0 < p < 1:
        return -mp.inf if p == 0 else mp.inf if p == 1 else mp.nan
    small = min(p, 1 - p)
    x = mp.mpf(NormalDist().inv_cdf(float(small)))
    for _ in range(3):
        x = x - (_phi(x) - small) / _density(x)
    return x if p < HALF else -x


def _erfc(x: Any) -> Any:
    return mp.erfc(x) if abs(x) < 1e9 else mp.mpf(0 if x > 0 else 2)


def _log_ndtr(x: Any) -> Any:
    if x < -20:
        return mp.log(_erfcx(-x / mp.sqrt(2)) / 2) - x * x / 2
    return mp.log(_phi(x)) if x < 5 else mp.log1p(-_phi(-x))


def _log_ndtr_slope(x: Any) -> Any:
    return mp.sqrt(2 / mp.pi) / _erfcx(-x / mp.sqrt(2)) if x < 0 else _density(x) / _phi(x)


def _bessel(n: int, x: Any) -> Any:
    """exp(-|x|) I_n(x)."""
    if abs(x) < 700:
        return mp.exp(-abs(x)) * mp.besseli(n, x)
    m, total, term = 4 * n * n, mp.mpf(1), mp.mpf(1)
    for k in range(1, 30):
        term = -term * (m - (2 * k - 1) ** 2) / (k * 8 * abs(x))
        total = total + term
    found = total / mp.sqrt(2 * mp.pi * abs(x))
    return -found if n == 1 and x < 0 else found


def _i0(x: Any) -> Any:
    return mp.exp(abs(x)) * _bessel(0, x)


def _i1(x: Any) -> Any:
    return mp.exp(abs(x)) * _bessel(1, x)


def _gammaln(x: Any) -> Any:
    if x <= 0 and x == mp.floor(x):
        return mp.inf
    return mp.re(mp.loggamma(x))


def _logit_slope(x: Any) -> Any:
    return 1 / (x * (1 - x))


def _elu(x: Any, alpha: Any = 1, scale: Any = 1) -> Any:
    return scale * (x if x > 0 else alpha * mp.expm1(x))


def _elu_slope(x: Any, alpha: Any = 1, scale: Any = 1) -> Any:
    return scale * (1 if x > 0 else alpha * mp.exp(x))


def _gelu_tanh(x: Any) -> Any:
    inner = mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3)
    return x * _sigmoid(2 * inner)


def _gelu_tanh_slope(x: Any) -> Any:
    root = mp.sqrt(2 / mp.pi)
    s = _sigmoid(2 * root * (x + mp.mpf(0.044715) * x**3))
    return s + x * s * (1 - s) * 2 * root * (1 + 3 * mp.mpf(0.044715) * x * x)


def _mish_slope(x: Any) -> Any:
    t = mp.tanh(_softplus(x))
    return t + x * (1 - t) * (1 + t) * _sigmoid(x)


def _sinc(x: Any) -> Any:
    return mp.mpf(0) if x and x == mp.nint(x) else mp.sinc(mp.pi * x)


def _trigamma(x: Any) -> Any:
    return mp.inf if x <= 0 and x == mp.floor(x) else mp.polygamma(1, x)


def _sinc_slope(x: Any) -> Any:
    y = mp.pi * x
    if abs(y) < 1e-12:
        return -mp.pi * y / 3
    return mp.pi * (mp.cos(y) / y - mp.sin(y) / y**2)


def _hard_slope(x: Any) -> Any:
    return mp.mpf(0) if abs(x) >= 3 else x / 3 + HALF


ELEMENTARY: Final = (
    Unary("sqrt", rung.sqrt, lambda x: mp.sqrt(x), lambda x: HALF / mp.sqrt(x), 0.5,
          limits=(NONE, INF), slope_limits=(NONE, 0), odd=True),
    Unary("rsqrt", rung.rsqrt, lambda x: 1 / mp.sqrt(x) if x else mp.inf,
          lambda x: -HALF / (x * mp.sqrt(x)), _stated("rsqrt"), limits=(NONE, 0),
          at_zero=(INF, -INF)),
    Unary("exp", rung.exp, mp.exp, mp.exp, _stated("exp"), limits=(0, INF),
          slope_limits=(0, INF)),
    Unary("exp2", rung.exp2, lambda x: mp.mpf(2) ** x, lambda x: mp.ln2 * mp.mpf(2) ** x,
          _stated("exp2"), limits=(0, INF), slope_limits=(0, INF)),
    Unary("expm1", rung.expm1, mp.expm1, mp.exp, _stated("expm1"), limits=(-1, INF),
          slope_limits=(0, INF), odd=True),
    Unary("log", rung.log, mp.log, lambda x: 1 / x, _stated("log"), limits=(NONE, INF),
          slope_limits=(NONE, 0)),
    Unary("log1p", rung.log1p, mp.log1p, lambda x: 1 / (1 + x), _stated("log1p"),
          limits=(NONE, INF), slope_limits=(NONE, 0), odd=True),
    Unary("log2", rung.log2, lambda x: mp.log(x, 2), lambda x: 1 / (x * mp.ln2),
          _stated("log2"), limits=(NONE, INF), slope_limits=(NONE, 0)),
    Unary("log10", rung.log10, lambda x: mp.log(x, 10), lambda x: 1 / (x * mp.ln10),
          _stated("log10"), limits=(NONE, INF), slope_limits=(NONE, 0)),
    Unary("sin", rung.sin, mp.sin, mp.cos, _stated("sin"), odd=True),
    Unary("cos", rung.cos, mp.cos, lambda x: -mp.sin(x), _stated("cos")),
    Unary("tan", rung.tan, mp.tan, lambda x: 1 + mp.tan(x) ** 2, _stated("tan"), odd=True),
    Unary("asin", rung.asin, mp.asin, lambda x: 1 / mp.sqrt((1 - x) * (1 + x)),
          _stated("asin"), odd=True),
    Unary("acos", rung.acos, mp.acos, lambda x: -1 / mp.sqrt((1 - x) * (1 + x)),
          _stated("acos")),
    Unary("atan", rung.atan, mp.atan, lambda x: 1 / (1 + x * x), _stated("atan"), odd=True,
          limits=(-math.pi / 2, math.pi / 2), slope_limits=(0, 0)),
    Unary("sinh", rung.sinh, mp.sinh, mp.cosh, _stated("sinh"), odd=True,
          limits=(-INF, INF), slope_limits=(INF, INF)),
    Unary("cosh", rung.cosh, mp.cosh, mp.sinh, _stated("cosh"), limits=(INF, INF),
          slope_limits=(-INF, INF)),
    Unary("tanh", rung.tanh, mp.tanh, lambda x: mp.sech(x) ** 2 if abs(x) < 1e4 else mp.mpf(0),
          _stated("tanh"), slope_eps=8, odd=True, limits=(-1, 1), slope_limits=(0, 0)),
    Unary("asinh", rung.asinh, mp.asinh, lambda x: 1 / mp.sqrt(1 + x * x), _stated("asinh"),
          odd=True, limits=(-INF, INF), slope_limits=(0, 0)),
    Unary("acosh", rung.acosh, mp.acosh, lambda x: 1 / (mp.sqrt(x - 1) * mp.sqrt(x + 1)),
          _stated("acosh"), limits=(NONE, INF), slope_limits=(NONE, 0)),
    Unary("atanh", rung.atanh, mp.atanh, lambda x: 1 / ((1 - x) * (1 + x)), _stated("atanh"),
          odd=True),
    Unary("erf", rung.erf, mp.erf, lambda x: 2 / ROOT_PI * mp.exp(-x * x), _stated("erf"),
          slope_ulp=400, odd=True, limits=(-1, 1), slope_limits=(0, 0)),
    Unary("square", rung.square, lambda x: x * x, lambda x: 2 * x, 0.5, limits=(INF, INF),
          slope_limits=(-INF, INF)),
    Unary("reciprocal", rung.reciprocal, lambda x: 1 / x, lambda x: -1 / x / x, 0.5,
          limits=(0, 0), slope_limits=(0, 0), at_zero=(INF, -INF)),
    Unary("cube", lambda x: x**3, lambda x: x**3, lambda x: 3 * x * x, 1.5, odd=True,
          limits=(-INF, INF), slope_limits=(INF, INF)),
    Unary("pow 2.5", lambda x: x**2.5, lambda x: x**2.5 if x >= 0 else mp.nan,
          lambda x: 2.5 * x**1.5, _stated("pow"), limits=(INF, INF)),
    Unary("sinc", rung.sinc, _sinc, _sinc_slope, (4, 4), 16,
          slope_eps=64, domain=(-30, 30)),
    Unary("logit", rung.logit, lambda x: mp.log(x) - mp.log1p(-x), _logit_slope, (4, 4), 8,
          floor=0.5),
    Unary("deg2rad", rung.deg2rad, lambda x: x * mp.pi / 180, lambda x: mp.pi / 180, 1.5,
          odd=True, limits=(-INF, INF)),
    Unary("rad2deg", rung.rad2deg, lambda x: x * 180 / mp.pi, lambda x: 180 / mp.pi, 1.5,
          odd=True, limits=(-INF, INF)),
    Unary("abs", rung.abs, abs, mp.sign, 0, limits=(INF, INF), slope_limits=(-1, 1)),
    Unary("floor", rung.floor, mp.floor, lambda x: mp.mpf(0), 0, limits=(-INF, INF), odd=True),
    Unary("ceil", rung.ceil, mp.ceil, lambda x: mp.mpf(0), 0, limits=(-INF, INF), odd=True),
    Unary("round", rung.round, mp.nint, lambda x: mp.mpf(0), 0, limits=(-INF, INF), odd=True),
)  # fmt: skip

SPECIAL: Final = (
    Unary("erfc", sp.erfc, _erfc, lambda x: -2 / ROOT_PI * mp.exp(-x * x), (1, 400), 8,
          limits=(2, 0), slope_limits=(0, 0)),
    Unary("erfcx", sp.erfcx, _erfcx, _erfcx_slope, (1, 400), 4000, slope_eps=8,
          limits=(INF, 0)),
    Unary("erfinv", sp.erfinv, _erfinv, lambda y: ROOT_PI / 2 * mp.exp(_erfinv(y) ** 2),
          (1, 4000), 200, odd=True, domain=(-1, 1)),
    Unary("ndtr", sp.ndtr, _phi, _density, (1, 4000), 1000, limits=(0, 1), slope_limits=(0, 0)),
    Unary("ndtri", sp.ndtri, _ndtri, lambda p: 1 / _density(_ndtri(p)), (1, 4000), 4000,
          floor=1e-3, domain=(0, 1)),
    Unary("log_ndtr", sp.log_ndtr, _log_ndtr, _log_ndtr_slope, (1, 4000), 1000,
          limits=(-INF, 0), slope_limits=(INF, 0)),
    Unary("entr", sp.entr, lambda x: -x * mp.log(x) if x > 0 else mp.mpf(0) if x == 0 else -mp.inf,
          lambda x: -mp.log(x) - 1, (2, 2), 8, slope_eps=8, limits=(-INF, -INF)),
    Unary("gammaln", sp.gammaln, _gammaln, mp.digamma, (1, 400), 8, floor=0.5,
          slope_eps=8, limits=(INF, INF), domain=(-30, INF)),
    Unary("digamma", sp.digamma, mp.digamma, lambda x: mp.polygamma(1, x), (1, 400), 8,
          slope_eps=8, floor=0.5, limits=(NONE, INF), domain=(-30, INF), at_zero=(-INF, INF)),
    Unary("trigamma", lambda x: sp.polygamma(1, x), _trigamma,
          lambda x: mp.polygamma(2, x), (1, 400), 8, slope_eps=64, limits=(NONE, 0),
          domain=(-15, INF), at_zero=(INF, INF)),
    Unary("i0", sp.i0, _i0, _i1, (1, 1000), 32, limits=(INF, INF)),
    Unary("i0e", sp.i0e, lambda x: _bessel(0, x),
          lambda x: _bessel(1, x) - mp.sign(x) * _bessel(0, x),
          (1, 100), 8, slope_eps=8, limits=(0, 0)),
    Unary("i1", sp.i1, _i1, None, (1, 1000), 8, odd=True, limits=(-INF, INF)),
    Unary("i1e", sp.i1e, lambda x: _bessel(1, x), None, (1, 100), 8, odd=True, limits=(0, 0)),
)  # fmt: skip

ACTIVATIONS: Final = (
    Unary("relu", F.relu, lambda x: max(x, mp.mpf(0)), lambda x: mp.mpf(x > 0), 0,
          limits=(0, INF), slope_limits=(0, 1)),
    Unary("leaky_relu", F.leaky_relu, lambda x: x if x > 0 else x * mp.mpf(0.01),
          lambda x: mp.mpf(1 if x > 0 else 0.01), 1.5, limits=(-INF, INF)),
    Unary("elu", F.elu, _elu, _elu_slope, 1.5, limits=(-1, INF), slope_limits=(0, 1)),
    Unary("celu", F.celu, _elu, _elu_slope, 1.5, limits=(-1, INF), slope_limits=(0, 1)),
    Unary("selu", F.selu, lambda x: _elu(x, *SELU), lambda x: _elu_slope(x, *SELU), 3,
          limits=(float(-SELU[0] * SELU[1]), INF), slope_limits=(0, float(SELU[1])), kinks=(0.0,)),
    Unary("sigmoid", F.sigmoid, _sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), 2.5,
          slope_eps=4, limits=(0, 1), slope_limits=(0, 0)),
    Unary("logsigmoid", F.logsigmoid, lambda x: -_softplus(-x), lambda x: _sigmoid(-x), 2.5, 8,
          limits=(-INF, 0), slope_limits=(1, 0)),
    Unary("softplus", F.softplus, _softplus, _sigmoid, 2.5, 8, limits=(0, INF),
          slope_limits=(0, 1)),
    Unary("silu", F.silu, lambda x: x * _sigmoid(x),
          lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)), 3.5, 8, slope_eps=40, floor=1e-35,
          limits=(NONE, INF)),
    Unary("mish", F.mish, lambda x: x * mp.tanh(_softplus(x)), _mish_slope, 6, 16,
          slope_eps=40, floor=1e-35,
          limits=(NONE, INF)),
    Unary("gelu", F.gelu, lambda x: x * _phi(x), lambda x: _phi(x) + x * _density(x), 4, 16,
          slope_eps=32, floor=1, limits=(NONE, INF)),
    Unary("gelu tanh", lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh, _gelu_tanh_slope, 4,
          16, slope_eps=99, floor=1, limits=(NONE, INF), domain=(-1e10, 1e10)),
    Unary("hardsigmoid", F.hardsigmoid, lambda x: min(max(x / 6 + HALF, mp.mpf(0)), mp.mpf(1)),
          lambda x: mp.mpf(abs(x) < 3) / 6, 2, slope_eps=2, floor=0.1, limits=(0, 1),
          slope_limits=(0, 0)),
    Unary("hardswish", F.hardswish, lambda x: x * min(max(x / 6 + HALF, mp.mpf(0)), mp.mpf(1)),
          lambda x: mp.mpf(1) if x >= 3 else _hard_slope(x), 3, 8, slope_eps=8, floor=0.5,
          limits=(NONE, INF), kinks=(-3.0, 3.0)),
    Unary("softsign", F.softsign, lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2,
          1.5, 8, odd=True),
    Unary("tanhshrink", F.tanhshrink, lambda x: x - mp.tanh(x), lambda x: mp.tanh(x) ** 2, 8, 8,
          floor=1, slope_eps=8, limits=(-INF, INF), slope_limits=(1, 1)),
    Unary("softshrink", F.softshrink, lambda x: x - mp.sign(x) / 2 if abs(x) > HALF else mp.mpf(0),
          lambda x: mp.mpf(abs(x) > HALF), 1, limits=(-INF, INF), slope_limits=(1, 1)),
    Unary("relu6", F.relu6, lambda x: min(max(x, mp.mpf(0)), mp.mpf(6)),
          lambda x: mp.mpf(0 < x < 6), 0, limits=(0, 6), slope_limits=(0, 0)),
)  # fmt: skip

UNARY: Final = (*ELEMENTARY, *SPECIAL, *ACTIVATIONS)
