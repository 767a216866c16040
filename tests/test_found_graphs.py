"""Small graphs on which a level was wrong once."""

from __future__ import annotations

import numpy as np
import pytest

from rung.core.errors import LoweringError
from rung.ir.node import Value
from rung.ir.parse import parse_graph
from rung.ir.passes import run_passes
from rung.kernel.group_nest import GroupNest
from rung.kernel.plan import make_plan
from rung.ops.table import OPS
from rung.rules.pipeline import PIPELINE
from rung.runtime.executable import StageFlags
from rung.runtime.program import compile_graph
from tests.levels import check_levels
from tests.random_graphs import RandomGraph

FOUND = {
    "loops that become one, over nothing": """
@graph
def f(x0: f32[4, 1], x1: i64[4, 0, 1], x2: f32[4, 0]):
    v0 = scatter_add(x0, x1, x2, batch_dims=1)
    return v0
""",
    "a sum of a row that what is computed again two loops later reads": """
@graph
def random(x0: f64[4, 2, 2, 3], x1: f64[4, 2, 4, 3], x2: f64[4, 2, 4, 3], x3: f64[4, 2, 2, 4],
        x4: f64[4, 2, 2, 3], x5: f64[4, 2, 2, 4], x6: f64[4, 2, 2, 4], x7: f64[4, 2, 2, 3], x8:
        f64[4, 2, 2, 4], x9: f64[4, 2, 2, 4], x10: f64[4, 2, 2, 3]):
    v0 = dot_general(x10, x2, batch=((0, 1), (0, 1)), contract=((3,), (3,)))
    v1 = multiply(v0, x9)
    v2 = subtract(v1, x8)
    v3 = constant(value=0.5773502691896258, dtype=f64)
    v4 = broadcast_to(v3, shape=(4, 2, 2, 4))
    v5 = multiply(v2, v4)
    v6 = dot_general(v5, x0, batch=((0, 1), (0, 1)), contract=((2,), (2,)))
    v7 = add(v6, v6)
    v8 = dot_general(x0, v7, batch=((0, 1), (0, 1)), contract=((3,), (3,)))
    v9 = add(v8, x6)
    v10 = multiply(v9, v4)
    v11 = multiply(v10, x9)
    v12 = reduce_sum(v11, dims=(3,))
    v13 = reshape(v12, shape=(4, 2, 2, 1))
    v14 = broadcast_to(v13, shape=(4, 2, 2, 4))
    v15 = subtract(v10, v14)
    v16 = multiply(v15, v0)
    v17 = add(x5, v16)
    v18 = multiply(v17, x9)
    v19 = reduce_sum(v18, dims=(3,))
    v20 = reshape(v19, shape=(4, 2, 2, 1))
    v21 = broadcast_to(v20, shape=(4, 2, 2, 4))
    v22 = multiply(v21, x9)
    v23 = subtract(v18, v22)
    v24 = multiply(v23, v4)
    v25 = dot_general(v24, x1, batch=((0, 1), (0, 1)), contract=((3,), (2,)))
    v26 = add(x7, v25)
    v27 = multiply(v15, x9)
    v28 = dot_general(v27, x2, batch=((0, 1), (0, 1)), contract=((3,), (2,)))
    v29 = add(x4, v28)
    v30 = add(v29, v29)
    v31 = dot_general(v30, x2, batch=((0, 1), (0, 1)), contract=((3,), (3,)))
    v32 = multiply(v31, x9)
    v33 = subtract(v32, x3)
    v34 = multiply(v33, v4)
    v35 = dot_general(v34, x1, batch=((0, 1), (0, 1)), contract=((3,), (2,)))
    v36 = add(v26, v35)
    return v36
""",
    "a fixed image whose rows, all of one tile, are read at a quotient": """
@graph
def f(x0: f32[1], x1: f32[2, 2, 2, 2], x2: f32[1]):
    v0 = broadcast_to(x2, shape=(1, 4, 8, 4))
    v1 = conv(v0, x1, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 2),
              base_dilation=(2, 1), groups=2)
    return v1
""",
    "a map that is read elsewhere in the loop that stores it": """
@graph
def f(x0: u32[2]):
    v0 = random_bits(x0, shape=(2, 7), words="second")
    v1 = negative(v0)
    v2 = permute(v1, dims=(1, 0))
    v3 = bitwise_or(v1, v0)
    v4 = argmin(v3, dim=0)
    return v2, v4
""",
    "a guarded read of what is a read itself": """
@graph
def f(x0: f32[2, 8, 5], x2: f32[8, 1]):
    v0 = broadcast_to(x2, shape=(2, 8, 5))
    v1 = permute(v0, dims=(0, 1, 2))
    v2 = slice(v1, starts=(1, 3, 1), stops=(2, 7, 4), steps=(1, 2, 2))
    v3 = window_sum(v2, sizes=(1,), strides=(1,), padding=((0, 1),), dilation=(1,),
                    base_dilation=(2,))
    v4 = sort(v1, dim=0)
    return v3, v4
""",
    "0 / 0 in lanes that a guard excludes": """
@graph
def f(x0: f32[1, 1, 2], x1: f32[5, 2, 3, 1]):
    v0 = divide(x0, x0)
    v1 = permute(v0, dims=(2, 0, 1))
    v2 = broadcast_to(v1, shape=(2, 2, 8, 8))
    v3 = conv(v2, x1, strides=(2, 1), padding=((1, 0), (0, 1)), dilation=(1, 2),
              base_dilation=(1, 1))
    return v3
""",
    "a buffer that an index and a factor of a product read": """
@graph
def f(x0: i64[7, 2], x1: i64[7, 2]):
    v0 = slice(x1, starts=(0, 0), stops=(3, 1), steps=(1, 1))
    v1 = permute(x1, dims=(1, 0))
    v2 = take(v0, v1, dim=0)
    v3 = dot_general(x0, v2, contract=((0,), (1,)))
    return v3
""",
    "a bf16 array with gaps, which LLVM cannot shuffle as bfloat": """
@graph
def f(x0: bf16[33, 17]):
    v0 = tanh(x0)
    v1 = reshape(v0, shape=(561,))
    v2 = pad(v1, low=(-1,), high=(0,), interior=(1,))
    v3 = isfinite(v2)
    v4 = abs(v1)
    v5 = negative(v2)
    return v1, v2, v3, v4, v5
""",
    "narrow integers of which the last vector stores one": """
@graph
def f(x0: bf16[2, 2, 8], x1: bf16[17, 2], x2: i32[9, 17]):
    v0 = dot_general(x0, x1, contract=((0,), (1,)))
    v1 = cast(x2, dtype=i8)
    v2 = cast(x2, dtype=u16)
    return v0, v1, v2
""",
    "a piece of a concatenation that nothing is left of": """
@graph
def f(x0: f32[4], x1: f32[17, 2], x2: f32[10]):
    v0 = window_max(x0, sizes=(2,), strides=(2,), padding=((0, 0),), dilation=(1,),
                    base_dilation=(1,))
    v1 = dot_general(v0, x1, contract=((0,), (1,)))
    v2 = exp(x2)
    v3 = slice(v2, starts=(2,), stops=(7,), steps=(2,))
    v4 = concat(v1, v2, v3, dim=0)
    v5 = slice(v4, starts=(5,), stops=(20,), steps=(1,))
    return v5, v5
""",
    "a position that a reduction in the same kernel finds": """
@graph
def f(x0: f64[3], x1: i64[4], x2: i32, x3: i64[2]):
    v0 = take_along(x0, x1, dim=0)
    v1 = broadcast_to(v0, shape=(1, 4))
    v2 = divide(v1, v1)
    v3 = reduce_min(x3, dims=(0,))
    v4 = dynamic_slice(v2, x2, v3, dims=(0, 1), sizes=(1, 4))
    v5 = acosh(v2)
    return v4, v5
""",
    "divisors that are the constant 0": """
@graph
def f():
    v0 = iota(shape=(8, 12), dim=0, dtype=i64)
    v1 = constant(value=0, dtype=i64)
    v2 = broadcast_to(v1, shape=(8, 12))
    v3 = remainder(v0, v2)
    v4 = floor_divide(v0, v2)
    v5 = constant(value=-3, dtype=i64)
    v6 = broadcast_to(v5, shape=(8, 12))
    v7 = remainder(v0, v6)
    v8 = floor_divide(v0, v6)
    v9 = multiply(v8, v6)
    v10 = add(v9, v7)
    return v3, v4, v7, v8, v10
""",
    "a divisor that is found to be 0": """
@graph
def f():
    v0 = constant(value=2, dtype=i64)
    v1 = broadcast_to(v0, shape=(2, 1, 7))
    v2 = constant(value=-3.0, dtype=f16)
    v3 = broadcast_to(v2, shape=(2, 1, 1, 7))
    v4 = argmax(v3, dim=2)
    v5 = add(v4, v4)
    v6 = floor_divide(v1, v5)
    return v6
""",
    "a reduction of parts of a row that a contraction of the row reads": """
@graph
def f(x0: i32[7, 12, 4]):
    v0 = window_max(x0, sizes=(2,), strides=(2,), padding=((1, 0),), dilation=(1,),
                    base_dilation=(1,))
    v1 = window_argmax(x0, v0, sizes=(2,), strides=(2,), padding=((1, 0),), dilation=(1,),
                       base_dilation=(1,))
    v2 = constant(value=2, dtype=i32)
    v3 = broadcast_to(v2, shape=(7, 2, 17))
    v4 = dot_general(v1, v3, batch=((0,), (0,)), contract=((2,), (1,)))
    return v1, v4
""",
    "a constant to the power of a constant": """
@graph
def f(x0: i8[5]):
    v0 = constant(value=3, dtype=u32)
    v1 = broadcast_to(v0, shape=(2,))
    v2 = take(v1, x0, dim=0)
    v3 = add(v2, v2)
    v4 = power(v2, v3)
    return v4
""",
    "a position that is no i64": """
@graph
def f(x0: f32[17, 16], x1: u64, x2: f32[3, 2], x3: u64[4]):
    v0 = bitwise_invert(x1)
    v1 = dynamic_update_slice(x0, x2, v0, x1, dims=(0, 1))
    v2 = bitwise_invert(x3)
    v3 = take(v1, v2, dim=0)
    return v1, v3
""",
    "the sign of a window's sum that is zero": """
@graph
def f(x0: f32[40, 12]):
    v0 = negative(x0)
    v1 = window_sum(v0, sizes=(2,), strides=(1,), padding=((1, 0),), dilation=(1,),
                    base_dilation=(1,))
    v2 = rsqrt(v1)
    v3 = log(v2)
    v4 = isinf(v3)
    return v4
""",
    "the sign of a product that is zero": """
@graph
def f(x0: f32[20], x1: f32[7]):
    v0 = negative(x0)
    v1 = dot_general(v0, x1)
    v2 = rsqrt(v1)
    return v2
""",
    "a sum of no terms": """
@graph
def f(x0: f32[7, 0], x1: f32[0, 40]):
    v0 = dot_general(x0, x1, contract=((1,), (0,)))
    return v0
""",
}


