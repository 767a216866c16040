"""Generated cases of a kind, as many as wanted, on several processes.

python -m tests.fuzz graphs --cases 50000 --jobs 2
python -m tests.fuzz graphs --seed 1234        # one case, shown

A generator is a module of `tests/generate` with two functions: `check(seed)`, what is wrong with a
case as lines of text, and `show(seed)`, the case as a reader wants to see it. A case depends on its
seed alone. A process that crashes or hangs counts as a failure of the case that it was at.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, cast

from rung.core.settings import configure

GENERATORS = {
    "graphs": "random graphs through every level",
    "eager": "random graphs op by op, by the kernels of NumPy",
    "operands": "every function on repeated, aliased, broadcast, empty, strided and 0-d operands",
    "sizes": "programs whose sizes change from call to call, by kernels for all sizes",
    "styles": "one program run eagerly, lazily, under jit, in loops and under vmap",
    "extremes": "every function at 0, tiny, huge, infinite, NaN and saturated arguments",
    "sums": "sums and cumulative operations of 10^3 to 10^8 terms",
    "interruptions": "signals, Ctrl-C, forks, threads and exceptions at random moments",
    "calls": "wrong calls of the whole public API",
    "indices": "every function of positions or labels, one of them out of range, in every style",
    "files": "broken weights, checkpoints, states of optimizers, texts of graphs and kernels",
}
TIER = os.environ.get("RUNG_TIER", "fused")
"""How lazy programs run, where a generator does not say."""
CHUNK = 500
MOST_SECONDS = 120
"""For one case; after that the process is ended and the case counts as hanging."""


class Generator(Protocol):
    """A module of `tests/generate`."""

    def check(self, seed: int) -> list[str]:
        """What is wrong with case `seed`, one line each."""
        ...

    def show(self, seed: int) -> str:
        """Case `seed` as text."""
        ...


def generator(name: str) -> Generator:
    """The module that makes the cases of kind `name`."""
    return cast(Generator, importlib.import_module(f"tests.generate.{name}"))


def failures(found: Generator, seed: int) -> list[str]:
    """What `check` finds; an exception that it lets through is a failure too."""
    try:
        return found.check(seed)
    except Exception as e:
        place = traceback.extract_tb(e.__traceback__)[-1]
        message = str(e).partition("\n")[0]
        return [f"{type(e).__name__}: {message} ({place.filename}:{place.lineno})"]


def work(name: str, first: int, count: int) -> None:
    """Check seeds, a line of JSON before and after each."""
    configure(cache=False, compile_jobs=1, tier=TIER)
    found = generator(name)
    for seed in range(first, first + count):
        print(json.dumps({"begin": seed}), flush=True)
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        lines = failures(found, seed)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"end": seed, "failures": lines}), flush=True)


def chunk(name: str, first: int, count: int) -> Iterator[tuple[int, list[str]]]:
    """(seed, failures) of seeds checked in another process, which may crash."""
    last = first + count
    while first < last:
        command = [sys.executable, "-m", "tests.fuzz", name, "--worker", f"{first}"]
        done = subprocess.run([*command, f"{last - first}"], capture_output=True, text=True)
        for line in done.stdout.splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if "end" in record:
                first = record["end"] + 1
                yield record["end"], record["failures"]
        if first < last:
            said = [s for s in done.stderr.splitlines() if s.strip()]
            yield first, [f"crash ({done.returncode}): {said[0] if said else ''}"]
            first += 1


def fuzz(name: str, first: int, cases: int, jobs: int) -> int:
    """Check many cases; the number of bad ones."""
    start, done, bad = time.perf_counter(), 0, 0
    starts = range(first, first + cases, CHUNK)
    with ThreadPoolExecutor(jobs) as pool:
        counts = [min(CHUNK, first + cases - s) for s in starts]
        for results in pool.map(lambda a, n: list(chunk(name, a, n)), starts, counts):
            for seed, found in results:
                done += 1
                bad += bool(found)
                for line in found:
                    print(f"seed {seed}: {line}", flush=True)
            rate = done / (time.perf_counter() - start)
            print(f"{name}: {done} cases, {bad} bad, {rate:.1f} a second", flush=True)
    return bad


def show(name: str, seed: int) -> int:
    """Print one case and what is wrong with it."""
    configure(cache=False, tier=TIER)
    found = generator(name)
    lines = failures(found, seed)
    print(found.show(seed))
    for line in lines or ["nothing is wrong"]:
        print(line)
    return len(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = "\n".join(f"{name:14} {what}" for name, what in GENERATORS.items())
    parser.add_argument("name", choices=GENERATORS, metavar="NAME", help=kinds)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.name, *given.worker)
        return 0
    if given.seed is not None:
        return int(show(given.name, given.seed) > 0)
    return int(fuzz(given.name, given.first, given.cases, given.jobs) > 0)


if __name__ == "__main__":
    sys.exit(main())
