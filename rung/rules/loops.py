"""Loops without what nobody reads, and one loop for two that do the same.

A reverse derivative performs a loop once more to keep what it wants to know; when the program has
both loops, one that gives everything is enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, cast

from rung.ir.node import PARAMETER, Graph, Node, Value, make_graph, make_node, provenance
from rung.ir.passes import Pass
from rung.ops.control import ScanAttrs, scan


def trim_loops(graph: Graph) -> Graph:
    """`graph` with loops merged whose bodies begin alike, and without results that nobody reads."""
    if not any(node.op is scan for node in graph.nodes):
        return graph
    return _without_unread(_with_merged(graph))


def _with_merged(graph: Graph) -> Graph:
    """Loops over the same operands of which one gives all that another one gives, and more."""
    alike: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op is scan:
            attrs = cast(ScanAttrs, node.attrs)
            key = (node.inputs, attrs.body.params, replace(attrs, body=_NOTHING))
            alike[key].append(node)
    instead: dict[Node, Node] = {}
    for nodes in alike.values():
        whole = max(nodes, key=lambda n: len(n.types))
        outputs = cast(ScanAttrs, whole.attrs).body.outputs
        for node in nodes:
            mine = cast(ScanAttrs, node.attrs).body.outputs
            if node is not whole and outputs[: len(mine)] == mine:
                instead[node] = whole
    if not instead:
        return graph
    return _rebuilt(graph, lambda node, inputs: _built(instead.get(node, node), inputs))


def _without_unread(graph: Graph) -> Graph:
    read = {v for node in graph.nodes for v in node.inputs} | set(graph.outputs)

    def build(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        attrs = node.attrs
        if not isinstance(attrs, ScanAttrs):
            return _built(node, inputs)
        kept = [k for k, r in enumerate(node.results) if k < attrs.carries or r in read]
        if not kept or len(kept) == len(node.types):
            return _built(node, inputs)
        body = attrs.body
        shorter = make_graph(body.name, body.params, [body.outputs[k] for k in kept])
        with provenance(node.source):
            made = make_node(scan, inputs, replace(attrs, body=shorter))
        place = dict(zip(kept, made, strict=True))
        return [place.get(k, made[0]) for k in range(len(node.types))]

    return _rebuilt(graph, build)


def _built(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
    if inputs == node.inputs:
        return node.results
    with provenance(node.source):
        return make_node(node.op, inputs, node.attrs)


def _rebuilt(graph: Graph, build: Callable[[Node, tuple[Value, ...]], Sequence[Value]]) -> Graph:
    """`graph` with each node made by `build(node, inputs)`, operands before users."""
    moved: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op is not PARAMETER:
            made = build(node, tuple(moved.get(v, v) for v in node.inputs))
            moved.update(zip(node.results, made, strict=False))
    return make_graph(graph.name, graph.params, [moved.get(v, v) for v in graph.outputs])


_NOTHING: Final = make_graph("", (), ())

loops: Final = Pass("loops", lambda graph, options, counts: trim_loops(graph))
