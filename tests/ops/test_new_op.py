"""A made-up element-wise op is one call of one helper; everything else comes from its record."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import test_records
from test_compiled import compiled_mismatches
from test_compiled import in_this_process as in_this_process  # a fixture

import rung
from rung.core import dtype as dt
from rung.core.errors import DTypeError
from rung.ir.node import make_graph, parameter
from rung.ir.op import Op
from rung.ir.parse import parse_graph
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.ops.elementwise import absolute, divide, plus
from rung.ops.families import number, scalar, unary, widened
from rung.ops.reduction import reduce_sum
from rung.ops.table import OPS
from rung.ops.transcendental import exp
from rung.rules.pipeline import PIPELINE
from rung.runtime.program import CompiledGraph, compile_graph
from rung.tensor.operate import elementwise

SOFTSIGN: Op = unary(
    "softsign",
    lambda x: x / (1 + np.abs(x)),
    "x / (1 + |x|).",
    derivative=lambda x, y, dx: divide(divide(dx, plus(absolute(x), 1)), plus(absolute(x), 1)),
    body=lambda x: scalar(
        "divide", w := widened(x), scalar("add", scalar("abs", w), number(1.0, w))
    ),
    flops=3,
)

GENERATED = [
    f
    for name, f in vars(test_records).items()
    if name.startswith("test_") and "op" in inspect.signature(f).parameters
]


def graph_around(shape: tuple[int, ...]) -> CompiledGraph:
    """sum(softsign(exp(x))) over the last dim, compiled."""
    x = parameter(0, "x", TensorType(dt.float32, shape))
    y = reduce_sum(SOFTSIGN(exp(x)), dims=(1,))
    lowered, _ = run_passes(make_graph("around", [x], [y]), PIPELINE)
    return compile_graph(lowered, {})


def test_generated_tests_are_there() -> None:
    assert len(GENERATED) >= 8


@pytest.mark.parametrize("check", GENERATED, ids=lambda f: f.__name__)
def test_generated_tests_take_it(check) -> None:  # type: ignore[no-untyped-def]
    check(SOFTSIGN)


def test_a_wrong_record_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call with a wrong derivative, and with a wrong body."""
    steep = unary("steep", lambda x: x * x, "x².", derivative=lambda x, y, dx: dx)
    with pytest.raises(AssertionError):
        test_records.test_jvp_is_the_limit_of_differences(steep)
    other = unary("other", np.abs, "|x|.", body=lambda x: scalar("negative", x))
    with pytest.raises(AssertionError):
        test_records.test_reference_has_the_stated_type_and_form(other)
    monkeypatch.setitem(OPS, "other", other)  # mismatches are shown with the text of the graph
    assert compiled_mismatches(other)


def test_compiled_at_every_level() -> None:
    assert compiled_mismatches(SOFTSIGN) == []


def test_type_and_text() -> None:
    x = parameter(0, "x", TensorType(dt.float32, (3,)))
    graph = make_graph("f", [x], [SOFTSIGN(x)])
    text = graph_text(graph)
    assert "softsign(x)" in text
    assert parse_graph(text, {**OPS, "softsign": SOFTSIGN}) is graph
    with pytest.raises(DTypeError, match=r"softsign: takes floats, but x is i32\[3\]"):
        SOFTSIGN(parameter(0, "x", TensorType(dt.int32, (3,))))


def test_it_fuses_and_becomes_vector_code() -> None:
    made = graph_around((64, 256))
    (kernel,) = made.kernels
    text = kernel.lowered.ir_text
    assert "fdiv" in text
    assert "x float>" in text, "explicit vectors"
    assert text.count("define void @") >= 1


def softsign(x: rung.Tensor) -> rung.Tensor:
    return elementwise("softsign", SOFTSIGN, (x,), floats=True)


def test_tensors_take_it() -> None:
    data = np.linspace(-4, 4, 40, dtype=np.float32).reshape(5, 8)
    x = rung.tensor(data, requires_grad=True)
    y = softsign(x)
    np.testing.assert_allclose(y.numpy(), data / (1 + np.abs(data)), rtol=3e-7)
    y.sum().backward()
    assert x.grad is not None
    slope = 1 / (1 + np.abs(data)) ** 2
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=1e-6)
    step = rung.jit(rung.grad(lambda a: softsign(a * 2).sum()))
    np.testing.assert_allclose(
        step(rung.tensor(data)).numpy(), 2 / (1 + np.abs(2 * data)) ** 2, rtol=1e-6
    )
