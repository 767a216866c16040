"""Runs every benchmark: `python -m benchmarks [--tiny] [--json DIR]`, or those that are named."""

from __future__ import annotations

import sys

from benchmarks.harness import load, main

NAMES = (
    "bench_matmul", "bench_fused", "bench_train", "bench_overhead", "bench_compile",
    "bench_transforms", "bench_checkpoint",
)  # fmt: skip


def run(argv: list[str]) -> None:
    """Run the benchmarks named first in `argv` (all by default) with the options behind."""
    named = [a for a in argv if a in NAMES]
    options = [a for a in argv if a not in NAMES]
    for name in named or NAMES:
        main(load(name), f"benchmarks.{name}", options)


if __name__ == "__main__":
    run(sys.argv[1:])
