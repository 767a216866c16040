"""Long programs without a look: chains, running totals, stacks, loops over elements.

    python -m benchmarks.bench_long [--json FILE]

For each kind the time of one operation at growing lengths, in rung and in PyTorch, and the peak
memory of rung.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import rung

LENGTHS = (1_000, 10_000, 100_000)


def chain(lib: Any, n: int) -> float:
    """a = a + 1, n times."""
    a = lib.zeros(16)
    for _ in range(n):
        a = a + 1
    return float(a[0])


def running_total(lib: Any, n: int) -> float:
    """All n sums of a growing sum, held."""
    total, totals = lib.zeros(()), []
    for _ in range(n):
        total = total + 1
        totals.append(total)
    return float(totals[-1]) + float(totals[n // 2])


def stack(lib: Any, n: int) -> float:
    """A stack of n small tensors."""
    ones = lib.ones(4)
    return float(lib.stack([ones * i for i in range(n)]).sum())


def sum_of_many(lib: Any, n: int) -> float:
    """A Python sum of n tensors."""
    ones = lib.ones(4)
    return float(sum(ones * i for i in range(n)).sum())  # type: ignore[attr-defined]


def elements(lib: Any, n: int) -> float:
    """a[i] = a[i] * 2 for each of the first n of 1,000 elements."""
    a = lib.ones(1000)
    for i in range(n):
        a[i % 1000] = a[i % 1000] * 2
    return float(a[0])


KINDS: dict[str, tuple[Callable[[Any, int], float], Sequence[int]]] = {
    "a = a + 1": (chain, LENGTHS),
    "running total, held": (running_total, LENGTHS),
    "stack": (stack, (100, 1_000, 10_000)),
    "sum of tensors": (sum_of_many, (100, 1_000, 10_000)),
    "a[i] = a[i] * 2": (elements, (100, 1_000, 10_000)),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench_long", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    rows = []
    for name, (program, lengths) in KINDS.items():
        for n in lengths:
            times: dict[str, float] = {}
            for lib in (rung, torch):
                program(lib, n)
                start = time.perf_counter()
                found = program(lib, n)
                times[lib.__name__] = (time.perf_counter() - start) / n * 1e6
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            rows.append({"program": name, "length": n, "result": found, "peak_mb": peak, **times})
            print(
                f"{name:20} {n:8,} {times['rung']:8.1f} us each, torch {times['torch']:6.1f}, "
                f"peak {peak:,.0f} MB"
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
