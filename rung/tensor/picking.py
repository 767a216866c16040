"""Reading and writing by position or mask under PyTorch's names: scatter, index_*, masked_*.

All of them return a new tensor. Positions are integers from -n to n - 1 along their dim.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import comb, prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import check_lengths, host_arrays
from rung.core.errors import AllocationError, DTypeError, RungError, ShapeError
from rung.ir.node import Value
from rung.ops import indexing as i
from rung.ops import scatter as sc
from rung.ops.broadcast import reshaped
from rung.ops.creation import full, full_like, iota
from rung.ops.elementwise import divide, floor_divide, maximum, where
from rung.ops.movement import concat as concat_values
from rung.ops.shorthand import permuted
from rung.tensor import elementwise as e
from rung.tensor.checks import as_mask, checked
from rung.tensor.indexing import getitem, setitem
from rung.tensor.operate import (
    Operand,
    as_tensor,
    cast_to,
    cast_value,
    copied,
    is_scalar,
    one_axis,
)
from rung.tensor.precision import times
from rung.tensor.reductions import cumulative_sum
from rung.tensor.shapes import (
    broadcast_shapes,
    broadcast_to,
    expand_dims,
    moveaxis,
    reshape,
    stack,
)
from rung.tensor.sorting import checked_index, take, take_along_axis
from rung.tensor.state import TensorState, apply, buffer_of, state

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Combine = Callable[[Value, Value, Value], Value]
"""From x, index and updates to x with the updates at those positions of its first dims."""
_REDUCES: Final = ("sum", "prod", "mean", "amax", "amin")


def _update(name: str, x: Tensor, y: Operand, shape: Sequence[int]) -> Tensor:
    """y in the dtype of x, of `shape`."""
    found = as_tensor(y, x.dtype)
    if broadcast_shapes(found.shape, tuple(shape)) != tuple(shape):
        raise ShapeError(f"{name}: updates {found._type} for places of shape {list(shape)}")
    return broadcast_to(found, shape)


# ---- how updates come together at a place


def _written(x: Value, index: Value, updates: Value) -> Value:
    return i.scatter(x, index, updates, batch_dims=0)


def _added(x: Value, index: Value, updates: Value) -> Value:
    """Sums in the accumulator dtype; bool counts as "or"."""
    if x.dtype.is_bool:
        counts = _added(cast_value(x, dt.int32), index, cast_value(updates, dt.int32))
        return cast_value(counts, dt.bool_)
    wide = dt.accumulator(x.dtype)
    a, u = cast_value(x, wide), cast_value(updates, wide)
    return cast_value(i.scatter_add(a, index, u, batch_dims=0), x.dtype)


def _combined(op: Any, x: Value, index: Value, updates: Value) -> Value:
    wide = dt.uint8 if x.dtype.is_bool else dt.accumulator(x.dtype)
    a, u = cast_value(x, wide), cast_value(updates, wide)
    return cast_value(op(a, index, u, batch_dims=0), x.dtype)


def _averaged(x: Value, index: Value, updates: Value, own: bool) -> Value:
    total = _added(x, index, updates)
    wide = dt.accumulator(x.dtype)
    count = full_like(cast_value(x, wide), int(own))
    count = i.scatter_add(count, index, full(updates.shape, 1, wide), batch_dims=0)
    count = maximum(count, full_like(count, 1))
    if not x.dtype.is_float:
        return floor_divide(total, cast_value(count, x.dtype))
    return cast_value(divide(cast_value(total, wide), count), x.dtype)


def _least(dtype: dt.DType, largest: bool) -> float:
    """The number that an extreme starts from."""
    if dtype.is_float:
        return float("-inf") if largest else float("inf")
    if dtype.is_bool:
        return not largest
    info = np.iinfo(dtype.numpy)
    return int(info.min if largest else info.max)


def _reduced(how: str, include_self: bool) -> Combine:
    """The combination of x (if `include_self`, or nothing else is there) and its updates."""

    def combine(x: Value, index: Value, updates: Value) -> Value:
        given = x
        if not include_self:
            start = {"sum": 0.0, "mean": 0.0, "prod": 1.0}.get(how)
            start = _least(x.dtype, how == "amax") if start is None else start
            number = start if x.dtype.is_float else int(start)
            hit = i.scatter(
                full(x.shape, False, dt.bool_), index, full(updates.shape, True, dt.bool_),
                batch_dims=0,
            )  # fmt: skip
            x = where(hit, full_like(x, number), x)
            found = _REDUCERS[how](x, index, updates, False)
            return where(hit, found, given)
        return _REDUCERS[how](x, index, updates, True)

    return combine


_REDUCERS: Final[dict[str, Callable[[Value, Value, Value, bool], Value]]] = {
    "sum": lambda x, at, u, own: _added(x, at, u),
    "mean": _averaged,
    "prod": lambda x, at, u, own: _combined(sc.scatter_prod, x, at, u),
    "amax": lambda x, at, u, own: _combined(sc.scatter_max, x, at, u),
    "amin": lambda x, at, u, own: _combined(sc.scatter_min, x, at, u),
}


def _check_reduce(name: str, reduce: str) -> None:
    if reduce not in _REDUCES:
        names = ", ".join(f'"{n}"' for n in _REDUCES)
        raise RungError(f"{name}: reduce={reduce!r}", fix=f"give one of {names}")


# ---- element by element along a dim: scatter


def scatter(
    x: Operand, dim: int, index: Operand, src: Operand, reduce: str | None = None
) -> Tensor:
    """x with the elements of `src` at the positions `index` along `dim`, at their own places along
    the others; of several the last stays. `reduce`: "add" or "multiply" them to what is there.

    >>> import rung
    >>> rung.scatter(rung.zeros(3), 0, rung.asarray([2, 0]), rung.asarray([5.0, 7.0])).tolist()
    [7.0, 0.0, 5.0]
    """
    known: dict[str | None, Combine] = {
        None: _written, "add": _added, "multiply": _reduced("prod", include_self=True),
    }  # fmt: skip
    if reduce not in known:
        raise RungError(f"scatter: reduce={reduce!r}", fix='give None, "add" or "multiply"')
    return _scattered("scatter", x, dim, index, src, known[reduce])


def scatter_add(x: Operand, dim: int, index: Operand, src: Operand) -> Tensor:
    """x with the elements of `src` added at the positions `index` along `dim`."""
    return _scattered("scatter_add", x, dim, index, src, _added)


def scatter_reduce(
    x: Operand, dim: int, index: Operand, src: Operand, reduce: str, include_self: bool = True
) -> Tensor:
    """x combined with the elements of `src` at the positions `index` along `dim`: their "sum",
    "prod", "mean", "amax" or "amin", with what was there unless `include_self` is False."""
    _check_reduce("scatter_reduce", reduce)
    return _scattered("scatter_reduce", x, dim, index, src, _reduced(reduce, include_self))


def _scattered(
    name: str, x: Operand, dim: int, index: Operand, src: Operand, combine: Combine
) -> Tensor:
    given = as_tensor(x)
    x = reshape(given, (1,)) if given.ndim == 0 else given
    place = one_axis(name, dim, x.ndim)
    positions = checked_index(name, index, x.shape[place])
    positions = reshape(positions, (1,)) if positions.ndim == 0 else positions
    if positions.ndim != x.ndim:
        raise ShapeError(f"{name}: index {positions._type} for {x._type}", fix="give as many dims")
    updates = _window(name, x, src, positions.shape)
    if positions.size == 0:
        return copied(given)
    wrong = [d for d, n in enumerate(positions.shape) if d != place and n > x.shape[d]]
    if wrong:
        raise ShapeError(
            f"{name}: index {positions._type} is longer than x {x._type} in dim {wrong[0]}"
        )

    def build(v: Value, at: Value, u: Value) -> Value:
        return combine(v, _coordinates(at, place), u)

    return reshape(apply(build, x, positions, updates), given.shape)


def _window(name: str, x: Tensor, src: Operand, shape: tuple[int, ...]) -> Tensor:
    """The first elements of `src`, as many as there are positions; a number stands for all."""
    if is_scalar(src):
        return broadcast_to(as_tensor(src, x.dtype), shape)
    given = cast_to(as_tensor(src), x.dtype)
    given = reshape(given, (1,)) if given.ndim == 0 else given
    if given.ndim != len(shape) or any(n < m for n, m in zip(given.shape, shape, strict=True)):
        raise ShapeError(
            f"{name}: src {given._type} for an index of shape {list(shape)}",
            fix="src must be as long as the index in every dim",
        )
    return given if given.shape == shape else getitem(given, tuple(slice(n) for n in shape))


def _coordinates(at: Value, place: int) -> Value:
    """The position of each element in all dims, in a new last dim; along `place` it is `at`."""
    shape = at.shape
    along = [
        cast_value(at, dt.int64) if d == place else iota(shape=shape, dim=d, dtype=dt.int64)
        for d in range(len(shape))
    ]
    columns = [reshaped(v, (*shape, 1)) for v in along]
    return columns[0] if len(columns) == 1 else concat_values(*columns, dim=len(shape))


# ---- whole slices along a dim: index_*


def index_select(x: Operand, dim: int, index: Operand) -> Tensor:
    """The slices of x at the positions `index` along `dim`."""
    x = as_tensor(x)
    if x.ndim == 0:
        return reshape(take(reshape(x, (1,)), reshape(as_tensor(index), (-1,)), 0), ())
    positions = as_tensor(index)
    return take(x, reshape(positions, (-1,)), dim)


def index_add(x: Operand, dim: int, index: Operand, source: Operand, alpha: float = 1) -> Tensor:
    """x with alpha times the slices of `source` added at the positions `index` along `dim`."""
    source = times(source, alpha)
    return _indexed("index_add", x, dim, index, source, _added)


def index_copy(x: Operand, dim: int, index: Operand, source: Operand) -> Tensor:
    """x with the slices of `source` at the positions `index` along `dim`."""
    return _indexed("index_copy", x, dim, index, source, _written)


def index_fill(x: Operand, dim: int, index: Operand, value: Operand) -> Tensor:
    """x with `value` in the slices at the positions `index` along `dim`."""
    given = as_tensor(x)
    rank = max(given.ndim, 1)
    place = one_axis("index_fill", dim, rank)
    count = as_tensor(index).size
    shape = tuple(count if d == place else n for d, n in enumerate(given.shape or (1,)))
    source = broadcast_to(as_tensor(value, given.dtype), shape)
    return _indexed("index_fill", given, dim, index, source, _written)


def index_reduce(
    x: Operand, dim: int, index: Operand, source: Operand, reduce: str, include_self: bool = True
) -> Tensor:
    """x combined with the slices of `source` at the positions `index` along `dim`, as
    `scatter_reduce` does."""
    _check_reduce("index_reduce", reduce)
    return _indexed("index_reduce", x, dim, index, source, _reduced(reduce, include_self))


def _indexed(
    name: str, x: Operand, dim: int, index: Operand, source: Operand, combine: Combine
) -> Tensor:
    given = as_tensor(x)
    x = reshape(given, (1,)) if given.ndim == 0 else given
    place = one_axis(name, dim, x.ndim)
    positions = checked_index(name, index, x.shape[place])
    positions = reshape(positions, (-1,))
    shape = tuple(positions.size if d == place else n for d, n in enumerate(x.shape))
    updates = as_tensor(source)
    updates = reshape(updates, shape) if updates.ndim == 0 else updates
    if updates.shape != shape:
        raise ShapeError(
            f"{name}: source {updates._type} for {positions.size} slices along dim {place} of"
            f" {x._type}",
            fix=f"give the shape {list(shape)}",
        )
    if updates.size == 0:
        return copied(given)
    order = (place, *(d for d in range(x.ndim) if d != place))
    back = tuple(order.index(d) for d in range(x.ndim))

    def build(v: Value, at: Value, u: Value) -> Value:
        rows = reshaped(at, (*at.shape, 1))
        return permuted(combine(permuted(v, order), rows, permuted(u, order)), back)

    return reshape(apply(build, x, positions, cast_to(updates, x.dtype)), given.shape)


def index_put(
    x: Operand, indices: Sequence[Operand], values: Operand, accumulate: bool = False
) -> Tensor:
    """x with `values` at `x[indices]`, positions or masks for the first dims; added to what is
    there if `accumulate`."""
    made = copied(as_tensor(x))
    place = tuple(indices)
    if not accumulate:
        setitem(made, place, values)
        return made
    numbers = reshape(as_tensor(np.arange(made.size)), made.shape)
    at = getitem(numbers, place)
    return put(made, at, _update("index_put", made, values, at.shape), accumulate=True)


def put(x: Operand, index: Operand, source: Operand, accumulate: bool = False) -> Tensor:
    """x with the elements of `source` at the positions `index` of the flattened x; added to what is
    there if `accumulate`."""
    x = as_tensor(x)
    at = reshape(as_tensor(index), (-1,))
    values = reshape(as_tensor(source), (-1,))
    combine = _added if accumulate else _written
    return reshape(_indexed("put", reshape(x, (-1,)), 0, at, values, combine), x.shape)


# ---- masks


def masked_fill(x: Operand, mask: Operand, value: Operand) -> Tensor:
    """`value` where the mask is true, x elsewhere; in the dtype of x."""
    x = as_tensor(x)
    if isinstance(value, TensorState):
        value = cast_to(value, x.dtype)
    return cast_to(e.where(mask, value, x), x.dtype)


def masked_select(x: Operand, mask: Operand) -> Tensor:
    """The elements where the mask is true, in order; both are broadcast. How many there are depends
    on the values, so inside jit this is a TraceError."""
    x, chosen = as_tensor(x), as_mask("masked_select", mask)
    shape = broadcast_shapes(x.shape, chosen.shape)
    flags = buffer_of(broadcast_to(chosen, shape), "the number of true elements").array
    at = np.nonzero(flags.reshape(-1))[0]
    return take(reshape(broadcast_to(x, shape), (-1,)), at)


def masked_scatter(x: Operand, mask: Operand, source: Operand) -> Tensor:
    """x with the first elements of `source`, in order, where the mask is true. Raises ShapeError
    where these are too few, as far as the mask is known (inside jit the last one is repeated)."""
    x, chosen = as_tensor(x), as_mask("masked_scatter", mask)
    shape = broadcast_shapes(x.shape, chosen.shape)
    x, chosen = broadcast_to(x, shape), broadcast_to(chosen, shape)
    values = reshape(cast_to(as_tensor(source), x.dtype), (-1,))
    mask_is_known = chosen._trace is None and state.trace is None and not state.mapping
    wanted = int(chosen.sum()) if mask_is_known and values.size < chosen.size else 0
    if wanted > values.size:
        raise ShapeError(
            f"masked_scatter: {values.size} values for {wanted} places", fix="give enough values"
        )
    if values.size == 0:
        return copied(x)
    number = cumulative_sum(reshape(chosen, (-1,))) - 1
    at = e.clip(number, 0, values.size - 1)
    return e.where(chosen, reshape(take(values, at), shape), x)


# ---- parts of a tensor replaced


def select_scatter(x: Operand, src: Operand, dim: int, index: int) -> Tensor:
    """x with `src` in place of its slice `index` along `dim`."""
    made = copied(as_tensor(x))
    place = one_axis("select_scatter", dim, made.ndim)
    setitem(made, (*(slice(None),) * place, index), src)
    return made


def slice_scatter(
    x: Operand, src: Operand, dim: int = 0, start: int | None = None, end: int | None = None,
    step: int = 1,
) -> Tensor:  # fmt: skip
    """x with `src` in place of `start:end:step` along `dim`."""
    made = copied(as_tensor(x))
    place = one_axis("slice_scatter", dim, made.ndim)
    setitem(made, (*(slice(None),) * place, slice(start, end, step)), src)
    return made


def diagonal_scatter(
    x: Operand, src: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """x with `src` in place of a diagonal of the dims dim1 and dim2."""
    x = as_tensor(x)
    a, b = one_axis("diagonal_scatter", dim1, x.ndim), one_axis("diagonal_scatter", dim2, x.ndim)
    made = copied(moveaxis(x, (a, b), (-2, -1)))
    down, right = max(-offset, 0), max(offset, 0)
    count = max(min(made.shape[-2] - down, made.shape[-1] - right), 0)
    places = np.arange(count)
    setitem(made, (Ellipsis, places + down, places + right), src)
    return moveaxis(made, (-2, -1), (a, b))


# ---- positions


def take_along_dim(x: Operand, indices: Operand, dim: int | None = None) -> Tensor:
    """`take_along_axis` under PyTorch's name; of the flattened x without `dim`."""
    if dim is None:
        x, indices, dim = reshape(x, (-1,)), reshape(indices, (-1,)), 0
    return take_along_axis(x, indices, dim)


