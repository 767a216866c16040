"""From what a user gives (tensors, arrays, numbers) to graph values of one dtype and shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from mmap import mmap
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import NO, check_lengths, described, is_sequence, read_int
from rung.core.dtype import DType, Scalar
from rung.core.errors import AxisError, DTypeError, InterchangeError, RungError, ShapeError
from rung.core.source import NOWHERE, user_source
from rung.ir.node import Value, parameter, provenance, sources
from rung.ir.op import Op
from rung.ir.replay import Replay, replay_of
from rung.ir.types import Shape, TensorType
from rung.ops.broadcast import broadcasted
from rung.ops.creation import constant
from rung.ops.elementwise import cast
from rung.tensor.leaf import Buffer, Export, new_buffer, tensor_type
from rung.tensor.state import TensorState, apply, graph_value, inherit, new_tensor, state

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Operand = Any
"""A tensor, a NumPy array or scalar, a Python number, or nested lists of numbers."""
P = ParamSpec("P")
R = TypeVar("R")


def is_scalar(x: object) -> bool:
    """Whether x is a Python (or NumPy) number: its dtype is weak."""
    return isinstance(x, bool | int | float | np.generic)


def is_number(x: object) -> bool:
    """Whether x is a Python number."""
    return isinstance(x, bool | int | float) and not isinstance(x, np.generic)


def as_tensor(x: Operand, dtype: DType | None = None) -> Tensor:
    """x as a tensor: itself, an array as it is now, numbers in the default dtype of their kind (f32
    for floats)."""
    if isinstance(x, TensorState):
        return cast_to(x, dtype)
    return from_data(x, dtype)


def from_data(data: Any, dtype: DType | None, copy: bool | None = None) -> Tensor:
    """A tensor of an array, a number or nested sequences of numbers (or of tensors).

    Of an array that anybody can write to, the tensor gets a copy, unless `copy` is False: then it
    has the same memory, or InterchangeError is raised. True copies read-only ones as well."""
    if isinstance(data, np.ndarray | np.generic):
        check_lengths("array", data.shape)
        array = np.asarray(data)
        given = dt.as_dtype(array.dtype.newbyteorder("="))
        target = given if dtype is None else dtype
        if copy is False:
            if target is given and _can_be_shared(array):
                return borrowed(array)
            raise InterchangeError(
                f"{given}{list(array.shape)} cannot become a dense {target} without a copy",
                fix="leave copy=False out",
            )
        return new_tensor(buffer=_array_buffer(array, target, fresh=False, copy=bool(copy)))
    if copy is False:
        raise InterchangeError(
            f"{type(data).__name__} has no memory that a tensor could share",
            fix="leave copy=False out, or give an array",
        )
    array = sequence_array(data)
    check_lengths("array", array.shape)
    if dtype is None:
        dtype = dt.float32 if array.dtype.kind == "f" else dt.as_dtype(array.dtype)
    fresh = isinstance(data, list | tuple | bool | int | float)  # else another's memory
    return new_tensor(buffer=_array_buffer(array, dtype, fresh, copy=False))


def borrowed(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that is the memory of the array, or a copy where its layout is none of ours."""
    dtype = dt.as_dtype(array.dtype.newbyteorder("="))
    if not _can_be_shared(array):
        return from_data(array, dtype)
    buffer = Buffer(array, tensor_type(dtype, array.shape), owned=False)
    if not _cannot_change(array):
        buffer.exposed = True
    return new_tensor(buffer=buffer)


