"""Ops without operands: constants and counting. Filled arrays are broadcast constants."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType, Scalar, as_dtype
from rung.core.errors import DTypeError, ShapeError
from rung.ir.array import ArrayData, array_data
from rung.ir.expr import const
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, LoopForm, Op, Sample
from rung.ir.types import Shape, TensorType
from rung.ops.broadcast import broadcasted
from rung.ops.eager import movement as moving
from rung.ops.families import NUMBERS, Types, axis_vars, creation, describe_dtypes, scalar_cast
from rung.ops.samples import edge_values, over_dtypes

# ---- constant


@dataclass(frozen=True, eq=False)
class ConstantAttrs(Attrs):
    """A Python scalar, rounded to `dtype`. Equal when the bits are: -0.0 is not 0.0, NaN is NaN.

    Raises DTypeError for an integer that `dtype` cannot hold, or a float for an integer dtype."""

    value: Scalar
    dtype: DType

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", as_dtype(self.dtype))
        object.__setattr__(self, "value", _rounded(self.value, self.dtype))

    def _key(self) -> tuple[object, ...]:
        value = struct.pack("<d", self.value) if self.dtype.is_float else self.value
        return (self.dtype.name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConstantAttrs) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _rounded(value: Scalar, dtype: DType) -> Scalar:
    if dtype.is_float:
        with np.errstate(over="ignore"):
            rounded = float(np.float64(value).astype(dtype.numpy))
        return rounded if rounded == rounded else nan  # there is one NaN, whatever its sign
    if dtype.is_bool:
        return bool(value)
    if isinstance(value, float) and not value.is_integer():
        raise DTypeError(
            f"constant: {value!r} is not an integer, but the dtype is {dtype}",
            fix="give an integer or a float dtype",
        )
    if not dt.fits(int(value), dtype):
        raise DTypeError(
            f"constant: {int(value)} does not fit {dtype}", fix="give a wider dtype, e.g. i64"
        )
    return int(value)


def _constant_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((), ConstantAttrs(v.item(), d)) for d in dt.ALL for v in edge_values(d)]


constant: Op = creation(
    "constant",
    "A scalar.",
    attrs=ConstantAttrs,
    type=lambda attrs, types: (TensorType(attrs.dtype, ()),),
    ref=lambda attrs, operands: (np.array(attrs.value, attrs.dtype.numpy),),
    axes=lambda attrs, types: LoopForm((), (const(attrs.value, attrs.dtype),)),
    eager=lambda attrs, ins, outs: moving.constant(np.array(attrs.value, attrs.dtype.numpy)),
    samples=_constant_samples,
)


# ---- array_constant


@dataclass(frozen=True)
class ArrayAttrs(Attrs):
    """The elements."""

    data: ArrayData

    def __post_init__(self) -> None:
        if not isinstance(self.data, ArrayData):
            object.__setattr__(self, "data", array_data(self.data))


def _array_axes(attrs: ArrayAttrs, types: Types) -> LoopForm:
    axes = axis_vars(attrs.data.type.shape)
    return LoopForm(axes, opaque=axes)


array_constant: Op = creation(
    "array_constant",
    "An array known when the graph is built; for the back ends a read-only buffer.",
    attrs=ArrayAttrs,
    type=lambda attrs, types: (attrs.data.type,),
    ref=lambda attrs, operands: (attrs.data.array,),
    axes=_array_axes,
    eager=lambda attrs, ins, outs: moving.constant(attrs.data.array),
    samples=over_dtypes(
        [
            lambda d: Sample((), ArrayAttrs(array_data(edge_values(d)))),
            lambda d: Sample((), ArrayAttrs(array_data(np.zeros((0, 3), d.numpy)))),
            lambda d: Sample((), ArrayAttrs(array_data(np.ones((2, 3), d.numpy)))),
        ]
    ),
    blank={"emit": "a buffer"},
)


# ---- iota


@dataclass(frozen=True)
class IotaAttrs(Attrs):
    """`shape` and dtype of the result, and the dim along which it counts."""

    shape: Shape
    dim: int
    dtype: DType


def _iota_type(attrs: IotaAttrs, types: Types) -> tuple[TensorType, ...]:
    if attrs.dtype not in NUMBERS:
        raise DTypeError(
            f"iota: takes {describe_dtypes(NUMBERS)}, not {attrs.dtype}", fix="count in i32 or i64"
        )
    if not 0 <= attrs.dim < len(attrs.shape):
        raise ShapeError(
            f"iota: dim {attrs.dim} is out of range for shape {list(attrs.shape)}",
            fix="give a dim of the shape",
        )
    return (TensorType(attrs.dtype, attrs.shape),)


def _iota_ref(attrs: IotaAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    n = attrs.shape[attrs.dim]
    column = np.arange(n).reshape([-1 if d == attrs.dim else 1 for d in range(len(attrs.shape))])
    return (np.array(np.broadcast_to(column, attrs.shape)).astype(attrs.dtype.numpy),)


def _iota_axes(attrs: IotaAttrs, types: Types) -> LoopForm:
    axes = axis_vars(attrs.shape)
    return LoopForm(axes, (scalar_cast(axes[attrs.dim], attrs.dtype),))


iota: Op = creation(
    "iota",
    "0, 1, 2, … along `dim`, repeated along the others; integers wrap around.",
    attrs=IotaAttrs,
    type=_iota_type,
    ref=_iota_ref,
    axes=_iota_axes,
    eager=lambda attrs, ins, outs: moving.iota(outs[0], attrs.dim),
    dtypes=NUMBERS,
    samples=over_dtypes(
        [
            lambda d: Sample((), IotaAttrs((5,), 0, d)),
            lambda d: Sample((), IotaAttrs((3, 7), 1, d)),
            lambda d: Sample((), IotaAttrs((3, 7), 0, d)),
            lambda d: Sample((), IotaAttrs((300,), 0, d)),
            lambda d: Sample((), IotaAttrs((0, 2), 0, d)),
        ],
        NUMBERS,
    ),
)

RECORDS = (constant, array_constant, iota)


# ---- functions


def full(shape: Shape, value: Scalar, dtype: DType) -> Value:
    """An array of `shape` with every element `value`."""
    return broadcasted(constant(value=value, dtype=dtype), shape)


def full_like(x: Value, value: Scalar) -> Value:
    """Shape and dtype of x with every element `value`."""
    return full(x.shape, value, x.type.dtype)


def zeros_like(x: Value) -> Value:
    """Shape and dtype of x with every element zero."""
    return full_like(x, 0)


def array(data: Any, dtype: DType | None = None) -> Value:
    """A constant of anything that NumPy can make an array of. A scalar becomes a `constant`."""
    content = np.asarray(data) if dtype is None else np.asarray(data, dtype.numpy)
    if content.ndim == 0:
        return constant(value=content.item(), dtype=as_dtype(content.dtype))
    return array_constant(data=array_data(content))
