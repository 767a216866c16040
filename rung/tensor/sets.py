"""The different elements of a tensor. How many there are depends on the values, so inside jit these
are TraceErrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rung.tensor.operate import Operand, as_tensor, one_axis
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


def unique(
    x: Operand,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
) -> Any:
    """The different elements in rising order (always sorted), or the different slices along `axis`;
    with a flag also which of them each one is, and how often each comes (i64). PyTorch's names."""
    x = as_tensor(x)
    axis = None if axis is None else one_axis("unique", axis, x.ndim)
    array = _sortable(buffer_of(x, "the different elements").array)
    _, first, inverse, counts = np.unique(
        array, return_index=True, return_inverse=True, return_counts=True, axis=axis,
        equal_nan=False,
    )  # fmt: skip
    values = take(reshape(x, (-1,)), _positions(first)) if axis is None else take(x, first, axis)
    inverse = inverse.reshape(x.shape if axis is None else (-1,))
    return _asked(values, inverse, counts, return_inverse, return_counts)


def unique_consecutive(
    x: Operand,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
) -> Any:
    """The elements (or slices along `axis`) that differ from the one before; with a flag also which
    of them each one belongs to, and how many lie together (i64).

    >>> import rung
    >>> rung.unique_consecutive(rung.asarray([1, 1, 2, 1])).tolist()
    [1, 2, 1]
    """
    x = as_tensor(x)
    array = _sortable(buffer_of(x, "the different elements").array)
    dim = 0 if axis is None else one_axis("unique_consecutive", axis, x.ndim)
    rows = array.reshape(-1, 1) if axis is None else np.moveaxis(array, dim, 0)
    length = rows.shape[0]
    rows = rows.reshape(length, int(np.prod(rows.shape[1:])))
    new = np.ones(length, bool)
    new[1:] = (rows[1:] != rows[:-1]).any(1)
    at = np.nonzero(new)[0]
    counts = np.diff(np.append(at, length))
    values = take(reshape(x, (-1,)) if axis is None else x, _positions(at), dim)
    inverse = (np.cumsum(new) - 1).reshape(x.shape if axis is None else (-1,))
    return _asked(values, inverse, counts, return_inverse, return_counts)


def _sortable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in a dtype that NumPy itself has."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _asked(
    values: Tensor, inverse: np.ndarray[Any, Any], counts: np.ndarray[Any, Any],
    return_inverse: bool, return_counts: bool,
) -> Any:  # fmt: skip
    found = (values,)
    found += (_positions(inverse),) if return_inverse else ()
    found += (_positions(counts),) if return_counts else ()
    return found if len(found) > 1 else values


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
