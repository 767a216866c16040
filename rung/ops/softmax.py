"""softmax and its relatives, as composites. 16-bit floats are computed in f32 and rounded once.

The maximum that is taken away for safety is no part of the derivative.
"""

from __future__ import annotations

from rung.ir.node import Value
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.composite import composite
from rung.ops.elementwise import divide, equal, isfinite, subtract, where
from rung.ops.families import add
from rung.ops.gradient import stop_gradient
from rung.ops.reduction import reduce_max
from rung.ops.shorthand import as_type, normal_dim, number, require_float, summed, wide
from rung.ops.transcendental import exp, log


def _largest(w: Value, dim: int) -> Value:
    """The maximum along `dim`, without it."""
    return stop_gradient(reduce_max(w, dims=(dim,)))


def _under(w: Value, row: Value, dim: int) -> Value:
    return spread(row, (dim,), w.shape)


@composite
def softmax(x: Value, *, dim: int = -1) -> Value:
    """exp(x) / sum(exp(x)) along `dim`. A row of only -inf gives NaN."""
    require_float("softmax", "x", x)
    dim = normal_dim("softmax", dim, x.type)
    w = wide(x)
    e = exp(subtract(w, _under(w, _largest(w, dim), dim)))
    return as_type(divide(e, summed(e, (dim,))), x.dtype)


@composite
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


@composite
def log_softmax(x: Value, *, dim: int = -1) -> Value:
    """log(softmax(x)) along `dim`."""
    require_float("log_softmax", "x", x)
    dim = normal_dim("log_softmax", dim, x.type)
    w = wide(x)
    shifted = subtract(w, _under(w, _largest(w, dim), dim))
    total = log(reduce_sum(exp(shifted), dims=(dim,)))
    return as_type(subtract(shifted, _under(w, total, dim)), x.dtype)


@composite
def logsumexp(x: Value, *, dim: int = -1) -> Value:
    """log(sum(exp(x))) over `dim`, which goes; -inf for a row of only -inf, inf beside an inf."""
    require_float("logsumexp", "x", x)
    dim = normal_dim("logsumexp", dim, x.type)
    return as_type(log_sum_exp(wide(x), dim), x.dtype)


def log_sum_exp(w: Value, dim: int) -> Value:
    """`logsumexp` without a name, in the dtype of w."""
    top = _largest(w, dim)
    top = where(isfinite(top), top, number(0, top))
    total = reduce_sum(exp(subtract(w, _under(w, top, dim))), dims=(dim,))
    return add(log(total), top)
