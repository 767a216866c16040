"""The verifier: each broken graph with its message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rung.core import dtype as dt
from rung.core.errors import GraphError
from rung.core.source import Source
from rung.ir.node import Graph, Node, Value, make_graph, parameter, provenance
from rung.ir.op import NO_ATTRS
from rung.ir.types import TensorType
from rung.ir.verify import PREDICATES, float_outputs, merged, primitive, verify
from rung.ops.elementwise import less
from rung.ops.families import add
from rung.ops.softmax import log_softmax
from rung.ops.transcendental import exp

T = TensorType(dt.float32, (3,))
X = parameter(0, "x", T)
LINE = Source("/me/train.py", 12)


def forged(op: object, inputs: tuple[Value, ...], types: tuple[TensorType, ...]) -> Value:
    """A value whose node did not pass the checks of `make_node`."""
    return Node(op, inputs, NO_ATTRS, LINE, types).results[0]  # type: ignore[arg-type]


def graph_of(*outputs: Value) -> Graph:
    return make_graph("f", [X], outputs)


def test_good_graphs_pass() -> None:
    verify(graph_of(add(exp(X), X), log_softmax(X)))
    verify(graph_of(exp(X)), PREDICATES)


BROKEN = {
    "exp: result 0 is f32[4], but its type rule gives f32[3]\n  at train.py:12": lambda: forged(
        exp, (X,), (TensorType(dt.float32, (4,)),)
    ),
    "exp: has 2 results, its type rule gives 1": lambda: forged(exp, (X,), (T, T)),
    "add: takes 2 operands, got 1": lambda: forged(add, (X,), (T,)),
    "add: its operands do not fit: add: takes integers and floats, but y is bool[3]": lambda: (
        forged(add, (X, less(X, X)), (T,))
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_types(message: str) -> None:
    with pytest.raises(GraphError) as caught:
        verify(graph_of(BROKEN[message]()))
    text = str(caught.value)
    assert text.startswith(message) or message in text


def broken_graph(order: tuple[Node, ...], output: Value) -> Graph:
    """A graph of one parameter that did not pass the checks of `make_graph`."""
    graph = Graph()
    graph.name, graph.params, graph.outputs, graph._order = "f", (X,), (output,), order
    return graph


def test_open_graphs() -> None:
    y = add(X, parameter(1, "y", T))
    graph = broken_graph((X.node, y.node.inputs[1].node, y.node), y)
    with pytest.raises(GraphError, match=r"name='y', .* is not a parameter of graph f"):
        verify(graph)


def test_disordered_graphs() -> None:
    a = exp(X)
    b = exp(a)
    message = r"exp: operand 0 \(<exp f32\[3\]>\) is not computed before it"
    with pytest.raises(GraphError, match=message):
        verify(broken_graph((X.node, b.node, a.node), b))
    with pytest.raises(GraphError, match=r"graph f: output 0 .* is not computed"):
        verify(broken_graph((X.node, a.node), b))


def test_predicates() -> None:
    with provenance(LINE):
        a = exp(X)
    with provenance(replace(LINE, line=13)):
        b = exp(X)
    twice = graph_of(add(a, b))
    with pytest.raises(GraphError) as caught:
        verify(twice, [merged], after="cse")
    assert str(caught.value).startswith(
        "after cse: exp: computes the same as train.py:12\n  at train.py:13"
    )
    assert not merged.holds(twice) and merged.holds(graph_of(a))
    with pytest.raises(GraphError, match="composite: is not a primitive; it must be decomposed"):
        primitive.check(graph_of(log_softmax(X)))
    with pytest.raises(GraphError, match=r"graph f: output 1 is bool\[3\], not a float"):
        float_outputs.check(graph_of(a, less(X, X)))


def test_sub_graphs_are_verified() -> None:
    node = log_softmax(X).node
    bad = forged(exp, (X,), (TensorType(dt.float32, (3,)),))
    body = make_graph("log_softmax", [X], [add(bad, bad)])
    composite = node.op.build([X], replace(node.attrs, body=body))[0]
    verify(graph_of(composite))
    worse = make_graph("log_softmax", [X], [forged(exp, (forged(add, (X,), (T,)),), (T,))])
    with pytest.raises(GraphError, match="add: takes 2 operands, got 1"):
        verify(graph_of(node.op.build([X], replace(node.attrs, body=worse))[0]))
