"""A convolutional network with batch norm on images of 28×28 pixels, as for MNIST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.programs.common import (
    batches,
    chosen,
    initial_weights,
    labelled_images,
    torch_weights,
)


@dataclass(frozen=True)
class Size:
    """Pixels of a side, channels of the first layer, images of a step."""

    side: int = 28
    width: int = 16
    batch: int = 64


FULL = Size()
TINY = Size(side=8, width=4, batch=4)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` steps."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    width = size.width
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (size.side // 4) ** 2, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    model.load_state_dict(initial_weights(model), strict=False)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(x, y):
        optimizer.zero_grad()
        loss = f.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = rung.jit(step)
    data = batches(n, size.batch, *labelled_images(2000, 1, size.side))
    return (step(rung.asarray(x), rung.asarray(y)).item() for x, y in data)


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    width = size.width
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (size.side // 4) ** 2, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    model.load_state_dict(torch_weights(model), strict=False)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(x, y):
        optimizer.zero_grad()
        loss = f.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    data = batches(n, size.batch, *labelled_images(2000, 1, size.side))
    return (step(torch.from_numpy(x), torch.from_numpy(y)).item() for x, y in data)
