"""Arguments of torch's matrix functions, renamed and reordered for ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rung
from rung import linalg
from tests.oracle.convert import Unsupported


def _cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    return linalg.cholesky_solve(b, factor, upper)


def _solve(a: Any, b: Any, *, left: bool = True) -> Any:
    if b.ndim == a.ndim - 1 and b.ndim > 1 and b.shape == a.shape[:-1]:
        raise Unsupported("b counts as one matrix here, not as many vectors")
    return linalg.solve(a, b) if left or b.ndim == 1 else linalg.solve(a.mT, b.mT).mT


def _triangular(
    a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    return linalg.solve_triangular(a, b, upper, left, unitriangular)


def _tolerant(function: Callable[..., Any]) -> Callable[..., Any]:
    """`rtol` alone; of symmetric matrices the same."""

    def call(x: Any, tol: Any = None, hermitian: bool = False, **options: Any) -> Any:
        if options.get("atol") is not None or (tol is not None and function is linalg.matrix_rank):
            raise Unsupported("tolerances are relative here")
        return function(x, rtol=options.get("rtol", tol))

    return call


def _eigvalsh(x: Any, UPLO: str = "L") -> Any:
    return linalg.eigvalsh(x)


def _norm(
    x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    x = x if dtype is None else x.astype(dtype)
    return linalg.norm(x, ord, dim, keepdim)


LINALG: dict[str, Callable[..., Any]] = {
    "cholesky": lambda x, upper=False: linalg.cholesky(x, upper),
    "cholesky_solve": _cholesky_solve,
    "einsum": lambda operands, equation: rung.einsum(equation, *operands),
    "linalg.cholesky": lambda x, *, upper=False: linalg.cholesky(x, upper),
    "linalg.cond": linalg.cond,
    "linalg.det": linalg.det,
    "linalg.eigvalsh": _eigvalsh,
    "linalg.inv": linalg.inv,
    "linalg.matrix_power": linalg.matrix_power,
    "linalg.matrix_rank": _tolerant(linalg.matrix_rank),
    "linalg.matrix_rank/hermitian": _tolerant(linalg.matrix_rank),
    "linalg.multi_dot": linalg.multi_dot,
    "linalg.norm": _norm,
    "linalg.norm/subgradients_at_zero": _norm,
    "norm/nuc": _norm,
    "linalg.pinv": _tolerant(linalg.pinv),
    "linalg.pinv/hermitian": _tolerant(linalg.pinv),
    "linalg.pinv/singular": lambda a, b: linalg.pinv(a @ b.mT),
    "linalg.qr": lambda x, mode="reduced": tuple(linalg.qr(x, mode=mode)),
    "linalg.slogdet": lambda x: tuple(linalg.slogdet(x)),
    "linalg.solve": _solve,
    "linalg.solve_triangular": _triangular,
    "linalg.svdvals": linalg.svdvals,
    "pinverse": _tolerant(linalg.pinv),
    "qr": lambda x, some=True: tuple(linalg.qr(x, mode="reduced" if some else "complete")),
}
