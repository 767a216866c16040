"""Making tensors. The default dtype is f32 for floats and i64 for integers; the only device is the
CPU."""

from __future__ import annotations

from array import array as pyarray
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType, Scalar
from rung.core.errors import (
    ArgumentError,
    DeviceError,
    DomainError,
    DTypeError,
    InterchangeError,
    RungError,
    ShapeError,
)
from rung.ir.node import Value
from rung.ops.broadcast import broadcasted, reshaped
from rung.ops.creation import full as full_value
from rung.ops.creation import iota
from rung.ops.elementwise import add, cast, equal, multiply, where
from rung.ops.transcendental import power
from rung.tensor.checks import checked
from rung.tensor.operate import Operand, as_tensor, cast_to, copied, from_data, scalar_value
from rung.tensor.shapes import as_lengths, broadcast_to, reshape
from rung.tensor.state import TensorState, apply, buffer_of, new_tensor

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def check_device(device: object) -> None:
    """Raise DeviceError unless the device is the CPU."""
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise DeviceError(f"device {str(device)!r} is not known", fix='the only device is "cpu"')


def names_device(target: object) -> bool:
    """Whether `target`, a dtype or a device, is the name of a device, of this system or another."""
    return isinstance(target, str) and target.split(":")[0] in _DEVICES


_DEVICES = ("cpu", "cuda", "gpu", "hip", "mps", "npu", "rocm", "tpu", "xla", "xpu")


def _dtype(dtype: object, default: DType) -> DType:
    return default if dtype is None else dt.as_dtype(dtype)


def asarray(
    obj: Any, /, dtype: object = None, device: object = None, copy: bool | None = None
) -> Tensor:
    """A tensor of a tensor, a NumPy array, an object with DLPack or the buffer protocol, a number
    or nested sequences. Numbers become f32, i64 or bool.

    The tensor is what the array holds now: `copy=None` shares memory that nobody can write to (that
    of another tensor, of `bytes`, of a file mapped for reading), and copies all else.

    With `copy=False` the tensor is the memory of the array: what is written into the array is the
    value of the tensor from then on, but not of what was computed from it before. An update of the
    tensor puts its new value elsewhere. Raises InterchangeError where the array is not dense or of
    another dtype."""
    check_device(device)
    target = None if dtype is None else dt.as_dtype(dtype)
    if isinstance(obj, TensorState):
        return _of_tensor(obj, target, copy)  # type: ignore[arg-type]
    if isinstance(obj, memoryview | bytearray | pyarray):
        obj = np.asarray(obj)
    elif hasattr(obj, "__dlpack__") and not isinstance(obj, np.ndarray | np.generic):
        obj = dlpack_array(obj)
    return from_data(obj, target, copy)


def dlpack_array(x: Any) -> np.ndarray[Any, Any]:
    """An array of the same memory as an object with `__dlpack__`. Raises InterchangeError."""
    try:
        return np.from_dlpack(x)
    except (AttributeError, BufferError, RuntimeError) as error:
        raise InterchangeError(
            f"from_dlpack: {error}", fix="give an object with __dlpack__, as f32 on the CPU"
        ) from None


def _of_tensor(x: Tensor, dtype: DType | None, copy: bool | None) -> Tensor:
    same = dtype is None or dtype is x.dtype
    if copy is False and not same:
        raise InterchangeError(
            f"asarray: {x._type} cannot become {dtype} without a copy", fix="leave copy=False out"
        )
    return copied(x) if copy and same else cast_to(x, dtype)


def array(data: Any, dtype: object = None, device: object = None) -> Tensor:
    """A tensor of its own: what is given is copied."""
    return asarray(data, dtype, device, copy=True)


