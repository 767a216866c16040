"""A neural ordinary differential equation, solved by Runge-Kutta steps (Chen et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.common import Array, chosen, initial_weights, torch_weights

SECONDS = 0.1
"""Between two points of time."""


@dataclass(frozen=True)
class Size:
    """Features of the hidden layer, points of time, paths of a step."""

    width: int = 50
    times: int = 20
    batch: int = 64


FULL = Size()
TINY = Size(width=8, times=3, batch=4)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` steps."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def paths(n: int, size: Size) -> Iterator[Array]:
    """Spirals f32[times + 1, batch, 2] from random places inwards."""
    rng = np.random.default_rng(1)
    t = SECONDS * np.arange(size.times + 1)[:, None]
    for _ in range(n):
        radius, angle = rng.uniform(0.5, 2, size.batch), rng.uniform(0, 2 * np.pi, size.batch)
        radius, angle = radius * np.exp(-0.1 * t), angle + 2 * t
        spiral = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        yield spiral.astype(np.float32)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    field = nn.Sequential(nn.Linear(2, size.width), nn.Tanh(), nn.Linear(size.width, 2))
    field.load_state_dict(initial_weights(field))
    optimizer = optim.Adam(field.parameters(), lr=1e-2)

    def solve(y):
        path, h = [y], SECONDS
        for _ in range(size.times):
            k1 = field(y)
            k2 = field(y + h / 2 * k1)
            k3 = field(y + h / 2 * k2)
            k4 = field(y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            path.append(y)
        return rung.stack(path)

    def step(path):
        optimizer.zero_grad()
        loss = f.mse_loss(solve(path[0]), path)
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = rung.jit(step)
    return (step(rung.asarray(path)).item() for path in paths(n, size))


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    field = nn.Sequential(nn.Linear(2, size.width), nn.Tanh(), nn.Linear(size.width, 2))
    field.load_state_dict(torch_weights(field))
    optimizer = optim.Adam(field.parameters(), lr=1e-2)

    def solve(y):
        path, h = [y], SECONDS
        for _ in range(size.times):
            k1 = field(y)
            k2 = field(y + h / 2 * k1)
            k3 = field(y + h / 2 * k2)
            k4 = field(y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            path.append(y)
        return torch.stack(path)

    def step(path):
        optimizer.zero_grad()
        loss = f.mse_loss(solve(path[0]), path)
        loss.backward()
        optimizer.step()
        return loss

    return (step(torch.from_numpy(path)).item() for path in paths(n, size))
