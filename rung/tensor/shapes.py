"""Functions that move elements or change the shape."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rung.core.arguments import NO, at_least, check_lengths, described, is_sequence, read_int
from rung.core.dtype import DType
from rung.core.errors import AxisError, DTypeError, ShapeError
from rung.ir.node import Value
from rung.ops import matrix
from rung.ops import movement as m
from rung.ops.broadcast import broadcasted, reshaped
from rung.ops.indexing import take
from rung.ops.shorthand import permuted
from rung.tensor.operate import (
    Operand,
    all_axes,
    as_tensor,
    cast_value,
    common_dtype,
    common_shape,
    copied,
    one_axis,
    torch_names,
)
from rung.tensor.state import apply, apply_many, buffer_of

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Shape = tuple[int, ...]


def as_shape(name: str, shape: int | Sequence[int]) -> Shape:
    """A shape as a tuple of ints. Raises ShapeError."""
    given = tuple(shape) if is_sequence(shape) else (shape,)  # type: ignore[arg-type]
    found = tuple([n if type(n) is int else read_int(n) for n in given])
    if NO in found:
        raise ShapeError(f"{name}: {described(shape)} is not a shape", fix="give integers")
    check_lengths(name, [abs(n) for n in found])
    return tuple(map(int, found))


def as_lengths(name: str, shape: int | Sequence[int]) -> Shape:
    """The shape of something new, as a tuple of ints. Raises ShapeError for a negative length."""
    found = as_shape(name, shape)
    check_lengths(name, found)
    return found


def reshape(
    x: Operand, /, shape: int | Sequence[int], *, copy: bool | None = None
) -> Tensor:
    """The same elements, in row-major order, in another shape; one length may be -1. The result is
    independent of x; where the shape stays it is x itself, unless `copy`."""
    x = as_tensor(x)
    wanted = as_shape("reshape", shape)
    if -1 in wanted:
        wanted = _inferred(x, wanted)
    if prod(wanted) != x.size or any(n < 0 for n in wanted):
        raise ShapeError(
            f"reshape: {x._type} has {x.size} elements, {list(wanted)} does not",
            fix="give lengths whose product is the number of elements, or one -1",
        )
    if wanted == x.shape:
        return copied(x) if copy else x
    return apply(lambda v: reshaped(v, wanted), x, key=("reshape", wanted))


def _inferred(x: Tensor, shape: Shape) -> Shape:
    rest = prod(n for n in shape if n != -1)
    if shape.count(-1) > 1 or rest == 0 or x.size % rest:
        raise ShapeError(
            f"reshape: {x._type} cannot take the shape {list(shape)}",
            fix="give at most one -1; the other lengths must divide the number of elements",
        )
    return tuple(x.size // rest if n == -1 else n for n in shape)


def flatten(x: Operand, start: int = 0, end: int = -1) -> Tensor:
    """Dims `start` to `end`, both included, as one."""
    x = as_tensor(x)
    if x.ndim == 0:
        return reshape(x, (1,))
    a, b = one_axis("flatten", start, x.ndim), one_axis("flatten", end, x.ndim)
    if a > b:
        raise AxisError(f"flatten: start {start} is behind end {end}")
    return reshape(x, (*x.shape[:a], prod(x.shape[a : b + 1]), *x.shape[b + 1 :]))


def unflatten(x: Operand, axis: int, shape: Sequence[int]) -> Tensor:
    """Dim `axis` as dims of `shape`; one length may be -1."""
    x = as_tensor(x)
    a = one_axis("unflatten", axis, x.ndim)
    sizes = as_shape("unflatten", shape)
    if -1 in sizes:
        rest = prod(n for n in sizes if n != -1)
        sizes = tuple(x.shape[a] // max(rest, 1) if n == -1 else n for n in sizes)
    return reshape(x, (*x.shape[:a], *sizes, *x.shape[a + 1 :]))


def permute_dims(x: Operand, /, axes: Sequence[int]) -> Tensor:
    """Dims in another order: dim d of the result is dim `axes[d]` of x."""
    x = as_tensor(x)
    order = tuple(one_axis("permute_dims", a, x.ndim) for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise AxisError(
            f"permute_dims: axes {tuple(axes)} do not name each dim of {x._type} once",
            fix=f"give an order of 0 … {x.ndim - 1}",
        )
    return apply(lambda v: permuted(v, order), x, key=("permute", order))


def swapaxes(x: Operand, axis1: int, axis2: int) -> Tensor:
    """x with two dims exchanged."""
    x = as_tensor(x)
    a, b = one_axis("transpose", axis1, x.ndim), one_axis("transpose", axis2, x.ndim)
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return permute_dims(x, order)


def matrix_transpose(x: Operand, /) -> Tensor:
    """x with its last two dims exchanged."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose: {x._type} has fewer than two dims")
    return swapaxes(x, -2, -1)


