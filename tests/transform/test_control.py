"""Loops and branches of graphs: text, interpreter = machine code, derivatives, many examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.errors import DTypeError, GradientError, ParseError, RungError, ShapeError
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value, make_graph, parameter
from rung.ir.parse import parse_graph
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.ir.verify import verify
from rung.ops.activation import sigmoid
from rung.ops.contraction import dot_general
from rung.ops.control import (
    AfterAttrs,
    ScanAttrs,
    SwitchAttrs,
    WhileAttrs,
    after,
    scan,
    switch,
    while_loop,
)
from rung.ops.creation import full
from rung.ops.elementwise import less, multiply
from rung.ops.families import add
from rung.ops.table import OPS
from rung.ops.transcendental import exp, sin, tanh
from rung.rules.loops import trim_loops
from rung.rules.pipeline import PIPELINE
from rung.runtime.script import compile_program
from rung.transform.grad import vjp_graph
from rung.transform.jvp import jvp_graph
from rung.transform.vmap import vmap_graph

F64, I32 = dt.float64, dt.int32


def given(*types: tuple[dt.DType, tuple[int, ...]]) -> list[Value]:
    return [parameter(i, f"p{i}", TensorType(d, s)) for i, (d, s) in enumerate(types)]


def lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def drawn(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(p.shape) if p.dtype.is_float
        else np.array(rng.integers(-1, 4, p.shape), p.dtype.numpy)
        for p in graph.params
    ]  # fmt: skip


def run(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.ascontiguousarray(a) for a in arrays]
    outputs = [np.empty(v.shape, v.dtype.numpy) for v in graph.outputs]
    program = compile_program(graph, {}, lower=lowered)
    program.run([a.ctypes.data for a in arrays], [a.ctypes.data for a in outputs])
    return outputs


def cell() -> Graph:
    """(w, c, x) -> (tanh(c w + x), that times x)"""
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (2, 3)))
    after = tanh(add(dot_general(c, w, contract=((1,), (0,))), x))
    return make_graph("cell", [w, c, x], [after, multiply(after, x)])


def recurrent(reverse: bool = False, shown: slice = slice(None)) -> Graph:
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (5, 2, 3)))
    made = scan.build([multiply(w, w), c, x], ScanAttrs(cell(), 5, 1, 1, reverse))
    return make_graph("recurrent", [w, c, x], made[shown])


def nested() -> Graph:
    """A scan whose body scans."""
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (5, 2, 3)))
    made = scan.build([w, c, x], ScanAttrs(cell(), 5, 1, 1))
    body = make_graph("outer", [w, c, x], [add(made[0], c), made[1]])
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (4, 5, 2, 3)))
    made = scan.build([w, c, x], ScanAttrs(body, 4, 1, 1))
    return make_graph("nested", [w, c, x], [exp(made[0]), made[1], c])


def swapping() -> Graph:
    """A loop that swaps its carries, and keeps what they were."""
    a, b = given((F64, (3,)), (F64, (3,)))
    body = make_graph("swap", [a, b], [b, a, a, add(a, b)])
    made = scan.build([a, b], ScanAttrs(body, 3, 0, 2))
    return make_graph("swapping", [a, b], [*made, b])


def counting(limit: int = 0) -> Graph:
    i, a = given((I32, ()), (F64, (5,)))
    ten, one = full(shape=(), value=10, dtype=I32), full(shape=(), value=1, dtype=I32)
    condition = make_graph("condition", [i, a], [less(i, ten)])
    body = make_graph("body", [i, a], [add(i, one), multiply(a, sin(a))])
    made = while_loop.build([i, a], WhileAttrs(condition, body, 0, limit))
    return make_graph("counting", [i, a], made)


def switched() -> Graph:
    (x,) = given((F64, (5,)))
    branches = (
        make_graph("first", [x], [exp(x), x]),
        make_graph("second", [x], [x, x]),
        make_graph("third", [x], [sin(x), multiply(x, x)]),
    )
    i, a = given((I32, ()), (F64, (5,)))
    made = switch.build([i, a], SwitchAttrs(branches))
    return make_graph("switched", [i, a], [multiply(made[0], a), made[1]])


GRAPHS = {
    "scan": recurrent(),
    "scan reversed": recurrent(reverse=True),
    "last carry": recurrent(shown=slice(1)),
    "results": recurrent(shown=slice(1, None)),
    "nested": nested(),
    "swapping": swapping(),
    "while": counting(),
    "while limited": counting(limit=4),
    "switch": switched(),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_levels_agree(name):
    graph = GRAPHS[name]
    assert parse_graph(graph_text(graph), OPS) is graph
    verify(graph)
    for seed in range(4):
        arrays = drawn(graph, seed)
        for found, want in zip(run(graph, arrays), interpret(graph, arrays), strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-9)


def test_outputs_may_lie_where_inputs_do():
    graph = GRAPHS["swapping"]
    arrays = drawn(graph)
    want = [a.copy() for a in interpret(graph, arrays)]
    outputs = [*arrays, *(np.empty(v.shape) for v in graph.outputs[2:])]
    program = compile_program(graph, {0: 0, 1: 1}, lower=lowered)
    program.run([a.ctypes.data for a in arrays], [a.ctypes.data for a in outputs])
    for found, expected in zip(outputs, want, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_waits_is_given_out_before_its_memory_is_taken():
    a, b = given((F64, (3,)), (F64, (3,)))
    late, other = after.build([a, b, exp(b)], AfterAttrs(2))
    graph = make_graph("waits", [a, b], [other, late, sin(late)])
    arrays = drawn(graph)
    want = [x.copy() for x in interpret(graph, arrays)]
    outputs = [*arrays, np.empty(3)]
    program = compile_program(graph, {0: 0, 1: 1}, lower=lowered)
    program.run([x.ctypes.data for x in arrays], [x.ctypes.data for x in outputs])
    for found, expected in zip(outputs, want, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def floats(graph: Graph) -> list[int]:
    return [i for i, p in enumerate(graph.params) if p.dtype.is_float]


def check_derivatives(graph: Graph, wrt: Sequence[int]) -> None:
    """Reverse = forward = differences along a random direction, interpreted and compiled."""
    rng = np.random.default_rng(5)
    arrays = drawn(graph)
    cts = [rng.standard_normal(v.shape) for v in graph.outputs if v.dtype.is_float]
    directions = [rng.standard_normal(graph.params[i].shape) for i in wrt]

    def weighted(step: float) -> float:
        moved = list(arrays)
        for i, d in zip(wrt, directions, strict=True):
            moved[i] = arrays[i] + step * d
        results = [a for a in interpret(graph, moved) if a.dtype == np.float64]
        return sum(float((a * ct).sum()) for a, ct in zip(results, cts, strict=True))

    backward, forward = vjp_graph(graph, wrt), jvp_graph(graph, wrt)
    assert parse_graph(graph_text(backward), OPS) is backward
    count = len(graph.outputs)
    rev = interpret(backward, [*arrays, *cts])[count:]
    fwd = interpret(forward, [*arrays, *directions])[count:]
    for g, inputs, want in ((backward, cts, rev), (forward, directions, fwd)):
        for a, b in zip(run(g, [*arrays, *inputs])[count:], want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    by_reverse = sum(float((a * d).sum()) for a, d in zip(rev, directions, strict=True))
    by_forward = sum(float((a * ct).sum()) for a, ct in zip(fwd, cts, strict=True))
    by_difference = (weighted(1e-6) - weighted(-1e-6)) / 2e-6
    assert by_reverse == pytest.approx(by_forward, rel=1e-10, abs=1e-12)
    assert by_difference == pytest.approx(by_forward, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", [n for n in GRAPHS if n != "while"])
def test_derivatives(name):
    graph = GRAPHS[name]
    check_derivatives(graph, floats(graph))
    for i in floats(graph):
        check_derivatives(graph, [i])


@pytest.mark.parametrize("name", ["results", "while limited", "switch"])
def test_derivatives_of_derivatives(name):
    graph = vjp_graph(GRAPHS[name], floats(GRAPHS[name])[:1])
    check_derivatives(graph, floats(graph))


def test_the_gradient_of_a_weight_is_one_product():
    graph = lowered(vjp_graph(GRAPHS["results"], [0]))
    products = [n for n in graph.nodes if n.op is dot_general]
    assert [n.attrs.contract for n in products] == [((0, 1), (0, 1))]
    assert sum(n.op is scan for n in graph.nodes) == 2, "one loop forward and one backward"


def test_loops_without_what_nobody_reads():
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (5, 2, 3)))
    made = scan.build([w, c, x], ScanAttrs(cell(), 5, 1, 1))
    (node,) = (n for n in trim_loops(make_graph("g", [w, c, x], made[:1])).nodes if n.op is scan)
    assert [str(t) for t in node.types] == ["f64[2,3]"]


def test_equal_stacks_are_made_once_and_slices_not_stacked_again():
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (2, 3)))
    unread = given((F64, (3, 3)), (F64, (2, 3)), (F64, (2, 3)), (F64, (7,)))[3]
    twice = [multiply(c, x), multiply(c, x), x, tanh(c), multiply(c, x)]
    body = make_graph("body", [w, c, x, unread], [add(c, x), *twice])
    w, c, x, y = given((F64, (3, 3)), (F64, (2, 3)), (F64, (5, 2, 3)), (F64, (5, 7)))
    made = scan.build([w, c, x, y], ScanAttrs(body, 5, 1, 1, reverse=True))
    for shown, stacks in ((made[1:], 2), (made[3:4], 0), ((made[2], made[3], made[5]), 1)):
        graph = make_graph("graph", [w, c, x, y], shown)
        trimmed = trim_loops(graph)
        arrays = drawn(graph)
        for a, b in zip(interpret(trimmed, arrays), interpret(graph, arrays), strict=True):
            np.testing.assert_array_equal(a, b)
        loops = [n for n in trimmed.nodes if n.op is scan]
        assert [n.inputs for n in loops] == [trimmed.params[1:3]] * (stacks > 0), "nothing unread"
        assert [len(n.types) for n in loops] == [1 + stacks] * (stacks > 0)


def test_what_is_easily_made_again_is_not_kept():
    """Of 1 - tanh² and of y (1 - y) the way back keeps tanh and y alone."""
    c, x = given((F64, (2, 3)), (F64, (2, 3)))
    y = sigmoid(add(c, x))
    t = tanh(multiply(y, c))
    cell = make_graph("cell", [c, x], [t, t])
    c, x = given((F64, (2, 3)), (F64, (5, 2, 3)))
    graph = make_graph("graph", [c, x], scan.build([c, x], ScanAttrs(cell, 5, 0, 1))[1:])
    check_derivatives(graph, [0, 1])
    forward, _ = (n for n in lowered(vjp_graph(graph, [0, 1])).nodes if n.op is scan)
    assert len(forward.types) == 1 + 3, "the carry; tanh, y and the carry before"


def test_no_reverse_derivative_without_a_limit():
    with pytest.raises(GradientError, match="nobody knows how many iterations") as raised:
        vjp_graph(GRAPHS["while"], [1])
    assert "limit=" in str(raised.value)


@pytest.mark.parametrize("name", GRAPHS)
def test_many_examples(name):
    graph = GRAPHS[name]
    places = range(len(graph.params))
    for batched in [[i] for i in places] + [list(places)]:
        many = vmap_graph(graph, batched, 3)
        arrays = drawn(many, 2)
        found = interpret(many, arrays)
        for k in range(3):
            one = [a[k] if i in batched else a for i, a in enumerate(arrays)]
            for whole, part in zip(found, interpret(graph, one), strict=True):
                np.testing.assert_allclose(whole[k], part, rtol=1e-12)
        for a, b in zip(run(many, arrays), found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_bad_control_flow():
    w, c, x = given((F64, (3, 3)), (F64, (2, 3)), (F64, (5, 2, 3)))
    with pytest.raises(ShapeError, match="has no first dim of 6"):
        scan.build([w, c, x], ScanAttrs(cell(), 6, 1, 1))
    with pytest.raises(ShapeError, match="cell takes"):
        scan.build([c, c, x], ScanAttrs(cell(), 5, 1, 1))
    a = given((F64, (2,)))[0]
    grows = make_graph("grows", [a], [full(shape=(3,), value=0.0, dtype=F64)])
    with pytest.raises(ShapeError, match="carry 0 is f64"):
        scan.build([a], ScanAttrs(grows, 2, 0, 1))
    with pytest.raises(DTypeError, match="not one bool"):
        while_loop.build([a], WhileAttrs(make_graph("c", [a], [a]), make_graph("b", [a], [a]), 0))
    with pytest.raises(DTypeError, match="not a scalar i32"):
        switch.build([a], SwitchAttrs((make_graph("b", [], []),)))
    i = given((I32, ()))[0]
    same, other = (
        make_graph("one", [], [full(shape=(3,), value=0.0, dtype=F64)]),
        make_graph("two", [], [full(shape=(2,), value=0.0, dtype=F64)]),
    )
    with pytest.raises(ShapeError, match="branch 1 gives"):
        switch.build([i], SwitchAttrs((same, other)))
    text = graph_text(GRAPHS["scan"])
    for old, new in (
        ("length=5", "length=-5"),
        ("constants=1", "constants=9"),
        ("body=cell", "body=3"),
    ):
        with pytest.raises((ParseError, RungError)):
            parse_graph(text.replace(old, new), OPS)
