"""A generative adversarial network with (transposed) convolutions: DCGAN (Radford et al., 2015)."""

from __future__ import annotations

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

SIDE = 32


@dataclass(frozen=True)
class Size:
    """Features of the noise, channels of the layer next to the image, images of a step."""

    noise: int = 64
    width: int = 16
    batch: int = 16


FULL = Size()
TINY = Size(noise=8, width=4, batch=2)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of the discriminator plus that of the generator for each of `n` steps."""
    return chosen(system, rung_steps, torch_steps)(n, jit, size)


def examples(n: int, size: Size) -> Iterator[tuple[Array, Array]]:
    """Images [batch, 3, 32, 32] within -1 … 1 and noise [batch, noise, 1, 1] for each step."""
    rng = np.random.default_rng(3)
    images = np.tanh(labelled_images(500, 3, SIDE)[0])
    for (real,) in batches(n, size.batch, images):
        yield real, rng.standard_normal((size.batch, size.noise, 1, 1)).astype(np.float32)


def rung_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    w = size.width
    generator = nn.Sequential(
        nn.ConvTranspose2d(size.noise, 4 * w, 4, 1, 0, bias=False),
        nn.BatchNorm2d(4 * w),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * w),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * w, w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(),
        nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(3, w, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * w),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * w, 4 * w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * w),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * w, 1, 4, 1, 0, bias=False),
        nn.Flatten(0),
    )
    generator.load_state_dict(initial_weights(generator), strict=False)
    discriminator.load_state_dict(initial_weights(discriminator), strict=False)
    optimizer_g = optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    ones, zeros = rung.ones(size.batch), rung.zeros(size.batch)

    def step(real, noise):
        optimizer_d.zero_grad()
        fake = generator(noise)
        loss_d = f.binary_cross_entropy_with_logits(discriminator(real), ones)
        loss_d = loss_d + f.binary_cross_entropy_with_logits(discriminator(fake.detach()), zeros)
        loss_d.backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        loss_g = f.binary_cross_entropy_with_logits(discriminator(fake), ones)
        loss_g.backward()
        optimizer_g.step()
        return loss_d, loss_g

    if jit:
        step = rung.jit(step)
    for_each = ((rung.asarray(x), rung.asarray(z)) for x, z in examples(n, size))
    return (sum(loss.item() for loss in step(x, z)) for x, z in for_each)


def torch_steps(n: int, jit: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    w = size.width
    generator = nn.Sequential(
        nn.ConvTranspose2d(size.noise, 4 * w, 4, 1, 0, bias=False),
        nn.BatchNorm2d(4 * w),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * w),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * w, w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(),
        nn.ConvTranspose2d(w, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(3, w, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * w),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * w, 4 * w, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * w),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * w, 1, 4, 1, 0, bias=False),
        nn.Flatten(0),
    )
    generator.load_state_dict(torch_weights(generator), strict=False)
    discriminator.load_state_dict(torch_weights(discriminator), strict=False)
    optimizer_g = optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    ones, zeros = torch.ones(size.batch), torch.zeros(size.batch)

    def step(real, noise):
        optimizer_d.zero_grad()
        fake = generator(noise)
        loss_d = f.binary_cross_entropy_with_logits(discriminator(real), ones)
        loss_d = loss_d + f.binary_cross_entropy_with_logits(discriminator(fake.detach()), zeros)
        loss_d.backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        loss_g = f.binary_cross_entropy_with_logits(discriminator(fake), ones)
        loss_g.backward()
        optimizer_g.step()
        return loss_d, loss_g

    for_each = ((torch.from_numpy(x), torch.from_numpy(z)) for x, z in examples(n, size))
    return (sum(loss.item() for loss in step(x, z)) for x, z in for_each)
