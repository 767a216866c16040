"""Every benchmark runs, on tiny sizes; the harness counts right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import harness
from benchmarks.__main__ import NAMES

ROOT = Path(__file__).parent.parent


def run(name: str, folder: Path, peers: str, only: str = "") -> dict[str, Any]:
    """The JSON of a tiny run of one benchmark."""
    options = ["--tiny", "--json", str(folder), "--peers", peers, "--only", only]
    command = [sys.executable, "-m", "benchmarks", name, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def check(case: dict[str, Any], peer: str) -> None:
    measured = case["measured"][peer]
    assert not measured["missing"], f"{case['name']}: {peer}: {measured['missing']}"
    assert all(math.isfinite(s) and s > 0 for s in measured["samples"])
    assert len(measured["samples"]) == case["times"]
    assert measured["peak_mb"] >= measured["base_mb"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_runs(name: str, tmp_path: Path) -> None:
    found = run(name, tmp_path, "rung,limit,peak")
    for case in found["cases"]:
        check(case, "rung")


@pytest.mark.parametrize("name, only", [("bench_fused", "gelu 8"), ("bench_train", "tiny GPT")])
def test_runs_beside_torch(name: str, only: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed; `make bench` installs it")
    found = run(name, tmp_path, "rung,torch", only)
    (case,) = found["cases"]
    check(case, "torch")
    assert case["ratios"]["torch"] > 0


# ---- the harness


def prepare_number(options: harness.Options) -> harness.Step:
    """A step that gives the number it is told to."""
    return lambda: float(options["value"])


def prepare_missing(options: harness.Options) -> harness.Step:
    raise ImportError(name="a_library")


def prepare_broken(options: harness.Options) -> harness.Step:
    raise ValueError("does not work")


BENCHMARK = harness.Benchmark(
    name="self",
    doc="the harness itself",
    peers={
        "rung": prepare_number,
        "other": lambda o: lambda: 3.0 * o["value"],
        "missing": prepare_missing,
        "broken": prepare_broken,
        "crash": lambda o: sys.exit(3),
    },
    cases=(),
    tiny=(harness.Case("one", {"value": 2.0}, targets={"other": 2.9, "best": 3.1}, rounds=4),),
)


def test_a_time_too_short_to_measure_is_zero_and_no_error() -> None:
    case = replace(BENCHMARK.tiny[0], work=1e9, targets={"other": 2.0})
    measured = {
        "rung": harness.Measured([0.0] * 12),
        "other": harness.Measured([3.0] * 12),
    }
    result = harness.Result(case, measured)
    assert result.ratio("other") == math.inf
    assert measured["rung"].spread == 0.0
    assert "inf" in harness.verdict(result)
    harness.show([result], BENCHMARK, Console(width=150))
    json.dumps(result.record())


def test_medians_ratios_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    case = BENCHMARK.tiny[0]
    result = harness.measure("tests.test_benchmarks", case, BENCHMARK.peers, 0.0)
    assert result.peers["rung"].samples == [2.0] * 12
    assert result.ratio("other") == result.ratio("best") == 3.0
    assert result.peers["missing"].missing == "no a_library"
    assert result.peers["broken"].missing == "ValueError: does not work"
    assert "ended" in result.peers["crash"].missing
    assert harness.verdict(result) == "other 3.00 [green]ok[/], best 3.00 [red](wanted 3.1)[/]"
    harness.show([result], BENCHMARK, Console(width=150))
    printed = capsys.readouterr().out
    assert "one: missing: no a_library" in printed


if __name__ == "__main__":
    harness.main(BENCHMARK, "tests.test_benchmarks")
