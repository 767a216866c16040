"""A hash of what a graph computes, the same in every process."""

from __future__ import annotations

import hashlib

from rung.ir.literal import Printing, fields_text, sub_graphs
from rung.ir.node import PARAMETER, Graph, Value
from rung.ir.op import Attrs

_BARE = Printing({}, False, 0)


def graph_digest(graph: Graph) -> str:
    """Hash (hex) of the ops, attributes, types and order of a graph: equal for graphs that differ
    only in names and source lines.

    Raises GraphError if an attribute has no text form."""
    numbers: dict[Value, int] = {}
    texts: dict[int, str] = {}  # by identity: 0.0 and -0.0 are equal
    lines: list[str] = []
    for v in graph.params:
        numbers[v] = len(numbers)
        lines.append(str(v.type))
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        attrs = texts.get(id(node.attrs))
        if attrs is None:
            attrs = texts[id(node.attrs)] = _attrs_text(node.attrs)
        lines.append(f"{node.op.name} {attrs} {[numbers[v] for v in node.inputs]}")
        for v in node.results:
            numbers[v] = len(numbers)
    lines.append(str([numbers[v] for v in graph.outputs]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _attrs_text(attrs: Attrs) -> str:
    inner = {sub: graph_digest(sub) for sub in sub_graphs(attrs)}
    return ",".join(fields_text(attrs, _BARE if not inner else Printing(inner, False, 0)))
