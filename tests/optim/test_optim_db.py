"""The settings by which torch tests its optimizers, on ours: 20 steps each, in f64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from tests.torch_tables import optimizer_infos

torch = pytest.importorskip("torch")
NUM_STEPS = 20
MATRIX, VECTOR = np.random.default_rng(0).standard_normal((2, 4, 3)), np.arange(1.0, 4.0)
UNMAPPED = {"SparseAdam": "there are no sparse gradients"}
INFOS = {info.optim_cls.__name__: info for info in optimizer_infos()}
SETTINGS = [
    (name, setting.desc or "default", setting.kwargs)
    for name, info in INFOS.items()
    if name not in UNMAPPED
    for setting in info.optim_inputs_func(device="cpu")
]


def loss_of(params: list[Any]) -> Any:
    """Least squares with a bias, in operators that both packages have."""
    found = params[0] * params[0] * 0.5
    for p in params[1:]:
        found = found * (1 + 0.1 * p * p) + 0.3 * p
    return ((found - 1) ** 2).mean()


def steps(package: Any, optimizer: Any, params: list[Any]) -> list[list[Any]]:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    found = []
    for _ in range(NUM_STEPS):
        if type(optimizer).__name__ == "LBFGS":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        found.append([np.asarray(p.detach()).copy() for p in params])
    return found


@pytest.mark.parametrize(("name", "desc", "options"), SETTINGS, ids=lambda x: str(x)[:40])
def test_settings(name: str, desc: str, options: dict[str, Any]) -> None:
    start = list(MATRIX) if name == "Muon" else [MATRIX[0], VECTOR]
    options = {k: float(v) if k == "lr" else v for k, v in options.items()}
    ours = [nn.Parameter(x, dtype="f64") for x in start]
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in start]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        wanted = steps(torch, getattr(torch.optim, name)(theirs, **options), theirs)
    finally:
        torch.set_default_dtype(before)
    found = steps(rung, getattr(optim, name)(ours, **options), ours)
    tolerance = {"Muon": 5e-3, "LBFGS": 1e-5}.get(name, 1e-9)
    for a, b in zip(found, wanted, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, tolerance, tolerance)


def test_most_optimizers_are_there() -> None:
    assert {n for n in INFOS if not hasattr(optim, n)} == set(UNMAPPED)