def argwhere(x: Operand) -> Tensor:
    """The positions of the elements that are not zero, one row each (i64). Their number depends on
    the values, so inside jit this is a TraceError."""
    x = as_tensor(x)
    array = np.asarray(buffer_of(x, "argwhere").array)
    return as_tensor(np.argwhere(array).astype(np.int64))


def unravel_index(indices: Operand, shape: int | Sequence[int]) -> tuple[Tensor, ...]:
    """Positions in a flattened tensor of `shape` as positions (i64) in each dim."""
    at = as_tensor(indices)
    lengths = [shape] if isinstance(shape, int) else list(shape)
    if not at.dtype.is_integer:
        raise DTypeError(f"unravel_index of {at._type}", fix="give integers")
    size = prod(lengths)
    at = cast_to(checked("unravel_index: index", at, -size, size - 1, given=indices), dt.int64)
    found: list[Tensor] = []
    for n in reversed(lengths):
        found.append(e.remainder(at, max(n, 1)))
        at = e.floor_divide(at, max(n, 1))
    return tuple(reversed(found))


def isin(x: Operand, values: Operand, invert: bool = False) -> Tensor:
    """Whether each element of x is one of `values` (is none of them if `invert`)."""
    among = reshape(as_tensor(values), (-1,))
    found = e.equal(expand_dims(as_tensor(x), -1), among).any(-1)
    return ~found if invert else found


