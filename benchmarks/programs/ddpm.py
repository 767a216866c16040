"""A denoising diffusion model with a small U-Net (Ho et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.common import (
    Array,
    batches,
    chosen,
    initial_weights,
    labelled_images,
    torch_weights,
)

LEVELS = 1000
"""Of noise."""


@dataclass(frozen=True)
class Size:
    """Pixels of a side, channels at the full size, features of the level, images of a step."""

    side: int = 16
    width: int = 16
    level: int = 32
    batch: int = 8


FULL = Size()
TINY = Size(side=8, width=4, level=8, batch=2)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` steps."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def examples(n: int, size: Size) -> Iterator[tuple[Array, Array, Array]]:
    """Images [batch, 1, side, side], levels i64[batch], and noise like the images."""
    rng = np.random.default_rng(3)
    images, _ = labelled_images(500, 1, size.side)
    for (x,) in batches(n, size.batch, images):
        noise = rng.standard_normal(x.shape).astype(np.float32)
        yield x, rng.integers(0, LEVELS, size.batch), noise


def kept_part() -> Array:
    """The part of the image that is left at each level, f32[LEVELS]."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, LEVELS)).astype(np.float32)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    class Block(nn.Module):
        def __init__(self, inputs, outputs, level):
            super().__init__()
            self.norm1 = nn.GroupNorm(4, inputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.level = nn.Linear(level, outputs)
            self.norm2 = nn.GroupNorm(4, outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x, level):
            h = self.conv1(f.silu(self.norm1(x)))
            h = h + self.level(f.silu(level))[:, :, None, None]
            return self.skip(x) + self.conv2(f.silu(self.norm2(h)))

    class UNet(nn.Module):
        def __init__(self, w, level):
            super().__init__()
            self.level = nn.Sequential(nn.Linear(w, level), nn.SiLU(), nn.Linear(level, level))
            self.first = nn.Conv2d(1, w, 3, padding=1)
            self.down = nn.ModuleList([Block(w, w, level), Block(w, 2 * w, level)])
            self.middle = Block(2 * w, 2 * w, level)
            self.up = nn.ModuleList([Block(4 * w, w, level), Block(2 * w, w, level)])
            self.norm = nn.GroupNorm(4, w)
            self.last = nn.Conv2d(w, 1, 3, padding=1)
            rates = rung.arange(w // 2) * (-math.log(10000) / (w // 2))
            self.register_buffer("rates", rung.exp(rates), persistent=False)

        def forward(self, x, t):
            angles = t[:, None] * self.rates
            level = self.level(rung.cat([rung.sin(angles), rung.cos(angles)], dim=-1))
            x, kept = self.first(x), []
            for block in self.down:
                x = block(x, level)
                kept.append(x)
                x = f.avg_pool2d(x, 2)
            x = self.middle(x, level)
            for block in self.up:
                x = f.interpolate(x, scale_factor=2, mode="nearest")
                x = block(rung.cat([x, kept.pop()], dim=1), level)
            return self.last(f.silu(self.norm(x)))

    model = UNet(size.width, size.level)
    model.load_state_dict(initial_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    kept = rung.asarray(kept_part())

    def step(x, t, noise):
        part = kept[t][:, None, None, None]
        noisy = rung.sqrt(part) * x + rung.sqrt(1 - part) * noise
        optimizer.zero_grad()
        loss = f.mse_loss(model(noisy, t), noise)
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = rung.jit(step)
    return (step(*map(rung.asarray, example)).item() for example in examples(n, size))


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    class Block(nn.Module):
        def __init__(self, inputs, outputs, level):
            super().__init__()
            self.norm1 = nn.GroupNorm(4, inputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.level = nn.Linear(level, outputs)
            self.norm2 = nn.GroupNorm(4, outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x, level):
            h = self.conv1(f.silu(self.norm1(x)))
            h = h + self.level(f.silu(level))[:, :, None, None]
            return self.skip(x) + self.conv2(f.silu(self.norm2(h)))

    class UNet(nn.Module):
        def __init__(self, w, level):
            super().__init__()
            self.level = nn.Sequential(nn.Linear(w, level), nn.SiLU(), nn.Linear(level, level))
            self.first = nn.Conv2d(1, w, 3, padding=1)
            self.down = nn.ModuleList([Block(w, w, level), Block(w, 2 * w, level)])
            self.middle = Block(2 * w, 2 * w, level)
            self.up = nn.ModuleList([Block(4 * w, w, level), Block(2 * w, w, level)])
            self.norm = nn.GroupNorm(4, w)
            self.last = nn.Conv2d(w, 1, 3, padding=1)
            rates = torch.arange(w // 2) * (-math.log(10000) / (w // 2))
            self.register_buffer("rates", torch.exp(rates), persistent=False)

        def forward(self, x, t):
            angles = t[:, None] * self.rates
            level = self.level(torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1))
            x, kept = self.first(x), []
            for block in self.down:
                x = block(x, level)
                kept.append(x)
                x = f.avg_pool2d(x, 2)
            x = self.middle(x, level)
            for block in self.up:
                x = f.interpolate(x, scale_factor=2, mode="nearest")
                x = block(torch.cat([x, kept.pop()], dim=1), level)
            return self.last(f.silu(self.norm(x)))

    model = UNet(size.width, size.level)
    model.load_state_dict(torch_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    kept = torch.from_numpy(kept_part())

    def step(x, t, noise):
        part = kept[t][:, None, None, None]
        noisy = torch.sqrt(part) * x + torch.sqrt(1 - part) * noise
        optimizer.zero_grad()
        loss = f.mse_loss(model(noisy, t), noise)
        loss.backward()
        optimizer.step()
        return loss

    return (step(*map(torch.from_numpy, example)).item() for example in examples(n, size))
