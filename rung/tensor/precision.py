"""In which dtype a function of several operations computes.

16-bit floats are for keeping numbers, not for computing with them: between two operations a square
of 300 would be infinite, and each would round. `rounded_once` brings them to f32 where a function
begins, and its results back where it ends; fused kernels make the casts on registers. Derivatives
are those of what is then in between, so they are computed in f32 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import MAX_RANK
from rung.core.dtype import DType, Scalar
from rung.tensor.elementwise import multiply
from rung.tensor.operate import Operand, as_tensor, cast_to, common_dtype
from rung.tensor.state import TensorState

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")
NARROW = (dt.float16, dt.bfloat16)


def rounded_once(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which computes 16-bit floats in f32 and rounds its results once.

    The results have the dtype that they would have without it: the common one of the operands, of
    which integers of more than 16 bits are labels and positions, or make the result f64 anyway.
    Operands are arguments, and elements of lists and tuples among them."""

    @wraps(function)
    def computed(*args: Any, **kwargs: Any) -> R:
        found: set[DType] = set()
        _note_dtypes(args, found)
        if kwargs:
            _note_dtypes(kwargs.values(), found)
        if found.isdisjoint(NARROW):
            return function(*args, **kwargs)
        common = reduce(dt.promote, found)
        given = {name: _widened(x) for name, x in kwargs.items()}
        made = function(*[_widened(x) for x in args], **given)
        return made if common.bits > 16 else _narrowed(made, common)

    return computed  # type: ignore[return-value]


def _note_dtypes(given: Iterable[Any], found: set[DType], depth: int = 0) -> None:
    """Add the dtypes of operands that have a say in that of the result."""
    for x in given:
        if isinstance(x, TensorState):
            dtype = x._type.dtype
        elif isinstance(x, np.ndarray) and x.dtype.kind in "biufV":
            dtype = dt.as_dtype(x.dtype.newbyteorder("="))
        else:
            if isinstance(x, list | tuple) and depth < MAX_RANK:
                _note_dtypes(x, found, depth + 1)
            continue
        if dtype.is_float or 1 < dtype.bits <= 16:
            found.add(dtype)


def _widened(x: Any, depth: int = 0) -> Any:
    if isinstance(x, TensorState):
        return cast_to(x, dt.float32) if x._type.dtype in NARROW else x  # type: ignore[arg-type]
    if isinstance(x, list | tuple):
        if type(x) not in (list, tuple) or depth > MAX_RANK:
            return x
        return type(x)(_widened(v, depth + 1) for v in x)
    if isinstance(x, np.ndarray) and x.dtype.itemsize == 2 and x.dtype.kind not in "biu":
        return as_tensor(x, dt.float32)
    return x


def _narrowed(made: Any, dtype: DType) -> Any:
    if isinstance(made, TensorState):
        return cast_to(made, dtype) if made._type.dtype is dt.float32 else made  # type: ignore[arg-type]
    if type(made) in (list, tuple):
        return type(made)(_narrowed(x, dtype) for x in made)
    return made


def times(x: Operand, factor: Scalar) -> Tensor:
    """x times a Python number. The dtype depends on the kind of the number alone: i32 times 1.0 is
    f32 as is i32 times 2.0."""
    if factor == 1:
        x = as_tensor(x)
        return cast_to(x, common_dtype((x, factor)))
    return multiply(x, factor)
