"""Random graphs through every level, as many as wanted, on several processes.

python -m tests.fuzz --graphs 50000 --jobs 2
python -m tests.fuzz --seed 1234        # one graph, made small, with its text and inputs
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rung.core.settings import configure
from rung.ir.text import graph_text
from tests.levels import check_levels
from tests.random_graphs import RandomGraph, random_graph
from tests.shrink import shrink

CHUNK = 250
MOST_SECONDS = 120
"""For one graph; after that the process is ended and the graph counts as hanging."""


def failures(drawn: RandomGraph) -> list[str]:
    """What is wrong with one graph, one line each."""
    try:
        return [str(m) for m in check_levels(drawn)]
    except Exception as e:
        place = traceback.extract_tb(e.__traceback__)[-1]
        message = str(e).partition("\n")[0]
        return [f"{type(e).__name__}: {message} ({place.filename}:{place.lineno})"]


def kind_of(failure: str) -> str:
    """The part of a failure that stays the same when the graph gets smaller."""
    return failure.split(":")[0]


def work(first: int, count: int) -> None:
    """Check seeds, a line of JSON before and after each."""
    configure(cache=False, compile_jobs=1)
    for seed in range(first, first + count):
        print(json.dumps({"begin": seed}), flush=True)
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        found = failures(random_graph(seed))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"end": seed, "failures": found}), flush=True)


def chunk(first: int, count: int) -> Iterator[tuple[int, list[str]]]:
    """(seed, failures) of seeds checked in another process, which may crash."""
    last = first + count
    while first < last:
        command = [sys.executable, "-m", "tests.fuzz", "--worker", str(first), str(last - first)]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            record = json.loads(line)
            if "end" in record:
                first = record["end"] + 1
                yield record["end"], record["failures"]
        if first < last:
            said = [s for s in done.stderr.splitlines() if s.strip()]
            yield first, [f"crash ({done.returncode}): {said[0] if said else ''}"]
            first += 1


def fuzz(first: int, graphs: int, jobs: int) -> int:
    """Check many graphs; the number of bad ones."""
    start, done, bad = time.perf_counter(), 0, 0
    starts = range(first, first + graphs, CHUNK)
    with ThreadPoolExecutor(jobs) as pool:
        counts = [min(CHUNK, first + graphs - s) for s in starts]
        for results in pool.map(lambda a, n: list(chunk(a, n)), starts, counts):
            for seed, found in results:
                done += 1
                bad += bool(found)
                for line in found:
                    print(f"seed {seed}: {line}", flush=True)
            rate = done / (time.perf_counter() - start)
            print(f"{done} graphs, {bad} bad, {rate:.1f} a second", flush=True)
    return bad


def show(seed: int) -> int:
    """Print one graph, made as small as it goes if it fails."""
    configure(cache=False)
    drawn = random_graph(seed)
    found = failures(drawn)
    if found:
        kind = kind_of(found[0])
        drawn = shrink(drawn, lambda d: any(kind_of(f) == kind for f in failures(d)))
    print(graph_text(drawn.graph, data=False))
    np.set_printoptions(threshold=60, linewidth=100)
    for i, a in enumerate(drawn.inputs):
        print(f"x{i} = {a!r}")
    print(f"exact: {[drawn.exact.get(v, False) for v in drawn.graph.outputs]}")
    print(f"aliases: {drawn.aliases}")
    for line in failures(drawn) if found else ["no mismatch"]:
        print(line)
    return len(found)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--worker", type=int, nargs=2)
    given = parser.parse_args()
    if given.worker:
        work(*given.worker)
        return 0
    bad = (
        show(given.seed) if given.seed is not None else fuzz(given.first, given.graphs, given.jobs)
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
