"""Makes a failing random graph small: fewer outputs, and parameters in place of what is before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rung.ir.interpret import evaluate
from rung.ir.node import PARAMETER, Value, make_graph, make_node, parameter, provenance
from rung.ir.op import Array
from tests.random_graphs import RandomGraph

Fails = Callable[[RandomGraph], bool]


def shrink(drawn: RandomGraph, fails: Fails) -> RandomGraph:
    """A small graph that fails too, made from one that fails."""
    found = drawn
    if found.aliases:
        found = _first([cut(found, found.graph.outputs, {}, ())], fails) or found
    for _ in range(len(found.graph.outputs)):
        fewer = (
            cut(found, [v for v in found.graph.outputs if v is not left], found.aliases, ())
            for left in found.graph.outputs
            if len(set(found.graph.outputs)) > 1
        )
        smaller = _first(fewer, fails)
        if smaller is None:
            break
        found = smaller
    results = [v for n in found.graph.nodes if n.op is not PARAMETER for v in n.results]
    found = _first((cut(found, [v], {}, ()) for v in results), fails) or found
    return _shorten(found, fails)


def _shorten(drawn: RandomGraph, fails: Fails) -> RandomGraph:
    """Make parameters of computed values, as late ones as possible."""
    found, position = drawn, 0
    while True:
        nodes = [n for n in found.graph.nodes if n.op is not PARAMETER]
        if position >= len(nodes):
            return found
        node = nodes[-1 - position]
        results = [v for v in node.results if v not in found.graph.outputs]
        if results and node.inputs:
            shorter = cut(found, found.graph.outputs, found.aliases, results)
            if fails(shorter):
                found = shorter
                continue
        position += 1


def _first(candidates: Iterable[RandomGraph], fails: Fails) -> RandomGraph | None:
    return next((c for c in candidates if fails(c)), None)


def cut(
    drawn: RandomGraph, outputs: Iterable[Value], aliases: dict[int, int], given: Iterable[Value]
) -> RandomGraph:
    """The graph of some outputs, in which the values `given` are parameters. Donations are kept
    where all the outputs are."""
    arrays = _arrays(drawn)
    outputs = list(outputs)
    new: dict[Value, Value] = {}
    inputs: list[Array] = []

    def parameter_for(v: Value) -> None:
        new[v] = parameter(len(inputs), f"x{len(inputs)}", v.type)
        inputs.append(arrays[v])

    keep = len(outputs) == len(drawn.graph.outputs)
    wanted = make_graph("random", drawn.graph.params, outputs)
    given = set(given)
    alive = _needed(outputs, given)
    for v in drawn.graph.params:
        if keep or v in alive:
            parameter_for(v)
    for node in wanted.nodes:
        if node.op is PARAMETER or not any(v in alive for v in node.results):
            continue
        if any(v in given for v in node.results):
            for v in node.results:
                parameter_for(v)
            continue
        with provenance(node.source):
            results = make_node(node.op, tuple(new[v] for v in node.inputs), node.attrs)
        new.update(zip(node.results, results, strict=True))
    graph = make_graph("random", [new[v] for v in new if new[v].node.op is PARAMETER],
                       [new[v] for v in outputs])  # fmt: skip
    exact = {new[v]: e for v, e in drawn.exact.items() if v in new}
    return RandomGraph(drawn.seed, graph, tuple(inputs), exact, aliases if keep else {})


def _needed(outputs: Iterable[Value], given: set[Value]) -> set[Value]:
    found: set[Value] = set()
    stack = list(outputs)
    while stack:
        v = stack.pop()
        if v not in found:
            found.add(v)
            if v not in given:
                stack.extend(v.node.inputs)
    return found


def _arrays(drawn: RandomGraph) -> dict[Value, Array]:
    values: dict[Value, Array] = dict(zip(drawn.graph.params, drawn.inputs, strict=True))
    for node in drawn.graph.nodes:
        if node.op is not PARAMETER:
            results = evaluate(node, [values[v] for v in node.inputs])
            values.update(zip(node.results, results, strict=True))
    return values
