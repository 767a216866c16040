"""Stacking, splitting, diagonals and windows: functions that move elements, under the names that
NumPy and PyTorch have for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import check_lengths, check_parts, host_arrays, read_ints
from rung.core.errors import AxisError, DTypeError, ShapeError
from rung.ops.dynamic import dynamic_slice
from rung.tensor import elementwise as e
from rung.tensor import reductions as r
from rung.tensor import shapes as s
from rung.tensor.creation import zeros
from rung.tensor.indexing import getitem
from rung.tensor.operate import Operand, as_tensor, cast_to, common_dtype, one_axis
from rung.tensor.sorting import sort, take
from rung.tensor.state import TensorState, apply, state

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


# ---- at least so many dims


def atleast_1d(*arrays: Operand) -> Tensor | tuple[Tensor, ...]:
    """Scalars as vectors; several arguments give a tuple."""
    return _each(arrays, 1)


def atleast_2d(*arrays: Operand) -> Tensor | tuple[Tensor, ...]:
    """Scalars and vectors as matrices of one row; several arguments give a tuple."""
    return _each(arrays, 2)


def atleast_3d(*arrays: Operand) -> Tensor | tuple[Tensor, ...]:
    """With three dims: a vector in the middle one, a matrix in the first two; several arguments
    give a tuple."""
    return _each(arrays, 3)


def _each(arrays: Sequence[Operand], rank: int) -> Tensor | tuple[Tensor, ...]:
    found = tuple(_raised(as_tensor(a), rank) for a in arrays)
    return found[0] if len(found) == 1 else found


def _raised(x: Tensor, rank: int) -> Tensor:
    if x.ndim >= rank:
        return x
    if rank == 3 and x.ndim:
        return s.reshape(x, (*((1,) if x.ndim == 1 else ()), *x.shape, 1))
    return s.reshape(x, (1,) * (rank - x.ndim) + x.shape)


# ---- stacking


def hstack(arrays: Sequence[Operand]) -> Tensor:
    """Tensors beside each other: along the second dim, vectors along their only one."""
    given = [_raised(as_tensor(a), 1) for a in arrays]
    if not given:
        raise ShapeError("hstack: needs at least one tensor", fix="give a sequence of tensors")
    return s.concat(given, 0 if given[0].ndim == 1 else 1)


def vstack(arrays: Sequence[Operand]) -> Tensor:
    """Tensors below each other: along the first dim, vectors as rows."""
    return s.concat([_raised(as_tensor(a), 2) for a in arrays], 0)


def dstack(arrays: Sequence[Operand]) -> Tensor:
    """Tensors behind each other: along the third dim."""
    return s.concat([_raised(as_tensor(a), 3) for a in arrays], 2)


def column_stack(arrays: Sequence[Operand]) -> Tensor:
    """Vectors as columns and matrices beside each other."""
    given = [as_tensor(a) for a in arrays]
    return hstack([s.reshape(a, (-1, 1)) if a.ndim < 2 else a for a in given])


def block_diag(*arrays: Operand) -> Tensor:
    """Matrices along the diagonal of one that is zero elsewhere; a vector is a row.

    >>> import rung
    >>> rung.block_diag(rung.ones((1, 2)), rung.asarray([3.0])).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]
    """
    given = [as_tensor(a) for a in arrays] or [zeros((1, 0))]
    dtype = common_dtype(given)
    blocks = [cast_to(_raised(a, 2), dtype) for a in given]
    wrong = [b for b in blocks if b.ndim > 2]
    if wrong:
        raise ShapeError(f"block_diag: {wrong[0]._type} has more than two dims")
    width, before, rows = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        after = width - before - b.shape[1]
        rows.append(s.pad(b, [(0, 0), (before, after)]))
        before += b.shape[1]
    return s.concat(rows, 0)


# ---- splitting


def tensor_split(
    x: Operand, indices_or_sections: int | Sequence[int] | Operand, axis: int = 0
) -> tuple[Tensor, ...]:
    """Pieces along `axis`: so many of nearly equal length (the first are longer), or those between
    the given places."""
    x = as_tensor(x)
    dim = one_axis("tensor_split", axis, x.ndim)
    n, given = x.shape[dim], indices_or_sections
    if not isinstance(given, int | list | tuple):
        given = as_tensor(given).tolist()
    if isinstance(given, int | float):
        (given,) = read_ints("tensor_split", "indices_or_sections", [given])
        check_parts("tensor_split", 1, indices_or_sections=given)
        ends = [i * (n // given) + min(i, n % given) for i in range(given + 1)]
    else:
        places = read_ints("tensor_split", "indices_or_sections", given)
        ends = [0, *(slice(0, i).indices(n)[1] for i in places), n]
    front = (slice(None),) * dim
    return tuple(getitem(x, (*front, slice(a, max(a, b)))) for a, b in pairwise(ends))


def hsplit(x: Operand, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """Pieces along the second dim (of a vector along its only one), see `tensor_split`."""
    x = as_tensor(x)
    return _equal_split("hsplit", x, indices_or_sections, 0 if x.ndim == 1 else 1, 1)


def vsplit(x: Operand, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """Pieces along the first dim, see `tensor_split`."""
    return _equal_split("vsplit", as_tensor(x), indices_or_sections, 0, 2)


def dsplit(x: Operand, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """Pieces along the third dim, see `tensor_split`."""
    return _equal_split("dsplit", as_tensor(x), indices_or_sections, 2, 3)


def _equal_split(
    name: str, x: Tensor, given: int | Sequence[int], dim: int, least: int
) -> tuple[Tensor, ...]:
    if x.ndim < least:
        raise ShapeError(f"{name}: {x._type} has fewer than {least} dims")
    if isinstance(given, int) and (given < 1 or x.shape[dim] % given):
        raise ShapeError(f"{name}: dim {dim} of {x._type} is no multiple of {given}")
    return tensor_split(x, given, dim)


def narrow(x: Operand, dim: int, start: int | Operand, length: int) -> Tensor:
    """`length` slices along `dim` from `start` on, a number or a scalar tensor.

    Inside `jit`, `vmap` and loops a tensor `start` is not known; the slice is moved so that it lies
    inside where it would not."""
    x = as_tensor(x)
    place = one_axis("narrow", dim, x.ndim)
    if isinstance(start, TensorState) and (state.trace is not None or state.mapping):
        return _narrow_at(x, place, as_tensor(start), length)
    (first,) = read_ints("narrow", "start", [start])
    first += x.shape[place] if first < 0 else 0
    if not 0 <= first <= first + length <= x.shape[place]:
        raise ShapeError(f"narrow: {length} slices from {start} along dim {place} of {x._type}")
    return getitem(x, (*(slice(None),) * place, slice(first, first + length)))


def _narrow_at(x: Tensor, dim: int, start: Tensor, length: int) -> Tensor:
    """`narrow` from a start that is known when the program runs."""
    if start.size != 1 or not start.dtype.is_integer:
        raise DTypeError(f"narrow: start is {start._type}", fix="give a scalar integer")
    count = x.shape[dim]
    if not 0 <= length <= count:
        raise ShapeError(f"narrow: {length} slices along dim {dim} of {x._type}")
    first = start.reshape(()).astype(dt.int64)
    first = e.where(first < 0, first + count, first)
    return apply(lambda v, s: dynamic_slice(v, s, dims=(dim,), sizes=(length,)), x, first)


def select(x: Operand, dim: int, index: int) -> Tensor:
    """The slice of x at `index` along `dim`, without that dim."""
    x = as_tensor(x)
    return getitem(x, (*(slice(None),) * one_axis("select", dim, x.ndim), index))


# ---- order


def fliplr(x: Operand) -> Tensor:
    """The order along the second dim reversed."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"fliplr: {x._type} has fewer than two dims")
    return s.flip(x, 1)


