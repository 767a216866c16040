"""What the machine code looks like: registers, spills, vector instructions, on all targets."""

from __future__ import annotations

import re
import time

import pytest
from kernels import call, kernel, loop, vector

from rung.codegen.llvm.lower import lower_kernel
from rung.codegen.llvm.target import Target, avx2, avx512, emit_assembly, neon, optimized_ir
from rung.core import dtype as dt
from rung.core.source import Source
from rung.ir.expr import Expr, const, iadd, imul, read, var
from rung.kernel.loop import Accumulate, Alloc, Buffer, Kernel, Stmt, Store

TARGETS = {"avx512": avx512(), "avx2": avx2(), "neon": neon()}
LANES = {"avx512": 16, "avx2": 8, "neon": 4}
f32 = dt.float32


def matmul_tile(rows: int, vectors: int, lanes: int, k: int, depth: int) -> Kernel:
    """c[rows, vectors * lanes] = a.T @ b for packed a[k, rows], b[k, columns], `depth` steps of k
    in one turn."""
    width = vectors * lanes
    a, b = Buffer("a", f32, (k, rows), "input"), Buffer("b", f32, (k, width), "input")
    c, acc = (
        Buffer("c", f32, (rows, width), "output"),
        Buffer("acc", f32, (rows, width), "register"),
    )
    m, n, v = var("m", rows), var("n", vectors), var("v", lanes)
    turn, u = var("k", k // depth), var("u", depth)
    column, step = iadd(imul(n, lanes), v), iadd(imul(turn, depth), u)
    product = call("multiply", read(a, (step, m)), read(b, (step, column)))

    def tile(stmt: Stmt) -> Stmt:
        return loop(m, loop(n, vector(v, stmt), kind="unroll"), kind="unroll")

    body = (
        Alloc(acc),
        tile(Store(acc, (m, column), const(0, f32))),
        loop(turn, loop(u, tile(Accumulate(acc, (m, column), "add", product)), kind="unroll")),
        tile(Store(c, (m, column), read(acc, (m, column)))),
    )
    return kernel([a, b, c], loop(var("one", 3), *body, kind="parallel"))


def map_rows(lanes: int, value: Expr | None = None, op: str = "exp") -> Kernel:
    x, y = Buffer("x", f32, (64, 8 * lanes), "input"), Buffer("y", f32, (64, 8 * lanes), "output")
    i, j, v = var("i", 64), var("j", 8), var("v", lanes)
    at = (i, iadd(imul(j, lanes), v))
    store = Store(y, at, call(op, read(x, at)))
    return kernel([x, y], loop(i, loop(j, vector(v, store)), kind="parallel"))


def row_maxima(lanes: int) -> Kernel:
    x, y = Buffer("x", f32, (64, 8 * lanes), "input"), Buffer("y", f32, (64,), "output")
    m = Buffer("m", f32, (lanes,), "register")
    i, j, v = var("i", 64), var("j", 8), var("v", lanes)
    low = const(float("-inf"), f32)
    body = (
        Alloc(m),
        vector(v, Store(m, (v,), low)),
        loop(j, vector(v, Accumulate(m, (v,), "maximum", read(x, (i, iadd(imul(j, lanes), v)))))),
        Store(y, (i,), low),
        vector(v, Accumulate(y, (i,), "maximum", read(m, (v,)))),
    )
    return kernel([x, y], loop(i, *body, kind="parallel"))


def assembly(k: Kernel, target: Target) -> str:
    return emit_assembly(lower_kernel(k, target).ir_text, target)


def hot_block(asm: str, instruction: str) -> str:
    """The basic block with the most of the instruction."""
    blocks = re.split(r"\n(?=\.LBB\w+:)|(?:\tj\w+|\tb\.\w+)\t.*", asm)
    return max(blocks, key=lambda b: len(re.findall(instruction, b)))


def count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))


