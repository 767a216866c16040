"""Convolution as products of matrices.

The elements that the windows see are written out as a matrix, of as many columns as a window has
elements. What is written in one piece should be long, so the image is first laid out with that dim
innermost which makes it so: channels (then a row of the window is one piece), images (then a row of
places is, as in the derivative by the weight, where windows are as large as the image and places
few), or, for few of both, the rows of the image. Nothing is written out for windows of one element,
or of which there is one. An image with zeros between its elements, as in the derivative by it, is
never made: each remainder of the places by the distance of the elements is a convolution of its own
by every so many elements of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as product_of
from math import prod
from typing import Any, Final

import numpy as np

from rung.ir.op import Array
from rung.ir.types import Shape, TensorType
from rung.ops.eager.blas import threaded
from rung.ops.eager.elementwise import Kernel, is_narrow
from rung.ops.window import Window

_LONG_ROW: Final = 12
"""A row of so many places is written quickly enough."""
_CACHED: Final = 1 << 18
"""Elements that stay in the cache of a core."""


def _strides(shape: Shape, itemsize: int) -> tuple[int, ...]:
    """Those of a dense array."""
    found = [itemsize]
    for n in reversed(shape[1:]):
        found.append(found[-1] * n)
    return tuple(reversed(found)) if shape else ()


@dataclass(frozen=True)
class Spread:
    """Some dims of an array, dilated and padded by zeros as windows see them: the `shape` of
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


def spread(x: TensorType, windows: Sequence[Window], first: int) -> Spread:
    """How x is spread out for windows over its dims from `first` on."""
    shape, inner, starts = list(x.shape[:first]), [slice(None)] * first, [0] * first
    after = x.shape[first + len(windows) :]
    for n, w in zip(x.shape[first:], windows, strict=False):
        low, high = max(w.padding[0], 0), max(w.padding[1], 0)
        length = (n - 1) * w.base_dilation + 1
        shape.append(low + length + high)
        inner.append(slice(low, low + length, w.base_dilation))
        starts.append(max(-w.padding[0], 0))
    shape += after
    starts += [0] * len(after)
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
    if groups > 1 or x.rank < 3:
        return _by_rows(x, weight, result, windows, groups)
    if all(w.padding == (0, 0) and w.base_dilation == 1 for w in windows):
        if weight.shape[2:] == x.shape[2:]:
            return _whole(x, weight, result)
        if all(w.size == w.stride == 1 for w in windows):
            return _pointwise(x, weight, result)
    if any(w.base_dilation > 1 for w in windows):
        if all(w.stride == w.dilation == 1 for w in windows):
            return _by_remainders(x, weight, result, windows)
        return _by_rows(x, weight, result, windows, groups)
    if _has_one_place(x, windows):
        return _spread_out(x, weight, result, windows)
    return _fastest(x, weight, result, windows)


def _fastest(
    x: TensorType,
    weight: TensorType,
    result: TensorType,
    windows: Sequence[Window],
    dense: bool = True,
) -> Kernel:
    """The layout in which the longest pieces are written. The result may have to be `dense`, since
    NumPy takes long to combine arrays of different layouts."""
    last = windows[-1]
    channels = weight.shape[1] * (last.size if last.dilation == 1 else 1)
    images = x.shape[0] * (result.shape[-1] if last.stride == 1 else 1)
    rows = max(
        result.shape[-1] // (1 if last.stride == 1 else 4),
        last.size // (1 if last.dilation == 1 else 4),
    )
    if last.stride == 1 and result.shape[-1] >= _LONG_ROW:
        return _by_image(x, weight, result, windows)
    if weight.size > 2 * x.size:  # its dims stay in place
        channels = 0
    if max(channels, images) < max(2 * rows, 16):
        return _by_rows(x, weight, result, windows, 1)
    if images >= 16 and weight.size > x.size:
        return _by_images(x, weight, result, windows)
    return _by_channels(x, weight, result, windows, dense)


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


# ---- images of one element


def _has_one_place(x: TensorType, windows: Sequence[Window]) -> bool:
    """Whether the image is one element, which each window sees once."""
    return all(n == 1 for n in x.shape[2:]) and all(
        w.stride == w.dilation == 1 and 0 <= w.padding[0] < w.size and 0 <= w.padding[1] < w.size
        for w in windows
    )


