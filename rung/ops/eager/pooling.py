"""Sliding windows: each element of the window is a strided view over all places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from rung.ir.op import Array
from rung.ir.types import Shape, TensorType
from rung.ops.eager.convolution import Spread, spread
from rung.ops.eager.elementwise import Kernel, is_narrow
from rung.ops.window import Window

Cut = Any


def _cuts(windows: Sequence[Window], places: Shape) -> list[Cut]:
    """For each element of the window the index of it over all places."""
    starts = [max(-w.padding[0], 0) for w in windows]
    each = [
        [
            slice(a + k * w.dilation, a + k * w.dilation + (n - 1) * w.stride + 1, w.stride)
            for k in range(w.size)
        ]
        for a, w, n in zip(starts, windows, places, strict=True)
    ]
    return [(..., *cut) for cut in product(*each)]


def _apart(windows: Sequence[Window]) -> bool:
    """Whether no element is in two windows."""
    return all(w.stride > w.span for w in windows)


def reduced(
    function: np.ufunc, x: TensorType, result: TensorType, windows: Sequence[Window], fill: float
) -> Kernel | None:
    """The elements of each window combined by `function`; padding counts as `fill`. A sum starts
    from 0, so that one of negative zeros is 0."""
    if is_narrow(x):
        return None
    if not result.size:
        return lambda x: np.zeros(result.shape, x.dtype)
    lead = x.rank - len(windows)
    seen, cuts = spread(x, windows, lead), _cuts(windows, result.shape[lead:])
    filler = None if fill == 0 else np.array(fill, x.dtype.numpy)
    first, others = cuts[0], cuts[1:]
    start = np.array(0, x.dtype.numpy) if function is np.add else None
    if not others:
        if start is not None:
            return lambda x: function(seen.array(x, filler)[first], start)
        return lambda x: seen.array(x, filler)[first]

    def kernel(x: Array) -> Array:
        whole = x if seen.plain else seen.array(x, filler)
        found: Array = function(whole[first], whole[others[0]])
        for cut in others[1:]:
            function(found, whole[cut], out=found)
        if start is not None:
            function(found, start, out=found)
        return found

    return kernel


def _base(seen: Spread, windows: Sequence[Window], places: Shape, lengths: Shape) -> Array:
    """The row-major position of the first element of the window at each place, padding or not."""
    steps = [prod(lengths[d + 1 :]) for d in range(len(lengths))]
    total = np.zeros((1,) * len(places), np.int32)
    for d, (w, n, step) in enumerate(zip(windows, places, steps, strict=True)):
        column = (np.arange(n, dtype=np.int32) * w.stride - w.padding[0]) * step
        total = total + column.reshape((-1,) + (1,) * (len(places) - d - 1))
    return total


def _offsets(windows: Sequence[Window], lengths: Shape) -> list[int]:
    """The distance in row-major positions of each element of a window from its first."""
    steps = [prod(lengths[d + 1 :]) for d in range(len(lengths))]
    return [
        sum(k * w.dilation * step for k, w, step in zip(offset, windows, steps, strict=True))
        for offset in np.ndindex(*(w.size for w in windows))
    ]


def position_of_top(
    x: TensorType, result: TensorType, windows: Sequence[Window], lowest: float
) -> Kernel | None:
    """Where the maximum `top` of each window is first; `lowest` fills the padding."""
    count = prod(w.size for w in windows)
    if is_narrow(x) or count > 255:
        return None
    if not result.size:
        return lambda x, top: np.zeros(result.shape, np.int32)
    lead = x.rank - len(windows)
    places, lengths = result.shape[lead:], x.shape[lead:]
    seen, cuts = spread(x, windows, x.rank - len(windows)), _cuts(windows, places)
    offsets = np.array(_offsets(windows, lengths), np.int32)
    fill = np.array(lowest, x.dtype.numpy)
    padded = not seen.plain
    inside = [_inside(seen, cut, lead) for cut in cuts] if padded else []
    base = _base(seen, windows, places, lengths)
    is_float = x.dtype.is_float

    def kernel(x: Array, top: Array) -> Array:
        whole = seen.array(x, fill) if padded else x
        nan = is_float and bool(np.isnan(top).any())
        steps = np.zeros(result.shape, np.uint8)  # how many elements come before the first hit
        for k in reversed(range(count - 1)):
            element = whole[cuts[k]]
            miss = np.not_equal(element, top)
            if nan:
                miss &= element == element
            if padded:
                miss |= inside[k]
            steps += np.uint8(1)
            steps *= miss.view(np.uint8)
        return offsets.take(steps) + base

    return kernel


def _inside(seen: Spread, cut: Cut, lead: int) -> Array:
    """Where the element of a window is padding."""
    flags = np.ones((1,) * lead + seen.shape[lead:], bool)
    inner: Cut = (..., *seen.inner[lead:])
    flags[inner] = False
    return flags[cut]


def put(
    values: TensorType,
    result: TensorType,
    windows: Sequence[Window],
) -> Kernel | None:
    """Zeros with the value of each window added at its position."""
    count = prod(w.size for w in windows)
    if is_narrow(values) or count > 64:
        return None
    lead = values.rank - len(windows)
    places, lengths = values.shape[lead:], result.shape[lead:]
    if not result.size or not values.size:
        return lambda values, position: np.zeros(result.shape, values.dtype)
    seen, cuts = spread(result, windows, result.rank - len(windows)), _cuts(windows, places)
    base, offsets = _base(seen, windows, places, lengths), _offsets(windows, lengths)
    apart, ints = _apart(windows), np.dtype(f"i{values.dtype.itemsize}")

    def kernel(values: Array, position: Array) -> Array:
        whole = np.zeros(seen.shape, seen.dtype)
        step, bits = position - base, values.view(ints)
        for cut, offset in zip(cuts, offsets, strict=True):
            mask = np.equal(step, offset).astype(ints)
            np.negative(mask, out=mask)  # all bits where the value is to go
            if apart:
                np.bitwise_and(bits, mask, out=whole.view(ints)[cut])
            else:
                mask &= bits
                whole[cut] += mask.view(seen.dtype)
        return whole[seen.inner]

    return kernel


def taken(ins: Sequence[TensorType], num_windowed: int) -> Kernel:
    """For each window the element of x at its position."""
    x, position = ins
    lead = x.shape[: x.rank - num_windowed]
    rows, n = prod(lead), prod(x.shape[len(lead) :])
    each = (rows, prod(position.shape[len(lead) :]))

    def kernel(x: Array, position: Array) -> Array:
        flat = position.reshape(each).clip(0, n - 1) + np.arange(rows)[:, None] * n
        return x.reshape(-1).take(flat).reshape(position.shape)

    return kernel
