"""Order statistics, averages without NaN, running extremes, histograms and integrals.

`dim` and `keepdim` are PyTorch's names for `axis` and `keepdims`; both are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import DomainError, DTypeError, RungError, ShapeError
from rung.tensor import elementwise as e
from rung.tensor import reductions as r
from rung.tensor.checks import checked
from rung.tensor.creation import arange, linspace, zeros
from rung.tensor.functional import floats
from rung.tensor.indexing import getitem
from rung.tensor.linalg import matmul
from rung.tensor.operate import Operand, all_axes, as_tensor, cast_to, one_axis, torch_names
from rung.tensor.picking import index_add
from rung.tensor.precision import rounded_once
from rung.tensor.reductions import Axis
from rung.tensor.shapes import (
    broadcast_to,
    concat,
    expand_dims,
    matrix_transpose,
    moveaxis,
    reshape,
    squeeze,
)
from rung.tensor.sorting import argsort, held_along, sort, take
from rung.tensor.state import TensorState, buffer_of

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Pair = tuple["Tensor", "Tensor"]


def _one_dim(name: str, x: Operand, axis: int | None) -> tuple[Tensor, int]:
    """x with at least one dim, flattened for None, and the axis from the front."""
    x = as_tensor(x)
    if axis is None or x.ndim == 0:
        if axis is not None:
            one_axis(name, axis, 1)
        return reshape(x, (-1,)), 0
    return x, one_axis(name, axis, x.ndim)


def _picked(x: Tensor, order: Tensor, at: Operand, dim: int) -> Pair:
    """The elements (and their positions) that stand at the places `at` of `order` along `dim`."""
    positions = held_along(order, at, dim)
    return held_along(x, positions, dim), positions


def _shaped(found: Tensor, given: Tensor, dim: int, keepdims: bool) -> Tensor:
    if given.ndim == 0:
        return reshape(found, ())
    return found if keepdims else squeeze(found, dim)


def _both(pair: Pair, given: Tensor, dim: int, keepdims: bool) -> Pair:
    values, positions = pair
    return _shaped(values, given, dim, keepdims), _shaped(positions, given, dim, keepdims)


def _full_index(x: Tensor, dim: int, at: int) -> Tensor:
    shape = tuple(1 if d == dim else n for d, n in enumerate(x.shape))
    return broadcast_to(as_tensor(np.int64(at)), shape)


# ---- order statistics


@torch_names
def kthvalue(x: Operand, k: int, axis: int = -1, keepdims: bool = False) -> Pair:
    """The k-th smallest element (from 1) along `axis` and its position (i64)."""
    given = as_tensor(x)
    x, dim = _one_dim("kthvalue", given, axis)
    if not 1 <= k <= x.shape[dim]:
        raise ShapeError(
            f"kthvalue: k={k} of {x.shape[dim]} elements along dim {dim}", fix="k counts from 1"
        )
    found = _picked(x, argsort(x, axis=dim), _full_index(x, dim, k - 1), dim)
    return _both(found, given, dim, keepdims)


@torch_names
def median(x: Operand, axis: int | None = None, keepdims: bool = False) -> Any:
    """The lower of the middle elements in order, NaN if one is NaN. With `axis` a pair: the medians
    along it and their positions (i64).

    >>> import rung
    >>> rung.median(rung.asarray([4, 1, 3, 2])).item()
    2
    """
    return _median("median", x, axis, keepdims, skip_nan=False)


@torch_names
def nanmedian(x: Operand, axis: int | None = None, keepdims: bool = False) -> Any:
    """`median` of the elements that are not NaN; NaN where there are none."""
    return _median("nanmedian", x, axis, keepdims, skip_nan=True)


def _median(name: str, x: Operand, axis: int | None, keepdims: bool, skip_nan: bool) -> Any:
    given = as_tensor(x)
    x, dim = _one_dim(name, given, axis)
    if x.shape[dim] == 0:
        if axis is None and x.dtype.is_float:
            return as_tensor(math.nan, x.dtype)
        raise ShapeError(f"{name}: {given._type} has no elements along dim {dim}")
    order = argsort(x, axis=dim)
    at = _full_index(x, dim, (x.shape[dim] - 1) // 2)
    if x.dtype.is_float:
        missing = r.sum(e.isnan(x), dim, keepdims=True)
        if skip_nan:
            at = e.maximum(e.floor_divide(x.shape[dim] - missing - 1, 2), 0)
        else:
            first = r.argmax(e.isnan(x), dim, keepdims=True)
            place = r.argmax(order == first, dim, keepdims=True)
            at = e.where(missing > 0, place, at)
    found = _picked(x, order, at, dim)
    if axis is None:
        return reshape(found[0], ())
    return _both(found, given, dim, keepdims)


@torch_names
def mode(x: Operand, axis: int = -1, keepdims: bool = False) -> Pair:
    """The most frequent element along `axis` (the smallest of equally frequent ones), and the
    position (i64) at which it comes last."""
    given = as_tensor(x)
    x, dim = _one_dim("mode", given, axis)
    order = argsort(x, axis=dim)
    rising = held_along(x, order, dim)
    n = x.shape[dim]
    shape = tuple(n if d == dim else 1 for d in range(x.ndim))
    places = broadcast_to(reshape(arange(n), shape), x.shape)
    before = take(rising, np.maximum(np.arange(n) - 1, 0), dim)
    starts = e.where((rising != before) | (places == 0), places, 0)
    run = places - cummax(starts, dim)[0]
    found = _picked(x, order, r.argmax(run, dim, keepdims=True), dim)
    return _both(found, given, dim, keepdims)


@torch_names
@rounded_once
def quantile(
    x: Operand,
    q: Operand,
    axis: int | None = None,
    keepdims: bool = False,
    interpolation: str = "linear",
) -> Tensor:
    """The elements below which lie the shares q of all, NaN if one is NaN. A vector q gives a first
    dim. Between two elements: "linear", "lower", "higher", "midpoint" or "nearest".

    >>> import rung
    >>> rung.quantile(rung.asarray([0.0, 1.0, 2.0, 3.0]), 0.5).item()
    1.5
    """
    return _quantile("quantile", x, q, axis, keepdims, interpolation, skip_nan=False)


@torch_names
@rounded_once
def nanquantile(
    x: Operand,
    q: Operand,
    axis: int | None = None,
    keepdims: bool = False,
    interpolation: str = "linear",
) -> Tensor:
    """`quantile` of the elements that are not NaN; NaN where there are none."""
    return _quantile("nanquantile", x, q, axis, keepdims, interpolation, skip_nan=True)


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(
    name: str, x: Operand, q: Operand, axis: int | None, keepdims: bool, how: str, skip_nan: bool
) -> Tensor:
    given = floats(x)
    shares = as_tensor(q, given.dtype) if not isinstance(q, TensorState) else as_tensor(q)
    if shares.ndim > 1:
        raise ShapeError(f"{name}: q is {shares._type}", fix="give a number or a vector")
    known = shares._buffer
    if known is not None and not bool(((known.array >= 0) & (known.array <= 1)).all()):
        raise DomainError(f"{name}: q={shares.tolist()}", fix="give shares from 0 to 1")
    if how not in _INTERPOLATIONS:
        raise RungError(f"{name}: interpolation={how!r}", fix=f"give one of {_INTERPOLATIONS}")
    x, dim = _one_dim(name, given, axis)
    if x.shape[dim] == 0:
        raise ShapeError(f"{name}: {given._type} has no elements along dim {dim}")
    last = moveaxis(x, dim, -1)
    rising = sort(last, axis=-1)
    missing = r.sum(e.isnan(last), -1, keepdims=True)
    if skip_nan:
        known = x.shape[dim] - missing
    else:
        known = broadcast_to(as_tensor(np.int64(x.shape[dim])), missing.shape)
    found = _at_ranks(rising, known, reshape(shares, (-1,)), how)
    if not skip_nan:
        found = e.where(missing > 0, math.nan, found)
    return _quantile_shape(found, given, axis, dim, keepdims, shares.ndim)


def _at_ranks(rising: Tensor, known: Tensor, shares: Tensor, how: str) -> Tensor:
    """The elements of sorted rows at the shares of their first `known` ones: […, shares]."""
    rank = shares * cast_to(e.maximum(known - 1, 0), rising.dtype)
    if how in ("lower", "higher", "nearest"):
        rank = {"lower": e.floor, "higher": e.ceil, "nearest": e.round}[how](rank)
    low = e.floor(rank)
    below = held_along(rising, cast_to(low, dt.int64), -1)
    above = held_along(rising, cast_to(e.ceil(rank), dt.int64), -1)
    weight = 0.5 * cast_to(e.ceil(rank) != low, rank.dtype) if how == "midpoint" else rank - low
    between = below + (above - below) * weight
    return e.where(above == below, below, between)


def _quantile_shape(
    found: Tensor, given: Tensor, axis: int | None, dim: int, keepdims: bool, rank: int
) -> Tensor:
    """From [… without dim, shares] to [shares, …]."""
    first = moveaxis(found, -1, 0)
    if keepdims and axis is None:
        first = reshape(first, (first.shape[0], *(1,) * given.ndim))
    elif keepdims and given.ndim:
        first = expand_dims(first, dim + 1)
    return first if rank else reshape(first, first.shape[1:])


# ---- sums and averages


@torch_names
def nansum(x: Operand, axis: Axis = None, keepdims: bool = False, dtype: object = None) -> Tensor:
    """Sum of the elements that are not NaN."""
    x = as_tensor(x)
    return r.sum(_nan_as_zero(x), axis, dtype=dtype, keepdims=keepdims)


def _nan_as_zero(x: Tensor) -> Tensor:
    return e.where(e.isnan(x), 0.0, x) if x.dtype.is_float else x


@torch_names
@rounded_once
def nanmean(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean of the elements that are not NaN; NaN where there are none."""
    x = floats(x)
    count = r.sum(~e.isnan(x), axis, keepdims=keepdims)
    total = r.sum(_nan_as_zero(cast_to(x, dt.accumulator(x.dtype))), axis, keepdims=keepdims)
    return cast_to(total / cast_to(count, total.dtype), x.dtype)


