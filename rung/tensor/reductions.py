"""Reductions and cumulative functions. `axis`: an int, a tuple, or None for all; PyTorch's names
`dim` and `keepdim` are taken as well."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from math import prod as _product
from math import sqrt
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.errors import DTypeError, ShapeError
from rung.ir.node import Value
from rung.ir.op import Op
from rung.ops import reduction as r
from rung.ops.broadcast import expand_dims, reduce_sum, reshaped, spread
from rung.ops.creation import full
from rung.ops.cumulative import cumulative_prod as _cumulative_prod
from rung.ops.cumulative import cumulative_sum as _cumulative_sum
from rung.ops.elementwise import multiply, subtract
from rung.ops.movement import concat, cut
from rung.ops.norm import euclidean_norm
from rung.ops.shorthand import mean_of, permuted
from rung.ops.softmax import logsumexp as _logsumexp
from rung.tensor import elementwise
from rung.tensor.operate import (
    Operand,
    all_axes,
    as_tensor,
    cast_to,
    cast_value,
    common_dtype,
    one_axis,
    torch_names,
)
from rung.tensor.precision import rounded_once
from rung.tensor.state import apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Axis = int | Sequence[int] | None


def _reduce(
    name: str, build: Callable[..., Value], x: Tensor, axis: Axis, keepdims: bool, also: float = 0
) -> Tensor:
    """`build` over some dims; beside its name, it depends on `also`."""
    axes = all_axes(name, axis, x.ndim)
    key = (name, axes, keepdims, also)
    return apply(lambda v: _kept(build(v, dims=axes), axes, keepdims), x, key=key)


def _kept(value: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    return expand_dims(value, axes) if keepdims else value


def _widened(x: Tensor, dtype: object) -> Tensor:
    """What a sum is made in: i64 (u64) for integers and bool, unless `dtype` says otherwise."""
    if dtype is not None:
        return cast_to(x, dt.as_dtype(dtype))
    if x.dtype.is_float:
        return x
    return cast_to(x, dt.uint64 if x.dtype.kind == "u" else dt.int64)


@torch_names
def sum(
    x: Operand, /, axis: Axis = None, dtype: object = None, keepdims: bool = False
) -> Tensor:
    """Sum over `axis`; integers and bool are summed in 64 bits."""
    return _reduce("sum", reduce_sum, _widened(as_tensor(x), dtype), axis, keepdims)


@torch_names
def prod(
    x: Operand, /, axis: Axis = None, dtype: object = None, keepdims: bool = False
) -> Tensor:
    """Product over `axis`; integers and bool are multiplied in 64 bits."""
    return _reduce("prod", r.reduce_prod, _widened(as_tensor(x), dtype), axis, keepdims)


@torch_names
def max(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Largest element over `axis`; NaN if one is NaN. ShapeError where there are none."""
    x = as_tensor(x)
    return _reduce("max", r.reduce_any if x.dtype.is_bool else r.reduce_max, x, axis, keepdims)


