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


TORCH = {
    "StepLR": (optim.StepDecay(0.1, 4, 0.5), {"step_size": 4, "gamma": 0.5}),
    "MultiStepLR": (
        optim.MultiStepDecay(0.1, (3, 7, 8), 0.5),
        {"milestones": [3, 7, 8], "gamma": 0.5},
    ),
    "ExponentialLR": (optim.ExponentialDecay(0.1, 0.9), {"gamma": 0.9}),
    "LinearLR": (
        optim.Linear(0.1 * 0.25, 0.1, 6),
        {"start_factor": 0.25, "end_factor": 1.0, "total_iters": 6},
    ),
    "CosineAnnealingLR": (optim.Cosine(0.1, 20, 0.01), {"T_max": 20, "eta_min": 0.01}),
    "OneCycleLR": (optim.OneCycle(1.0, 20), {"max_lr": 1.0, "total_steps": 20}),
    "OneCycleLR linear": (
        optim.OneCycle(1.0, 20, 0.2, "linear", 10.0, 100.0, three_phase=True),
        {
            "max_lr": 1.0,
            "total_steps": 20,
            "pct_start": 0.2,
            "anneal_strategy": "linear",
            "div_factor": 10.0,
            "final_div_factor": 100.0,
            "three_phase": True,
        },
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_rates_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, options = TORCH[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    theirs = getattr(torch.optim.lr_scheduler, name.split()[0])(optimizer, **options)
    for step in range(20):
        rate = optimizer.param_groups[0]["lr"]
        assert ours(step) == pytest.approx(rate, rel=1e-6)
        assert float(ours(rung.array(step))) == pytest.approx(rate, rel=1e-6)
        optimizer.step()
        if step < 19:
            theirs.step()


def test_one_cycle_mistakes() -> None:
    with pytest.raises(RungError, match="pct_start=2"):
        optim.OneCycle(1.0, 10, pct_start=2)
    with pytest.raises(RungError, match="anneal_strategy='sine'"):
        optim.OneCycle(1.0, 10, anneal_strategy="sine")
