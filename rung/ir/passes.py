"""Passes: named functions from graph to graph, and the driver that runs a list of them.

A pass states the predicates that it requires and establishes, so that the order of a pipeline is
stated and checked (with the setting `verify`) instead of known. `cse` stands here; dead code falls
away by itself, because a graph is what its outputs reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.core.settings import settings
from rung.ir.node import (
    PARAMETER,
    Graph,
    Value,
    keeping_sources,
    make_graph,
    make_node,
    provenance,
)
from rung.ir.rule import Counts, RuleSet, rewrite
from rung.ir.verify import Predicate, merged, verify


@dataclass(frozen=True)
class Options:
    """Base of the options of a pass: a frozen dataclass."""


@dataclass(frozen=True)
class Pass:
    """A named pure function: `run(graph, options, counts)` gives the new graph and may add rule
    counts. It needs `requires` of its graph, and its result has `establishes`."""

    name: str
    run: Callable[[Graph, Any, Counts], Graph]
    options: Options = Options()
    requires: tuple[Predicate, ...] = ()
    establishes: tuple[Predicate, ...] = ()

    def __call__(self, graph: Graph) -> Graph:
        """The graph after this pass alone."""
        return self.run(graph, self.options, {})


@dataclass(frozen=True)
class PassReport:
    """What a pass did: numbers of nodes before and after, seconds, the counts of its rules, and the
    graph that came out."""

    name: str
    before: int
    after: int
    seconds: float
    rules: Counts = field(repr=False)
    graph: Graph = field(repr=False)

    def describe(self) -> str:
        """`after simplify (120 -> 87 nodes, 21 rules fired, 0.4 ms)`"""
        hits = sum(count.hits for count in self.rules.values())
        fired = f", {hits} rules fired" if self.rules else ""
        nodes = f"{self.before} -> {self.after} nodes"
        return f"after {self.name} ({nodes}{fired}, {self.seconds * 1e3:.1f} ms)"


@keeping_sources
def run_passes(graph: Graph, passes: Sequence[Pass]) -> tuple[Graph, list[PassReport]]:
    """The graph after all `passes`, in order, and a report of each. With the setting `verify`,
    raises GraphError when a graph is ill-formed or lacks what a pass requires or establishes."""
    reports = []
    for p in passes:
        graph, report = run_pass(graph, p)
        reports.append(report)
    return graph, reports


def run_pass(graph: Graph, p: Pass) -> tuple[Graph, PassReport]:
    """The graph after one pass, and its report; see `run_passes`."""
    checked = settings().verify
    if checked:
        verify(graph, p.requires, after=f"what precedes {p.name}")
    counts: Counts = {}
    start = time.perf_counter()
    new = p.run(graph, p.options, counts)
    seconds = time.perf_counter() - start
    if checked:
        verify(new, p.establishes, after=p.name)
    return new, PassReport(p.name, len(graph.nodes), len(new.nodes), seconds, counts, new)


# ---- rewriting passes


@dataclass(frozen=True)
class RewriteOptions(Options):
    """`fuel` is the greatest number of hits before the rules are taken not to end; None is in
    proportion to the graph."""

    fuel: int | None = None


def rewriting(
    name: str,
    rules: RuleSet,
    *,
    options: RewriteOptions = RewriteOptions(),
    requires: tuple[Predicate, ...] = (),
    establishes: tuple[Predicate, ...] = (),
) -> Pass:
    """A pass that applies `rules` until none applies."""

    def run(graph: Graph, options: RewriteOptions, counts: Counts) -> Graph:
        return rewrite(graph, rules, options.fuel, counts)

    return Pass(name, run, options, requires, establishes)


# ---- common subexpressions


def merge_equal(graph: Graph) -> Graph:
    """`graph` with one node for all that compute the same from the same operands; it keeps the
    source of the first."""
    moved: dict[Value, Value] = {}
    first: dict[tuple[object, ...], tuple[Value, ...]] = {}
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        inputs = tuple(moved.get(v, v) for v in node.inputs)
        key = (node.op, inputs, node.attrs)
        results = first.get(key)
        if results is None:
            results = node.results
            if inputs != node.inputs:
                with provenance(node.source):
                    results = make_node(node.op, inputs, node.attrs)
            first[key] = results
        if results[0].node is not node:
            moved.update(zip(node.results, results, strict=True))
    if not moved:
        return graph
    return make_graph(graph.name, graph.params, [moved.get(v, v) for v in graph.outputs])


cse = Pass("cse", lambda graph, options, counts: merge_equal(graph), establishes=(merged,))
