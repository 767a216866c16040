"""Short forms for writing composites: scalars beside values, sums kept under their operand."""

from __future__ import annotations

from math import prod

from rung.core import dtype as dt
from rung.core.dtype import DType, Scalar
from rung.core.errors import AxisError, DTypeError, ShapeError
from rung.ir.node import Value
from rung.ir.types import Shape, TensorType
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.creation import full_like, iota
from rung.ops.elementwise import cast, divide, scale
from rung.ops.movement import permute


def times(x: Value, number: float) -> Value:
    """x * number."""
    return x if number == 1.0 else scale(x, number)


def as_type(x: Value, dtype: DType) -> Value:
    """x in `dtype`; x itself if it is."""
    return x if x.dtype is dtype else cast(x, dtype=dtype)


def wide(x: Value) -> Value:
    """x in the dtype in which it is computed with (f32 for 16-bit floats)."""
    return as_type(x, dt.accumulator(x.dtype))


def permuted(x: Value, dims: tuple[int, ...]) -> Value:
    """`permute(x)`, or x itself where the dims stay."""
    return x if dims == tuple(range(len(dims))) else permute(x, dims=dims)


def summed(x: Value, dims: tuple[int, ...]) -> Value:
    """The sum over `dims`, repeated along them."""
    return spread(reduce_sum(x, dims=dims), dims, x.shape)


def averaged(x: Value, dims: tuple[int, ...]) -> Value:
    """The mean over `dims`, without them."""
    count = prod(x.shape[d] for d in dims)
    return times(reduce_sum(x, dims=dims), 1.0 / count if count else float("nan"))


def mean_of(total: Value, count: float) -> Value:
    """total / count, NaN where nothing is counted. Divided, not multiplied by 1 / count, which is
    rounded: the mean of equal elements is what they are."""
    return divide(total, full_like(total, count if count > 0 else float("nan")))


def along(vector: Value, dim: int, shape: Shape) -> Value:
    """A 1-d value laid along `dim` of `shape`, repeated along the others."""
    return spread(vector, tuple(d for d in range(len(shape)) if d != dim), shape)


def counting(shape: Shape, dim: int, dtype: DType = dt.int32) -> Value:
    """The position along `dim` of each element."""
    return iota(shape=shape, dim=dim, dtype=dtype)


def number(value: Scalar, like: Value) -> Value:
    """`value` in the shape and dtype of `like`."""
    return full_like(like, value)


def normal_dim(op: str, dim: int, x: TensorType, operand: str = "x") -> int:
    """`dim` counted from the front. Raises AxisError when it is out of range."""
    if not -x.rank <= dim < x.rank:
        raise AxisError(
            f"{op}: dim {dim} is out of range for {operand} {x}",
            fix=f"dims go from {-x.rank} to {x.rank - 1}" if x.rank else f"{operand} has no dims",
        )
    return dim % x.rank


def require_float(op: str, operand: str, x: Value) -> None:
    """Raise DTypeError unless x holds floats."""
    if not x.dtype.is_float:
        raise DTypeError(
            f"{op}: {operand} {x.type} is not float", fix=f"cast {operand} to f32 first"
        )


def require_shape(op: str, operand: str, x: Value | None, shape: Shape) -> None:
    """Raise ShapeError unless x is None or of `shape`."""
    if x is not None and x.shape != shape:
        raise ShapeError(
            f"{op}: {operand} is {x.type}", fix=f"{operand} must have shape {list(shape)}"
        )
