"""Splitting the index space of a shape into rows and what lies within a row."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from rung.ir.expr import Expr, Var, iadd, imul, var
from rung.kernel.element import delinearize


@lru_cache(maxsize=65536)
def row_split(
    shape: tuple[int, ...], rows: int, row_name: str = "r"
) -> tuple[Var, tuple[Expr, ...], tuple[Var, ...]] | None:
    """(row variable, index of each dim, variables within the row): the elements of row r are those
    at positions [r * size/rows, (r+1) * size/rows). None when `rows` does not fall on dims, so that
    a row is not a box of the shape."""
    if rows < 1 or prod(shape) == 0:
        return None
    row = var(row_name, rows)
    covered = 1
    for d, n in enumerate(shape):
        if covered == rows:
            inner = tuple(var(f"c{d + i}", m) for i, m in enumerate(shape[d:]))
            return row, (*delinearize(row, shape[:d]), *inner), inner
        if covered * n > rows:
            return _split_within(shape, rows, d, covered, row)
        covered *= n
    return (row, delinearize(row, shape), ()) if covered == rows else None


def _split_within(
    shape: tuple[int, ...], rows: int, d: int, covered: int, row: Var
) -> tuple[Var, tuple[Expr, ...], tuple[Var, ...]] | None:
    """Dim `d` is shared: rows/covered parts of it belong to the row number."""
    if rows % covered or shape[d] % (rows // covered):
        return None
    parts = rows // covered
    block = shape[d] // parts
    inner = (var(f"c{d}", block), *(var(f"c{d + 1 + i}", m) for i, m in enumerate(shape[d + 1 :])))
    outer = delinearize(row, (*shape[:d], parts))
    shared = iadd(imul(outer[-1], block), inner[0])
    return row, (*outer[:-1], shared, *inner[1:]), inner
