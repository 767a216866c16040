"""What a trace becomes: a program with where its inputs come from and where its outputs go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.errors import RungError
from rung.ir.node import Value
from rung.ir.types import TensorType
from rung.tensor import tree
from rung.tensor.leaf import (
    LISTED,
    Buffer,
    LeafAttrs,
    Placeholder,
    copied_buffer,
    new_buffer,
    others,
)
from rung.tensor.linear import Linear, Step, linearize
from rung.tensor.pending import lock
from rung.tensor.programs import Runnable, find_program
from rung.tensor.ruled import TRANSPARENT, behind
from rung.tensor.state import TensorState, buffer_of, new_tensor, raw_value, state
from rung.tensor.trace import Guard, Trace

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class _Output:
    """A result that is output `index` of the program."""

    index: int


@dataclass(frozen=True, slots=True)
class _Argument:
    """A result that is tensor argument `index` as it was given."""

    index: int


@dataclass(frozen=True, slots=True)
class _Constant:
    """A result that does not depend on the call: a Python object, or a tensor from outside."""

    value: Any


Result = _Output | _Argument | _Constant


@dataclass(slots=True)
class _State:
    """A tensor from outside that each call updates: by output `output`, whose buffer is that of
    input `alias` too where the program reads the old value."""

    tensor: TensorState
    output: int
    alias: int


class _Gradients:
    """What each call does to `.grad` of tensors: (tensor, output, or -1 for None)."""

    def __init__(self, entries: list[tuple[Any, int]]) -> None:
        self.entries = entries

    def write(self, outputs: Sequence[Buffer]) -> None:
        for tensor, at in self.entries:
            tensor._grad = None if at < 0 else new_tensor(buffer=outputs[at])


class Compiled:
    """A traced function for one signature. `inline`: its result carries a gradient to tensors from
    outside, so it has to run as part of the caller's graph."""

    def __init__(self, name: str, leaves: Sequence[Any], guards: Sequence[Guard]) -> None:
        self.name = name
        self.inline = False
        self.leaves = leaves
        self.guards = guards
        self.grad_enabled = state.grad_enabled
        self.flat: tuple[Any, ...] | None = None
        self.num_flat = 0
        self.results: list[Result] = []
        self.structure: tree.Structure = tree.LEAF
        self.runnable: Runnable | None = None
        self.steps: Sequence[Step] = ()
        self.inputs: list[Any] = []
        self.arguments: list[tuple[int, int]] = []
        self.captured: list[tuple[int, TensorState]] = []
        self.captured_grads: list[tuple[int, TensorState]] = []
        self.scalars: list[int] = []
        self.scalar_buffers: list[Buffer] = []
        self.states: list[_State] = []
        self.state_outputs: dict[int, int] = {}
        self.donations: list[tuple[int, int, int]] = []
        self.donated: list[int] = []
        self.gradients = _Gradients([])
        self.replaced: list[tuple[Any, int]] = []
        self.fresh: list[int] = []

    # ---- matching

    def set_flat(self, flat: tuple[Any, ...] | None) -> None:
        """What each positional argument must be; None when arguments are trees."""
        self.flat = flat
        self.num_flat = -1 if flat is None else len(flat)

    def match(self, args: tuple[Any, ...]) -> list[Any] | None:
        """The tensors among positional arguments, if they are what this was traced for."""
        if len(args) != self.num_flat or self.grad_enabled is not state.grad_enabled:
            return None
        tensors: list[Any] = []
        for x, wanted in zip(args, self.flat, strict=True):  # type: ignore[arg-type]
            if type(wanted) is TensorType:
                if not isinstance(x, TensorState):
                    return None
                buffer = x._buffer
                if buffer is None or x._trace is not None:
                    buffer = buffer_of(x)
                if buffer.type is not wanted or (x._requires_grad and self.grad_enabled):
                    return None
                tensors.append(x)
            elif type(x) is not wanted.kind or x != wanted.value:
                return None
        return tensors

    def guards_hold(self) -> bool:
        """Whether what the trace saw of the Python program is still so."""
        for read, expected, _ in self.guards:
            found = read()
            if found is not expected and found != expected:
                return False
        return True

    def result_outputs(self) -> list[int]:
        """The output of the program that each result is; -1 for one that is none."""
        return [r.index if type(r) is _Output else -1 for r in self.results]

    def changed_guards(self) -> list[str]:
        """The names of the guards that do not hold."""
        return [name for read, expected, name in self.guards if read() != expected]

    # ---- running

    def run(self, tensors: Sequence[Any]) -> Any:
        """One call with the tensors among the arguments."""
        with lock:
            return self._run(tensors)

    def _run(self, tensors: Sequence[Any]) -> Any:
        runnable = self.runnable
        outputs: list[Buffer] = []
        if runnable is not None:
            inputs = self._inputs(tensors)
            outputs = self._outputs(runnable, inputs, tensors)
            pointers = [b.pointer for b in inputs]
            if self.scalar_buffers:
                pointers += [b.pointer for b in self.scalar_buffers]
            runnable.run(pointers, [b.pointer for b in outputs], self.steps)
            for s in self.states:
                _store(s.tensor, outputs[s.output])
        if self.gradients.entries:
            self.gradients.write(outputs)
        results = self.results
        if len(results) == 1 and self.structure is tree.LEAF:
            result = results[0]
            if type(result) is _Output:
                found: Any = new_tensor(buffer=outputs[result.index])
            else:
                found = self._result(result, outputs, tensors)
        else:
            leaves = [self._result(r, outputs, tensors) for r in results]
            found = tree.unflatten(self.structure, leaves)
        if self.donated:
            self._take_away(tensors)
        return found

    def _inputs(self, tensors: Sequence[Any]) -> list[Buffer]:
        inputs: list[Buffer] = self.inputs[:]
        for at, number in self.arguments:
            buffer = tensors[number]._buffer
            inputs[at] = buffer_of(tensors[number]) if buffer is None else buffer
        for at, tensor in self.captured:
            buffer = tensor._buffer
            inputs[at] = buffer_of(tensor) if buffer is None else buffer
        for at, owner in self.captured_grads:
            assert owner._grad is not None
            inputs[at] = buffer_of(owner._grad)
        return inputs

    def _outputs(
        self, runnable: Runnable, inputs: list[Buffer], tensors: Sequence[Any]
    ) -> list[Buffer]:
        outputs: list[Any] = [None] * len(runnable.types)
        for owner, i in self.replaced:
            outputs[i] = _old_gradient(owner, runnable.types[i])
        for i in self.fresh:
            if outputs[i] is None:
                outputs[i] = runnable.output_buffer(i)
        for s in self.states:
            if outputs[s.output] is None:
                outputs[s.output] = _place(
                    s.tensor, s.alias, inputs, runnable.types[s.output]
                )
        for number, output, alias in self.donations:
            outputs[output] = _place(tensors[number], alias, inputs, runnable.types[output])
        return outputs

    def _result(self, result: Result, outputs: Sequence[Buffer], tensors: Sequence[Any]) -> Any:
        if type(result) is _Output:
            return new_tensor(buffer=outputs[result.index])
        if type(result) is _Argument:
            return new_tensor(buffer=buffer_of(tensors[result.index]).private())
        return result.value  # type: ignore[union-attr]

    def _take_away(self, tensors: Sequence[Any]) -> None:
        for number in self.donated:
            tensor = tensors[number]
            tensor._buffer = tensor._value = None
            tensor._gone = f"it was donated to {self.name}"


