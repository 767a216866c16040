"""Schedules: values at chosen steps, and the same from numbers as from tensors."""

from __future__ import annotations

import math

import pytest

import rung
from rung import optim
from rung.core.errors import RungError

LINEAR = optim.Linear(1.0, 0.0, 10)
COSINE = optim.Cosine(1.0, 10, final=0.2)
CASES = {
    "constant": (optim.Constant(0.3), {0: 0.3, 1000: 0.3}),
    "linear": (LINEAR, {0: 1.0, 3: 0.7, 10: 0.0, 50: 0.0}),
    "cosine": (COSINE, {0: 1.0, 5: 0.6, 10: 0.2, 99: 0.2}),
    "quarter": (COSINE, {2.5: 0.2 + 0.4 * (1 + math.cos(math.pi / 4))}),
    "step": (optim.StepDecay(1.0, 5, 0.1), {0: 1.0, 4: 1.0, 5: 0.1, 14: 0.01}),
    "warm-up": (optim.WarmUp(4, COSINE), {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.6, 14: 0.2}),
    "chain": (
        optim.Chain(((5, optim.Constant(2.0)), (10, LINEAR)), optim.Constant(9.0)),
        {0: 2.0, 4: 2.0, 5: 1.0, 8: 0.7, 14: 0.1, 15: 9.0},
    ),
    "scaled": (optim.Scaled(0.5, LINEAR), {3: 0.35}),
    "function": (optim.FromFunction(lambda t: 1 / (1 + t)), {0: 1.0, 3: 0.25}),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    schedule, wanted = CASES[name]
    for step, rate in wanted.items():
        assert schedule(step) == pytest.approx(rate, abs=1e-12)
        found = schedule(rung.array(step))
        assert found.shape == ()
        assert float(found) == pytest.approx(rate, abs=1e-12)


def test_a_jitted_step_follows_the_schedule() -> None:
    p = rung.nn.Parameter([0.0])
    optimizer = optim.SGD([p], lr=optim.WarmUp(2, LINEAR))

    @rung.jit
    def step() -> None:
        p.grad = rung.ones(1)
        optimizer.step()
        optimizer.zero_grad()

    rates = []
    for _ in range(5):
        before = float(p[0])
        step()
        rates.append(before - float(p[0]))
        assert float(optimizer.lr) == pytest.approx(rates[-1], abs=1e-6)
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.9, 0.8], abs=1e-6)
    assert step.explain_recompiles() == ["first call"]


def test_no_steps() -> None:
    for make in (
        lambda: optim.Cosine(1.0, 0),
        lambda: optim.Linear(1.0, 0.0, 0),
        lambda: optim.WarmUp(0, LINEAR),
        lambda: optim.StepDecay(1.0, 0),
    ):
        with pytest.raises(RungError, match="0 steps"):
            make()
