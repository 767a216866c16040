"""Reductions and normalizations of the elements where a mask is true, under the names of
`torch.masked`.

`mask` broadcasts to x; None takes all elements. What has no element at all gets the result of an
empty reduction: 0 for sums, 1 for products, NaN for means, the least number for the largest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import ShapeError
from rung.tensor import elementwise as e
from rung.tensor import functional as f
from rung.tensor import reductions as r
from rung.tensor import statistics as st
from rung.tensor.functional import floats
from rung.tensor.linalg import vector_norm
from rung.tensor.operate import Operand, as_tensor, cast_to, torch_names
from rung.tensor.precision import rounded_once
from rung.tensor.reductions import Axis
from rung.tensor.shapes import broadcast_to

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _mask(x: Tensor, mask: Operand | None) -> Tensor | None:
    if mask is None:
        return None
    found = cast_to(as_tensor(mask), dt.bool_)
    try:
        fits = np.broadcast_shapes(found.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"masked: mask {found._type} for {x._type}", fix="it must broadcast to x")
    return found


def _filled(x: Operand, mask: Operand | None, value: float, dtype: object = None) -> Tensor:
    """x in `dtype` with `value` where the mask is false."""
    given = as_tensor(x)
    given = given if dtype is None else given.astype(dtype)
    chosen = _mask(given, mask)
    return given if chosen is None else e.where(chosen, given, value)


def _counted(x: Tensor, mask: Operand | None, axis: Axis, keepdims: bool, dtype: DType) -> Tensor:
    chosen = _mask(x, mask)
    flags = broadcast_to(as_tensor(True) if chosen is None else chosen, x.shape)
    return cast_to(r.sum(flags, axis, keepdims=keepdims), dtype)


def _extreme(dtype: DType, largest: bool) -> float:
    """The number that loses against all others."""
    if dtype.is_float:
        return -math.inf if largest else math.inf
    if dtype.is_bool:
        return not largest
    info = np.iinfo(dtype.numpy)
    return int(info.min if largest else info.max)


@torch_names
def sum(
    x: Operand, axis: Axis = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Sum of the elements where the mask is true.

    >>> import rung
    >>> rung.masked.sum(rung.asarray([1, 2, 4]), mask=rung.asarray([True, False, True])).item()
    5
    """
    return r.sum(_filled(x, mask, 0, dtype), axis, dtype=dtype, keepdims=keepdims)


