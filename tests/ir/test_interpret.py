"""The graph interpreter: values, what it refuses, and that it lets dead values go."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.errors import GraphError, LoweringError
from rung.ir.interpret import body_graph, body_reference, interpret, op_body
from rung.ir.node import Value, make_graph, parameter
from rung.ir.op import NO_ATTRS
from rung.ir.types import TensorType
from rung.ops.elementwise import multiply
from rung.ops.families import add
from rung.ops.softmax import softmax
from rung.ops.sorting import top_k
from rung.ops.transcendental import exp

T = TensorType(dt.float32, (3,))
X = parameter(0, "x", T)
DATA = np.array([1.0, 2.0, 4.0], np.float32)


def test_values() -> None:
    y = add(multiply(X, X), X)
    (found,) = interpret(make_graph("f", [X], [y]), [DATA])
    np.testing.assert_array_equal(found, DATA * DATA + DATA)


def test_several_results_repeated_and_plain_outputs() -> None:
    values, indices = top_k.build([X], top_k.attrs(k=2, dim=0))
    graph = make_graph("f", [X, parameter(1, "unused", T)], [indices, X, values, indices])
    found = interpret(graph, [DATA, DATA])
    assert [a.tolist() for a in found] == [[2, 1], [1.0, 2.0, 4.0], [4.0, 2.0], [2, 1]]


def test_composites() -> None:
    (found,) = interpret(make_graph("f", [X], [softmax(X)]), [DATA])
    e = np.exp(DATA - DATA.max())
    np.testing.assert_allclose(found, e / e.sum(), rtol=1e-6)


def test_dead_values_are_freed() -> None:
    alive: list[int] = []
    made: list[weakref.ref[np.ndarray]] = []

    def ref(attrs: object, operands: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        result = operands[0] + 1
        made.append(weakref.ref(result))
        alive.append(sum(r() is not None for r in made))
        return (result,)

    counted = replace(exp, name="counted", ref=ref)
    h: Value = X
    for _ in range(20):
        h = counted(h)
    interpret(make_graph("f", [X], [h]), [DATA])
    assert len(alive) == 20
    assert max(alive) <= 3


def test_bodies() -> None:
    def decompose(attrs: object, inputs: list[Value]) -> tuple[Value, ...]:
        return (multiply(exp(inputs[0]), inputs[1]),)

    graph = body_graph("f", decompose, NO_ATTRS, [T, T])
    assert [n.op.name for n in graph.nodes] == ["parameter", "parameter", "exp", "multiply"]
    (found,) = body_reference("f", decompose)(NO_ATTRS, [DATA, DATA])
    np.testing.assert_allclose(found, np.exp(DATA) * DATA)
    node = softmax(X).node
    assert op_body(node.op, node.attrs, (T,)) is op_body(node.op, node.attrs, (T,))
    with pytest.raises(LoweringError, match="exp: is a primitive and has no body"):
        op_body(exp, NO_ATTRS, (T,))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "graph f: takes 1 arguments, got 0"),
        ([DATA[:2]], r"is float32\[2\], not f32\[3\]"),
        ([DATA.astype(np.float64)], r"is float64\[3\], not f32\[3\]"),
    ],
)
def test_arguments_must_fit(args: list[np.ndarray], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        interpret(make_graph("f", [X], [exp(X)]), args)


def test_a_wrong_reference_is_caught() -> None:
    wrong = replace(exp, name="wrong", ref=lambda attrs, operands: (operands[0][:1],))
    with pytest.raises(GraphError, match=r"wrong: result 0 of ref is float32\[1\], not f32\[3\]"):
        interpret(make_graph("f", [X], [wrong(X)]), [DATA])
    none = replace(exp, name="none", ref=lambda attrs, operands: ())
    with pytest.raises(GraphError, match="none: ref gives 0 of 1 results"):
        interpret(make_graph("f", [X], [none(X)]), [DATA])
