"""Exact values of functions, and distances from them in units in the last place (ulp).

Exact values are NumPy's `longdouble` (64 bits of mantissa, 15 of exponent): rounded from mpmath's
of 150 bits where a function is given there, else computed in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import mpmath
import numpy as np

Array = np.ndarray[Any, Any]
Long = np.longdouble
Exact = Callable[[Any], Any]
mp = mpmath.MPContext()
mp.prec = 150


@dataclass(frozen=True)
class Format:
    """A float dtype: `eps` the step at 1, powers of two of the smallest normal number, and of the
    first that is too large."""

    name: str
    numpy: np.dtype[Any]
    eps: float
    low: int
    high: int

    @property
    def bits(self) -> int:
        return 8 * self.numpy.itemsize


def _format(name: str, dtype: Any) -> Format:
    info = ml_dtypes.finfo(dtype)
    low = int(np.log2(Long(info.smallest_normal)))
    high = int(np.floor(np.log2(Long(info.max)))) + 1
    return Format(name, np.dtype(dtype), float(info.eps), low, high)


FORMATS = {
    f.name: f
    for f in (
        _format("f16", np.float16),
        _format("bf16", ml_dtypes.bfloat16),
        _format("f32", np.float32),
        _format("f64", np.float64),
    )
}


def from_mp(value: Any) -> np.longdouble:
    """An mpmath number as a longdouble; NaN for what is not real."""
    if isinstance(value, mpmath.ctx_mp_python._mpc) or value != value:
        return Long("nan")
    if value in (mp.inf, -mp.inf):
        return Long(float(value))
    mantissa, exponent = mp.frexp(value)
    high = float(mantissa)
    low = float(mantissa - high)
    return np.ldexp(Long(high) + Long(low), min(max(exponent, -16400), 16380))


def exact(function: Exact, xs: Array) -> Array:
    """`function` of mpmath on each element; NaN where it has no value."""
    return np.array([_one(function, float(x)) for x in xs.reshape(-1)], Long).reshape(xs.shape)


def _one(function: Exact, x: float) -> np.longdouble:
    if x != x:
        return Long("nan")
    try:
        return from_mp(mp.convert(function(mp.mpf(x))))
    except (ValueError, ZeroDivisionError, ArithmeticError, mpmath.libmp.NoConvergence):
        return Long("nan")


def unit(values: Array, form: Format) -> Array:
    """One unit in the last place at each exact value."""
    _, power = np.frexp(np.where(np.isfinite(values), values, 0))
    power = np.where(values == 0, form.low, power - 1)
    return np.ldexp(Long(form.eps), np.clip(power, form.low, form.high - 1))


def distance(found: Array, wanted: Array, form: Format) -> Array:
    """|found - wanted| in ulp; an infinity stands for the first power of two that is too large. 0
    for two NaNs, inf where one is NaN."""
    top = np.ldexp(Long(1), form.high)
    ours = np.clip(found.astype(np.float64).astype(Long), -top, top)
    theirs = np.clip(wanted, -top, top)
    with np.errstate(all="ignore"):
        apart = np.abs(ours - theirs) / unit(theirs, form)
        apart = np.where(ours == theirs, 0, apart)
    nan = np.isnan(ours), np.isnan(theirs)
    return np.where(nan[0] & nan[1], 0, np.where(nan[0] | nan[1], np.inf, apart)).astype(float)


def slopes(function: Callable[[Array], Array], x: Array, weights: Array) -> Array:
    """The gradient of Σ weights function(x) by central differences in longdouble. The difference is
    taken before the sum, so that what does not depend on an element does not count."""
    x = x.astype(Long)
    size = np.abs(x)
    step = np.where(size > 0, size, np.max(size, initial=0, where=np.isfinite(size)) or 1)
    step = step * Long(2.0**-18)
    found = np.zeros_like(x)
    flat, steps, into = x.reshape(-1), step.reshape(-1), found.reshape(-1)
    for i in range(flat.size):
        kept, ends = flat[i], []
        for sign in (1, -1):
            flat[i] = kept + sign * steps[i]
            ends.append((flat[i], function(x)))
        flat[i] = kept
        (above, high), (below, low) = ends
        into[i] = (weights * (high - low)).sum() / (above - below)
    return found
