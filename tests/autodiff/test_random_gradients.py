"""Random programs: the text of the derivative against dual numbers."""

from __future__ import annotations

import pytest

import rung
from rung.autodiff import dual
from tests.source.random_programs import Program, function_of


@pytest.mark.parametrize("seed", range(60))
def test_text_agrees_with_dual_numbers(seed, tmp_path):
    program = Program(seed)
    f = function_of(program, tmp_path / f"program{seed}.py")
    gradient = rung.grad_source(f, (0, 1))
    for x, y in ((0.7, -0.4), (-1.1, 0.9)):
        found = [float(g) for g in gradient(x, y)]
        want = [dual.jvp(f, (x, y), t)[1] for t in ((1.0, 0.0), (0.0, 1.0))]
        assert found == pytest.approx(want, rel=2e-5, abs=1e-6), program.text
