"""Products of matrices and vectors with a sum, distances between rows, and Kronecker's product,
under PyTorch's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import above, at_least
from rung.core.errors import ShapeError
from rung.tensor import elementwise as e
from rung.tensor import reductions as r
from rung.tensor.functional import floats
from rung.tensor.linalg import vector_norm
from rung.tensor.operate import Operand, as_tensor, cast_to, common_dtype, common_shape, one_axis
from rung.tensor.precision import rounded_once, times
from rung.tensor.products import matmul, outer
from rung.tensor.shapes import expand_dims, matrix_transpose, reshape
from rung.tensor.sorting import take

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _ranks(name: str, *given: tuple[Operand, int]) -> list[Tensor]:
    """The operands as tensors. Raises ShapeError unless each has its number of dims."""
    tensors = [as_tensor(x) for x, _ in given]
    for x, (_, rank) in zip(tensors, given, strict=True):
        if x.ndim != rank:
            raise ShapeError(f"{name}: {x._type} has {x.ndim} dims, not {rank}")
    return tensors


def mm(x: Operand, y: Operand) -> Tensor:
    """The product of two matrices."""
    return matmul(*_ranks("mm", (x, 2), (y, 2)))


def bmm(x: Operand, y: Operand) -> Tensor:
    """Products of matrices, `[b, m, k] @ [b, k, n]`."""
    a, b = _ranks("bmm", (x, 3), (y, 3))
    if a.shape[0] != b.shape[0]:
        raise ShapeError(f"bmm: {a._type} and {b._type} differ in their first dim")
    return matmul(a, b)


def mv(x: Operand, y: Operand) -> Tensor:
    """A matrix times a vector."""
    return matmul(*_ranks("mv", (x, 2), (y, 1)))


def dot(x: Operand, y: Operand) -> Tensor:
    """The sum of the products of two vectors."""
    return matmul(*_ranks("dot", (x, 1), (y, 1)))


def inner(x: Operand, y: Operand) -> Tensor:
    """Sums of products along the last dims; a scalar multiplies.

    >>> import rung
    >>> rung.inner(rung.asarray([1, 2]), rung.asarray([[3, 4], [5, 6]])).tolist()
    [11, 17]
    """
    a, b = as_tensor(x), as_tensor(y)
    if a.ndim == 0 or b.ndim == 0:
        return e.multiply(a, b)
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"inner: {a._type} and {b._type} differ in their last dim")
    rows, others = reshape(a, (-1, a.shape[-1])), reshape(b, (-1, b.shape[-1]))
    found = matmul(rows, matrix_transpose(others))
    return reshape(found, (*a.shape[:-1], *b.shape[:-1]))


# ---- products added to something


def _sum(x: Operand, product: Tensor, beta: float, alpha: float) -> Tensor:
    """beta x + alpha product; x does not count for beta = 0, NaN or not."""
    given, scaled = times(x, beta), times(product, alpha)
    if common_shape("add", (given, scaled)) != product.shape:
        raise ShapeError(
            f"add: x {given._type} has not the shape of the product {product._type}",
            fix="give an x that broadcasts to the product",
        )
    if beta == 0:
        return cast_to(scaled, common_dtype((given, scaled)))
    return e.add(given, scaled)


def addmm(x: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha (a @ b) for matrices."""
    return _sum(x, mm(a, b), beta, alpha)


def addmv(x: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha (a @ b) for a matrix and a vector."""
    return _sum(x, mv(a, b), beta, alpha)


def addr(x: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha a bᵀ for vectors; of bools "or" and "and"."""
    rows, columns = _ranks("addr", (a, 1), (b, 1))
    given = as_tensor(x)
    if given.dtype.is_bool and rows.dtype.is_bool and columns.dtype.is_bool:
        found = e.logical_and(expand_dims(rows, 1), expand_dims(columns, 0))
        return e.logical_or(e.logical_and(given, bool(beta)), e.logical_and(found, bool(alpha)))
    return _sum(x, outer(rows, columns), beta, alpha)


def baddbmm(x: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha (a @ b) for stacks of matrices."""
    return _sum(x, bmm(a, b), beta, alpha)


def addbmm(x: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta x + alpha Σ (a[i] @ b[i]) for stacks of matrices."""
    product = bmm(a, b)
    return _sum(x, r.sum(product, 0, dtype=product.dtype), beta, alpha)


def kron(x: Operand, y: Operand) -> Tensor:
    """Kronecker's product: each element of x times the whole of y."""
    a, b = as_tensor(x), as_tensor(y)
    rank = max(a.ndim, b.ndim)
    left, right = ((1,) * (rank - t.ndim) + t.shape for t in (a, b))
    rows = tuple(n for length in left for n in (length, 1))
    columns = tuple(n for length in right for n in (1, length))
    found = e.multiply(reshape(a, rows), reshape(b, columns))
    return reshape(found, tuple(m * n for m, n in zip(left, right, strict=True)))


# ---- distances


@rounded_once
def dist(x: Operand, y: Operand, p: float = 2) -> Tensor:
    """The p-norm of all elements of x - y."""
    return vector_norm(floats(e.subtract(x, y)), ord=p)


@rounded_once
def cdist(
    x1: Operand, x2: Operand, p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:  # fmt: skip
    """The p-norms of all differences of rows, `[…, m, d], […, n, d] -> […, m, n]`; leading dims
    broadcast. `compute_mode` is taken for PyTorch's sake: differences are always formed."""
    a, b = floats(x1), floats(x2)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"cdist: {a._type} and {b._type}", fix="give […, m, d] and […, n, d]")
    at_least("cdist", 0, p=p)
    return vector_norm(expand_dims(a, -2) - expand_dims(b, -3), axis=-1, ord=p)


@rounded_once
def pdist(x: Operand, p: float = 2.0) -> Tensor:
    """The p-norms of the differences of each two rows of x[n, d], [n (n - 1) / 2]."""
    at_least("pdist", 0, p=p)
    (x,) = _ranks("pdist", (floats(x), 2))
    first, second = np.triu_indices(x.shape[0], 1)
    return vector_norm(take(x, first, 0) - take(x, second, 0), axis=-1, ord=p)


@rounded_once
def renorm(x: Operand, p: float, dim: int, maxnorm: float) -> Tensor:
    """x with each slice along `dim` scaled down to the p-norm `maxnorm` where it is longer."""
    above("renorm", 0, p=p)
    at_least("renorm", 0, maxnorm=maxnorm)
    x = floats(x)
    place = one_axis("renorm", dim, x.ndim)
    others = tuple(d for d in range(x.ndim) if d != place)
    wide = cast_to(x, dt.accumulator(x.dtype))
    length = vector_norm(wide, axis=others, keepdims=True, ord=p)
    factor = e.where(length > maxnorm, maxnorm / (length + 1e-7), 1.0)
    return cast_to(wide * cast_to(factor, wide.dtype), x.dtype)

