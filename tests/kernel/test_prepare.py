"""What is made once of inputs that stay the same in many runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from products import product_text

import rung
from rung.core import dtype as dt
from rung.ir.node import Graph, make_graph, parameter
from rung.ir.types import TensorType
from rung.kernel.interpret import interpret
from rung.kernel.machine import avx512_machine
from rung.kernel.parse import parse_kernel
from rung.kernel.prepare import phases, preparing
from rung.kernel.strategy import schedule_kernel
from rung.ops.contraction import dot_general
from rung.ops.transcendental import tanh
from rung.runtime.memory import aligned_empty
from rung.runtime.program import CompiledGraph, compile_graph

ROWS, TERMS, COLUMNS = 32, 40, 256
LAYOUTS = [f"{COLUMNS}*k + j", f"{TERMS}*j + k"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fixed_factor_is_laid_out_by_a_phase_of_its_own(layout: str) -> None:
    naive = parse_kernel(product_text(ROWS, TERMS, COLUMNS, f"{TERMS}*i + k", layout))
    machine = replace(avx512_machine(), cores=2)
    assert not any(preparing(schedule_kernel(naive, "contract", machine), {"b"})[1:])
    for fixed, count in (({"b"}, 1), ({"a"}, 1), ({"a", "b"}, 2)):
        kernel = schedule_kernel(naive, "contract", machine, fixed)
        once = preparing(kernel, fixed)
        assert sum(once) == count, kernel.schedule
        assert len(once) == len(phases(kernel))
        assert not once[-1], "the product itself is of every run"
        assert not any(preparing(kernel, set())), "nothing is fixed"
        results = []
        rng = np.random.default_rng(0)
        a, b = (rng.integers(-8, 8, p.shape).astype(np.float32) for p in naive.params[:2])
        for k in (naive, kernel):
            arrays = [a, b, np.zeros(naive.params[2].shape, np.float32)]
            arrays += [np.full(p.shape, np.nan, np.float32) for p in k.params[3:]]
            interpret(k, arrays)
            results.append(arrays[2])
        np.testing.assert_array_equal(*results)


def test_what_depends_on_another_input_is_of_every_run() -> None:
    """Phases count as long as nothing else writes their temporary or is read."""
    text = """
@kernel
def kernel(a: input(f32[8]), b: input(f32[8]), y: output(f32[8]),
           s: temp(f32[8]), t: temp(f32[8]), u: temp(f32[8])):
    for i in range(8):
        s[i] = a[i]
    for i in range(8):
        t[i] = a[i] + b[i]
    for i in range(8):
        u[i] = a[i]
    for i in range(8):
        u[i] = b[i]
    for i in range(8):
        y[i] = s[i] + t[i] + u[i]
"""
    assert preparing(parse_kernel(text), {"a"}) == (True, False, False, False, False)
    assert preparing(parse_kernel(text), {"a", "b"}) == (True, True, False, False, False)


def product() -> Graph:
    x = parameter(0, "x", TensorType(dt.float32, (ROWS, TERMS)))
    w = parameter(1, "w", TensorType(dt.float32, (COLUMNS, TERMS)))
    v = parameter(2, "v", TensorType(dt.float32, (COLUMNS, COLUMNS)))
    hidden = tanh(dot_general(x, w, contract=((1,), (1,))))
    return make_graph("product", [x, w, v], [dot_general(hidden, v, contract=((1,), (0,)))])


def run(program: CompiledGraph, inputs: list[np.ndarray], times: int = 1) -> list[np.ndarray]:
    """Prepared once; then as often, with another x each time."""
    y = aligned_empty((ROWS, COLUMNS), np.float32)
    kept = [aligned_empty(n, np.uint8) for n in program.kept_bytes]
    given, made = [a.ctypes.data for a in inputs], [a.ctypes.data for a in (y, *kept)]
    program.prepare(given, made)
    found = []
    for _ in range(times):
        program.run(given, made)
        found.append(np.array(y))
        inputs[0] += 0.25
    return found


def test_programs_prepare_once() -> None:
    graph = product()
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal(p.shape).astype(np.float32) for p in graph.params]
    plain = compile_graph(graph)
    assert plain.kept_bytes == ()
    assert plain.preparation is None
    wanted = run(plain, [a.copy() for a in inputs], 3)
    for _ in range(2):  # the second from its recipe on disk
        program = compile_graph(graph, fixed=frozenset({1, 2}))
        assert program.kept_bytes == (4 * TERMS * COLUMNS, 4 * COLUMNS * COLUMNS)
        assert len(program.stages) == len(program.executable.stages)
        for a, b in zip(run(program, [a.copy() for a in inputs], 3), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
        with pytest.raises(ValueError, match="size"):  # no memory for what is kept
            program.run([0, 0, 0], [0])


def test_loops_lay_weights_out_anew_whenever_they_begin() -> None:
    """The inner loop's weight is another one in each iteration of the outer loop, whose own weight
    stays; a branch within and a loop of unknown length as well."""
    rng = np.random.default_rng(2)
    w, v = (rng.standard_normal((3, 96, 96)).astype(np.float32) / 10 for _ in range(2))
    start = rng.standard_normal((32, 96)).astype(np.float32)

    def loops(w, v, start):
        def outer(c, w):
            c = rung.scan(lambda c, _: (rung.tanh(c @ w), None), c, length=3)[0]
            c = rung.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] @ w), (0, c))[1]
            c = rung.cond(c.sum() > 0, lambda c: c @ v[0], lambda c: c @ v[1] - c, c)
            return c, (c @ v[2]).sum()

        return rung.scan(outer, start, w)

    def plain(w, v, c):
        sums = []
        for one in w:
            for _ in range(3):
                c = np.tanh(c @ one)
            c = c @ one @ one
            c = c @ v[0] if c.sum() > 0 else c @ v[1] - c
            sums.append((c @ v[2]).sum())
        return c, np.array(sums)

    step = rung.jit(loops)
    args = [rung.asarray(a) for a in (w, v, start)]
    program = step.compile(*args).runnable.program
    assert sum(p.preparation is not None for p in program.programs) >= 3
    wide = plain(*(a.astype(np.float64) for a in (w, v, start)))
    for _ in range(2):
        for a, b in zip(step(*args), wide, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=2e-4, atol=2e-4)
    headings = [k.heading() for k in rung.explain(step, *args).kernels]
    assert sum("1 of its phases once, before the loop" in h for h in headings) >= 3
    other = [rung.asarray(a) for a in (-w, v + 0.1, start)]
    wide = plain(*(a.astype(np.float64) for a in (-w, v + 0.1, start)))
    for a, b in zip(step(*other), wide, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=2e-4, atol=2e-4)
