"""What all benchmarks share: each peer in a process of its own, alternating runs, medians, ratios.

A benchmark is a module with a `BENCHMARK`. For each peer it names a function `prepare(options)`
that gives a `step`: calling it does the work once. A worker process speaks JSON lines over its
pipes: `prepare` a case, `run` it so many times, until its input ends. The parent lets the peers
take turns, so that whatever the machine does meanwhile meets them all.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Options = Mapping[str, Any]
Step = Callable[[], Any]
"""Does the work once. A number that it returns is the measured value, in place of the time."""
Prepare = Callable[[Options], Step]

OURS = "rung"
LIBRARIES = {"torch": "torch", "torch compile": "torch", "jax": "jax"}
"""What each peer imports; all others are ours."""
SAMPLE_SECONDS = 0.02
"""A run is repeated within one sample until it takes so long, so that the clock is fine enough."""
LONG_SECONDS = 20.0
"""After a first run of this length it is not tried out how often to repeat it."""


@dataclass(frozen=True)
class Case:
    """Something to measure: the options that `prepare` gets, and environment variables.

    `targets`: for each peer (or `best`, the fastest of them all) the least ratio peer / rung that
    is wanted. `work`: floating-point operations of one run, for GFLOP/s. Each peer has its turn in
    each of `rounds`, for `times` samples."""

    name: str
    options: Options = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    targets: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    work: float = 0.0
    rounds: int = 7
    times: int = 3


@dataclass(frozen=True)
class Benchmark:
    """A set of cases; `tiny` are quick ones of the same kind for a smoke test. `unit` is that of
    the values measured; times are in µs. `memory`: show the peak memory of the processes too."""

    name: str
    doc: str
    peers: Mapping[str, Prepare]
    cases: Sequence[Case]
    tiny: Sequence[Case]
    unit: str = "us"
    memory: bool = False


@dataclass
class Measured:
    """All samples of one peer on one case; `setup_s` is the time that `prepare` took (with the
    first run), `base_mb` the memory of its process after importing the peer, `peak_mb` the most
    that it ever held."""

    samples: list[float] = field(default_factory=list)
    setup_s: float = 0.0
    base_mb: float = 0.0
    peak_mb: float = 0.0
    missing: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples) if self.samples else float("nan")

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        if len(self.samples) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / 2 / self.median if self.median else 0.0


@dataclass(frozen=True)
class Result:
    """A case with what was measured for each peer."""

    case: Case
    peers: dict[str, Measured]

    def ratio(self, peer: str) -> float:
        """How many times faster rung is than `peer` (or than the `best` of all peers): the median
        of the ratios of the rounds, in which both met the same state of the machine."""
        if peer == "best":
            others = [n for n, m in self.peers.items() if n != OURS and m.samples]
            return min(map(self.ratio, others), default=float("nan"))
        if peer not in self.peers:
            return float("nan")
        pairs = zip(self._rounds(peer), self._rounds(OURS), strict=False)
        ratios = [theirs / ours if ours else math.inf for theirs, ours in pairs]
        return statistics.median(ratios) if ratios else float("nan")

    def _rounds(self, peer: str) -> list[float]:
        """The median of each round of a peer."""
        samples, n = self.peers[peer].samples, self.case.times
        return [statistics.median(samples[i : i + n]) for i in range(0, len(samples), n)]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        peers = {
            n: {**asdict(m), "median": m.median, "spread": m.spread} for n, m in self.peers.items()
        }
        ratios = {n: self.ratio(n) for n in self.peers if n != OURS}
        return {**asdict(self.case), "measured": peers, "ratios": ratios}


# ---- the worker's side


def serve(prepares: Mapping[str, Prepare], peer: str) -> None:
    """Do what the parent asks for until it asks no more; standard output is the parent's."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the lines
    step: Step | None = None
    number = 1
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                importlib.import_module(LIBRARIES.get(peer, OURS))
                base = held_mb()
                start = time.perf_counter()
                step = prepares[peer](request["options"])
                step()
                setup = time.perf_counter() - start
                number = repetitions(step, request["seconds"]) if setup < LONG_SECONDS else 1
                answer: dict[str, Any] = {"setup_s": setup, "base_mb": base}
            else:
                assert step is not None
                answer = {"samples": [sample(step, number) for _ in range(request["times"])]}
                answer["peak_mb"] = peak_mb()
        except ImportError as e:
            answer = {"missing": f"no {e.name or e}"}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=channel)


def repetitions(step: Step, seconds: float) -> int:
    """How often to do `step` within one sample."""
    start = time.perf_counter()
    step()
    once = time.perf_counter() - start
    return max(1, min(int(seconds / max(once, 1e-7)), 10_000))


def sample(step: Step, number: int) -> float:
    """Mean time of one of `number` runs in µs, or the value that the run returns."""
    start = time.perf_counter()
    for _ in range(number):
        value = step()
    elapsed = (time.perf_counter() - start) / number * 1e6
    return float(value) if isinstance(value, float) else elapsed


def held_mb() -> float:
    """Memory that this process holds now, in 10^6 bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / 1e6


def peak_mb() -> float:
    """The most memory that this process ever held, in 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# ---- the parent's side