def combinations(x: Operand, r: int = 2, with_replacement: bool = False) -> Tensor:
    """The choices of r elements of a vector, in order, one row each."""
    x = as_tensor(x)
    if x.ndim != 1 or r < 0:
        raise ShapeError(f"combinations of {r} of {x._type}", fix="give a vector and r >= 0")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    check_lengths("combinations", (len(x), r))
    if r > 64 or comb(len(x) + (r - 1 if with_replacement else 0), r) * r > 1 << 32:
        raise AllocationError(f"combinations of {r} of {x._type} are more than memory holds")
    at = np.array(list(choose(range(len(x)), r)), np.int64)
    return getitem(x, at.reshape(-1, r)) if r else reshape(x, (-1,))[:0]


def cartesian_prod(*arrays: Operand) -> Tensor:
    """All choices of one element of each vector, one row each; of one vector itself."""
    given = [as_tensor(a) for a in arrays]
    if not given or any(a.ndim != 1 for a in given):
        kinds = ", ".join(str(a._type) for a in given) or "nothing"
        raise ShapeError(f"cartesian_prod of {kinds}", fix="give vectors")
    if len(given) == 1:
        return given[0]
    at = np.indices([a.size for a in given]).reshape(len(given), -1)
    return stack([getitem(a, p) for a, p in zip(given, at, strict=True)], 1)


