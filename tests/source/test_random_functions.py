"""Random programs: control flow in the graph against Python on numbers."""

from __future__ import annotations

import pytest

import rung
from tests.source.random_programs import Program, function_of


@pytest.mark.parametrize("seed", range(40))
def test_graph_agrees_with_python(seed, tmp_path):
    program = Program(seed)
    f = function_of(program, tmp_path / f"program{seed}.py")
    converted = rung.function(f)
    for x, y in ((0.7, -0.4), (-1.1, 0.9)):
        given = [rung.asarray(v, dtype=rung.float64) for v in (x, y)]
        assert float(converted(*given, rung.asarray(3))) == pytest.approx(f(x, y), rel=1e-10), (
            program.text
        )