def _spread_out(
    x: TensorType, weight: TensorType, result: TensorType, windows: Sequence[Window]
) -> Kernel:
    """The windows at the places see the element by their last, …, first one."""
    at: list[slice] = [slice(None), slice(None)]
    for w, n in zip(windows, result.shape[2:], strict=True):
        end = w.padding[0] - n
        at.append(slice(w.padding[0], end if end >= 0 else None, -1))
    place, shape = tuple(at), result.shape
    rows = (x.shape[0], x.shape[1])
    order = (1, 0, *range(2, x.rank))

    def run(x: Array, weight: Array) -> Array:
        seen = weight[place].transpose(order).reshape(rows[1], -1)
        return np.dot(x.reshape(rows), seen).reshape(shape)  # type: ignore[no-any-return]

    return run


# ---- matrices of what the windows see


@dataclass(frozen=True)
class _Sides:
    """Extent and distance of: images, channels, the elements of the window, its places."""

    images: tuple[int, int]
    channels: tuple[int, int]
    window: tuple[tuple[int, int], ...]
    places: tuple[tuple[int, int], ...]


def _sides(
    seen: Spread,
    images: int,
    channels: int,
    windows: Sequence[Window],
    places: Shape,
    dims: tuple[int, int, int],
) -> _Sides:
    """`dims`: where in what is spread out the images, the channels and the first window dim are."""
    image, channel, first = dims
    spatial = seen.strides[first : first + len(windows)]
    return _Sides(
        (images, seen.strides[image]),
        (channels, seen.strides[channel]),
        tuple((w.size, w.dilation * s) for w, s in zip(windows, spatial, strict=True)),
        tuple((n, w.stride * s) for n, w, s in zip(places, windows, spatial, strict=True)),
    )


def _matrix(
    seen: Spread, order: Sequence[tuple[int, int]], shape: Shape
) -> Callable[[Array], Array]:
    """What the windows see, with its dims in an order, as a matrix."""
    extents, strides = tuple(n for n, _ in order), tuple(s for _, s in order)
    dtype, offset = seen.dtype, seen.offset

    def made(x: Array) -> Array:
        whole = seen.array(x)
        view: Array = np.ndarray(extents, dtype, whole, offset, strides)
        return view.reshape(shape)

    return made


def _turned(x: TensorType, order: tuple[int, ...]) -> TensorType:
    return x.with_shape(tuple(x.shape[d] for d in order))


def _by_channels(
    x: TensorType,
    weight: TensorType,
    result: TensorType,
    windows: Sequence[Window],
    dense: bool,
) -> Kernel:
    """Channels innermost: [images · places, window · channels]."""
    spatial = tuple(range(2, x.rank))
    order = (0, *spatial, 1)
    seen = spread(_turned(x, order), windows, 1)
    places, outputs = result.shape[2:], weight.shape[0]
    sides = _sides(seen, x.shape[0], x.shape[1], windows, places, (0, x.rank - 1, 1))
    images, width, depth = x.shape[0], prod(places), prod(weight.shape[1:])
    matrix = _matrix(
        seen, (sides.images, *sides.places, *sides.window, sides.channels), (images * width, depth)
    )
    factor = (0, *spatial, 1)
    made, back = (images, *places, outputs), (0, x.rank - 1, *range(1, x.rank - 1))

    def run(x: Array, weight: Array) -> Array:
        kernel = weight.transpose(factor).reshape(outputs, depth)
        product: Array = np.dot(matrix(x.transpose(order)), kernel.T)
        found = product.reshape(made).transpose(back)
        return np.ascontiguousarray(found) if dense else found

    return run


def _by_images(
    x: TensorType, weight: TensorType, result: TensorType, windows: Sequence[Window]
) -> Kernel:
    """Images innermost: [channels · window, places · images]."""
    spatial = tuple(range(2, x.rank))
    order = (1, *spatial, 0)
    seen = spread(_turned(x, order), windows, 1)
    places, outputs = result.shape[2:], weight.shape[0]
    sides = _sides(seen, x.shape[0], x.shape[1], windows, places, (x.rank - 1, 0, 1))
    images, width, depth = x.shape[0], prod(places), prod(weight.shape[1:])
    matrix = _matrix(
        seen, (sides.channels, *sides.window, *sides.places, sides.images), (depth, width * images)
    )
    made, back = (outputs, *places, images), (x.rank - 1, 0, *range(1, x.rank - 1))

    def run(x: Array, weight: Array) -> Array:
        product = np.dot(weight.reshape(outputs, depth), matrix(x.transpose(order)))
        return product.reshape(made).transpose(back)  # type: ignore[no-any-return]

    return run


