"""Affine maps and table look-ups, as composites."""

from __future__ import annotations

from rung.core.errors import ShapeError
from rung.ir.node import Value
from rung.ops.broadcast import broadcasted
from rung.ops.composite import composite_with_kernel
from rung.ops.contraction import dot_general
from rung.ops.eager import functions as kernels
from rung.ops.eager.indexing import take as take_kernel
from rung.ops.families import add
from rung.ops.indexing import take
from rung.ops.shorthand import require_shape


@composite_with_kernel(
    lambda call: kernels.linear(
        call.types[0], call.types[1], call.results[0], "bias" in call.names
    )
)
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x[…, I] times the transposed weight[O, I], plus bias[O]: [..., O]."""
    if weight.type.rank != 2 or x.type.rank < 1 or x.shape[-1] != weight.shape[1]:
        size = x.shape[-1] if x.type.rank else "features"
        fix = f"weight must be [outputs, {size}]"
        if weight.type.rank == 2:
            fix = f"x must end in {weight.shape[1]} features, or {fix}"
        raise ShapeError(f"linear: x {x.type} with weight {weight.type}", fix=fix)
    y = dot_general(x, weight, contract=((x.type.rank - 1,), (1,)))
    if bias is None:
        return y
    require_shape("linear", "bias", bias, (weight.shape[0],))
    return add(y, broadcasted(bias, y.shape))


@composite_with_kernel(lambda call: take_kernel(call.types, call.results[0], 0))
def embedding(weight: Value, index: Value) -> Value:
    """The rows of weight[V, D] at integer positions index[…]: [..., D]."""
    if weight.type.rank != 2:
        raise ShapeError(f"embedding: weight {weight.type}", fix="weight must be [rows, features]")
    return take(weight, index, dim=0)
