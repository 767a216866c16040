"""How products are cut and laid out."""

from dataclasses import replace

import numpy as np
import pytest

from rung.kernel.interpret import interpret
from rung.kernel.loop import Kernel
from rung.kernel.machine import Machine, avx512_machine
from rung.kernel.parse import parse_kernel
from rung.kernel.strategy import schedule_kernel

ROWS, TERMS, COLUMNS = 768, 8, 160
PRODUCT = f"""
@kernel
def kernel(
    a: input(f32[{ROWS * TERMS}]), b: input(f32[{TERMS * COLUMNS}]),
    y: output(f32[{ROWS * COLUMNS}])
):
    for i in range({ROWS}):
        for j in range({COLUMNS}):
            t: register(f32)
            t[()] = 0.0
            for k in range({TERMS}):
                t[()] += a[{{a}}]*b[{TERMS}*j + k]
            y[{COLUMNS}*i + j] = t[()]
"""
BY_ROWS = PRODUCT.format(a=f"{TERMS}*i + k")
BY_TERMS = PRODUCT.format(a=f"{ROWS}*k + i")


def small_machine() -> Machine:
    """One whose second-level cache holds 48 of the rows."""
    return replace(avx512_machine(), l2_bytes=4096, cores=2)


def check(naive: Kernel, scheduled: Kernel) -> None:
    rng = np.random.default_rng(0)
    given = {b.name: rng.integers(-8, 8, b.shape).astype(np.float32) for b in naive.params}
    results = []
    for k in (naive, scheduled):
        arrays = [given[b.name].copy() if b.name in given else np.full(b.shape, np.nan, np.float32)
                  for b in k.params]  # fmt: skip
        interpret(k, arrays)
        results.append(arrays[2])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(("text", "near"), [(BY_ROWS, True), (BY_TERMS, False)])
def test_blocks_of_rows_stay_near(text: str, near: bool) -> None:
    """Where the broadcast factor is large and its rows are contiguous, each block of rows is laid
    out by itself, where the cache keeps it."""
    naive = parse_kernel(text)
    scheduled = schedule_kernel(naive, "contract", small_machine())
    assert any(s.startswith("pack('a', 'i_b'") for s in scheduled.schedule) is near
    assert any(s.startswith("stage('b'") for s in scheduled.schedule) or not near
    check(naive, scheduled)


def test_rows_that_the_cache_holds_are_not_cut_for_it() -> None:
    naive = parse_kernel(BY_ROWS)
    machine = replace(small_machine(), l2_bytes=1 << 20)
    scheduled = schedule_kernel(naive, "contract", machine)
    assert not any(s.startswith("pack('a'") for s in scheduled.schedule)
    check(naive, scheduled)


FILTER = """
@kernel
def kernel(x: input(f32[{n}]), dy: input(f32[{m}]), y: output(f32[540])):
    for c in range(3):
        for o in range(20):
            for kh in range(3):
                for kw in range(3):
                    t: register(f32)
                    t[()] = 0.0
                    for b in range(2):
                        for h in range(4):
                            for w in range({width}):
                                t[()] += {read}*dy[{place}]
                    y[27*o + 9*c + 3*kh + kw] = t[()]
"""
PADDED = FILTER.format(
    n=96, m=640, width=4, place="320*b + 16*o + 4*h + w",
    read="load(x[48*b + 16*c + 4*kh + 4*h + kw + w - 5], guard=kh + h - 1 >= 0 and "
         "kh + h - 1 <= 3 and (kw + w - 1 >= 0 and kw + w - 1 <= 3))",
)  # fmt: skip
STEPS_OF_TWO = FILTER.format(
    n=2 * 3 * 81, m=2 * 20 * 16, width=4, place="320*b + 16*o + 4*h + w",
    read="x[243*b + 81*c + 9*kh + 18*h + kw + 2*w]",
)  # fmt: skip


@pytest.mark.parametrize("text", [PADDED, STEPS_OF_TWO])
def test_gradients_of_filters_have_the_places_as_rows(text: str) -> None:
    naive = parse_kernel(text)
    scheduled = schedule_kernel(naive, "contract", small_machine())
    assert any(s.startswith("pack('dy', 'b'") for s in scheduled.schedule)
    check(naive, scheduled)