def flipud(x: Operand) -> Tensor:
    """The order along the first dim reversed."""
    x = as_tensor(x)
    if x.ndim < 1:
        raise ShapeError(f"flipud: {x._type} has no dims")
    return s.flip(x, 0)


def rot90(x: Operand, k: int = 1, axes: Sequence[int] = (0, 1)) -> Tensor:
    """x turned by k right angles, from the first of `axes` to the second.

    >>> import rung
    >>> rung.rot90(rung.asarray([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    x = as_tensor(x)
    if len(axes) != 2:
        raise AxisError(f"rot90: axes {tuple(axes)}", fix="name two dims")
    a, b = (one_axis("rot90", n, x.ndim) for n in axes)
    if a == b:
        raise AxisError(f"rot90: axes {tuple(axes)} are one", fix="name two dims")
    turns = k % 4
    if turns == 2:
        return s.flip(x, (a, b))
    if turns == 0:
        return s.reshape(x, x.shape)
    return s.flip(s.swapaxes(x, a, b), a) if turns == 1 else s.swapaxes(s.flip(x, a), a, b)


def transposed(x: Operand) -> Tensor:
    """A matrix with its dims exchanged; vectors and scalars stay."""
    x = as_tensor(x)
    if x.ndim > 2:
        raise ShapeError(f"t: {x._type} has more than two dims", fix="use permute or mT")
    return s.swapaxes(x, 0, 1) if x.ndim == 2 else s.reshape(x, x.shape)


def msort(x: Operand) -> Tensor:
    """The elements in rising order along the first dim."""
    return sort(x, axis=0)


def ravel(x: Operand) -> Tensor:
    """All elements as a vector."""
    return s.reshape(x, (-1,))


# ---- diagonals


def diagonal_of(x: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonals of dims dim1 and dim2, which become the last dim."""
    x = as_tensor(x)
    a, b = one_axis("diagonal", dim1, x.ndim), one_axis("diagonal", dim2, x.ndim)
    if a == b:
        raise AxisError(f"diagonal: dims {dim1} and {dim2} are one", fix="name two dims")
    return s.diagonal(s.moveaxis(x, (a, b), (-2, -1)), offset)


