"""Pooling over windows of 1, 2 or 3 dims, and over as many windows as wanted ("adaptive").

Names, arguments and defaults are those of `torch.nn.functional`: x is [N, C, …] or [C, …].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.arguments import check_lengths
from rung.core.errors import DomainError, RungError, ShapeError
from rung.ops import pooling as _pooling
from rung.ops.pooling import WindowAttrs, window_argmax
from rung.ops.window import Window, check_window, each
from rung.tensor import elementwise as e
from rung.tensor import reductions
from rung.tensor.checks import checked
from rung.tensor.creation import arange, zeros
from rung.tensor.functional import floats
from rung.tensor.functional import max_pool2d as _max_pool
from rung.tensor.operate import Operand, as_tensor
from rung.tensor.precision import rounded_once
from rung.tensor.shapes import as_shape, broadcast_to, expand_dims, moveaxis, pad, reshape, squeeze
from rung.tensor.sorting import take, take_along_axis
from rung.tensor.state import apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Size = int | Sequence[int]
Target = int | None | Sequence[int | None]
Array = np.ndarray[Any, Any]


def _batched(name: str, rank: int, x: Operand, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """`pool` of x[N, C, …]; one example [C, …] is pooled as a batch of one."""
    x = as_tensor(x)
    if x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{name}: x is {x._type}", fix=f"x must be [N, C, {', '.join('DHW'[-rank:])}]"
        )
    return pool(x) if x.ndim == rank + 2 else squeeze(pool(expand_dims(x, 0)), 0)


# ---- maxima


def _max(rank: int) -> Callable[..., Any]:
    def function(
        x: Operand,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        step = kernel_size if stride is None else stride
        around = each(padding, rank, "padding", 0)
        options = (kernel_size, step, around, dilation, ceil_mode)

        def pool(v: Tensor) -> Tensor:
            return _max_pool(v, *options)

        def places(v: Tensor) -> Tensor:
            return _max_places(v, *options)

        found = _batched(function.__name__, rank, x, pool)
        if not return_indices:
            return found
        return found, _batched(function.__name__, rank, as_tensor(x).detach(), places)

    function.__name__ = function.__qualname__ = f"max_pool{rank}d"
    function.__doc__ = (
        f"Maxima of windows over the last {rank} dims; `stride` is the window unless given.\n\n"
        "`ceil_mode` adds a window that reaches over the end. With `return_indices` also where\n"
        "they are, i64, counted over these dims in row-major order."
    )
    return function


def _max_places(
    x: Tensor, size: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool
) -> Tensor:
    rank = x.ndim - 2
    sizes, strides, apart = (
        each(size, rank, "size", 1),
        each(stride, rank, "stride", 1),
        each(dilation, rank, "dilation", 1),
    )
    windows = _windows(
        sizes, strides, each(padding, rank, "padding", 0), apart, x.shape[2:], ceil_mode
    )
    attrs = WindowAttrs(sizes, strides, tuple(w.padding for w in windows), apart, (1,) * rank)
    top = _max_pool(x, size, stride, padding, dilation, ceil_mode)
    found = apply(lambda v, t: window_argmax(v, t, attrs=attrs), x, top, differentiable=False)
    return found.astype("i64")


max_pool1d, max_pool2d, max_pool3d = _max(1), _max(2), _max(3)


def _unpool(rank: int) -> Callable[..., Tensor]:
    def function(
        x: Operand,
        indices: Operand,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        output_size: Sequence[int] | None = None,
    ) -> Tensor:
        x, places = floats(x), as_tensor(indices)
        if places.shape != x.shape or x.ndim not in (rank + 1, rank + 2):
            raise ShapeError(
                f"{function.__name__}: x {x._type} at {places._type}",
                fix="give what the pooling with return_indices gave",
            )
        options = (
            each(kernel_size, rank, "kernel_size", 1),
            each(kernel_size if stride is None else stride, rank, "stride", 1),
            each(padding, rank, "padding", 0),
        )
        sizes = tuple(
            (n - 1) * step - 2 * around + k
            for n, k, step, around in zip(x.shape[-rank:], *options, strict=True)
        )
        if output_size is not None:
            sizes = as_shape(function.__name__, output_size)[-rank:]
        if len(sizes) != rank or min(sizes) < 1:
            raise ShapeError(
                f"{function.__name__}: sizes {list(sizes)}", fix=f"give {rank} positive lengths"
            )
        rows = prod(x.shape[:-rank])
        whole = zeros((rows, prod(sizes)), x.dtype)
        places = checked(f"{function.__name__}: index", places, 0, prod(sizes) - 1, given=indices)
        at = expand_dims(arange(rows), -1), reshape(places, (rows, -1))
        whole[at] = reshape(x, (rows, -1))
        return reshape(whole, (*x.shape[:-rank], *sizes))

    function.__name__ = function.__qualname__ = f"max_unpool{rank}d"
    function.__doc__ = (
        f"Zeros with x at the places that max_pool{rank}d gave with `return_indices`.\n\n"
        "`output_size` says which of the sizes that are pooled to that of x is meant."
    )
    return function


max_unpool1d, max_unpool2d, max_unpool3d = _unpool(1), _unpool(2), _unpool(3)


# ---- means


def _windows(
    sizes: Sequence[int], strides: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    lengths: Sequence[int], ceil_mode: bool,
) -> list[Window]:  # fmt: skip
    """Windows with the padding that `ceil_mode` wants at the end."""
    found = []
    for size, stride, around, apart, n in zip(
        sizes, strides, padding, dilation, lengths, strict=True
    ):
        w = Window(size, stride, (around, around), apart)
        check_window("pooling", w)
        rest = (n + 2 * around - w.span - 1) % stride
        if ceil_mode and rest and w.num_places(n) * stride - around < n:
            w = replace(w, padding=(around, around + stride - rest))
        found.append(w)
    return found


def _counts(w: Window, length: int, padding: int, include_pad: bool) -> Array:
    """How many elements of each window count: those of x, and its padding with `include_pad`."""
    start = np.arange(w.num_places(length)) * w.stride - padding
    low, high = (-padding, length + padding) if include_pad else (0, length)
    return np.minimum(start + w.size, high) - np.maximum(start, low)


def _mean_pool(
    x: Tensor,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    rank, lengths = len(sizes), x.shape[2:]
    windows = _windows(sizes, strides, padding, (1,) * rank, lengths, ceil_mode)
    around = [(0, 0), (0, 0), *(w.padding for w in windows)]
    padded = pad(x, around) if any(map(any, around)) else x
    means = apply(lambda v: _pooling.avg_pool(v, size=sizes, stride=strides), padded)
    if divisor is not None:
        return means * (prod(sizes) / divisor)
    counts = [
        _counts(w, n, p, count_include_pad)
        for w, n, p in zip(windows, lengths, padding, strict=True)
    ]
    if all((c == k).all() for c, k in zip(counts, sizes, strict=True)):
        return means
    whole = np.ones((1,) * rank)
    for d, count in enumerate(counts):
        whole = whole * count.reshape((-1,) + (1,) * (rank - 1 - d))
    return means * as_tensor(prod(sizes) / whole, x.dtype)


def _avg(rank: int) -> Callable[..., Tensor]:
    @rounded_once
    def function(
        x: Operand,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        sizes = each(kernel_size, rank, "kernel_size", 1)
        strides = each(kernel_size if stride is None else stride, rank, "stride", 1)
        around = each(padding, rank, "padding", 0)
        if divisor_override == 0:
            raise DomainError(f"{function.__name__}: divisor_override=0", fix="another number")
        if any(2 * p > k for p, k in zip(around, sizes, strict=True)):
            raise ShapeError(
                f"{function.__name__}: padding {around} of windows of {sizes}",
                fix="pad by at most half of the window",
            )

        def pool(v: Tensor) -> Tensor:
            return _mean_pool(
                v, sizes, strides, around, ceil_mode, count_include_pad, divisor_override
            )

        return _batched(function.__name__, rank, floats(x), pool)

    function.__name__ = function.__qualname__ = f"avg_pool{rank}d"
    function.__doc__ = (
        f"Means of windows over the last {rank} dims; `stride` is the window unless given.\n\n"
        "`ceil_mode` adds a window that reaches over the end; without `count_include_pad` padding\n"
        "does not count; sums are divided by `divisor_override` instead, where given."
    )
    return function


avg_pool1d, avg_pool2d, avg_pool3d = _avg(1), _avg(2), _avg(3)


def _lp(rank: int) -> Callable[..., Tensor]:
    @rounded_once
    def function(
        x: Operand,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> Tensor:
        sizes = each(kernel_size, rank, "kernel_size", 1)
        if not norm_type:
            raise DomainError(f"{function.__name__}: norm_type={norm_type}", fix="not 0")
        powers = floats(x) ** norm_type

        def pool(v: Tensor) -> Tensor:
            strides = each(kernel_size if stride is None else stride, rank, "stride", 1)
            return _mean_pool(v, sizes, strides, (0,) * rank, ceil_mode, True, None)

        means = _batched(function.__name__, rank, powers, pool)
        return (e.sign(means) * e.maximum(e.abs(means), 0.0) * prod(sizes)) ** (1 / norm_type)

    function.__name__ = function.__qualname__ = f"lp_pool{rank}d"
    function.__doc__ = f"(Σ x^norm_type)^(1 / norm_type) of windows over the last {rank} dims."
    return function


lp_pool1d, lp_pool2d, lp_pool3d = _lp(1), _lp(2), _lp(3)


# ---- as many windows as wanted


def _targets(output_size: Target, lengths: Sequence[int]) -> tuple[int, ...]:
    """The number of results of each dim; None keeps its length."""
    if output_size is None or isinstance(output_size, int):
        output_size = (output_size,) * len(lengths)
    if len(output_size) != len(lengths):
        raise RungError(
            f"adaptive pooling: output_size={output_size!r} for {len(lengths)} dims",
            fix="give one number, or one for each dim",
        )
    counts = tuple(n if t is None else t for t, n in zip(output_size, lengths, strict=True))
    check_lengths("adaptive pooling", counts)
    return counts


def _bounds(length: int, count: int) -> tuple[Array, Array]:
    """Window i of `count`: from floor(i L / count) to before ceil((i + 1) L / count)."""
    i = np.arange(count)
    return i * length // count, -(-(i + 1) * length // count)


def adaptive_mean(x: Tensor, dim: int, count: int) -> Tensor:
    """Means of `count` windows of nearly equal length along one dim, by a matrix of weights."""
    start, stop = _bounds(x.shape[dim], count)
    at = np.arange(x.shape[dim])
    inside = (at >= start[:, None]) & (at < stop[:, None])
    weights = as_tensor((inside / (stop - start)[:, None]).T, x.dtype)
    return moveaxis(moveaxis(x, dim, -1) @ weights, -1, dim)


def _adaptive_max(x: Tensor, dim: int, count: int) -> Tensor:
    """Along one dim, by the elements of each window side by side."""
    start, stop = _bounds(x.shape[dim], count)
    longest = int((stop - start).max(initial=1))
    at = start[:, None] + np.arange(longest)
    inside = as_tensor(at < stop[:, None])
    taken = take(moveaxis(x, dim, -1), np.minimum(at, x.shape[dim] - 1), -1)
    return moveaxis(reductions.max(e.where(inside, taken, -inf), -1), -1, dim)


def _adaptive(rank: int, kind: str) -> Callable[..., Tensor]:
    one_dim = _adaptive_max if kind == "max" else adaptive_mean
    whole = _max_pool if kind == "max" else _plain_mean

    def function(x: Operand, output_size: Target) -> Tensor:
        def pool(v: Tensor) -> Tensor:
            counts = _targets(output_size, v.shape[2:])
            if all(n and t and n % t == 0 for n, t in zip(v.shape[2:], counts, strict=True)):
                return whole(v, [n // t for n, t in zip(v.shape[2:], counts, strict=True)])
            for dim, count in enumerate(counts, 2):
                v = v if v.shape[dim] == count else one_dim(v, dim, count)
            return v

        return _batched(function.__name__, rank, floats(x), pool)

    function.__name__ = function.__qualname__ = f"adaptive_{kind}_pool{rank}d"
    function.__doc__ = (
        f"{'Maxima' if kind == 'max' else 'Means'} of `output_size` windows of nearly equal "
        f"length over the last {rank} dims; None keeps a length."
    )
    return function


def _plain_mean(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Means of windows side by side; of one that is the whole, a plain mean."""
    if tuple(sizes) == x.shape[2:]:
        return reductions.mean(x, tuple(range(2, x.ndim)), keepdims=True)
    return apply(lambda v: _pooling.avg_pool(v, size=tuple(sizes)), x)


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    _adaptive(rank, "avg") for rank in (1, 2, 3)
)


