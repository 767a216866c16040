"""What rules need that add a parallel axis to an op: dims that move on, operands that get the axis.

The axis is the first dim of everything that has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.ir.node import Value
from rung.ops.broadcast import broadcast_to
from rung.ops.shorthand import permuted


def with_axis(x: Value, has: bool, size: int) -> Value:
    """x with the axis: repeated along it unless it has it."""
    return x if has else broadcast_to(x, shape=(size, *x.shape))


def all_with_axis(inputs: Sequence[Value], batched: Sequence[bool], size: int) -> list[Value]:
    """Every operand with the axis."""
    return [with_axis(x, has, size) for x, has in zip(inputs, batched, strict=True)]


def to_front(x: Value, dim: int) -> Value:
    """x with `dim` as its first dim; the others stay in order."""
    return permuted(x, (dim, *range(dim), *range(dim + 1, x.type.rank)))


def from_front(x: Value, dim: int) -> Value:
    """x with its first dim as `dim`; the others stay in order."""
    return permuted(x, (*range(1, dim + 1), 0, *range(dim + 1, x.type.rank)))
