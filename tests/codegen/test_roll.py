"""Unrolled loops that are emitted as loops."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import Compiled

from rung.codegen.llvm.roll import in_memory, rolled
from rung.kernel.interpret import interpret
from rung.kernel.loop import For, Kernel, Stmt, children
from rung.kernel.parse import parse_kernel

TILE = """
@kernel
def tile(a: input(f32[64]), b: input(f32[128]), s: inout(f32[512]), y: output(f32[512])):
    for p in range(4):
        t: register(f32[8, 16])
        for m in unroll(8):
            for n in vector(16, lanes=16):
                t[m, n] = 0.0
        for k in range(8):
            for m in unroll(8):
                for n in vector(16, lanes=16):
                    t[m, n] += a[8*m + k]*b[16*k + n]
        for m in unroll(8):
            for n in vector(16, lanes=16):
                {epilogue}
"""
PLACE = "128*p + 16*m + n"
HEAVY = f"y[{PLACE}] = exp(t[m, n]*0.125) + exp(s[{PLACE}])*2.0"
LIGHT = f"y[{PLACE}] = t[m, n] + s[{PLACE}]"


def kernel_with(epilogue: str) -> Kernel:
    return parse_kernel(TILE.format(epilogue=epilogue))


def loops(s: Stmt, name: str) -> list[For]:
    own = [s] if isinstance(s, For) and s.axis.name == name else []
    return [*own, *(x for c in children(s) for x in loops(c, name))]


def is_rolled(kernel: Kernel) -> bool:
    return rolled(loops(kernel.body, "m")[-1], in_memory(kernel)) is not None


def test_what_a_tile_is_kept_for_is_a_loop_where_it_is_long() -> None:
    assert is_rolled(kernel_with(HEAVY))
    assert not is_rolled(kernel_with(LIGHT))


def test_the_sum_of_a_tile_stays_unrolled() -> None:
    kernel = kernel_with(HEAVY)
    assert all(rolled(x, in_memory(kernel)) is None for x in loops(kernel.body, "m")[:-1])


def test_rows_that_differ_in_a_condition_are_written_out() -> None:
    assert not is_rolled(kernel_with(HEAVY.replace("*2.0", "*where(m < 3, 2.0, 1.0)")))


def test_a_tile_too_large_for_registers_needs_no_copy() -> None:
    text = TILE.format(epilogue=f"y[{PLACE}] = exp(t[p, n]) + exp(s[{PLACE}])")
    kernel = parse_kernel(text)
    assert {b.name for b in in_memory(kernel)} == {"t"}
    made = rolled(loops(kernel.body, "m")[-1], in_memory(kernel))
    assert made is not None
    assert len(made.stmts) == 1


@pytest.mark.parametrize("epilogue", [HEAVY, LIGHT])
def test_a_rolled_tile_computes_the_same(epilogue: str) -> None:
    kernel = kernel_with(epilogue)
    rng = np.random.default_rng(0)
    arrays = [rng.random(b.shape, np.float32) for b in kernel.params]
    wanted = [a.copy() for a in arrays]
    interpret(kernel, wanted)
    Compiled(kernel)(*arrays)
    np.testing.assert_allclose(arrays[-1], wanted[-1], rtol=1e-6)
