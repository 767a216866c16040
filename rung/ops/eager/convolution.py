"""Convolution as one product of matrices.

The elements that the windows see are written out as a matrix [channels · window, images · places],
or its transpose where windows are wider than there are places (as in the derivative by the weight),
so that what is copied in one piece is as long as possible. Nothing is written out for windows of
one element, or of which there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rung.ir.op import Array
from rung.ir.types import Shape, TensorType
from rung.ops.eager.elementwise import Kernel, is_narrow
from rung.ops.window import Window


def _strides(shape: Shape, itemsize: int) -> tuple[int, ...]:
    """Those of a dense array."""
    found = [itemsize]
    for n in reversed(shape[1:]):
        found.append(found[-1] * n)
    return tuple(reversed(found)) if shape else ()


@dataclass(frozen=True)
class Spread:
    """The last dims of an array, dilated and padded by zeros as windows see them: the `shape` of
    the array, where its elements go (`inner`), the first place that is seen, and its strides."""

    shape: Shape
    inner: tuple[slice, ...]
    offset: int
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    plain: bool

    def array(self, x: Array, fill: Array | None = None) -> Array:
        """x as it is spread out, dense in memory."""
        if self.plain:
            return np.ascontiguousarray(x)
        if fill is None:
            whole = np.zeros(self.shape, self.dtype)
        else:
            whole = np.empty(self.shape, self.dtype)
            whole[...] = fill
        whole[self.inner] = x
        return whole


def spread(x: TensorType, windows: Sequence[Window]) -> Spread:
    """How x is spread out for windows over its last dims."""
    lead = x.rank - len(windows)
    shape, inner, starts = list(x.shape[:lead]), [slice(None)] * lead, [0] * lead
    for n, w in zip(x.shape[lead:], windows, strict=True):
        low, high = max(w.padding[0], 0), max(w.padding[1], 0)
        length = (n - 1) * w.base_dilation + 1
        shape.append(low + length + high)
        inner.append(slice(low, low + length, w.base_dilation))
        starts.append(max(-w.padding[0], 0))
    strides = _strides(tuple(shape), x.dtype.itemsize)
    offset = sum(a * s for a, s in zip(starts, strides, strict=True))
    plain = tuple(shape) == x.shape
    return Spread(tuple(shape), tuple(inner), offset, strides, x.dtype.numpy, plain)


def conv(
    types: Sequence[TensorType],
    result: TensorType,
    windows: Sequence[Window],
    groups: int,
) -> Kernel | None:
    """x[N, C, …] with weight[O, C / groups, …]."""
    x, weight = types
    if is_narrow(x):
        return None
    if not result.size or not prod(weight.shape[1:]):
        return lambda x, weight: np.zeros(result.shape, x.dtype)
    trivial = all(
        w.padding == (0, 0) and w.base_dilation == 1 for w in windows
    )
    if trivial and groups == 1:
        if weight.shape[2:] == x.shape[2:]:
            return _whole(x, weight, result)
        if all(w.size == w.stride == 1 for w in windows):
            return _pointwise(x, weight, result)
    return _written_out(x, weight, result, windows, groups)


def _whole(x: TensorType, weight: TensorType, result: TensorType) -> Kernel:
    """One window, which holds all of the image."""
    rows, columns = (x.shape[0], prod(x.shape[1:])), (weight.shape[0], prod(x.shape[1:]))
    shape = result.shape
    return lambda x, weight: np.dot(x.reshape(rows), weight.reshape(columns).T).reshape(shape)


def _pointwise(x: TensorType, weight: TensorType, result: TensorType) -> Kernel:
    """Windows of one element: a product over the channels for each image."""
    flat, kernel = (*x.shape[:2], prod(x.shape[2:])), weight.shape[:2]
    shape = result.shape
    return lambda x, weight: np.matmul(weight.reshape(kernel), x.reshape(flat)).reshape(shape)


def _written_out(
    x: TensorType,
    weight: TensorType,
    result: TensorType,
    windows: Sequence[Window],
    groups: int,
) -> Kernel:
    seen = spread(x, windows)
    images, outputs, places = x.shape[0], weight.shape[0], result.shape[2:]
    channels, sizes = weight.shape[1], weight.shape[2:]
    image, channel, *spatial = seen.strides
    by_group = ((groups, channel * channels),)
    of_window = ((channels, channel), *(
        (w.size, w.dilation * s) for w, s in zip(windows, spatial, strict=True)))
    of_places = ((images, image), *(
        (n, w.stride * s) for n, w, s in zip(places, windows, spatial, strict=True)))
    depth, width = channels * prod(sizes), images * prod(places)
    wide = bool(sizes) and sizes[-1] > places[-1]
    order = (*by_group, *((*of_places, *of_window) if wide else (*of_window, *of_places)))
    shape, strides = tuple(n for n, _ in order), tuple(s for _, s in order)
    matrix: Shape = (groups, width, depth) if wide else (groups, depth, width)
    kernel: Shape = (groups, outputs // groups, depth)
    if groups == 1:
        matrix, kernel = matrix[1:], kernel[1:]
    product: Callable[..., Any] = np.dot if groups == 1 else np.matmul
    turned = (outputs, images, *places)
    back = (1, 0, *range(2, len(turned)))
    dtype = x.dtype.numpy

    def run(x: Array, weight: Array) -> Array:
        whole = seen.array(x)
        view: Array = np.ndarray(shape, dtype, whole, seen.offset, strides)
        elements = view.reshape(matrix)
        if wide:
            elements = elements.swapaxes(-1, -2)
        made = product(weight.reshape(kernel), elements)
        return made.reshape(turned).transpose(back)  # type: ignore[no-any-return]

    return run
