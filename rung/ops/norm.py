"""Roots of sums of squares, right over the whole range of the dtype.

The square of 1e30 is infinite in f32, and that of 1e-30 is 0. So the squares are summed as they are
and, by the same loop, scaled down and up by a power of two, which changes no digit; of the sums the
one counts that neither overflows nor loses terms (Blue, A portable Fortran program to find the
Euclidean norm of a vector, 1978). Ordinary values get the bits of the plain sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.node import Value
from rung.ir.op import Array, Cost, Op, Sample
from rung.ir.types import TensorType
from rung.ops.accurate import added_wide
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.composite import composite_with_jvp, composite_with_kernel
from rung.ops.eager import functions as kernels
from rung.ops.eager.reduction import euclidean
from rung.ops.elementwise import (
    cancelling_vjp,
    clip,
    divide,
    equal,
    isinf,
    less,
    multiply,
    plus,
    subtract,
    where,
)
from rung.ops.families import (
    ReduceAttrs,
    Types,
    check_reduce,
    nbytes,
    reduced_shape,
    require_dtype,
    structured,
)
from rung.ops.shorthand import averaged, number, require_float, times
from rung.ops.transcendental import rsqrt, sqrt, square

SCALE: Final = {dt.float32: 2.0**100, dt.float64: 2.0**600}
LEAST: Final = {dt.float32: 2.0**-100, dt.float64: 2.0**-900}
"""A sum of squares below this may have lost terms."""
Tangents = Sequence["Value | None"]


def _norm_type(attrs: ReduceAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    require_dtype("euclidean_norm", "x", x, tuple(SCALE))
    check_reduce("euclidean_norm", attrs.dims, x)
    return (TensorType(x.dtype, reduced_shape(x.shape, attrs.dims)),)


def _norm_ref(attrs: ReduceAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    with np.errstate(all="ignore"):
        largest = np.abs(x).max(attrs.dims, keepdims=True, initial=0)
        scale = np.where(np.isfinite(largest) & (largest > 0), largest, x.dtype.type(1))
        squares = added_wide(lambda a: np.square(a).sum(attrs.dims, keepdims=True), x / scale)
        root = np.sqrt(squares) * scale
    return (np.asarray(root.reshape(reduced_shape(x.shape, attrs.dims)), x.dtype),)


def _norm_body(attrs: ReduceAttrs, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,), dims = inputs, attrs.dims
    scale = SCALE[x.dtype]
    plain = reduce_sum(square(x), dims=dims)
    large = reduce_sum(square(times(x, 1 / scale)), dims=dims)
    small = reduce_sum(square(times(clip(x, -1.0, 1.0), scale)), dims=dims)
    is_large, is_small = isinf(plain), less(plain, number(LEAST[x.dtype], plain))
    total = where(is_large, large, where(is_small, small, plain))
    one = number(1, plain)
    factor = where(is_large, times(one, scale), where(is_small, times(one, 1 / scale), one))
    nothing = equal(total, number(0, total))
    root = multiply(sqrt(where(nothing, one, total)), factor)
    return (where(nothing, number(0, root), root),)


def _unit(x: Value, y: Value, dims: tuple[int, ...]) -> Value:
    """x / y, and 0 where y is 0, as its derivative is."""
    zero = equal(y, number(0, y))
    return divide(x, spread(where(zero, number(float("inf"), y), y), dims, x.shape))


def _norm_jvp(
    attrs: ReduceAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Tangents
) -> tuple[Value | None, ...]:
    """Σ x dx / y, and 0 where y is 0."""
    (x,), (y,), (dx,) = inputs, outputs, tangents
    if dx is None:
        return (None,)
    return (reduce_sum(multiply(_unit(x, y, attrs.dims), dx), dims=attrs.dims),)


def _norm_vjp(
    attrs: ReduceAttrs, inputs: Sequence[Value], cotangents: Tangents, wanted: Sequence[int]
) -> Tangents:
    (x,), dims = inputs, attrs.dims
    return cancelling_vjp(
        euclidean_norm(x, attrs=attrs),
        inputs,
        cotangents,
        lambda x, rest: [multiply(x, spread(rest, dims, x.shape))],
        lambda x, y, ct: [multiply(_unit(x, y, dims), spread(ct, dims, x.shape))],
    )


def _norm_samples(rng: np.random.Generator) -> Sequence[Sample]:
    cases: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((5,), (0,)), ((3, 7), (1,)), ((3, 7), (0, 1)), ((2, 3, 5), (0, 2)), ((2, 0), (1,)),
        ((), ()),
    )  # fmt: skip
    return [Sample((TensorType(d, s),), ReduceAttrs(dims)) for d in SCALE for s, dims in cases]


euclidean_norm: Op = structured(
    "euclidean_norm",
    "composite",
    "sqrt(Σ x²) over `dims`. Its derivative is 0 where it is 0, and that of its square 2x.",
    arity=1,
    attrs=ReduceAttrs,
    type=_norm_type,
    ref=_norm_ref,
    axes=None,
    jvp=_norm_jvp,
    vjp=_norm_vjp,
    decompose=_norm_body,
    eager=euclidean,
    cost=lambda attrs, ins, outs: Cost(6 * ins[0].size, nbytes(*ins, *outs)),
    dtypes=tuple(SCALE),
    samples=_norm_samples,
    blank={"axes": "decomposed before anything needs the index map", "emit": "decomposed"},
)


def _normalized_jvp(
    x: Value, y: Value, dx: Value, *, dims: tuple[int, ...], eps: float, overflows: bool
) -> Value:
    """(dx - y mean(y dx)) / sqrt(mean(x²) + eps)."""
    mean = spread(averaged(multiply(y, dx), dims), dims, x.shape)
    root = spread(inverse_root(x, dims=dims, eps=eps, overflows=overflows), dims, x.shape)
    return multiply(subtract(dx, multiply(y, mean)), root)


@composite_with_jvp(
    _normalized_jvp,
    eager=lambda call: kernels.normalized(
        call.types[0], call.dims("dims"), call.number("eps"), call.exact
    ),
)
def normalized(
    x: Value, *, dims: tuple[int, ...], eps: float, overflows: bool = True
) -> Value:
    """x / sqrt(mean(x²) + eps) over `dims`, x being f32 or f64. `overflows`: squares of x can, as
    those of an f16 in f32 can not."""
    require_float("normalized", "x", x)
    root = inverse_root(x, dims=dims, eps=eps, overflows=overflows)
    return multiply(x, spread(root, dims, x.shape))


@composite_with_kernel(
    lambda call: kernels.inverse_root(
        call.types[0], call.dims("dims"), call.number("eps"), call.exact
    )
)
def inverse_root(
    c: Value, *, dims: tuple[int, ...], eps: float, overflows: bool = True
) -> Value:
    """1 / sqrt(mean(c²) + eps) over `dims`, c being f32 or f64; `overflows`: see `normalized`."""
    mean = averaged(square(c), dims)
    total = plus(mean, eps)
    if not overflows:
        return rsqrt(total)
    scale = SCALE[c.dtype]
    large = averaged(square(times(c, 1 / scale)), dims)
    is_large, one = isinf(mean), number(1, mean)
    root = rsqrt(where(is_large, large, total))
    return multiply(root, where(is_large, times(one, 1 / scale), one))


RECORDS = (euclidean_norm,)
