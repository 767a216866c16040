"""The composite op itself: named nodes, bodies, provenance, optional operands."""

from __future__ import annotations

import numpy as np
import pytest
from function_cases import graph_of, run

from rung.core import dtype as dt
from rung.core.errors import AxisError, GraphError
from rung.ir.interpret import interpret
from rung.ir.node import Value, make_graph, parameter, topological_order
from rung.ir.parse import parse_graph
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.ops.activation import sigmoid
from rung.ops.attention import attention
from rung.ops.composite import COMPOSITE, CompositeAttrs, composite, composite_with_jvp, inline
from rung.ops.elementwise import multiply
from rung.ops.families import add
from rung.ops.parse import parse
from rung.ops.pooling import avg_pool
from rung.ops.shorthand import times
from rung.ops.softmax import log_softmax
from rung.ops.table import OPS
from rung.transform.grad import vjp_graph
from rung.transform.jvp import jvp_graph

ROW = TensorType(dt.float32, (3, 4))


@composite
def scaled_sum(x: Value, y: Value | None = None, *, factor: float = 2.0) -> Value:
    """factor * x, plus y if there is one."""
    scaled = times(x, factor)
    return scaled if y is None else add(scaled, y)


@composite
def both_ways(x: Value) -> tuple[Value, ...]:
    """Twice x, and x squared."""
    return add(x, x), multiply(x, x)


def test_a_composite_is_one_node_that_keeps_its_name():
    x = parameter(0, "x", ROW)
    y = log_softmax(x, dim=1)
    attrs = y.node.attrs
    assert y.node.op is COMPOSITE
    assert isinstance(attrs, CompositeAttrs)
    assert (attrs.name, attrs.static) == ("log_softmax", (("dim", 1),))
    assert attrs.body.name == "log_softmax"
    assert y.type == ROW


def test_bodies_are_traced_once_for_each_type_and_attribute():
    x, z = parameter(0, "x", ROW), parameter(0, "z", TensorType(dt.float32, (2,)))
    first, second = scaled_sum(x, factor=3.0), scaled_sum(x, factor=3.0)
    assert first.node.attrs.body is second.node.attrs.body
    assert scaled_sum(x, factor=4.0).node.attrs.body is not first.node.attrs.body
    assert scaled_sum(z, factor=3.0).node.attrs.body is not first.node.attrs.body


def test_a_tangent_rule_of_its_own():
    """It is taken in both directions, prints, and reads back; the body is what is computed."""

    def thrice(x: Value, y: Value, dx: Value) -> Value:
        return multiply(times(y, 3.0), dx)

    @composite_with_jvp(thrice)
    def squared(x: Value) -> Value:
        return multiply(x, x)

    x = parameter(0, "x", ROW)
    graph = make_graph("graph", [x], [squared(x)])
    assert parse(graph_text(graph)) is graph
    at, direction = np.float32(np.arange(12).reshape(3, 4)), np.ones((3, 4), np.float32)
    for derivative in (jvp_graph(graph, [0]), vjp_graph(graph, [0])):
        assert parse(graph_text(derivative)) is derivative
        value, slope = interpret(derivative, [at, direction])
        np.testing.assert_array_equal(value, at**2)
        np.testing.assert_array_equal(slope, 3 * at**2)


@pytest.mark.parametrize("dtype", [dt.float16, dt.bfloat16, dt.float32, dt.float64])
def test_the_rule_of_sigmoid_is_its_derivative(dtype):
    x = np.linspace(-30, 30, 121).astype(dtype.numpy)
    graph = graph_of(sigmoid, [TensorType(dtype, x.shape)])
    slope = interpret(jvp_graph(graph, [0]), [x, np.ones_like(x)])[1]
    wide = x.astype(np.float64)
    wanted = np.exp(-np.abs(wide)) / (1 + np.exp(-np.abs(wide))) ** 2
    eps = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24, "f64": 2.0**-53}[dtype.name]
    np.testing.assert_allclose(slope.astype(np.float64), wanted, rtol=0, atol=2 * eps)
    assert np.all(np.isfinite(slope.astype(np.float64)))


def test_optional_operands_may_be_left_out():
    x, y = np.float32([1, 2]), np.float32([10, 20])
    assert run(scaled_sum, x).tolist() == [2, 4]
    assert run(scaled_sum, x, y).tolist() == [12, 24]
    assert run(lambda a, b: scaled_sum(a, y=b, factor=3.0), x, y).tolist() == [13, 26]


def test_several_results():
    graph = graph_of(both_ways, [ROW])
    assert [v.index for v in graph.outputs] == [0, 1]
    assert graph.outputs[0].node is graph.outputs[1].node


def test_inlined_nodes_name_the_line_and_the_composites():
    x = parameter(0, "x", TensorType(dt.float32, (2, 3, 4, 8)))
    y = attention(x, x, x, parameter(1, "mask", TensorType(dt.bool_, (4, 4))))
    line = y.node.source
    assert line.file == __file__
    (result,) = inline(y.node.attrs.body, y.node.inputs, "attention")
    inner = [n for n in topological_order([result]) if n.op is COMPOSITE]
    assert [n.attrs.name for n in inner] == ["masked_softmax"]
    assert inner[0].source.via == "attention"
    (probabilities,) = COMPOSITE.decompose(inner[0].attrs, inner[0].inputs)
    assert probabilities.node.source.via.endswith("masked_softmax")
    assert probabilities.node.source.file == __file__


def test_decomposed_and_whole_give_the_same():
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    whole = run(log_softmax, x)
    parts = run(lambda v: inline(log_softmax(v).node.attrs.body, [v], "log_softmax")[0], x)
    assert np.array_equal(whole, parts)


def test_text_of_a_graph_with_composites_reads_back_as_itself():
    x = TensorType(dt.bfloat16, (2, 5, 8))
    graph = graph_of(lambda q: attention(q, q, q, causal=True), [x])
    assert parse_graph(graph_text(graph), OPS) is graph


def test_a_body_takes_its_types_only():
    x = parameter(0, "x", ROW)
    body = log_softmax(x).node.attrs.body
    with pytest.raises(GraphError, match=r"log_softmax: takes \[f32\[3,4\]\], got \[f32\[2\]\]"):
        inline(body, [parameter(0, "z", TensorType(dt.float32, (2,)))], "log_softmax")


def test_errors_of_the_body_are_on_the_line_of_the_call():
    x = parameter(0, "x", ROW)
    with pytest.raises(AxisError) as caught:
        log_softmax(x, dim=2)
    assert caught.value.message == "log_softmax: dim 2 is out of range for x f32[3,4]"
    assert caught.value.fix == "dims go from -2 to 1"
    assert caught.value.source.file == __file__


def test_attributes_are_kept_in_a_plain_form():
    x = parameter(0, "x", TensorType(dt.float32, (1, 1, 4, 4)))
    pooled = avg_pool(x, size=[2, np.int64(2)], count_include_pad=np.bool_(True))
    static = dict(pooled.node.attrs.static)
    assert repr(static["size"]) == "(2, 2)"
    assert static["count_include_pad"] is True


def test_what_is_neither_operand_nor_attribute_is_refused():
    x = parameter(0, "x", ROW)
    with pytest.raises(GraphError, match=r"scaled_sum: y is 1.5, not a value of a graph"):
        scaled_sum(x, 1.5)
    with pytest.raises(
        GraphError, match=r"log_softmax: dim=<parameter f32\[3,4\]> is not an attribute"
    ):
        log_softmax(x, dim=x)