@pytest.mark.parametrize(
    ("name", "rows", "vectors", "fma"),
    [
        ("avx512", 14, 2, r"vfmadd\w+ps.*%zmm"),
        ("avx2", 6, 2, r"vfmadd\w+ps.*%ymm"),
        ("neon", 8, 3, r"fmla\tv\d+\.4s, v\d+\.4s, v\d+\.(s\[\d\]|4s)"),
    ],
)
def test_matmul_tile_stays_in_registers(name: str, rows: int, vectors: int, fma: str) -> None:
    target = TARGETS[name]
    text = lower_kernel(matmul_tile(rows, vectors, LANES[name], 512, 1), target).ir_text
    assert "alloca" in text
    assert "alloca" not in optimized_ir(text, target)
    block = hot_block(emit_assembly(text, target), fma)
    assert count(fma, block) == rows * vectors
    assert not re.search(r"%rsp|\[sp", block)
    assert count(r"\n\t\w", block) <= rows * vectors + rows + vectors + 8


@pytest.mark.parametrize("name", TARGETS)
def test_elementwise_loop(name: str) -> None:
    register = {"avx512": "%zmm", "avx2": "%ymm", "neon": r"v\d+\.4s"}[name]
    asm = assembly(map_rows(LANES[name]), TARGETS[name])
    block = hot_block(asm, r"fmadd|fmla")
    assert count(rf"(fmadd|fmla).*{register}", block) >= 6
    assert not re.search(r"call|\bbl\b|%rsp|\[sp", block)


@pytest.mark.parametrize("name", TARGETS)
def test_row_reduction_loop(name: str) -> None:
    extreme = {"avx512": r"vmaxps.*%zmm", "avx2": r"vmaxps.*%ymm", "neon": r"fmax\tv"}[name]
    block = hot_block(assembly(row_maxima(LANES[name]), TARGETS[name]), extreme)
    assert count(extreme, block) >= 1
    assert count(r"\n\t\w", block) <= 32


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dtype", [dt.bool_, dt.int8, dt.float16, dt.bfloat16, dt.float64], ids=str)
def test_masked_kernels_compile_everywhere(name: str, dtype: dt.DType) -> None:
    """Masked, reversed, strided and gathered accesses of narrow types."""
    n = 30
    x = Buffer("x", dtype, (4 * n,), "input")
    at = Buffer("at", dt.int64, (n,), "input")
    y = Buffer("y", dtype, (4, n), "output")
    v = var("v", n)
    wanted = call("less", read(at, (v,)), const(9), dtype=dt.bool_)
    places = [v, iadd(imul(v, -1), n), imul(v, 3), read(at, (v,))]
    stores = [
        Store(y, (const(row), v), read(x, (place,), guard=wanted))
        for row, place in enumerate(places)
    ]
    masked = Store(y, (const(0), imul(v, 2)), read(x, (v,)), wanted)
    text = assembly(kernel([x, at, y], vector(v, *stores, masked, lanes=32)), TARGETS[name])
    assert "k_0_body" in text


def test_no_alias_and_bounds_reach_llvm() -> None:
    text = lower_kernel(map_rows(16), TARGETS["avx512"]).ir_text
    line = next(t for t in text.splitlines() if "@k_0_body(" in t)
    assert "noalias captures(none) align 4 readonly dereferenceable(32768) %b0_x" in line
    assert "noalias captures(none) align 4 dereferenceable(32768) %b1_y" in line


def test_header_and_debug_lines() -> None:
    k = map_rows(16)
    k = Kernel(k.name, k.params, k.body, (Source("net.py", 7),), ("vectorize(j, 16)",))
    lowered = lower_kernel(k, TARGETS["avx512"], debug=True)
    head = lowered.ir_text.split("declare")[0]
    assert "; kernel k\n;   x: input f32[64, 128]\n" in head
    assert "net.py:7" in head
    assert "schedule vectorize(j, 16)" in head
    assert lowered.phases == (("k_0", 64),)
    assert re.search(r"\.loc\t\d+ 7 ", emit_assembly(lowered.ir_text, TARGETS["avx512"]))


def test_equal_kernels_give_equal_text() -> None:
    one = lower_kernel(matmul_tile(4, 2, 16, 64, 2), TARGETS["avx512"])
    assert one == lower_kernel(matmul_tile(4, 2, 16, 64, 2), TARGETS["avx512"])


def test_lowering_is_quick() -> None:
    k = matmul_tile(14, 2, 16, 512, 1)
    best = min(_seconds(lambda: lower_kernel(k, TARGETS["avx512"])) for _ in range(5))
    assert best < 0.1


def _seconds(run: object) -> float:
    start = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - start
