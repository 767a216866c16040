"""Where the time of a compile goes, by part and by kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import rung
from rung.tools.cli import make_app
from rung.tools.compile_report import PARALLEL, PARTS, compile_report
from rung.tools.explanation import explain

PROGRAM = """
import rung

def normalized(x: "f32[8, 24]", w: "f32[24, 16]"):
    y = x @ w
    return (y - y.mean(1, keepdim=True)).exp(), (x @ (w * 2)).exp()

def running(x: "f32[6, 24]"):
    return rung.scan(lambda c, row: (c + row, c.sin()), x[0], x)
"""


def test_all_parts_and_kernels_are_counted() -> None:
    def f(x: rung.Tensor) -> rung.Tensor:
        return (x @ x).softmax(-1).sum(0)

    x = rung.ones((24, 24))
    found = compile_report(explain(f, x).program, "f", f, x)
    assert set(found.seconds) == set(PARTS)
    assert all(found.seconds[part] > 0.0 for part in (*PARALLEL, "tracing", "plan", "passes"))
    assert len(found.kernels) >= 2
    of_kernels = sum(k.total_s for k in found.kernels)
    assert of_kernels == pytest.approx(sum(found.seconds[p] for p in PARALLEL), rel=0.01)
    assert found.wall_s(1) == pytest.approx(found.total_s)
    assert found.wall_s(2) < found.total_s
    assert all(k.lines > 10 and k.llvm.nbytes > 100 for k in found.kernels)


@pytest.mark.parametrize("function", ["normalized", "running"])
def test_the_command(function: str, tmp_path: Path) -> None:
    path = tmp_path / "user_program.py"
    path.write_text(PROGRAM)
    words = ["explain", f"{path}:{function}", "--compile"]
    result = CliRunner().invoke(make_app(), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for part in PARTS:
        assert part in result.output
    assert "distinct kernels" in result.output