def _by_image(
    x: TensorType, weight: TensorType, result: TensorType, windows: Sequence[Window]
) -> Kernel:
    """Rows of the image innermost: [channels · window, places] for each image, of some at a time,
    so that the matrices stay in the cache."""
    seen = spread(x, windows, 2)
    places, outputs, images = result.shape[2:], weight.shape[0], x.shape[0]
    sides = _sides(seen, images, x.shape[1], windows, places, (0, 1, 2))
    depth, width = prod(weight.shape[1:]), prod(places)
    order = (sides.images, sides.channels, *sides.window, *sides.places)
    extents, strides = tuple(n for n, _ in order), tuple(s for _, s in order)
    step = max(_CACHED // (depth * width), 1)
    kernel, shape, dtype, offset = (outputs, depth), result.shape, seen.dtype, seen.offset
    product = threaded(np.matmul, outputs * depth * width * min(step, images))

    def run(x: Array, weight: Array) -> Array:
        view: Array = np.ndarray(extents, dtype, seen.array(x), offset, strides)
        factor = weight.reshape(kernel)
        found = np.empty((images, outputs, width), dtype)
        for begin in range(0, images, step):
            end = min(begin + step, images)
            matrices = view[begin:end].reshape(end - begin, depth, width)
            product(factor, matrices, out=found[begin:end])
        return found.reshape(shape)

    return run


def _by_rows(
    x: TensorType,
    weight: TensorType,
    result: TensorType,
    windows: Sequence[Window],
    groups: int,
) -> Kernel:
    """Rows of the image innermost: for each group [channels · window, images · places], or its
    transpose, as rows of the window or of places are longer."""
    seen = spread(x, windows, 2)
    images, outputs, places = x.shape[0], weight.shape[0], result.shape[2:]
    channels, sizes = weight.shape[1], weight.shape[2:]
    sides = _sides(seen, images, channels, windows, places, (0, 1, 2))
    by_group = (groups, channels * sides.channels[1])
    of_window, of_places = (sides.channels, *sides.window), (sides.images, *sides.places)
    depth, width = channels * prod(sizes), images * prod(places)
    wide = bool(sizes) and sizes[-1] > places[-1]
    order = (by_group, *((*of_places, *of_window) if wide else (*of_window, *of_places)))
    shape: Shape = (groups, width, depth) if wide else (groups, depth, width)
    kernel: Shape = (groups, outputs // groups, depth)
    if groups == 1:
        shape, kernel = shape[1:], kernel[1:]
    matrix = _matrix(seen, order, shape)
    product: Callable[..., Any] = np.dot if groups == 1 else np.matmul
    turned = (outputs, images, *places)
    back = (1, 0, *range(2, len(turned)))

    def run(x: Array, weight: Array) -> Array:
        elements = matrix(x)
        if wide:
            elements = elements.swapaxes(-1, -2)
        made = product(weight.reshape(kernel), elements)
        return made.reshape(turned).transpose(back)  # type: ignore[no-any-return]

    return run


# ---- images with zeros between their elements


def _remainder(w: Window, places: int, length: int, r: int) -> tuple[Window, slice, int]:
    """For the places r, r + base, … of a window: one over the elements alone, which elements of the
    window it has, and how many places there are."""
    base, low = w.base_dilation, w.padding[0]
    first = (low - r) % base
    size = len(range(first, w.size, base))
    count = len(range(r, places, base))
    before = (low - r - first) // base
    after = count + size - 1 - before - length
    return Window(size, 1, (before, after)), slice(first, None, base), count


def _by_remainders(
    x: TensorType, weight: TensorType, result: TensorType, windows: Sequence[Window]
) -> Kernel:
    each = [
        [
            (_remainder(w, n, length, r), slice(r, None, w.base_dilation))
            for r in range(min(w.base_dilation, n))
        ]
        for w, n, length in zip(windows, result.shape[2:], x.shape[2:], strict=True)
    ]
    parts = []
    whole = (slice(None), slice(None))
    for choice in product_of(*each):
        some = [w for (w, _, _), _ in choice]
        if any(w.size == 0 for w in some):
            continue
        taken = (*whole, *(k for (_, k, _), _ in choice))
        size = weight.with_shape((*weight.shape[:2], *(w.size for w in some)))
        made = result.with_shape((*result.shape[:2], *(n for (_, _, n), _ in choice)))
        kernel = _fastest(x, size, made, some, dense=False)
        parts.append((kernel, taken, (*whole, *(place for _, place in choice))))
    shape, dtype = result.shape, result.dtype.numpy
    empty = np.empty if len(parts) == prod(map(len, each)) else np.zeros

    def run(x: Array, weight: Array) -> Array:
        found: Array = empty(shape, dtype)
        for kernel, taken, place in parts:
            found[place] = kernel(x, weight[taken])
        return found

    return run
