"""Reductions. Sums of floats are products with a vector of ones.

BLAS adds up rows and columns several times faster than `np.add.reduce`, and no slower where the
summed dim is not the last one in memory. BLAS adds many terms one after the other, so longer sums
than `LONG` are added up in parts, rows by BLAS and columns in halves, and the parts in f64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from math import prod
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array, EagerRule
from rung.ir.types import Shape, TensorType
from rung.ops.eager.elementwise import Kernel, is_narrow

Types = Sequence[TensorType]
Function = Callable[..., Any]

LONG: Final = 128
"""How many terms may be added up in one product."""
HALVINGS: Final = 3
"""How often, at most, more terms are added in pairs before."""
PART: Final = 32
"""How many terms of a row BLAS adds up at once: about one for each lane of its vectors."""
_FEW: Final = 512
"""Fewer elements in each of many products than this, and the calls of BLAS cost more."""
_ONES: Final = {d.numpy: np.ones(LONG, d.numpy) for d in (dt.float32, dt.float64)}
_F64: Final = dt.float64.numpy


def _same(x: Array) -> Array:
    return x


# ---- sums of floats


class _Ones:
    """Vectors of ones, parts of one that grows."""

    most: Final = 1 << 19

    def __init__(self) -> None:
        self.whole: Array = np.ones(1024)

    def __call__(self, n: int) -> Array:
        if n > self.most:
            return np.ones(n)
        if n > self.whole.size:
            self.whole = np.ones(2 * n)
        return self.whole[:n]


ones: Final = _Ones()
"""n ones, f64."""


def _units(dtype: np.dtype[Any], n: int) -> Array:
    """n ones of a dtype, of f32 no more than `LONG`."""
    return ones(n) if dtype == _F64 else _ONES[dtype][:n]


def _halved(x: Array, axis: int) -> Array:
    """The sums of the first and second halves along an axis, of these, and so on; in f64 where many
    are left."""
    y = x.swapaxes(0, axis)
    for _ in range(HALVINGS):
        half, odd = divmod(len(y), 2)
        if len(y) <= LONG:
            break
        z: Array = y[:half] + y[half : 2 * half]
        if odd:
            z[0] += y[-1]
        y = z
    y = y.swapaxes(0, axis)
    return y if y.shape[axis] <= LONG else y.astype(_F64)


@lru_cache(maxsize=1024)
def _part(n: int) -> int:
    """The length of equal parts of n terms; 0 if there are none of about `PART` terms."""
    return next((p for p in range(PART, PART // 4, -1) if n % p == 0), 0)


def sum_last(x: Array) -> Array:
    """The sums over the last dim of x[rows, n]."""
    rows, n = x.shape
    if n <= LONG:
        return np.asarray(np.dot(x, _ONES[x.dtype][:n]))
    part = _part(n)
    if part:
        parts = np.dot(x.reshape(-1, part), _ONES[x.dtype][:part]).reshape(rows, n // part)
        return np.asarray(np.dot(parts.astype(_F64), ones(n // part))).astype(x.dtype)
    wide = _halved(x, 1)
    total = np.dot(wide, _units(wide.dtype, wide.shape[1]))
    return np.asarray(total).astype(x.dtype, copy=False)


def sum_middle(x: Array) -> Array:
    """The sums over dim 1 of x[a, n, b]."""
    a, n, b = x.shape
    if n * b < _FEW and a > 8:
        return np.asarray(np.add.reduce(x, axis=1)) if n <= LONG else sum_last(_rows(x))
    if n <= LONG:
        return np.asarray(np.matmul(_ONES[x.dtype][:n], x))
    if b < 8 and a > 1:
        return sum_last(_rows(x)).reshape(a, b)
    wide = _halved(x, 1)
    total = np.matmul(_units(wide.dtype, wide.shape[1]), wide)
    return np.asarray(total).astype(x.dtype, copy=False)


def _rows(x: Array) -> Array:
    a, n, b = x.shape
    return x.transpose(0, 2, 1).reshape(a * b, n)


def _steps(shape: Shape, dims: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The reduction as sums over the middle dim of three, the innermost first."""
    blocks = [
        (gone, prod(shape[d] for d in group))
        for gone, group in groupby(range(len(shape)), lambda d: d in dims)
    ]
    steps = []
    for k in reversed(range(len(blocks))):
        if blocks[k][0] and blocks[k][1] != 1:
            before = prod(n for _, n in blocks[:k])
            after = prod(n for gone, n in blocks[k + 1 :] if not gone)
            steps.append((before, blocks[k][1], after))
    return steps


def _dense_sum(shape: Shape, dims: tuple[int, ...], result: Shape) -> Kernel:
    """The sum of a float array that is dense in memory."""
    steps = _steps(shape, dims)
    if len(steps) == 1 and steps[0][1] <= LONG and 1 in steps[0][::2]:
        return _short_sum(shape, steps[0], result)

    def kernel(x: Array) -> Array:
        for a, n, b in steps:
            x = sum_last(x.reshape(a, n)) if b == 1 else sum_middle(x.reshape(a, n, b))
        return x.reshape(result)

    return kernel


