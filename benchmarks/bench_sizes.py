"""Sizes that vary under jit: programs compiled, results, and steady time beside one size alone.

    python -m benchmarks.bench_sizes [NAME ...] [--json FILE]

Each program comes with sizes in random order. `compiled` counts the programs that were compiled in
all; `error` is the largest distance from `jit(dynamic=False)`, relative to the largest element;
`x static` is the median time of a call, over that of the program for that size alone (the
geometric mean over some sizes).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rung
from rung import nn
from rung.tensor.programs import num_compiled

Program = tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]], Sequence[int]]
TIMED = 5
ROUNDS = 15


def tensor(rng: np.random.Generator, *shape: int) -> Any:
    """Normal numbers."""
    return rung.asarray(rng.standard_normal(shape).astype(np.float32))


def batches() -> Program:
    """The gradients of an MLP, batches of 1 to 128."""
    rng = np.random.default_rng(0)
    weights = [tensor(rng, 64, 256) * 0.1, tensor(rng, 256, 10) * 0.1]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        hidden = nn.functional.relu(x @ weights[0])
        return nn.functional.cross_entropy(hidden @ weights[1], y)

    def step(x: Any, y: Any) -> Any:
        return rung.grad(loss)(weights, x, y)

    def make(n: int) -> tuple[Any, ...]:
        return tensor(rng, n, 64), rung.asarray(rng.integers(0, 10, n))

    return step, make, [int(n) for n in rng.permutation(np.arange(1, 129))]


def sequences() -> Program:
    """A block of attention, sequences of 1 to 512."""
    rng = np.random.default_rng(1)
    width, heads = 64, 4
    into, out = tensor(rng, width, 3 * width) * 0.1, tensor(rng, width, width) * 0.1

    def block(x: Any) -> Any:
        n = x.shape[0]
        q, k, v = (
            t.reshape(n, heads, width // heads).permute(1, 0, 2)
            for t in rung.split(x @ into, width, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return nn.functional.layer_norm(x + mixed.permute(1, 0, 2).reshape(n, width) @ out, width)

    return block, lambda n: (tensor(rng, n, width),), [int(n) for n in rng.integers(1, 513, 100)]


def growing() -> Program:
    """A row put behind others, and the mean of all, until there are 500."""
    rng = np.random.default_rng(2)

    def step(rows: Any, row: Any) -> Any:
        rows = rung.concat([rows, row])
        return rows, rows.mean(0)

    return step, lambda n: (tensor(rng, n, 32), tensor(rng, 1, 32)), list(range(1, 500))


def graphs() -> Program:
    """Messages along the edges of graphs of 10 to 5,000 nodes, and the gradient."""
    rng = np.random.default_rng(3)
    weight = tensor(rng, 32, 32) * 0.1

    def loss(weight: Any, x: Any, senders: Any, receivers: Any) -> Any:
        sent = rung.tanh(x @ weight)[senders]
        found = rung.zeros_like(x).index_add(0, receivers, sent)
        return ((found + x) ** 2).mean()

    def step(x: Any, senders: Any, receivers: Any) -> Any:
        return rung.grad(loss)(weight, x, senders, receivers)

    def make(n: int) -> tuple[Any, ...]:
        ends = rng.integers(0, n, (2, 3 * n))
        return tensor(rng, n, 32), rung.asarray(ends[0]), rung.asarray(ends[1])

    return step, make, [int(n) for n in rng.integers(10, 5001, 60)]


PROGRAMS: dict[str, Callable[[], Program]] = {
    "batches": batches,
    "sequences": sequences,
    "growing": growing,
    "graphs": graphs,
}


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def error(found: Any, wanted: Any) -> float:
    """The largest distance, relative to the largest element."""
    pairs = zip(rung.tree.leaves(found), rung.tree.leaves(wanted), strict=True)
    return max(
        float(np.abs(a.numpy() - b.numpy()).max(initial=0) / np.abs(b.numpy()).max(initial=1e-9))
        for a, b in pairs
    )


def measure(name: str) -> dict[str, Any]:
    """What one program does."""
    function, make, sizes = PROGRAMS[name]()
    generic, static = rung.jit(function), rung.jit(function, dynamic=False)
    given = {n: make(n) for n in sizes}
    before, start = num_compiled(), time.perf_counter()
    for n in sizes:
        rung.tree.leaves(generic(*given[n]))[0].numpy()
    took, compiled = time.perf_counter() - start, num_compiled() - before
    chosen = sorted(set(sizes))[:: max(1, len(set(sizes)) // TIMED)][1:]
    errors, ratios = [], []
    for n in chosen:
        errors.append(error(generic(*given[n]), static(*given[n])))
        times = [
            (seconds(lambda n=n: generic(*given[n])), seconds(lambda n=n: static(*given[n])))
            for _ in range(ROUNDS)
        ]
        ours, alone = (statistics.median(t) for t in zip(*times, strict=True))
        ratios.append(ours / alone)
    return {
        "program": name,
        "sizes": len(set(sizes)),
        "compiled": compiled,
        "seconds": took,
        "error": max(errors),
        "x static": statistics.geometric_mean(ratios),
        "ratios": dict(zip(map(str, chosen), ratios, strict=True)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench_sizes", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    rows = []
    for name in given.names or PROGRAMS:
        row = measure(name)
        rows.append(row)
        shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()}
        print(", ".join(f"{k} {v}" for k, v in shown.items() if k != "ratios"), flush=True)
        print("   ", ", ".join(f"{n}: {r:.2f}" for n, r in row["ratios"].items()), flush=True)
    for line in rung.recompiles():
        if "size" in line:
            print(line)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
