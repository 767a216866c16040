"""How products are cut and laid out."""

from dataclasses import replace

import numpy as np
import pytest
from products import product_text

from rung.kernel.interpret import interpret
from rung.kernel.loop import Kernel
from rung.kernel.machine import Machine, avx512_machine
from rung.kernel.parse import parse_kernel
from rung.kernel.strategy import schedule_kernel

ROWS, TERMS, COLUMNS = 768, 8, 160
BY_ROWS = product_text(ROWS, TERMS, COLUMNS, f"{TERMS}*i + k", f"{TERMS}*j + k")
BY_TERMS = product_text(ROWS, TERMS, COLUMNS, f"{ROWS}*k + i", f"{TERMS}*j + k")


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


@pytest.mark.parametrize(
    ("rows", "terms", "ways", "staged"),
    [(24, 1024, 12, False), (24, 1024, 4, True), (24, 1000, 4, False)],
)
def test_rows_that_share_a_set_of_the_cache(
    rows: int, terms: int, ways: int, staged: bool
) -> None:
    """Rows 4 KB apart are laid out where a tile has more of them than the cache has ways."""
    naive = parse_kernel(product_text(rows, terms, 256, f"{terms}*i + k", f"{terms}*j + k"))
    machine = replace(avx512_machine(), cores=2, l1d_bytes=4096 * ways)
    scheduled = schedule_kernel(naive, "contract", machine)
    assert any(s.startswith("stage('a'") for s in scheduled.schedule) is staged
