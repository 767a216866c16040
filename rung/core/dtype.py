"""Data types and their promotion.

Promotion follows NumPy 2: the result of two typed operands depends on their dtypes alone, and a
Python scalar is *weak*: it takes the dtype of the other operand when its kind fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import ml_dtypes
import numpy as np

from rung.core.errors import DTypeError

Scalar = bool | int | float


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type: `name` as in printed text (`f32`), `kind` one of b/i/u/f, `bits` wide. There
    is one object for each, so they compare by identity."""

    name: str
    kind: str
    bits: int
    numpy: np.dtype

    @property
    def itemsize(self) -> int:
        """Bytes per element in memory (bool takes one)."""
        return max(self.bits, 8) // 8

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_bool(self) -> bool:
        return self.kind == "b"

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        return (as_dtype, (self.name,))


def _make(name: str, kind: str, bits: int, numpy: object) -> DType:
    return DType(name, kind, bits, np.dtype(numpy))  # type: ignore[call-overload]


bool_: Final = _make("bool", "b", 1, np.bool_)
int8: Final = _make("i8", "i", 8, np.int8)
int16: Final = _make("i16", "i", 16, np.int16)
int32: Final = _make("i32", "i", 32, np.int32)
int64: Final = _make("i64", "i", 64, np.int64)
uint8: Final = _make("u8", "u", 8, np.uint8)
uint16: Final = _make("u16", "u", 16, np.uint16)
uint32: Final = _make("u32", "u", 32, np.uint32)
uint64: Final = _make("u64", "u", 64, np.uint64)
float16: Final = _make("f16", "f", 16, np.float16)
bfloat16: Final = _make("bf16", "f", 16, ml_dtypes.bfloat16)
float32: Final = _make("f32", "f", 32, np.float32)
float64: Final = _make("f64", "f", 64, np.float64)

ALL: Final[tuple[DType, ...]] = (
    bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
    float16, bfloat16, float32, float64,
)  # fmt: skip
FLOATS: Final = tuple(d for d in ALL if d.is_float)
INTEGERS: Final = tuple(d for d in ALL if d.is_integer)

_BY_NAME: Final[dict[str, DType]] = {d.name: d for d in ALL} | {d.numpy.name: d for d in ALL}
_BY_NUMPY: Final[dict[np.dtype, DType]] = {d.numpy: d for d in ALL}


def as_dtype(x: object) -> DType:
    """The `DType` for a `DType`, a NumPy dtype or scalar type, a name (`f32`, `float32`) or a
    Python type (bool, int → i64, float → f32).

    Raises DTypeError for anything else."""
    if isinstance(x, DType):
        return x
    if isinstance(x, str) and x in _BY_NAME:
        return _BY_NAME[x]
    if x is bool:
        return bool_
    if x is int:
        return int64
    if x is float:
        return float32
    if isinstance(x, np.dtype) and x in _BY_NUMPY:
        return _BY_NUMPY[x]
    try:
        # NumPy takes None for f64, and arrays for the dtype that they have
        if isinstance(x, np.dtype | type) or (x is not None and not hasattr(x, "shape")):
            return _BY_NUMPY[np.dtype(x)]  # type: ignore[call-overload]
        raise KeyError
    except Exception:  # objects with a `dtype` of their own may raise anything
        names = ", ".join(d.name for d in ALL)
        raise DTypeError(f"unknown dtype {_shown(x)}", fix=f"use one of {names}") from None


def _shown(x: object) -> str:
    text = repr(x) if isinstance(x, str | np.dtype | type | None) else f"of type {type(x).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"


@cache
def promote(a: DType, b: DType) -> DType:
    """The common dtype of two typed operands, as `numpy.result_type` has it; bf16 with f16 is f32,
    and bf16 with an integer of up to 8 bits stays bf16, of up to 16 bits is f32, else f64."""
    if a is b:
        return a
    if bfloat16 in (a, b):
        other = b if a is bfloat16 else a
        return _promote_bfloat16(other)
    return _BY_NUMPY[np.promote_types(a.numpy, b.numpy)]


def _promote_bfloat16(other: DType) -> DType:
    if other.is_float:
        return other if other.bits > 16 else float32
    if other.bits <= 8:
        return bfloat16
    return float32 if other.bits <= 16 else float64


def weak_dtype(value: Scalar, other: DType) -> DType:
    """The dtype that the Python scalar `value` takes beside an operand of dtype `other`.

    A scalar whose kind is no higher than the operand's takes its dtype; otherwise it brings the
    default of its own kind (i64 for int, f32 for float; f64 beside 64-bit integers is not forced).
    """
    if isinstance(value, bool | np.bool_):
        return other
    if isinstance(value, int | np.integer):
        return int64 if other.is_bool else other
    return other if other.is_float else float32


def weak_beside(own: DType, other: DType) -> DType:
    """The dtype that what stands for a Python number, of dtype `own`, takes beside an operand of
    dtype `other`: as `weak_dtype` has it for the number."""
    order = {"b": 0, "u": 1, "i": 1, "f": 2}
    return other if order[own.kind] <= order[other.kind] else own


def fits(value: int, dtype: DType) -> bool:
    """Whether the Python integer `value` can be held by the integer type `dtype`."""
    if dtype.kind == "u":
        return 0 <= value < 1 << dtype.bits
    return -(1 << (dtype.bits - 1)) <= value < 1 << (dtype.bits - 1)


def accumulator(dtype: DType) -> DType:
    """The dtype in which sums and products of `dtype` are accumulated (f32 for 16-bit floats)."""
    return float32 if dtype in (float16, bfloat16) else dtype