def _triangle_places(row: int, col: int, offset: int, dtype: object, lower: bool) -> Tensor:
    """The positions [2, n] (i64 unless given) of a triangle, row by row."""
    check_lengths("tril_indices" if lower else "triu_indices", (row, col))
    with host_arrays("tril_indices" if lower else "triu_indices"):
        full_ = np.ones((row, col), bool)
        places = np.nonzero(np.tril(full_, offset) if lower else np.triu(full_, offset))
    return as_tensor(np.stack(places).astype(np.int64)).astype(dt.int64 if dtype is None else dtype)


def tril_indices(row: int, col: int, offset: int = 0, dtype: object = None) -> Tensor:
    """The positions [2, n] of the elements on and below diagonal `offset`, row by row."""
    return _triangle_places(row, col, offset, dtype, lower=True)


def triu_indices(row: int, col: int, offset: int = 0, dtype: object = None) -> Tensor:
    """The positions [2, n] of the elements on and above diagonal `offset`, row by row."""
    return _triangle_places(row, col, offset, dtype, lower=False)


def bucketize(x: Operand, boundaries: Operand, right: bool = False) -> Tensor:
    """Between which of the rising `boundaries` each element lies: the number (i64) of those below
    it, or not above it if `right`."""
    edges, values = as_tensor(boundaries), expand_dims(as_tensor(x), -1)
    if edges.ndim != 1:
        raise ShapeError(f"bucketize: boundaries are {edges._type}", fix="give a vector")
    before = edges <= values if right else edges < values
    if values.dtype.is_float:
        before = before | e.isnan(values)
    return before.sum(-1, dtype=dt.int64)
