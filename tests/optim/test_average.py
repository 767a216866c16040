"""Exponential moving averages of weights, and the rate that falls on a plateau, beside torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import RungError

torch = pytest.importorskip("torch")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("jitted", [False, True])
def test_average(use_buffers: bool, jitted: bool) -> None:
    model = network()
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    average = optim.ExponentialMovingAverage(model, 0.8, use_buffers)
    function = torch.optim.swa_utils.get_ema_multi_avg_fn(0.8)
    wanted = torch.optim.swa_utils.AveragedModel(
        other, multi_avg_fn=function, use_buffers=use_buffers
    )
    rng = np.random.default_rng(0)
    update = rung.jit(lambda: average.update_parameters(model)) if jitted else None
    for _ in range(4):
        new = {n: rng.standard_normal(t.shape) for n, t in model.state_dict().items()}
        model.load_state_dict(new)
        other.load_state_dict({n: torch.tensor(x) for n, x in new.items()})
        update() if update else average.update_parameters(model)
        wanted.update_parameters(other)
    state = average.state_dict()
    assert sorted(state) == sorted(wanted.state_dict())
    for name, x in wanted.state_dict().items():
        if use_buffers and not x.is_floating_point() and name != "n_averaged":
            continue
        np.testing.assert_allclose(np.asarray(state[name]), x.numpy(), rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in average.parameters())
    x = rung.ones((2, 3))
    np.testing.assert_array_equal(average.eval()(x), average.module(x))


def test_a_checkpoint_of_an_average(tmp_path: Path) -> None:
    model = network()
    average = optim.ExponentialMovingAverage(model)
    average.update_parameters(model)
    nn.save_checkpoint(tmp_path / "ema.safetensors", average)
    other = optim.ExponentialMovingAverage(network())
    nn.load_checkpoint(tmp_path / "ema.safetensors", other)
    for name, x in average.state_dict().items():
        np.testing.assert_array_equal(x, other.state_dict()[name])
    with pytest.raises(RungError, match="decay=2"):
        optim.ExponentialMovingAverage(model, decay=2)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 0, "cooldown": 2, "factor": 0.5, "min_lr": 0.02},
        {"mode": "max", "patience": 2, "threshold": 0.1},
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.2, "patience": 1},
    ],
)
def test_plateau(options: dict[str, Any]) -> None:
    ours = optim.SGD([nn.Parameter([1.0])], 0.1)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    one = optim.ReduceLROnPlateau(ours, **options)
    two = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for step, metric in enumerate(np.random.default_rng(1).random(30)):
        if step == 15:
            state = one.state_dict()
            one = optim.ReduceLROnPlateau(ours, **options)
            one.load_state_dict(state)
        one.step(rung.asarray(np.float64(metric)))
        two.step(metric)
        assert float(ours.lr) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)


def test_plateau_mistakes() -> None:
    optimizer = optim.SGD([nn.Parameter([1.0])], 0.1)
    with pytest.raises(RungError, match="mode='least'"):
        optim.ReduceLROnPlateau(optimizer, mode="least")
    with pytest.raises(RungError, match="factor=1"):
        optim.ReduceLROnPlateau(optimizer, factor=1)
    optimizer.lr = optim.Constant(0.1)
    with pytest.raises(RungError, match="follows a schedule"):
        optim.ReduceLROnPlateau(optimizer)
