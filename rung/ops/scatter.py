"""Updates combined with what stands at their positions: the largest, the smallest, the product.

Positions are those of `rung.ops.indexing.gather`. Sums are `scatter_add` there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rung.ir.node import Value
from rung.ir.op import Array, Cost, Op
from rung.ir.types import TensorType
from rung.ops.creation import full_like, zeros_like
from rung.ops.eager import indexing as kernels
from rung.ops.elementwise import cast, divide, equal, multiply, subtract, where
from rung.ops.families import NUMBERS, Types, is_narrow, nbytes, require_dtype, structured
from rung.ops.indexing import (
    BatchAttrs,
    gather,
    numpy_place,
    places_of,
    scatter_add,
    scatter_axes,
    scatter_samples,
    scatter_type,
    types_of,
)

Values = Sequence[Value]
Tangents = Sequence["Value | None"]
Jvp = Callable[[BatchAttrs, Values, Values, Tangents], "tuple[Value | None, ...]"]
_DTYPES = tuple(d for d in NUMBERS if not is_narrow(np.dtype(d.numpy)))


def _combining(name: str, combine: str, function: np.ufunc, doc: str, jvp: Jvp) -> Op:
    def type_rule(attrs: BatchAttrs, types: Types) -> tuple[TensorType, ...]:
        require_dtype(name, "x", types[0], _DTYPES)
        return scatter_type(name, attrs, types)

    def ref(attrs: BatchAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
        x, index, updates = operands
        places = places_of(name, attrs.batch_dims, *types_of((x, index)))
        result = x.copy()
        first = np.zeros(places.batch + places.many, np.int64)  # also where no dim is addressed
        with np.errstate(all="ignore"):
            function.at(result[None], (first, *numpy_place(places, index)), updates)
        return (result,)

    return structured(
        name,
        "indexing",
        doc,
        arity=3,
        attrs=BatchAttrs,
        type=type_rule,
        ref=ref,
        axes=lambda attrs, types: scatter_axes(combine, attrs, types),
        eager=lambda attrs, ins, outs: kernels.combined(function, ins, attrs.batch_dims),
        cost=lambda attrs, ins, outs: Cost(ins[2].size, 3 * nbytes(ins[2]) + nbytes(ins[1])),
        jvp=jvp,
        samples=scatter_samples(_DTYPES),
        dtypes=_DTYPES,
    )


def _parts(
    attrs: BatchAttrs, inputs: Values, tangents: Tangents, weights: tuple[Value, Value]
) -> Value | None:
    """The tangents of x and of the updates times their weights, added up at each place."""
    dx, du = tangents
    own = zeros_like(inputs[0]) if dx is None else multiply(dx, weights[0])
    return own if du is None else scatter_add(own, inputs[1], multiply(du, weights[1]), attrs=attrs)


def _extremum_jvp(
    attrs: BatchAttrs, inputs: Values, outputs: Values, tangents: Tangents
) -> tuple[Value | None, ...]:
    """Those that are the result share the derivative in equal parts."""
    (x, index, updates), (y,) = inputs, outputs
    dx, _, du = tangents
    if dx is None and du is None:
        return (None,)
    at = gather(y, index, attrs=attrs)
    own, given = (cast(equal(a, b), dtype=x.dtype) for a, b in ((x, y), (updates, at)))
    found = _parts(attrs, inputs, (dx, du), (own, given))
    count = scatter_add(own, index, given, attrs=attrs)
    none = equal(count, zeros_like(count))  # NaN equals nothing
    assert found is not None
    return (divide(found, where(none, full_like(count, 1), count)),)


def _product_jvp(
    attrs: BatchAttrs, inputs: Values, outputs: Values, tangents: Tangents
) -> tuple[Value | None, ...]:
    """Each tangent times the product of all others at its place: that of the factors that are not
    zero, times the one other that is. Exact beside zeros, in first and second derivatives."""
    x, index, updates = inputs
    dx, _, du = tangents
    if dx is None and du is None:
        return (None,)
    ones, many = full_like(x, 1), full_like(updates, 1)
    none, nothing = zeros_like(x), zeros_like(updates)
    zero, nil = equal(x, none), equal(updates, nothing)
    product = scatter_prod(
        where(zero, ones, x), index, where(nil, many, updates), attrs=attrs
    )
    zeros = scatter_add(cast(zero, dtype=x.dtype), index, cast(nil, dtype=x.dtype), attrs=attrs)
    total = scatter_add(where(zero, x, none), index, where(nil, updates, nothing), attrs=attrs)
    own = _product_of_others(x, zero, product, zeros, total)
    at = [gather(v, index, attrs=attrs) for v in (product, zeros, total)]
    given = _product_of_others(updates, nil, *at)
    return (_parts(attrs, inputs, (dx, du), (own, given)),)


def _product_of_others(
    factor: Value, is_zero: Value, product: Value, zeros: Value, total: Value
) -> Value:
    """`product` of the factors at a place that are not zero, number and sum of those that are."""
    zero, one = zeros_like(factor), full_like(factor, 1)
    others = subtract(zeros, cast(is_zero, dtype=factor.dtype))  # that are zero
    other = subtract(total, where(is_zero, factor, zero))  # 0, but it moves
    left = where(equal(others, zero), one, where(equal(others, one), other, zero))
    return multiply(divide(product, where(is_zero, one, factor)), left)


scatter_max: Op = _combining(
    "scatter_max",
    "maximum",
    np.maximum,
    "x with the largest of itself and of the `updates` at each of the positions `index` (as for "
    "gather); NaN if one is NaN. Equal ones share the derivative.",
    _extremum_jvp,
)

scatter_min: Op = _combining(
    "scatter_min",
    "minimum",
    np.minimum,
    "x with the smallest of itself and of the `updates` at each of the positions `index` (as for "
    "gather); NaN if one is NaN. Equal ones share the derivative.",
    _extremum_jvp,
)

scatter_prod: Op = _combining(
    "scatter_prod",
    "multiply",
    np.multiply,
    "x multiplied by the `updates` at the positions `index` (as for gather).",
    _product_jvp,
)

RECORDS = (scatter_max, scatter_min, scatter_prod)
