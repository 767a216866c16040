"""Products of matrices and vectors, and sums of products of any operands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from string import ascii_letters, ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Any

from rung.core import dtype as dt
from rung.core.errors import AxisError, RungError, ShapeError
from rung.ir.node import Value
from rung.ops import contraction as c
from rung.ops import einsum as e
from rung.tensor import reductions
from rung.tensor.elementwise import multiply, subtract
from rung.tensor.operate import Operand, as_tensor, cast_value, common_dtype, one_axis
from rung.tensor.precision import rounded_once
from rung.tensor.shapes import reshape, roll
from rung.tensor.state import apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _product(
    build: Callable[[Value, Value], Value], x: Operand, y: Operand, key: Hashable = None
) -> Tensor:
    a, b = as_tensor(x), as_tensor(y)
    dtype = a.dtype if a.dtype is b.dtype else dt.promote(a.dtype, b.dtype)
    return apply(lambda v, w: build(cast_value(v, dtype), cast_value(w, dtype)), a, b, key=key)


def matmul(x1: Operand, x2: Operand, /) -> Tensor:
    """Matrix product over the last two dims, `[…, m, k] @ […, k, n] -> […, m, n]`; leading dims
    broadcast, a vector is a row (left) or a column (right). 16-bit floats are summed in f32."""
    return _product(c.matmul, x1, x2, "matmul")


def tensordot(
    x1: Operand, x2: Operand, /, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """Sum over the last `axes` dims of x1 with the first of x2, or over pairs of listed dims."""
    return _product(lambda v, w: c.tensordot(v, w, axes), x1, x2)


@rounded_once
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


@rounded_once
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


# ---- einsum


def einsum(subscripts: Any, /, *operands: Any) -> Tensor:
    """Sums of products by names of dims, as in NumPy and PyTorch: `einsum("bij,bjk->bik", x, y)`.

    Letters name the dims of each operand and, after `->`, those of the result; all others are
    summed over. `...` stands for further dims, which broadcast. A letter twice in one operand is
    its diagonal. Without `->`: the dims of `...`, then the letters that stand once, in their order.
    Operands may also be given with lists of numbers for letters, `einsum(x, [0, 1], y, [1, 2],
    [0, 2])`. More than two are multiplied in the order that takes the fewest operations.

    Raises RungError, ShapeError or DTypeError (bool).

    >>> import rung
    >>> rung.einsum("ij,ij->i", rung.ones((2, 3)), rung.ones((2, 3))).tolist()
    [3.0, 3.0]
    """
    given: Sequence[Any] = operands
    if not isinstance(subscripts, str):
        subscripts, given = _from_numbers((subscripts, *operands))
    tensors = [as_tensor(x) for x in given]
    if not tensors:
        raise RungError("einsum: no operands", fix="give one for each term before ->")
    dtype = common_dtype(tensors)
    return apply(lambda *v: e.einsum(subscripts, *[cast_value(x, dtype) for x in v]), *tensors)


def _from_numbers(given: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Operands followed by lists of numbers, and a list for the result, as letters and operands."""
    operands, numbers = given[: len(given) // 2 * 2 : 2], given[1::2]
    terms = [_term(x) for x in numbers]
    result = f"->{_term(given[-1])}" if len(given) % 2 else ""
    return ",".join(terms) + result, operands


def _term(numbers: Any) -> str:
    letters = ascii_uppercase + ascii_lowercase
    found = ""
    for n in numbers if isinstance(numbers, list | tuple) else [numbers]:
        if n is not Ellipsis and not (isinstance(n, int) and 0 <= n < len(letters)):
            raise RungError(
                f"einsum: {n!r} does not name a dim",
                fix=f"give subscripts as text, or lists of numbers from 0 to {len(letters) - 1}",
            )
        found += "..." if n is Ellipsis else letters[n]
    return found


def multi_dot(arrays: Sequence[Operand], /) -> Tensor:
    """The product of matrices in the order that takes the fewest operations; the first may be a row
    and the last a column (1-d). Raises ShapeError where inner dimensions differ."""
    tensors = [as_tensor(x) for x in arrays]
    if len(tensors) < 2:
        raise ShapeError(f"multi_dot: {len(tensors)} operands", fix="give two or more")
    terms = [ascii_letters[k : k + 2] for k in range(len(tensors))]
    for k, x in enumerate(tensors):
        is_end = k in (0, len(tensors) - 1)
        if x.ndim != 2 and not (is_end and x.ndim == 1):
            raise ShapeError(
                f"multi_dot: operand {k} is {x._type}", fix="give matrices; vectors at the ends"
            )
    terms[0] = terms[0][2 - tensors[0].ndim :]
    terms[-1] = terms[-1][: tensors[-1].ndim]
    result = terms[0][: tensors[0].ndim - 1] + terms[-1][1:]
    for k in range(len(tensors) - 1):
        a, b = tensors[k], tensors[k + 1]
        if a.shape[-1] != b.shape[0]:
            raise ShapeError(f"multi_dot: inner dimensions differ: {a._type} @ {b._type}")
    return einsum(",".join(terms) + "->" + result, *tensors)
