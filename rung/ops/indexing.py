"""Reading and writing at positions that are known only when the program runs.

Positions are integers of any width. One that is out of range is brought to the nearest valid one,
on reading and on writing alike, so that each reader and its writer are transposes of each other.
Who wants an error instead lets positions pass through `rung.ops.check.check_range` before, as the
tensor layer does; it also counts negative ones from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import INTEGERS
from rung.core.errors import AxisError, ShapeError
from rung.ir.expr import Expr, const, raw_call, read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Sample, SampleRule
from rung.ir.types import Shape, TensorType
from rung.ops.accurate import added_wide
from rung.ops.batching import all_with_axis, from_front, to_front
from rung.ops.broadcast import broadcast_to, reshape
from rung.ops.creation import full, iota
from rung.ops.eager import indexing as kernels
from rung.ops.elementwise import cast, equal, where
from rung.ops.families import (
    NUMBERS,
    Types,
    axis_vars,
    nbytes,
    require_dim,
    require_dtype,
    require_same_dtype,
    scalar_cast,
    structured,
)
from rung.ops.shorthand import permuted

Values = Sequence[Value]
Cotangents = Sequence["Value | None"]


def clamped(position: Expr, size: int) -> Expr:
    """A data-dependent position brought into [0, size)."""
    last = max(size - 1, 0)
    if position.dtype is dt.uint64:  # some are no i64
        least = raw_call("minimum", (position, const(last, dt.uint64)), dt.uint64)
        return scalar_cast(least, dt.int64)
    low = raw_call("maximum", (scalar_cast(position, dt.int64), const(0)), dt.int64)
    return raw_call("minimum", (low, const(last)), dt.int64)


def _clip(index: Array, size: int) -> Array:
    last = max(size - 1, 0)
    if index.dtype == np.uint64:
        return np.minimum(index, np.uint64(last)).astype(np.int64)
    return np.clip(index.astype(np.int64), 0, last)


def _require_nonempty(op: str, operand: str, type: TensorType, dims: Sequence[int], n: int) -> None:
    empty = [d for d in dims if type.shape[d] == 0]
    if n and empty:
        raise ShapeError(
            f"{op}: {operand} {type} has no elements along dim {empty[0]}, so no index is valid"
        )


def _moved(attrs: Attrs, ins: Types, outs: Types) -> Cost:
    return Cost(0, 2 * nbytes(*outs) + nbytes(ins[1]))


# ---- take: whole slices along one dim


@dataclass(frozen=True)
class DimAttrs(Attrs):
    """The dim that is indexed."""

    dim: int

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dim=self.dim + 1)


def _take_type(attrs: DimAttrs, types: Types) -> tuple[TensorType, ...]:
    x, index = types
    require_dtype("take", "index", index, INTEGERS)
    require_dim("take", attrs.dim, x)
    _require_nonempty("take", "x", x, (attrs.dim,), index.size)
    return (x.with_shape(x.shape[: attrs.dim] + index.shape + x.shape[attrs.dim + 1 :]),)


def _take_ref(attrs: DimAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, index = operands
    return (np.take(x, _clip(index, x.shape[attrs.dim]), axis=attrs.dim),)


def _take_axes(attrs: DimAttrs, types: Types) -> LoopForm:
    x, index = types
    d = attrs.dim
    axes = axis_vars(x.shape[:d] + index.shape + x.shape[d + 1 :])
    position = read(1, axes[d : d + index.rank], index.dtype)
    place = (*axes[:d], clamped(position, x.shape[d]), *axes[d + index.rank :])
    return LoopForm(axes, (read(0, place, x.dtype),))


def _take_transpose(attrs: DimAttrs, inputs: Values, cts: Cotangents, operand: int) -> Value | None:
    """Add the slices of ct at their positions: dim to the front, scatter, and back."""
    ct, (x, index) = cts[0], inputs
    if ct is None:
        return None
    d, k = attrs.dim, index.type.rank
    order = (*range(d, d + k), *range(d), *range(d + k, ct.type.rank))
    rest = x.shape[:d] + x.shape[d + 1 :]
    summed = added_at((x.shape[d], *rest), column(index), permuted(ct, order))
    return from_front(summed, d)


def column(index: Value) -> Value:
    """`index` with a last dim of 1: positions along one dim, as gather and scatter take them."""
    return reshape(index, shape=(*index.shape, 1))


_INDEX_DTYPES = (dt.int32, dt.int64, dt.uint8, dt.int8)


def _positions(rng: np.random.Generator, shape: Shape, size: int, dtype: dt.DType) -> Array:
    """Positions in range, and now and then one beside it."""
    low = 0 if dtype.kind == "u" else -1
    return rng.integers(low, size + 1, size=shape).astype(dtype.numpy)


def _take_samples(rng: np.random.Generator) -> Sequence[Sample]:
    cases: list[tuple[Shape, int, Shape]] = [
        ((5,), 0, (3,)), ((5,), 0, ()), ((7, 4), 0, (2, 3)), ((4, 7), 1, (5,)),
        ((2, 5, 3), 1, (4, 2)), ((4, 3), 0, (0,)), ((1, 3), 0, (4,)), ((4, 0), 0, (3,)),
    ]  # fmt: skip
    found = []
    for i, (shape, dim, places) in enumerate(cases):
        positions = _positions(rng, places, shape[dim], _INDEX_DTYPES[i % 4])
        found.append(Sample((TensorType(dt.float32, shape), positions), DimAttrs(dim)))
    index = _positions(rng, (4,), 5, dt.int32)
    found += [Sample((TensorType(d, (5, 3)), index), DimAttrs(0)) for d in dt.ALL]
    return found


def _take_batch(
    attrs: DimAttrs, inputs: Values, batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    x, index = inputs
    d = attrs.dim
    if not batched[1]:
        return (take(x, index, dim=d + 1),)
    if not batched[0]:
        return (to_front(take(x, index, dim=d), d),)
    k = index.type.rank - 1
    rest = (*range(1, d + 1), *range(d + 2, x.type.rank))
    found = gather(permuted(x, (0, d + 1, *rest)), column(index), batch_dims=1)
    before, after = range(1 + k, 1 + k + d), range(1 + k + d, found.type.rank)
    return (permuted(found, (0, *before, *range(1, 1 + k), *after)),)


take = structured(
    "take",
    "indexing",
    "The slices of x along `dim` at the positions `index`, whose dims stand in place of `dim`.",
    arity=2,
    attrs=DimAttrs,
    type=_take_type,
    ref=_take_ref,
    eager=lambda attrs, ins, outs: kernels.take(ins, outs[0], attrs.dim),
    axes=_take_axes,
    cost=_moved,
    linear=(0,),
    transpose=_take_transpose,
    batch=_take_batch,
    samples=_take_samples,
)


# ---- take_along: one position for each element


def _along_type(attrs: DimAttrs, types: Types) -> tuple[TensorType, ...]:
    x, index = types
    require_dtype("take_along", "index", index, INTEGERS)
    require_dim("take_along", attrs.dim, x)
    d = attrs.dim
    if x.shape[:d] != index.shape[:d] or x.shape[d + 1 :] != index.shape[d + 1 :]:
        raise ShapeError(
            f"take_along: x {x} and index {index} differ in another dim than {d}",
            fix="broadcast both to the same sizes but for the dim that is indexed",
        )
    _require_nonempty("take_along", "x", x, (d,), index.size)
    return (x.with_shape(index.shape),)


def _along_ref(attrs: DimAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, index = operands
    return (np.take_along_axis(x, _clip(index, x.shape[attrs.dim]), axis=attrs.dim),)


def _along_axes(attrs: DimAttrs, types: Types) -> LoopForm:
    x, index = types
    d = attrs.dim
    axes = axis_vars(index.shape)
    place = (*axes[:d], clamped(read(1, axes, index.dtype), x.shape[d]), *axes[d + 1 :])
    return LoopForm(axes, (read(0, place, x.dtype),))


def _along_transpose(
    attrs: DimAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    """The dim goes last, all others are shared by positions and elements."""
    ct, (x, index) = cts[0], inputs
    if ct is None:
        return None
    rank, d = x.type.rank, attrs.dim
    last = (*range(d), *range(d + 1, rank), d)
    back = (*range(d), rank - 1, *range(d, rank - 1))
    shape = tuple(x.shape[i] for i in last)
    positions = column(permuted(index, last))
    summed = added_at(shape, positions, permuted(ct, last), batch_dims=rank - 1)
    return permuted(summed, back)


def _along_samples(rng: np.random.Generator) -> Sequence[Sample]:
    cases: list[tuple[Shape, int, int]] = [
        ((5,), 0, 3), ((4, 3), 0, 6), ((4, 3), 1, 2), ((2, 3, 4), 1, 5), ((2, 3), 1, 0),
    ]  # fmt: skip
    found = []
    for i, (shape, dim, n) in enumerate(cases):
        index = _positions(
            rng, (*shape[:dim], n, *shape[dim + 1 :]), shape[dim], _INDEX_DTYPES[i % 4]
        )
        found.append(Sample((TensorType(dt.float32, shape), index), DimAttrs(dim)))
    index = _positions(rng, (4, 3), 5, dt.int64)
    found += [Sample((TensorType(d, (5, 3)), index), DimAttrs(0)) for d in dt.ALL]
    return found


take_along = structured(
    "take_along",
    "indexing",
    "For each element of `index`, the element of x at that position along `dim`, the other "
    "positions being its own.",
    arity=2,
    attrs=DimAttrs,
    type=_along_type,
    ref=_along_ref,
    eager=lambda attrs, ins, outs: kernels.take_along(ins, attrs.dim),
    axes=_along_axes,
    cost=_moved,
    linear=(0,),
    transpose=_along_transpose,
    samples=_along_samples,
)


# ---- gather and scatter: positions along the leading dims


@dataclass(frozen=True)
class BatchAttrs(Attrs):
    """`batch_dims`: how many first dims x, index and updates have in common."""

    batch_dims: int = 0

    def with_axis(self, size: int) -> Attrs:
        return replace(self, batch_dims=self.batch_dims + 1)


@dataclass(frozen=True)
class _Places:
    """Dims of x[batch…, indexed…, rest…], index[batch…, many…, k] and the updates
    [batch…, many…, rest…]."""

    batch: Shape
    many: Shape
    indexed: Shape
    rest: Shape

    @property
    def updates(self) -> Shape:
        return self.batch + self.many + self.rest


def places_of(op: str, batch_dims: int, x: TensorType, index: TensorType) -> _Places:
    """What the dims of x and index are. Raises ShapeError, DTypeError, AxisError."""
    require_dtype(op, "index", index, INTEGERS)
    if not 0 <= batch_dims < index.rank or batch_dims > x.rank:
        raise AxisError(f"{op}: batch_dims={batch_dims} with x {x} and index {index}")
    k = index.shape[-1]
    if batch_dims + k > x.rank:
        raise ShapeError(
            f"{op}: index {index} addresses {k} dims, but x {x} has {x.rank - batch_dims} of them",
            fix="the last dim of index is the number of dims of x that are addressed",
        )
    if x.shape[:batch_dims] != index.shape[:batch_dims]:
        raise ShapeError(
            f"{op}: x {x} and index {index} differ in their first {batch_dims} dims",
            fix="the dims counted by batch_dims must be equal",
        )
    indexed = range(batch_dims, batch_dims + k)
    places = _Places(
        x.shape[:batch_dims],
        index.shape[batch_dims:-1],
        tuple(x.shape[d] for d in indexed),
        x.shape[batch_dims + k :],
    )
    _require_nonempty(op, "x", x, indexed, TensorType(x.dtype, places.updates).size)
    return places


def _place_axes(
    places: _Places, operand: int, dtype: dt.DType
) -> tuple[tuple[Expr, ...], LoopForm]:
    """Where in x the element of `updates` at the loop variables belongs, and the loop."""
    axes = axis_vars(places.updates)
    b, m = len(places.batch), len(places.many)
    positions = (
        clamped(read(operand, (*axes[: b + m], const(i)), dtype), n)
        for i, n in enumerate(places.indexed)
    )
    return (*axes[:b], *positions, *axes[b + m :]), LoopForm(axes)


def numpy_place(places: _Places, index: Array) -> tuple[Array, ...]:
    """NumPy advanced index of the elements of x that the rows of `index` address."""
    b, m = len(places.batch), len(places.many)
    batch = tuple(
        np.arange(n).reshape((-1,) + (1,) * (b + m - d - 1)) for d, n in enumerate(places.batch)
    )
    return (*batch, *(_clip(index[..., i], n) for i, n in enumerate(places.indexed)))


def _gather_type(attrs: BatchAttrs, types: Types) -> tuple[TensorType, ...]:
    x, index = types
    return (x.with_shape(places_of("gather", attrs.batch_dims, x, index).updates),)


def types_of(operands: Sequence[Array]) -> list[TensorType]:
    """The types of arrays."""
    return [TensorType(dt.as_dtype(a.dtype), a.shape) for a in operands]


def _gather_ref(attrs: BatchAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, index = operands
    places = places_of("gather", attrs.batch_dims, *types_of(operands))
    return (np.broadcast_to(x[numpy_place(places, index)], places.updates).copy(),)


def _gather_axes(attrs: BatchAttrs, types: Types) -> LoopForm:
    x, index = types
    place, form = _place_axes(places_of("gather", attrs.batch_dims, x, index), 1, index.dtype)
    return LoopForm(form.axes, (read(0, place, x.dtype),))


def _gather_transpose(
    attrs: BatchAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    ct, (x, index) = cts[0], inputs
    if ct is None:
        return None
    return added_at(x.shape, index, ct, batch_dims=attrs.batch_dims)


_PLACE_CASES: tuple[tuple[Shape, Shape, int], ...] = (
    ((5,), (3, 1), 0), ((5, 4), (3, 1), 0), ((5, 4), (3, 2), 0), ((3, 4, 2), (2, 2, 2), 0),
    ((2, 5), (2, 3, 1), 1), ((2, 5, 3), (2, 4, 1), 1), ((3, 2, 4), (3, 2, 2, 1), 2),
    ((4, 3), (0, 1), 0), ((4, 3), (2,), 0), ((4, 3), (5, 0), 0), ((4, 0), (3, 1), 0),
)  # fmt: skip


def _place_index(rng: np.random.Generator, x: Shape, index: Shape, batch: int, i: int) -> Array:
    columns = [_positions(rng, index[:-1], n, _INDEX_DTYPES[i % 4]) for n in x[batch:][: index[-1]]]
    return np.stack(columns, -1) if columns else np.zeros(index, np.int32)


def _gather_samples(rng: np.random.Generator) -> Sequence[Sample]:
    found = []
    for i, (x, shape, batch) in enumerate(_PLACE_CASES):
        index = _place_index(rng, x, shape, batch, i)
        found.append(Sample((TensorType(dt.float32, x), index), BatchAttrs(batch)))
    index = _place_index(rng, (5, 4), (3, 2), 0, 0)
    found += [Sample((TensorType(d, (5, 4)), index), BatchAttrs()) for d in dt.ALL]
    return found


def _gather_batch(
    attrs: BatchAttrs, inputs: Values, batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """Positions that have the axis, in an array that has no batch dims, are but more positions."""
    if not batched[0] and not attrs.batch_dims:
        return (gather(*inputs, attrs=attrs),)
    return (gather(*all_with_axis(inputs, batched, size), attrs=attrs.with_axis(size)),)


gather = structured(
    "gather",
    "indexing",
    "x at the positions `index`: the last dim of index holds a position for each of the first dims "
    "of x after the batch dims; the result is [batch…, other dims of index…, other dims of x…].",
    arity=2,
    attrs=BatchAttrs,
    type=_gather_type,
    ref=_gather_ref,
    eager=lambda attrs, ins, outs: kernels.gather(ins, outs[0], attrs.batch_dims),
    axes=_gather_axes,
    cost=_moved,
    linear=(0,),
    transpose=_gather_transpose,
    batch=_gather_batch,
    samples=_gather_samples,
)


def scatter_type(op: str, attrs: BatchAttrs, types: Types) -> tuple[TensorType, ...]:
    """The type of x. Raises ShapeError, DTypeError where the updates do not fit."""
    x, index, updates = types
    places = places_of(op, attrs.batch_dims, x, index)
    require_same_dtype(op, ("x", "updates"), (x, updates))
    if updates.shape != places.updates:
        raise ShapeError(
            f"{op}: updates {updates} for x {x} and index {index}",
            fix=f"updates must be {x.with_shape(places.updates)}",
        )
    return (x,)


def scatter_axes(combine: str | None, attrs: BatchAttrs, types: Types) -> LoopForm:
    """Each update goes to its place in x, and is combined with what is there."""
    x, index, updates = types
    place, form = _place_axes(places_of("scatter", attrs.batch_dims, x, index), 1, index.dtype)
    body = read(2, form.axes, updates.dtype)
    return LoopForm(form.axes, (body,), combine=combine, write=place, init=0)


def scatter_samples(dtypes: Sequence[dt.DType]) -> SampleRule:
    """Samples of an op that writes at positions, for `dtypes`."""
    def rule(rng: np.random.Generator) -> Sequence[Sample]:
        found = []
        for i, (x, shape, batch) in enumerate(_PLACE_CASES):
            index = _place_index(rng, x, shape, batch, i)
            updates = (*shape[:-1], *x[batch + shape[-1] :])
            types = TensorType(dt.float32, x), index, TensorType(dt.float32, updates)
            found.append(Sample(types, BatchAttrs(batch)))
        index = _place_index(rng, (5, 4), (6, 1), 0, 0)
        found += [
            Sample((TensorType(d, (5, 4)), index, TensorType(d, (6, 4))), BatchAttrs())
            for d in dtypes
        ]
        return found

    return rule


def _scatter_ref(attrs: BatchAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, index, updates = operands
    places = places_of("scatter", attrs.batch_dims, *types_of((x, index)))
    result = x.copy()
    lead = places.batch + places.many
    place = tuple(np.broadcast_to(p, lead) for p in numpy_place(places, index))
    for row in np.ndindex(lead):  # in order, so that the later one wins
        result[tuple(p[row] for p in place)] = updates[row]
    return (result,)


def _scatter_transpose(
    attrs: BatchAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    """x keeps its cotangent where nothing was written; an update has that of its place, unless a
    later one was written there."""
    ct, (x, index, updates) = cts[0], inputs
    if ct is None:
        return None
    if operand == 0:
        return scatter(ct, index, full(updates.shape, 0, ct.dtype), attrs=attrs)
    lead, indexed = index.shape[:-1], attrs.batch_dims + index.shape[-1]
    count = TensorType(dt.int64, lead).size
    number = reshape(iota(shape=(count,), dim=0, dtype=dt.int64), shape=lead)
    last = scatter(full(x.shape[:indexed], -1, dt.int64), index, number, attrs=attrs)
    wins = equal(gather(last, index, attrs=attrs), number)
    ones = (1,) * (updates.type.rank - len(lead))
    wins = broadcast_to(reshape(wins, shape=lead + ones), shape=updates.shape)
    taken = gather(ct, index, attrs=attrs)
    return where(wins, taken, full(updates.shape, 0, ct.dtype))


scatter = structured(
    "scatter",
    "indexing",
    "x with `updates` written at the positions `index` (as for gather). Of several updates of one "
    "place the last stays.",
    arity=3,
    attrs=BatchAttrs,
    type=lambda attrs, types: scatter_type("scatter", attrs, types),
    ref=_scatter_ref,
    eager=lambda attrs, ins, outs: kernels.scatter(ins, attrs.batch_dims),
    axes=lambda attrs, types: scatter_axes(None, attrs, types),
    cost=lambda attrs, ins, outs: Cost(0, 2 * nbytes(ins[2]) + nbytes(ins[1])),
    linear=(0, 2),
    joint=True,
    transpose=_scatter_transpose,
    samples=scatter_samples(dt.ALL),
)


_SUMS = tuple(d for d in NUMBERS if dt.accumulator(d) is d)


def _add_type(attrs: BatchAttrs, types: Types) -> tuple[TensorType, ...]:
    require_dtype("scatter_add", "x", types[0], _SUMS)
    return scatter_type("scatter_add", attrs, types)


def _add_ref(attrs: BatchAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, index, updates = operands
    places = places_of("scatter_add", attrs.batch_dims, *types_of((x, index)))
    first = np.zeros(places.batch + places.many, np.int64)  # also where no dim is addressed
    place = (first, *numpy_place(places, index))

    def added(x: Array, updates: Array) -> Array:
        result = x.copy()
        np.add.at(result[None], place, updates)
        return result

    return (added_wide(added, x, updates),)


def _add_transpose(
    attrs: BatchAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    ct = cts[0]
    if ct is None or operand == 0:
        return ct
    return gather(ct, inputs[1], attrs=attrs)


scatter_add = structured(
    "scatter_add",
    "indexing",
    "x with `updates` added at the positions `index` (as for gather); updates of one place add up.",
    arity=3,
    attrs=BatchAttrs,
    type=_add_type,
    ref=_add_ref,
    eager=lambda attrs, ins, outs: kernels.combined(np.add, ins, attrs.batch_dims),
    axes=lambda attrs, types: scatter_axes("add", attrs, types),
    cost=lambda attrs, ins, outs: Cost(ins[2].size, 3 * nbytes(ins[2]) + nbytes(ins[1])),
    linear=(0, 2),
    joint=True,
    transpose=_add_transpose,
    samples=scatter_samples(_SUMS),
    dtypes=_SUMS,
)


def added_at(shape: Shape, index: Value, updates: Value, batch_dims: int = 0) -> Value:
    """Zeros of `shape` with `updates` added at `index`; 16-bit floats are summed in f32."""
    wide = dt.accumulator(updates.dtype)
    zeros = full(shape, 0, wide)
    summed = scatter_add(zeros, index, cast(updates, dtype=wide), batch_dims=batch_dims)
    return cast(summed, dtype=updates.dtype)


RECORDS = (take, take_along, gather, scatter, scatter_add)
