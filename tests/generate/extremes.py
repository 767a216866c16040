"""Every function at 0, -0, tiny, subnormal, huge, infinite, NaN and saturated arguments, in f16,
bf16, f32 and f64: value, forward and reverse derivative, against exact ones. Functions of integers
at the ends of their dtypes, against NumPy's.

python -m tests.fuzz extremes --cases 50000
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import rung
from rung.core.settings import configure, settings
from tests.generate import extreme_integers as integers
from tests.generate import extreme_rows as rows
from tests.generate.exact import FORMATS, Array, Format, Long, distance, exact
from tests.generate.extreme_functions import UNARY, Unary

COUNT = 64
"""Arguments of one case of a function of a number."""
RUN = 10
"""So many seeds one after the other try one function, so that it is compiled once."""
COMPILED = 4
"""One in so many runs is compiled; the others go by the references."""
NUMPY = 4.0
"""What the references, NumPy's functions, may be off by, in ulp."""


# ---- arguments


def arguments(form: Format, rng: np.random.Generator, domain: tuple[float, float]) -> Array:
    """`COUNT` numbers of a format, special ones first."""
    least = np.ldexp(Long(form.eps), form.low)
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5]
    small = [least, -least, np.ldexp(Long(1), form.low), least * int(rng.integers(2, 99))]
    near_steps = rng.integers(-2, 3, 4)
    near = [1 + form.eps * int(k) for k in rng.integers(-9, 9, 3)]
    whole = rng.integers(-9, 9, 4)
    near += [float(n) * (1 + form.eps * int(k)) for n, k in zip(whole, near_steps, strict=True)]
    powers = 2.0 ** rng.uniform(form.low - 4, form.high - 0.01, 20).astype(Long)
    ordinary = rng.normal(0, 3, 14)
    saturated = rng.uniform(-120, 120, COUNT)
    found = np.concatenate(
        [np.asarray(a, Long) for a in (ends, small, near, powers, ordinary, saturated)]
    )[:COUNT]
    signs = np.where(np.arange(COUNT) < len(ends) + 4, 1, rng.choice((-1, 1), COUNT))
    with np.errstate(all="ignore"):
        made = (found * signs).astype(np.float64).astype(form.numpy)
    wide = made.astype(np.float64)
    inside = (wide >= domain[0]) & (wide <= domain[1]) | ~np.isfinite(wide)
    return np.where(inside, made, np.asarray(0.5 * (domain[1] if domain[1] < 9 else 1), form.numpy))


# ---- what is run


@dataclass(frozen=True)
class Case:
    """A function, a dtype, and whether it is compiled."""

    function: Unary | rows.Rows | integers.Integers
    dtype: str
    compiled: bool

    @property
    def form(self) -> Format:
        return FORMATS[self.dtype]


