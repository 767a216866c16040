"""Reading and writing at positions: rows of a flattened array are taken, put and added up.

A position out of range counts as the nearest valid one. Positions along several dims are first
made row-major ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array
from rung.ir.types import Shape, TensorType
from rung.ops.eager.elementwise import Kernel, is_narrow

Types = Sequence[TensorType]
_INDEX: Final = np.dtype(np.int64)
_KEPT: Final = 4096


def held(index: Array, size: int) -> Array:
    """Positions brought into [0, size), as i64."""
    if index.dtype == np.uint64:
        return np.minimum(index, np.uint64(max(size - 1, 0))).astype(_INDEX)
    found = index.astype(_INDEX)
    np.maximum(found, 0, out=found)
    return np.minimum(found, max(size - 1, 0), out=found)


def _counted(n: int, step: int) -> Array:
    """0, step, 2 step, …: n of them; of few, the same array again."""
    return _few_counted(n, step) if n <= _KEPT else np.arange(n, dtype=_INDEX) * step


@lru_cache(maxsize=256)
def _few_counted(n: int, step: int) -> Array:
    count = np.arange(n, dtype=_INDEX) * step
    count.setflags(write=False)
    return count


def take(ins: Types, result: TensorType, dim: int) -> Kernel:
    """The slices of x along `dim` at positions."""
    if not result.size:
        return lambda x, index: np.empty(result.shape, x.dtype)
    x, index = ins
    size = x.shape[dim]
    if index.dtype.bits == 64 and index.dtype.kind == "u":
        return lambda x, index: np.asarray(x.take(held(index, size), dim))
    if not result.shape:
        return lambda x, index: np.asarray(x.take(index, dim, None, "clip"))
    return lambda x, index: x.take(index, dim, None, "clip")


def take_along(ins: Types, dim: int) -> Kernel:
    """For each element of `index` the element of x at that position along `dim`."""
    x, index = ins
    shape = index.shape
    if not index.size:
        return lambda x, index: np.empty(shape, x.dtype)
    outer, size, inner = prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :])
    laid = (outer, shape[dim], inner)

    def kernel(x: Array, index: Array) -> Array:
        flat = held(index, size).reshape(laid)
        if inner > 1:
            flat = flat * inner
            flat += _counted(inner, 1)
        if outer > 1:
            flat += _counted(outer, size * inner).reshape(outer, 1, 1)
        return x.reshape(-1).take(flat).reshape(shape)

    return kernel


# ---- positions along several dims


def _flat_rows(x: Shape, index: Shape, batch_dims: int) -> tuple[Callable[[Array], Array], Shape]:
    """A function from `index` to the rows that it addresses in x, whose dims that are neither batch
    nor indexed are one row, and the shape [rows, row] of that x."""
    k = index[-1]
    batch, sizes = x[:batch_dims], x[batch_dims : batch_dims + k]
    rest, per_batch = prod(x[batch_dims + k :]), prod(sizes)
    many, count = prod(index[batch_dims:-1]), prod(batch)
    matrix = (count * per_batch, rest)

    def rows(index: Array) -> Array:
        if k == 1:
            flat = held(index, sizes[0])
        else:
            flat = np.zeros(index.shape[:-1], _INDEX)
            for i, n in enumerate(sizes):
                flat *= n
                flat += held(index[..., i], n)
        if batch_dims:
            flat = flat.reshape(count, many) + _counted(count, per_batch)[:, None]
        return flat.reshape(-1)

    return rows, matrix


def gather(ins: Types, result: TensorType, batch_dims: int) -> Kernel:
    """x at the positions `index`."""
    shape = result.shape
    if not result.size:
        return lambda x, index: np.empty(shape, x.dtype)
    rows, matrix = _flat_rows(ins[0].shape, ins[1].shape, batch_dims)
    if matrix[1] == 1:
        return lambda x, index: x.reshape(-1).take(rows(index)).reshape(shape)
    return lambda x, index: x.reshape(matrix).take(rows(index), 0).reshape(shape)


def scatter(ins: Types, batch_dims: int) -> Kernel:
    """x with `updates` at the positions; of several for one place the last stays."""
    x, index, updates = ins
    if not updates.size:
        return lambda x, index, updates: x
    rows, matrix = _flat_rows(x.shape, index.shape, batch_dims)
    each, shape = (-1, matrix[1]), x.shape

    def kernel(x: Array, index: Array, updates: Array) -> Array:
        found = x.copy("C").reshape(matrix)
        found[rows(index)] = updates.reshape(each)
        return found.reshape(shape)

    return kernel


def _counted_up(rows: Callable[[Array], Array], size: int, shape: Shape) -> Kernel:
    """Single elements of f32 added up in f64."""

    def kernel(x: Array, index: Array, updates: Array) -> Array:
        total = np.bincount(rows(index), updates.reshape(-1), size).reshape(shape)
        total += x
        return total.astype(x.dtype)

    return kernel


def combined(function: Any, ins: Types, batch_dims: int) -> Kernel | None:
    """x with the updates combined with what stands at their positions."""
    x, index, updates = ins
    if is_narrow(x):
        return None
    if not updates.size:
        return lambda x, index, updates: x
    rows, matrix = _flat_rows(x.shape, index.shape, batch_dims)
    width, shape = matrix[1], x.shape
    if width == 1 and function is np.add and x.dtype is dt.float32 and x.size <= 4 * updates.size:
        return _counted_up(rows, matrix[0], shape)

    def kernel(x: Array, index: Array, updates: Array) -> Array:
        found, flat = x.copy("C"), rows(index)
        if width > 1:  # for single elements NumPy has a fast path
            flat = (flat.reshape(-1, 1) * width + _counted(width, 1)).reshape(-1)
        function.at(found.reshape(-1), flat, updates.reshape(-1))
        return found.reshape(shape)

    return kernel


# ---- slices at positions


def _window(
    shape: Shape, dims: Sequence[int], sizes: Sequence[int]
) -> Callable[[Sequence[Array]], tuple[slice, ...]]:
    """From the starts to the index of the slice."""
    whole = [slice(None)] * len(shape)
    last = [shape[d] - n for d, n in zip(dims, sizes, strict=True)]

    def place(starts: Sequence[Array]) -> tuple[slice, ...]:
        found = whole.copy()
        for d, n, most, start in zip(dims, sizes, last, starts, strict=True):
            low = min(max(int(start), 0), most)
            found[d] = slice(low, low + n)
        return tuple(found)

    return place


def dynamic_slice(x: TensorType, dims: Sequence[int], sizes: Sequence[int]) -> Kernel:
    """The slice of x that begins at the starts."""
    place = _window(x.shape, dims, sizes)
    if not x.shape:
        return lambda x: x
    return lambda x, *starts: x[place(starts)]


def dynamic_update(x: TensorType, update: TensorType, dims: Sequence[int]) -> Kernel:
    """x with `update` in place of the slice that begins at the starts."""
    place = _window(x.shape, dims, [update.shape[d] for d in dims])

    def kernel(x: Array, update: Array, *starts: Array) -> Array:
        found = x.copy("C")
        found[place(starts)] = update
        return found

    return kernel


def within(low: int, high: int, exact: Callable[..., Array]) -> Kernel:
    """The integers as they are, if all are from `low` to `high`; `exact` decides otherwise."""

    def kernel(x: Array, *masks: Array) -> Array:
        if x.size and not (x.min() >= low and x.max() <= high):
            exact(x, *masks)
        return x

    return kernel