def _short_sum(shape: Shape, step: tuple[int, int, int], result: Shape) -> Kernel:
    """One product: of rows, or of one block of columns."""
    a, n, b = step
    units = {dtype: whole[:n] for dtype, whole in _ONES.items()}
    if a == b == 1:
        return lambda x: np.asarray(np.dot(x.reshape(n), units[x.dtype])).reshape(result)
    if b == 1:
        if shape == (a, n) and result == (a,):
            return lambda x: np.dot(x, units[x.dtype])
        return lambda x: np.dot(x.reshape(a, n), units[x.dtype]).reshape(result)
    if shape == (n, b) and result == (b,):
        return lambda x: np.dot(units[x.dtype], x)
    return lambda x: np.dot(units[x.dtype], x.reshape(n, b)).reshape(result)


def memory_order(x: Array) -> tuple[int, ...]:
    """The dims from the one of the largest stride to the innermost."""
    strides = x.strides
    return tuple(sorted(range(x.ndim), key=lambda d: -abs(strides[d])))


def sum_of(x: TensorType, dims: tuple[int, ...], result: TensorType) -> Kernel | None:
    """The sum over `dims`."""
    if is_narrow(x):
        return None
    if all(x.shape[d] == 1 for d in dims):
        shape = result.shape
        return (lambda x: x.reshape(shape)) if dims else _same
    if not x.size:
        return lambda x: np.zeros(result.shape, x.dtype)
    if not x.dtype.is_float:
        kind = x.dtype.numpy
        return lambda x: np.asarray(np.add.reduce(x, axis=dims, dtype=kind))
    return float_sum(x.shape, dims, result.shape)


def float_sum(shape: Shape, dims: tuple[int, ...], result: Shape) -> Kernel:
    """The sum of a float array with elements, f32 or f64."""
    dense = _dense_sum(shape, dims, result)
    if prod(shape) <= 4096 or len(shape) == 1:
        return dense

    def kernel(x: Array) -> Array:
        if x.flags.c_contiguous:
            return dense(x)
        order = memory_order(x)
        turned = x.transpose(order)
        if not turned.flags.c_contiguous:
            return dense(x)
        kept = [d for d in order if d not in dims]
        gone = tuple(k for k, d in enumerate(order) if d in dims)
        total = _dense_sum(turned.shape, gone, tuple(shape[d] for d in kept))(turned)
        return total.transpose([kept.index(d) for d in sorted(kept)])

    return kernel


# ---- other reductions


def by_reduce(function: np.ufunc) -> EagerRule:
    """The rule of a reduction whose result does not depend on the order, or but a little."""

    def rule(attrs: Any, ins: Types, outs: Types) -> Kernel | None:
        if is_narrow(ins[0]):
            return None
        dims, dtype = attrs.dims, ins[0].dtype.numpy
        if not dims:
            return _same
        axis = dims[0] if len(dims) == 1 else dims
        if function is np.multiply:
            return lambda x: np.asarray(function.reduce(x, axis, dtype))
        if outs[0].shape:
            return lambda x: function.reduce(x, axis)
        return lambda x: np.asarray(function.reduce(x, axis))

    return rule


def by_position(name: str) -> EagerRule:
    """The rule of `argmax` and `argmin`, the methods of arrays."""

    def rule(attrs: Any, ins: Types, outs: Types) -> Kernel | None:
        if is_narrow(ins[0]):
            return None
        dim = attrs.dim
        if name == "argmax":
            return lambda x: np.asarray(x.argmax(dim))
        return lambda x: np.asarray(x.argmin(dim))

    return rule


def cumulative(function: np.ufunc) -> EagerRule:
    """The rule of a running combination; f32 is combined in f64."""

    def rule(attrs: Any, ins: Types, outs: Types) -> Kernel | None:
        if is_narrow(ins[0]):
            return None
        dim, dtype = attrs.dim, ins[0].dtype.numpy
        if ins[0].dtype is dt.float32:
            return lambda x: function.accumulate(x, dim, _F64).astype(dtype)
        return lambda x: function.accumulate(x, dim, dtype)

    return rule


def euclidean(attrs: Any, ins: Types, outs: Types) -> Kernel | None:
    """sqrt(Σ x²): the squares of f32 neither overflow nor underflow in f64."""
    if ins[0].dtype is not dt.float32 or not ins[0].size:
        return None
    total = float_sum(ins[0].shape, attrs.dims, outs[0].shape) if attrs.dims else _same

    def kernel(x: Array) -> Array:
        wide = x.astype(_F64)
        wide *= wide
        return np.asarray(np.sqrt(total(wide))).astype(x.dtype)

    return kernel


