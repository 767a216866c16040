"""Runs small complete programs in rung and in PyTorch, from an empty cache.

    python -m benchmarks.programs [NAME ...] [--steps 100] [--jit] [--json FILE]

Each program runs in a fresh process for each system. Times count from the start of the first step,
so they hold all compiling, but no import and no making of data and model. A steady step is the
median of the second half.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import OURS, peak_mb, versions
from benchmarks.programs.common import SYSTEMS

EARLY = 20
"""Compilations after so many steps are counted apart: a program of equal steps has none."""


@dataclass(frozen=True)
class Program:
    """A module here, options of its `steps`, and whether it has a form under jit."""

    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    jit: bool = False


PROGRAMS = {
    "convnet": Program("convnet", jit=True),
    "dcgan": Program("dcgan", jit=True),
    "vit": Program("vit", jit=True),
    "ddpm": Program("ddpm", jit=True),
    "maml": Program("maml", jit=True),
    "reinforce": Program("reinforce"),
    "actor_critic": Program("actor_critic"),
    "graph_network": Program("graph_network"),
    "char_gpt": Program("char_gpt"),
    "char_gpt_cached": Program("char_gpt", {"cache": True}),
    "mixture": Program("mixture"),
    "hmc": Program("hmc", jit=True),
    "neural_ode": Program("neural_ode", jit=True),
}


@dataclass(frozen=True)
class Measured:
    """What a program took: seconds to the end of each step, programs compiled by then, the peak
    memory of the process, and what each step gave."""

    ends_s: list[float]
    compiled_by: list[int]
    peak_mb: float
    losses: list[float]

    def seconds(self, steps: int) -> float:
        """To the end of step `steps`; nan where there are fewer."""
        return self.ends_s[steps - 1] if steps <= len(self.ends_s) else math.nan

    @property
    def total_s(self) -> float:
        """To the end of the last step."""
        return self.ends_s[-1]

    @property
    def steady_ms(self) -> float:
        """The median step of the second half."""
        times = [b - a for a, b in zip([0.0, *self.ends_s], self.ends_s, strict=False)]
        return statistics.median(times[len(times) // 2 :]) * 1e3

    @property
    def compiled_late(self) -> int:
        """Programs compiled after the first 20 steps."""
        return self.compiled_by[-1] - self.compiled_by[:EARLY][-1]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        summary = {
            "first_s": self.seconds(1),
            "ten_s": self.seconds(10) if len(self.ends_s) >= 10 else None,
            "total_s": self.total_s,
            "steady_ms": self.steady_ms,
            "compiled": self.compiled_by[-1],
            "compiled_late": self.compiled_late,
        }
        return {**summary, **asdict(self)}


# ---- the process that runs a program


def steps_of(
    name: str, n: int, system: str, jit: bool = False, size: str = "FULL"
) -> Iterator[float]:
    """The steps of a program at one of its sizes."""
    program = PROGRAMS[name]
    module = importlib.import_module(f"benchmarks.programs.{program.module}")
    found: Iterator[float] = module.steps(
        n, system=system, jit=jit, size=getattr(module, size), **program.options
    )
    return found


def run(name: str, n: int, system: str, jit: bool, size: str) -> Measured:
    """Run a program in this process."""
    running = steps_of(name, n, system, jit, size)
    count = counter(system)
    ends, compiled, losses = [], [], []
    before, start = count(), time.perf_counter()
    for loss in running:
        ends.append(time.perf_counter() - start)
        compiled.append(count() - before)
        losses.append(loss)
    return Measured(ends, compiled, peak_mb(), losses)


def counter(system: str) -> Any:
    """A function that says how many programs this process has compiled."""
    if system != OURS:
        return lambda: 0
    from rung.tensor.programs import num_compiled

    return num_compiled


# ---- the process that measures


def measure(name: str, n: int, system: str, jit: bool, size: str) -> Measured | str:
    """A program in a process of its own, with an empty cache; or what its error says."""
    command = [sys.executable, "-m", "benchmarks.programs", name, "--steps", str(n)]
    command += ["--system", system, "--size", size, *(["--jit"] if jit else [])]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "RUNG_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line[:1].strip()]
        return (said or [f"it ended with {done.returncode}"])[-1]
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


COLUMNS = ("step 1, s", "10 steps, s", "all, s", "steady, ms", "compiled", "late", "peak, MB")


def values(m: Measured) -> list[float]:
    """What stands in the columns."""
    times = [m.seconds(1), m.seconds(10), m.total_s, m.steady_ms]
    return [*times, m.compiled_by[-1], m.compiled_late, m.peak_mb]


def rows(name: str, found: Mapping[str, Measured | str]) -> Iterator[list[str]]:
    """The lines of a program in the table: one for each system, and how many times less rung took
    than torch."""
    known = {system: values(m) for system, m in found.items() if isinstance(m, Measured)}
    for system, m in found.items():
        cells = [f"{v:,.4g}" for v in known[system]] if system in known else [str(m)]
        yield [name, system, *cells]
    if len(known) == len(SYSTEMS):
        ours, theirs = (known[s] for s in SYSTEMS)
        pairs = zip(COLUMNS, ours, theirs, strict=True)
        times = [f"{b / a:.2f}" if t not in ("compiled", "late") else "" for t, a, b in pairs]
        yield ["", "torch / rung", *times]


def show(results: Mapping[str, Mapping[str, Measured | str]], title: str) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left")
    for column in ("program", "system"):
        table.add_column(column)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, found in results.items():
        for row in rows(name, found):
            table.add_row(*row)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.programs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PROGRAMS)}")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--jit", action="store_true", help="those that have a form under jit, in it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--size", default="FULL", choices=("FULL", "TINY"))
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    unknown = set(given.names) - set(PROGRAMS)
    if unknown or given.steps < 1:
        parser.error(f"no program {', '.join(unknown)}" if unknown else "at least one step")
    names = given.names or [n for n, p in PROGRAMS.items() if p.jit or not given.jit]
    if given.system:
        measured = run(names[0], given.steps, given.system, given.jit, given.size)
        print(json.dumps(asdict(measured)))
        return
    options = (given.jit, given.size)
    results = {n: {s: measure(n, given.steps, s, *options) for s in SYSTEMS} for n in names}
    show(results, f"{given.steps} steps from an empty cache{', jit' if given.jit else ''}")
    if given.json:
        save(results, given.json, given.steps, given.jit)


def save(
    results: Mapping[str, Mapping[str, Measured | str]], path: Path, steps: int, jit: bool
) -> None:
    """Write the results as JSON."""
    programs = {
        name: {s: m.record() if isinstance(m, Measured) else {"error": m} for s, m in r.items()}
        for name, r in results.items()
    }
    content = {"steps": steps, "jit": jit, "versions": versions(), "programs": programs}
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
