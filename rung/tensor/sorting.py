"""Sorting, searching and picking by position along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import ArgumentError, DTypeError, RungError, ShapeError
from rung.ir.node import Value
from rung.ops import indexing as i
from rung.ops import sorting as s
from rung.ops.creation import full
from rung.ops.elementwise import add, less
from rung.ops.elementwise import where as where_value
from rung.tensor import elementwise
from rung.tensor.checks import checked, known_array
from rung.tensor.operate import Operand, as_tensor, cast_to, one_axis, torch_names
from rung.tensor.shapes import broadcast_shapes, broadcast_to, reshape
from rung.tensor.state import TensorState, apply, apply_many, buffer_of

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


@torch_names
def sort(x: Operand, /, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements in rising (or falling) order along `axis`; always stable."""
    x = as_tensor(x)
    dim = one_axis("sort", axis, x.ndim)
    return apply(lambda v: s.sort(v, dim=dim, descending=descending), x)


@torch_names
def argsort(
    x: Operand, /, axis: int = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """The positions (i64) that sort x along `axis`; always stable."""
    x = as_tensor(x)
    dim = one_axis("argsort", axis, x.ndim)
    return apply(lambda v: s.argsort(v, dim=dim, descending=descending), x)


@torch_names
def topk(x: Operand, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis`, and their positions (i64)."""
    x = as_tensor(x)
    dim = one_axis("topk", axis, x.ndim)
    if not 0 <= k <= x.shape[dim]:
        raise ShapeError(f"topk: k={k} of {x.shape[dim]} elements along dim {dim} of {x._type}")
    values, positions = apply_many(
        lambda v: s.top_k.build((v,), s.TopAttrs(k, dim, largest)), x
    )
    return values, positions


# ---- positions


def checked_index(name: str, index: Operand, length: int) -> Tensor:
    """Positions counted from the front, of which those from -length to length - 1 are valid. Raises
    IndexingError, DTypeError."""
    positions = as_tensor(index)
    if positions.size == 0 and positions.dtype.is_float and not isinstance(index, TensorState):
        positions = as_tensor(np.zeros(positions.shape, np.int64))
    if not positions.dtype.is_integer:
        raise DTypeError(
            f"{name}: positions are {positions._type}, not integers",
            fix="use integers, or a bool mask",
        )
    what = name if name == "index" else f"{name}: index"
    valid = checked(what, positions, -length, length - 1, given=index)
    array = known_array(positions, index)
    return valid if array is not None and array.min() >= 0 else _from_front(valid, length)


def held_take(x: TensorState, at: TensorState, dim: int) -> Tensor:
    """`take` of positions that are known to be valid."""
    return apply(lambda v, positions: i.take(v, positions, dim=dim), x, at)


def held_along(x: TensorState, at: Operand, dim: int) -> Tensor:
    """`take_along_axis` of positions that are known to be valid, and not negative."""
    place, positions = dim % len(x.shape), as_tensor(at)
    rest = [(*t.shape[:place], 1, *t.shape[place + 1 :]) for t in (x, positions)]
    shape = broadcast_shapes(*rest)
    x = broadcast_to(x, (*shape[:place], x.shape[place], *shape[place + 1 :]))
    many = (*shape[:place], positions.shape[place], *shape[place + 1 :])
    positions = broadcast_to(positions, many)
    return apply(lambda v, found: i.take_along(v, found, dim=place), x, positions)


def _from_front(positions: Tensor, length: int) -> Tensor:
    """Negative positions counted from the end, as positions from the front."""
    dtype = positions.dtype
    if dtype.kind == "u":
        return positions
    if not dt.fits(length, dtype):
        positions = cast_to(positions, dt.int64)

    def build(v: Value) -> Value:
        zero, size = full(v.shape, 0, v.type.dtype), full(v.shape, length, v.type.dtype)
        return where_value(less(v, zero), add(v, size), v)

    return apply(build, positions)


@torch_names
def take(x: Operand, indices: Operand, /, axis: int | None = None) -> Tensor:
    """The slices of x at positions `indices` (any shape, which stands in place of `axis`). Without
    `axis` of the flattened x."""
    x = as_tensor(x)
    if axis is None:
        if x.ndim != 1:
            x = reshape(x, (-1,))
        axis = 0
    dim = one_axis("take", axis, x.ndim)
    positions = checked_index("take", indices, x.shape[dim])
    return apply(lambda v, at: i.take(v, at, dim=dim), x, positions)


@torch_names
def take_along_axis(x: Operand, indices: Operand, /, axis: int = -1) -> Tensor:
    """For each element of `indices` the element of x at that position along `axis`; the other dims
    broadcast."""
    x = as_tensor(x)
    dim = one_axis("take_along_axis", axis, x.ndim)
    positions = checked_index("take_along_axis", indices, x.shape[dim])
    if positions.ndim != x.ndim:
        raise ShapeError(
            f"take_along_axis: indices {positions._type} must have the {x.ndim} dims of {x._type}"
        )
    return held_along(x, positions, dim)


def gather(x: Operand, dim: int, index: Operand) -> Tensor:
    """PyTorch's name and order of arguments for `take_along_axis`."""
    return take_along_axis(x, index, dim)


def nonzero(x: Operand, /) -> tuple[Tensor, ...]:
    """The positions of the elements that are not zero, one tensor (i64) a dim. Their number depends
    on the values, so inside jit this is a TraceError."""
    x = as_tensor(x)
    if x.ndim == 0:
        raise ShapeError(f"nonzero: {x._type} has no dims", fix="give x.reshape(1)")
    array = buffer_of(x, "nonzero").array
    return tuple(as_tensor(np.ascontiguousarray(a)) for a in np.nonzero(array))


def where(condition: Operand, x1: Operand = None, x2: Operand = None, /) -> Any:
    """x1 where the condition is true, else x2; all three are broadcast. With the condition alone:
    where it is true, as `nonzero`."""
    if x1 is None and x2 is None:
        return nonzero(condition)
    if x1 is None or x2 is None:
        raise ArgumentError("where: one of two branches is given", fix="give both, or none")
    return elementwise.where(condition, x1, x2)


def searchsorted(
    x1: Operand, x2: Operand, /, side: str = "left", sorter: Operand = None
) -> Tensor:
    """The positions (i64) at which the elements of x2 would be put into the vector x1, which is
    sorted, or is so in the order `sorter`: before ("left") or behind equal ones. NaN goes last.
    With more dims, x1[…, n] and x2[…, m] have the others in common, and rows go with rows."""
    x, values = as_tensor(x1), as_tensor(x2)
    if x.ndim == 0 or (x.ndim > 1 and x.shape[:-1] != values.shape[:-1]):
        raise ShapeError(
            f"searchsorted: x2 {values._type} in x1 {x._type}",
            fix="x1 is a vector, or has the dims of x2 but for the last one",
        )
    if side not in ("left", "right"):
        raise RungError(f"searchsorted: side={side!r}", fix='give "left" or "right"')
    if sorter is not None:
        if as_tensor(sorter).shape != x.shape:
            raise ShapeError(
                f"searchsorted: sorter {as_tensor(sorter)._type} of x1 {x._type}",
                fix="give what argsort(x1) gives",
            )
        x = take(x, sorter) if x.ndim == 1 else take_along_axis(x, sorter, -1)
    if x.ndim > 1:
        x = reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    row = reshape(values, (*values.shape, 1))
    return _stands_before(x, row, side == "left").sum(-1, dtype=dt.int64)


def _stands_before(x: Tensor, values: Tensor, strictly: bool) -> Tensor:
    before = x < values if strictly else x <= values
    if not values.dtype.is_float:
        return before
    last = values.isnan()
    return before | (last & ~x.isnan() if strictly else last)