@torch_names
def var_mean(
    x: Operand, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Pair:
    """`var` and `mean`."""
    return r.var(x, axis, correction, keepdims), r.mean(x, axis, keepdims)


@torch_names
def std_mean(
    x: Operand, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Pair:
    """`std` and `mean`."""
    return r.std(x, axis, correction, keepdims), r.mean(x, axis, keepdims)


@torch_names
def aminmax(x: Operand, axis: Axis = None, keepdims: bool = False) -> Pair:
    """`min` and `max`."""
    return r.min(x, axis, keepdims), r.max(x, axis, keepdims)


# ---- running extremes and sums


@torch_names
def cummax(x: Operand, axis: int = -1) -> Pair:
    """The largest element up to each along `axis`, NaN from the first NaN on, and where it comes
    last (i64)."""
    return _running(x, axis, "cummax", e.greater_equal)


@torch_names
def cummin(x: Operand, axis: int = -1) -> Pair:
    """The smallest element up to each along `axis`, NaN from the first NaN on, and where it comes
    last (i64)."""
    return _running(x, axis, "cummin", e.less_equal)


def _running(x: Operand, axis: int, name: str, wins: Callable[..., Tensor]) -> Pair:
    """By doubling: after step s each position is known for the 2^s elements up to it."""
    given = as_tensor(x)
    x, dim = _one_dim(name, given, axis)
    n = x.shape[dim]
    key = cast_to(x, dt.uint8) if x.dtype.is_bool else x.detach()
    places = np.arange(n)
    shape = tuple(n if d == dim else 1 for d in range(x.ndim))
    at = broadcast_to(as_tensor(places.reshape(shape)), x.shape)
    by = 1
    while by < n:
        before = take(at, np.maximum(places - by, 0), dim)
        now, old = held_along(key, at, dim), held_along(key, before, dim)
        keep = wins(now, old)
        if x.dtype.is_float:
            keep = (keep & ~e.isnan(old)) | e.isnan(now)
        at = e.where(keep, at, before)
        by *= 2
    values = held_along(x, at, dim)
    return reshape(values, given.shape), reshape(at, given.shape)


@torch_names
@rounded_once
def logcumsumexp(x: Operand, axis: int = -1) -> Tensor:
    """log of the running sum of exp(x) along `axis`, without overflow: by doubling. That of f32 is
    kept in f64, as running sums are."""
    given = floats(x)
    x, dim = _one_dim("logcumsumexp", given, axis)
    n, by, found = x.shape[dim], 1, x
    wide = cast_to(found, dt.float64 if x.dtype is dt.float32 else dt.accumulator(x.dtype))
    while by < n:
        head = take(wide, np.arange(by), dim)
        rest, before = take(wide, np.arange(by, n), dim), take(wide, np.arange(n - by), dim)
        wide = concat([head, e.logaddexp(rest, before)], dim)
        by *= 2
    return reshape(cast_to(wide, x.dtype), given.shape)


# ---- integrals and slopes


@rounded_once
def trapezoid(
    y: Operand, x: Operand | None = None, dx: float = 1.0, axis: int = -1
) -> Tensor:
    """The integral of y along `axis` by the trapezoid rule, at the places x or at distance dx."""
    return r.sum(_trapezoids("trapezoid", y, x, dx, axis), axis)


@rounded_once
def cumulative_trapezoid(
    y: Operand, x: Operand | None = None, dx: float = 1.0, axis: int = -1
) -> Tensor:
    """The integrals of y up to each place but the first, by the trapezoid rule."""
    return r.cumulative_sum(_trapezoids("cumulative_trapezoid", y, x, dx, axis), axis)


def _trapezoids(name: str, y: Operand, x: Operand | None, dx: Operand, axis: int) -> Tensor:
    y = floats(y)
    x = None if x is None else cast_to(as_tensor(x), y.dtype)
    dim = one_axis(name, axis, y.ndim)
    low, high = _neighbours(y, dim)
    if x is None:
        return (low + high) * (e.multiply(dx, 0.5) if isinstance(dx, TensorState) else dx * 0.5)
    places = x
    if places.ndim == 1 and y.ndim > 1:
        places = reshape(places, (-1, *(1,) * (y.ndim - dim - 1)))
    if places.ndim < y.ndim - dim or places.shape[dim - y.ndim] != y.shape[dim]:
        raise ShapeError(
            f"{name}: x {places._type} for y {y._type}", fix="x has the length of y along axis"
        )
    before, after = _neighbours(places, places.ndim + dim - y.ndim)
    return (after - before) * (low + high) * 0.5


def _neighbours(x: Tensor, dim: int) -> Pair:
    """All but the last and all but the first elements along `dim`."""
    n = x.shape[dim]
    front = (slice(None),) * dim
    return getitem(x, (*front, slice(0, max(n - 1, 0)))), getitem(x, (*front, slice(1, n)))


@rounded_once
def gradient(
    x: Operand, spacing: Any = 1.0, axis: Axis = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """The slopes of x along each of `axis`: second-order central differences, at the ends one-sided
    ones of `edge_order` 1 or 2. `spacing` is a distance, one for each axis, or the places."""
    x = floats(x)
    if isinstance(axis, tuple | list):
        dims = tuple(one_axis("gradient", a, x.ndim) for a in axis)
    else:
        dims = all_axes("gradient", axis, x.ndim)
    if edge_order not in (1, 2):
        raise RungError(f"gradient: edge_order={edge_order}", fix="give 1 or 2")
    given = list(spacing) if isinstance(spacing, tuple | list) else [spacing] * len(dims)
    if len(given) != len(dims):
        raise ShapeError(f"gradient: {len(given)} spacings along {len(dims)} axes")
    return tuple(_slopes(x, d, s, edge_order) for d, s in zip(dims, given, strict=True))


def _slopes(x: Tensor, dim: int, spacing: Operand, edge_order: int) -> Tensor:
    n = x.shape[dim]
    if n <= edge_order:
        raise ShapeError(f"gradient: {x._type} has {n} elements along dim {dim}")
    if isinstance(spacing, int | float):
        spacing = arange(n, dtype=x.dtype) * float(spacing)
    places = reshape(cast_to(as_tensor(spacing), x.dtype), (-1, *(1,) * (x.ndim - dim - 1)))
    gaps = r.diff(places, 0)
    front = (slice(None),) * dim

    def at(start: int, stop: int | None) -> Tensor:
        return getitem(x, (*front, slice(start, stop)))

    before, after = gaps[:-1], gaps[1:]
    rise = r.diff(x, dim) / gaps
    low, high = getitem(rise, (*front, slice(0, -1))), getitem(rise, (*front, slice(1, None)))
    middle = (low * after + high * before) / (before + after)
    first, last = getitem(rise, (*front, slice(0, 1))), getitem(rise, (*front, slice(-1, None)))
    if edge_order == 2:
        bend, tail = (high - low) / (before + after), (slice(0, 1), slice(-1, None))
        first = first - getitem(bend, (*front, tail[0])) * gaps[:1]
        last = last + getitem(bend, (*front, tail[1])) * gaps[-1:]
    return concat([first, middle, last], dim)


# ---- together


@rounded_once
def cov(
    x: Operand,
    correction: float = 1.0,
    fweights: Operand | None = None,
    aweights: Operand | None = None,
) -> Tensor:
    """Covariances of the rows of x[variables, observations], over the weights' sum - `correction`;
    `fweights` count observations, `aweights` weigh them."""
    rows = floats(x)
    if rows.ndim > 2:
        raise ShapeError(f"cov: {rows._type} has more than two dims")
    rows = reshape(rows, (1, -1)) if rows.ndim < 2 else rows
    single = rows.shape[0] == 1
    weights, total, norm = _observation_weights(rows, correction, fweights, aweights)
    mean = r.sum(rows if weights is None else rows * weights, 1, keepdims=True) / total
    away = rows - mean
    found = matmul(away if weights is None else away * weights, matrix_transpose(away))
    found = found / (e.maximum(norm, 0.0) if isinstance(norm, TensorState) else max(norm, 0.0))
    return reshape(found, ()) if single else found


def _observation_weights(
    rows: Tensor, correction: float, fweights: Operand | None, aweights: Operand | None
) -> tuple[Tensor | None, Any, Any]:
    """The weights of observations, their sum, and what squares are divided by."""
    count = float(rows.shape[1])
    for given in (fweights, aweights):
        if given is not None and as_tensor(given).shape != rows.shape[1:]:
            raise ShapeError(
                f"cov: weights {as_tensor(given)._type} for {rows.shape[1]} observations",
                fix="give one weight for each observation",
            )
    if fweights is None and aweights is None:
        return None, count, count - correction
    weights = None if fweights is None else cast_to(as_tensor(fweights), rows.dtype)
    if aweights is not None:
        scale = floats(aweights)
        weights = scale if weights is None else weights * scale
        total = r.sum(weights)
        return weights, total, total - correction * r.sum(weights * scale) / total
    assert weights is not None
    total = r.sum(weights)
    return weights, total, total - correction


@rounded_once
def corrcoef(x: Operand) -> Tensor:
    """Correlations of the rows of x[variables, observations], within [-1, 1]."""
    c = cov(x)
    if c.ndim == 0:
        return c / c
    spread = e.sqrt(c.diagonal())
    return e.clip(c / expand_dims(spread, 1) / expand_dims(spread, 0), -1.0, 1.0)


# ---- histograms


@rounded_once
def histogram(
    x: Operand,
    bins: int | Operand,
    range: Sequence[float] | None = None,
    weight: Operand | None = None,
    density: bool = False,
) -> Pair:
    """(counts, edges): how many elements lie between neighbouring edges, the last edge included.
    `bins` are the rising edges, or how many bins there are from range[0] to range[1] (None:
    from the least to the largest element). `weight` counts each element so much; `density` makes
    the integral 1."""
    x = floats(x)
    edges = _edges(x, bins, range) if isinstance(bins, int) else as_tensor(bins, None)
    flat = cast_to(reshape(x, (-1, 1)), edges.dtype)
    low, high = edges[:-1], edges[1:]
    inside = (flat >= low) & (flat < high)
    last = np.arange(edges.shape[0] - 1) == edges.shape[0] - 2
    inside = inside | (as_tensor(last) & (flat == high))
    counted = cast_to(inside, x.dtype)
    if weight is not None:
        if as_tensor(weight).shape != x.shape:
            raise ShapeError(
                f"histogram: weight {as_tensor(weight)._type} for x {x._type}",
                fix="give one weight for each element",
            )
        counted = counted * reshape(cast_to(as_tensor(weight), x.dtype), (-1, 1))
    counts = r.sum(counted, 0)
    if density:
        counts = counts / (high - low) / r.sum(counts)
    return counts, edges


def _edges(x: Tensor, bins: int, range: Sequence[float] | None) -> Tensor:
    if bins < 1:
        raise RungError(f"histogram: bins={bins}", fix="give a positive number of bins")
    if range is not None and len(range) != 2:
        raise RungError(f"histogram: range={range}", fix="give two bounds")
    if range is None or (range[0] == range[1] == 0):
        low, high = (0.0, 1.0) if x.size == 0 else (float(r.min(x)), float(r.max(x)))
    else:
        low, high = float(range[0]), float(range[1])
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise RungError(f"histogram: from {low} to {high}", fix="give finite, rising bounds")
    if low == high:
        low, high = (low - 0.5, high + 0.5) if range is None else (low - 1, high + 1)
    return linspace(low, high, bins + 1, dtype=x.dtype)


@rounded_once
def histc(x: Operand, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of `bins` equal parts of [min, max], in the dtype of x; with
    min = max = 0 from the least to the largest element."""
    x = as_tensor(x)
    if x.dtype.is_bool:
        raise DTypeError(f"histc of {x._type}", fix="cast to a numeric dtype")
    wide = floats(x)
    if bins < 1:
        raise RungError(f"histc: bins={bins}", fix="give a positive number of bins")
    low, high = float(min), float(max)
    if low == high and x.size:
        low, high = float(r.min(wide)), float(r.max(wide))
    if not (low <= high and math.isfinite(high - low)):
        raise DomainError(f"histc: from {low} to {high}", fix="give finite, rising bounds")
    if low == high:
        low, high = low - 1, high + 1
    flat = reshape(wide, (-1,))
    inside = (flat >= low) & (flat <= high)
    place = e.floor((e.where(inside, flat, low) - low) * bins / (high - low))
    at = e.clip(cast_to(place, dt.int64), 0, bins - 1)
    return _sums_at(at, cast_to(inside, x.dtype), bins)


def _sums_at(at: Tensor, weights: Tensor, length: int) -> Tensor:
    """The sums of the weights at each of 0 … length - 1."""
    return index_add(zeros(length, weights.dtype), 0, at, weights)


def bincount(
    x: Operand, weights: Operand | None = None, minlength: int = 0, length: int | None = None
) -> Tensor:
    """How often each number from 0 on is among the integers x, i64; with `weights` their sums.
    There are as many as the largest element says, at least `minlength`, which inside jit is a
    TraceError; or `length`, and larger elements count nothing.

    >>> import rung
    >>> rung.bincount(rung.asarray([1, 1, 3])).tolist()
    [0, 2, 0, 1]
    """
    x = as_tensor(x)
    if not (x.dtype.is_integer or x.dtype.is_bool) or x.ndim != 1:
        raise DTypeError(f"bincount of {x._type}", fix="give a vector of integers")
    if length is None:
        array = buffer_of(x, "the largest element").array
        length = int(max(minlength, int(array.max()) + 1 if x.size else 0))
    if x.dtype.is_integer:
        x = checked("bincount: element", x, 0, np.iinfo(np.int64).max, unit="", given=x)
    at = cast_to(x, dt.int64)
    inside = at < length
    scale = cast_to(inside, dt.int64)
    if weights is not None:
        given = as_tensor(weights)
        scale = e.where(inside, given if given.dtype.is_float else given.astype(dt.float64), 0)
    if length == 0:
        return zeros(0, scale.dtype)
    return _sums_at(e.where(inside, at, 0), scale, length)
