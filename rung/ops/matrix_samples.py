"""Matrices for the generated tests of decompositions: far from singular, with values apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array, Attrs, Sample
from rung.ir.types import Shape

SQUARE: tuple[Shape, ...] = ((3, 3), (1, 1), (0, 0), (2, 4, 4), (0, 2, 2), (2, 1, 3, 3), (17, 17))
OBLONG: tuple[Shape, ...] = (
    (5, 3), (3, 5), (4, 4), (1, 3), (0, 3), (2, 4, 3), (2, 3, 4), (0, 3, 2),
)  # fmt: skip


def _with_values(rng: np.random.Generator, shape: Shape) -> Array:
    """A matrix with singular values apart: 1, 1.5, 2, … up to a few percent."""
    *lead, m, n = shape
    k = min(m, n)
    u = np.linalg.qr(rng.standard_normal((*lead, m, k)))[0]
    v = np.linalg.qr(rng.standard_normal((*lead, n, k)))[0]
    s = (1 + 0.5 * np.arange(k)) * rng.uniform(0.97, 1.03, (*lead, k))
    return np.asarray((u * s[..., None, :]) @ np.swapaxes(v, -1, -2))


def _definite(rng: np.random.Generator, shape: Shape) -> Array:
    """A symmetric matrix with eigenvalues 1, 1.5, 2, …"""
    u, s, _ = np.linalg.svd(_with_values(rng, shape))
    found = (u * s[..., None, :]) @ np.swapaxes(u, -1, -2)
    return np.asarray((found + np.swapaxes(found, -1, -2)) / 2)


def _of_both_dtypes(matrices: Sequence[Array], attrs: Attrs | None = None) -> list[Sample]:
    given = Attrs() if attrs is None else attrs
    return [Sample((x.astype(d.numpy),), given) for d in (dt.float32, dt.float64) for x in matrices]


def regular(rng: np.random.Generator) -> list[Sample]:
    """Square matrices that have an inverse."""
    return _of_both_dtypes([_with_values(rng, s) for s in SQUARE])


def definite(rng: np.random.Generator) -> list[Sample]:
    """Positive definite matrices."""
    return _of_both_dtypes([_definite(rng, s) for s in SQUARE])


def symmetric_matrices(rng: np.random.Generator) -> list[Sample]:
    """Symmetric matrices with eigenvalues of both signs, all apart."""
    found = []
    for shape in SQUARE:
        x = _definite(rng, shape)
        found.append(x - 1.7 * np.eye(shape[-1]))
    return _of_both_dtypes(found)


def with_rank(rng: np.random.Generator, *attrs: Sequence[Attrs]) -> list[Sample]:
    """Matrices of all formats and of full rank; with the second `attrs` only those that are not
    tall or wide have derivatives, so the others come in f32 alone."""
    found: list[Sample] = []
    for smooth, given in zip((True, False), attrs, strict=False):
        for a in given:
            matrices = [_with_values(rng, s) for s in OBLONG]
            square = [x for x in matrices if x.shape[-1] == x.shape[-2]]
            found += _of_both_dtypes(matrices if smooth else square, a)
            if not smooth:
                found += [Sample((x.astype(np.float32),), a) for x in matrices]
    return found


def with_cutoff(rng: np.random.Generator) -> list[Sample]:
    """Matrices of full rank, with the part of the largest singular value below which others
    count as 0."""
    found = []
    for d in (dt.float32, dt.float64):
        for shape in OBLONG:
            x = _with_values(rng, shape).astype(d.numpy)
            found.append(Sample((x, np.full(shape[:-2], 1e-3, d.numpy))))
    return found


def systems(rng: np.random.Generator) -> list[Sample]:
    """Matrices with an inverse, and right-hand sides."""
    found = []
    for d in (dt.float32, dt.float64):
        for columns, shape in enumerate(SQUARE):
            a = _with_values(rng, shape).astype(d.numpy)
            b = rng.standard_normal((*shape[:-1], columns)).astype(d.numpy)
            found.append(Sample((a, b)))
    return found


def triangular_systems(
    rng: np.random.Generator, make: Callable[[bool, bool, bool], Attrs]
) -> list[Sample]:
    """Matrices whose triangles have inverses, and right-hand sides, for each of the attributes
    (lower, transposed, unit)."""
    found = []
    for d in (dt.float32, dt.float64):
        for k in range(8):
            shape = SQUARE[k % len(SQUARE)]
            n = shape[-1]
            a = 0.3 * rng.standard_normal(shape) + np.eye(n) * (1 + 0.2 * np.arange(n))
            b = rng.standard_normal((*shape[:-1], k % 3 + 1))
            given = make(bool(k & 1), bool(k & 2), bool(k & 4))
            found.append(Sample((a.astype(d.numpy), b.astype(d.numpy)), given))
    return found
