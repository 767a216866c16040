"""Rows of a table, summed up bag by bag."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from rung.core.errors import RungError, ShapeError
from rung.tensor import elementwise as e
from rung.tensor import reductions as r
from rung.tensor.creation import arange
from rung.tensor.functional import embedding
from rung.tensor.operate import Operand, as_tensor
from rung.tensor.shapes import expand_dims

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def embedding_bag(
    x: Operand,
    weight: Operand,
    offsets: Operand | None = None,
    *,
    mode: str = "mean",
    per_sample_weights: Operand | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums, means or maxima (`mode`) of the rows of weight[V, D] at positions, bag by bag: [N, D].

    x[N, K] is N bags of K positions; or x[M] holds all bags one after the other, which begin at
    `offsets`[N] (with `include_last_offset` the last of those is the end). `per_sample_weights`,
    of the shape of x, multiply the rows of a sum. Positions `padding_idx` are left out; an empty
    bag gives zeros. Arguments are those of `torch.nn.functional.embedding_bag`."""
    if mode not in ("sum", "mean", "max"):
        raise RungError(f"embedding_bag: mode={mode!r}", fix='give "sum", "mean" or "max"')
    if per_sample_weights is not None and mode != "sum":
        raise RungError(f"embedding_bag: per_sample_weights with {mode}", fix='use mode="sum"')
    at = as_tensor(x)
    if (at.ndim, offsets is None) not in ((2, True), (1, False)):
        raise ShapeError(
            f"embedding_bag: x {at._type} {'without' if offsets is None else 'with'} offsets",
            fix="x is [N, K], or [M] with offsets",
        )
    rows = embedding(at, weight)
    if per_sample_weights is not None:
        rows = rows * expand_dims(as_tensor(per_sample_weights), -1)
    counts = at == at if padding_idx is None else at != padding_idx % as_tensor(weight).shape[0]
    if offsets is None:
        return _reduced(rows, counts, mode)
    held = _bags(at.shape[0], as_tensor(offsets), include_last_offset) & counts
    return _reduced(expand_dims(rows, 0), held, mode)


def _bags(length: int, offsets: Tensor, include_last_offset: bool) -> Tensor:
    """Which of `length` positions belong to each bag, [N, length]."""
    place = arange(length)
    begun = expand_dims(offsets, -1) <= place
    if include_last_offset:
        return begun[:-1] & ~begun[1:]
    bag = r.sum(begun, 0) - 1
    return bag == expand_dims(arange(offsets.shape[0]), -1)


def _reduced(rows: Tensor, counts: Tensor, mode: str) -> Tensor:
    """rows[N, K, D] (N or 1) over K, where `counts`[N, K]."""
    inside = expand_dims(counts, -1)
    if mode == "max":
        found = r.max(e.where(inside, rows, -inf), 1)
        return e.where(r.any(inside, 1), found, 0.0)
    total = r.sum(e.where(inside, rows, 0.0), 1)
    if mode == "sum":
        return total
    return total / e.maximum(r.sum(inside, 1), 1).astype(total.dtype)