def _place(tensor: TensorState, alias: int, inputs: list[Buffer], type: TensorType) -> Buffer:
    """Where to write the new value of a tensor: over the old one if nobody else holds it. `alias`:
    the input that is the old value, or -1 if the program does not read it."""
    if tensor._buffer is None:
        return new_buffer(type)
    old = [tensor._buffer]
    # beside the list: the tensor, and the list of inputs
    if old[0].owned and others(old, 0) == 1 + (alias >= 0):
        return old[0]
    if alias < 0:
        return new_buffer(type)
    inputs[alias] = copied_buffer(old[0])
    return inputs[alias]


def _old_gradient(owner: TensorState, type: TensorType) -> Buffer | None:
    """The memory of a gradient that a call replaces and does not read, if nobody else holds it."""
    gradient = [owner._grad]
    if gradient[0] is None or getrefcount(gradient[0]) != LISTED + 1:  # beside the list: the owner
        return None
    old = [gradient[0]._buffer]
    if old[0] is None or not old[0].owned or old[0].type is not type or others(old, 0) != 1:
        return None
    return old[0]


def _store(tensor: TensorState, buffer: Buffer) -> None:
    tensor._buffer = buffer
    tensor._value = None
    tensor._written = None
    tensor._tag = None
    tensor._origin = 0
    tensor._gone = ""


# ---- from a trace


def compile_trace(
    trace: Trace,
    arguments: Sequence[Placeholder],
    result: Any,
    donated: set[int],
    leaves: Sequence[Any],
) -> Compiled:
    """The program of a trace that has just ended (and is still active)."""
    found = Compiled(trace.name, leaves, tuple(trace.guards))
    out_leaves, found.structure = tree.flatten(result)
    if found.structure == tree.LEAF:
        found.structure = tree.LEAF
    numbers = {holder: i for i, holder in enumerate(arguments)}
    values: list[Value] = []
    found.results = [_result_of(x, trace, numbers, values) for x in out_leaves]
    if any(isinstance(x, TensorState) and x._trace is trace and x.keeps_graph for x in out_leaves):
        found.inline = True
        return found
    written = list(trace.written.values())
    values += [trace.overlay[id(t)] for t in written]
    changed = [(t, g) for t, g in trace.grads.values() if g is not t._grad]
    values += [raw_value(g) for _, g in changed if g is not None]
    found.donated = sorted(donated)
    if values:
        _plan(found, trace, numbers, values, written, changed, donated)
    else:
        found.gradients = _Gradients([(t, -1) for t, _ in changed])
    return found


