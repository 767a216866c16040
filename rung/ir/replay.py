"""What was built once from some values, written down so that it can be built again from others.

Building a node asks its type rule, and a formula asks Python. Where all of that depends on the
types of the operands alone, it is asked once; after that a node is made from what is known already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rung.core.source import Source
from rung.ir.node import PARAMETER, Node, Value
from rung.ir.op import Attrs, Op, OwnAttrs
from rung.ir.subgraph import between
from rung.ir.types import TensorType


@dataclass(frozen=True, eq=False, slots=True)
class Replay:
    """Steps (op, attributes, operands, types of the results, the way that they came about) over
    some given values, and which of all these values are the results, -1 for none."""

    steps: tuple[tuple[Op, Attrs, tuple[int, ...], tuple[TensorType, ...], str], ...]
    outputs: tuple[int, ...]

    def build(self, values: list[Value], place: Source) -> list[Value | None]:
        """The results for other given values, to which those in between are added. The nodes are of
        line `place`; they are not interned."""
        for op, attrs, operands, types, via in self.steps:
            source = _derived(place, via) if via else place
            values += Node(op, tuple([values[i] for i in operands]), attrs, source, types).results
        return [None if i < 0 else values[i] for i in self.outputs]


@lru_cache(maxsize=1 << 16)
def _derived(place: Source, via: str) -> Source:
    for part in via.split("/"):
        place = place.with_via(part)
    return place


def replay_of(given: Sequence[Value], found: Sequence[Value | None]) -> Replay | None:
    """How `found` was built from `given`, by nodes without a line; None where something else is in
    it: a parameter, what has a line, or what stands for itself alone."""
    numbers = {v: i for i, v in enumerate(given)}
    total = len(given)
    steps = []
    for made in between([v for v in found if v is not None], given):
        if made.op is PARAMETER or isinstance(made.attrs, OwnAttrs) or made.source.line:
            return None
        operands = tuple([numbers[v] for v in made.inputs])
        steps.append((made.op, made.attrs, operands, made.types, made.source.via))
        for r in made.results:
            numbers.setdefault(r, total)
            total += 1
    return Replay(tuple(steps), tuple([-1 if v is None else numbers[v] for v in found]))
