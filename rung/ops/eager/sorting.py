"""Sorting by NumPy's stable sorts; the greatest first by sorting the reversed array."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array, EagerKernel
from rung.ir.types import TensorType
from rung.ops.eager.elementwise import Kernel, is_narrow
from rung.ops.eager.indexing import take_along

_FEW: Final = 8
"""So many greatest elements are found one by one."""


def _reversed(rank: int, dim: int) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1) if d == dim else slice(None) for d in range(rank))


def sorted_values(x: TensorType, dim: int, descending: bool) -> Kernel | None:
    """The elements in order; equal ones stay in order."""
    if is_narrow(x):
        return None
    back = _reversed(x.rank, dim)
    kind: Any = "stable" if x.dtype.is_float else None  # zeros have signs

    def kernel(x: Array) -> Array:
        found = (x[back] if descending else x).copy()
        found.sort(dim, kind)
        return found[back] if descending else found

    return kernel


def order(x: TensorType, dim: int, descending: bool) -> Kernel | None:
    """The positions of the elements in order."""
    if is_narrow(x):
        return None
    back, last = _reversed(x.rank, dim), x.shape[dim] - 1

    def kernel(x: Array) -> Array:
        if not descending:
            return x.argsort(dim, "stable")
        return last - x[back].argsort(dim, "stable")[back]

    return kernel


def _least(dtype: dt.DType) -> Array:
    """The least number of a dtype."""
    if dtype.is_float:
        return np.array(-np.inf, dtype.numpy)
    return np.array(0 if dtype.is_bool else np.iinfo(dtype.numpy).min, dtype.numpy)


def _one_by_one(x: TensorType, k: int, every: Kernel) -> EagerKernel:
    """The k greatest elements along the last dim: k times the first of the greatest, which then is
    made the least number. `every` sorts them all where that is among the greatest."""
    n, dtype = x.shape[-1], x.dtype.numpy
    rows, shape = x.size // n, (*x.shape[:-1], k)
    least = _least(x.dtype)

    def kernel(x: Array) -> tuple[Array, Array]:
        left = x.reshape(rows, n).copy()
        flat, begin = left.reshape(-1), np.arange(rows) * n
        positions, values = np.empty((rows, k), np.int64), np.empty((rows, k), dtype)
        for i in range(k):
            at = left.argmax(1)
            positions[:, i] = at
            at += begin
            values[:, i] = flat.take(at)
            flat[at] = least
        if (values == least).any():
            positions = every(x).reshape(rows, n)[:, :k]
            values = x.reshape(-1).take(positions + begin[:, None])
        return values.reshape(shape), positions.reshape(shape)

    return kernel


def top(x: TensorType, k: int, dim: int, largest: bool) -> EagerKernel | None:
    """The k greatest or smallest elements, and their positions."""
    every = order(x, dim, largest)
    if every is None:
        return None
    if largest and dim == x.rank - 1 and 0 < k <= _FEW and 4 * k <= x.shape[dim]:
        return _one_by_one(x, k, every)
    first = tuple(slice(k) if d == dim else slice(None) for d in range(x.rank))
    shape = tuple(k if d == dim else n for d, n in enumerate(x.shape))
    pick = take_along((x, TensorType(dt.int64, shape)), dim)

    def kernel(x: Array) -> tuple[Array, Array]:
        positions = every(x)[first]
        return pick(x, positions), positions

    return kernel
