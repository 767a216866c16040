"""reshape, broadcast_to and reduce_sum: the three ops that fit shapes to each other.

They stand together because they are each other's transposes; a reduction keeps no dims, so a
result is brought back under its operand by `spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from rung.core.errors import ShapeError
from rung.ir.expr import Expr, const, iadd, ifloordiv, imod, imul, read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, Facts, LoopForm, Op
from rung.ir.types import Shape, TensorType
from rung.ops.accurate import added_wide
from rung.ops.eager import movement as moving
from rung.ops.eager.reduction import sum_of
from rung.ops.families import (
    NUMBERS,
    ReduceAttrs,
    Types,
    axis_vars,
    movement,
    reduced_shape,
    reduction,
)
from rung.ops.samples import one_operand, over_dtypes


@dataclass(frozen=True)
class ShapeAttrs(Attrs):
    """The shape of the result."""

    shape: Shape

    def with_axis(self, size: int) -> Attrs:
        return replace(self, shape=(size, *self.shape))


# ---- reshape


def _reshape_type(attrs: ShapeAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    if any(n < 0 for n in attrs.shape) or prod(attrs.shape) != x.size:
        raise ShapeError(
            f"reshape: x {x} has {x.size} elements, shape {list(attrs.shape)} does not",
            fix=f"give a shape of {x.size} elements",
        )
    return (x.with_shape(attrs.shape),)


def flat_index(index: tuple[Expr, ...], shape: Shape) -> Expr:
    """The row-major position of `index` in `shape`."""
    flat: Expr = const(0)
    for i, n in zip(index, shape, strict=True):
        flat = iadd(imul(flat, n), i)
    return flat


def unflat_index(flat: Expr, shape: Shape) -> tuple[Expr, ...]:
    """The index into `shape` at a row-major position."""
    index: list[Expr] = []
    step = prod(shape)
    for d, n in enumerate(shape):
        step = step // n if n else 0
        if n <= 1 or step == 0:
            index.append(const(0))
            continue
        part = ifloordiv(flat, step)
        index.append(part if d == 0 else imod(part, n))
    return tuple(index)


def _reshape_axes(attrs: ShapeAttrs, types: Types) -> LoopForm:
    (x,) = types
    axes = axis_vars(attrs.shape)
    index = unflat_index(flat_index(axes, attrs.shape), x.shape)
    return LoopForm(axes, (read(0, index, x.dtype),))


def _reshape_transpose(
    attrs: ShapeAttrs, inputs: Sequence[Value], cotangents: Sequence[Value | None], operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else reshape(ct, shape=inputs[0].shape)


_RESHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((), (1, 1)), ((1,), ()), ((0, 3), (3, 0, 2)), ((6,), (2, 3)), ((2, 3, 5), (30,)),
    ((4, 6), (3, 8)), ((2, 3, 4), (6, 4)), ((2, 3, 4), (2, 2, 6)), ((5, 1, 3), (5, 3)),
)  # fmt: skip

reshape: Op = movement(
    "reshape",
    "The same elements in row-major order under another shape of the same size.",
    attrs=ShapeAttrs,
    type=_reshape_type,
    ref=lambda attrs, operands: (operands[0].reshape(attrs.shape),),
    axes=_reshape_axes,
    transpose=_reshape_transpose,
    cost=lambda attrs, ins, outs: Cost(0, 0),
    eager=lambda attrs, ins, outs: moving.reshape(attrs.shape),
    samples=over_dtypes([one_operand(a, ShapeAttrs(b)) for a, b in _RESHAPES]),
)


# ---- broadcast_to


def _broadcast_type(attrs: ShapeAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    lead = len(attrs.shape) - x.rank
    fits = lead >= 0 and all(n in (1, m) for n, m in zip(x.shape, attrs.shape[lead:], strict=True))
    if not fits or any(n < 0 for n in attrs.shape):
        raise ShapeError(
            f"broadcast_to: x {x} cannot be broadcast to {list(attrs.shape)}",
            fix="aligned at the last dim, each dim of x must be 1 or equal; reshape x first",
        )
    return (x.with_shape(attrs.shape),)


def _broadcast_axes(attrs: ShapeAttrs, types: Types) -> LoopForm:
    (x,) = types
    axes = axis_vars(attrs.shape)
    last = axes[len(axes) - x.rank :]
    index = tuple(const(0) if n == 1 else i for n, i in zip(x.shape, last, strict=True))
    return LoopForm(axes, (read(0, index, x.dtype),))


def broadcast_dims(shape: Shape, to: Shape) -> tuple[int, ...]:
    """The dims of `to` along which an operand of `shape` is repeated."""
    lead = len(to) - len(shape)
    widened = [lead + d for d, n in enumerate(shape) if n != to[lead + d]]
    return (*range(lead), *widened)


def _broadcast_transpose(
    attrs: ShapeAttrs, inputs: Sequence[Value], cotangents: Sequence[Value | None], operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None:
        return None
    shape = inputs[0].shape
    dims = broadcast_dims(shape, attrs.shape)
    return reshaped(reduce_sum(ct, dims=dims) if dims else ct, shape)


_BROADCASTS: tuple[tuple[Shape, Shape], ...] = (
    ((), ()), ((), (3,)), ((), (2, 0)), ((3,), (2, 3)), ((1,), (4,)), ((2, 1), (2, 5)),
    ((1, 3), (4, 3)), ((1, 1), (2, 3, 4)), ((3, 1, 2), (2, 3, 5, 2)), ((1, 0), (3, 0)),
)  # fmt: skip


def _broadcast_batch(
    attrs: ShapeAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """The axis stands before the dims that the operand lacks."""
    (x,) = inputs
    lacking = len(attrs.shape) - (x.type.rank - 1)
    wide = reshaped(x, (size, *(1,) * lacking, *x.shape[1:]))
    return (broadcast_to(wide, shape=(size, *attrs.shape)),)


broadcast_to: Op = movement(
    "broadcast_to",
    "x repeated to `shape`: dims are aligned at the last one, each of x is 1 or equal.",
    attrs=ShapeAttrs,
    type=_broadcast_type,
    ref=lambda attrs, operands: (np.array(np.broadcast_to(operands[0], attrs.shape)),),
    axes=_broadcast_axes,
    transpose=_broadcast_transpose,
    cost=lambda attrs, ins, outs: Cost(0, ins[0].nbytes + outs[0].nbytes),
    batch=_broadcast_batch,
    eager=lambda attrs, ins, outs: moving.broadcast(ins[0], outs[0]),
    samples=over_dtypes([one_operand(a, ShapeAttrs(b)) for a, b in _BROADCASTS]),
)


# ---- reduce_sum


def _sum_transpose(
    attrs: ReduceAttrs, inputs: Sequence[Value], cotangents: Sequence[Value | None], operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else spread(ct, attrs.dims, inputs[0].shape)


def _sum(x: Array, axis: tuple[int, ...]) -> Array:
    if all(x.shape[d] == 1 for d in axis):  # no sum, which begins with +0, loses the sign of -0
        return x.reshape(reduced_shape(x.shape, axis))
    return added_wide(lambda a: np.asarray(np.add.reduce(a, axis=axis, dtype=a.dtype)), x)


reduce_sum: Op = reduction(
    "reduce_sum",
    "add",
    _sum,
    "Sum over `dims`, 0 when there is nothing to add; integers wrap around.",
    dtypes=NUMBERS,
    linear=(0,),
    joint=True,
    eager=lambda attrs, ins, outs: sum_of(ins[0], attrs.dims, outs[0]),
    transpose=_sum_transpose,
    facts=Facts(identity=0.0),
)


# ---- functions over them


def reshaped(x: Value, shape: Shape) -> Value:
    """`reshape(x)`, or x itself where it has the shape."""
    return x if x.shape == shape else reshape(x, shape=shape)


def broadcasted(x: Value, shape: Shape) -> Value:
    """`broadcast_to(x)`, or x itself where it has the shape."""
    return x if x.shape == shape else broadcast_to(x, shape=shape)


def expand_dims(x: Value, dims: tuple[int, ...]) -> Value:
    """x with dims of length one, so that they are `dims` of the result (rising)."""
    shape = list(x.shape)
    for d in dims:
        shape.insert(d, 1)
    return reshaped(x, tuple(shape))


def spread(x: Value, dims: tuple[int, ...], shape: Shape) -> Value:
    """x repeated along new `dims` (rising) of the result of `shape`: undoes the loss of dims in a
    reduction over them."""
    assert x.shape == reduced_shape(shape, dims)
    return broadcasted(expand_dims(x, dims), shape)


def broadcast_values(*values: Value) -> tuple[Value, ...]:
    """The values brought to their common shape. Raises ShapeError when there is none."""
    try:
        shape = np.broadcast_shapes(*(v.shape for v in values))
    except ValueError:
        given = " and ".join(repr(v.type) for v in values)
        raise ShapeError(
            f"broadcast: {given} do not fit together",
            fix="aligned at the last dim, lengths must be equal or 1",
        ) from None
    return tuple(broadcasted(v, shape) for v in values)