def moveaxis(
    x: Operand, source: int | Sequence[int], destination: int | Sequence[int], /
) -> Tensor:
    """Dims `source` at the places `destination`, the others in order."""
    x = as_tensor(x)
    froms = source if isinstance(source, tuple | list) else (source,)
    tos = destination if isinstance(destination, tuple | list) else (destination,)
    if len(froms) != len(tos):  # type: ignore[arg-type]
        raise AxisError(f"moveaxis: {source} and {destination} differ in number")
    pairs = [
        (one_axis("moveaxis", b, x.ndim), one_axis("moveaxis", a, x.ndim))
        for a, b in zip(froms, tos, strict=True)  # type: ignore[arg-type]
    ]
    moved = {a for _, a in pairs}
    order = [d for d in range(x.ndim) if d not in moved]
    for place, axis in sorted(pairs):
        order.insert(place, axis)
    return permute_dims(x, order)


def squeeze(x: Operand, /, axis: int | Sequence[int] | None = None) -> Tensor:
    """x without the dims `axis`, which must have length one (None: all such dims)."""
    x = as_tensor(x)
    if axis is None:
        return reshape(x, tuple(n for n in x.shape if n != 1))
    axes = all_axes("squeeze", axis, x.ndim)
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(f"squeeze: dim {a} of {x._type} has length {x.shape[a]}, not 1")
    return reshape(x, tuple(n for d, n in enumerate(x.shape) if d not in axes))


def expand_dims(x: Operand, /, axis: int | Sequence[int] = 0) -> Tensor:
    """x with new dims of length one, at the places `axis` of the result."""
    x = as_tensor(x)
    count = len(axis) if isinstance(axis, tuple | list) else 1
    axes = all_axes("expand_dims", axis, x.ndim + count)
    shape = list(x.shape)
    for a in axes:
        shape.insert(a, 1)
    return reshape(x, shape)


def broadcast_to(x: Operand, /, shape: Sequence[int]) -> Tensor:
    """x repeated to `shape` along dims of length one and new leading dims; -1 keeps a length."""
    x = as_tensor(x)
    wanted = as_shape("broadcast_to", shape)
    lead = len(wanted) - x.ndim
    if lead >= 0:
        kept = (0,) * lead + x.shape
        wanted = tuple(k if n == -1 else n for n, k in zip(wanted, kept, strict=True))
    return apply(lambda v: broadcasted(v, wanted), x, key=("broadcast", wanted))


def broadcast_arrays(*arrays: Operand) -> list[Tensor]:
    """The tensors in their common shape."""
    tensors = [as_tensor(x) for x in arrays]
    if not tensors:
        return []
    shape = common_shape("broadcast_arrays", tensors)
    return [broadcast_to(x, shape) for x in tensors]


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that all `shapes` broadcast to. Raises ShapeError."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(f"broadcast_shapes: {shapes} do not fit together") from None


