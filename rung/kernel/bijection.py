"""Inverting index maps that are permutations of digits (reshapes, transposes and their chains)."""

from __future__ import annotations

from dataclasses import dataclass

from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Var,
    bounds,
    const,
    iadd,
    ifloordiv,
    imod,
    imul,
    linear_terms,
)
from rung.kernel.element import canonical


@dataclass(frozen=True)
class _Digit:
    """`axis` contributes `place` times this digit, which has `extent` values."""

    axis: Var
    place: int
    extent: int


def _digit(term: Expr) -> _Digit | None:
    """The digit of a loop variable that `term` is, if it is one: v, v // d, v % e, (v // d) % e."""
    limits = bounds(term)
    if limits is None or limits[0] != 0:
        return None
    extent = limits[1] + 1
    place = 1
    if isinstance(term, Call) and term.op == "remainder":
        term = term.args[0]
    if isinstance(term, Call) and term.op == "floor_divide" and isinstance(term.args[1], Const):
        place = int(term.args[1].value)
        term = term.args[0]
    return _Digit(term, place, extent) if isinstance(term, Var) else None


def invert(index: Expr, axes: tuple[Var, ...], place: Expr, size: int) -> tuple[Expr, ...] | None:
    """The values of `axes` for which `index` (a linear position over `axes`) equals `place` (a
    linear position in [0, size) over other variables); None when `index` is not a bijection of that
    kind."""
    terms, constant = linear_terms(index)
    if constant:
        return None
    found = [(scale, _digit(t)) for t, scale in terms.items()]
    digits = sorted(((s, d) for s, d in found if d is not None), key=lambda sd: sd[0])
    if len(digits) != len(found):
        return None
    step = 1
    for scale, digit in digits:
        if scale != step:
            return None
        step *= digit.extent
    if step != size or not _complete([d for _, d in digits], axes):
        return None
    value: dict[Var, Expr] = {a: const(0) for a in axes}
    for scale, digit in digits:
        quotient = ifloordiv(place, scale)
        found_digit = quotient if scale * digit.extent == size else imod(quotient, digit.extent)
        value[digit.axis] = iadd(value[digit.axis], imul(found_digit, digit.place))
    return tuple(canonical(value[a]) for a in axes)


def _complete(digits: list[_Digit], axes: tuple[Var, ...]) -> bool:
    """Whether the digits of every axis make up the whole axis."""
    for axis in axes:
        step = 1
        for d in sorted((d for d in digits if d.axis is axis), key=lambda d: d.place):
            if d.place != step:
                return False
            step *= d.extent
        if step != axis.extent:
            return False
    return all(d.axis in axes for d in digits)