class Worker:
    """A process for one peer and one case."""

    def __init__(self, module: str, peer: str, environment: Mapping[str, str]) -> None:
        self.peer = peer
        self.measured = Measured()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--peer", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request; a worker that cannot answer is noted as missing."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self.measured.missing:
            return {}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        except (BrokenPipeError, json.JSONDecodeError):
            answer = {}
        if not answer:
            answer = {"error": f"the process of {self.peer} ended"}
        if "error" in answer:
            self.measured.missing = str(answer["error"]).strip().splitlines()[-1]
        self.measured.missing = answer.get("missing", self.measured.missing)
        return answer

    def prepare(self, case: Case, seconds: float) -> None:
        answer = self.ask(do="prepare", options=dict(case.options), seconds=seconds)
        self.measured.setup_s = answer.get("setup_s", 0.0)
        self.measured.base_mb = answer.get("base_mb", 0.0)

    def run(self, times: int) -> None:
        answer = self.ask(do="run", times=times)
        self.measured.samples += answer.get("samples", [])
        peak = answer.get("peak_mb", self.measured.peak_mb)
        self.measured.peak_mb = max(peak, self.measured.base_mb)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def measure(
    module: str, case: Case, peers: Iterable[str], seconds: float = SAMPLE_SECONDS
) -> Result:
    """Let the peers take turns at a case."""
    workers = [Worker(module, p, case.environment) for p in peers]
    try:
        for w in workers:
            w.prepare(case, seconds)
        for number in range(case.rounds):
            for w in workers if number % 2 == 0 else reversed(workers):
                w.run(case.times)
    finally:
        for w in workers:
            w.close()
    return Result(case, {w.peer: w.measured for w in workers})


# ---- what is printed


def show(results: Sequence[Result], benchmark: Benchmark, console: Console) -> None:
    """A table: a line for each case, a column for each peer, and the ratios that are wanted."""
    peers = list(dict.fromkeys(p for r in results for p in r.peers))
    table = Table(title=f"{benchmark.name}: {benchmark.doc}", title_justify="left")
    table.add_column("case")
    for p in peers:
        table.add_column(f"{p}, {benchmark.unit}", justify="right")
    table.add_column("times faster")
    for r in results:
        table.add_row(r.case.name, *[cell(r, p) for p in peers], verdict(r))
    console.print(table)
    if benchmark.memory:
        for r in results:
            console.print(memory_line(r), highlight=False)
    for r in results:
        for p, m in r.peers.items():
            if m.missing:
                console.print(f"  {r.case.name}: {p}: {m.missing}", markup=False)


def memory_line(r: Result) -> str:
    """Peak memory of each process, all of it and what came after the imports."""
    held = {n: m for n, m in r.peers.items() if m.peak_mb}
    parts = [
        f"{n} {m.peak_mb:,.0f} MB (step {m.peak_mb - m.base_mb:,.0f})" for n, m in held.items()
    ]
    return f"  peak memory, {r.case.name}: {', '.join(parts)}"


def cell(r: Result, peer: str) -> str:
    """The median of a peer, with GFLOP/s where the work is known."""
    m = r.peers.get(peer)
    if m is None or not m.samples:
        return "—"
    text = f"{m.median:,.1f}" if m.median < 1000 else f"{m.median:,.0f}"
    if r.case.work and m.median:
        text += f" ({r.case.work / m.median / 1e3:.0f} GF/s)"
    return text


def verdict(r: Result) -> str:
    """Each ratio, with the wanted one where it is missed."""
    if OURS not in r.peers or not r.peers[OURS].samples:
        return "—"
    parts = []
    for name in dict.fromkeys([*r.case.targets, *(p for p in r.peers if p != OURS)]):
        ratio = r.ratio(name)
        if ratio != ratio:
            continue
        wanted = r.case.targets.get(name)
        below = wanted is not None and ratio < wanted
        mark = f" [red](wanted {wanted:g})[/]" if below else " [green]ok[/]" if wanted else ""
        parts.append(f"{name} {ratio:.2f}{mark}")
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Versions of what is compared, and of what it runs on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("rung", "numpy", "llvmlite", "torch", "jax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def save(results: Sequence[Result], benchmark: Benchmark, folder: Path) -> Path:
    """Write the results as `folder/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark.name}.json"
    content = {
        "benchmark": benchmark.name,
        "unit": benchmark.unit,
        "versions": versions(),
        "cases": [r.record() for r in results],
    }
    path.write_text(json.dumps(content, indent=1))
    return path


def main(benchmark: Benchmark, module: str, argv: Sequence[str] | None = None) -> list[Result]:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=benchmark.doc)
    parser.add_argument("--tiny", action="store_true", help="quick cases, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write DIR/<benchmark>.json too")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--peers", default="", help="these peers alone: rung,torch")
    parser.add_argument("--rounds", type=int, help="how often each peer has its turn")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.peer:
        serve(benchmark.peers, given.peer)
        return []
    chosen = [
        c for c in (benchmark.tiny if given.tiny else benchmark.cases) if given.only in c.name
    ]
    allowed = given.peers.split(",") if given.peers else list(benchmark.peers)
    console = Console(width=None if sys.stdout.isatty() else 160)
    results = []
    for case in chosen:
        case = with_rounds(case, given.rounds or (1 if given.tiny else case.rounds))
        peers = [p for p in case.peers or benchmark.peers if p in allowed]
        results.append(measure(module, case, peers, 0.0 if given.tiny else SAMPLE_SECONDS))
    show(results, benchmark, console)
    if given.json:
        console.print(f"written: {save(results, benchmark, given.json)}", markup=False)
    return results


def with_rounds(case: Case, rounds: int) -> Case:
    """`case` with another number of rounds."""
    return Case(**{**vars(case), "rounds": rounds})


def load(name: str) -> Benchmark:
    """The benchmark of the module `benchmarks.<name>`."""
    found: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    return found
