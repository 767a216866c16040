"""The arena planner: buffers with lifetimes in, offsets in one block of memory out.

Greedy by size with best fit (Pisarchyk and Lee 2020, "Efficient memory management for deep neural
net inference"), tried with three orders of which the smallest result wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rung.core.errors import LoweringError

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """A buffer that is live from stage `first` to stage `last`, both included. What lies before
    `floor` is taken by others meanwhile.

    Stages without a barrier between them run at the same time: number them by barrier epoch.
    """

    name: str
    nbytes: int
    first: int
    last: int
    floor: int = 0


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """Byte offsets by name; `peak_bytes` is what is live at the worst stage, the lower bound."""

    offsets: dict[str, int]
    total_bytes: int
    peak_bytes: int


def plan_arena(intervals: Sequence[Interval]) -> ArenaPlan:
    """Offsets, multiples of 64, such that no two buffers live at the same time overlap.

    Deterministic: equal intervals in any order give equal offsets. Raises LoweringError for two
    buffers of one name, negative sizes, and lives that end before they start.
    """
    _check(intervals)
    plans = [_greedy(sorted(intervals, key=order)) for order in _ORDERS]
    offsets, total = min(plans, key=lambda plan: plan[1])
    return ArenaPlan(offsets, total, _peak_bytes(intervals))


def _by_size(interval: Interval) -> tuple[int, int, int, str]:
    return -interval.nbytes, interval.first, interval.last, interval.name


def _by_area(interval: Interval) -> tuple[int, int, int, str]:
    life = interval.last - interval.first + 1
    return -interval.nbytes * life, interval.first, interval.last, interval.name


def _by_life(interval: Interval) -> tuple[int, int, int, str]:
    return interval.first - interval.last, -interval.nbytes, interval.first, interval.name


_ORDERS: tuple[Callable[[Interval], tuple[int, int, int, str]], ...] = (
    _by_size,
    _by_area,
    _by_life,
)


def _greedy(ordered: Sequence[Interval]) -> tuple[dict[str, int], int]:
    """Place one after the other, each into the tightest gap among buffers of the same time."""
    count = len(ordered)
    first = np.array([interval.first for interval in ordered], np.int64)
    last = np.array([interval.last for interval in ordered], np.int64)
    starts, ends = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for i, interval in enumerate(ordered):
        overlaps = (first[:i] <= interval.last) & (last[:i] >= interval.first)
        size = _aligned(interval.nbytes)
        floor = _aligned(interval.floor)
        starts[i] = _tightest_gap(starts[:i][overlaps], ends[:i][overlaps], size, floor)
        ends[i] = starts[i] + size
    offsets = {interval.name: int(starts[i]) for i, interval in enumerate(ordered)}
    return offsets, int(ends.max(initial=0))


def _tightest_gap(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], size: int, floor: int
) -> int:
    """Offset of the smallest hole of at least `size` bytes between neighbours from `floor` on, or
    the end."""
    order = np.argsort(starts, kind="stable")
    covered = np.maximum.accumulate(np.concatenate(([floor], ends[order])))
    gaps = starts[order] - covered[:-1]
    fits = np.flatnonzero(gaps >= size)
    best = fits[np.argmin(gaps[fits])] if len(fits) else -1
    return int(covered[best])


def _peak_bytes(intervals: Sequence[Interval]) -> int:
    changes: dict[int, int] = {}
    for interval in intervals:
        size = _aligned(interval.nbytes)
        changes[interval.first] = changes.get(interval.first, 0) + size
        changes[interval.last + 1] = changes.get(interval.last + 1, 0) - size
    live = np.cumsum([changes[stage] for stage in sorted(changes)])
    return int(live.max(initial=0))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _check(intervals: Sequence[Interval]) -> None:
    names: set[str] = set()
    for interval in intervals:
        if interval.nbytes < 0 or interval.last < interval.first:
            raise LoweringError(f"buffer {interval.name!r} has a bad size or life: {interval}")
        if interval.name in names:
            raise LoweringError(f"two buffers are called {interval.name!r}")
        names.add(interval.name)
