"""Products of matrices and vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.errors import ShapeError
from rung.ir.node import Value
from rung.ops import contraction as c
from rung.tensor import reductions
from rung.tensor.elementwise import multiply
from rung.tensor.operate import Operand, as_tensor, cast_value
from rung.tensor.shapes import reshape
from rung.tensor.state import apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _product(build: Callable[[Value, Value], Value], x: Operand, y: Operand) -> Tensor:
    a, b = as_tensor(x), as_tensor(y)
    dtype = a.dtype if a.dtype is b.dtype else dt.promote(a.dtype, b.dtype)
    return apply(lambda v, w: build(cast_value(v, dtype), cast_value(w, dtype)), a, b)


def matmul(x: Operand, y: Operand, /) -> Tensor:
    """Matrix product over the last two dims, `[…, m, k] @ […, k, n] -> […, m, n]`; leading dims
    broadcast, a vector is a row (left) or a column (right). 16-bit floats are summed in f32."""
    return _product(c.matmul, x, y)


def tensordot(
    x: Operand, y: Operand, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """Sum over the last `axes` dims of x with the first of y, or over pairs of listed dims."""
    return _product(lambda v, w: c.tensordot(v, w, axes), x, y)


def vecdot(x: Operand, y: Operand, axis: int = -1) -> Tensor:
    """Sum of the products along `axis`; the other dims broadcast."""
    return reductions.sum(multiply(x, y), axis)


def outer(x: Operand, y: Operand) -> Tensor:
    """All products of elements of two vectors, `[m], [n] -> [m, n]`."""
    a, b = as_tensor(x), as_tensor(y)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"outer: takes vectors, got {a._type} and {b._type}")
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))
