"""Products and norms of matrices and vectors: what of the array API's `linalg` needs no
decomposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.errors import AxisError, DTypeError, RungError, ShapeError
from rung.ir.node import Value
from rung.ops import contraction as c
from rung.tensor import reductions
from rung.tensor.elementwise import abs, multiply, pow, subtract
from rung.tensor.operate import Operand, as_tensor, cast_to, cast_value, one_axis
from rung.tensor.reductions import Axis
from rung.tensor.shapes import diagonal, expand_dims, matrix_transpose, reshape, roll
from rung.tensor.state import apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

__all__ = [
    "cross",
    "diagonal",
    "matmul",
    "matrix_norm",
    "matrix_transpose",
    "outer",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def _product(build: Callable[[Value, Value], Value], x: Operand, y: Operand) -> Tensor:
    a, b = as_tensor(x), as_tensor(y)
    dtype = a.dtype if a.dtype is b.dtype else dt.promote(a.dtype, b.dtype)
    return apply(lambda v, w: build(cast_value(v, dtype), cast_value(w, dtype)), a, b)


def matmul(x1: Operand, x2: Operand, /) -> Tensor:
    """Matrix product over the last two dims, `[…, m, k] @ […, k, n] -> […, m, n]`; leading dims
    broadcast, a vector is a row (left) or a column (right). 16-bit floats are summed in f32."""
    return _product(c.matmul, x1, x2)


def tensordot(
    x1: Operand, x2: Operand, /, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """Sum over the last `axes` dims of x1 with the first of x2, or over pairs of listed dims."""
    return _product(lambda v, w: c.tensordot(v, w, axes), x1, x2)


def vecdot(x1: Operand, x2: Operand, /, axis: int = -1) -> Tensor:
    """Sum of the products along `axis`, counted from the end; the other dims broadcast. Raises
    ShapeError if the lengths there differ."""
    a, b = as_tensor(x1), as_tensor(x2)
    _check_axis("vecdot", a, b, axis)
    products = multiply(a, b)
    return reductions.sum(products, axis, dtype=products.dtype)


def _check_axis(name: str, a: Tensor, b: Tensor, axis: int) -> int:
    """The length of both along `axis`. Raises AxisError, ShapeError."""
    n, m = (x.shape[one_axis(name, axis, x.ndim)] for x in (a, b))
    if axis >= 0 and a.ndim != b.ndim:
        raise AxisError(
            f"{name}: axis {axis} is not the same dim of {a._type} and {b._type}",
            fix="count it from the end (-1 is the last)",
        )
    if n != m:
        raise ShapeError(f"{name}: {a._type} and {b._type} differ in length along axis {axis}")
    return n


def cross(x1: Operand, x2: Operand, /, axis: int = -1) -> Tensor:
    """Products x1 × x2 of vectors of three elements along `axis`, counted from the end; the other
    dims broadcast."""
    a, b = as_tensor(x1), as_tensor(x2)
    if _check_axis("cross", a, b, axis) != 3:
        raise ShapeError(f"cross: {a._type} has not three elements along axis {axis}")
    forward = multiply(roll(a, -1, axis), roll(b, -2, axis))
    return subtract(forward, multiply(roll(a, -2, axis), roll(b, -1, axis)))


def outer(x1: Operand, x2: Operand, /) -> Tensor:
    """All products of elements of two vectors, `[m], [n] -> [m, n]`."""
    a, b = as_tensor(x1), as_tensor(x2)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"outer: takes vectors, got {a._type} and {b._type}")
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))


def trace(x: Operand, /, offset: int = 0, dtype: object = None) -> Tensor:
    """Sum of the diagonals of the last two dims; integers and bool are summed in 64 bits."""
    return reductions.sum(diagonal(x, offset), -1, dtype=dtype)


# ---- norms


def vector_norm(
    x: Operand, /, axis: Axis = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """sum(abs(x) ** ord) ** (1 / ord) over `axis` (None: all elements); inf and -inf: the largest
    and the smallest magnitude, 0: how many are not zero."""
    x = as_tensor(x)
    if not x.dtype.is_float:
        raise DTypeError(f"vector_norm of {x._type}", fix="cast to a float dtype")
    if ord == 2:
        return reductions.norm(x, axis, keepdims)
    size = abs(x)
    if ord == inf:
        return reductions.max(size, axis, keepdims)
    if ord == -inf:
        return reductions.min(size, axis, keepdims)
    if ord == 0:
        return cast_to(reductions.count_nonzero(x, axis, keepdims), x.dtype)
    if ord == 1:
        return reductions.sum(size, axis, keepdims=keepdims)
    return pow(reductions.sum(pow(size, ord), axis, keepdims=keepdims), 1 / ord)


def matrix_norm(x: Operand, /, keepdims: bool = False, ord: float | str = "fro") -> Tensor:
    """The norm of each matrix in the last two dims: "fro", the root of the sum of squares; 1 and
    inf, the largest sum of magnitudes in a column and in a row; -1 and -inf, the smallest.

    Raises RungError for those that need singular values (2, -2, "nuc")."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_norm: {x._type} has fewer than two dims")
    if ord == "fro":
        return vector_norm(x, (-2, -1), keepdims)
    if ord not in (1, -1, inf, -inf):
        raise RungError(f"matrix_norm: ord={ord!r}", fix='give "fro", 1, -1, inf or -inf')
    along = -2 if ord in (1, -1) else -1
    sums = vector_norm(x, along, keepdims=True, ord=1)
    found = (reductions.max if ord in (1, inf) else reductions.min)(sums, (-2, -1))
    return expand_dims(found, (-2, -1)) if keepdims else found