def diag(x: Operand, k: int = 0) -> Tensor:
    """Diagonal k of a matrix, or a matrix with a vector on diagonal k and zeros elsewhere."""
    x = as_tensor(x)
    if x.ndim not in (1, 2):
        raise ShapeError(f"diag: {x._type} is no vector and no matrix")
    return s.diagonal(x, k) if x.ndim == 2 else diag_embed(x, k)


def diagflat(x: Operand, k: int = 0) -> Tensor:
    """A matrix with all elements of x on diagonal k and zeros elsewhere."""
    return diag_embed(ravel(x), k)


def diag_embed(x: Operand, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices over the new dims dim1 and dim2 with the last dim of x on a diagonal."""
    x = as_tensor(x)
    if x.ndim < 1:
        raise ShapeError(f"diag_embed: {x._type} has no dims")
    n, rest = x.shape[-1], x.shape[:-1]
    size = n + abs(offset)
    spread = s.reshape(s.pad(s.expand_dims(x, -1), [(0, 0)] * x.ndim + [(0, n)]), (*rest, -1))
    square = s.reshape(getitem(spread, (Ellipsis, slice(0, n * n))), (*rest, n, n))
    down, right = max(-offset, 0), max(offset, 0)
    widths = [(0, 0)] * len(rest) + [(down, size - n - down), (right, size - n - right)]
    a, b = (one_axis("diag_embed", d, x.ndim + 1) for d in (dim1, dim2))
    if a == b:
        raise AxisError(f"diag_embed: dims {dim1} and {dim2} are one", fix="name two dims")
    return s.moveaxis(s.pad(square, widths), (-2, -1), (a, b))


# ---- windows and views


def windows(x: Operand, dim: int, size: int, step: int) -> Tensor:
    """All windows of `size` elements along `dim`, `step` apart; what they hold is a new last dim.
    PyTorch's `Tensor.unfold`."""
    x = as_tensor(x)
    if x.ndim == 0:
        x, dim = s.reshape(x, (1,)), one_axis("unfold", dim, 1)
        return s.reshape(windows(x, dim, size, step), (size,))
    place = one_axis("unfold", dim, x.ndim)
    n = x.shape[place]
    if not 0 <= size <= n or step < 1:
        raise ShapeError(f"unfold: windows of {size} by {step} along dim {place} of {x._type}")
    starts = np.arange(0, n - size + 1, step)
    found = take(x, starts[:, None] + np.arange(size), place)
    return s.moveaxis(found, place + 1, -1)


def as_strided(
    x: Operand, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """The elements of the flattened x at storage_offset + i · stride, for each index i of `size`; a
    new tensor, no view."""
    x = as_tensor(x)
    check_lengths("as_strided", size)
    if len(size) != len(stride):
        raise ShapeError(f"as_strided: size {list(size)} with stride {list(stride)}")
    with host_arrays("as_strided"):
        at = np.asarray(storage_offset or 0, np.int64)
        for n, by in zip(size, stride, strict=True):
            at = at[..., None] + np.arange(n) * by
    if at.size and (at.min() < 0 or at.max() >= x.size):
        raise ShapeError(f"as_strided: {list(size)} by {list(stride)} leaves {x._type}")
    return take(ravel(x), np.asarray(at), 0)


def sum_to_size(x: Operand, *size: int | Sequence[int]) -> Tensor:
    """x summed over dims until it has the shape `size`, to which x could be broadcast back."""
    x = as_tensor(x)
    wanted = s.as_shape("sum_to_size", size[0] if len(size) == 1 else size)  # type: ignore[arg-type]
    lead = x.ndim - len(wanted)
    over = [d for d in range(x.ndim) if d < lead or (wanted[d - lead] == 1 != x.shape[d])]
    if lead < 0 or any(wanted[d - lead] not in (1, n) for d, n in enumerate(x.shape) if d >= lead):
        raise ShapeError(f"sum_to_size: {x._type} is no broadcast of {list(wanted)}")
    return s.reshape(r.sum(x, tuple(over), dtype=x.dtype), wanted) if over else x

