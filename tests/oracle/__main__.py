"""Every operator of torch's own table (`op_db`) that has a counterpart here, on torch's samples.

python -m tests.oracle                      # everything, the counts and what is unmapped
python -m tests.oracle --only sum max       # some operators
python -m tests.oracle --markdown FILE      # the counts and lists as a document
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from rung.core.settings import configure
from tests.oracle.outcome import INFOS, Limits, Outcome, counterpart, evaluated
from tests.oracle.report import document, summary

CHUNK = 70
"""Operators compared by one process, which ends then and lets its memory go."""


def work(names: list[str], limits: Limits) -> None:
    """Compare some operators, a line of JSON for each."""
    import torch

    torch.set_num_threads(1)
    configure(threads=1, compile_jobs=1)
    for name in names:
        print(json.dumps(asdict(evaluated(name, limits))), flush=True)


def compared(names: list[str], args: argparse.Namespace) -> Iterator[Outcome]:
    """The outcomes of operators compared in other processes."""
    command = [sys.executable, "-m", "tests.oracle", "--work"]
    options = ["--samples", str(args.samples), "--compiled", str(args.compiled)]

    def run(part: list[str]) -> list[Outcome]:
        done = subprocess.run(
            [*command, *part, *options], stdout=subprocess.PIPE, text=True, check=False
        )
        found = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
        for name in part[len(found) :][:1]:
            dead = Outcome(name)
            dead.failed["value"] = 1
            dead.failures.append(f"{name}: the process ended with {done.returncode}")
            found += [dead, *run(part[len(found) + 1 :])]
        return found

    count = -(-len(names) // CHUNK)
    parts = [names[i::count] for i in range(count)]
    with ThreadPoolExecutor(args.jobs) as pool:
        for outcomes in pool.map(lambda p: run(p) if p else [], parts):
            yield from outcomes


def main() -> int:
    """Print the counts and lists; 1 if something failed that was not expected to."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle")
    parser.add_argument("--only", nargs="+", default=None, help="names of operators")
    parser.add_argument("--samples", type=int, default=60, help="samples for each dtype, at most")
    parser.add_argument("--compiled", type=int, default=2, help="samples that are compiled too")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--markdown", default=None)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, Limits(args.samples, args.compiled))
        return 0
    mapped = [n for n in INFOS if counterpart(n) is not None]
    names = mapped
    if args.only:
        names = [n for n in mapped if n in args.only or n.partition("/")[0] in args.only]
    start = time.perf_counter()
    outcomes = []
    for found in compared(names, args):
        outcomes.append(found)
        for line in found.failures:
            print(line, flush=True)
    print(summary(outcomes, time.perf_counter() - start))
    if args.markdown:
        with open(args.markdown, "w") as file:
            file.write(document(outcomes))
    return int(any(o.failures for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