def sequence_array(data: Any) -> np.ndarray[Any, Any]:
    """An array of a number or nested sequences of numbers. Raises ShapeError, DTypeError."""
    try:
        if isinstance(data, list | tuple):
            data = _plain(data)
        array = np.asarray(data)
    except RungError:
        raise
    except RecursionError:
        raise ShapeError("array: sequences within sequences without end") from None
    except ValueError:
        raise ShapeError(
            "array: nested sequences have different lengths", fix="give rows of equal lengths"
        ) from None
    except Exception as error:  # objects that convert themselves may raise anything
        raise DTypeError(
            f"array: {type(data).__name__} cannot be an array: {error}",
            fix="give bools, integers, floats, or sequences or arrays of them",
        ) from None
    if array.dtype.kind not in "biuf" and array.dtype != dt.bfloat16.numpy:
        element = array.reshape(-1)[0].item() if array.dtype.kind != "O" else _first(data)
        raise DTypeError(
            f"array: {element!r} is no number that a tensor can hold",
            fix="give bools, integers, floats, or sequences or arrays of them",
        )
    if array.dtype == np.float64 and np.abs(array).max(initial=0) >= 2.0**63:
        return _exact_integers(data, array)
    return array


def _exact_integers(data: Any, rounded: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Integers of which some need 64 bits without a sign, which NumPy rounds to floats beside
    others; `rounded` where they are no such integers."""
    exact = np.asarray(data, dtype=object)
    if not all(isinstance(x, int) and 0 <= x < 2**64 for x in exact.flat):
        return rounded
    return exact.astype(np.uint64)


def _first(data: Any) -> Any:
    """The first element of nested sequences that is no number."""
    if not isinstance(data, list | tuple):
        return data
    found = [_first(x) for x in data]
    return next((x for x in found if not isinstance(x, bool | int | float)), None)


def _plain(data: Any) -> Any:
    if isinstance(data, TensorState):
        return np.asarray(data)
    if isinstance(data, list | tuple):
        return [_plain(x) for x in data]
    return data


def _converted(array: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return array.astype(dtype.numpy, copy=False)


def _array_buffer(
    array: np.ndarray[Any, Any], dtype: DType, fresh: bool, copy: bool
) -> Buffer:
    """The array in `dtype`. `fresh`: nobody else has it."""
    type = tensor_type(dtype, array.shape)
    if array.dtype != dtype.numpy or not array.dtype.isnative:
        array, fresh = _converted(array, dtype), True
    if not copy and _can_be_shared(array) and (fresh or _cannot_change(array)):
        return Buffer(array, type, owned=False)
    buffer = new_buffer(type)
    np.copyto(buffer.array, array)
    return buffer


def _can_be_shared(array: np.ndarray[Any, Any]) -> bool:
    return array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative


def _cannot_change(array: np.ndarray[Any, Any]) -> bool:
    """Whether nobody can write to the memory of an array: it is that of a tensor, of `bytes`, or of
    a file that is mapped for reading. One that owns its memory can be made writable again."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    if isinstance(owner, Export):
        return owner.buffer.exposed is None
    if isinstance(owner, memoryview):
        owner = owner.obj
    return isinstance(owner, bytes) or (isinstance(owner, mmap) and memoryview(owner).readonly)


def copied(x: Tensor) -> Tensor:
    """A tensor with the same value, updated independently; derivatives pass."""
    value = graph_value(x)
    tracked = x._requires_grad and state.grad_enabled
    if x._buffer is not None and not tracked and state.trace is None and not state.mapping:
        made = new_tensor(buffer=x._buffer.private())
    else:
        made = new_tensor(value, requires_grad=tracked, depth=x._depth)
    made._weak = x._weak
    return made


def cast_value(value: Value, dtype: DType) -> Value:
    """`value` in `dtype`; itself if it is."""
    return value if value.type.dtype is dtype else cast(value, dtype=dtype)


def cast_to(x: Tensor, dtype: DType | None) -> Tensor:
    """The tensor in `dtype` (None: as it is)."""
    if dtype is None or x.dtype is dtype:
        return x
    return apply(lambda v: cast_value(v, dtype), x, key=("cast", dtype))


def common_dtype(operands: Sequence[Operand]) -> DType:
    """The dtype that tensors and weak scalars have together."""
    found: DType | None = None
    weak: list[DType] = []
    for x in operands:
        if isinstance(x, TensorState):
            if x._weak:
                weak.append(x._type.dtype)
                continue
            found = x._type.dtype if found is None else dt.promote(found, x._type.dtype)
    for x in operands:
        if not isinstance(x, TensorState):
            if weak:
                weak.append(dt.as_dtype(type(x)))
                continue
            found = dt.as_dtype(type(x)) if found is None else dt.weak_dtype(x, found)
    if weak:
        return _beside_weak(found, weak)
    assert found is not None
    return found


def _beside_weak(found: DType | None, weak: Sequence[DType]) -> DType:
    """The common dtype of `found` and of weak operands."""
    for own in weak:
        found = own if found is None else dt.weak_beside(own, found)
    assert found is not None
    state.weak_used = state.weak_used or any(own is not found for own in weak)
    return found


def cast_weak(x: Tensor, dtype: DType, weak: bool = True) -> Tensor:
    """A tensor that stands for a Python number, as one of `dtype`."""
    made = copied(cast_to(x, dtype))
    made._weak = weak
    return made


def weakly(x: Operand) -> Tensor:
    """x as a tensor; a Python number as one that takes the dtype of others beside it."""
    made = as_tensor(x)
    if is_number(x):
        made._weak = True
    return made


def operands_of(given: Sequence[Operand]) -> list[Operand]:
    """Tensors and Python numbers; arrays become tensors."""
    found: list[Operand] = []
    for x in given:
        if isinstance(x, TensorState):
            found.append(x)
        elif isinstance(x, np.generic):
            found.append(x.item() if x.dtype.kind in "biuf" else as_tensor(x))
        elif isinstance(x, bool | int | float):
            found.append(x)
        else:
            found.append(as_tensor(x))
    if not any(isinstance(x, TensorState) for x in found):
        found[0] = as_tensor(found[0])
    return found


def elementwise(
    name: str, build: Callable[..., Value], given: Sequence[Operand], *, floats: bool = False
) -> Tensor:
    """`build` of the operands in their common dtype (at least f32 where `floats`) and shape."""
    if type(build) is Op and state.recorder is None:
        made = _built_again(build, given, floats)
        if made is not None:
            return made
    operands = operands_of(given)
    dtype = common_dtype(operands)
    if floats and not dtype.is_float:
        dtype = dt.float32
    return apply_together(name, build, operands, dtype)


def _built_again(op: Op, given: Sequence[Operand], floats: bool) -> Tensor | None:
    """The op of tensors and Python numbers, as it was built for others of these types; None where
    there are others among the operands."""
    tensors, kinds = [], []
    for x in given:
        if isinstance(x, TensorState):
            if x._weak:
                return None
            tensors.append(x)
            kinds.append(x._type)
        elif type(x) in _NUMBERS:
            kinds.append(type(x))
        else:
            return None
    if not tensors:
        return None
    key = (op, floats, *kinds)
    known = _known.get(key)
    if known is None:
        known = _built_first(op, given, floats, tensors)
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[key] = known
    replay, dtype, shape = known
    values = [
        graph_value(x) if isinstance(x, TensorState) else scalar_value(op.name, x, dtype, shape)
        for x in given
    ]
    there = sources()
    value = replay.build(values, there[-1] if there else user_source())[0]
    assert value is not None
    requires, depth = inherit(tensors)
    return new_tensor(value, requires_grad=requires and value.type.dtype.is_float, depth=depth)


_NUMBERS = frozenset((bool, int, float))
_MAX_KNOWN = 1 << 14
_known: dict[tuple[Any, ...], tuple[Replay, DType, Shape]] = {}


def _built_first(
    op: Op, given: Sequence[Operand], floats: bool, tensors: Sequence[TensorState]
) -> tuple[Replay, DType, Shape]:
    """How the op is built of operands of these types, the dtype in which it computes, and the
    shape. Raises what building it raises."""
    dtype = common_dtype(given)
    if floats and not dtype.is_float:
        dtype = dt.float32
    shape = common_shape(op.name, tensors)
    with provenance(NOWHERE):
        types = [
            x._type if isinstance(x, TensorState) else TensorType(dtype, shape) for x in given
        ]
        params = [parameter(i, "x", t) for i, t in enumerate(types)]
        found = op(*[broadcasted(cast_value(p, dtype), shape) for p in params])
    replay = replay_of(params, [found])
    assert replay is not None
    return replay, dtype, shape


def apply_together(
    name: str, build: Callable[..., Value], operands: Sequence[Operand], dtype: DType
) -> Tensor:
    """`build` of the operands in `dtype` and their common shape."""
    tensors = [x for x in operands if isinstance(x, TensorState)]
    shape = common_shape(name, tensors)

    def together(*values: Value) -> Value:
        given = iter(values)
        return build(
            *[
                broadcasted(cast_value(next(given), dtype), shape)
                if isinstance(x, TensorState)
                else scalar_value(name, x, dtype, shape)
                for x in operands
            ]
        )

    made = apply(together, *tensors)
    if tensors[0]._weak and len(tensors) == sum(t._weak for t in tensors):
        made._weak = not made.dtype.is_bool
    return made


def scalar_value(name: str, x: Scalar, dtype: DType, shape: Shape = ()) -> Value:
    """The constant x in every element. Raises DTypeError if an integer does not fit, and for what
    is no number."""
    if not isinstance(x, bool | int | float):
        raise DTypeError(f"{name}: {described(x)} is no number", fix="give a bool, int or float")
    if dtype.is_integer and not isinstance(x, float) and not dt.fits(int(x), dtype):
        raise DTypeError(
            f"{name}: the Python integer {x} does not fit {dtype}",
            fix="cast the tensor to a wider dtype first",
        )
    return _constant(x.hex() if isinstance(x, float) else x, type(x), dtype, shape)


@lru_cache(maxsize=4096)
def _constant(bits: str | int, kind: type, dtype: DType, shape: Shape) -> Value:
    """A constant, made once for each value (by its bits), dtype and shape; it has no line."""
    value = float.fromhex(bits) if isinstance(bits, str) else kind(bits)
    with provenance(NOWHERE):
        return broadcasted(constant(value=value, dtype=dtype), shape)


def common_shape(name: str, tensors: Sequence[TensorState]) -> Shape:
    """The shape that the tensors broadcast to. Raises ShapeError."""
    first = tensors[0]._type.shape
    if all(t._type.shape == first for t in tensors):
        return first
    try:
        return np.broadcast_shapes(*[t._type.shape for t in tensors])
    except ValueError:
        given = " and ".join(str(t._type) for t in tensors)
        raise ShapeError(
            f"{name}: shapes do not broadcast: {given}",
            fix="from the last dim on, lengths must be equal or 1; reshape or add a dim with None",
        ) from None


# ---- axes


def one_axis(name: str, axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises AxisError."""
    number = read_int(axis)
    if number is NO:
        raise AxisError(f"{name}: axis {described(axis)} is not an integer")
    number = int(number)
    if not -rank <= number < rank:
        fix = f"axes go from {-rank} to {rank - 1}" if rank else "a scalar has no axes"
        raise AxisError(f"{name}: axis {axis} is out of range for {rank} dims", fix=fix)
    return number % rank


def all_axes(name: str, axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The axes counted from the front, rising; None = all. Raises AxisError."""
    if axis is None:
        return tuple(range(rank))
    given = tuple(axis) if is_sequence(axis) else (axis,)  # type: ignore[arg-type]
    axes = sorted(one_axis(name, a, rank) for a in given)  # type: ignore[arg-type]
    if len(set(axes)) != len(axes):
        raise AxisError(f"{name}: axes {tuple(given)} name one twice", fix="name each axis once")
    return tuple(axes)


def torch_names(function: Callable[P, R]) -> Callable[P, R]:
    """Also take `dim` for `axis` and `keepdim` for `keepdims`, as PyTorch has them."""

    @wraps(function)
    def renamed(*args: Any, **kwargs: Any) -> R:
        if kwargs:
            if "dim" in kwargs:
                kwargs["axis"] = kwargs.pop("dim")
            if "keepdim" in kwargs:
                kwargs["keepdims"] = kwargs.pop("keepdim")
        return function(*args, **kwargs)

    return renamed  # type: ignore[return-value]
