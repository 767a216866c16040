"""Decompositions of matrices and what is made of them: solutions, inverses, determinants, ranks.

Matrices are the last two dims, f32 or f64; the dims before them are so many matrices. They are
computed by LAPACK on the host. What has no result (a singular matrix, one that is not positive
definite, NaN) raises `LinAlgError` on the line that asked for it, when it is computed. Under
`vmap` both branches of a `cond` are computed, so one may raise for an example that takes the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rung.core.dtype import DType
from rung.core.errors import RungError, ShapeError
from rung.ir.node import Value
from rung.ops import linalg as ops
from rung.ops.broadcast import broadcasted
from rung.ops.matrix import identity
from rung.tensor import reductions
from rung.tensor.creation import zeros
from rung.tensor.elementwise import greater, multiply, square, subtract
from rung.tensor.operate import (
    Operand,
    as_tensor,
    cast_to,
    cast_value,
    common_dtype,
    scalar_value,
)
from rung.tensor.products import matmul
from rung.tensor.shapes import expand_dims, matrix_transpose, squeeze
from rung.tensor.state import apply, apply_many

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


class EighResult(NamedTuple):
    """Eigenvalues [..., n], rising, and eigenvectors [..., n, n], in columns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    """Q [..., m, k] with orthonormal columns and the upper triangle R [..., k, n]."""

    Q: Tensor
    R: Tensor


class SlogdetResult(NamedTuple):
    """The sign (0 for a singular matrix) and the logarithm of the magnitude of a determinant."""

    sign: Tensor
    logabsdet: Tensor


class SVDResult(NamedTuple):
    """U [..., m, k], the singular values S [..., k], falling, and Vh [..., k, n]."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class LstsqResult(NamedTuple):
    """The solution [..., n, k], the sums of squares of what is left [..., k], the rank and the
    singular values of the matrix."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


# ---- decompositions


