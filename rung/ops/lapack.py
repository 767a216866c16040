"""NumPy meanings of the decompositions: LAPACK through `numpy.linalg`, on stacks of matrices.

What LAPACK refuses becomes a `LinAlgError` that says what to do; the user's line is added by who
calls. Only the symmetric part of a matrix that must be symmetric counts, so that derivatives are
those of a function of all matrices, and symmetric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rung.core.errors import LinAlgError
from rung.ir.op import Array

Matrices = Sequence[Array]

SINGULAR = "use pinv or lstsq, or add a small multiple of eye(n)"
NOT_DEFINITE = "give a symmetric matrix whose eigenvalues are positive; x + e * eye(n) shifts them"
NOT_FINITE = "look for NaN and infinities in x"


def _called(function: Callable[..., Any], *given: Any, problem: str, fix: str) -> Any:
    """`function(*given)` without warnings; what LAPACK refuses raises LinAlgError of `problem`."""
    with np.errstate(all="ignore"):
        try:
            return function(*given)
        except np.linalg.LinAlgError:
            raise LinAlgError(problem, fix=fix) from None


def _shown(name: str, x: Array) -> str:
    """`inv: x f32[3, 3]`"""
    kind = {"float32": "f32", "float64": "f64"}[x.dtype.name]
    return f"{name}: x {kind}[{','.join(map(str, x.shape))}]"


def _not_finite(name: str, x: Array) -> dict[str, str]:
    return {"problem": f"{_shown(name, x)} has no result: not finite", "fix": NOT_FINITE}


def _singular(name: str, x: Array) -> dict[str, str]:
    return {"problem": f"{_shown(name, x)} is singular", "fix": SINGULAR}


def mirrored(x: Array) -> Array:
    """The symmetric part (x + xᵀ) / 2; x itself, bit for bit, where it is symmetric."""
    half: Array = x * x.dtype.type(0.5)
    return half + np.swapaxes(half, -1, -2)


def cholesky(x: Array) -> Array:
    """The lower triangle L of x = L Lᵀ (potrf)."""
    problem = f"{_shown('cholesky', x)} is not positive definite"
    found: Array = _called(np.linalg.cholesky, mirrored(x), problem=problem, fix=NOT_DEFINITE)
    return found


def solve(a: Array, b: Array) -> Array:
    """x of a x = b by LU with pivots (gesv)."""
    found: Array = _called(np.linalg.solve, a, b, **_singular("solve", a))
    return found


def triangular_solve(a: Array, b: Array, lower: bool, transposed: bool, unit: bool) -> Array:
    """x of t x = b, t the lower or upper triangle of a, or its transpose.

    NumPy has no call for this alone. The LU decomposition of an upper triangle is that triangle,
    without a rounding or an exchange of rows, so solving with it is back substitution; a lower
    triangle becomes an upper one when rows and columns are turned around."""
    t = np.tril(a) if lower else np.triu(a)
    if unit:
        n = a.shape[-1]
        t[..., np.arange(n), np.arange(n)] = 1
    if transposed:
        t, lower = np.swapaxes(t, -1, -2), not lower
    if lower:
        t, b = t[..., ::-1, ::-1], b[..., ::-1, :]
    found: Array = _called(np.linalg.solve, t, b, **_singular("triangular_solve", a))
    return found[..., ::-1, :] if lower else found


def inv(x: Array) -> Array:
    """The inverse (gesv with the identity)."""
    found: Array = _called(np.linalg.inv, x, **_singular("inv", x))
    return found


def det(x: Array) -> Array:
    """The determinant by LU (getrf); 0 for a singular matrix."""
    with np.errstate(all="ignore"):
        return np.asarray(np.linalg.det(x))


def slogdet(x: Array) -> Matrices:
    """Sign and logarithm of the magnitude of the determinant (getrf)."""
    with np.errstate(all="ignore"):
        return tuple(np.asarray(part) for part in np.linalg.slogdet(x))


def cofactor(x: Array) -> Array:
    """The derivative of the determinant, det(x) x⁻ᵀ, by the singular value decomposition, so that
    x may be singular: x = U s Vᵀ has det(U) det(V) U diag(products of the other s) Vᵀ."""
    u, s, vh = _called(np.linalg.svd, x, **_not_finite("det", x))
    with np.errstate(all="ignore"):
        one = np.ones_like(s[..., :1])
        before = np.cumprod(np.concatenate([one, s[..., :-1]], -1), -1)[..., : s.shape[-1]]
        turned = np.concatenate([one, s[..., :0:-1]], -1)
        behind = np.cumprod(turned, -1)[..., : s.shape[-1]][..., ::-1]
        sign = np.linalg.det(u) * np.linalg.det(vh)
        return np.asarray(sign[..., None, None] * ((u * (before * behind)[..., None, :]) @ vh))


def qr(x: Array, complete: bool) -> Matrices:
    """Q and R of x = Q R (geqrf, orgqr)."""
    mode = "complete" if complete else "reduced"
    return tuple(_called(np.linalg.qr, x, mode, **_not_finite("qr", x)))


def eigh(x: Array) -> Matrices:
    """Eigenvalues, rising, and eigenvectors as columns, of a symmetric matrix (syevd)."""
    return tuple(_called(np.linalg.eigh, mirrored(x), **_not_finite("eigh", x)))


def eigvalsh(x: Array) -> Array:
    """Eigenvalues, rising, of a symmetric matrix (syevd)."""
    found: Array = _called(np.linalg.eigvalsh, mirrored(x), **_not_finite("eigvalsh", x))
    return found


def svd(x: Array, full_matrices: bool) -> Matrices:
    """U, s and Vᵀ of x = U diag(s) Vᵀ, s falling (gesdd)."""
    return tuple(_called(np.linalg.svd, x, full_matrices, **_not_finite("svd", x)))


def svdvals(x: Array) -> Array:
    """Singular values, falling (gesdd)."""
    found: Array = _called(np.linalg.svd, x, True, False, **_not_finite("svdvals", x))
    return found


def pinv(x: Array, rtol: Array) -> Array:
    """The Moore-Penrose inverse: singular values up to `rtol` times the largest count as 0."""
    u, s, vh = _called(np.linalg.svd, x, False, **_not_finite("pinv", x))
    with np.errstate(all="ignore"):
        cutoff = rtol[..., None] * s.max(-1, keepdims=True, initial=0)
        inverse = np.where(s > cutoff, 1 / s, 0).astype(x.dtype)
        scaled = np.swapaxes(vh, -1, -2) * inverse[..., None, :]
        return np.asarray(scaled @ np.swapaxes(u, -1, -2))
