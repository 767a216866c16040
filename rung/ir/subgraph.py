"""Cutting a graph out of values: what `outputs` are, as a function of some `given` values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rung.core.errors import GraphError
from rung.ir.node import (
    PARAMETER,
    Graph,
    Node,
    ParameterAttrs,
    Value,
    make_graph,
    make_node,
    parameter,
    provenance,
)


def subgraph(name: str, outputs: Sequence[Value], given: Sequence[Value]) -> Graph:
    """The graph that computes `outputs` from `given`, which become its parameters in order.

    Whatever else the outputs need is computed in it. Raises GraphError where that is a parameter
    of another graph."""
    for node in between(outputs, given):
        if node.op is PARAMETER:
            raise GraphError(f"{node.attrs} is not among the values that are given")
    params = [parameter(i, _name(v, i), v.type) for i, v in enumerate(given)]
    return make_graph(name, params, moved_values(outputs, dict(zip(given, params, strict=True))))


def moved_values(outputs: Sequence[Value], known: dict[Value, Value]) -> list[Value]:
    """`outputs` with the values of `known` replaced, made anew as far as that matters; `known` gets
    all values that were made."""
    for node in between(outputs, known):
        inputs = tuple(known.get(v, v) for v in node.inputs)
        results = node.results
        if inputs != node.inputs:
            with provenance(node.source):
                results = make_node(node.op, inputs, node.attrs)
        for old, new in zip(node.results, results, strict=True):
            known.setdefault(old, new)
    return [known[v] for v in outputs]


def between(outputs: Iterable[Value], given: Iterable[Value]) -> list[Node]:
    """The nodes that lead from the values `given` to `outputs`, and those that need none of them,
    operands before users."""
    edge = set(given)
    order: list[Node] = []
    done: set[Node] = set()
    stack = [(v.node, False) for v in outputs if v not in edge]
    stack.reverse()
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((v.node, False) for v in reversed(node.inputs) if v not in edge)
    return order


def dependent(nodes: Iterable[Node], given: Iterable[Value]) -> set[Value]:
    """The values among the results of `nodes` (operands before users) that depend on `given`, and
    these."""
    found = set(given)
    for node in nodes:
        if any(v in found for v in node.inputs):
            found.update(node.results)
    return found


def reached(output: Value, given: Collection[Value]) -> list[Value]:
    """The values of `given` that lead to `output`."""
    nodes = between([output], given)
    read = dict.fromkeys(v for n in nodes for v in n.inputs if v in given)
    return [output] if output in given else list(read)


def _name(v: Value, number: int) -> str:
    attrs = v.node.attrs
    return attrs.name if isinstance(attrs, ParameterAttrs) else f"x{number}"