def twice_read(length: int) -> str:
    """A chain of maps of which each is read by the next two."""
    steps = "\n".join(
        f"    v{n} = {'add' if n % 2 else 'maximum'}(v{n - 1}, v{n - 2})"
        for n in range(2, length)
    )
    return (
        "@graph\ndef f(x0: f32[3]):\n    v0 = sin(x0)\n    v1 = sin(v0)\n"
        f"{steps}\n    return v{length - 1}\n"
    )


FOUND["a chain written out as a tree, whose size doubles with every link"] = twice_read(60)


def drawn(text: str) -> RandomGraph:
    """The graph with numbers of both signs, and NaN for none."""
    graph = parse_graph(text, OPS)
    rng = np.random.default_rng(0)
    inputs = tuple(
        rng.integers(-3, 4, p.type.shape).astype(p.type.dtype.numpy)
        if p.type.dtype.is_float
        else rng.integers(0, 3, p.type.shape).astype(p.type.dtype.numpy)
        for p in graph.params
    )
    exact: dict[Value, bool] = {v: not v.type.dtype.is_float for v in graph.outputs}
    return RandomGraph(0, graph, inputs, exact, {})


@pytest.mark.parametrize("name", FOUND)
def test_all_levels_agree(name: str) -> None:
    found = check_levels(drawn(FOUND[name]))
    assert not found, "\n".join(map(str, found))


