"""The different elements of a tensor. How many there are depends on the values, so inside jit these
are TraceErrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rung.tensor.operate import Operand, as_tensor
from rung.tensor.shapes import reshape
from rung.tensor.sorting import take
from rung.tensor.state import buffer_of

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


class UniqueAll(NamedTuple):
    """What `unique_all` finds; the positions and counts are i64."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` finds; the counts are i64."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` finds; the positions are i64."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Operand, /) -> UniqueAll:
    """The different elements in rising order, where each comes first in the flattened x, which of
    them each element of x is, and how often each comes. Every NaN is different; -0 and +0 are not.

    >>> import rung
    >>> values, indices, inverse_indices, counts = rung.unique_all(rung.asarray([5, 2, 5]))
    >>> values.tolist(), indices.tolist(), inverse_indices.tolist(), counts.tolist()
    ([2, 5], [1, 0], [1, 0, 1], [1, 2])
    """
    x = as_tensor(x)
    array = buffer_of(x, "the different elements").array
    _, first, inverse, counts = np.unique(
        array, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    indices = _positions(first)
    values = take(reshape(x, (-1,)), indices)
    return UniqueAll(values, indices, _positions(inverse.reshape(x.shape)), _positions(counts))


def _positions(array: np.ndarray[Any, Any]) -> Tensor:
    return as_tensor(np.asarray(array, np.int64))


def unique_counts(x: Operand, /) -> UniqueCounts:
    """The different elements in rising order, and how often each comes."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Operand, /) -> UniqueInverse:
    """The different elements in rising order, and which of them each element of x is."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Operand, /) -> Tensor:
    """The different elements in rising order."""
    return unique_all(x).values
