"""Sorting along a dim. Sorts are stable; NaN counts as greater than every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log2

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import ShapeError
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Sample, SampleRule
from rung.ir.types import Shape, TensorType
from rung.ops.eager import sorting as kernels
from rung.ops.families import Types, axis_vars, is_narrow, nbytes, require_dim, structured
from rung.ops.indexing import take_along
from rung.ops.samples import edge_values

Values = Sequence[Value]


@dataclass(frozen=True)
class SortAttrs(Attrs):
    """The dim that is sorted, from the smallest or, `descending`, from the greatest."""

    dim: int
    descending: bool = False

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dim=self.dim + 1)


@dataclass(frozen=True)
class TopAttrs(Attrs):
    """How many elements along which dim: the greatest, or the smallest, first."""

    k: int
    dim: int
    largest: bool = True

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dim=self.dim + 1)


def _order(x: Array, dim: int, descending: bool) -> Array:
    """Stable order along `dim`; equal elements stay in order both ways."""
    wide = x.astype(np.float32) if is_narrow(x.dtype) else x
    if not descending:
        return np.argsort(wide, axis=dim, kind="stable")
    last_first = np.argsort(np.flip(wide, dim), axis=dim, kind="stable")
    return np.asarray(x.shape[dim] - 1 - np.flip(last_first, dim))


def _sort_axes(attrs: SortAttrs | TopAttrs, types: Types) -> LoopForm:
    """One operand and result dim a loop variable each; the sorted one holds the whole dim."""
    axes = axis_vars(types[0].shape)
    return LoopForm(axes, opaque=(axes[attrs.dim],))


def _sort_cost(attrs: SortAttrs | TopAttrs, ins: Types, outs: Types) -> Cost:
    n = ins[0].shape[attrs.dim]
    return Cost(int(ins[0].size * log2(max(n, 2))), nbytes(*ins, *outs))


def _tied(d: dt.DType, shape: Shape, rng: np.random.Generator) -> Array:
    """Few distinct values, so that many are equal (no derivative there: not for float results)."""
    return rng.integers(0, 4, size=shape).astype(d.numpy)


_CASES: tuple[tuple[Shape, int], ...] = (
    ((1,), 0), ((9,), 0), ((3, 7), 0), ((3, 7), 1), ((2, 5, 3), 1), ((0, 3), 0), ((3, 0), 0),
    ((2, 70), 1),
)  # fmt: skip


def _sort_samples(tied: tuple[dt.DType, ...]) -> SampleRule:
    return lambda rng: _sort_cases(rng, tied)


def _sort_cases(rng: np.random.Generator, tied: tuple[dt.DType, ...]) -> list[Sample]:
    found = []
    for descending in (False, True):
        for d in dt.ALL:
            cases = _CASES if d in (dt.float32, dt.int64) else _CASES[2:4]
            found += [Sample((TensorType(d, s),), SortAttrs(i, descending)) for s, i in cases]
            if d in tied:
                found.append(Sample((_tied(d, (4, 11), rng),), SortAttrs(1, descending)))
            found.append(Sample((edge_values(d),), SortAttrs(0, descending)))
    return found


def _sort_type(name: str) -> Callable[[SortAttrs, Types], tuple[TensorType, ...]]:
    def rule(attrs: SortAttrs, types: Types) -> tuple[TensorType, ...]:
        (x,) = types
        require_dim(name, attrs.dim, x)
        return (x if name == "sort" else x.with_dtype(dt.int64),)

    return rule


def _sort_ref(attrs: SortAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    order = _order(x, attrs.dim, attrs.descending)
    return (np.take_along_axis(x, order, axis=attrs.dim),)


def _sort_jvp(
    attrs: SortAttrs, inputs: Values, outputs: Values, tangents: Sequence[Value | None]
) -> tuple[Value | None, ...]:
    """Tangents move with their elements."""
    (x,), (dx,) = inputs, tangents
    if dx is None:
        return (None,)
    return (take_along(dx, argsort(x, attrs=attrs), dim=attrs.dim),)


sort = structured(
    "sort",
    "sorting",
    "The elements along `dim` in rising or falling order; equal ones stay in order.",
    arity=1,
    attrs=SortAttrs,
    type=_sort_type("sort"),
    ref=_sort_ref,
    eager=lambda attrs, ins, outs: kernels.sorted_values(ins[0], attrs.dim, attrs.descending),
    axes=_sort_axes,
    cost=_sort_cost,
    jvp=_sort_jvp,
    samples=_sort_samples((dt.bool_, *dt.INTEGERS)),
    blank={"emit": "an algorithm of the kernel level"},
)

argsort = structured(
    "argsort",
    "sorting",
    "The positions (i64) along `dim` of the elements that `sort` puts first, second, …",
    arity=1,
    attrs=SortAttrs,
    type=_sort_type("argsort"),
    ref=lambda attrs, operands: (_order(operands[0], attrs.dim, attrs.descending),),
    eager=lambda attrs, ins, outs: kernels.order(ins[0], attrs.dim, attrs.descending),
    axes=_sort_axes,
    cost=_sort_cost,
    samples=_sort_samples(dt.ALL),
    blank={"emit": "an algorithm of the kernel level", "jvp": "the result is integers"},
)


def _top_type(attrs: TopAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    require_dim("top_k", attrs.dim, x)
    n = x.shape[attrs.dim]
    if not 0 <= attrs.k <= n:
        raise ShapeError(
            f"top_k: k={attrs.k} along dim {attrs.dim} of x {x}", fix=f"k from 0 to {n}"
        )
    shape = (*x.shape[: attrs.dim], attrs.k, *x.shape[attrs.dim + 1 :])
    return (x.with_shape(shape), TensorType(dt.int64, shape))


def _top_ref(attrs: TopAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    order = _order(x, attrs.dim, attrs.largest)
    first = np.take(order, np.arange(attrs.k), axis=attrs.dim)
    return np.take_along_axis(x, first, axis=attrs.dim), first


def _top_jvp(
    attrs: TopAttrs, inputs: Values, outputs: Values, tangents: Sequence[Value | None]
) -> tuple[Value | None, ...]:
    (dx,) = tangents
    return (None if dx is None else take_along(dx, outputs[1], dim=attrs.dim), None)


def _top_samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for d in dt.ALL:
        found.append(Sample((edge_values(d),), TopAttrs(2, 0)))
        found.append(Sample((TensorType(d, (4, 11)),), TopAttrs(3, 1)))
        if not d.is_float:
            found.append(Sample((_tied(d, (4, 11), rng),), TopAttrs(5, 1)))
    for (shape, dim), largest in zip(_CASES, (True, False) * 4, strict=True):
        x = TensorType(dt.float32, shape)
        counts = sorted({0, min(1, shape[dim]), shape[dim]})
        found += [Sample((x,), TopAttrs(k, dim, largest)) for k in counts]
    return found


top_k = structured(
    "top_k",
    "sorting",
    "The k greatest (or smallest) elements along `dim`, first the extreme one, and their positions "
    "(i64); of equal ones the first.",
    arity=1,
    attrs=TopAttrs,
    type=_top_type,
    ref=_top_ref,
    eager=lambda attrs, ins, outs: kernels.top(ins[0], attrs.k, attrs.dim, attrs.largest),
    axes=_sort_axes,
    cost=_sort_cost,
    jvp=_top_jvp,
    samples=_top_samples,
    blank={"emit": "an algorithm of the kernel level"},
)

RECORDS = (sort, argsort, top_k)
