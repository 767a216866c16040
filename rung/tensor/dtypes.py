"""Questions about dtypes, as the array API has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import DTypeError
from rung.tensor.creation import asarray, check_device
from rung.tensor.operate import Operand, as_tensor, is_scalar
from rung.tensor.state import TensorState

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "",
    "numeric": "iuf",
}


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a float dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntegerInfo:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype_of(x: Any) -> DType:
    return x.dtype if isinstance(x, TensorState) else dt.as_dtype(x)


def finfo(type: object, /) -> FloatInfo:
    """Limits of a float dtype (or of that of a tensor). Raises DTypeError for others."""
    kind = _dtype_of(type)
    if not kind.is_float:
        raise DTypeError(f"finfo of {kind}", fix="give a float dtype")
    info = ml_dtypes.finfo(kind.numpy)
    return FloatInfo(
        kind.bits,
        float(info.eps),
        float(info.max),
        float(info.min),
        float(info.smallest_normal),
        kind,
    )


def iinfo(type: object, /) -> IntegerInfo:
    """Limits of an integer dtype (or of that of a tensor). Raises DTypeError for others."""
    kind = _dtype_of(type)
    if not kind.is_integer:
        raise DTypeError(f"iinfo of {kind}", fix="give an integer dtype")
    info = np.iinfo(kind.numpy)
    return IntegerInfo(kind.bits, int(info.max), int(info.min), kind)


def isdtype(dtype: object, kind: Any) -> bool:
    """Whether a dtype is (of) `kind`: a dtype, the name of a kind, or a tuple of these."""
    given = dt.as_dtype(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(given, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return given.kind in _KINDS[kind] and given.kind != ""
    return given is dt.as_dtype(kind)


def result_type(*arrays_and_dtypes: Operand) -> DType:
    """The dtype that tensors, dtypes and Python numbers have together."""
    found: DType | None = None
    scalars = [x for x in arrays_and_dtypes if is_scalar(x)]
    for x in arrays_and_dtypes:
        if not is_scalar(x):
            d = _dtype_of(x)
            found = d if found is None else dt.promote(found, d)
    for value in scalars:
        found = dt.as_dtype(type(value)) if found is None else dt.weak_dtype(value, found)
    if found is None:
        raise DTypeError("result_type of nothing", fix="give tensors, dtypes or numbers")
    return found


def can_cast(from_: Operand, to: object, /) -> bool:
    """Whether promoting `from_` (a dtype or tensor) with `to` gives `to`."""
    source, target = _dtype_of(from_), dt.as_dtype(to)
    return dt.promote(source, target) is target


def astype(
    x: Operand, dtype: object, /, *, copy: bool = True, device: object = None
) -> Tensor:
    """The tensor in another dtype; in its own a copy, or itself if not `copy`."""
    check_device(device)
    return asarray(as_tensor(x), dt.as_dtype(dtype), copy=copy or None)
