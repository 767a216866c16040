"""Where outputs are written."""

from __future__ import annotations

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.ir.interpret import interpret
from rung.ir.node import Value, make_graph, parameter
from rung.ir.types import TensorType
from rung.kernel.plan import make_plan
from rung.ops.broadcast import reduce_sum
from rung.ops.contraction import dot_general
from rung.ops.creation import iota
from rung.ops.elementwise import multiply
from rung.ops.sorting import sort
from rung.runtime.memory import aligned_empty
from rung.runtime.program import compile_graph

MADE = {
    "map": lambda x: multiply(x, x),
    "sum": lambda x: reduce_sum(x, dims=(1,)),
    "product": lambda x: dot_general(x, x, contract=((1,), (1,))),
    "sorted": lambda x: sort(x, dim=1),
    "no operand": lambda x: iota(shape=(8, 3), dim=0, dtype=dt.float32),
    "parameter": lambda x: x,
}


@pytest.mark.parametrize("name", MADE)
def test_a_value_that_is_wanted_several_times_is_stored_by_its_kernel(name: str) -> None:
    x = parameter(0, "x", TensorType(dt.float32, (40, 24)))
    y: Value = MADE[name](x)
    graph = make_graph("graph", [x], [y, y, multiply(y, y), y])
    assert make_plan(graph, {}).copies == (3 if name == "parameter" else 0)
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    outputs = [aligned_empty(v.shape, v.type.dtype.numpy) for v in graph.outputs]
    compile_graph(graph).run([array.ctypes.data], [a.ctypes.data for a in outputs])
    for a, b in zip(outputs, interpret(graph, [array]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
