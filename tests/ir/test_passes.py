"""The pass driver: reports, stated order, and `cse`."""

from __future__ import annotations

import pytest

from rung.core import dtype as dt
from rung.core.errors import GraphError
from rung.core.settings import configure, settings
from rung.core.source import Source
from rung.ir.node import Graph, Value, make_graph, parameter, provenance
from rung.ir.passes import Options, Pass, cse, run_passes
from rung.ir.types import TensorType
from rung.ir.verify import merged, primitive
from rung.ops.elementwise import negative
from rung.ops.families import add
from rung.ops.softmax import log_softmax
from rung.ops.sorting import top_k
from rung.ops.transcendental import exp, sin
from rung.rules.decompose import decompose, decompose_except
from rung.rules.simplify import simplify

T = TensorType(dt.float32, (3,))
X = parameter(0, "x", T)


@pytest.fixture
def checked():
    before = settings()
    configure(verify=True)
    yield
    configure(verify=before.verify)


def on_line(line: int, build, *args) -> Value:
    with provenance(Source("/me/train.py", line)):
        return build(*args)


def graph_of(*outputs: Value) -> Graph:
    return make_graph("f", [X], outputs)


def test_reports(checked) -> None:
    graph = graph_of(log_softmax(negative(negative(X))))
    final, reports = run_passes(graph, [simplify, decompose, simplify, cse])
    assert [r.name for r in reports] == ["simplify", "decompose", "simplify", "cse"]
    assert reports[0].rules["double_negative"].hits == 1
    assert (reports[0].before, reports[0].after) == (4, 2)
    assert reports[0].describe().startswith("after simplify (4 -> 2 nodes, 1 rules fired, ")
    assert reports[-1].graph is final and primitive.holds(final)
    assert all(r.seconds >= 0 for r in reports)


def test_order_is_checked(checked) -> None:
    needs = Pass("fuse", lambda g, o, c: g, requires=(primitive,))
    graph = graph_of(log_softmax(X))
    message = "after what precedes fuse: composite: is not a primitive"
    with pytest.raises(GraphError, match=message):
        run_passes(graph, [needs])
    run_passes(graph, [decompose, needs])
    lazy = Pass("lazy", lambda g, o, c: g, establishes=(primitive,))
    with pytest.raises(GraphError, match="after lazy: composite: is not a primitive"):
        run_passes(graph, [lazy])


def test_nothing_is_checked_unless_asked() -> None:
    lazy = Pass("lazy", lambda g, o, c: g, Options(), establishes=(primitive,))
    assert not settings().verify
    run_passes(graph_of(log_softmax(X)), [lazy])


def test_a_back_end_may_claim_a_composite() -> None:
    graph = graph_of(exp(log_softmax(X)))
    assert decompose_except(frozenset({"log_softmax"}))(graph) is graph
    assert len(decompose(graph).nodes) > 6


def test_equal_nodes_become_one_and_the_first_source_stays() -> None:
    a, b = on_line(1, exp, X), on_line(2, exp, X)
    c, d = on_line(3, sin, a), on_line(4, sin, b)
    assert a is not b
    graph = cse(graph_of(on_line(5, add, c, d), d))
    assert merged.holds(graph)
    assert [n.op.name for n in graph.nodes] == ["parameter", "exp", "sin", "add"]
    assert [n.source.line for n in graph.nodes] == [0, 1, 3, 5]
    assert graph.outputs[1].node.source.line == 3
    assert cse(graph) is graph


def test_cse_of_nodes_with_several_results() -> None:
    def largest(x: Value) -> tuple[Value, ...]:
        return top_k.build([x], top_k.attrs(k=2, dim=0))

    first, second = on_line(1, largest, X), on_line(2, largest, X)
    graph = cse(graph_of(first[0], second[0], second[1]))
    assert len(graph.nodes) == 2
    assert graph.outputs[0] is graph.outputs[1]
