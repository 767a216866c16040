"""Movement of elements: mostly views, which cost no pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from rung.core.dtype import Scalar
from rung.ir.op import Array
from rung.ir.types import Shape, TensorType
from rung.ops.eager.elementwise import Kernel

FEW_BYTES: Final = 16384
"""Up to so many bytes a repeated operand is written out: NumPy takes longer to look at a view
that repeats elements than to copy them."""


def _same(x: Array) -> Array:
    return x


def reshape(shape: Shape) -> Kernel:
    """The elements in row-major order."""
    return lambda x: x.reshape(shape)


def broadcast(x: TensorType, result: TensorType) -> Kernel:
    """x repeated to the type of the result."""
    shape, dtype = result.shape, x.dtype.numpy
    if x.shape == shape:
        return _same
    lead = len(shape) - x.rank
    if result.nbytes <= FEW_BYTES:

        def written(x: Array) -> Array:
            result = np.empty(shape, dtype)
            result[...] = x
            return result

        return written
    if not x.shape:
        none = (0,) * len(shape)
        return lambda x: np.ndarray(shape, dtype, x, 0, none)
    stretched = [n != shape[lead + d] for d, n in enumerate(x.shape)]

    def viewed(x: Array) -> Array:
        pairs = zip(x.strides, stretched, strict=True)
        strides = (*(0,) * lead, *(0 if more else s for s, more in pairs))
        if not x.flags.c_contiguous:
            return np.broadcast_to(x, shape)
        return np.ndarray(shape, dtype, x, 0, strides)

    return viewed


def permute(dims: tuple[int, ...]) -> Kernel:
    """Dims in another order."""
    return lambda x: x.transpose(dims)


def cut(starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Kernel:
    """The elements start, start + step, … below stop of each dim."""
    place = tuple(map(slice, starts, stops, steps))
    return (lambda x: x[place]) if place else _same


def flip(rank: int, dims: tuple[int, ...]) -> Kernel:
    """The order reversed along `dims`."""
    place = tuple(slice(None, None, -1) if d in dims else slice(None) for d in range(rank))
    return (lambda x: x[place]) if place else _same


def concat(dim: int) -> Kernel:
    """The operands one after the other."""
    join: Any = np.concatenate
    return lambda *operands: join(operands, dim)


def padded(
    length: int, low: int, high: int, gap: int
) -> tuple[slice, slice]:
    """Where in a padded dim the elements are, and which elements these are."""
    step = gap + 1
    first = max(-(low // step), 0) if low < 0 else 0
    last = max(length + (length - 1) * gap, 0) + min(high, 0)
    count = max(-(-last // step), 0) if length else 0
    count = max(min(count, length), first)
    begin = low + first * step
    end = begin + (count - first - 1) * step + 1 if count > first else begin
    return slice(begin, end, step), slice(first, count)


def pad(
    x: TensorType,
    result: TensorType,
    low: Sequence[int],
    high: Sequence[int],
    interior: Sequence[int],
    value: Scalar,
) -> Kernel:
    """x with `value` around it and between its elements."""
    shape, dtype = result.shape, result.dtype.numpy
    places = [padded(*d) for d in zip(x.shape, low, high, interior, strict=True)]
    inner, taken = tuple(p for p, _ in places), tuple(t for _, t in places)
    zero = value == 0 and str(value)[0] != "-"
    fill = None if zero else np.array(value).astype(dtype)

    def kernel(x: Array) -> Array:
        if fill is None:
            whole = np.zeros(shape, dtype)
        else:
            whole = np.empty(shape, dtype)
            whole[...] = fill
        whole[inner] = x[taken]
        return whole

    return kernel


# ---- creation


def constant(value: Array) -> Kernel:
    """The same array at each call, which cannot be written to."""
    value.setflags(write=False)
    return lambda: value


@lru_cache(maxsize=64)
def _counted(length: int, dtype: np.dtype[Any]) -> Array:
    count = np.arange(length).astype(dtype)
    count.setflags(write=False)
    return count


def iota(result: TensorType, dim: int) -> Kernel:
    """0, 1, 2, … along `dim`."""
    shape, dtype = result.shape, result.dtype.numpy
    length = shape[dim]
    column = TensorType(result.dtype, (length, *(1,) * (len(shape) - dim - 1)))
    repeated, first = broadcast(column, result), column.shape
    if length > FEW_BYTES:
        return lambda: repeated(np.arange(length).astype(dtype).reshape(first))
    return lambda: repeated(_counted(length, dtype).reshape(first))
