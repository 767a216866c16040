"""Element-wise ops by NumPy's universal functions.

NumPy's f32 functions of analysis are wrong by two to four units in the last place; where PyTorch
and JAX are better by more than a factor of two, f32 is computed in f64 and rounded once. NumPy
casts in blocks that stay in the cache, so that this costs no pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.ir.op import Array, Attrs, EagerKernel, EagerRule
from rung.ir.types import TensorType

Types = Sequence[TensorType]
Function = Callable[..., Any]
Kernel = Callable[..., Array]
"""A kernel of one result."""

SMALL: Final = 2048
"""Up to so many elements three calls on whole arrays cost less than one that casts in blocks."""
_F32: Final = dt.float32.numpy
_F64: Final = dt.float64.numpy
_INTS: Final[dict[int, np.dtype[Any]]] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def is_narrow(type: TensorType) -> bool:
    """Whether it is of 16-bit floats, which are computed in f32."""
    return type.dtype.bits == 16 and type.dtype.is_float


def as_array(function: Function) -> Kernel:
    """A function of NumPy that gives scalars for arrays without dims, giving arrays."""

    def kernel(*operands: Array) -> Array:
        return np.asarray(function(*operands))

    return kernel


def by_ufunc(function: Function) -> EagerRule:
    """The rule of an op that is a universal function."""
    scalar = as_array(function)

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Kernel | None:
        if is_narrow(ins[0]):
            return None
        return function if outs[0].shape else scalar

    return rule


def in_double(function: Function) -> EagerRule:
    """The rule of a universal function that is computed in f64 where the operands are f32."""
    scalar = as_array(function)

    def small(*operands: Array) -> Array:
        return np.asarray(function(*[x.astype(_F64) for x in operands])).astype(_F32)

    def large(*operands: Array) -> Array:
        result = np.empty(operands[0].shape, _F32)
        function(*operands, out=result, dtype=_F64, casting="unsafe")
        return result

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Kernel | None:
        if is_narrow(ins[0]):
            return None
        if ins[0].dtype is dt.float32:
            return small if outs[0].size <= SMALL else large
        return function if outs[0].shape else scalar

    return rule


def by_function(function: Function) -> EagerRule:
    """The rule of an op that some function of arrays computes, of any dtype but 16-bit floats."""

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Kernel | None:
        return None if is_narrow(ins[0]) else as_array(function)

    return rule


def power_rule(integers: Function) -> EagerRule:
    """Powers: of floats NumPy's; those of integers by `integers`."""
    floats, whole = in_double(np.power), as_array(integers)

    def rule(attrs: Attrs, ins: Types, outs: Types) -> EagerKernel | None:
        return whole if ins[0].dtype.kind == "i" else floats(attrs, ins, outs)

    return rule


def _inverse_root(x: Array) -> Any:
    return np.reciprocal(np.sqrt(x))


inverse_root: Final = by_ufunc(_inverse_root)
"""1 / sqrt(x)."""


# ---- where, cast, bitcast


def _chosen_bits(ints: np.dtype[Any], condition: Array, x: Array, y: Array) -> Array:
    """x or y by their bits: NumPy's `where` takes a branch for each element."""
    mask = np.negative(condition.view(np.int8)).astype(ints)
    bits: Array = np.bitwise_xor(x.view(ints), y.view(ints))
    bits &= mask
    bits ^= y.view(ints)
    return bits.view(x.dtype)


_CHOOSE: Final = {size: partial(_chosen_bits, ints) for size, ints in _INTS.items()}


def choose(attrs: Attrs, ins: Types, outs: Types) -> Kernel:
    """`where`."""
    if outs[0].size > SMALL:
        return _CHOOSE.get(outs[0].dtype.itemsize, np.where)
    return np.where


def _same(x: Array) -> Array:
    return x


def cast_kernel(
    source: DType, to: DType, saturated: Callable[[Array, DType], Array]
) -> Kernel:
    """The kernel of a cast; `saturated` is that of a float to an integer."""
    if source is to:
        return _same
    target = to.numpy
    if to.is_integer and source.is_float:
        if source.bits == 16:
            return lambda x: saturated(x.astype(_F32), to)
        return lambda x: saturated(x, to)
    if source.bits == 16 and source.is_float:
        if to is dt.float32:
            return lambda x: x.astype(_F32)
        return lambda x: x.astype(_F32).astype(target)
    return lambda x: x.astype(target)


def bitcast_kernel(to: DType) -> Kernel:
    """The same bits as another dtype."""
    target = to.numpy
    return lambda x: x.view(target)


same: Final[EagerRule] = lambda attrs, ins, outs: _same  # noqa: E731
"""The rule of an op that gives its operand."""
