"""Programs that come again with other sizes: the second time they are made generic.

The first program of a structure is static. When the structure comes with other numbers, its kernels
are made generic in the sizes that differ, and serve all sizes from then on; a new size then costs a
plan and no compilation. What cannot be generic is compiled for each size as before, and says why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rung.core.errors import RungError
from rung.ir.node import Graph
from rung.ir.passes import run_passes
from rung.kernel.generalise import NotGeneral
from rung.rules.pipeline import PIPELINE
from rung.runtime.sized import LOW, SizedProgram, SizedRun, Sizes, high_for
from rung.tensor.linear import Linear, build_graph
from rung.tensor.skeleton import Numbers, Template, skeleton

MOST_TRIES: Final = 3
"""Generic programs that are made of one structure, at most."""
MOST_SEEN: Final = 4
"""Graphs of one structure that are kept to see what differs."""
MOST_STRUCTURES: Final = 512


@dataclass(eq=False)
class SizedTemplate:
    """A generic program and the template of its graphs."""

    template: Template
    program: SizedProgram

    def graph(self, sizes: Sizes, name: str) -> Graph:
        """The graph at these sizes, as it was traced."""
        return build_graph(self.template.at(sizes), self.template.lifted, name)

    def run_for(self, numbers: Numbers, linear: Linear) -> tuple[Sizes, SizedRun] | None:
        """The program for a graph with these numbers, if it is one of the template's."""
        sizes = self.template.sizes_of(numbers, linear.constants)
        if sizes is None or not self.program.takes(sizes):
            return None
        found = self.program.at(sizes)
        types = {}
        for _, _, _, _, first, results in linear.steps:
            types.update(enumerate(results, first))
        types.update(linear.inputs)
        same = all(types[n] == t for n, t in zip(linear.outputs, found.output_types, strict=True))
        return (sizes, found) if same else None


@dataclass(eq=False)
class Structure:
    """What has come of one structure: graphs, generic programs made of them, templates of which
    none could be made, and why."""

    seen: list[tuple[Numbers, Linear]] = field(default_factory=list)
    made: list[SizedTemplate] = field(default_factory=list)
    failed: list[Template] = field(default_factory=list)
    tries: int = 0
    reason: str = ""

    def note(self, numbers: Numbers, linear: Linear) -> None:
        """Remember a graph."""
        if all(n != numbers or o.constants != linear.constants for n, o in self.seen):
            self.seen = [*self.seen[1 - MOST_SEEN :], (numbers, linear.bare())]


_num_tries = [0]
_num_made = [0]
_structures: OrderedDict[Hashable, Structure] = OrderedDict()


def sized_program(
    linear: Linear, aliases: Mapping[int, int], name: str
) -> tuple[SizedTemplate, Sizes, SizedRun] | str:
    """The generic program for a pending graph, made if this is the second size of its structure; or
    why there is none, an empty text if no other size has come yet."""
    try:
        key, numbers = skeleton(linear)
    except NotGeneral as e:
        return e.message
    structure = _structures.setdefault((key, tuple(sorted(aliases.items()))), Structure())
    if len(_structures) > MOST_STRUCTURES:
        _structures.popitem(last=False)
    for sized in structure.made:
        found = sized.run_for(numbers, linear)
        if found is not None:
            return sized, *found
    structure.note(numbers, linear)
    if any(t.sizes_of(numbers, linear.constants) is not None for t in structure.failed):
        return structure.reason
    if structure.tries >= MOST_TRIES or len(_of_size(structure)) < 2:
        return structure.reason
    return _made(structure, numbers, linear, aliases, name)


def _of_size(structure: Structure) -> list[tuple[Numbers, Linear]]:
    """The graphs whose dims are at least `LOW` where those of others are something else: sizes of 0
    and 1 are special."""
    rows = [n for n, _ in structure.seen]
    if not rows:
        return []
    num_dims = sum(len(t.shape) for _, t in structure.seen[0][1].inputs)
    varying = [i for i in range(num_dims) if len({row[i] for row in rows}) > 1]
    found = [(n, linear) for n, linear in structure.seen if all(n[i] >= LOW for i in varying)]
    return found if len({n for n, _ in found}) > 1 else []


def _made(
    structure: Structure, numbers: Numbers, linear: Linear, aliases: Mapping[int, int], name: str
) -> tuple[SizedTemplate, Sizes, SizedRun] | str:
    """A generic program for all graphs of a structure that have come."""
    seen = _of_size(structure)
    if all(n != numbers for n, _ in seen):
        return structure.reason
    structure.tries += 1
    _num_tries[0] += 1
    try:
        template = Template(seen, high_for)
        structure.failed.append(template)

        def graph_at(sizes: Sizes) -> Graph:
            return build_graph(template.at(sizes), template.lifted, name)

        high = template.sizes[0].high
        program = SizedProgram(graph_at, len(template.bases), high, aliases, _lowered)
        sized = SizedTemplate(template, program)
        found = sized.run_for(numbers, linear)
    except RungError as e:
        structure.reason = f"{type(e).__name__}: {e.message}"
        return structure.reason
    if found is None:
        structure.reason = "its results have other types than expected"
        return structure.reason
    structure.failed.pop()
    structure.made.append(sized)
    _num_made[0] += 1
    return sized, *found


def num_sized() -> tuple[int, int]:
    """How many generic programs this process has made, and how many it has tried to make."""
    return _num_made[0], _num_tries[0]


def _lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def clear_structures() -> None:
    """Forget all generic programs of this process."""
    _structures.clear()
