"""The handwritten digits that come with scikit-learn: 1,797 images of 8×8 pixels, 10 classes.

They are the test part of the "Optical Recognition of Handwritten Digits" data set of the UCI
repository (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.core.errors import RungError, ShapeError
from rung.data.loader import Batch, TensorDataset, split_indices

Array = np.ndarray[Any, Any]

SPLIT_SEED = 0
TEST_PART = 0.2


@dataclass(frozen=True)
class Digits:
    """Images f32[N, 1, 8, 8] in [0, 1] with labels i64[N], 1,438 to train and 359 to test: the same
    split for everybody."""

    train: TensorDataset
    test: TensorDataset


def load_digits() -> Digits:
    """Load the digits. Raises RungError when scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise RungError(
            "the digits come with scikit-learn, which is not installed",
            fix="pip install 'rung[demo]'",
        ) from None
    found = load()
    images = (found.images / 16.0).astype(np.float32)[:, None]
    labels = found.target.astype(np.int64)
    train, test = split_indices(len(images), (1 - TEST_PART, TEST_PART), SPLIT_SEED)
    return Digits(
        TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])
    )


def jitter(batch: Batch, rng: np.random.Generator) -> Batch:
    """Images [N, C, H, W] moved by up to 0.8 pixels, turned by up to 0.15 rad (9°) and scaled by up
    to 10 %, each by its own draw; outside is 0. The rest of the batch is unchanged."""
    if not batch or np.ndim(batch[0]) != 4:
        raise ShapeError("jitter: the batch has no images [N, C, H, W]")
    images, *rest = batch
    count = len(images)
    angle = rng.uniform(-0.15, 0.15, count)
    zoom = rng.uniform(0.9, 1.1, count)
    shift = rng.uniform(-0.8, 0.8, (2, count))
    return (moved(images, angle, zoom, shift), *rest)


def moved(images: Array, angle: Array, zoom: Array, shift: Array) -> Array:
    """Images [N, C, H, W] sampled bilinearly at positions turned by angle[N] about the centre,
    scaled by zoom[N] and moved by shift[2, N] pixels (down, right)."""
    height, width = images.shape[-2:]
    y, x = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij"
    )
    cosine, sine = ((f(angle) * zoom)[:, None, None] for f in (np.cos, np.sin))
    rows = cosine * y + sine * x + shift[0][:, None, None] + (height - 1) / 2
    columns = cosine * x - sine * y + shift[1][:, None, None] + (width - 1) / 2
    by_row = np.maximum(0, 1 - np.abs(rows[..., None] - np.arange(height)))
    by_column = np.maximum(0, 1 - np.abs(columns[..., None] - np.arange(width)))
    # one weight for each (sample, pixel) pair, since the images are small
    weights = np.einsum("nijh,nijw->nijhw", by_row, by_column)
    flat = weights.reshape(len(images), height * width, -1)
    pixels = images.reshape(*images.shape[:2], -1).transpose(0, 2, 1)
    sampled = (flat @ pixels).transpose(0, 2, 1)
    return sampled.reshape(images.shape).astype(images.dtype)
