"""Hamiltonian Monte Carlo for the weights of a logistic regression (Neal, 2011)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.common import Array, chosen

STEP_LENGTH = 0.02


@dataclass(frozen=True)
class Size:
    """Examples, their features, steps of a trajectory."""

    examples: int = 1000
    features: int = 32
    leaps: int = 30


FULL = Size()
TINY = Size(examples=20, features=3, leaps=3)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The energy at each of `n` samples."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def data(size: Size) -> tuple[Array, Array]:
    """x f32[examples, features] and y f32[examples], 0 or 1."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((size.examples, size.features))
    y = x @ rng.standard_normal(size.features) + rng.logistic(size=size.examples) > 0
    return x.astype(np.float32), y.astype(np.float32)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung.nn import functional as f

    x, y = map(rung.asarray, data(size))

    def energy(q):
        return f.binary_cross_entropy_with_logits(x @ q, y, reduction="sum") + (q**2).sum() / 2

    def trajectory(q, p):
        p = p - STEP_LENGTH / 2 * rung.grad(energy)(q)
        for leap in range(size.leaps):
            q = q + STEP_LENGTH * p
            length = STEP_LENGTH if leap < size.leaps - 1 else STEP_LENGTH / 2
            p = p - length * rung.grad(energy)(q)
        return q, p, energy(q)

    if jit:
        trajectory = rung.jit(trajectory)

    def samples(n):
        rng = np.random.default_rng(2)
        q = rung.zeros(size.features)
        now = energy(q).item()
        for _ in range(n):
            p = rung.asarray(rng.standard_normal(size.features).astype(np.float32))
            q_new, p_new, new = trajectory(q, p)
            change = now - new.item() + ((p**2).sum() - (p_new**2).sum()).item() / 2
            if np.log(rng.random()) < change:
                q, now = q_new, new.item()
            yield now

    return samples(n)


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f

    x, y = map(torch.from_numpy, data(size))

    def energy(q):
        return f.binary_cross_entropy_with_logits(x @ q, y, reduction="sum") + (q**2).sum() / 2

    def gradient(q):
        q = q.detach().requires_grad_()
        return torch.autograd.grad(energy(q), q)[0]

    def trajectory(q, p):
        p = p - STEP_LENGTH / 2 * gradient(q)
        for leap in range(size.leaps):
            q = q + STEP_LENGTH * p
            length = STEP_LENGTH if leap < size.leaps - 1 else STEP_LENGTH / 2
            p = p - length * gradient(q)
        return q, p, energy(q)

    def samples(n):
        rng = np.random.default_rng(2)
        q = torch.zeros(size.features)
        now = energy(q).item()
        for _ in range(n):
            p = torch.from_numpy(rng.standard_normal(size.features).astype(np.float32))
            q_new, p_new, new = trajectory(q, p)
            change = now - new.item() + ((p**2).sum() - (p_new**2).sum()).item() / 2
            if np.log(rng.random()) < change:
                q, now = q_new, new.item()
            yield now

    return samples(n)
