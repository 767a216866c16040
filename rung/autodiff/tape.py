"""What the reverse sweep needs of the values that the forward sweep overwrites.

A value that a formula reads must be there again when the reverse sweep comes to it. What is
computed once, outside of loops, simply stays. What one iteration computes for itself is put on the
tape at its end; of what is overwritten, the old value is put there before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rung.autodiff.steps import Block, Branch, Loop, Node, Plain, Step
from rung.source.names import writes

Path = tuple[Block, ...]
"""The blocks around a place, the outermost first."""


@dataclass
class Plan:
    """Before which nodes an old value is put on the tape, at the end of which blocks new ones, and
    which variables must be there from the start for that."""

    before: dict[Node, list[str]] = field(default_factory=dict)
    at_end: dict[Block, list[str]] = field(default_factory=dict)
    unset: list[str] = field(default_factory=list)

    @property
    def is_used(self) -> bool:
        """Whether there is a tape."""
        return bool(self.before or self.at_end)


@dataclass(frozen=True)
class _Place:
    """Where a variable is set, whether within a loop, and which variables surely or perhaps have
    a value before."""

    node: Node
    path: Path
    looped: bool
    certain: frozenset[str]
    possible: frozenset[str]


def set_by(node: Node) -> list[str]:
    """The variables that a node itself sets."""
    if isinstance(node, Step):
        return [node.target]
    if isinstance(node, Plain):
        return list(writes([node.statement], changes=False))
    if isinstance(node, Branch):
        return [node.flag]
    return [node.trips] if node.trips else []


def nodes_of(block: Block) -> Iterator[Node]:
    """All nodes, those of inner blocks included."""
    for node in block.nodes:
        yield node
        for inner in inner_blocks(node):
            yield from nodes_of(inner)


def inner_blocks(node: Node) -> list[Block]:
    """The blocks of a branch or loop."""
    if isinstance(node, Branch):
        return [node.then, node.otherwise]
    return [node.body] if isinstance(node, Loop) else []


def plan_tape(block: Block, params: list[str], needed: dict[str, Path]) -> Plan:
    """The plan for the variables `needed`, each with the blocks around all places that read it in
    the reverse sweep."""
    plan = Plan()
    places: dict[str, list[_Place]] = {}
    _find(block, (block,), False, set(params), set(params), places)
    for name, path in needed.items():
        found = places.get(name, [])
        home = found[0].path if len(found) == 1 and name not in params else ()
        if home and path[: len(home)] == home:
            if found[0].looped:
                plan.at_end.setdefault(home[-1], []).append(name)
            continue
        for place in found:
            if name not in place.possible:
                continue
            plan.before.setdefault(place.node, []).append(name)
            if name not in place.certain and name not in plan.unset:
                plan.unset.append(name)
    return plan


def _find(
    block: Block, path: Path, looped: bool, certain: set[str], possible: set[str],
    places: dict[str, list[_Place]],
) -> None:  # fmt: skip
    for node in block.nodes:
        for name in set_by(node):
            here = _Place(node, path, looped, frozenset(certain), frozenset(possible))
            places.setdefault(name, []).append(here)
        certain.update(set_by(node))
        possible.update(set_by(node))
        if isinstance(node, Branch):
            first, second = set(certain), set(certain)
            one, other = set(possible), set(possible)
            _find(node.then, (*path, node.then), looped, first, one, places)
            _find(node.otherwise, (*path, node.otherwise), looped, second, other, places)
            certain |= first & second
            possible |= one | other
        elif isinstance(node, Loop):
            within = possible | {n for x in nodes_of(node.body) for n in set_by(x)}
            bound = set(writes([node.target])) if node.target is not None else set()
            _find(node.body, (*path, node.body), True, certain | bound, within | bound, places)
            possible |= within