def _alike(given: Sequence[Operand], name: str) -> tuple[list[Tensor], DType]:
    tensors = [as_tensor(x) for x in given]
    if not tensors:
        raise ShapeError(f"{name}: needs at least one tensor", fix="give a sequence of tensors")
    return tensors, common_dtype(tensors)


@torch_names
def concat(arrays: Sequence[Operand], /, axis: int | None = 0) -> Tensor:
    """The tensors one after the other along `axis` (None: flattened)."""
    tensors, dtype = _alike(arrays, "concat")
    if axis is None:
        tensors, axis = [reshape(x, (-1,)) for x in tensors], 0
    dim = one_axis("concat", axis, tensors[0].ndim)
    return apply(lambda *vs: m.concat(*[cast_value(v, dtype) for v in vs], dim=dim), *tensors)


@torch_names
def stack(arrays: Sequence[Operand], /, axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dim `axis`."""
    tensors, _ = _alike(arrays, "stack")
    for x in tensors:
        if x.shape != tensors[0].shape:
            raise ShapeError(f"stack: shapes differ: {tensors[0]._type} and {x._type}")
    return concat([expand_dims(x, axis) for x in tensors], axis)


@torch_names
def unstack(x: Operand, /, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along `axis`, without that dim."""
    x = as_tensor(x)
    dim = one_axis("unstack", axis, x.ndim)
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    return apply_many(
        lambda v: [reshaped(m.cut(v, dim, i, i + 1), shape) for i in range(v.shape[dim])], x
    )


@torch_names
def split(x: Operand, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Pieces along `axis`: of one length (the last may be shorter), or of these lengths."""
    x = as_tensor(x)
    dim = one_axis("split", axis, x.ndim)
    length = x.shape[dim]
    if isinstance(sizes, int):
        if sizes < 1:
            raise ShapeError(f"split: pieces of length {sizes}", fix="give a positive length")
        sizes = [min(sizes, length - at) for at in range(0, length, sizes)]
    if sum(sizes) != length:
        raise ShapeError(f"split: lengths {list(sizes)} do not add up to {length} of {x._type}")
    ends = np.cumsum([0, *sizes]).tolist()
    return apply_many(
        lambda v: [m.cut(v, dim, a, b) for a, b in pairwise(ends)], x
    )


@torch_names
def chunk(x: Operand, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
    """`chunks` pieces of equal length along `axis` (the last may be shorter)."""
    x = as_tensor(x)
    length = x.shape[one_axis("chunk", axis, x.ndim)]
    at_least("chunk", 1, chunks=chunks)
    return split(x, max(-(-length // chunks), 1), axis)


@torch_names
def flip(x: Operand, /, axis: int | Sequence[int] | None = None) -> Tensor:
    """The order of the elements reversed along `axis`."""
    x = as_tensor(x)
    dims = all_axes("flip", axis, x.ndim)
    return apply(lambda v: m.flip(v, dims=dims), x)


@torch_names
def roll(
    x: Operand, /, shift: int | Sequence[int], axis: int | Sequence[int] | None = None
) -> Tensor:
    """Elements moved by `shift` (one for all, or one for each axis) along `axis` (None: in the
    flattened tensor); those that leave come in at the other end."""
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, 0), x.shape)
    axes = list(axis) if isinstance(axis, tuple | list) else [axis]
    shifts = list(shift) if isinstance(shift, tuple | list) else [shift] * len(axes)
    if len(shifts) != len(axes):
        raise AxisError(
            f"roll: {len(shifts)} shifts along {len(axes)} axes", fix="give one for each axis"
        )

    def build(v: Value) -> Value:
        for by, a in zip(shifts, axes, strict=True):
            dim = one_axis("roll", a, len(v.shape))  # type: ignore[arg-type]
            n = v.shape[dim]
            at = -by % n if n else 0
            if at:
                v = m.concat(m.cut(v, dim, at, n), m.cut(v, dim, 0, at), dim=dim)
        return v

    return apply(build, x)


def tile(x: Operand, repetitions: Sequence[int], /) -> Tensor:
    """x repeated as a whole so often along each dim; missing dims or counts are one."""
    x = as_tensor(x)
    counts = as_shape("tile", repetitions)
    rank = max(len(counts), x.ndim)
    counts = (1,) * (rank - len(counts)) + counts
    shape = (1,) * (rank - x.ndim) + x.shape
    between = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    ones = tuple(n for s in shape for n in (1, s))
    final = tuple(c * n for c, n in zip(counts, shape, strict=True))
    return apply(lambda v: reshaped(broadcasted(reshaped(v, ones), between), final), x)


@torch_names
def repeat(x: Operand, repeats: int | Operand, /, axis: int | None = None) -> Tensor:
    """Each element so often, one copy behind the other, along `axis` (None: flattened). `repeats`
    may have a number for each element; inside jit those must be known."""
    x = as_tensor(x)
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    dim = one_axis("repeat", axis, x.ndim)
    if not isinstance(repeats, int):
        return _repeated(x, as_tensor(repeats), dim)
    if repeats < 0:
        raise ShapeError(f"repeat: repeats={repeats}", fix="give a number that is not negative")
    ones = (*x.shape[: dim + 1], 1, *x.shape[dim + 1 :])
    wide = (*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :])
    final = (*x.shape[:dim], x.shape[dim] * repeats, *x.shape[dim + 1 :])
    return apply(lambda v: reshaped(broadcasted(reshaped(v, ones), wide), final), x)


def _repeated(x: Tensor, repeats: Tensor, dim: int) -> Tensor:
    length = x.shape[dim]
    if not repeats.dtype.is_integer:
        raise DTypeError(f"repeat: repeats is {repeats._type}", fix="give integers")
    if repeats.ndim > 1 or repeats.size not in (1, length):
        raise ShapeError(
            f"repeat: {repeats._type} repeats for {length} elements along dim {dim} of {x._type}",
            fix="give one number, or one for each element",
        )
    counts = np.broadcast_to(buffer_of(repeats, "the repeats").array, (length,))
    if length and counts.min() < 0:
        raise ShapeError("repeat: a number of repeats is negative")
    check_lengths("repeat", (int(counts.sum(dtype=np.float64)),))
    positions = as_tensor(np.repeat(np.arange(length), counts.astype(np.int64)))
    return apply(lambda v, at: take(v, at, dim=dim), x, positions)


def pad(x: Operand, widths: Sequence[tuple[int, int]], value: float = 0) -> Tensor:
    """x with `value` around it: (before, after) for each dim; negative cuts off."""
    x = as_tensor(x)
    if len(widths) != x.ndim:
        raise ShapeError(f"pad: {len(widths)} pairs for {x._type}", fix="give one pair a dim")
    low, high = tuple(a for a, _ in widths), tuple(b for _, b in widths)
    return apply(lambda v: m.pad(v, low=low, high=high, value=value), x)


def _triangle(x: Operand, k: int, lower: bool) -> Tensor:
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"{'tril' if lower else 'triu'}: {x._type} has fewer than two dims")

    return apply(lambda v: matrix.triangle(v, lower, k), x)


def tril(x: Operand, /, k: int = 0) -> Tensor:
    """The lower triangles of matrices, zero above diagonal `k`."""
    return _triangle(x, k, lower=True)


def triu(x: Operand, /, k: int = 0) -> Tensor:
    """The upper triangles of matrices, zero below diagonal `k`."""
    return _triangle(x, k, lower=False)


def diagonal(x: Operand, /, offset: int = 0) -> Tensor:
    """The diagonals of the last two dims, `offset` places above the main one (negative: below)."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"diagonal: {x._type} has fewer than two dims")
    return apply(lambda v: matrix.diagonal(v, offset), x)