def _result_of(
    x: Any, trace: Trace, numbers: dict[Placeholder, int], values: list[Value]
) -> Result:
    if isinstance(x, np.ndarray) or not isinstance(x, TensorState):
        return _Constant(x)
    if x._trace is not trace:
        raw_value(x)
        return _Constant(x)
    value = raw_value(x)
    holder = _holder(value)
    if isinstance(holder, Placeholder) and holder in numbers:
        return _Argument(numbers[holder])
    values.append(value)
    return _Output(len(values) - 1)


def _holder(value: Value) -> Buffer | Placeholder | None:
    while value.node.op in TRANSPARENT:
        value = behind(value)
    attrs = value.node.attrs
    return attrs.holder if isinstance(attrs, LeafAttrs) else None


def _plan(
    found: Compiled,
    trace: Trace,
    numbers: dict[Placeholder, int],
    values: Sequence[Value],
    written: Sequence[TensorState],
    changed: Sequence[tuple[Any, Any]],
    donated: set[int],
) -> None:
    """Fill in where inputs come from and outputs go, choose aliases, and compile."""
    linear = linearize(values, {})
    order = {number: at for at, number in enumerate(dict.fromkeys(linear.outputs))}
    places = [order[number] for number in linear.outputs]
    linear.outputs = list(order)
    num_results = sum(type(r) is _Output for r in found.results)
    found.results = [
        _Output(places[r.index]) if type(r) is _Output else r for r in found.results
    ]
    inputs = _bind_inputs(found, trace, numbers, linear)
    aliases: dict[int, int] = {}
    results = set(places[:num_results])
    # an input that is itself an output must not be overwritten by another output
    given = {number for number, _ in linear.inputs}
    fixed = {at for at, (number, _) in enumerate(linear.inputs) if number in order}
    for t, at in zip(written, places[num_results:], strict=False):
        alias = inputs.get(id(t), -1)
        if at in aliases or at in results or alias in fixed or linear.outputs[at] in given:
            alias = -1
        if alias >= 0:
            aliases[at] = alias
        found.states.append(_State(t, at, alias))
    _bind_gradients(found, changed, places[num_results + len(written) :])
    _bind_donations(found, linear, donated, aliases, values, places[:num_results], fixed)
    taken = {s.output for s in found.states if s.output not in results}
    taken |= {output for _, output, _ in found.donations}
    found.fresh = [i for i in range(len(linear.outputs)) if i not in taken]
    read = {id(owner) for _, owner in found.captured_grads}
    free = set(found.fresh) - results
    found.replaced = [
        (t, at) for t, at in found.gradients.entries if at in free and id(t) not in read
    ]
    runnable, scalars = find_program(linear, aliases, trace.name)
    found.runnable = runnable
    found.steps = linear.steps
    found.scalar_buffers = runnable.scalar_buffers(scalars)


def _bind_inputs(
    found: Compiled, trace: Trace, numbers: dict[Placeholder, int], linear: Linear
) -> dict[int, int]:
    """Where each input comes from; the input number of each captured tensor by its id."""
    captured: dict[Placeholder, TensorState] = {}
    for key, value in trace.inputs.items():
        holder = _holder(value)
        assert isinstance(holder, Placeholder)
        captured[holder] = trace.captured[key]
    owners = {
        id(owner._grad): owner for owner, _ in trace.grads.values() if owner._grad is not None
    }
    of_tensor: dict[int, int] = {}
    found.inputs = [None] * len(linear.holders)
    for at, holder in enumerate(linear.holders):
        if isinstance(holder, Buffer):
            found.inputs[at] = holder
        elif holder in numbers:
            found.arguments.append((at, numbers[holder]))
        elif holder in captured:
            tensor = captured[holder]
            of_tensor[id(tensor)] = at
            owner = owners.get(id(tensor))
            if owner is not None and id(tensor) not in trace.written:
                found.captured_grads.append((at, owner))
            else:
                found.captured.append((at, tensor))
        else:
            raise RungError(f"a tensor of another trace, {holder.what}, is used in {trace.name}")
    return of_tensor


def _bind_gradients(
    found: Compiled, changed: Sequence[tuple[Any, Any]], places: Sequence[int]
) -> None:
    following = iter(places)
    found.gradients = _Gradients(
        [(t, -1 if grad is None else next(following)) for t, grad in changed]
    )


def _bind_donations(
    found: Compiled,
    linear: Linear,
    donated: set[int],
    aliases: dict[int, int],
    values: Sequence[Value],
    places: Sequence[int],
    fixed: set[int],
) -> None:
    """Give each donated buffer to a result of its type."""
    free = {
        number: at for at, number in found.arguments if number in donated and at not in fixed
    }
    for value, output in zip(values, places, strict=False):
        if output in aliases or linear.outputs[output] in {n for n, _ in linear.inputs}:
            continue
        for number, at in free.items():
            if linear.inputs[at][1] == value.type:
                aliases[output] = at
                found.donations.append((number, output, at))
                del free[number]
                break

