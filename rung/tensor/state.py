"""What a tensor holds, how it is read and written, and what a thread is doing (tracing, gradients).

A tensor is a place. It holds a buffer, or a pending graph value, or both (a computed value whose
graph is still needed for a derivative). Its value is never changed under anybody who read it
before: an update puts another value into the place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from rung.core.dtype import DType
from rung.core.errors import GradientError, RungError, TraceError
from rung.core.source import Source, user_source
from rung.ir.node import Value, current_source, provenance
from rung.ir.types import Shape, TensorType
from rung.tensor.leaf import LEAF, Buffer, Example, Placeholder, Step, Tag, detached, tagged
from rung.tensor.linear import linearize
from rung.tensor.pending import evaluate, leaked, lock, note_pending

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor
    from rung.tensor.trace import Trace

MAX_DEPTH = 1000
"""A chain of so many pending operations is computed, so that a loop without a look at anything
does not grow one graph for ever."""


class ThreadState(threading.local):
    """What this thread does: the trace it records into, whether gradients are followed, and how
    many `vmap`s run a function for one example."""

    trace: Trace | None = None
    grad_enabled: bool = True
    mapping: int = 0


state = ThreadState()


@contextmanager
def mapping(holder: Example) -> Iterator[None]:
    """While a function runs on what stands for one of many values: compiled calls run as part of
    it."""
    state.mapping += 1
    holder.level = state.mapping
    try:
        yield
    finally:
        state.mapping -= 1
        holder.live = False


class TensorState:
    """The fields of a tensor and access to them; the public class `Tensor` adds the methods."""

    _type: TensorType
    _buffer: Buffer | None = None
    _value: Value | None = None
    _trace: Trace | None = None
    _requires_grad: bool = False
    _is_leaf: bool = False
    _spent: bool = False
    _gone: str = ""
    _tag: ReferenceType[Value] | None = None
    _grad: Tensor | None = None
    _written: Source | None = None
    _origin: int = 0
    _depth: int = 0
    _level: int = 0

    @property
    def shape(self) -> Shape:
        """The lengths of the dims."""
        return self._type.shape

    @property
    def dtype(self) -> DType:
        """The dtype of the elements."""
        return self._type.dtype

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return len(self._type.shape)

    @property
    def size(self) -> int:
        """The number of elements (see `.shape` for the lengths)."""
        return self._type.size

    @property
    def keeps_graph(self) -> bool:
        """Whether the graph is needed for a derivative after the value is computed."""
        return self._requires_grad and not self._is_leaf and not self._spent


_class: list[type[Any]] = []


def register_class(tensor_class: type[Any]) -> None:
    """Say which class new tensors have."""
    _class[:] = [tensor_class]


def new_tensor(
    value: Value | None = None,
    buffer: Buffer | None = None,
    requires_grad: bool = False,
    depth: int = 0,
) -> Tensor:
    """A tensor that holds a pending value or a buffer."""
    tensor = object.__new__(_class[0])
    trace = state.trace
    if trace is not None:
        tensor._trace = trace
    if state.mapping:
        tensor._level = state.mapping
    if buffer is not None:
        tensor._buffer = buffer
        tensor._type = buffer.type
        return tensor
    assert value is not None
    tensor._value = value
    tensor._type = value.type
    if requires_grad:
        tensor._requires_grad = True
    if trace is None:
        tensor._depth = depth
        note_pending(tensor)
        if depth > MAX_DEPTH and not state.mapping:
            evaluate(tensor)
    return tensor


def stand_in(value: Value, requires_grad: bool = False) -> Tensor:
    """A tensor for one of many values, which belongs to the function that will run on it."""
    tensor = new_tensor(value, requires_grad=requires_grad)
    tensor._level = state.mapping + 1
    return tensor


# ---- reading


def raw_value(tensor: TensorState) -> Value:
    """The graph value that the tensor holds now; inside a trace, that of a tensor from outside is
    what each call will find there."""
    trace = state.trace
    if tensor._trace is not trace:
        if tensor._trace is not None:
            _settle_leaked(tensor)
        if trace is not None:
            return trace.read(tensor)
    value = tensor._value
    if value is not None:
        return value
    buffer = tensor._buffer
    return _settled_value(tensor) if buffer is None else buffer.leaf()


def _settled_value(tensor: TensorState) -> Value:
    """For a tensor that is empty: gone, or just being computed by another thread."""
    with lock:
        if tensor._value is not None:
            return tensor._value
        if tensor._buffer is None:
            raise RungError(f"this tensor {tensor._type} is gone: {tensor._gone}")
        return tensor._buffer.leaf()


def _settle_leaked(tensor: TensorState) -> None:
    """A tensor of a finished trace may go on if nothing of the trace is in it."""
    if tensor._value is not None:
        for holder in linearize([tensor._value], {}).holders:
            if isinstance(holder, Placeholder):
                raise leaked(holder)
    tensor._trace = None
    if tensor._buffer is None:
        note_pending(tensor)


def graph_value(tensor: TensorState) -> Value:
    """The graph value to compute with: marked for derivatives where they are followed."""
    value = raw_value(tensor)
    if not tensor._requires_grad:
        return value
    if tensor._is_leaf:
        return _tagged(tensor, value) if state.grad_enabled else value
    if not state.grad_enabled:
        return detached(value)
    return tagged(value, Tag(freed=True)) if value.node.op is LEAF else value


def _tagged(tensor: TensorState, value: Value) -> Value:
    found = None if tensor._tag is None else tensor._tag()
    if found is None or found.node.inputs[0] is not value:
        found = tagged(value, Tag(tensor))
        tensor._tag = ref(found)
    return found


def buffer_of(tensor: TensorState, what: str = "the value") -> Buffer:
    """The computed content. Computes what is pending. Raises TraceError inside a trace for a tensor
    whose value depends on the call."""
    if state.trace is not None or tensor._trace is not None:
        _check_look(tensor, what)
    buffer = tensor._buffer
    if buffer is None:
        with lock:
            if tensor._buffer is None:
                _settled_value(tensor)
                evaluate(tensor)
            buffer = tensor._buffer
        assert buffer is not None
    return buffer


def _check_look(tensor: TensorState, what: str) -> None:
    trace = state.trace
    if tensor._trace is not trace and tensor._trace is not None:
        _settle_leaked(tensor)
    if trace is None:
        return
    holders = [] if tensor._value is None else linearize([tensor._value], {}).holders
    if tensor._trace is not trace or any(isinstance(h, Placeholder) for h in holders):
        raise TraceError(
            f"{what} of a tensor {tensor._type} is not known while jit traces {trace.name}",
            fix="compute with tensors (where, masks), look at it outside jit, or pass a Python "
            "number as an argument",
        )


# ---- computing


def apply(
    build: Callable[..., Value], *tensors: TensorState, differentiable: bool = True
) -> Tensor:
    """The tensor for `build(*values)`, with what the operands say about gradients."""
    values = [graph_value(t) for t in tensors]
    with provenance(current_source()):
        value = build(*values)
    requires, depth = _inherit(tensors)
    return new_tensor(
        value, requires_grad=requires and differentiable and value.type.dtype.is_float, depth=depth
    )


def apply_many(
    build: Callable[..., Sequence[Value]], *tensors: TensorState
) -> tuple[Tensor, ...]:
    """The tensors for the values `build(*values)`."""
    operands = [graph_value(t) for t in tensors]
    with provenance(current_source()):
        values = build(*operands)
    requires, depth = _inherit(tensors)
    return tuple(
        new_tensor(v, requires_grad=requires and v.type.dtype.is_float, depth=depth)
        for v in values
    )


def _inherit(tensors: Sequence[TensorState]) -> tuple[bool, int]:
    depth, requires = 0, False
    for t in tensors:
        depth = max(depth, t._depth)
        requires = requires or t._requires_grad
    return requires and state.grad_enabled, depth + 1


# ---- writing


def begin_write(tensor: TensorState, leaf: bool = False) -> None:
    """To be called before the new value of an update is built. If the same line has updated the
    tensor before and that is still pending, a loop has come round: compute what is pending.

    `leaf`: a tensor that requires a gradient may be updated. Raises GradientError otherwise."""
    if tensor._is_leaf and state.grad_enabled and not leaf:
        raise GradientError(
            "a tensor that requires a gradient is updated in place",
            fix="update it under rung.no_grad(), or with assign()",
        )
    pending = state.trace is None and not state.mapping and tensor._written is not None
    if pending and tensor._written is user_source():
        evaluate()


def write(tensor: TensorState, value: Value, requires_grad: bool = False) -> None:
    """Put `value` (of the tensor's type) into the tensor. Raises TraceError where that is the value
    of one iteration or example, and the tensor is from outside of the loop or `vmap`."""
    if state.mapping > tensor._level:
        _check_from_outside(tensor, value)
    trace = state.trace
    if trace is not None and tensor._trace is not trace:
        trace.write(tensor, value)
        return
    if tensor._buffer is not None and tensor._value is None:
        tensor._origin = id(tensor._buffer)
    tensor._buffer = None
    tensor._value = value
    tensor._tag = None
    tensor._gone = ""
    if not tensor._is_leaf:
        tensor._requires_grad = requires_grad
        tensor._spent = False
    if trace is None:
        tensor._written = user_source()
        note_pending(tensor)


def _check_from_outside(tensor: TensorState, value: Value) -> None:
    for holder in linearize([value], {}).holders:
        if isinstance(holder, Example) and holder.live and holder.level > tensor._level:
            one = "iteration" if isinstance(holder, Step) else "example"
            raise TraceError(
                f"a tensor {tensor._type} from outside is updated by what {holder.what} computes "
                f"for one {one}",
                fix="return the new value: a loop carries it, and vmap stacks it",
            )
