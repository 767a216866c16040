"""Threads that build, run and differentiate at the same time.

python -m tests.tensor.test_threads 10000     # so many operations in each of eight threads
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.settings import configure, settings
from rung.tensor.programs import clear_programs

THREADS = 8
WRONG_LINE = "x @ x  # of shapes that do not fit"


def work(seed: int, operations: int) -> list[float | str]:
    """What a thread sees: values, gradients, results under jit, lines of errors, modes."""
    rng = np.random.default_rng(seed)
    x = rung.asarray(rng.standard_normal((4, 8)).astype(np.float32))
    w = rung.tensor(rng.standard_normal((8, 3)).astype(np.float32), requires_grad=True)
    layer = nn.Linear(8, 3)
    layer.weight.assign(w.detach().T)
    layer.bias.assign(rung.zeros(3))
    # tensors: which numbers of a program become inputs depends on who was first
    shift = rung.tensor(float(seed))
    jitted = rung.jit(lambda a, b: (a @ b).tanh() * 1.5 + shift)
    found: list[float | str] = []
    for step in range(operations // 20):
        y = ((x @ w) * 0.5 + shift).tanh()
        z = (y * y).sum() + layer(x).mean() * rung.tensor(step % 7.0)
        z.backward()
        found += [z.item(), w.grad.sum().item(), layer.weight.grad.sum().item()]
        w.grad = layer.weight.grad = layer.bias.grad = None
        found.append(jitted(x, w.detach()).sum().item())
        with rung.no_grad():
            found.append(str((w * 2).requires_grad))
        found.append(str((w * 2).requires_grad))
        if step % 5 == seed % 5:
            try:
                x @ x  # of shapes that do not fit
            except rung.ShapeError as e:
                found.append("" if e.source is None else e.source.text)
    return found


def alone_and_together(operations: int) -> tuple[list[Any], list[Any]]:
    """What the threads see one after the other, and at the same time."""
    clear_programs()
    alone = [work(seed, operations) for seed in range(THREADS)]
    together: list[Any] = [None] * THREADS
    clear_programs()

    def run(seed: int) -> None:
        try:
            together[seed] = work(seed, operations)
        except BaseException as e:
            together[seed] = [repr(e)]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(THREADS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return alone, together


def distance(a: float | str, b: float | str) -> float:
    """How far apart two things that threads saw are, relative to their size."""
    if isinstance(a, str) or isinstance(b, str):
        return 0.0 if a == b else np.inf
    return abs(a - b) / max(abs(a), abs(b), 1.0)


@pytest.fixture(autouse=True, params=["auto", "fused"])
def often_switched(request: pytest.FixtureRequest) -> Iterator[None]:
    before = sys.getswitchinterval()
    configure(tier=request.param)
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
    configure(tier="fused")


def test_threads_see_what_one_thread_sees() -> None:
    """To the bit; where programs take over at a look that all threads count, but for rounding."""
    alone, together = alone_and_together(400)
    if settings().tier == "fused":
        assert together == alone
    for one, other in zip(alone, together, strict=True):
        assert max(distance(a, b) for a, b in zip(one, other, strict=True)) < 2e-6
    lines = [x for x in alone[0] if isinstance(x, str) and "@" in x]
    assert lines
    assert set(lines) == {WRONG_LINE}


def test_one_function_that_all_threads_call_with_sizes_of_their_own() -> None:
    """So it is traced by several at the same time, and its kernels become generic meanwhile."""
    weight = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    w = rung.asarray(weight)
    slope = rung.jit(lambda x: rung.grad(lambda v: ((x @ v) ** 2).sum())(w))
    wrong: list[str] = []

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(25):
                x = rng.standard_normal((int(rng.integers(2, 300)), 8)).astype(np.float32)
                found = slope(rung.asarray(x)).numpy()
                np.testing.assert_allclose(found, 2 * x.T @ (x @ weight), rtol=1e-3, atol=1e-2)
        except BaseException as e:
            wrong.append(repr(e))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(THREADS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[0]


if __name__ == "__main__":
    sys.setswitchinterval(1e-5)
    for tier in ("fused", "eager", "auto"):  # in the last, rounding changes where programs do
        configure(tier=tier)
        start = time.perf_counter()
        first, second = alone_and_together(int(sys.argv[1]))
        seen = [
            distance(a, b) for x, y in zip(first, second, strict=True)
            for a, b in zip(x, y, strict=True)
        ]  # fmt: skip
        wrong, seconds = sum(d > 0 for d in seen), time.perf_counter() - start
        print(f"{tier}: {len(seen)} values, {wrong} differ, by {max(seen)}, {seconds:.1f} s")
