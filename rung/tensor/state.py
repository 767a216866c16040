"""What a tensor holds, how it is read and written, and what a thread is doing (tracing, gradients).

A tensor is a place. It holds a buffer, or a pending graph value, or both (a computed value whose
graph is still needed for a derivative). Its value is never changed under anybody who read it
before: an update puts another value into the place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import ReferenceType, ref

from rung.core.changes import FOLLOWED
from rung.core.dtype import DType
from rung.core.errors import GradientError, RungError, TraceError
from rung.core.source import NOWHERE, Source, user_source
from rung.ir.node import Value, keeping_sources, parameter, provenance, sources
from rung.ir.replay import Replay, replay_of
from rung.ir.subgraph import moved_values, reached
from rung.ir.types import Shape, TensorType
from rung.tensor.leaf import (
    LEAF,
    Buffer,
    Example,
    Place,
    Placeholder,
    Tag,
    detached,
    leaf_value,
    tagged,
)
from rung.tensor.linear import linearize
from rung.tensor.pending import evaluate, leaked, lock, note_pending, undo_attempts

if TYPE_CHECKING:
    from rung.tensor.reads import Recorder
    from rung.tensor.tensor import Tensor
    from rung.tensor.trace import Trace

P = ParamSpec("P")
R = TypeVar("R")
MAX_DEPTH = 1000
"""A chain of so many pending operations is computed, so that a loop without a look at anything
does not grow one graph for ever."""


class ThreadState(threading.local):
    """What this thread does: the trace it records into, whether gradients are followed, how many
    functions run for many values (`frames`, of which a derivative rule has none), and the checks
    that the innermost of these has made (what it computes must not fail outside of it)."""

    trace: Trace | None = None
    recorder: Recorder | None = None
    grad_enabled: bool = True
    mapping: int = 0
    frames: tuple[Example | None, ...] = ()
    weak_used: bool = False

    def __init__(self) -> None:
        self.checks: list[Value] = []


state = ThreadState()


class framed:
    """Within these functions that run for many values. Whoever has such a block is
    `keeping_frames`: its end may be interrupted before it has begun."""

    __slots__ = ("before", "frames")

    def __init__(self, frames: tuple[Example | None, ...]) -> None:
        self.frames, self.before = frames, state.frames

    def __enter__(self) -> None:
        state.frames, state.mapping = self.frames, len(self.frames)

    def __exit__(self, *_: object) -> None:
        state.frames, state.mapping = self.before, len(self.before)


class mapping:
    """While a function runs on what stands for one of many values: compiled calls run as part of
    it, and tensors from outside are read and updated at their places in `holder`."""

    __slots__ = ("checks", "framed", "holder")

    def __init__(self, holder: Example) -> None:
        self.holder, self.checks = holder, state.checks
        self.framed = framed((*state.frames, holder))

    def __enter__(self) -> None:
        self.holder.follow = state.grad_enabled
        self.holder.level = len(self.framed.frames)
        state.checks = []
        self.framed.__enter__()

    def __exit__(self, *_: object) -> None:
        self.framed.__exit__()
        state.checks = [*self.checks, *state.checks] if state.frames else []
        self.holder.close()


def keeping_frames(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, after which the thread is in those functions in which it was before, also where
    the end of a block in it was interrupted; it is keeping sources too."""

    @wraps(function)
    @keeping_sources
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        frames, level, checks = state.frames, state.mapping, state.checks
        try:
            return function(*args, **kwargs)
        finally:
            inside = state.frames
            if inside is not frames:  # nothing is called before these are set
                state.frames, state.mapping, state.checks = frames, level, checks
                for holder in inside[level:]:
                    if holder is not None:
                        holder.close()

    return call


def note_checks(values: Sequence[Value]) -> None:
    """Remember that the function of a loop or branch has made these: checks, or results of
    something with a check inside."""
    if state.frames:
        state.checks += values


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
    _weak: bool = False
    """It stands for a Python number: beside others it takes their dtype."""
    _draws: bool = False
    """It counts what a random generator has drawn."""
    _range: bool = False
    """Its elements are those of Python's `range`."""

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


# ---- reading


def raw_value(tensor: TensorState) -> Value:
    """The graph value that the tensor holds now; inside a trace, that of a tensor from outside is
    what each call will find there, and inside a loop what an iteration will."""
    if state.mapping > tensor._level:
        place = _place(tensor)
        if place is not None:
            return place.value
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


