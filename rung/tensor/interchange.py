"""Tensors as NumPy arrays and DLPack capsules, without copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.errors import InterchangeError
from rung.tensor.creation import check_device, dlpack_array
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


CPU = (1, 0)
"""The device type and number of DLPack."""


def to_dlpack(
    tensor: TensorState,
    stream: object = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule of the same memory, or of a copy if `copy`; of the newest version that NumPy
    makes and `max_version` allows. Raises InterchangeError for bf16, a stream or another device."""
    if tensor.dtype.name == "bf16":
        raise InterchangeError("dlpack: NumPy has no bf16", fix="give x.astype(rung.float32)")
    if stream is not None:
        raise InterchangeError(f"dlpack: stream={stream!r} of the CPU", fix="leave stream out")
    if dl_device is not None and tuple(dl_device) != CPU:
        raise InterchangeError(
            f"dlpack: {tensor._type} is on the CPU, not on device {tuple(dl_device)}",
            fix=f"leave dl_device out, or give {CPU}",
        )
    array = exported_array(buffer_of(tensor, "__dlpack__"), writable=True)
    return (array.copy() if copy else array).__dlpack__(max_version=max_version)


def from_dlpack(x: Any, /, *, device: object = None, copy: bool | None = None) -> Tensor:
    """A tensor of the same memory as any object with `__dlpack__` (do not change it afterwards),
    copied where `copy` says so, and for None where it must be.

    Raises InterchangeError for memory or dtypes that cannot be taken over, DeviceError."""
    check_device(device)
    return from_data(dlpack_array(x), None, copy)


def from_numpy(x: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of the same memory as the array (do not change it afterwards)."""
    return from_data(x, None)