@torch_names
def prod(
    x: Operand, axis: Axis = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Product of the elements where the mask is true."""
    return r.prod(_filled(x, mask, 1, dtype), axis, dtype=dtype, keepdims=keepdims)


@torch_names
def amax(
    x: Operand, axis: Axis = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Largest of the elements where the mask is true."""
    x = as_tensor(x, None if dtype is None else dt.as_dtype(dtype))
    return r.max(_filled(x, mask, _extreme(x.dtype, largest=True)), axis, keepdims)


@torch_names
def amin(
    x: Operand, axis: Axis = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Smallest of the elements where the mask is true."""
    x = as_tensor(x, None if dtype is None else dt.as_dtype(dtype))
    return r.min(_filled(x, mask, _extreme(x.dtype, largest=False)), axis, keepdims)


@torch_names
def argmax(
    x: Operand, axis: int | None = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Position (i64) of the first largest element where the mask is true."""
    x = as_tensor(x, None if dtype is None else dt.as_dtype(dtype))
    return r.argmax(_filled(x, mask, _extreme(x.dtype, largest=True)), axis, keepdims)


@torch_names
def argmin(
    x: Operand, axis: int | None = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Position (i64) of the first smallest element where the mask is true."""
    x = as_tensor(x, None if dtype is None else dt.as_dtype(dtype))
    return r.argmin(_filled(x, mask, _extreme(x.dtype, largest=False)), axis, keepdims)


@torch_names
def mean(
    x: Operand, axis: Axis = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Mean of the elements where the mask is true."""
    x = floats(x) if dtype is None else as_tensor(x).astype(dtype)
    wide = dt.accumulator(x.dtype)
    total = r.sum(_filled(x, mask, 0, wide), axis, keepdims=keepdims)
    return cast_to(total / _counted(x, mask, axis, keepdims, wide), x.dtype)


@torch_names
def median(
    x: Operand, axis: int = -1, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """The lower of the middle ones of the elements where the mask is true; NaN without any, or
    where one is NaN."""
    x = floats(x) if dtype is None else as_tensor(x).astype(dtype)
    found: Tensor = st.nanmedian(_filled(x, mask, math.nan), axis, keepdims)[0]
    bad = r.any(_filled(e.isnan(x), mask, False), axis, keepdims)
    return e.where(bad, math.nan, found)


@torch_names
def var(
    x: Operand, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False,
    dtype: object = None, mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Variance of the elements where the mask is true, over their number - `correction`."""
    x = floats(x) if dtype is None else as_tensor(x).astype(dtype)
    wide = cast_to(x, dt.accumulator(x.dtype))
    away, number = _away(wide, axis, correction, keepdims, mask)
    return cast_to(r.sum(e.square(away), axis, keepdims=keepdims) / number, x.dtype)


def _away(
    x: Tensor, axis: Axis, correction: float, keepdims: bool, mask: Operand | None
) -> tuple[Tensor, Tensor]:
    """Elements without their mean, 0 where the mask is false; their number - `correction`."""
    count = _counted(x, mask, axis, True, x.dtype)
    middle = r.sum(_filled(x, mask, 0), axis, keepdims=True) / count
    number = _counted(x, mask, axis, keepdims, x.dtype) - correction
    return _filled(x - middle, mask, 0), e.maximum(number, 0)


@torch_names
def std(
    x: Operand, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False,
    dtype: object = None, mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """Square root of the variance of the elements where the mask is true."""
    x = floats(x) if dtype is None else as_tensor(x).astype(dtype)
    wide = cast_to(x, dt.accumulator(x.dtype))
    away, number = _away(wide, axis, correction, keepdims, mask)
    return cast_to(r.norm(away, axis, keepdims) / e.sqrt(number), x.dtype)


@torch_names
def norm(
    x: Operand, ord: float = 2.0, axis: Axis = None, *, keepdims: bool = False,
    dtype: object = None, mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """(Σ |x|^ord)^(1/ord) over the elements where the mask is true; inf and -inf take the largest
    and the smallest magnitude."""
    x = floats(x) if dtype is None else as_tensor(x).astype(dtype)
    size = e.abs(_filled(x, mask, math.inf if ord < 0 else 0))
    return vector_norm(size, axis=axis, keepdims=keepdims, ord=ord)


@torch_names
def cumsum(
    x: Operand, axis: int, *, dtype: object = None, mask: Operand | None = None
) -> Tensor:
    """Running sums of the elements where the mask is true."""
    return r.cumulative_sum(_filled(x, mask, 0, dtype), axis, dtype=dtype)


@torch_names
def cumprod(
    x: Operand, axis: int, *, dtype: object = None, mask: Operand | None = None
) -> Tensor:
    """Running products of the elements where the mask is true."""
    return r.cumulative_prod(_filled(x, mask, 1, dtype), axis, dtype=dtype)


@torch_names
def softmax(
    x: Operand, axis: int, *, dtype: object = None, mask: Operand | None = None
) -> Tensor:
    """softmax over the elements where the mask is true; 0 elsewhere, NaN without any."""
    return f.softmax(_filled(floats(x), mask, -math.inf, dtype), axis)


@torch_names
def log_softmax(
    x: Operand, axis: int, *, dtype: object = None, mask: Operand | None = None
) -> Tensor:
    """log of `softmax`; -inf where the mask is false."""
    return f.log_softmax(_filled(floats(x), mask, -math.inf, dtype), axis)


@torch_names
def softmin(
    x: Operand, axis: int, *, dtype: object = None, mask: Operand | None = None
) -> Tensor:
    """softmax of -x over the elements where the mask is true."""
    return softmax(-floats(x), axis, dtype=dtype, mask=mask)


@torch_names
def normalize(
    x: Operand, ord: float, axis: int, *, eps: float = 1e-12, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """The elements where the mask is true, over their norm (at least eps); 0 elsewhere."""
    x = floats(x) if dtype is None else as_tensor(x).astype(dtype)
    return _over_length(x, ord, axis, eps, mask)


@rounded_once
def _over_length(x: Tensor, ord: float, axis: int, eps: float, mask: Operand | None) -> Tensor:
    length = norm(x, ord, axis, keepdims=True, mask=mask)
    return _filled(x, mask, 0) / e.maximum(length, eps)


@torch_names
def logsumexp(
    x: Operand, axis: Axis = None, *, keepdims: bool = False, dtype: object = None,
    mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """log of the sum of exp(x) over the elements where the mask is true; -inf without any."""
    return r.logsumexp(_filled(floats(x), mask, -math.inf, dtype), axis, keepdims)


@rounded_once
def logaddexp(
    x: Operand, y: Operand, *, dtype: object = None, input_mask: Operand | None = None,
    other_mask: Operand | None = None,
) -> Tensor:  # fmt: skip
    """log(exp(x) + exp(y)); an element whose mask is false counts nothing."""
    a = _filled(floats(x), input_mask, -math.inf, dtype)
    return e.logaddexp(a, _filled(floats(y), other_mask, -math.inf, dtype))

