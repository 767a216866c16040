"""Reductions over dims, which then leave the shape (`spread` brings them back)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import ShapeError
from rung.ir.expr import read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, Facts, LoopForm, Op, Sample
from rung.ir.types import Shape, TensorType
from rung.ops.broadcast import reduce_sum, reshape, spread
from rung.ops.creation import full, iota, zeros_like
from rung.ops.eager.reduction import by_position, by_reduce
from rung.ops.elementwise import (
    cast,
    divide,
    equal,
    isnan,
    logical_or,
    multiply,
    where,
)
from rung.ops.families import (
    BOOLS,
    NUMBERS,
    ReduceAttrs,
    Types,
    add,
    nbytes,
    reduce_axes,
    reduced_shape,
    reduction,
    require_dim,
    require_dtype,
    structured,
)
from rung.ops.movement import concat, cut, move_last
from rung.ops.samples import edge_values

Tangents = Sequence["Value | None"]


# ---- reduce_prod


def _prod(x: Array, axis: tuple[int, ...]) -> Array:
    return np.asarray(np.multiply.reduce(x, axis=axis, dtype=x.dtype))


def _prod_jvp(
    attrs: ReduceAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Tangents
) -> tuple[Value | None, ...]:
    """The product rule on a tree of halves: exact where elements are zero, in any order of
    derivative, and linear work."""
    (dx,) = tangents
    if dx is None:
        return (None,)
    x, dx = _joined(inputs[0], attrs.dims), _joined(dx, attrs.dims)
    last = len(x.shape) - 1
    n = x.shape[last]
    if n == 0:
        return (None,)
    while n > 1:
        half = n // 2
        a, b = cut(x, last, 0, half), cut(x, last, half, 2 * half)
        da, db = cut(dx, last, 0, half), cut(dx, last, half, 2 * half)
        tail, dtail = cut(x, last, 2 * half, n), cut(dx, last, 2 * half, n)
        x, dx = multiply(a, b), add(multiply(da, b), multiply(a, db))
        if n % 2:
            x, dx = concat(x, tail, dim=last), concat(dx, dtail, dim=last)
        n = half + n % 2
    return (reshape(dx, shape=outputs[0].shape),)


def _joined(x: Value, dims: tuple[int, ...]) -> Value:
    """`dims` of x as one last dim."""
    moved = move_last(x, dims)
    kept = len(x.shape) - len(dims)
    length = int(np.prod(moved.shape[kept:], dtype=np.int64))
    return reshape(moved, shape=(*moved.shape[:kept], length))


reduce_prod: Op = reduction(
    "reduce_prod",
    "multiply",
    _prod,
    "Product over `dims`, 1 when there is nothing to multiply; integers wrap around.",
    jvp=_prod_jvp,
    eager=by_reduce(np.multiply),
    facts=Facts(identity=1.0),
)


# ---- reduce_max, reduce_min


def _extremum_jvp(
    attrs: ReduceAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Tangents
) -> tuple[Value | None, ...]:
    (dx,) = tangents
    if dx is None:
        return (None,)
    x, y = inputs[0], outputs[0]
    hit = equal(x, spread(y, attrs.dims, x.shape))
    count = reduce_sum(cast(hit, dtype=x.type.dtype), dims=attrs.dims)
    total = reduce_sum(where(hit, dx, zeros_like(dx)), dims=attrs.dims)
    return (divide(total, count),)


reduce_max: Op = reduction(
    "reduce_max",
    "maximum",
    lambda x, axis: np.maximum.reduce(x, axis=axis),
    "Largest element over `dims`; NaN if one is NaN. Equal largest elements share the derivative "
    "evenly. Dims without elements are a ShapeError.",
    nonempty=True,
    jvp=_extremum_jvp,
    eager=by_reduce(np.maximum),
    facts=Facts(identity=-np.inf),
)

reduce_min: Op = reduction(
    "reduce_min",
    "minimum",
    lambda x, axis: np.minimum.reduce(x, axis=axis),
    "Smallest element over `dims`; NaN if one is NaN. Equal smallest elements share the derivative "
    "evenly. Dims without elements are a ShapeError.",
    nonempty=True,
    jvp=_extremum_jvp,
    eager=by_reduce(np.minimum),
    facts=Facts(identity=np.inf),
)


# ---- reduce_any, reduce_all

reduce_any: Op = reduction(
    "reduce_any",
    "logical_or",
    lambda x, axis: np.logical_or.reduce(x, axis=axis),
    "Whether an element over `dims` is true; false when there is none.",
    dtypes=BOOLS,
    blank={"jvp": "operands are bool"},
    eager=by_reduce(np.logical_or),
    facts=Facts(identity=0.0),
)

reduce_all: Op = reduction(
    "reduce_all",
    "logical_and",
    lambda x, axis: np.logical_and.reduce(x, axis=axis),
    "Whether all elements over `dims` are true; true when there is none.",
    dtypes=BOOLS,
    blank={"jvp": "operands are bool"},
    eager=by_reduce(np.logical_and),
    facts=Facts(identity=1.0),
)


# ---- argmax, argmin


@dataclass(frozen=True)
class DimAttrs(Attrs):
    """The reduced dim, which leaves the shape."""

    dim: int

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dim=self.dim + 1)


def _arg_reduction(name: str, combine: str, function: Any, pick: Op, doc: str) -> Op:
    def type_rule(attrs: DimAttrs, types: Types) -> tuple[TensorType, ...]:
        (x,) = types
        require_dtype(name, "x", x, NUMBERS)
        require_dim(name, attrs.dim, x)
        if x.shape[attrs.dim] == 0:
            raise ShapeError(
                f"{name}: x {x} has no elements along dim {attrs.dim}",
                fix="reduce over a dim that is not empty",
            )
        return (TensorType(dt.int64, reduced_shape(x.shape, (attrs.dim,))),)

    def ref(attrs: DimAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
        wide = operands[0].astype(np.float32) if operands[0].dtype.itemsize == 2 else operands[0]
        return (np.asarray(function(wide, axis=attrs.dim), np.int64),)

    def axes(attrs: DimAttrs, types: Types) -> LoopForm:
        index, gone = reduce_axes(types[0].shape, (attrs.dim,))
        kept = tuple(v for v in index if v not in gone)
        return LoopForm(kept, (read(0, index, types[0].dtype),), gone, combine)

    def decompose(attrs: DimAttrs, inputs: Sequence[Value]) -> Sequence[Value]:
        (x,) = inputs
        length = x.shape[attrs.dim]
        best = spread(pick(x, dims=(attrs.dim,)), (attrs.dim,), x.shape)
        hit = equal(x, best)
        if x.type.dtype.is_float:
            hit = logical_or(hit, isnan(x))
        count = iota(shape=x.shape, dim=attrs.dim, dtype=dt.int64)
        position = where(hit, count, full(x.shape, length, dt.int64))
        return (reduce_min(position, dims=(attrs.dim,)),)

    return structured(
        name,
        "reduction",
        doc,
        arity=1,
        attrs=DimAttrs,
        type=type_rule,
        ref=ref,
        axes=axes,
        cost=lambda attrs, ins, outs: Cost(2 * ins[0].size, nbytes(*ins, *outs)),
        decompose=decompose,
        eager=by_position(name),
        dtypes=NUMBERS,
        samples=_arg_samples,
        blank={"jvp": "the result is an index", "emit": "decomposed into reductions"},
    )


def _arg_samples(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[Shape, int]] = [
        ((1,), 0), ((5,), 0), ((3, 7), 0), ((3, 7), 1), ((2, 3, 5), 1), ((0, 3), 1),
    ]  # fmt: skip
    found: list[Sample] = []
    for dtype in NUMBERS:
        some = cases if dtype.bits >= 32 else cases[3:4]
        found += [Sample((TensorType(dtype, s),), DimAttrs(d)) for s, d in some]
        found.append(Sample((_tied(rng, dtype),), DimAttrs(1)))
    return found


def _tied(rng: np.random.Generator, dtype: DType) -> Array:
    """Rows drawn from few values, so that ties and several NaNs occur."""
    return rng.choice(edge_values(dtype), (20, 9))


argmax: Op = _arg_reduction(
    "argmax",
    "argmax",
    np.argmax,
    reduce_max,
    "Index (i64) of the first largest element along `dim`; the first NaN counts as largest.",
)

argmin: Op = _arg_reduction(
    "argmin",
    "argmin",
    np.argmin,
    reduce_min,
    "Index (i64) of the first smallest element along `dim`; the first NaN counts as smallest.",
)

RECORDS = (
    reduce_sum, reduce_prod, reduce_max, reduce_min, reduce_any, reduce_all, argmax, argmin,
)  # fmt: skip
