"""How many steps each parameter of an optimizer has made: those in which it had a gradient.

Parameters that have always stepped together share one count, that of all steps as long as none has
been left out. So a step computes what depends on the count (bias corrections, falling rates) once,
and only a parameter that is left out of a step gets a count of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from rung.core import dtype as dt
from rung.tensor.creation import array
from rung.tensor.jit import outside_copy
from rung.tensor.tensor import Tensor


class StepCounts:
    """The counts (i64[]) of parameters. `version` changes when parameters no longer share one."""

    def __init__(self, total: Tensor) -> None:
        self.total = total
        self.version = 0
        self._started = False
        self._of: dict[Tensor, Tensor] = {}

    def add(self, params: Sequence[Tensor]) -> None:
        """Parameters that have made no step."""
        count = _counting(0) if self._started else self.total
        self._of.update(dict.fromkeys(params, count))
        self.version += 1

    def of(self, p: Tensor) -> Tensor:
        """The count of a parameter; others may share it, so it is only to be read."""
        return self._of[p]

    def grouped(
        self, pairs: Iterable[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        """(count, the pairs whose parameters share it)."""
        found: dict[Tensor, list[tuple[Tensor, Tensor]]] = {}
        for p, grad in pairs:
            found.setdefault(self._of[p], []).append((p, grad))
        return iter(found.items())

    def divide(self, stepping: Collection[Tensor]) -> None:
        """Give those that are left out of this step, while others with their count are not, one of
        their own."""
        self._started = True
        moving = {self.total, *(self._of[p] for p in stepping)}
        left: dict[Tensor, list[Tensor]] = {}
        for p, count in self._of.items():
            if count in moving and p not in stepping:
                left.setdefault(count, []).append(p)
        for count, params in left.items():
            self._part(params, outside_copy(count))

    def _part(self, params: Iterable[Tensor], count: Tensor) -> None:
        self._of.update(dict.fromkeys(params, count))
        self.version += 1

    def advance(self, stepping: Iterable[Tensor]) -> None:
        """One more step of the parameters given, which `divide` was told."""
        for count in dict.fromkeys([self.total, *(self._of[p] for p in stepping)]):
            count.assign(count + 1)

    def load(self, steps: Mapping[Tensor, int]) -> None:
        """Set the count of each parameter; the total is set already. Those that share a count and
        are given different ones part."""
        self._started = True
        total = int(self.total)
        members: dict[Tensor, dict[int, list[Tensor]]] = {}
        for p, number in steps.items():
            members.setdefault(self._of[p], {}).setdefault(number, []).append(p)
        for count, by_number in members.items():
            kept = total if count is self.total else next(iter(by_number))
            count.assign(kept)
            for number, params in by_number.items():
                if number != kept:
                    self._part(params, _counting(number))


def _counting(number: int) -> Tensor:
    return array(np.array(number), dtype=dt.int64)
