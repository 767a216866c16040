"""softmax and its relatives, as composites. 16-bit floats are computed in f32 and rounded once.

The maximum that is taken away for safety is no part of the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import as_dtype
from rung.core.errors import AxisError
from rung.ir.node import Value
from rung.ir.op import Array, Sample
from rung.ir.types import TensorType
from rung.ops.accurate import added_wide
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.composite import Call, composite_with_kernel
from rung.ops.creation import full_like
from rung.ops.eager import functions as kernels
from rung.ops.eager.elementwise import Kernel
from rung.ops.elementwise import divide, equal, isfinite, multiply, subtract, where
from rung.ops.families import add, cost_per_element, require_dtype, structured
from rung.ops.gradient import stop_gradient
from rung.ops.reduction import DimAttrs, reduce_max
from rung.ops.shorthand import as_type, normal_dim, number, require_float, wide
from rung.ops.transcendental import exp, log


def _largest(w: Value, dim: int) -> Value:
    """The maximum along `dim`, without it."""
    return stop_gradient(reduce_max(w, dims=(dim,)))


def _under(w: Value, row: Value, dim: int) -> Value:
    return spread(row, (dim,), w.shape)


def _softmax_type(attrs: DimAttrs, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (x,) = types
    require_dtype("softmax", "x", x, dt.FLOATS)
    if not 0 <= attrs.dim < x.rank:
        raise AxisError(f"softmax: dim {attrs.dim} is out of range for x {x}", fix="count from 0")
    return (x,)


def _softmax_ref(attrs: DimAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    w = x.astype(dt.accumulator(as_dtype(x.dtype)).numpy)
    with np.errstate(invalid="ignore"):
        e = np.exp(w - w.max(attrs.dim, keepdims=True, initial=-np.inf))
        return ((e / added_wide(lambda a: a.sum(attrs.dim, keepdims=True), e)).astype(x.dtype),)


def _softmax_body(attrs: DimAttrs, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    if not x.type.size:
        return (x,)
    w = wide(x)
    e = exp(subtract(w, _under(w, _largest(w, attrs.dim), attrs.dim)))
    total = reduce_sum(e, dims=(attrs.dim,))
    part = divide(full_like(total, 1), total)  # one division for each row, not for each element
    return (as_type(multiply(e, _under(w, part, attrs.dim)), x.dtype),)


def _softmax_jvp(
    attrs: DimAttrs,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    tangents: Sequence[Value | None],
) -> tuple[Value | None, ...]:
    (y,), (t,) = outputs, tangents
    if t is None:
        return (None,)
    wy, wt = wide(y), wide(t)
    mean = reduce_sum(multiply(wy, wt), dims=(attrs.dim,))
    return (as_type(multiply(wy, subtract(wt, _under(wy, mean, attrs.dim))), y.dtype),)


def _softmax_samples(rng: np.random.Generator) -> Sequence[Sample]:
    shapes: tuple[tuple[tuple[int, ...], int], ...] = (((5,), 0), ((3, 7), 1), ((2, 3, 5), 1))
    return [Sample((TensorType(d, s),), DimAttrs(dim)) for d in dt.FLOATS for s, dim in shapes]


softmax_op = structured(
    "softmax",
    "composite",
    "exp(x) / sum(exp(x)) along `dim`; the derivative needs the result alone.",
    arity=1,
    attrs=DimAttrs,
    type=_softmax_type,
    ref=_softmax_ref,
    axes=None,
    jvp=_softmax_jvp,
    decompose=_softmax_body,
    eager=lambda attrs, ins, outs: kernels.softmax(ins[0], attrs.dim),
    cost=cost_per_element(30),
    dtypes=dt.FLOATS,
    samples=_softmax_samples,
    blank={"axes": "decomposed before anything needs the index map", "emit": "decomposed"},
)


def softmax(x: Value, *, dim: int = -1) -> Value:
    """exp(x) / sum(exp(x)) along `dim`. A row of only -inf gives NaN."""
    require_float("softmax", "x", x)
    return softmax_op(x, attrs=DimAttrs(normal_dim("softmax", dim, x.type)))


def _row_rule(
    kernel: Callable[[TensorType, int], Kernel | None],
) -> Callable[[Call], Kernel | None]:
    """The rule of a function of the rows along the static attribute `dim`."""

    def rule(call: Call) -> Kernel | None:
        (x,) = call.types
        return kernel(x, call.whole("dim") % x.rank)

    return rule


@composite_with_kernel(_row_rule(kernels.masked_softmax))
def masked_softmax(x: Value, *, dim: int = -1) -> Value:
    """softmax of rows of which elements, or all, may be -inf: those give 0."""
    require_float("masked_softmax", "x", x)
    dim = normal_dim("masked_softmax", dim, x.type)
    w = wide(x)
    top = _largest(w, dim)
    top = where(equal(top, number(float("-inf"), top)), number(0, top), top)
    e = exp(subtract(w, _under(w, top, dim)))
    total = reduce_sum(e, dims=(dim,))
    total = where(equal(total, number(0, total)), number(1, total), total)
    return as_type(divide(e, _under(w, total, dim)), x.dtype)


@composite_with_kernel(_row_rule(kernels.log_softmax))
def log_softmax(x: Value, *, dim: int = -1) -> Value:
    """log(softmax(x)) along `dim`."""
    require_float("log_softmax", "x", x)
    dim = normal_dim("log_softmax", dim, x.type)
    w = wide(x)
    shifted = subtract(w, _under(w, _largest(w, dim), dim))
    total = log(reduce_sum(exp(shifted), dims=(dim,)))
    return as_type(subtract(shifted, _under(w, total, dim)), x.dtype)


@composite_with_kernel(_row_rule(kernels.logsumexp))
def logsumexp(x: Value, *, dim: int = -1) -> Value:
    """log(sum(exp(x))) over `dim`, which goes; -inf for a row of only -inf, inf beside an inf."""
    require_float("logsumexp", "x", x)
    dim = normal_dim("logsumexp", dim, x.type)
    return as_type(log_sum_exp(wide(x), dim), x.dtype)


def log_sum_exp(w: Value, dim: int) -> Value:
    """`logsumexp` without a name, in the dtype of w. Its derivative is 0 where it is -inf."""
    top = _largest(w, dim)
    top = where(isfinite(top), top, number(0, top))
    total = reduce_sum(exp(subtract(w, _under(w, top, dim))), dims=(dim,))
    nothing = equal(total, number(0, total))
    found = add(log(where(nothing, number(1, total), total)), top)
    return where(nothing, number(float("-inf"), found), found)


RECORDS = (softmax_op,)
