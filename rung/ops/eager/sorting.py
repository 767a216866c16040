"""Sorting by NumPy's stable sorts; the greatest first by sorting the reversed array."""

from __future__ import annotations

from typing import Any

from rung.core import dtype as dt
from rung.ir.op import Array, EagerKernel
from rung.ir.types import TensorType
from rung.ops.eager.elementwise import Kernel, is_narrow
from rung.ops.eager.indexing import take_along


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


def top(x: TensorType, k: int, dim: int, largest: bool) -> EagerKernel | None:
    """The k greatest or smallest elements, and their positions."""
    every = order(x, dim, largest)
    if every is None:
        return None
    first = tuple(slice(k) if d == dim else slice(None) for d in range(x.rank))
    shape = tuple(k if d == dim else n for d, n in enumerate(x.shape))
    pick = take_along((x, TensorType(dt.int64, shape)), dim)

    def kernel(x: Array) -> tuple[Array, Array]:
        positions = every(x)[first]
        return pick(x, positions), positions

    return kernel