@torch_names
def min(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Smallest element over `axis`; NaN if one is NaN. ShapeError where there are none."""
    x = as_tensor(x)
    return _reduce("min", r.reduce_all if x.dtype.is_bool else r.reduce_min, x, axis, keepdims)


@torch_names
def any(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether an element over `axis` is true (not zero)."""
    return _reduce("any", r.reduce_any, cast_to(as_tensor(x), dt.bool_), axis, keepdims)


@torch_names
def all(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over `axis` are true (not zero)."""
    return _reduce("all", r.reduce_all, cast_to(as_tensor(x), dt.bool_), axis, keepdims)


def _floats(x: Operand) -> Tensor:
    x = as_tensor(x)
    return x if x.dtype.is_float else cast_to(x, dt.float32)


@torch_names
def mean(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over `axis`; integers give f32, an empty mean is NaN."""
    return _reduce("mean", _mean_value, _floats(x), axis, keepdims)


def _mean_value(v: Value, dims: tuple[int, ...]) -> Value:
    count = _product(v.shape[d] for d in dims)
    wide = cast_value(v, dt.accumulator(v.type.dtype))
    return cast_value(mean_of(reduce_sum(wide, dims=dims), count), v.type.dtype)


@torch_names
def var(
    x: Operand, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """Variance over `axis`: the squared distances from the mean, over count - `correction`.
    (PyTorch's default is correction=1.)"""

    def build(v: Value, dims: tuple[int, ...]) -> Value:
        return _var_value(v, dims, correction)

    return _reduce("var", build, _floats(x), axis, keepdims, correction)


def _var_value(v: Value, dims: tuple[int, ...], correction: float) -> Value:
    wide = cast_value(v, dt.accumulator(v.type.dtype))
    away = subtract(wide, spread(_mean_value(wide, dims), dims, v.shape))
    count = _product(v.shape[d] for d in dims) - float(correction)
    total = reduce_sum(multiply(away, away), dims=dims)
    return cast_value(mean_of(total, count), v.type.dtype)


@torch_names
@rounded_once
def std(
    x: Operand, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """Square root of the variance over `axis`. (PyTorch's default is correction=1.) Its derivative
    is 0 where it is 0."""
    x = _floats(x)
    axes = all_axes("std", axis, x.ndim)
    count = _product(x.shape[a] for a in axes) - float(correction)
    away = elementwise.subtract(x, mean(x, axes, keepdims=True))
    length = norm(away, axes, keepdims)
    return elementwise.multiply(length, 1 / sqrt(count) if count > 0 else float("nan"))


@torch_names
@rounded_once
def norm(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Square root of the sum of squares over `axis`. Its derivative is 0 where it is 0."""
    return _reduce("norm", euclidean_norm, _floats(x), axis, keepdims)


def nonzero_root(total: Tensor, degree: float) -> Tensor:
    """total ** (1 / degree), with the derivative 0 where `total` is 0, not an infinite one."""
    nothing = total == 0
    safe = elementwise.where(nothing, 1.0, total)
    return elementwise.where(nothing, 0.0, elementwise.pow(safe, 1 / degree))


@torch_names
def logsumexp(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, without overflow."""
    x = _floats(x)
    axes = all_axes("logsumexp", axis, x.ndim)

    def build(v: Value) -> Value:
        rest = [d for d in range(len(v.shape)) if d not in axes]
        shape = tuple(v.shape[d] for d in rest)
        order = (*rest, *axes)
        flat = reshaped(permuted(v, order), (*shape, _product(v.shape[d] for d in axes)))
        return _kept(_logsumexp(flat, dim=len(shape)), axes, keepdims)

    return apply(build, x)


def _arg(op: Op, x: Operand, axis: int | None, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    if x.dtype.is_bool:
        x = cast_to(x, dt.uint8)
    if axis is None:
        ones = (1,) * x.ndim

        def build(v: Value) -> Value:
            found = op(reshaped(v, (v.type.size,)), dim=0)
            return reshaped(found, ones) if keepdims else found

        return apply(build, x)
    dim = one_axis(op.name, axis, x.ndim)
    return apply(lambda v: _kept(op(v, dim=dim), (dim,), keepdims), x)


@torch_names
def argmax(x: Operand, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Position (i64) of the first largest element along `axis`, or in the flattened tensor."""
    return _arg(r.argmax, x, axis, keepdims)


@torch_names
def argmin(x: Operand, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Position (i64) of the first smallest element along `axis`, or in the flattened tensor."""
    return _arg(r.argmin, x, axis, keepdims)


def _cumulative(
    op: Op, x: Operand, axis: int | None, dtype: object, initial: int | None
) -> Tensor:
    x = _widened(as_tensor(x), dtype)
    if axis is None:
        x, axis = apply(lambda v: reshaped(v, (v.type.size,)), x), 0
    dim = one_axis(op.name, axis, x.ndim)

    def build(v: Value) -> Value:
        found = op(v, dim=dim)
        if initial is None:
            return found
        shape = (*v.shape[:dim], 1, *v.shape[dim + 1 :])
        return concat(full(shape, initial, v.type.dtype), found, dim=dim)

    return apply(build, x)


@torch_names
def cumulative_sum(
    x: Operand, /, axis: int | None = None, dtype: object = None, include_initial: bool = False
) -> Tensor:
    """Sums of the elements up to and including each, along `axis` (None: flattened), with a zero
    in front if `include_initial`; integers and bool are summed in 64 bits."""
    return _cumulative(_cumulative_sum, x, axis, dtype, 0 if include_initial else None)


@torch_names
def cumulative_prod(
    x: Operand, /, axis: int | None = None, dtype: object = None, include_initial: bool = False
) -> Tensor:
    """Products of the elements up to and including each, along `axis` (None: flattened), with a one
    in front if `include_initial`; integers and bool are multiplied in 64 bits."""
    return _cumulative(_cumulative_prod, x, axis, dtype, 1 if include_initial else None)


@torch_names
def diff(
    x: Operand,
    /,
    axis: int = -1,
    n: int = 1,
    prepend: Operand = None,
    append: Operand = None,
) -> Tensor:
    """Differences of neighbours along `axis`, `n` times over (0: x itself), with `prepend` in
    front of x and `append` behind it. Raises ShapeError if n is negative, DTypeError for bool."""
    x = as_tensor(x)
    dim = one_axis("diff", axis, x.ndim)
    if n < 0:
        raise ShapeError(f"diff: n={n}", fix="give a number that is not negative")
    if x.dtype.is_bool:
        raise DTypeError(f"diff of {x._type}", fix="cast to a numeric dtype")
    if n == 0:
        return x
    parts = [as_tensor(p) for p in (prepend, x, append) if p is not None]
    dtype = common_dtype(parts)
    n = builtins.min(n, builtins.sum(p.shape[dim] if p.ndim > dim else 0 for p in parts) + 1)

    def build(*values: Value) -> Value:
        together = [cast_value(v, dtype) for v in values]
        found = concat(*together, dim=dim) if len(values) > 1 else together[0]
        for _ in range(n):
            length = found.shape[dim]
            gaps = length - 1 if length else 0
            found = subtract(cut(found, dim, length - gaps, length), cut(found, dim, 0, gaps))
        return found

    return apply(build, *parts)


@torch_names
def count_nonzero(x: Operand, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements over `axis` are not zero (i64)."""
    return sum(cast_to(as_tensor(x), dt.bool_), axis, keepdims=keepdims)