def _places(tensor: TensorState) -> Iterator[tuple[Example, Place | None]]:
    """The functions for many values that a tensor is from outside of, the innermost first, with the
    place that it has there."""
    frames = state.frames
    for at in range(len(frames) - 1, tensor._level - 1, -1):
        frame = frames[at]
        if frame is None:
            continue
        if not frame.keeps(tensor):
            yield frame, None
            continue
        found = frame.places.get(id(tensor))
        if found is None:
            enabled, level, outside = state.grad_enabled, state.mapping, frames[:at]
            try:
                state.grad_enabled, state.frames, state.mapping = frame.follow, outside, at
                outer = graph_value(tensor)
            finally:
                state.grad_enabled, state.frames, state.mapping = enabled, frames, level
            found = Place(tensor, leaf_value(frame, tensor._type), outer)
            frame.places[id(tensor)] = found
        yield frame, found


def _place(tensor: TensorState) -> Place | None:
    return next((place for _, place in _places(tensor) if place is not None), None)


def is_updated_inside(tensor: TensorState) -> bool:
    """Whether a loop body that is being traced has updated a tensor from outside of it."""
    if state.mapping <= tensor._level:
        return False
    return any(place is not None and place.written for _, place in _places(tensor))


def _settled_value(tensor: TensorState) -> Value:
    """For a tensor that is empty: gone, or just being computed by another thread."""
    with lock:
        undo_attempts()  # this is a signal handler, or an exception has ended the evaluation
        if tensor._value is not None:
            return tensor._value
        if tensor._buffer is None:
            raise RungError(f"this tensor {tensor._type} is gone: {tensor._gone}")
        return tensor._buffer.leaf()


def give_up_attempts() -> None:
    """To be called before another value is put into a tensor that is empty: it may be about to be
    computed."""
    with lock:
        undo_attempts()


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
        return _tagged(tensor, value) if state.grad_enabled else detached(value)
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
    if state.mapping:
        _look_from_inside(tensor)
    buffer = tensor._buffer
    if buffer is None:
        with lock:
            if tensor._buffer is None:
                _settled_value(tensor)
                evaluate(tensor, alone=state.mapping > 0)
            buffer = tensor._buffer
        assert buffer is not None
    return buffer


def _look_from_inside(tensor: TensorState) -> None:
    """A look at a tensor while a function runs for many values: what no iteration changes has one
    value, which is that outside. It must not be changed after that."""
    for frame, place in _places(tensor):
        if place is None:
            continue
        if place.written:
            raise leaked(frame)
        place.looked = True
    if tensor._buffer is None and tensor._value is not None:
        places = {p.start: p for f in state.frames if f is not None for p in f.places.values()}
        while True:
            known = {v: p.outer for v, p in places.items() if not p.written}
            read = [places[v] for v in reached(tensor._value, known)]
            if not read:
                break
            for place in read:
                place.looked = True
            tensor._value = moved_values([tensor._value], known)[0]


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


