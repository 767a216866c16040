"""Slices at positions known only when the program runs (a cache length, a step).

A start that would leave the slice partly outside is moved so that the slice lies inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import INTEGERS
from rung.core.errors import AxisError, ShapeError
from rung.ir.expr import Expr, Var, iadd, read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Sample, later
from rung.ir.types import Shape, TensorType
from rung.ops.batching import with_axis
from rung.ops.broadcast import broadcast_to, reshape
from rung.ops.creation import full, full_like, iota
from rung.ops.eager import indexing as kernels
from rung.ops.elementwise import cast, maximum, minimum
from rung.ops.families import (
    Types,
    add,
    axis_vars,
    nbytes,
    require_dim,
    require_dtype,
    require_same_dtype,
    structured,
)
from rung.ops.indexing import clamped, gather, scatter
from rung.ops.movement import concat
from rung.ops.shorthand import permuted

Values = Sequence[Value]
Cotangents = Sequence["Value | None"]


@dataclass(frozen=True)
class DynamicSliceAttrs(Attrs):
    """The dims that are cut, and the size of the slice along each. All others are taken whole."""

    dims: tuple[int, ...]
    sizes: tuple[int, ...]

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dims=later(self.dims))


@dataclass(frozen=True)
class UpdateAttrs(Attrs):
    """The dims along which the update is placed by a start. All others are of full size."""

    dims: tuple[int, ...]

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dims=later(self.dims))


def _check_starts(op: str, dims: tuple[int, ...], x: TensorType, starts: Types) -> None:
    for dim in dims:
        require_dim(op, dim, x)
    if len(set(dims)) != len(dims):
        raise AxisError(f"{op}: dims {list(dims)} name a dim twice", fix="name each dim once")
    if len(starts) != len(dims):
        raise ShapeError(f"{op}: {len(starts)} starts for dims {list(dims)}", fix="one start a dim")
    for dim, start in zip(dims, starts, strict=True):
        require_dtype(op, f"start of dim {dim}", start, INTEGERS)
        if start.shape:
            raise ShapeError(f"{op}: start of dim {dim} is {start}", fix="a start is a scalar")


def _shifted(
    axes: tuple[Var, ...],
    x: Shape,
    slice_shape: Shape,
    dims: tuple[int, ...],
    starts: Types,
    k: int,
) -> tuple[Expr, ...]:
    """The place in x of the element of the slice at `axes`; starts are operands k, k+1, …"""
    place: list[Expr] = list(axes)
    for i, (d, t) in enumerate(zip(dims, starts, strict=True)):
        start = clamped(read(k + i, (), t.dtype), x[d] - slice_shape[d] + 1)
        place[d] = iadd(start, axes[d])
    return tuple(place)


def _window(
    x: Shape, size: Shape, dims: tuple[int, ...], starts: Sequence[Array]
) -> tuple[slice, ...]:
    found = [slice(None)] * len(x)
    for d, start in zip(dims, starts, strict=True):
        low = min(max(int(start), 0), x[d] - size[d])
        found[d] = slice(low, low + size[d])
    return tuple(found)


def _sliced(x: Shape, attrs: DynamicSliceAttrs) -> Shape:
    sizes = dict(zip(attrs.dims, attrs.sizes, strict=True))
    return tuple(sizes.get(d, n) for d, n in enumerate(x))


def _slice_type(attrs: DynamicSliceAttrs, types: Types) -> tuple[TensorType, ...]:
    x, *starts = types
    _check_starts("dynamic_slice", attrs.dims, x, starts)
    if len(attrs.sizes) != len(attrs.dims):
        raise ShapeError(f"dynamic_slice: sizes {attrs.sizes} for dims {attrs.dims}")
    for d, n in zip(attrs.dims, attrs.sizes, strict=True):
        if not 0 <= n <= x.shape[d]:
            raise ShapeError(
                f"dynamic_slice: size {n} along dim {d} of x {x}",
                fix=f"a size from 0 to {x.shape[d]}",
            )
    return (x.with_shape(_sliced(x.shape, attrs)),)


def _slice_ref(attrs: DynamicSliceAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, *starts = operands
    return (x[_window(x.shape, _sliced(x.shape, attrs), attrs.dims, starts)].copy(),)


def _slice_axes(attrs: DynamicSliceAttrs, types: Types) -> LoopForm:
    x, *starts = types
    shape = _sliced(x.shape, attrs)
    axes = axis_vars(shape)
    return LoopForm(
        axes, (read(0, _shifted(axes, x.shape, shape, attrs.dims, starts, 1), x.dtype),)
    )


def _slice_transpose(
    attrs: DynamicSliceAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    ct, (x, *starts) = cts[0], inputs
    if ct is None:
        return None
    zeros = full(x.shape, 0, ct.dtype)
    return dynamic_update_slice(zeros, ct, *starts, dims=attrs.dims)


def _start(rng: np.random.Generator, n: int) -> Array:
    return np.asarray(rng.integers(-2, n + 2), np.int32 if n % 2 else np.int64)


_CASES: tuple[tuple[Shape, tuple[int, ...], tuple[int, ...]], ...] = (
    ((7,), (0,), (3,)), ((5, 4), (0,), (2,)), ((5, 4), (1,), (4,)), ((5, 4), (0, 1), (2, 3)),
    ((2, 6, 3), (1,), (1,)), ((2, 6, 3), (2, 0), (2, 1)), ((4, 3), (), ()), ((4, 3), (0,), (0,)),
)  # fmt: skip


def _slice_samples(rng: np.random.Generator) -> Sequence[Sample]:
    found = [
        Sample(
            (TensorType(dt.float32, x), *(_start(rng, x[d]) for d in dims)),
            DynamicSliceAttrs(dims, sizes),
        )
        for x, dims, sizes in _CASES
    ]
    return found + [
        Sample((TensorType(d, (5, 4)), _start(rng, 5)), DynamicSliceAttrs((0,), (2,)))
        for d in dt.ALL
    ]


def _positions(start: Value, extent: int, length: int, size: int) -> Value:
    """Where the slices of `length` from `start` [axis] lie along a dim: i64[axis, length, 1]."""
    first = _in_range(start, extent - length)
    places = add(
        broadcast_to(reshape(first, shape=(size, 1)), shape=(size, length)),
        iota(shape=(size, length), dim=1, dtype=dt.int64),
    )
    return reshape(places, shape=(size, length, 1))


def _in_range(start: Value, most: int) -> Value:
    """Starts brought into [0, most], as i64."""
    if start.dtype is dt.uint64:  # some are no i64
        return cast(minimum(start, full_like(start, most)), dtype=dt.int64)
    start = cast(start, dtype=dt.int64)
    return minimum(maximum(start, full_like(start, 0)), full_like(start, most))


def _slice_batch(
    attrs: DynamicSliceAttrs, inputs: Values, batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """Starts that have the axis are positions to gather along their dims, one dim at a time."""
    x, *starts = inputs
    x = with_axis(x, batched[0], size)
    common = [i for i, has in enumerate(batched[1:]) if not has]
    if common:
        plain = DynamicSliceAttrs(
            tuple(attrs.dims[i] + 1 for i in common), tuple(attrs.sizes[i] for i in common)
        )
        x = dynamic_slice(x, *(starts[i] for i in common), attrs=plain)
    for i, (d, length) in enumerate(zip(attrs.dims, attrs.sizes, strict=True)):
        if batched[i + 1]:
            places = _positions(starts[i], x.shape[d + 1], length, size)
            order = (0, d + 1, *range(1, d + 1), *range(d + 2, x.type.rank))
            found = gather(permuted(x, order), places, batch_dims=1)
            x = permuted(found, (0, *range(2, d + 2), 1, *range(d + 2, x.type.rank)))
    return (x,)


dynamic_slice = structured(
    "dynamic_slice",
    "indexing",
    "The slice of x with `sizes` along `dims` that begins at the scalar starts, one a dim.",
    arity=None,
    attrs=DynamicSliceAttrs,
    type=_slice_type,
    ref=_slice_ref,
    eager=lambda attrs, ins, outs: kernels.dynamic_slice(ins[0], attrs.dims, attrs.sizes),
    axes=_slice_axes,
    cost=lambda attrs, ins, outs: Cost(0, 2 * nbytes(*outs)),
    linear=(0,),
    transpose=_slice_transpose,
    batch=_slice_batch,
    samples=_slice_samples,
)


def _update_type(attrs: UpdateAttrs, types: Types) -> tuple[TensorType, ...]:
    op = "dynamic_update_slice"
    x, update, *starts = types
    _check_starts(op, attrs.dims, x, starts)
    require_same_dtype(op, ("x", "update"), (x, update))
    wrong = update.rank != x.rank or any(
        m > n if d in attrs.dims else m != n
        for d, (m, n) in enumerate(zip(update.shape, x.shape, strict=True))
    )
    if wrong:
        raise ShapeError(
            f"{op}: update {update} does not fit in x {x} along dims {list(attrs.dims)}",
            fix="the update has the sizes of x, but may be smaller along dims",
        )
    return (x,)


def _update_ref(attrs: UpdateAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, update, *starts = operands
    result = x.copy()
    result[_window(x.shape, update.shape, attrs.dims, starts)] = update
    return (result,)


def _update_axes(attrs: UpdateAttrs, types: Types) -> LoopForm:
    x, update, *starts = types
    axes = axis_vars(update.shape)
    place = _shifted(axes, x.shape, update.shape, attrs.dims, starts, 2)
    return LoopForm(axes, (read(1, axes, update.dtype),), write=place, init=0)


def _update_transpose(
    attrs: UpdateAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    ct, (_, update, *starts) = cts[0], inputs
    if ct is None:
        return None
    if operand == 0:
        zeros = full(update.shape, 0, ct.dtype)
        return dynamic_update_slice(ct, zeros, *starts, attrs=attrs)
    sizes = tuple(update.shape[d] for d in attrs.dims)
    return dynamic_slice(ct, *starts, dims=attrs.dims, sizes=sizes)


def _update_samples(rng: np.random.Generator) -> Sequence[Sample]:
    def sample(d: dt.DType, x: Shape, dims: tuple[int, ...], sizes: tuple[int, ...]) -> Sample:
        update = _sliced(x, DynamicSliceAttrs(dims, sizes))
        starts = (_start(rng, x[i]) for i in dims)
        return Sample((TensorType(d, x), TensorType(d, update), *starts), UpdateAttrs(dims))

    found = [sample(dt.float32, *case) for case in _CASES]
    return found + [sample(d, (5, 4), (0,), (2,)) for d in dt.ALL]


def _update_batch(
    attrs: UpdateAttrs, inputs: Values, batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """Starts that have the axis are positions to scatter to."""
    x, update, *starts = inputs
    x, update = with_axis(x, batched[0], size), with_axis(update, batched[1], size)
    if not any(batched[2:]) or not attrs.dims:
        return (dynamic_update_slice(x, update, *starts, attrs=attrs.with_axis(size)),)
    dims = later(attrs.dims)
    others = tuple(d for d in range(1, x.type.rank) if d not in dims)
    order = (0, *dims, *others)
    lengths = tuple(update.shape[d] for d in dims)
    columns = []
    for i, d in enumerate(dims):
        start = with_axis(starts[i], batched[i + 2], size)
        places = _positions(start, x.shape[d], lengths[i], size)
        shape = (size, *(n if j == i else 1 for j, n in enumerate(lengths)), 1)
        columns.append(broadcast_to(reshape(places, shape=shape), shape=(size, *lengths, 1)))
    index = concat(*columns, dim=len(lengths) + 1)
    put = scatter(permuted(x, order), index, permuted(update, order), batch_dims=1)
    return (permuted(put, tuple(order.index(d) for d in range(x.type.rank))),)


dynamic_update_slice = structured(
    "dynamic_update_slice",
    "indexing",
    "x with `update` in place of the slice of its size that begins at the scalar starts.",
    arity=None,
    attrs=UpdateAttrs,
    type=_update_type,
    ref=_update_ref,
    eager=lambda attrs, ins, outs: kernels.dynamic_update(ins[0], ins[1], attrs.dims),
    axes=_update_axes,
    cost=lambda attrs, ins, outs: Cost(0, 2 * nbytes(ins[1])),
    linear=(0, 1),
    joint=True,
    transpose=_update_transpose,
    batch=_update_batch,
    samples=_update_samples,
)

RECORDS = (dynamic_slice, dynamic_update_slice)
