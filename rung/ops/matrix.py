"""Parts of matrices, which are the last two dims of a value: transposes, triangles, diagonals."""

from __future__ import annotations

from rung.core import dtype as dt
from rung.ir.node import Value
from rung.ir.types import Shape
from rung.ops.broadcast import broadcasted, reduce_sum, reshaped, spread
from rung.ops.creation import full, full_like, iota
from rung.ops.elementwise import cast, equal, greater_equal, less_equal, multiply, where
from rung.ops.families import add
from rung.ops.movement import cut
from rung.ops.shorthand import permuted, times


def turned(x: Value) -> Value:
    """The transposes of the matrices."""
    rank = x.type.rank
    return permuted(x, (*range(rank - 2), rank - 1, rank - 2))


def triangle(x: Value, lower: bool, offset: int = 0) -> Value:
    """The lower or upper triangles, zero beyond the diagonal `offset`."""
    shape = x.shape[-2:]
    rows = iota(shape=shape, dim=0, dtype=dt.int64)
    columns = iota(shape=shape, dim=1, dtype=dt.int64)
    near = max(-shape[0], min(offset, shape[1]))
    edge = add(rows, full(shape, near, dt.int64))
    inside = less_equal(columns, edge) if lower else greater_equal(columns, edge)
    return where(broadcasted(inside, x.shape), x, full_like(x, 0))


def diagonal(x: Value, offset: int = 0) -> Value:
    """The diagonals, `offset` places above the main one: `[…, m, n] -> […, k]`."""
    rank = x.type.rank
    rows, columns = x.shape[-2:]
    down, right = min(max(-offset, 0), rows), min(max(offset, 0), columns)
    count = min(rows - down, columns - right)
    square = cut(x, rank - 2, down, down + count)
    square = cut(square, rank - 1, right, right + count)
    flat = reshaped(square, (*x.shape[:-2], count * count))
    return cut(flat, rank - 2, 0, count * count, count + 1)


def on_diagonal(shape: Shape) -> Value:
    """Which elements of matrices of `shape` lie on the main diagonal, as bool of that shape."""
    rows = iota(shape=shape[-2:], dim=0, dtype=dt.int64)
    columns = iota(shape=shape[-2:], dim=1, dtype=dt.int64)
    return broadcasted(equal(rows, columns), shape)


def identity(x: Value) -> Value:
    """Ones on the diagonal and zeros elsewhere, of the type of x."""
    return cast(on_diagonal(x.shape), dtype=x.dtype)


def symmetric(x: Value) -> Value:
    """(x + xᵀ) / 2."""
    return times(add(x, turned(x)), 0.5)


def over_rows(x: Value, shape: Shape) -> Value:
    """Vectors `[…, n]` as the rows of matrices of `shape`: element j in all of column j."""
    return spread(x, (len(shape) - 2,), shape)


def over_columns(x: Value, shape: Shape) -> Value:
    """Vectors `[…, m]` as the columns of matrices of `shape`: element i in all of row i."""
    return spread(x, (len(shape) - 1,), shape)


def overlap(a: Value, b: Value) -> Value:
    """The sum of the products of the elements of two matrices, trace(aᵀ b): `[…, m, n] -> […]`."""
    rank = a.type.rank
    return reduce_sum(multiply(a, b), dims=(rank - 2, rank - 1))


def column_overlap(a: Value, b: Value) -> Value:
    """The diagonal of aᵀ b: `[…, m, n] -> […, n]`."""
    return reduce_sum(multiply(a, b), dims=(a.type.rank - 2,))
