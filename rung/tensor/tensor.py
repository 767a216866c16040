"""The tensor: lazy, with the operators and methods that people know from NumPy and PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import described
from rung.core.changes import FOLLOWED
from rung.core.dtype import Scalar
from rung.core.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GradientError,
    RungError,
    ShapeError,
    TraceError,
)
from rung.ops.broadcast import broadcasted
from rung.tensor import (
    arithmetic,
    arrange,
    autograd,
    elementwise,
    indexing,
    inspection,
    interchange,
    linalg,
    random,
    reductions,
    shapes,
)
from rung.tensor import functional as f
from rung.tensor import sorting as so
from rung.tensor.creation import check_device, names_device
from rung.tensor.in_place import InPlace, in_place
from rung.tensor.leaf import detached
from rung.tensor.methods import Methods
from rung.tensor.operate import (
    Operand,
    as_tensor,
    cast_to,
    cast_value,
    common_shape,
    copied,
    from_data,
    scalar_value,
)
from rung.tensor.pending import note_pending
from rung.tensor.state import (
    TensorState,
    begin_write,
    buffer_of,
    graph_value,
    note_gradient,
    raw_value,
    register_class,
    state,
    write,
)

Int: TypeAlias = int
Bool: TypeAlias = bool
"""Types that methods of a tensor have the names of."""
_KNOWN = (TensorState, bool, int, float, np.ndarray, np.generic)


def _operator(function: Callable[..., Tensor], swap: bool = False) -> Callable[..., Tensor]:
    def method(self: Tensor, other: Operand) -> Tensor:
        if not isinstance(other, _KNOWN):
            return NotImplemented
        return function(other, self) if swap else function(self, other)

    return method


def _updater(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    update = in_place(function)

    def method(self: Tensor, other: Operand) -> Tensor:
        return update(self, other) if isinstance(other, _KNOWN) else NotImplemented

    return method


class Tensor(Methods, InPlace, TensorState):
    """An n-dimensional array of one dtype.

    Operations build a graph; a look at the value (`numpy()`, `item()`, `float()`, `bool()`,
    printing) computes it together with everything else that is pending. No tensor is a
    view of another: `+=` or `x[i] = y` put a new value into `x` alone.

    `Tensor(data)` copies numbers, arrays or a tensor. Floats become f32, integers i64.
    """

    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(
        self, data: Any, dtype: object = None, device: object = None, requires_grad: bool = False
    ) -> None:
        check_device(device)
        target = None if dtype is None else dt.as_dtype(dtype)
        if isinstance(data, TensorState):
            given = cast_to(data, target)  # type: ignore[arg-type]
        else:
            given = from_data(data, target, copy=True)
        _set_data(self, given.detach())
        if requires_grad:
            self.requires_grad = True

    # ---- what it is

    @property
    def device(self) -> str:
        """Where the tensor lives: "cpu"."""
        return "cpu"

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self._type.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._type.nbytes

    @property
    def T(self) -> Tensor:
        """The dims in reverse order."""
        return shapes.permute_dims(self, range(self.ndim)[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two dims exchanged."""
        return shapes.matrix_transpose(self)

    def dim(self) -> int:
        """The number of dims."""
        return self.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.size

    def is_floating_point(self) -> bool:
        """Whether the dtype is a float."""
        return self.dtype.is_float

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len() of a scalar tensor", fix="it has no dims; use .size")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise ShapeError("a scalar tensor cannot be iterated", fix="use .item()")
        rows = (indexing.getitem(self, i) for i in range(self.shape[0]))
        return _as_numbers(rows) if self._range and self.ndim == 1 else rows

    def __repr__(self) -> str:
        if self._trace is not None or state.trace is not None:
            return f"Tensor({self._type}, traced)"
        try:
            array = np.asarray(buffer_of(self).array)
        except TraceError:
            return f"Tensor({self._type}, one example)"
        if array.dtype == dt.bfloat16.numpy:
            array = array.astype(np.float32)
        text = np.array2string(array, separator=", ", prefix="Tensor(", threshold=1000)
        grad = ", requires_grad=True" if self._requires_grad else ""
        line = "\n       " if "\n" in text else " "
        return f"Tensor({text},{line}{self._type}{grad})"

    def __format__(self, spec: str) -> str:
        if not isinstance(spec, str):
            raise ArgumentError(f"format: spec is {type(spec).__name__}", fix="give a str")
        return interchange.formatted(self, spec) if spec else repr(self)

    # ---- looking at the value

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a read-only array of the same memory, not changed by later updates."""
        return interchange.to_numpy(self)

    def item(self) -> Scalar:
        """The only element as a Python number. Raises ShapeError if there are more."""
        if self._type.size != 1:
            raise ShapeError(f"item: {self._type} has {self._type.size} elements, not one")
        value: Any = buffer_of(self, "item()").array.item()
        return value if isinstance(value, bool | int | float) else float(value)

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        array = buffer_of(self, "tolist()").array
        return (array.astype(np.float32) if self.dtype is dt.bfloat16 else array).tolist()

    def realize(self) -> Tensor:
        """Compute the value now, with everything else that is pending."""
        buffer_of(self)
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return interchange.as_array(self, dtype, copy)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> ModuleType:
        return inspection.namespace_of(api_version)

    def __dlpack__(
        self,
        /,
        *,
        stream: Any = None,
        max_version: tuple[Int, Int] | None = None,
        dl_device: tuple[Any, Int] | None = None,
        copy: Bool | None = None,
    ) -> Any:
        return interchange.to_dlpack(self, stream, max_version, dl_device, copy)

    def __copy__(self) -> Tensor:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A tensor of the same class and value, updated independently; no derivative passes."""
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(self._attributes())
        _set_data(made, self.detach())
        made._requires_grad = made._is_leaf = self._is_leaf
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _unpickled,
            (type(self), np.array(self), self._is_leaf),
            self._attributes() or None,
        )

    def _attributes(self) -> dict[str, Any]:
        """What a user has put beside the fields."""
        return {k: v for k, v in self.__dict__.items() if k not in _FIELDS}

    def __dlpack_device__(self, /) -> tuple[Int, Int]:
        return interchange.CPU

    def _single(self, what: str) -> Scalar:
        if self._type.size != 1:
            raise ShapeError(
                f"{what} of a tensor {self._type} with {self._type.size} elements is ambiguous",
                fix="use any(), all() or an element",
            )
        return self.item()

    def __bool__(self) -> bool:
        return bool(self._single("bool()"))

    def __float__(self) -> float:
        return float(self._single("float()"))

    def __int__(self) -> int:
        return int(self._single("int()"))

    def __complex__(self) -> complex:
        return complex(self._single("complex()"))

    def __index__(self) -> int:
        if not self.dtype.is_integer:
            raise DTypeError(f"a tensor {self._type} is no index", fix="give an integer tensor")
        return int(self._single("an index"))

    def __contains__(self, x: Operand) -> bool:
        return bool(reductions.any(elementwise.equal(self, x)))

    # ---- operators

    __add__ = _operator(elementwise.add)
    __radd__ = _operator(elementwise.add, swap=True)
    __sub__ = _operator(elementwise.subtract)
    __rsub__ = _operator(elementwise.subtract, swap=True)
    __mul__ = _operator(elementwise.multiply)
    __rmul__ = _operator(elementwise.multiply, swap=True)
    __truediv__ = _operator(elementwise.divide)
    __rtruediv__ = _operator(elementwise.divide, swap=True)
    __floordiv__ = _operator(elementwise.floor_divide)
    __rfloordiv__ = _operator(elementwise.floor_divide, swap=True)
    __mod__ = _operator(elementwise.remainder)
    __rmod__ = _operator(elementwise.remainder, swap=True)
    __pow__ = _operator(elementwise.pow)
    __rpow__ = _operator(elementwise.pow, swap=True)
    __matmul__ = _operator(linalg.matmul)
    __rmatmul__ = _operator(linalg.matmul, swap=True)
    __and__ = _operator(elementwise.bitwise_and)
    __rand__ = _operator(elementwise.bitwise_and, swap=True)
    __or__ = _operator(elementwise.bitwise_or)
    __ror__ = _operator(elementwise.bitwise_or, swap=True)
    __xor__ = _operator(elementwise.bitwise_xor)
    __rxor__ = _operator(elementwise.bitwise_xor, swap=True)
    __lshift__ = _operator(elementwise.bitwise_left_shift)
    __rlshift__ = _operator(elementwise.bitwise_left_shift, swap=True)
    __rshift__ = _operator(elementwise.bitwise_right_shift)
    __rrshift__ = _operator(elementwise.bitwise_right_shift, swap=True)
    __lt__ = _operator(elementwise.less)
    __le__ = _operator(elementwise.less_equal)
    __gt__ = _operator(elementwise.greater)
    __ge__ = _operator(elementwise.greater_equal)
    __eq__ = _operator(elementwise.equal)  # type: ignore[assignment]
    __ne__ = _operator(elementwise.not_equal)  # type: ignore[assignment]

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)

    def __invert__(self) -> Tensor:
        return elementwise.bitwise_invert(self)

    def __round__(self, digits: int = 0) -> Tensor:
        return arithmetic.round_to(self, digits)

    __getitem__ = indexing.getitem
    __setitem__ = indexing.setitem

    # ---- updates: a new value in the same place

    def _put(self, new: Tensor) -> Tensor:
        """Put the value of `new` into this tensor, after `begin_write`."""
        if new.shape != self.shape:
            raise ShapeError(
                f"an update of {self._type} in place gives {new._type}",
                fix="the result must have the shape of the tensor; write x = x … instead",
            )
        if _rank_of(new.dtype) > _rank_of(self.dtype):
            raise DTypeError(
                f"an update of {self._type} in place gives {new._type}",
                fix="cast the operand, or write x = x … instead",
            )
        write(self, cast_value(graph_value(new), self.dtype), new._requires_grad)
        return self

    __iadd__ = _updater(elementwise.add)
    __isub__ = _updater(elementwise.subtract)
    __imul__ = _updater(elementwise.multiply)
    __itruediv__ = _updater(elementwise.divide)
    __ifloordiv__ = _updater(elementwise.floor_divide)
    __imod__ = _updater(elementwise.remainder)
    __ipow__ = _updater(elementwise.pow)
    __iand__ = _updater(elementwise.bitwise_and)
    __ior__ = _updater(elementwise.bitwise_or)
    __ixor__ = _updater(elementwise.bitwise_xor)
    __ilshift__ = _updater(elementwise.bitwise_left_shift)
    __irshift__ = _updater(elementwise.bitwise_right_shift)
    __imatmul__ = _updater(linalg.matmul)

    def assign(self, x: Operand) -> Tensor:
        """Put the value of x (broadcast, cast) into this tensor. No derivative passes."""
        begin_write(self, leaf=True)
        if not isinstance(x, TensorState) and isinstance(x, bool | int | float):
            value = broadcasted(scalar_value("assign", x, self.dtype), self.shape)
        else:
            given = as_tensor(x)
            if common_shape("assign", [given, self]) != self.shape:
                raise ShapeError(
                    f"assign: {given._type} does not fit {self._type}",
                    fix="give a value of the same shape",
                )
            value = broadcasted(cast_value(raw_value(given), self.dtype), self.shape)
        write(self, detached(value))
        return self

    copy_ = assign

    def fill_(self, value: Scalar) -> Tensor:
        """Make every element `value`."""
        return self.assign(value)

    def zero_(self) -> Tensor:
        """Make every element zero."""
        return self.assign(0)

    # ---- derivatives

    @property
    def requires_grad(self) -> bool:
        """Whether `backward()` follows this tensor."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and not self.dtype.is_float:
            raise GradientError(
                f"requires_grad of a tensor {self._type}", fix="only floats have gradients"
            )
        if self._requires_grad and not self._is_leaf:
            if wanted:
                return
            raise GradientError(
                "requires_grad of a computed tensor cannot be taken away", fix="use x.detach()"
            )
        self._requires_grad = self._is_leaf = wanted
        FOLLOWED.count += 1

    def requires_grad_(self, wanted: bool = True) -> Tensor:
        """Set `requires_grad`; returns the tensor."""
        self.requires_grad = wanted
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether gradients accumulate here (or none are followed)."""
        return self._is_leaf or not self._requires_grad

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward()` has accumulated, or None."""
        trace = state.trace
        return self._grad if trace is None else trace.get_grad(self)

    @grad.setter
    def grad(self, grad: object) -> None:
        if grad is not None and not isinstance(grad, TensorState):
            raise ArgumentError(f"grad is {described(grad)}", fix="give a Tensor or None")
        if grad is not None and grad.shape != self.shape:
            raise ShapeError(f"grad {grad._type} of a tensor {self._type}")
        trace = state.trace
        if trace is not None and self._trace is not trace:
            trace.set_grad(self, grad)
        else:
            if state.mapping > self._level:
                note_gradient(self)
            self._grad = grad

    backward = autograd.backward

    def detach(self) -> Tensor:
        """The same value, through which no derivative passes."""
        return autograd.detach(self)

    def clone(self) -> Tensor:
        """A tensor with the same value, updated independently; derivatives pass."""
        return copied(self)

    copy = clone

    # ---- dtype and device

    def astype(self, dtype: object) -> Tensor:
        """The tensor in another dtype."""
        return cast_to(self, dt.as_dtype(dtype))

    def to(self, target: object, *, dtype: object = None) -> Tensor:
        """The tensor in another dtype, or in that of another tensor; `"cpu"` changes nothing."""
        if isinstance(target, TensorState):
            return cast_to(self, target.dtype)
        if names_device(target):
            check_device(target)
            return self if dtype is None else self.astype(dtype)
        return self.astype(target)

    def to_device(self, device: object, /, *, stream: object = None) -> Tensor:
        """The tensor on another device; there is only `"cpu"`. Raises DeviceError."""
        check_device(device)
        if stream is not None:
            raise DeviceError("to_device: the CPU has no streams", fix="leave stream out")
        return self

    def cpu(self) -> Tensor:
        """The tensor itself."""
        return self

    def float(self) -> Tensor:
        """As f32."""
        return cast_to(self, dt.float32)

    def double(self) -> Tensor:
        """As f64."""
        return cast_to(self, dt.float64)

    def half(self) -> Tensor:
        """As f16."""
        return cast_to(self, dt.float16)

    def bfloat16(self) -> Tensor:
        """As bf16."""
        return cast_to(self, dt.bfloat16)

    def int(self) -> Tensor:
        """As i32."""
        return cast_to(self, dt.int32)

    def long(self) -> Tensor:
        """As i64."""
        return cast_to(self, dt.int64)

    def byte(self) -> Tensor:
        """As u8."""
        return cast_to(self, dt.uint8)

    def char(self) -> Tensor:
        """As i8."""
        return cast_to(self, dt.int8)

    def short(self) -> Tensor:
        """As i16."""
        return cast_to(self, dt.int16)

    def bool(self) -> Tensor:
        """As bool: whether each element is not zero."""
        return cast_to(self, dt.bool_)

    # ---- shape

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape; one length may be -1."""
        return shapes.reshape(self, _spelled(shape))

    view = reshape

    def permute(self, *axes: Any) -> Tensor:
        """Dims in another order."""
        return shapes.permute_dims(self, _spelled(axes))

    def transpose(self, *axes: Any) -> Tensor:
        """With two ints: those dims exchanged; else dims in the order given, or reversed."""
        if len(axes) == 2:
            return shapes.swapaxes(self, *axes)
        return shapes.permute_dims(self, _spelled(axes) or range(self.ndim)[::-1])

    def expand(self, *shape: Any) -> Tensor:
        """Repeated to `shape`; -1 keeps a length."""
        return shapes.broadcast_to(self, _spelled(shape))

    def tile(self, *repetitions: Any) -> Tensor:
        """Repeated as a whole so often along each dim."""
        return shapes.tile(self, _spelled(repetitions))

    def reshape_as(self, other: Tensor) -> Tensor:
        """In the shape of another tensor."""
        return shapes.reshape(self, other.shape)

    view_as = reshape_as

    def expand_as(self, other: Tensor) -> Tensor:
        """Repeated to the shape of another tensor."""
        return shapes.broadcast_to(self, other.shape)

    def contiguous(self) -> Tensor:
        """The tensor itself: all tensors are dense."""
        return self

    flatten = shapes.flatten
    unflatten = shapes.unflatten
    swapaxes = shapes.swapaxes
    permute_dims = shapes.permute_dims
    moveaxis = movedim = shapes.moveaxis
    squeeze = shapes.squeeze
    expand_dims = unsqueeze = shapes.expand_dims
    broadcast_to = expand_to = shapes.broadcast_to
    unbind = unstack = shapes.unstack
    split = shapes.split
    chunk = shapes.chunk
    flip = shapes.flip
    roll = shapes.roll
    repeat = repeat_interleave = shapes.repeat
    pad = shapes.pad
    tril = shapes.tril
    triu = shapes.triu
    diagonal = arrange.diagonal_of

    # ---- reductions, sorting, picking

    sum = reductions.sum
    prod = reductions.prod
    mean = reductions.mean
    var = reductions.var
    std = reductions.std
    max = amax = reductions.max
    min = amin = reductions.min
    argmax = reductions.argmax
    argmin = reductions.argmin
    any = reductions.any
    all = reductions.all
    norm = reductions.norm
    logsumexp = reductions.logsumexp
    cumsum = cumulative_sum = reductions.cumulative_sum
    cumprod = cumulative_prod = reductions.cumulative_prod
    count_nonzero = reductions.count_nonzero
    sort = so.sort
    argsort = so.argsort
    topk = so.topk
    take = so.take
    take_along = take_along_axis = so.take_along_axis
    gather = so.gather
    nonzero = so.nonzero

    # ---- element-wise

    abs = elementwise.abs
    neg = negative = elementwise.negative
    sign = elementwise.sign
    square = elementwise.square
    sqrt = elementwise.sqrt
    rsqrt = elementwise.rsqrt
    reciprocal = elementwise.reciprocal
    exp = elementwise.exp
    exp2 = elementwise.exp2
    expm1 = elementwise.expm1
    log = elementwise.log
    log1p = elementwise.log1p
    log2 = elementwise.log2
    log10 = elementwise.log10
    sin = elementwise.sin
    cos = elementwise.cos
    tan = elementwise.tan
    sinh = elementwise.sinh
    cosh = elementwise.cosh
    tanh = elementwise.tanh
    erf = elementwise.erf
    floor = elementwise.floor
    ceil = elementwise.ceil
    round = arithmetic.round_to
    trunc = elementwise.trunc
    isnan = elementwise.isnan
    isinf = elementwise.isinf
    isfinite = elementwise.isfinite
    clip = clamp = elementwise.clip
    pow = elementwise.pow
    add = arithmetic.add
    sub = subtract = arithmetic.subtract
    mul = multiply = elementwise.multiply
    div = divide = arithmetic.divide
    maximum = elementwise.maximum
    minimum = elementwise.minimum
    eq = elementwise.equal
    ne = elementwise.not_equal
    lt = elementwise.less
    le = elementwise.less_equal
    gt = elementwise.greater
    ge = elementwise.greater_equal
    logical_and = elementwise.logical_and
    logical_or = elementwise.logical_or
    logical_not = elementwise.logical_not
    matmul = linalg.matmul
    dot = linalg.matmul

    def where(self, condition: Operand, other: Operand) -> Tensor:
        """The elements where the condition is true, those of `other` elsewhere."""
        return elementwise.where(condition, self, other)

    # ---- composites

    softmax = f.softmax
    log_softmax = f.log_softmax
    relu = f.relu
    sigmoid = f.sigmoid
    gelu = f.gelu
    silu = f.silu


def _as_numbers(rows: Iterator[Tensor]) -> Iterator[Tensor]:
    """Tensors that stand for Python numbers."""
    for row in rows:
        row._weak = True
        yield row


_FIELDS = frozenset(name for name in vars(TensorState) if name.startswith("_"))


def _set_data(tensor: Tensor, data: Tensor) -> None:
    """Make a new tensor hold what `data` does, which carries no derivative."""
    tensor._type, tensor._buffer, tensor._value = data._type, data._buffer, data._value
    tensor._trace, tensor._depth = data._trace, data._depth
    if tensor._buffer is None and tensor._trace is None:
        note_pending(tensor)


def _unpickled(kind: type[Tensor], array: np.ndarray[Any, Any], requires_grad: bool) -> Tensor:
    tensor = object.__new__(kind)
    _set_data(tensor, from_data(array, None))
    tensor._requires_grad = tensor._is_leaf = requires_grad
    return tensor


def _spelled(given: tuple[Any, ...]) -> Any:
    """The arguments themselves, or the one sequence among them."""
    return given[0] if len(given) == 1 and isinstance(given[0], tuple | list | range) else given


def _rank_of(dtype: dt.DType) -> int:
    return {"b": 0, "u": 1, "i": 1, "f": 2}[dtype.kind]


register_class(Tensor)
random.start()


def check_tensor(x: object, what: str) -> Tensor:
    """x, if it is a tensor. Raises RungError."""
    if not isinstance(x, Tensor):
        raise RungError(f"{what} is {type(x).__name__}, not a tensor")
    return x
