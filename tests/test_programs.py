"""The complete programs of the benchmarks: rung's losses follow torch's to rounding."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.programs import __main__ as runner
from benchmarks.programs.__main__ import PROGRAMS, Measured, steps_of
from rung.core.settings import configure, settings
from rung.tensor.programs import clear_programs, num_compiled

STEPS = 3
FORMS = [
    (name, jit) for name, p in PROGRAMS.items() for jit in ((False, True) if p.jit else (False,))
]


@pytest.fixture
def interpreted() -> Iterator[None]:
    """Graphs run by NumPy; afterwards as before."""
    before = settings().interpret
    configure(interpret=True)
    yield
    configure(interpret=before)


@pytest.mark.parametrize("name, jit", FORMS, ids=[f"{n}{'-jit' * j}" for n, j in FORMS])
def test_losses_follow_those_of_torch(name: str, jit: bool, interpreted: None) -> None:
    pytest.importorskip("torch", reason="torch is not installed; `make bench` installs it")
    wanted = list(steps_of(name, STEPS, "torch", size="TINY"))
    found = list(steps_of(name, STEPS, "rung", jit, "TINY"))
    assert len(found) == STEPS and all(map(math.isfinite, found))
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert len(set(wanted)) == STEPS  # something is learned, or drawn


@pytest.mark.parametrize("name", [n for n, p in PROGRAMS.items() if not p.jit])
def test_what_has_no_form_under_jit_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="no form under jit"):
        steps_of(name, 1, "rung", jit=True, size="TINY")


def test_compilations_are_counted(interpreted: None) -> None:
    clear_programs()
    before = num_compiled()
    running = steps_of("hmc", 3, "rung", jit=True, size="TINY")
    counts = [num_compiled() - before for _ in running]
    assert counts[0] > 0
    assert counts[2] == counts[1]


def test_the_runner_measures_both_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch is not installed; `make bench` installs it")
    monkeypatch.setenv("RUNG_INTERPRET", "1")
    path = tmp_path / "found.json"
    runner.main(["mixture", "--steps", "3", "--size", "TINY", "--json", str(path)])
    printed = capsys.readouterr().out
    assert "mixture" in printed and "torch / rung" in printed
    found = json.loads(path.read_text())["programs"]["mixture"]
    for system in ("rung", "torch"):
        m = found[system]
        assert 0 < m["first_s"] < m["total_s"] == m["ends_s"][-1]
        assert m["peak_mb"] > 0 and len(m["losses"]) == 3
    assert found["rung"]["compiled"] > 0 == found["torch"]["compiled"]
    assert found["rung"]["losses"] == pytest.approx(found["torch"]["losses"], rel=1e-5)


def test_what_is_measured() -> None:
    ends = [10.0, 11.0, *(12.0 + 0.5 * i for i in range(28))]
    compiled = [5] * 20 + [7] * 10
    m = Measured(ends, compiled, 1.0, [0.0] * 30)
    assert (m.seconds(1), m.seconds(10), m.total_s) == (10.0, 15.5, 25.5)
    assert m.steady_ms == pytest.approx(500.0)
    assert m.compiled_late == 2
    assert math.isnan(Measured(ends[:2], [1, 1], 1.0, [0.0] * 2).seconds(10))


def test_a_program_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNG_NO_SUCH_SETTING", "1")
    found = runner.measure("hmc", 1, "rung", False, "TINY")
    assert isinstance(found, str) and "RUNG_NO_SUCH_SETTING" in found


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["no_such_program"])
    assert "no_such_program" in capsys.readouterr().err
