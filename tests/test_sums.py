"""Long sums: how exact they are, and that no kernel adds up many terms one after the other."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.settings import configure, settings
from rung.kernel import strategy
from rung.kernel.loop import Accumulate, Alloc, Block, For, If, Stmt
from rung.tensor.programs import clear_programs, recompiles
from tests.generate import sums

TENTHS = np.full(1_000_000, 0.1, np.float32)
TRUTH = fsum(TENTHS.astype(np.float64))


def off(result: rung.Tensor, truth: float = TRUTH) -> float:
    """The largest relative error."""
    return float(np.max(np.abs(np.asarray(result, np.float64) / truth - 1)))


def test_a_long_row() -> None:
    rows = rung.asarray(np.tile(TENTHS, (2, 1)))
    assert off(rung.sum(rows, axis=1)) < 5e-7
    assert off(rung.mean(rows, axis=1), TRUTH / 1e6) < 5e-7


def test_a_long_column() -> None:
    columns = rung.asarray(np.tile(TENTHS[:, None], (1, 3)))
    assert off(rung.sum(columns, axis=0)) < 5e-7


def test_columns_wider_than_vectors() -> None:
    columns = rung.asarray(np.tile(TENTHS[:200_000, None], (1, 40)))
    assert off(rung.sum(columns, axis=0), fsum(TENTHS[:200_000].astype(np.float64))) < 5e-7


def test_a_whole_array() -> None:
    assert off(rung.sum(rung.asarray(TENTHS.reshape(1000, 1000)))) < 5e-7


@pytest.mark.parametrize("shape", [(8, 125_000), (1_000_003,), (100_003,), (300, 1111)])
def test_equal_elements(shape: tuple[int, ...]) -> None:
    """What is left over of parts, and lanes, cost no roundings of their own."""
    clear_programs()  # else kernels for any size
    errors = equal_elements(shape)
    assert max(errors) < 1.25 * 2.0**-24
    assert np.sqrt(np.mean(np.square(errors))) < 0.7 * 2.0**-24


def test_equal_elements_by_kernels_for_any_size() -> None:
    clear_programs()
    total = rung.jit(rung.sum)
    for shape in ((1_000_003,), (100_003,), (5_003,), (997,)):
        errors = equal_elements(shape, total)
        assert max(errors) < 2 * 2.0**-24
    assert any("all sizes" in line for line in recompiles())


def equal_elements(shape: tuple[int, ...], total: Any = rung.sum) -> list[float]:
    """How far sums of equal elements are off."""
    drawn = np.random.default_rng(0).uniform(0.1, 1.0, 12).astype(np.float32)
    arrays = (rung.asarray(np.full(shape, a)) for a in drawn)
    truths = drawn.astype(np.float64) * np.prod(shape)
    return [off(total(x), truth) for x, truth in zip(arrays, truths, strict=True)]


def test_products() -> None:
    x = rung.asarray(TENTHS)
    assert off(x @ rung.ones(1_000_000, dtype=rung.float32)) < 5e-7
    assert off(x[None] @ rung.ones((1_000_000, 3), dtype=rung.float32)) < 5e-7


def test_running_sums() -> None:
    truth = np.cumsum(TENTHS.astype(np.float64))
    found = np.asarray(rung.cumulative_sum(rung.asarray(TENTHS)), np.float64)
    assert np.max(np.abs(found / truth - 1)) < 6e-8


def test_many_terms_at_one_place() -> None:
    at = rung.asarray(np.zeros(1_000_000, np.int64))
    base = rung.zeros(2, dtype=rung.float32)
    assert off(rung.index_add(base, 0, at, rung.asarray(TENTHS))[0]) < 5e-7
    rows = rung.asarray(np.tile(TENTHS[:, None], (1, 4)))
    wide = rung.zeros((2, 4), dtype=rung.float32)
    assert off(rung.index_add(wide, 0, at, rows)[0]) < 2e-6


def test_parts_of_16_bit_sums_stay_in_range() -> None:
    x = np.repeat(np.array([6e4] * 8 + [-6e4] * 8), 4096)
    for dtype in (rung.float16, rung.bfloat16):
        assert float(rung.sum(rung.asarray(x.astype(np.float32)).astype(dtype))) == 0


def test_the_mean_of_equal_elements_is_what_they_are() -> None:
    for n in range(1, 200):
        assert np.all(np.asarray(rung.mean(rung.full((4, n), 3.0), axis=1)) == 3.0), n
        assert float(rung.var(rung.full(n, 3.0))) == 0.0


# ---- schedules


def longest_chain(s: Stmt, loops: tuple[For, ...] = ()) -> int:
    """The most floats that a kernel adds up one after the other in one register."""
    starts: dict[object, int] = {}
    longest = 0

    def visit(x: Stmt, around: tuple[For, ...]) -> None:
        nonlocal longest
        if isinstance(x, Alloc):
            starts[x.buffer] = len(around)
        elif isinstance(x, For | If):
            visit(x.body, (*around, x) if isinstance(x, For) else around)
        elif isinstance(x, Block):
            for c in x.stmts:
                visit(c, around)
        elif isinstance(x, Accumulate) and x.combine == "add" and x.buffer.dtype.is_float:
            count = 1
            for f in around[starts.get(x.buffer, 0) :]:
                serial = f.kind in ("serial", "unroll")
                count *= f.axis.extent if serial and not _moves(x, f) else 1
            longest = max(longest, count)

    visit(s, loops)
    return longest


def _moves(x: Accumulate, f: For) -> bool:
    return any(f.axis in e.children() or f.axis is e or _inside(e, f) for e in x.index)


def _inside(e: object, f: For) -> bool:
    return any(c is f.axis or _inside(c, f) for c in e.children())  # type: ignore[attr-defined]


SHAPES: dict[str, tuple[object, tuple[tuple[int, ...], ...], int]] = {
    "rows": (lambda x: rung.sum(x, axis=1), ((64, 100_003),), 32),
    "columns": (lambda x: rung.sum(x, axis=0), ((100_003, 40),), 32),
    "few columns": (lambda x: rung.sum(x, axis=0), ((100_003, 3),), 32),
    "middle": (lambda x: rung.sum(x, axis=1), ((5, 3001, 33),), 32),
    "images": (lambda x: rung.sum(x, axis=(0, 2, 3)), ((64, 5, 33, 29),), 64),
    "whole": (lambda x: rung.sum(x), ((1_000_003,),), 32),
    "softmax": (lambda x: rung.nn.functional.softmax(x, -1), ((7, 50_000),), 32),
    "layer norm": (lambda x: rung.nn.functional.layer_norm(x, (9001,)), ((7, 9001),), 32),
    "dot": (lambda x, y: x @ y, ((1_000_003,), (1_000_003,)), 32),
    "matrix and vector": (lambda x, y: x @ y, ((30, 50_021), (50_021,)), 32),
    "vector and matrix": (lambda x, y: x @ y, ((50_021,), (50_021, 70)), 32),
    "matmul": (lambda x, y: x @ y, ((50, 100_003), (100_003, 70)), 512),
    "matmul, batch": (lambda x, y: x @ y, ((3, 20, 5003), (3, 5003, 17)), 512),
    "running sums": (lambda x: rung.cumulative_sum(x, axis=1), ((3, 1_000_003),), 512),
    "running sums, columns": (lambda x: rung.cumulative_sum(x, axis=0), ((100_003, 3),), 512),
}


@pytest.mark.parametrize("name", SHAPES)
def test_no_kernel_adds_up_many_terms_one_after_the_other(name: str) -> None:
    function, shapes, most = SHAPES[name]
    given = [rung.zeros(s, dtype=rung.float32) for s in shapes]
    found = rung.explain(function, *given)  # type: ignore[arg-type]
    for kernel in found.kernels:
        assert longest_chain(kernel.scheduled.body) <= most, kernel.text("schedule")


def test_what_runs_unscheduled_is_added_up_in_parts() -> None:
    found = rung.explain(lambda x: rung.sum(x, axis=1), rung.zeros((3, 50_000)))
    plain = strategy.fallback(found.kernels[0].naive)
    assert longest_chain(plain.body) == 50_000
    assert longest_chain(strategy.in_parts(plain, 64).body) <= 32


def test_the_tiles_of_a_product_are_cut_at_many_terms_alone() -> None:
    given = rung.zeros((100, 512)), rung.zeros((512, 100))
    found = rung.explain(lambda x, y: x @ y, *given)
    assert not [s for k in found.kernels for s in k.scheduled.schedule if "cascade" in s]


# ---- the generator


def test_the_generator_finds_sums_that_are_added_up_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = settings().cache
    configure(cache=False)
    case = sums.Case(0, "sum", "f32", "column", 12345, True, ("equal", "positive"))
    try:
        assert max(sums.worst(case, kind)[0] for kind in case.kinds) < 1
        monkeypatch.setattr(strategy, "in_parts", lambda kernel, *rest: kernel)
        other = sums.Case(0, "sum", "f32", "column", 12347, True, ("equal", "positive"))
        assert max(sums.worst(other, kind)[0] for kind in other.kinds) > 2
    finally:
        configure(cache=before)


@pytest.mark.parametrize("interpret", [True, False])
def test_a_sum_of_one_element_is_that_element_a_zero_with_its_sign(interpret: bool) -> None:
    zeros = rung.asarray(np.full((3, 1), -0.0, np.float32))
    with sums.interpreted(interpret):
        for axes in ((), (1,)):
            assert np.signbit(np.asarray(rung.sum(zeros, axis=axes))).all()