def cholesky(x: Operand, /, upper: bool = False) -> Tensor:
    """The lower triangle L of x = L Lᵀ, or the upper U of x = Uᵀ U, of positive definite x; the
    symmetric part of x counts. Raises LinAlgError where x is not positive definite.

    >>> import rung
    >>> rung.linalg.cholesky(rung.asarray([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    found = apply(ops.cholesky, as_tensor(x))
    return matrix_transpose(found) if upper else found


def qr(x: Operand, /, mode: str = "reduced") -> QRResult:
    """Q with orthonormal columns and the upper triangle R of x[..., m, n] = Q R. `mode` "reduced":
    as many columns as the shorter dim; "complete": Q is square (no derivative for m > n)."""
    if mode not in ("reduced", "complete"):
        raise RungError(f"qr: mode={mode!r}", fix='give "reduced" or "complete"')
    attrs = ops.QrAttrs(mode == "complete")
    return QRResult(*apply_many(lambda v: ops.qr.build([v], attrs), as_tensor(x)))


def eigh(x: Operand, /) -> EighResult:
    """Eigenvalues, rising, and eigenvectors of a symmetric matrix; the symmetric part of x counts.
    Eigenvectors have a derivative where no two eigenvalues are equal."""
    return EighResult(*apply_many(lambda v: ops.eigh.build([v]), as_tensor(x)))


def eigvalsh(x: Operand, /) -> Tensor:
    """Eigenvalues, rising, of a symmetric matrix; the symmetric part of x counts."""
    return apply(ops.eigvalsh, as_tensor(x))


def svd(x: Operand, /, full_matrices: bool = True) -> SVDResult:
    """U, S (falling) and Vh of x[..., m, n] = U diag(S) Vh; U and Vh are square, or, without
    `full_matrices`, as long as S. Their derivatives are there where no two singular values are
    equal and, unless m = n, without `full_matrices`."""
    attrs = ops.SvdAttrs(full_matrices)
    return SVDResult(*apply_many(lambda v: ops.svd.build([v], attrs), as_tensor(x)))


def svdvals(x: Operand, /) -> Tensor:
    """The singular values of x[..., m, n], falling: [..., min(m, n)]."""
    return apply(ops.svdvals, as_tensor(x))


# ---- inverses and determinants


def inv(x: Operand, /) -> Tensor:
    """The inverse of square matrices. Raises LinAlgError for a singular one."""
    return apply(ops.inv, as_tensor(x))


def pinv(x: Operand, /, rtol: Operand | None = None) -> Tensor:
    """The Moore-Penrose inverse of x[..., m, n]: [..., n, m]. Singular values up to `rtol` (None:
    max(m, n) times the spacing of floats at 1) times the largest count as 0."""
    x = as_tensor(x)
    if rtol is None or isinstance(rtol, int | float):
        tolerance = _tolerance(x) if rtol is None else float(rtol)
        return apply(lambda v: ops.pinv(v, _filled(tolerance, v)), x)
    return apply(
        lambda v, t: ops.pinv(v, broadcasted(cast_value(t, v.dtype), v.shape[:-2])),
        x,
        as_tensor(rtol),
    )


def _filled(number: float, like: Value) -> Value:
    """The number for each matrix."""
    return scalar_value("rtol", number, like.dtype, like.shape[:-2])


def _tolerance(x: Tensor) -> float:
    """The part of the largest singular value that rounding errors may reach."""
    if not x.dtype.is_float or x.ndim < 2:
        return 0.0  # refused by the op
    return max(x.shape[-2:]) * float(np.finfo(x.dtype.numpy).eps)


def det(x: Operand, /) -> Tensor:
    """The determinants of square matrices."""
    return apply(ops.det, as_tensor(x))


def slogdet(x: Operand, /) -> SlogdetResult:
    """Signs and logarithms of the magnitudes of the determinants of square matrices."""
    return SlogdetResult(*apply_many(lambda v: ops.slogdet.build([v]), as_tensor(x)))


def matrix_power(x: Operand, n: int, /) -> Tensor:
    """The product of n times x[..., m, m]: the identity for 0, powers of the inverse below. Raises
    ShapeError unless x is square, RungError unless n is an integer."""
    x = as_tensor(x)
    if not isinstance(n, int):
        raise RungError(f"matrix_power: n={n!r}", fix="give an integer")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(
            f"matrix_power: x {x._type} is not square", fix="the last two dims must be equal"
        )
    if n == 0:
        return apply(identity, x)
    base, left = (inv(x), -n) if n < 0 else (x, n)
    found: Tensor | None = None
    while left:
        if left & 1:
            found = base if found is None else matmul(found, base)
        left >>= 1
        base = matmul(base, base) if left else base
    assert found is not None
    return found


def matrix_rank(x: Operand, /, rtol: Operand | None = None) -> Tensor:
    """How many singular values (i64) are above `rtol` (None: max(m, n) times the spacing of floats
    at 1) times the largest."""
    x = as_tensor(x)
    values = svdvals(x)
    if not values.shape[-1]:
        return reductions.count_nonzero(values, -1)
    part = as_tensor(_tolerance(x) if rtol is None else rtol, None)
    largest = reductions.max(values, -1)
    limit = expand_dims(multiply(cast_to(part, x.dtype), largest), -1)
    return reductions.count_nonzero(greater(values, limit), -1)


# ---- systems of equations


def solve(x1: Operand, x2: Operand, /) -> Tensor:
    """The x of x1[..., n, n] x = x2, which is a vector [n] or matrices [..., n, k]; dims before
    broadcast. Raises LinAlgError where x1 is singular.

    >>> import rung
    >>> rung.linalg.solve(rung.asarray([[2.0, 0.0], [0.0, 4.0]]), rung.asarray([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    return _solved("solve", ops.solve, as_tensor(x1), as_tensor(x2))


def solve_triangular(
    a: Operand,
    b: Operand,
    /,
    upper: bool = False,
    left: bool = True,
    unitriangular: bool = False,
) -> Tensor:
    """The x of t x = b, or of x t = b where not `left`, with t the lower or `upper` triangle of
    a[..., n, n], whose diagonal is taken to be ones where `unitriangular`. Raises LinAlgError for
    a zero on the diagonal."""
    given, other = as_tensor(a), as_tensor(b)
    attrs = ops.TriangularAttrs(not upper, not left, unitriangular)

    def build(v: Value, w: Value) -> Value:
        return ops.triangular_solve(v, w, attrs=attrs)

    if left:
        return _solved("solve_triangular", build, given, other)
    found = _solved("solve_triangular", build, given, matrix_transpose(other))
    return matrix_transpose(found)


def cholesky_solve(b: Operand, factor: Operand, /, upper: bool = False) -> Tensor:
    """The x of a x = b, where `factor` is `cholesky(a, upper)`, in the order of PyTorch."""
    low = matrix_transpose(factor) if upper else as_tensor(factor)
    half = solve_triangular(low, b)
    return solve_triangular(matrix_transpose(low), half, upper=True)


def _solved(name: str, build: Callable[[Value, Value], Value], a: Tensor, b: Tensor) -> Tensor:
    """`build` on operands of one dtype and equal dims before the last two; b may be a vector."""
    if b.ndim == 1:
        return squeeze(_solved(name, build, a, expand_dims(b, -1)), -1)
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(
            f"{name}: {a._type} with {b._type}", fix="give matrices; the right side may be a vector"
        )
    dtype = common_dtype([a, b])
    if a.ndim == 2 and b.ndim > 2:

        def beside(v: Value, w: Value) -> Value:
            left, right = cast_value(v, dtype), cast_value(w, dtype)
            return ops.with_more_columns(lambda x: build(left, x), right, b.ndim - 2)

        return apply(beside, a, b)
    lead = _common_lead(name, a, b)
    return apply(lambda v, w: build(_led(v, lead, dtype), _led(w, lead, dtype)), a, b)


def _common_lead(name: str, a: Tensor, b: Tensor) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(
            f"{name}: dims before the last two do not broadcast: {a._type} with {b._type}",
            fix="from the last one on, they must be equal or 1",
        ) from None


def _led(v: Value, lead: tuple[int, ...], dtype: DType) -> Value:
    return broadcasted(cast_value(v, dtype), (*lead, *v.shape[-2:]))


def lstsq(a: Operand, b: Operand, /, rcond: float | None = None) -> LstsqResult:
    """The x for which the sum of squares of b − a x is least (of these the smallest), for a[..., m,
    n] and b[..., m, k] or b[m]. Singular values up to `rcond` times the largest count as 0.

    `residuals` are the sums of squares for m > n, whatever the rank, and else empty."""
    x, y = as_tensor(a), as_tensor(b)
    vector = y.ndim == 1
    y = expand_dims(y, -1) if vector else y
    if x.ndim < 2 or y.ndim < 2 or x.shape[-2] != y.shape[-2]:
        raise ShapeError(f"lstsq: {x._type} with {y._type}", fix="both need as many rows")
    solution = matmul(pinv(x, rcond), y)
    rest = reductions.sum(square(subtract(y, matmul(x, solution))), -2)
    if x.shape[-2] <= x.shape[-1]:
        rest = zeros((0,), dtype=solution.dtype)
    if vector:
        solution = squeeze(solution, -1)
    return LstsqResult(solution, rest, matrix_rank(x, rtol=rcond), svdvals(x))
