"""Positions and labels that must be valid: looked at now where they are known, else by the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.errors import DTypeError, IndexingError, ShapeError
from rung.ops.check import RangeAttrs, check_range
from rung.tensor.operate import Operand, as_tensor, common_shape
from rung.tensor.state import TensorState, apply, is_updated_inside, note_checks, raw_value, state

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

_LOOK_AT = 1 << 16
"""Elements of a tensor up to which a look at them costs nothing beside the call."""


def known_array(x: TensorState, given: object = None) -> np.ndarray[Any, Any] | None:
    """The elements of a tensor that is not empty, if they are there already and few enough for a
    look at them to cost nothing. `given`: what the tensor was made from, if that was an array."""
    if x._buffer is None or not x.size or is_updated_inside(x):
        return None
    own = state.trace is None or x._trace is state.trace  # else read anew by each call
    small = x.size <= _LOOK_AT or isinstance(given, np.ndarray | list | tuple)
    return x._buffer.array if own and small else None


def checked(
    what: str,
    x: Operand,
    low: int,
    high: int,
    *,
    unit: str = "elements",
    ignored: int | None = None,
    given: object = None,
) -> Tensor:
    """The integers x, all of which must be from `low` to `high`, or `ignored`. An error names
    `what` and, if it is found while a program runs, this line. `given`: what x was made from.
    Raises IndexingError, DTypeError."""
    values = as_tensor(x)
    if not values.dtype.is_integer:
        raise DTypeError(f"{what} is {values._type}, not an integer", fix="give integers")
    attrs = RangeAttrs(low, high, what, unit, ignored)
    array = known_array(values, x if given is None else given)
    if array is not None:
        if low <= int(array.min()) and int(array.max()) <= high:
            return values
        wrong = array[~attrs.is_valid(array)]
        if not wrong.size:
            return values
        if not state.mapping:  # in a branch it is an error once that is taken
            raise attrs.error(int(wrong[0]))
    if high < low or not values.size:  # the op says so itself
        return values
    found = apply(lambda v: check_range(v, attrs=attrs), values)
    note_checks([raw_value(found)])
    return found


def table_row(name: str, padding_idx: int | None, num_rows: int) -> int | None:
    """The row `padding_idx` of a table, counted from the front. Raises IndexingError."""
    if padding_idx is None:
        return None
    if not -num_rows <= padding_idx < num_rows:
        fix = f"give a number from {-num_rows} to {num_rows - 1}"
        raise IndexingError(f"{name}: padding_idx={padding_idx} of {num_rows} rows", fix=fix)
    return padding_idx % num_rows


def check_labels(
    name: str, x: Tensor, dim: int, labels: Tensor, weight: Operand | None = None
) -> None:
    """Raise ShapeError unless there is a label for each row of classes along `dim` of x, and a
    weight for each class."""
    rows = (*x.shape[:dim], *x.shape[dim + 1 :])
    if not x.ndim or labels.shape != rows:
        raise ShapeError(
            f"{name}: x {x._type} with labels {labels._type}", fix=f"labels have the shape {rows}"
        )
    count = x.shape[dim]
    if weight is not None and as_tensor(weight).shape != (count,):
        raise ShapeError(
            f"{name}: weight {as_tensor(weight)._type} for {count} classes",
            fix="give one weight for each class",
        )


def as_mask(name: str, mask: Operand) -> Tensor:
    """A mask as a tensor. Raises DTypeError for one that is not bool."""
    found = as_tensor(mask)
    if not found.dtype.is_bool:
        raise DTypeError(f"{name}: the mask is {found._type}", fix="compare, or cast to bool")
    return found


def check_target(name: str, x: Operand, target: Operand) -> None:
    """Raise ShapeError where a loss would pair elements of x and of the target of which neither has
    the shape of all pairs, as [N, 1] and [N] have [N, N]."""
    a, b = as_tensor(x), as_tensor(target)
    if a.shape != b.shape and common_shape(name, [a, b]) not in (a.shape, b.shape):
        raise ShapeError(
            f"{name}: x {a._type} with target {b._type}",
            fix="give both one shape; reshape one of them",
        )
