"""What the programs share: data made from a seed, and the weights with which both systems begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Steps = Callable[..., Iterator[float]]

SYSTEMS = ("rung", "torch")


def chosen(system: str, ours: Steps, theirs: Steps) -> Steps:
    """The program of `system`. Raises ValueError for an unknown one."""
    if system not in SYSTEMS:
        raise ValueError(f"system={system!r} is none of {', '.join(SYSTEMS)}")
    return ours if system == "rung" else theirs


def no_jit(program: str, jit: bool) -> None:
    """Raise ValueError if a form under `jit` is asked for that the program does not have."""
    if jit:
        raise ValueError(f"{program} has no form under jit: its shapes or its course change")


def weights(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Normal weights f32 whose products with features of size 1 have size 1."""
    scale = np.sqrt(max(int(np.prod(shape[1:])), 1))
    return (rng.standard_normal(shape) / scale).astype(np.float32)


def initial_weights(model: Any, seed: int = 0) -> dict[str, Array]:
    """f32 arrays for the parameters of a model of either system, by name: matrices are normal,
    vectors are 0, or 1 where they scale."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, p in model.named_parameters():
        shape = tuple(p.shape)
        if len(shape) > 1:
            found[name] = weights(shape, rng)
        else:
            found[name] = np.full(shape, float(name.endswith("weight")), np.float32)
    return found


def torch_weights(model: Any, seed: int = 0) -> dict[str, Any]:
    """`initial_weights` as tensors of torch."""
    import torch

    return {name: torch.from_numpy(a) for name, a in initial_weights(model, seed).items()}


def labelled_images(count: int, channels: int, side: int, classes: int = 10) -> tuple[Array, Array]:
    """Images f32[count, channels, side, side] with labels i64[count]: a pattern for each class,
    in as much noise."""
    rng = np.random.default_rng(1)
    patterns = rng.standard_normal((classes, channels, side, side))
    labels = rng.integers(0, classes, count)
    images = patterns[labels] + rng.standard_normal((count, channels, side, side))
    return (images / 2).astype(np.float32), labels


def batches(n: int, size: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """`n` times `size` examples of the arrays, drawn at random."""
    rng = np.random.default_rng(2)
    for _ in range(n):
        numbers = rng.integers(0, len(arrays[0]), size)
        yield tuple(a[numbers] for a in arrays)
