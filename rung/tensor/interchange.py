"""Tensors as NumPy arrays and DLPack capsules, without copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.arguments import described, read_int
from rung.core.errors import ArgumentError, DomainError, DTypeError, InterchangeError
from rung.tensor.creation import check_device, dlpack_array
from rung.tensor.leaf import Buffer, Export, copied_buffer, others
from rung.tensor.operate import borrowed, from_data
from rung.tensor.state import TensorState, buffer_of

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def to_numpy(tensor: TensorState) -> np.ndarray[Any, Any]:
    """The value as a read-only array of the same memory: a snapshot that later updates of the
    tensor do not change. `numpy.array(x)` makes a copy that may be written."""
    return Export(buffer_of(tensor, "numpy()"), writable=False).array()


def as_array(tensor: TensorState, dtype: Any, copy: bool | None) -> np.ndarray[Any, Any]:
    """What `numpy.asarray(tensor, dtype, copy=copy)` gives."""
    array = to_numpy(tensor)
    if dtype is not None and (wanted := _numpy_dtype(dtype)) != array.dtype:
        if copy is False:
            raise InterchangeError(f"{array.dtype} cannot become {wanted} without a copy")
        return array.astype(wanted)
    return array if copy is None or copy is False else array.copy()


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        return np.dtype(dtype)
    except (TypeError, ValueError):
        raise DTypeError(f"{described(dtype)} is no dtype of NumPy") from None


def formatted(tensor: Tensor, spec: str) -> str:
    """The one number of a tensor without dims, by Python's format specification."""
    if tensor.shape:
        raise ArgumentError(
            f"format: {spec!r} of a tensor {tensor._type}",
            fix="it formats one number: format x[i], or numpy.array2string(x.numpy())",
        )
    number = tensor.item()
    try:
        return format(number, spec)
    except ValueError as error:
        raise DomainError(
            f"format: {spec!r} of a {type(number).__name__} from {tensor._type}: {error}",
            fix="give a specification for such numbers, as .3f or e for floats, d or x for ints",
        ) from None


CPU = (1, 0)
"""The device type and number of DLPack."""


def to_dlpack(
    tensor: TensorState,
    stream: object = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule of the memory of this tensor, or of a copy if `copy`; of the newest version
    that NumPy makes and `max_version` allows.

    What is written through it is the value of this tensor from then on, and of no other: memory
    that it shares with others (clones, parts) is copied first. An update of the tensor puts its new
    value elsewhere. Raises InterchangeError for bf16, a stream or another device."""
    if tensor.dtype.name == "bf16":
        raise InterchangeError("dlpack: NumPy has no bf16", fix="give x.astype(rung.float32)")
    if stream is not None:
        raise InterchangeError(f"dlpack: stream={stream!r} of the CPU", fix="leave stream out")
    if dl_device is not None and not _is_cpu(dl_device):
        raise InterchangeError(
            f"dlpack: {tensor._type} is on the CPU, not on device {described(dl_device)}",
            fix=f"leave dl_device out, or give {CPU}",
        )
    array = Export(_own_buffer(tensor), writable=True).array()
    return (array.copy() if copy else array).__dlpack__(max_version=max_version)


def _is_cpu(device: Any) -> bool:
    return isinstance(device, tuple | list) and tuple(map(read_int, device)) == CPU


def _own_buffer(tensor: TensorState) -> Buffer:
    """The memory of a tensor, which nobody else holds from now on. One whose graph is needed for a
    derivative keeps what it has."""
    found = [buffer_of(tensor, "__dlpack__")]
    if found[0].exposed is not None and found[0].can_change():
        return found[0]
    if found[0].owned and found[0].base is None and others(found, 0) == 1:
        return found[0]
    made = copied_buffer(found[0])
    if tensor._value is None:
        tensor._buffer = made
    return made


def from_dlpack(x: Any, /, *, device: object = None, copy: bool | None = None) -> Tensor:
    """A tensor of the same memory as any object with `__dlpack__`, as `asarray(x, copy=False)`;
    copied where `copy` says so, and for None where it must be.

    Raises InterchangeError for memory or dtypes that cannot be taken over, DeviceError."""
    check_device(device)
    array = dlpack_array(x)
    return borrowed(array) if copy is None else from_data(array, None, copy)


def from_numpy(x: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of the same memory as the array, as `asarray(x, copy=False)`; a copy where the array
    is not dense. Outside of `jit`, each operation on it copies it first."""
    return borrowed(np.asarray(x))
