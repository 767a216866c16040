"""Loops without what nobody reads, and one loop for two that do the same.

A reverse derivative performs a loop once more to keep what it wants to know; when the program has
both loops, one that gives everything is enough. What it keeps may be the same value twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final, cast

from rung.ir.node import (
    PARAMETER,
    Graph,
    Node,
    Value,
    make_graph,
    make_node,
    provenance,
    topological_order,
)
from rung.ir.passes import Pass, cse
from rung.ir.subgraph import subgraph
from rung.ops.control import ScanAttrs, scan
from rung.rules.decompose import decompose
from rung.rules.simplify import simplify


def trim_loops(graph: Graph) -> Graph:
    """`graph` with loops merged whose bodies begin alike, without operands and results that nobody
    reads."""
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
    """`graph` whose loops give and take only what somebody reads, and each of it once."""
    trimmed: dict[Node, _Trimmed] = {}
    read = set(graph.outputs)
    for node in reversed(graph.nodes):
        if any(r in read for r in node.results):
            if node.op is scan:
                trimmed[node] = _trimmed(node, read)
            read.update(trimmed[node].read(node) if node in trimmed else node.inputs)

    def build(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        return trimmed[node].build(node, inputs) if node in trimmed else _built(node, inputs)

    return _rebuilt(graph, build)


@dataclass(frozen=True)
class _Trimmed:
    """What is left of a loop: its attributes, the numbers of the operands that it takes, and for
    each old result the number of a new one, or that of the operand that it equals."""

    attrs: ScanAttrs
    operands: tuple[int, ...]
    results: Mapping[int, int]
    equal: Mapping[int, int]

    def read(self, node: Node) -> set[Value]:
        """The operands of `node` that are still wanted."""
        return {node.inputs[i] for i in (*self.operands, *self.equal.values())}

    def build(self, node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        """What stands for the results of `node`, now on `inputs`."""
        made: Sequence[Value] = ()
        if self.results:
            with provenance(node.source):
                made = make_node(scan, tuple(inputs[i] for i in self.operands), self.attrs)
        new = {k: made[n] for k, n in self.results.items()}
        new |= {k: inputs[i] for k, i in self.equal.items()}
        return [new.get(k, r) for k, r in enumerate(node.results)]


def _trimmed(node: Node, read: Set[Value]) -> _Trimmed:
    """The loop `node` when `read` is wanted. Slices that are stacked again as they come are the
    operand; of equal stacks there is one."""
    attrs = cast(ScanAttrs, node.attrs)
    body, first = attrs.body, attrs.constants + attrs.carries
    outputs = cse(simplify(decompose(body))).outputs
    slices = {p: i for i, p in enumerate(body.params) if i >= first}
    kept = list(range(attrs.carries))
    results = {k: k for k in kept}
    equal: dict[int, int] = {}
    stack: dict[Value, int] = {}
    for k in range(attrs.carries, len(outputs)):
        v = outputs[k]
        if node.results[k] not in read:
            continue
        if v in slices:
            equal[k] = slices[v]
            continue
        if v not in stack:
            stack[v] = len(kept)
            kept.append(k)
        results[k] = stack[v]
    wanted = [body.outputs[k] for k in kept]
    used, carried = set(topological_order(wanted)), range(attrs.constants, first)
    operands = [i for i, p in enumerate(body.params) if i in carried or p.node in used]
    shorter = subgraph(body.name, wanted, [body.params[i] for i in operands])
    constants = sum(i < attrs.constants for i in operands)
    new = replace(attrs, body=shorter, constants=constants)
    return _Trimmed(new, tuple(operands), results, equal)


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
