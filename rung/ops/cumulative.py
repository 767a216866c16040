"""Running sums and products along a dim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Op, Sample
from rung.ir.types import Shape, TensorType
from rung.ops.accurate import added_wide
from rung.ops.eager.reduction import cumulative
from rung.ops.elementwise import multiply
from rung.ops.families import (
    NUMBERS,
    Types,
    add,
    axis_vars,
    is_narrow,
    nbytes,
    reads,
    require_dim,
    require_dtype,
    structured,
    widened,
)
from rung.ops.movement import flip, pad
from rung.ops.samples import edge_values

Values = Sequence[Value]


@dataclass(frozen=True)
class ScanAttrs(Attrs):
    """The dim along which elements are combined."""

    dim: int

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dim=self.dim + 1)


def _samples(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[Shape, int]] = [
        ((1,), 0), ((5,), 0), ((3, 7), 0), ((3, 7), 1), ((2, 3, 5), 1), ((0, 3), 0), ((0, 3), 1),
        ((2, 130), 1),
    ]  # fmt: skip
    found = [
        Sample((TensorType(d, shape),), ScanAttrs(dim))
        for d in NUMBERS
        for shape, dim in (cases if d.bits >= 32 else cases[1:4])
    ]
    with_zeros = np.array([[2.0, 0.0, 3.0, 4.0], [0.0, 1.5, 0.0, 2.0], [1.0, 2.0, -3.0, 0.5]])
    found += [Sample((with_zeros.astype(d.numpy),), ScanAttrs(1)) for d in dt.FLOATS]
    return found + [Sample((edge_values(d),), ScanAttrs(0)) for d in NUMBERS]


def _cumulative(
    name: str, combine: str, function: Callable[..., Array], doc: str, **columns: Any
) -> Op:
    def type_rule(attrs: ScanAttrs, types: Types) -> tuple[TensorType, ...]:
        require_dtype(name, "x", types[0], NUMBERS)
        require_dim(name, attrs.dim, types[0])
        return (types[0],)

    def ref(attrs: ScanAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = operands
        wide = np.float32 if is_narrow(x.dtype) else x.dtype
        if x.dtype == np.float32:  # as the kernels do
            wide = np.float64
        with np.errstate(all="ignore"):
            result = function(x.astype(wide), axis=attrs.dim)
            return (np.asarray(result).astype(x.dtype),)

    def axes(attrs: ScanAttrs, types: Types) -> LoopForm:
        loop = axis_vars(types[0].shape)
        (element,) = reads(types, loop)
        return LoopForm(loop, (widened(element),), combine=combine, scan=loop[attrs.dim])

    return structured(
        name, "cumulative", doc, arity=1, attrs=ScanAttrs, type=type_rule, ref=ref, axes=axes,
        cost=lambda attrs, ins, outs: Cost(ins[0].size, nbytes(*ins, *outs)), samples=_samples,
        dtypes=NUMBERS, **columns,
    )  # fmt: skip


def _sum_transpose(
    attrs: ScanAttrs, inputs: Values, cts: Sequence[Value | None], operand: int
) -> Value | None:
    """Each element is in all later sums: sum the cotangent from the end."""
    (ct,) = cts
    if ct is None:
        return None
    dims = (attrs.dim,)
    return flip(cumulative_sum(flip(ct, dims=dims), attrs=attrs), dims=dims)


def _running_sums(x: Array, axis: int) -> Array:
    return added_wide(lambda a: np.cumsum(a, axis, a.dtype), x)


def _running_products(x: Array, axis: int) -> Array:
    return np.cumprod(x, axis, x.dtype)


cumulative_sum = _cumulative(
    "cumulative_sum",
    "add",
    _running_sums,
    "Sums of the elements up to and including each, along `dim`; f32 is summed in f64.",
    eager=cumulative(np.add),
    linear=(0,),
    joint=True,
    transpose=_sum_transpose,
)


def _shifted(x: Value, dim: int, by: int, first: float) -> Value:
    """x moved `by` places towards the end of `dim`; `first` fills the places it leaves."""
    low = tuple(by if d == dim else 0 for d in range(x.type.rank))
    return pad(x, low=low, high=tuple(-n for n in low), value=first)


def _product_jvp(
    attrs: ScanAttrs, inputs: Values, outputs: Values, tangents: Sequence[Value | None]
) -> tuple[Value | None, ...]:
    """The derivative of the products built by doubling, `y[i] *= y[i - 2^s]`: about log2(n) steps
    and no division, so it is exact beside zeros and can itself be differentiated."""
    (x,), (dx,) = inputs, tangents
    if dx is None:
        return (None,)
    y, dy, by = x, dx, 1
    while by < x.shape[attrs.dim]:
        before, d_before = _shifted(y, attrs.dim, by, 1), _shifted(dy, attrs.dim, by, 0)
        dy = add(multiply(dy, before), multiply(y, d_before))
        y, by = multiply(y, before), 2 * by
    return (dy,)


cumulative_prod = _cumulative(
    "cumulative_prod",
    "multiply",
    _running_products,
    "Products of the elements up to and including each, along `dim`.",
    eager=cumulative(np.multiply),
    jvp=_product_jvp,
)

RECORDS = (cumulative_sum, cumulative_prod)
