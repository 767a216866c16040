"""The array API's `linalg`: products, decompositions and norms of matrices and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from rung.core.errors import DTypeError, RungError, ShapeError
from rung.tensor import reductions
from rung.tensor.creation import full
from rung.tensor.decompositions import (
    EighResult,
    LstsqResult,
    QRResult,
    SlogdetResult,
    SVDResult,
    cholesky,
    cholesky_solve,
    det,
    eigh,
    eigvalsh,
    inv,
    lstsq,
    matrix_power,
    matrix_rank,
    pinv,
    qr,
    slogdet,
    solve,
    solve_triangular,
    svd,
    svdvals,
)
from rung.tensor.elementwise import (
    abs,
    divide,
    exp2,
    floor,
    isfinite,
    log2,
    multiply,
    pow,
    where,
)
from rung.tensor.operate import Operand, all_axes, as_tensor, cast_to, torch_names
from rung.tensor.precision import rounded_once
from rung.tensor.products import cross, matmul, multi_dot, outer, tensordot, vecdot
from rung.tensor.reductions import Axis
from rung.tensor.shapes import diagonal, expand_dims, matrix_transpose, moveaxis, reshape

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

__all__ = [
    "EighResult",
    "LstsqResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cholesky_solve",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def trace(x: Operand, /, offset: int = 0, dtype: object = None) -> Tensor:
    """Sum of the diagonals of the last two dims; integers and bool are summed in 64 bits."""
    return reductions.sum(diagonal(x, offset), -1, dtype=dtype)


# ---- norms


@rounded_once
def vector_norm(
    x: Operand, /, axis: Axis = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """sum(abs(x) ** ord) ** (1 / ord) over `axis` (None: all elements); inf and -inf: the largest
    and the smallest magnitude, 0: how many are not zero. The derivative is 0 where the norm is."""
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
    unit = _unit(size, axis)
    found = _power_norm(divide(size, unit), axis, keepdims, ord)
    return multiply(found, unit if keepdims else reshape(unit, found.shape))


def _unit(size: Tensor, axis: Axis) -> Tensor:
    """The power of two below the largest magnitude, in which powers do not overflow: 1 where that
    is 0, infinite or NaN."""
    if not size.size:
        axes = all_axes("vector_norm", axis, size.ndim)
        return full([1 if d in axes else n for d, n in enumerate(size.shape)], 1.0, size.dtype)
    largest = reductions.max(size.detach(), axis, keepdims=True)
    ordinary = (largest > 0) & isfinite(largest)
    return exp2(floor(log2(where(ordinary, largest, 1.0))))


def _power_norm(size: Tensor, axis: Axis, keepdims: bool, ord: float) -> Tensor:
    if ord < 0:
        return pow(reductions.sum(pow(size, ord), axis, keepdims=keepdims), 1 / ord)
    nothing = size == 0  # where the slope of a power below 1 is infinite
    powers = where(nothing, 0.0, pow(where(nothing, 1.0, size), ord))
    return reductions.nonzero_root(reductions.sum(powers, axis, keepdims=keepdims), ord)


@rounded_once
def matrix_norm(x: Operand, /, keepdims: bool = False, ord: float | str = "fro") -> Tensor:
    """The norm of each matrix in the last two dims: "fro", the root of the sum of squares; 1 and
    inf, the largest sum of magnitudes in a column and in a row; -1 and -inf, the smallest; 2 and
    -2, the largest and the smallest singular value; "nuc", the sum of these.

    Raises RungError for another order."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_norm: {x._type} has fewer than two dims")
    if ord == "fro":
        return vector_norm(x, (-2, -1), keepdims)
    if ord in (2, -2, "nuc"):
        found = _combined(svdvals(x), ord)
    elif ord in (1, -1, inf, -inf):
        sums = vector_norm(x, -2 if ord in (1, -1) else -1, keepdims=True, ord=1)
        found = (_largest if ord in (1, inf) else reductions.min)(sums, (-2, -1))
    else:
        fix = 'give "fro", "nuc", 1, -1, 2, -2, inf or -inf'
        raise RungError(f"matrix_norm: ord={ord!r}", fix=fix)
    return expand_dims(found, (-2, -1)) if keepdims else found


def _largest(sizes: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest of sizes, which is 0 where there are none."""
    empty = not all(sizes.shape[a] for a in axes)
    return (reductions.sum if empty else reductions.max)(sizes, axes)


def _combined(values: Tensor, ord: float | str) -> Tensor:
    """A norm of a matrix from its singular values."""
    if ord == "nuc":
        return reductions.sum(values, -1)
    return _largest(values, (-1,)) if ord == 2 else reductions.min(values, -1)


@torch_names
def norm(
    x: Operand,
    /,
    ord: float | str | None = None,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
) -> Tensor:
    """The norm as in `numpy.linalg` and `torch.linalg`: of vectors along one axis, of matrices in
    two; without `axis`, of all elements, or, where `ord` is given, of x as a vector or
    a matrix. Raises AxisError for other axes, ShapeError where x is neither and `ord` is given."""
    x = as_tensor(x)
    axes = all_axes("norm", axis, x.ndim) if axis is not None else None
    if ord is None:
        return vector_norm(x, axes, keepdims)
    if axes is None and x.ndim > 2:
        raise ShapeError(f"norm: ord={ord!r} of {x._type}", fix="give one axis, or two")
    axes = tuple(range(x.ndim)) if axes is None else axes
    if len(axes) != 2:
        if isinstance(ord, str):
            raise RungError(f"norm: ord={ord!r} of vectors", fix="give a number, or two axes")
        return vector_norm(x, axes, keepdims, ord)
    rows, columns = axes if axis is None or isinstance(axis, int) else axis
    found = matrix_norm(moveaxis(x, (rows, columns), (-2, -1)), ord=ord)
    return expand_dims(found, axes) if keepdims else found


@rounded_once
def cond(x: Operand, /, p: float | str | None = None) -> Tensor:
    """The condition number of matrices: the quotient of the largest and the smallest singular value
    (`p` None or 2; -2: its inverse), or the product of the norms of x and of its inverse."""
    x = as_tensor(x)
    if p is not None and p not in (2, -2):
        return multiply(matrix_norm(x, ord=p), matrix_norm(inv(x), ord=p))
    values = svdvals(x)
    largest, smallest = reductions.max(values, -1), reductions.min(values, -1)
    return divide(smallest, largest) if p == -2 else divide(largest, smallest)