def case(seed: int) -> tuple[Case, np.random.Generator]:
    """What a seed stands for."""
    group = np.random.default_rng(seed // RUN)
    functions = (*UNARY, *rows.ROWS, *integers.INTEGERS)
    function = functions[int(group.integers(len(functions)))]
    dtypes = integers.DTYPES if isinstance(function, integers.Integers) else tuple(FORMATS)
    dtype = dtypes[int(group.integers(len(dtypes)))]
    compiled = bool(group.integers(COMPILED) == 0)
    return Case(function, dtype, compiled), np.random.default_rng(seed)


@contextmanager
def mode(compiled: bool) -> Iterator[None]:
    """By machine code, or by the references."""
    before = settings().interpret
    configure(interpret=not compiled)
    yield
    configure(interpret=before)


def reverse(f: Callable[[Any], Any], x: rung.Tensor) -> Array:
    """The gradient of the sum of the results."""
    return np.asarray(rung.grad(lambda v: f(v).sum())(x))


def forward(f: Callable[[Any], Any], x: rung.Tensor) -> Array:
    """The derivative along ones: that of each result, for functions of one number."""
    return np.asarray(rung.jvp(f, (x,), (rung.ones_like(x),))[1])


# ---- functions of a number


def wanted(f: Unary, x: Array) -> Array:
    """The exact values."""
    wide = x.astype(np.float64)
    found = exact(f.exact, wide)
    if f.at_zero is not None:
        signed = np.where(np.signbit(wide), Long(f.at_zero[1]), Long(f.at_zero[0]))
        found = np.where(wide == 0, signed, found)
    for end, value in zip((-np.inf, np.inf), f.limits, strict=True):
        found = np.where(wide == end, Long(value), found)
    return found


def wanted_slopes(f: Unary, x: Array, values: Array) -> tuple[Array, Array]:
    """The exact slopes, and where they are promised: where the value is finite or the limit of the
    slope is given, but not at kinks."""
    assert f.slope is not None
    wide = x.astype(np.float64)
    found = exact(f.slope, wide)
    finite = np.abs(values) <= Long(ml_dtypes.finfo(x.dtype).max)
    known = finite & np.isfinite(wide) & ~np.isin(wide, f.kinks) & ~np.isnan(found)
    if f.slope_limits is not None:
        for end, value in zip((-np.inf, np.inf), f.slope_limits, strict=True):
            at = wide == end
            found = np.where(at, Long(value), found)
            known |= at & (not math.isnan(value))
    return found, known


def value_errors(f: Unary, form: Format, found: Array, values: Array) -> Array:
    """Errors in ulp of the larger of the value and the floor."""
    relative = distance(found, values, form)
    if not f.floor:
        return relative
    apart = np.abs(found.astype(np.float64).astype(Long) - values) / (f.floor * form.eps)
    return np.fmin(relative, np.where(np.isfinite(apart), apart, np.inf)).astype(float)


def slope_excess(f: Unary, form: Format, found: Array, slopes: Array) -> Array:
    """By how many times an error is what is promised."""
    allowed = slope_allowance(f, form)
    wide = found.astype(np.float64).astype(Long)
    absolute = np.abs(wide - slopes) / (max(f.slope_eps, 1e-30) * form.eps)
    relative = distance(found, slopes, form) / allowed
    return np.where(absolute <= 1, 0, relative).astype(float)


def slope_allowance(f: Unary, form: Format) -> float:
    return max(2.0, f.slope_ulp / 64) if form.bits == 16 else f.slope_ulp


def check_unary(f: Unary, form: Format, rng: np.random.Generator, compiled: bool) -> list[str]:
    x = arguments(form, rng, f.domain)
    tensor = rung.asarray(x)
    with mode(compiled), np.errstate(all="ignore"):
        found = np.asarray(f.ours(tensor))
        values = wanted(f, x)
        limit = f.promised(form.name) if compiled else max(f.promised(form.name), NUMPY)
        errors = value_errors(f, form, found, values)
        lines = report("value", x, found, values, errors / max(limit, 0.5))
        if f.odd and not np.all(np.signbit(found[:2].astype(np.float64)) == (False, True)):
            lines.append(f"f(0), f(-0) = {found[:2].tolist()}")
        if f.slope is None:
            return lines
        slopes, known = wanted_slopes(f, x, values)
        for how, derive in (("reverse", reverse), ("forward", forward)):
            moved = derive(f.ours, tensor)
            excess = np.where(known, slope_excess(f, form, moved, slopes), 0)
            lines += report(how, x, moved, slopes, excess)
    return lines


def report(what: str, x: Array, found: Array, values: Array, excess: Array) -> list[str]:
    """A line for the worst error that is more than is promised."""
    if found.dtype != x.dtype:
        return [f"{what}: {found.dtype} of {x.dtype}"]
    bad = np.flatnonzero(~(excess <= 1))
    if not bad.size:
        return []
    at = bad[np.argmax(np.where(np.isnan(excess[bad]), np.inf, excess[bad]))]
    return [
        f"{what}: at {x[at]!r}: {found[at]!r}, not {np.float64(values[at])!r} "
        f"({excess[at]:.3g} times what is promised, {bad.size} such)"
    ]


# ---- cases


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`."""
    what, rng = case(seed)
    with np.errstate(all="ignore"):
        if isinstance(what.function, Unary):
            lines = check_unary(what.function, what.form, rng, what.compiled)
        else:
            with mode(what.compiled):
                lines = _check_arrays(what, rng)
    how = "compiled" if what.compiled else "interpreted"
    return [f"{what.function.name} {what.dtype} {how}: {line}" for line in lines]


def _check_arrays(what: Case, rng: np.random.Generator) -> list[str]:
    if isinstance(what.function, integers.Integers):
        return integers.check_integers(what.function, what.dtype, rng)
    assert isinstance(what.function, rows.Rows)
    return rows.check_rows(what.function, what.form, rng)


def show(seed: int) -> str:
    """Case `seed`: its function, dtype and arguments."""
    what, rng = case(seed)
    head = f"{what.function.name} of {what.dtype}, compiled: {what.compiled}\n"
    if isinstance(what.function, Unary):
        return head + f"x = {arguments(what.form, rng, what.function.domain).tolist()}"
    if isinstance(what.function, integers.Integers):
        return head + integers.show_integers(what.function, what.dtype, rng)
    return head + rows.show_rows(what.function, what.form, rng)
