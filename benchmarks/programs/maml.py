"""Model-agnostic meta-learning of sine waves: gradients through steps of gradients (Finn, 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.programs.common import Array, chosen, weights

INNER_RATE = 0.01


@dataclass(frozen=True)
class Size:
    """Features of the two hidden layers, waves of a step, points of a wave, steps on each wave."""

    width: int = 40
    waves: int = 8
    points: int = 10
    inner: int = 3


FULL = Size()
TINY = Size(width=8, waves=2, points=5, inner=2)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss after the inner steps for each of `n` steps."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def first_weights(size: Size) -> list[Array]:
    """w1, b1, w2, b2, w3, b3 of the network; weights are [inputs, outputs]."""
    rng = np.random.default_rng(0)
    widths = (1, size.width, size.width, 1)
    found = []
    for inputs, outputs in pairwise(widths):
        found += [weights((outputs, inputs), rng).T.copy(), np.zeros(outputs, np.float32)]
    return found


def waves(n: int, size: Size) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Points x, y to learn from, and others to be judged by; each [waves, points, 1]."""
    rng = np.random.default_rng(1)
    shape = (size.waves, size.points, 1)
    for _ in range(n):
        height = rng.uniform(0.1, 5.0, (size.waves, 1, 1))
        phase = rng.uniform(0, np.pi, (size.waves, 1, 1))
        x1, x2 = rng.uniform(-5, 5, shape), rng.uniform(-5, 5, shape)
        arrays = x1, height * np.sin(x1 + phase), x2, height * np.sin(x2 + phase)
        yield tuple(a.astype(np.float32) for a in arrays)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import optim
    from rung.nn import functional as f

    params = [rung.tensor(a) for a in first_weights(size)]
    optimizer = optim.Adam(params, lr=1e-3)

    def loss_of(params, x, y):
        w1, b1, w2, b2, w3, b3 = params
        h = rung.tanh(x @ w1 + b1)
        h = rung.tanh(h @ w2 + b2)
        return f.mse_loss(h @ w3 + b3, y)

    def adapted(params, x, y):
        for _ in range(size.inner):
            gradients = rung.grad(loss_of)(params, x, y)
            params = [p - INNER_RATE * g for p, g in zip(params, gradients, strict=True)]
        return params

    def loss_after(params, x1, y1, x2, y2):
        losses = [loss_of(adapted(params, x1[i], y1[i]), x2[i], y2[i]) for i in range(size.waves)]
        return sum(losses) / len(losses)

    def step(x1, y1, x2, y2):
        loss, gradients = rung.value_and_grad(loss_after)(params, x1, y1, x2, y2)
        optimizer.step(gradients)
        return loss

    if jit:
        step = rung.jit(step)
    return (step(*map(rung.asarray, points)).item() for points in waves(n, size))


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import optim

    params = [torch.tensor(a, requires_grad=True) for a in first_weights(size)]
    optimizer = optim.Adam(params, lr=1e-3)

    def loss_of(params, x, y):
        w1, b1, w2, b2, w3, b3 = params
        h = torch.tanh(x @ w1 + b1)
        h = torch.tanh(h @ w2 + b2)
        return f.mse_loss(h @ w3 + b3, y)

    def adapted(params, x, y):
        for _ in range(size.inner):
            gradients = torch.autograd.grad(loss_of(params, x, y), params, create_graph=True)
            params = [p - INNER_RATE * g for p, g in zip(params, gradients, strict=True)]
        return params

    def step(x1, y1, x2, y2):
        optimizer.zero_grad()
        losses = [loss_of(adapted(params, x1[i], y1[i]), x2[i], y2[i]) for i in range(size.waves)]
        loss = sum(losses) / len(losses)
        loss.backward()
        optimizer.step()
        return loss

    return (step(*map(torch.from_numpy, points)).item() for points in waves(n, size))
