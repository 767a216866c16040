"""A vision transformer: images cut into patches, the tokens of an encoder (Dosovitskiy, 2020)."""

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

SIDE, PATCH = 32, 4
PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True)
class Size:
    """Features of a token, heads, layers, images of a step."""

    width: int = 64
    heads: int = 4
    layers: int = 3
    batch: int = 16


FULL = Size()
TINY = Size(width=8, heads=2, layers=1, batch=2)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` steps."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    class ViT(nn.Module):
        def __init__(self, width, heads, layers):
            super().__init__()
            self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
            self.first = nn.Parameter(rung.zeros(1, 1, width))
            self.positions = nn.Parameter(rung.zeros(1, 1 + PATCHES, width))
            layer = nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width))
            self.head = nn.Linear(width, 10)

        def forward(self, images):
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            first = self.first.expand(len(images), -1, -1)
            tokens = rung.cat([first, tokens], dim=1) + self.positions
            return self.head(self.encoder(tokens)[:, 0])

    model = ViT(size.width, size.heads, size.layers)
    model.load_state_dict(initial_weights(model))
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

    def step(x, y):
        optimizer.zero_grad()
        loss = f.cross_entropy(model(x), y, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = rung.jit(step)
    data = batches(n, size.batch, *labelled_images(500, 3, SIDE))
    return (step(rung.asarray(x), rung.asarray(y)).item() for x, y in data)


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    class ViT(nn.Module):
        def __init__(self, width, heads, layers):
            super().__init__()
            self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
            self.first = nn.Parameter(torch.zeros(1, 1, width))
            self.positions = nn.Parameter(torch.zeros(1, 1 + PATCHES, width))
            layer = nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(
                layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.head = nn.Linear(width, 10)

        def forward(self, images):
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            first = self.first.expand(len(images), -1, -1)
            tokens = torch.cat([first, tokens], dim=1) + self.positions
            return self.head(self.encoder(tokens)[:, 0])

    model = ViT(size.width, size.heads, size.layers)
    model.load_state_dict(torch_weights(model))
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

    def step(x, y):
        optimizer.zero_grad()
        loss = f.cross_entropy(model(x), y, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return loss

    data = batches(n, size.batch, *labelled_images(500, 3, SIDE))
    return (step(torch.from_numpy(x), torch.from_numpy(y)).item() for x, y in data)
