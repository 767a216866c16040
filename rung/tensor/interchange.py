"""Tensors as NumPy arrays and DLPack capsules, without copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.dtype import DType
from rung.core.errors import DTypeError
from rung.tensor.leaf import Buffer
from rung.tensor.operate import from_data
from rung.tensor.state import TensorState, buffer_of

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


class _Export:
    """Memory of a buffer for NumPy. Arrays made from it hold it, so the buffer lives as long as
    they do and is not overwritten meanwhile."""

    __slots__ = ("__array_interface__", "_buffer")

    def __init__(self, buffer: Buffer, writable: bool) -> None:
        self._buffer = buffer
        size = buffer.type.dtype.itemsize
        kind = buffer.type.dtype.kind
        self.__array_interface__ = {
            "version": 3,
            "shape": buffer.type.shape,
            "typestr": f"<u{size}" if kind in "fb" else f"<{kind}{size}",
            "data": (buffer.pointer, not writable),
        }


def exported_array(buffer: Buffer, writable: bool = False) -> np.ndarray[Any, Any]:
    """The content as an array of the same memory."""
    array = np.asarray(_Export(buffer, writable))
    wanted = buffer.type.dtype.numpy
    return array if array.dtype == wanted else array.view(wanted)


def to_numpy(tensor: TensorState) -> np.ndarray[Any, Any]:
    """The value as a read-only array of the same memory: a snapshot that later updates of the
    tensor do not change. `numpy.array(x)` makes a copy that may be written."""
    return exported_array(buffer_of(tensor, "numpy()"))


def as_array(tensor: TensorState, dtype: Any, copy: bool | None) -> np.ndarray[Any, Any]:
    """What `numpy.asarray(tensor, dtype, copy=copy)` gives."""
    array = to_numpy(tensor)
    if dtype is not None and np.dtype(dtype) != array.dtype:
        if copy is False:
            raise ValueError(f"{array.dtype} cannot become {np.dtype(dtype)} without a copy")
        return array.astype(dtype)
    return array.copy() if copy else array


def to_dlpack(tensor: TensorState, **options: Any) -> Any:
    """A DLPack capsule of the same memory."""
    _check_dlpack(tensor.dtype)
    array = exported_array(buffer_of(tensor, "__dlpack__"), writable=True)
    options.pop("stream", None)
    return array.__dlpack__(**options)


def _check_dlpack(dtype: DType) -> None:
    if dtype.name == "bf16":
        raise DTypeError("dlpack: NumPy has no bf16", fix="convert with x.astype(rung.float32)")


def from_dlpack(x: Any) -> Tensor:
    """A tensor of the same memory as any object with `__dlpack__` (do not change it afterwards)."""
    try:
        array = np.from_dlpack(x)
    except (BufferError, RuntimeError) as error:
        raise DTypeError(
            f"from_dlpack: {error}", fix="convert it to f32 on the CPU first"
        ) from None
    return from_data(array, None, copy=False)


def from_numpy(x: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of the same memory as the array (do not change it afterwards)."""
    return from_data(x, None, copy=False)
