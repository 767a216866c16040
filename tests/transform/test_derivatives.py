"""Derivatives of graphs: reverse against forward, forward against differences, and their errors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.errors import GradientError, ShapeError
from rung.core.source import Source
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value, make_graph, parameter, provenance
from rung.ir.op import Array, Op, Sample
from rung.ir.passes import cse
from rung.ir.text import graph_text
from rung.ir.types import TensorType, array_type
from rung.ir.verify import verify
from rung.ops.activation import gelu, sigmoid
from rung.ops.broadcast import broadcasted, reduce_sum
from rung.ops.contraction import matmul
from rung.ops.creation import full, zeros_like
from rung.ops.elementwise import (
    bitcast,
    cast,
    ceil,
    floor,
    maximum,
    multiply,
    round_,
    sign,
    subtract,
    trunc,
    where,
)
from rung.ops.families import add
from rung.ops.gradient import stop_gradient
from rung.ops.parse import parse
from rung.ops.reduction import argmax
from rung.ops.softmax import log_softmax, softmax
from rung.ops.sorting import top_k
from rung.ops.table import OPS
from rung.ops.transcendental import exp, sin, tanh
from rung.rules.decompose import decompose
from rung.rules.simplify import simplify
from rung.transform.grad import grad_graph, vjp_graph, vjp_values
from rung.transform.jvp import jvp_graph, jvp_values
from rung.transform.transpose import transpose_values

F64 = dt.float64


def param(index: int, shape: tuple[int, ...] = (2, 3), dtype: dt.DType = F64) -> Value:
    return parameter(index, f"x{index}", TensorType(dtype, shape))


def draw(graph: Graph, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.uniform(0.3, 0.9, p.shape) if p.dtype.is_float
                   else rng.integers(0, 2, p.shape)).astype(p.dtype.numpy)
        for p in graph.params
    ]  # fmt: skip


def check(graph: Graph, args: list[Array], wrt: list[int], differences: bool = True) -> None:
    """⟨ȳ, J ẋ⟩ = ⟨Jᵀ ȳ, ẋ⟩, and J ẋ is the central difference."""
    rng = np.random.default_rng(1)
    forward, backward = jvp_graph(graph, wrt), vjp_graph(graph, wrt)
    for made in (forward, backward):
        verify(made)
    tangents = [rng.normal(size=args[i].shape) for i in wrt]
    count = len(graph.outputs)
    dy = interpret(forward, [*args, *tangents])[count:]
    ct = [rng.normal(size=d.shape) for d in dy]
    dx = interpret(backward, [*args, *ct])[count:]
    left = sum(float(np.sum(a * b)) for a, b in zip(ct, dy, strict=True))
    right = sum(float(np.sum(a * b)) for a, b in zip(dx, tangents, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)
    if differences:
        numeric = [
            (a - b) / 2e-6
            for a, b in zip(
                *(shifted(graph, args, wrt, tangents, h) for h in (1e-6, -1e-6)), strict=True
            )
        ]
        for a, b in zip(numeric, dy, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def shifted(
    graph: Graph, args: list[Array], wrt: list[int], tangents: list[Array], h: float
) -> list[Array]:
    moved = list(args)
    for i, t in zip(wrt, tangents, strict=True):
        moved[i] = args[i] + h * t
    floats = [i for i, v in enumerate(graph.outputs) if v.dtype.is_float]
    results = interpret(graph, moved)
    return [results[i] for i in floats]


# ---- every op


DIFFERENTIABLE = [op for op in OPS.values() if (op.jvp or op.linear) and op.samples]


STEPS = (floor, ceil, round_, trunc, sign, stop_gradient)
"""Ops whose derivative is zero by definition, though differences across a step are not."""


def sample_args(op: Op, sample: Sample, rng: np.random.Generator) -> list[Array]:
    low, high = op.facts.domain
    return [
        x if isinstance(x, np.ndarray)
        else np.asarray(rng.uniform(low, high, x.shape) if x.dtype.is_float
                        else rng.integers(0, 2, x.shape)).astype(x.dtype.numpy)
        for x in sample.operands
    ]  # fmt: skip


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_reverse_is_forward_transposed_for_every_op(op: Op) -> None:
    rng = np.random.default_rng(0)
    tried = 0
    for sample in op.samples(rng):
        given = [x for x in sample.operands if isinstance(x, np.ndarray)]
        args = sample_args(op, sample, rng)
        types = [array_type(a) for a in args]
        wrt = [i for i, t in enumerate(types) if t.dtype is F64]
        edges = any(a.dtype.kind == "f" for a in given) and not op.host
        if not wrt or tried >= 12 or edges:
            continue
        params = [parameter(i, f"x{i}", t) for i, t in enumerate(types)]
        graph = make_graph(op.name, params, op.build(params, sample.attrs))
        if any(v.dtype.is_float and v.dtype is not F64 for v in graph.outputs):
            continue
        tried += 1
        check(graph, args, wrt, differences=op not in STEPS)
    assert tried or F64 not in op.dtypes or op is bitcast


# ---- programs


def composite_program() -> Graph:
    x, w = param(0, (4, 3)), param(1, (3, 5))
    h = gelu(matmul(x, w))
    p = log_softmax(add(h, multiply(sigmoid(h), full(h.shape, 0.5, F64))), dim=1)
    return make_graph("f", [x, w], [reduce_sum(multiply(p, softmax(h, dim=0)), dims=(0, 1))])


def test_composites_are_differentiated_by_their_bodies() -> None:
    graph = composite_program()
    check(graph, draw(graph), [0, 1])


def test_the_body_of_a_composite_is_shared_with_its_decomposition() -> None:
    with provenance(Source("/a/train.py", 3)):
        graph = make_graph("f", [param(0)], [reduce_sum(softmax(param(0)), dims=(0, 1))])
    gradient = grad_graph(graph, [0])
    exps = [n for n in decompose(gradient).nodes if n.op is exp]
    assert len(exps) == 1


def test_higher_orders() -> None:
    x = param(0, ())
    graph = make_graph("f", [x], [multiply(sin(x), exp(x))])
    for order in range(1, 4):
        outputs = [grad_graph(graph, [0]).outputs[-1]]
        graph = make_graph("f", [x], outputs)
        a = np.array(0.7)
        wanted = {
            1: np.exp(a) * (np.sin(a) + np.cos(a)),
            2: 2 * np.exp(a) * np.cos(a),
            3: 2 * np.exp(a) * (np.cos(a) - np.sin(a)),
        }
        np.testing.assert_allclose(interpret(graph, [a])[0], wanted[order], rtol=1e-12)


def test_forward_over_reverse_is_reverse_over_forward() -> None:
    graph = composite_program()
    args = draw(graph)
    v = np.random.default_rng(2).normal(size=(4, 3))
    gradient = grad_graph(graph, [0])
    only = make_graph("g", gradient.params, gradient.outputs[1:])
    forward = interpret(jvp_graph(only, [0]), [*args, v])[1]
    tangent = jvp_graph(graph, [0])
    scalar = make_graph("t", tangent.params, tangent.outputs[1:])
    reverse = interpret(grad_graph(scalar, [0]), [*args, v])[1]
    np.testing.assert_allclose(forward, reverse, rtol=1e-10)


def test_a_value_used_twice_and_an_operand_given_twice() -> None:
    x = param(0)
    graph = make_graph("f", [x], [multiply(x, x), add(multiply(x, tanh(x)), x), x, x])
    check(graph, draw(graph), [0])


def test_several_results_and_integer_paths() -> None:
    x = param(0, (3, 6))
    values, indices = top_k.build([x], top_k.attrs(k=2, dim=1))
    through = cast(argmax(x, dim=1), dtype=F64)
    graph = make_graph("f", [x], [values, indices, multiply(through, reduce_sum(x, dims=(1,)))])
    check(graph, [np.random.default_rng(0).permutation(18).reshape(3, 6) / 7.0], [0])


def test_inner_values_can_be_inputs() -> None:
    x = param(0, ())
    h = multiply(x, x)
    y = multiply(h, x)
    dh, dx = vjp_values([y], [h, x], [full((), 1.0, F64)])
    graph = make_graph("f", [x], [dh, dx])
    np.testing.assert_allclose(interpret(graph, [np.array(3.0)]), [3.0, 27.0])
    (t,) = jvp_values([y], [h], [full((), 1.0, F64)])
    np.testing.assert_allclose(interpret(make_graph("f", [x], [t]), [np.array(3.0)]), [3.0])


def test_zero_is_none_for_values_and_zeros_for_graphs() -> None:
    x, y = param(0), param(1)
    out = add(stop_gradient(x), floor(x))
    one = zeros_like(out)
    assert vjp_values([out], [x, y], [one]) == [None, None]
    assert vjp_values([out], [x], [None]) == [None]
    assert jvp_values([out], [x], [x]) == [None]
    graph = make_graph("f", [x, y], [reduce_sum(out, dims=(0, 1))])
    gradients = interpret(grad_graph(graph, [1, 0]), draw(graph))[1:]
    assert all((g == 0).all() and g.shape == (2, 3) for g in gradients)


def test_no_symbol_is_left_behind() -> None:
    gradient = vjp_graph(composite_program(), [0, 1])
    names = {n.attrs.name for n in gradient.nodes if n.op.name == "parameter"}
    assert names == {"x0", "x1", "ct_reduce_sum"}


def test_a_linear_program_is_transposed_and_a_nonlinear_one_is_not() -> None:
    x = param(0)
    y = subtract(multiply(x, full((2, 3), 3.0, F64)), x)
    (ct,) = transpose_values([y], [x], [param(1)])
    graph = make_graph("f", [x, param(1)], [ct])
    args = draw(graph)
    np.testing.assert_allclose(interpret(graph, args)[0], 2 * args[1])
    with pytest.raises(GradientError, match="sin: is not linear, so it cannot be transposed"):
        transpose_values([sin(x)], [x], [x])


# ---- provenance, text, size, speed


def test_derivatives_stand_on_the_line_of_what_they_differentiate(golden) -> None:
    x, w = param(0, (4, 3), dt.float32), param(1, (3, 2), dt.float32)
    with provenance(Source("/me/train.py", 7, "net")):
        h = tanh(matmul(x, w))
    with provenance(Source("/me/train.py", 8)):
        loss = reduce_sum(maximum(h, zeros_like(h)), dims=(0, 1))
    graph = grad_graph(make_graph("loss", [x, w], [loss]), [1])
    text = graph_text(graph)
    assert parse(text) is graph
    golden("grad_mlp.txt", text)
    golden("grad_mlp_simplified.txt", graph_text(cse(simplify(graph))))


def deep(layers: int) -> Graph:
    x, w = param(0, (8, 8)), param(1, (8, 8))
    h = x
    for _ in range(layers):
        h = add(h, gelu(matmul(softmax(h), w)))
        h = multiply(h, broadcasted(full((), 0.5, F64), (8, 8)))
    return make_graph("deep", [x, w], [reduce_sum(h, dims=(0, 1))])


def test_a_thousand_nodes_take_well_under_a_second() -> None:
    graph = deep(140)
    assert len(graph.nodes) > 700
    start = time.perf_counter()
    gradient = grad_graph(graph, [0, 1])
    assert time.perf_counter() - start < 2.0
    assert len(gradient.nodes) < 40 * len(graph.nodes)


# ---- errors


def test_an_integer_has_no_derivative() -> None:
    x = param(0, dtype=dt.int32)
    graph = make_graph("f", [x], [reduce_sum(cast(x, dtype=F64), dims=(0, 1))])
    message = r"vjp: input 0 \(x0\) is i32\[2,3\]; only floats have a derivative"
    with pytest.raises(GradientError, match=message):
        grad_graph(graph, [0])


def test_a_loss_is_one_float() -> None:
    graph = make_graph("f", [param(0)], [param(0), argmax(param(0, (3,)), dim=0)][:1])
    with pytest.raises(GradientError, match="output 0 of f is f64\\[2,3\\], not a float scalar"):
        grad_graph(graph, [0])


def test_an_op_without_derivative_names_itself_and_the_line() -> None:
    x = param(0)
    with provenance(Source("/me/train.py", 12)):
        odd = odd_op(x)
    graph = make_graph("f", [x], [reduce_sum(where(full((2, 3), True, dt.bool_), odd, x),
                                             dims=(0, 1))])  # fmt: skip
    with pytest.raises(GradientError) as caught:
        grad_graph(graph, [0])
    assert "odd: has no derivative: made up" in str(caught.value)
    assert "at train.py:12" in str(caught.value)
    with pytest.raises(GradientError, match="odd: has no derivative"):
        jvp_graph(graph, [0])


def odd_op(x: Value) -> Value:
    from dataclasses import replace

    return replace(floor, name="odd", jvp=None, linear=(), blank={"jvp": "made up"})(x)


def test_types_of_cotangents_are_checked() -> None:
    x = param(0)
    with pytest.raises(ShapeError, match="vjp: cotangent 0 is f64"):
        vjp_values([sin(x)], [x], [param(1, ())])
    with pytest.raises(ShapeError, match="jvp: 1 values, but 0 tangents"):
        jvp_values([sin(x)], [x], [])