def _with_places(rank: int) -> Callable[..., Any]:
    """The maxima, and where they are if asked for."""
    maxima = _adaptive(rank, "max")

    def function(x: Operand, output_size: Target, return_indices: bool = False) -> Any:
        if not return_indices:
            return maxima(x, output_size)
        name = function.__name__
        places = _batched(
            name, rank, as_tensor(x).detach(), lambda v: _adaptive_places(v, output_size)
        )
        given = floats(x)
        flat = reshape(given, (*given.shape[: given.ndim - rank], -1))
        rows = reshape(places, (*places.shape[: places.ndim - rank], -1))
        return reshape(take_along_axis(flat, rows, -1), places.shape), places

    function.__name__ = function.__qualname__ = maxima.__name__
    function.__doc__ = (
        f"{maxima.__doc__} With `return_indices` also where the maxima are, i64, counted\n"
        "over these dims in row-major order."
    )
    return function


def _adaptive_places(x: Tensor, output_size: Target) -> Tensor:
    """Where the maxima of the windows of x[N, C, …] are, dim by dim."""
    lengths = x.shape[2:]
    numbers = as_tensor(np.arange(int(np.prod(lengths))).reshape(lengths))
    places = broadcast_to(numbers, x.shape)
    for dim, count in enumerate(_targets(output_size, lengths), 2):
        start, stop = _bounds(x.shape[dim], count)
        at = start[:, None] + np.arange(int((stop - start).max(initial=1)))
        inside, at = as_tensor(at < stop[:, None]), np.minimum(at, x.shape[dim] - 1)
        values, known = (take(moveaxis(t, dim, -1), at, -1) for t in (x, places))
        best = reductions.argmax(e.where(inside, values, -inf), -1, keepdims=True)
        x, places = (
            moveaxis(squeeze(take_along_axis(t, best, -1), -1), -1, dim) for t in (values, known)
        )
    return places


adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(_with_places, (1, 2, 3))


# ---- over channels


@rounded_once
def local_response_norm(
    x: Operand, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha * mean of x² over `size` neighbouring channels)^beta for x[N, C, …]; missing
    neighbours count as 0 (Krizhevsky et al., 2012)."""
    x = floats(x)
    if x.ndim < 3:
        raise ShapeError(f"local_response_norm: x is {x._type}", fix="x is [N, C, T] or more")
    squares = reshape(e.square(x), (x.shape[0], 1, x.shape[1], prod(x.shape[2:])))
    wide = pad(squares, [(0, 0), (0, 0), (size // 2, (size - 1) // 2), (0, 0)])
    means = apply(lambda v: _pooling.avg_pool(v, size=(size, 1), stride=(1, 1)), wide)
    return x / (k + alpha * reshape(means, x.shape)) ** beta
