"""Rows of a table, summed up bag by bag."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from rung.core.errors import IndexingError, RungError, ShapeError
from rung.tensor import elementwise as e
from rung.tensor import reductions as r
from rung.tensor.checks import checked, known_array, table_row
from rung.tensor.creation import arange
from rung.tensor.functional import embedding
from rung.tensor.operate import Operand, as_tensor
from rung.tensor.shapes import expand_dims
from rung.tensor.sorting import checked_index

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
    table = as_tensor(weight)
    at = checked_index("embedding_bag", x, table.shape[0] if table.ndim else 0)
    if (at.ndim, offsets is None) not in ((2, True), (1, False)):
        raise ShapeError(
            f"embedding_bag: x {at._type} {'without' if offsets is None else 'with'} offsets",
            fix="x is [N, K], or [M] with offsets",
        )
    rows = embedding(at, table)
    if per_sample_weights is not None:
        factor = as_tensor(per_sample_weights)
        if factor.shape != at.shape:
            raise ShapeError(
                f"embedding_bag: per_sample_weights {factor._type} for x {at._type}",
                fix="give one weight for each position",
            )
        rows = rows * expand_dims(factor, -1)
    row = table_row("embedding_bag", padding_idx, table.shape[0])
    counts = at == at if row is None else at != row
    if offsets is None:
        return _reduced(rows, counts, mode)
    begins = _begins(offsets, at.shape[0])
    held = _bags(at.shape[0], begins, include_last_offset) & counts
    return _reduced(expand_dims(rows, 0), held, mode)


def _begins(offsets: Operand, length: int) -> Tensor:
    """Where bags begin among `length` positions: rising from 0. Raises IndexingError."""
    begins = checked("embedding_bag: offset", offsets, 0, length, unit="positions", given=offsets)
    known = known_array(begins)
    if known is not None and (known.ndim != 1 or known[0] != 0 or (np.diff(known) < 0).any()):
        raise IndexingError(
            f"embedding_bag: offsets {begins._type} do not rise from 0",
            fix="give the place of the first position of each bag, from 0 on",
        )
    return begins


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