def tensor(
    data: Any, dtype: object = None, device: object = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of its own, whose gradients `backward()` follows if `requires_grad`."""
    made = array(data, dtype, device)
    if requires_grad:
        made.requires_grad = True
    return made


def full(
    shape: int | Sequence[int], fill_value: Scalar, dtype: object = None, device: object = None
) -> Tensor:
    """A tensor with every element `fill_value`."""
    check_device(device)
    dims = as_lengths("full", shape)
    if isinstance(fill_value, np.generic):
        fill_value = asarray(fill_value)
    if isinstance(fill_value, TensorState):
        return broadcast_to(cast_to(fill_value, _dtype(dtype, fill_value.dtype)), dims)
    kind = _dtype(dtype, dt.as_dtype(type(fill_value)))
    return new_tensor(broadcasted(scalar_value("full", fill_value, kind), dims))


def zeros(
    shape: int | Sequence[int], *more: Any, dtype: object = None, device: object = None
) -> Tensor:
    """A tensor of zeros, f32 unless given. The lengths of the dims may also be given one by one:
    `zeros(2, 3)`."""
    return _constant(0, shape, more, dtype, device)


def ones(
    shape: int | Sequence[int], *more: Any, dtype: object = None, device: object = None
) -> Tensor:
    """A tensor of ones, f32 unless given. The lengths of the dims may also be given one by one:
    `ones(2, 3)`."""
    return _constant(1, shape, more, dtype, device)


def empty(
    shape: int | Sequence[int], *more: Any, dtype: object = None, device: object = None
) -> Tensor:
    """A tensor whose elements do not matter (they are zero)."""
    return _constant(0, shape, more, dtype, device)


def _constant(value: int, shape: Any, more: tuple[Any, ...], dtype: object, device: object) -> Any:
    """`more`: further lengths, or the dtype (and the device) as NumPy takes it."""
    if more and isinstance(more[0], int | np.integer | TensorState):
        return full((shape, *more), value, _dtype(dtype, dt.float32), device)
    if len(more) > 2 or (more and dtype is not None) or (len(more) == 2 and device is not None):
        raise ArgumentError(
            f"a shape with {len(more)} further arguments that are no lengths",
            fix="give the shape as one tuple, then dtype= and device=",
        )
    given = dict(zip(("dtype", "device"), more, strict=False))
    kind = _dtype(given.get("dtype", dtype), dt.float32)
    return full(shape, value, kind, given.get("device", device))


def full_like(
    x: Operand, /, fill_value: Scalar, dtype: object = None, device: object = None
) -> Tensor:
    """A tensor of the shape (and dtype) of x with every element `fill_value`."""
    x = as_tensor(x)
    return full(x.shape, fill_value, _dtype(dtype, x.dtype), device)


def zeros_like(x: Operand, /, dtype: object = None, device: object = None) -> Tensor:
    """Zeros of the shape (and dtype) of x."""
    return full_like(x, 0, dtype, device)


def ones_like(x: Operand, /, dtype: object = None, device: object = None) -> Tensor:
    """Ones of the shape (and dtype) of x."""
    return full_like(x, 1, dtype, device)


def empty_like(x: Operand, /, dtype: object = None, device: object = None) -> Tensor:
    """A tensor of the shape (and dtype) of x whose elements do not matter (they are zero)."""
    return full_like(x, 0, dtype, device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    dtype: object = None,
    device: object = None,
) -> Tensor:
    """start, start + step, … before stop (`arange(stop)` begins at 0). Integers give i64, and
    what a loop takes of these is weak, as the integers of Python's `range` are."""
    check_device(device)
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ShapeError("arange: the step is zero", fix="give a step that is not zero")
    start, stop, step = (_number(n) for n in (start, stop, step))
    whole = all(isinstance(n, int) for n in (start, stop, step))
    steps = (stop - start) / step
    if not abs(steps) < 1 << 60:
        raise DomainError(
            f"arange: from {start} to {stop} by {step}", fix="give finite numbers, not too many"
        )
    count = len(range(start, stop, step)) if whole else max(ceil((stop - start) / step), 0)
    kind = _dtype(dtype, dt.int64 if whole else dt.float32)
    made = new_tensor(_progression(start, step, count, kind))
    made._range = whole and dtype is None
    return made


def _number(n: Any) -> Any:
    return n.item() if isinstance(n, np.generic | TensorState) else n


def _progression(start: float, step: float, count: int, dtype: DType) -> Value:
    """start + i * step, computed in i64 for integers and in f64 for floats."""
    wide = dt.float64
    if isinstance(start, int) and isinstance(step, int):
        wide, start, step = dt.int64, _wrapped(start), _wrapped(step)
    if (start, step) == (0, 1) and not dtype.is_bool:
        wide = dtype
    found = iota(shape=(count,), dim=0, dtype=wide)
    if step != 1:
        found = multiply(found, full_value((count,), step, wide))
    if start != 0:
        found = add(found, full_value((count,), start, wide))
    return found if dtype is wide else cast(found, dtype=dtype)


def _wrapped(n: int) -> int:
    """The i64 that equals n in its lowest 64 bits."""
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    dtype: object = None,
    device: object = None,
    endpoint: bool = True,
) -> Tensor:
    """`num` numbers from start to stop (without it if not `endpoint`) at equal distances."""
    check_device(device)
    if not 0 <= num < 1 << 60:
        raise ShapeError(f"linspace: num={num}", fix="give a number of elements, 0 or more")
    kind = _dtype(dtype, dt.float32)
    gaps = num - 1 if endpoint else num
    step = (stop - start) / gaps if gaps > 0 else 0.0
    found = _progression(float(start), step, num, dt.float64)
    if endpoint and gaps > 0:
        at = iota(shape=(num,), dim=0, dtype=dt.int64)
        last = equal(at, full_value((num,), gaps, dt.int64))
        found = where(last, full_value((num,), float(stop), dt.float64), found)
    return new_tensor(found if kind is dt.float64 else cast(found, dtype=kind))


