"""A mixture of experts: each example goes by index through the two that its gate prefers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.common import (
    Array,
    batches,
    chosen,
    initial_weights,
    no_jit,
    torch_weights,
)

FEATURES, CLASSES = 32, 10


@dataclass(frozen=True)
class Size:
    """Features within, experts, layers of them, examples of a step."""

    width: int = 64
    experts: int = 8
    layers: int = 2
    batch: int = 512


FULL = Size()
TINY = Size(width=8, experts=3, layers=1, batch=8)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` steps."""
    no_jit("mixture", jit)
    return chosen(system, rung_steps, torch_steps)(n, size)


def examples(n: int, size: Size) -> Iterator[tuple[Array, ...]]:
    """x f32[batch, 32] around a centre for each class, with labels i64[batch]."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, 4000)
    centres = rng.standard_normal((CLASSES, FEATURES))
    x = centres[labels] + rng.standard_normal((len(labels), FEATURES))
    return batches(n, size.batch, x.astype(np.float32), labels)


def rung_steps(n: int, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    class Mixture(nn.Module):
        def __init__(self, width, experts):
            super().__init__()
            self.gate = nn.Linear(width, experts)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
                for _ in range(experts)
            )

        def forward(self, x):
            weight, choice = f.softmax(self.gate(x), dim=-1).topk(2, dim=-1)
            y = rung.zeros_like(x)
            for number, expert in enumerate(self.experts):
                row, place = rung.where(choice == number)
                y.index_add_(0, row, expert(x[row]) * weight[row, place, None])
            return x + y

    model = nn.Sequential(
        nn.Linear(FEATURES, size.width),
        *(Mixture(size.width, size.experts) for _ in range(size.layers)),
        nn.Linear(size.width, CLASSES),
    )
    model.load_state_dict(initial_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, y):
        optimizer.zero_grad()
        loss = f.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return (step(rung.asarray(x), rung.asarray(y)).item() for x, y in examples(n, size))


def torch_steps(n: int, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    class Mixture(nn.Module):
        def __init__(self, width, experts):
            super().__init__()
            self.gate = nn.Linear(width, experts)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
                for _ in range(experts)
            )

        def forward(self, x):
            weight, choice = f.softmax(self.gate(x), dim=-1).topk(2, dim=-1)
            y = torch.zeros_like(x)
            for number, expert in enumerate(self.experts):
                row, place = torch.where(choice == number)
                y.index_add_(0, row, expert(x[row]) * weight[row, place, None])
            return x + y

    model = nn.Sequential(
        nn.Linear(FEATURES, size.width),
        *(Mixture(size.width, size.experts) for _ in range(size.layers)),
        nn.Linear(size.width, CLASSES),
    )
    model.load_state_dict(torch_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, y):
        optimizer.zero_grad()
        loss = f.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return (step(torch.from_numpy(x), torch.from_numpy(y)).item() for x, y in examples(n, size))