def unrecorded(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call what calls no function of the user, while it is recorded what these read: nothing is
    looked at."""
    recorder = state.recorder
    if recorder is None:
        return function(*args, **kwargs)
    depth = recorder.pause()
    try:
        return function(*args, **kwargs)
    finally:
        recorder.resume(depth)


@contextmanager
def recorded() -> Iterator[None]:
    """While a function of the user runs within what is `unrecorded`."""
    recorder = state.recorder
    if recorder is None:
        yield
        return
    depth = recorder.go_on()
    try:
        yield
    finally:
        recorder.stop(depth)


_MAX_BUILT = 1 << 14
_built: dict[tuple[Any, ...], Replay | None] = {}


def _replay(build: Callable[..., Value], key: Hashable, tensors: Sequence[TensorState]) -> Any:
    """How `build`, known by `key`, is done for operands of these types; None where that cannot be
    told, or would raise."""
    whole = (key, *[t._type for t in tensors])
    found = _built.get(whole, _built)
    if found is _built:
        params = [parameter(i, "x", t._type) for i, t in enumerate(tensors)]
        try:
            with provenance(NOWHERE):
                found = replay_of(params, [build(*params)])
        except RungError:
            found = None
        if len(_built) >= _MAX_BUILT:
            _built.clear()
        _built[whole] = found  # type: ignore[assignment]
    return found


def apply(
    build: Callable[..., Value],
    *tensors: TensorState,
    differentiable: bool = True,
    key: Hashable = None,
) -> Tensor:
    """The tensor for `build(*values)`, with what the operands say about gradients. `key`: what
    `build` is known by, if it depends on that and the types of the operands alone."""
    values = [graph_value(t) for t in tensors]
    if key is not None and state.recorder is None:
        replay = _replay(build, key, tensors)
        if replay is not None:
            there = sources()
            value = replay.build(values, there[-1] if there else user_source())[0]
            requires, depth = inherit(tensors)
            follows = requires and differentiable and value.type.dtype.is_float
            return new_tensor(value, requires_grad=follows, depth=depth)
    there = sources()
    depth = len(there)
    try:
        there.append(there[-1] if there else user_source())
        value = build(*values) if state.recorder is None else unrecorded(build, *values)
    finally:
        del there[depth:]
    requires, depth = inherit(tensors)
    return new_tensor(
        value, requires_grad=requires and differentiable and value.type.dtype.is_float, depth=depth
    )


def apply_many(
    build: Callable[..., Sequence[Value]], *tensors: TensorState
) -> tuple[Tensor, ...]:
    """The tensors for the values `build(*values)`."""
    operands = [graph_value(t) for t in tensors]
    there = sources()
    depth = len(there)
    try:
        there.append(there[-1] if there else user_source())
        values = build(*operands) if state.recorder is None else unrecorded(build, *operands)
    finally:
        del there[depth:]
    requires, depth = inherit(tensors)
    return tuple(
        new_tensor(v, requires_grad=requires and v.type.dtype.is_float, depth=depth)
        for v in values
    )


def inherit(tensors: Sequence[TensorState]) -> tuple[bool, int]:
    """Whether what is made of these has a gradient, and how many operations deep it is."""
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
        evaluate(tensor)


def write(tensor: TensorState, value: Value, requires_grad: bool = False) -> None:
    """Put `value` (of the tensor's type) into the tensor; into its place in a loop where it is from
    outside of that. Raises TraceError where it is the value of one example, and the tensor is from
    outside of the `vmap`."""
    if state.mapping > tensor._level and _written_inside(tensor, value, requires_grad):
        return
    trace = state.trace
    if trace is not None and tensor._trace is not trace:
        trace.write(tensor, value, requires_grad and not tensor._is_leaf)
        return
    if tensor._buffer is None and tensor._value is None:
        give_up_attempts()
    old = (tensor._buffer, tensor._value, tensor._tag)  # held until all is done
    origin = id(old[0]) if old[0] is not None and old[1] is None else tensor._origin
    leaf = tensor._is_leaf
    requires, spent = tensor._requires_grad, tensor._spent
    requires, spent = (requires, spent) if leaf else (requires_grad, False)
    if requires is not tensor._requires_grad:
        FOLLOWED.count += 1
    line = user_source() if trace is None else tensor._written
    if trace is None:
        note_pending(tensor)
    # one statement without a call: a signal comes before it or after it
    tensor._buffer, tensor._value, tensor._tag, tensor._gone, tensor._origin, \
        tensor._requires_grad, tensor._spent, tensor._written = \
        None, value, None, "", origin, requires, spent, line  # fmt: skip


def _written_inside(tensor: TensorState, value: Value, requires_grad: bool) -> bool:
    """Put a value into the place that a tensor from outside has in a loop, if there is one."""
    for frame, place in _places(tensor):
        if place is None:
            _check_one_example(frame, tensor, value)
            continue
        if place.looked:
            raise TraceError(
                f"a tensor {tensor._type} from outside is updated in {frame.what}, which has "
                "looked at its value",
                fix="compute with it (where, cond) in place of a look, or look before the loop",
            )
        place.value, place.written = value, True
        tensor._tag = None
        if not tensor._is_leaf:
            tensor._requires_grad, tensor._spent = requires_grad, False
        return True
    return False


def note_gradient(tensor: TensorState) -> None:
    """To be called before `.grad` is set: what it was outside of a function for many values."""
    for frame in state.frames[tensor._level :]:
        if frame is not None:
            frame.grads.setdefault(id(tensor), (tensor, tensor._grad))


def check_gradients(frame: Example) -> None:
    """To be called when a function for many values has run. Raises TraceError where it leaves
    another `.grad` behind at a tensor from outside."""
    for tensor, grad in frame.grads.values():
        if tensor._grad is not grad:
            raise TraceError(
                f"{frame.what} sets .grad of a tensor {tensor._type} from outside",
                fix="set it to None at the end of the body (zero_grad), or use rung.grad",
            )


def _check_one_example(frame: Example, tensor: TensorState, value: Value) -> None:
    if any(holder is frame for holder in linearize([value], {}).holders):
        raise TraceError(
            f"a tensor {tensor._type} from outside is updated by what vmap of {frame.what} "
            "computes for one example",
            fix="return the new value: vmap stacks it",
        )