def test_a_kernel_that_reads_what_nothing_has_written_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A value that its group forgot became an input of the kernel: memory of any content."""
    name = "a sum of a row that what is computed again two loops later reads"
    graph = parse_graph(FOUND[name], OPS)
    make_plan(graph, {})
    monkeypatch.setattr(GroupNest, "_escaping", lambda self, members: [])
    with pytest.raises(LoweringError, match="nothing has written"):
        make_plan(graph, {})


GUARDED = """
@graph
def f(x1: u8[5, 2, 2, 3], x2: f16[4], x4: u8, x5: bool[16], x6: bf16[2, 3, 3]):
    v0 = argmax(x6, dim=1)
    v1 = slice(x1, starts=(2, 0, 1, 1), stops=(4, 2, 2, 2), steps=(1, 3, 3, 1))
    v2 = reduce_prod(v1, dims=(1, 2))
    v3 = argsort(v2, dim=1)
    v4 = check_range(v2, low=0, high=186, what="index")
    v5 = exp(x2)
    v6 = right_shift(x4, x4)
    return v0, v3, x5, v4, v5, v6
"""


def test_the_first_kernel_that_waits_for_checks_begins_a_group() -> None:
    """Also where a kernel of several phases has been waited for since the last check."""
    graph, _ = run_passes(parse_graph(GUARDED, OPS), PIPELINE)
    executable = compile_graph(graph, {2: 3, 4: 1, 5: 2}).executable
    first = executable.stages[executable.guarded]
    assert StageFlags.GUARDED | StageFlags.BARRIER in first.flags
