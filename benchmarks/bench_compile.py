"""What compiling a training step costs: with an empty object cache, and in a second process with
what the first has left there; and what of it is Python at the level of graphs.

    python -m benchmarks.bench_compile

It is the time by which the first step takes longer than the later ones: tracing, derivatives, graph
passes, kernels, code, loading, and the first touch of memory. Imports and the making of the model
are not counted. "Tracing and passes" is the part up to the graph of primitive ops.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.bench_train import (
    CHAR,
    GPT2,
    MLP,
    gpt,
    mlp,
    prepare_rung,
    rung_training,
    torch_step,
)
from benchmarks.harness import Benchmark, Case, Options, Step, main

LIMITS = {
    "cold": {"char-GPT": 8.0, "GPT-2": 15.0},
    "warm": {"char-GPT": 2.0, "GPT-2": 2.0},
    "trace": {"GPT-2": 1.5},
}
"""Seconds that are allowed."""
MODELS = {"MLP": MLP, "char-GPT": CHAR, "GPT-2": GPT2,
          "tiny MLP": mlp([12, 8, 10], 4), "tiny GPT": gpt(1, 2, 16, 11, 8, 2)}  # fmt: skip


LATER_STEPS = 3


def compile_seconds(peer: str, model: str) -> float:
    """By how much the first step in this process is longer than the median of the next ones."""
    options = MODELS[model]
    step = prepare_rung(options) if peer == "rung" else torch_step(options, compiled=True)
    seconds = []
    for _ in range(1 + LATER_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return max(seconds[0] - statistics.median(seconds[1:]), 0.0)


def trace_seconds(peer: str, model: str) -> float:
    """The time from the Python function to a graph of primitive ops, derivatives included."""
    from rung.core.settings import configure
    from rung.ir.passes import run_passes
    from rung.rules.pipeline import PIPELINE

    train, x, y = rung_training(MODELS[model])
    configure(interpret=True)  # what follows the passes is left out
    start = time.perf_counter()
    run_passes(train.compile(x, y).runnable.graph, PIPELINE)
    return time.perf_counter() - start


def in_process(peer: str, model: str, cache: str, what: str = "--compile") -> float:
    """`compile_seconds` (or those of `--trace`) in a new process that keeps its compiled objects in
    a folder."""
    places = {"RUNG_CACHE_DIR": cache, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache}
    command = [sys.executable, "-m", "benchmarks.bench_compile", what, peer, model]
    environment = {**os.environ, **places}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        if "No module named 'torch'" in done.stderr:
            raise ImportError(name="torch")
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.split()[-1])


def prepare(peer: str, options: Options) -> Step:
    """A step that starts a process and gives its seconds."""

    def step() -> float:
        with tempfile.TemporaryDirectory() as cache:
            if options["cache"] == "trace":
                return in_process(peer, options["model"], cache, "--trace")
            cold = in_process(peer, options["model"], cache)
            if options["cache"] == "cold":
                return cold
            return in_process(peer, options["model"], cache)

    return step


def prepare_ours(options: Options) -> Step:
    """rung."""
    return prepare("rung", options)


def prepare_torch_compile(options: Options) -> Step:
    """torch.compile."""
    return prepare("torch compile", options)


def prepare_limit(options: Options) -> Step:
    """The seconds that are allowed."""
    return lambda: LIMITS[options["cache"]].get(options["model"], 10.0)


def case(model: str, cache: str, *peers: str) -> Case:
    """A model with an empty or a filled cache."""
    targets = {"limit": 1.0} if model in LIMITS[cache] else {}
    options = {"model": model, "cache": cache}
    title = "tracing and passes" if cache == "trace" else f"{cache} cache"
    return Case(f"{model}, {title}", options, ("rung", *peers), targets, rounds=1, times=1)


BENCHMARK = Benchmark(
    name="compile",
    doc="compiling a training step",
    peers={"rung": prepare_ours, "torch compile": prepare_torch_compile, "limit": prepare_limit},
    cases=(
        case("MLP", "cold", "torch compile"),
        case("MLP", "warm", "torch compile"),
        case("char-GPT", "cold", "limit"),
        case("char-GPT", "warm", "limit"),
        case("GPT-2", "cold", "limit"),
        case("GPT-2", "warm", "limit"),
        case("GPT-2", "trace", "limit"),
    ),
    tiny=(
        case("tiny MLP", "warm"),
        case("tiny GPT", "trace", "limit"),
    ),
    unit="s",
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--compile"]:
        print(compile_seconds(*sys.argv[2:4]))
    elif sys.argv[1:2] == ["--trace"]:
        print(trace_seconds(*sys.argv[2:4]))
    else:
        main(BENCHMARK, "benchmarks.bench_compile")
