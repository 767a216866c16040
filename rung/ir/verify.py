"""What holds of a graph, as named predicates, and a verifier that says where one does not.

A pass states the predicates that it requires and establishes; the pass driver checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rung.core.errors import GraphError, RungError
from rung.ir.literal import sub_graphs
from rung.ir.node import PARAMETER, Graph, Node, Value


@dataclass(frozen=True)
class Predicate:
    """A property of graphs: `check` raises GraphError, at the node, where it does not hold."""

    name: str
    doc: str
    check: Callable[[Graph], None]

    def holds(self, graph: Graph) -> bool:
        """Whether the property holds."""
        try:
            self.check(graph)
        except GraphError:
            return False
        return True


def verify(graph: Graph, predicates: Sequence[Predicate] = (), after: str = "") -> None:
    """Raise GraphError unless `graph` and its sub-graphs have the right structure (STRUCTURE) and
    `graph` has `predicates`; `after` names the pass that made it."""
    try:
        for predicate in (*STRUCTURE, *predicates):
            predicate.check(graph)
    except GraphError as e:
        if not after:
            raise
        raise GraphError(f"after {after}: {e.message}", fix=e.fix, source=e.source) from e


def failure(node: Node, message: str) -> GraphError:
    """A GraphError about a node, at the user's line that it comes from."""
    return GraphError(f"{node.op.name}: {message}", source=node.source)


def _check_order(graph: Graph) -> None:
    known: set[Value] = set(graph.params)
    for node in graph.nodes:
        for position, v in enumerate(node.inputs):
            if v not in known:
                raise failure(node, f"operand {position} ({v!r}) is not computed before it")
        known.update(node.results)
    for position, v in enumerate(graph.outputs):
        if v not in known:
            raise GraphError(f"graph {graph.name}: output {position} ({v!r}) is not computed")


def _check_closed(graph: Graph) -> None:
    params = set(graph.params)
    for node in graph.nodes:
        if node.op is PARAMETER and node.results[0] not in params:
            raise failure(node, f"{node.attrs} is not a parameter of graph {graph.name}")


def _check_types(graph: Graph) -> None:
    for node in graph.nodes:
        check_node(node)
        for sub in sub_graphs(node.attrs):
            for predicate in STRUCTURE:
                predicate.check(sub)


def check_node(node: Node) -> None:
    """Raise GraphError unless the types of a node are those that its op's type rule gives."""
    op = node.op
    if op.arity is not None and len(node.inputs) != op.arity:
        raise failure(node, f"takes {op.arity} operands, got {len(node.inputs)}")
    try:
        types = op.type(node.attrs, [v.type for v in node.inputs])
    except RungError as e:
        raise failure(node, f"its operands do not fit: {e.message}") from e
    for position, (found, wanted) in enumerate(zip(node.types, types, strict=False)):
        if found != wanted:
            raise failure(node, f"result {position} is {found}, but its type rule gives {wanted}")
    if len(types) != len(node.types):
        raise failure(node, f"has {len(node.types)} results, its type rule gives {len(types)}")


def _check_primitive(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op.decompose is not None:
            raise failure(node, "is not a primitive; it must be decomposed first")


def _check_merged(graph: Graph) -> None:
    seen: dict[tuple[object, ...], Node] = {}
    for node in graph.nodes:
        first = seen.setdefault((node.op, node.inputs, node.attrs), node)
        if first is not node:
            place = first.source.describe() if first.source.line else "another node"
            raise failure(node, f"computes the same as {place}")


def _check_float_only(graph: Graph) -> None:
    for position, v in enumerate(graph.outputs):
        if not v.type.dtype.is_float:
            raise GraphError(f"graph {graph.name}: output {position} is {v.type}, not a float")


ordered: Final = Predicate("ordered", "Operands are computed before their users.", _check_order)
closed: Final = Predicate("closed", "Every parameter used is one of the graph's.", _check_closed)
well_typed: Final = Predicate(
    "well_typed", "Every result has the type that its op's type rule gives.", _check_types
)
primitive: Final = Predicate(
    "primitive", "No composites, and no ops that are always decomposed.", _check_primitive
)
merged: Final = Predicate(
    "merged", "No two nodes compute the same from the same operands.", _check_merged
)
float_outputs: Final = Predicate("float_outputs", "Every output is a float.", _check_float_only)

STRUCTURE: Final = (ordered, closed, well_typed)
PREDICATES: Final = (*STRUCTURE, primitive, merged, float_outputs)