def logspace(
    start: float,
    stop: float,
    /,
    num: int,
    base: float = 10.0,
    dtype: object = None,
    device: object = None,
    endpoint: bool = True,
) -> Tensor:
    """`base` to the powers `linspace(start, stop, num)`, computed in f64."""
    powers = linspace(start, stop, num, dt.float64, device, endpoint)
    kind = _dtype(dtype, dt.float32)

    def build(v: Value) -> Value:
        found = power(full_value(v.shape, float(base), dt.float64), v)
        return found if kind is dt.float64 else cast(found, dtype=kind)

    return apply(build, powers)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    k: int = 0,
    dtype: object = None,
    device: object = None,
) -> Tensor:
    """A matrix with ones on diagonal `k` and zeros elsewhere."""
    check_device(device)
    shape = (n_rows, n_rows if n_cols is None else n_cols)
    if min(shape) < 0:
        raise ShapeError(f"eye: shape {list(shape)} has a negative length")
    across = iota(shape=shape, dim=1, dtype=dt.int64)
    down = iota(shape=shape, dim=0, dtype=dt.int64)
    near = max(-shape[0], min(k, shape[1]))
    hit = equal(across, add(down, full_value(shape, near, dt.int64)))
    return new_tensor(cast(hit, dtype=_dtype(dtype, dt.float32)))


def meshgrid(*arrays: Operand, indexing: str = "xy") -> list[Tensor]:
    """Each vector along its own dim of a common grid ("xy" exchanges the first two dims)."""
    if indexing not in ("xy", "ij"):
        raise RungError(f"meshgrid: indexing={indexing!r}", fix='give "xy" or "ij"')
    given = [as_tensor(v) for v in arrays]
    order = list(range(len(given)))
    if indexing == "xy" and len(given) > 1:
        order[:2] = [1, 0]
    shape = tuple(v.size for v in given)
    laid = tuple(shape[i] for i in order)
    found = []
    for i, v in enumerate(given):
        along = tuple(v.size if order[d] == i else 1 for d in range(len(given)))
        found.append(broadcast_to(reshape(v, along), laid))
    return found


def one_hot(x: Operand, num_classes: int = -1, dtype: object = None) -> Tensor:
    """A new last dim with a one at the position x and zeros elsewhere; -1 makes as many classes as
    the largest of x asks for, which inside jit is a TraceError."""
    x = as_tensor(x)
    if x.dtype.is_float:
        raise DTypeError(f"one_hot: positions are {x._type}", fix="give integers")
    if num_classes < -1:
        raise DomainError(f"one_hot: num_classes={num_classes}", fix="0 or more, or -1")
    if num_classes == -1:
        known = buffer_of(x, "the largest class").array.astype(np.int64)
        num_classes = int(known.max(initial=-1)) + 1
    kind = _dtype(dtype, dt.float32)
    x = checked("one_hot: class", x, 0, num_classes - 1, unit="classes")

    def build(v: Value) -> Value:
        shape = (*v.shape, num_classes)
        count = iota(shape=shape, dim=len(shape) - 1, dtype=v.type.dtype)
        from_x = broadcasted(reshaped(v, (*v.shape, 1)), shape)
        return cast(equal(count, from_x), dtype=kind)

    return apply(build, x, differentiable=False)
