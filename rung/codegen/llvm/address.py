"""Where an access goes: the element offset in a buffer, and how it moves from lane to lane.

x[2 * i + 1, v]  of f32[8, 100], v the axis of a 16-lane vector loop
= terms {i: 200} + offset 100 + lanes (0, 1, ..., 15)      -> one vector load
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rung.ir.expr import Call, Const, Expr, Var, bounds, linear_terms, postorder

Terms = tuple[tuple[Expr, int], ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """The vector loop in which code is emitted: `axis` is 0, 1, ..., `width` - 1 in the lanes."""

    axis: Var
    width: int


@dataclass(frozen=True)
class Address:
    """An element offset: the sum of `terms` (expression times factor) and `offset`, the same in
    every lane, plus `lanes` (a number for each lane, lane 0 has 0) plus `varying` terms.

    `low` and `high` bound the part without `varying` over all lanes; None when unknown."""

    terms: Terms
    offset: int
    lanes: tuple[int, ...] = (0,)
    varying: Terms = ()
    low: int | None = None
    high: int | None = None

    @property
    def is_invariant(self) -> bool:
        """Whether every lane goes to the same element."""
        return not self.varying and not any(self.lanes)

    @cached_property
    def step(self) -> int | None:
        """The distance between neighbouring lanes if it is constant, else None."""
        if self.varying:
            return None
        if len(self.lanes) == 1:
            return 0
        step = self.lanes[1]
        steady = all(x == i * step for i, x in enumerate(self.lanes))
        return step if steady else None

    def within(self, size: int) -> bool:
        """Whether every lane is surely inside [0, size)."""
        if self.varying or self.low is None or self.high is None:
            return False
        return self.low >= 0 and self.high < size

    def within_at(self, lane_offset: int, size: int) -> bool:
        """Whether the lane-invariant part plus `lane_offset` is surely inside [0, size)."""
        if self.varying or self.low is None or self.high is None:
            return False
        low = self.low - min(self.lanes) + lane_offset
        return low >= 0 and self.high - max(self.lanes) + lane_offset < size


def find_address(
    index: Sequence[Expr],
    strides: Sequence[int],
    lanes: Lanes | None = None,
    varies: Callable[[Expr], bool] = lambda e: False,
    private: bool = False,
) -> Address:
    """The address of an access with constant loop variables already replaced.

    `varies` tells the terms that differ from lane to lane. `private`: each lane has its own copy
    of the buffer, the copies of an element side by side."""
    terms: dict[Expr, int] = {}
    offset = 0
    for i, stride in zip(index, strides, strict=True):
        parts, constant = linear_terms(i)
        offset += constant * stride
        for term, scale in parts.items():
            terms[term] = terms.get(term, 0) + scale * stride
    if private:
        assert lanes is not None
        terms = {t: c * lanes.width for t, c in terms.items()}
        offset *= lanes.width
    moving = [t for t in terms if lanes is not None and varies(t)]
    fixed = tuple((t, c) for t, c in terms.items() if t not in moving and c)
    if lanes is None or not (moving or private):
        return _bounded(fixed, offset, (0,), ())
    known = [0] * lanes.width
    varying: list[tuple[Expr, int]] = []
    for term in moving:
        values = lane_values(term, lanes)
        if values is None:
            varying.append((term, terms[term]))
        else:
            known = [k + terms[term] * v for k, v in zip(known, values, strict=True)]
    if private:
        known = [k + lane for lane, k in enumerate(known)]
    offset += known[0]
    relative = tuple(k - known[0] for k in known) if any(known) or varying else (0,)
    return _bounded(fixed, offset, relative, tuple(varying))


def _bounded(fixed: Terms, offset: int, lanes: tuple[int, ...], varying: Terms) -> Address:
    low = high = offset
    for term, scale in fixed:
        limits = bounds(term)
        if limits is None:
            return Address(fixed, offset, lanes, varying)
        low += min(limits[0] * scale, limits[1] * scale)
        high += max(limits[0] * scale, limits[1] * scale)
    return Address(fixed, offset, lanes, varying, low + min(lanes), high + max(lanes))


def lane_values(e: Expr, lanes: Lanes) -> list[int] | None:
    """The value of an index expression in each lane, if it depends on nothing but the lane."""
    values: dict[Expr, list[int]] = {}
    for x in postorder(e):
        if x is lanes.axis:
            values[x] = list(range(lanes.width))
        elif isinstance(x, Const):
            values[x] = [int(x.value)] * lanes.width
        elif isinstance(x, Call) and x.op in _EVALUATE and len(x.args) == 2:
            a, b = (values[c] for c in x.args)
            if x.op in ("floor_divide", "remainder") and 0 in b:
                return None
            values[x] = list(map(_EVALUATE[x.op], a, b))
        else:
            return None
    return values[e]


_EVALUATE: dict[str, Callable[[int, int], int]] = {
    "add": int.__add__,
    "subtract": int.__sub__,
    "multiply": int.__mul__,
    "floor_divide": int.__floordiv__,
    "remainder": int.__mod__,
    "minimum": min,
    "maximum": max,
}
