"""What a trace becomes: a program with where its inputs come from and where its outputs go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.changes import FOLLOWED
from rung.core.errors import RungError
from rung.ir.node import Value
from rung.ir.types import TensorType
from rung.kernel.plan import IN_SIGHT
from rung.runtime.breath import NativeCall, in_one_breath, with_turn
from rung.tensor import tree
from rung.tensor.guards import Check
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
from rung.tensor.state import TensorState, buffer_of, give_up_attempts, new_tensor, raw_value, state
from rung.tensor.trace import Argument, Guard, Trace, type_of
from rung.tensor.tree import flatten, unflatten

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class _Output:
    """A result that is output `index` of the program; `weak`: it stands for a Python number."""

    index: int
    weak: bool = False


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
class _Place:
    """Where a call finds a tensor: the argument of this number, or what `.grad` of it, or of a
    tensor from outside, is."""

    owner: int | TensorState
    grad: bool

    def find(self, tensors: Sequence[Any]) -> Any:
        """The tensor in a call with these arguments."""
        owner = tensors[self.owner] if isinstance(self.owner, int) else self.owner
        return owner._grad if self.grad else owner


@dataclass(slots=True, eq=False)
class _State:
    """A tensor that each call updates: by output `output`, whose buffer is that of input `alias`
    too where the program reads the old value. It is one from outside, or found at each call."""

    tensor: Any  # TensorState | _Place
    output: int
    alias: int
    holders: int = 0

    def __post_init__(self) -> None:
        # of its buffer, as `getrefcount` of a variable: where nobody else does
        self.holders = LISTED + 1 + (self.alias >= 0)


_Change = tuple[Any, str, Any, Any]
"""An object, the name of a field, its old and its new value."""
_changes = [0]
"""How many calls have changed something: a call sees whether another one has come between."""
_pointer = attrgetter("pointer")


class _Gradients:
    """What each call does to `.grad` of tensors, from outside or the argument of a number: (tensor,
    output, or -1 for None)."""

    def __init__(self, entries: list[tuple[Any, int]]) -> None:
        self.entries = entries

    def writes(self, tensors: Sequence[Any], outputs: Sequence[Buffer]) -> list[_Change]:
        """The changes that a call makes."""
        found: list[_Change] = []
        for owner, at in self.entries:
            tensor = tensors[owner] if type(owner) is int else owner
            grad = None if at < 0 else new_tensor(buffer=outputs[at])
            found.append((tensor, "_grad", tensor._grad, grad))
        return found


class Compiled:
    """A traced function for one signature. `inline`: its result carries a gradient to tensors from
    outside, so it has to run as part of the caller's graph."""

    def __init__(self, name: str, leaves: Sequence[Any], guards: Sequence[Guard]) -> None:
        self.name = name
        self.inline = False
        self.changing = self.only_states = self.only_fresh = False
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
        self.placed: list[tuple[int, _Place]] = []
        self.scalars: list[int] = []
        self.scalar_buffers: list[Buffer] = []
        self.states: list[_State] = []
        self.placed_states: list[_State] = []
        self.state_outputs: dict[int, int] = {}
        self.donations: list[tuple[int, int, int]] = []
        self.donated: list[int] = []
        self.gradients = _Gradients([])
        self.replaced: list[tuple[Any, int]] = []
        self.fresh: list[int] = []
        self.has_changes = False
        self.updates: list[int] = []
        self.followed: list[int] = []
        self.watched: set[int] = set()
        self.same: list[tuple[int, TensorState]] = []
        self.grad_types: list[tuple[int, TensorType | None]] = []
        self.differ = False
        self.watchful = self.only_watched = False
        self.check: Check | None = None
        self.unguarded = False

    # ---- matching

    def set_flat(self, flat: tuple[Any, ...] | None) -> None:
        """What each positional argument must be; None when arguments are trees."""
        self.flat = flat
        self.num_flat = -1 if flat is None else len(flat)
        self.differ = flat is not None and len(flat) > 1 and bool(self.updates or self.donated)

    def match(self, args: tuple[Any, ...]) -> list[Any] | None:
        """The tensors among positional arguments, if they are what this was traced for."""
        if len(args) != self.num_flat or self.grad_enabled is not state.grad_enabled:
            return None
        tensors: list[Any] = []
        for x, wanted in zip(args, self.flat, strict=True):  # type: ignore[arg-type]
            if type(wanted) is TensorType:
                if not isinstance(x, TensorState) or x._weak:
                    return None
                buffer = x._buffer
                if buffer is None or x._trace is not None:
                    buffer = buffer_of(x)
                if buffer.type is not wanted or (x._requires_grad and self.grad_enabled):
                    return None
                tensors.append(x)
            elif type(x) is not wanted.kind or not wanted.is_(x):
                return None
        if not self.watchful:
            return tensors
        if not self.only_watched:
            return tensors if self.accepts(tensors) else None
        for x in tensors:
            if id(x) in self.watched:
                return None
        return tensors

    def accepts(self, tensors: Sequence[Any]) -> bool:
        """Whether the arguments are the same tensors as each other, or as those from outside, just
        where those of the trace were, as far as that counts: where tensors are updated."""
        if self.same:
            if not all(tensors[number] is tensor for number, tensor in self.same):
                return False
            same = {number for number, _ in self.same}
            apart = [t for i, t in enumerate(tensors) if i not in same]
            if not self.watched.isdisjoint(map(id, apart)):
                return False
        elif not self.watched.isdisjoint(map(id, tensors)):
            return False
        if self.differ and len(set(map(id, tensors))) != len(tensors):
            return False
        return not self.grad_types or all(
            type_of(tensors[n]._grad) == wanted for n, wanted in self.grad_types
        )

    def guards_hold(self) -> bool:
        """Whether what the trace saw of the Python program is still so."""
        for read, expected, _ in self.guards:
            found = read()
            if found is not expected and found != expected:
                return False
        return self.check is None or self.check.holds()

    def result_outputs(self) -> list[int]:
        """The output of the program that each result is; -1 for one that is none."""
        return [r.index if type(r) is _Output else -1 for r in self.results]

    def changed_guards(self) -> list[str]:
        """The names of the guards that do not hold."""
        found = [name for read, expected, name in self.guards if read() != expected]
        return found if self.check is None else found + self.check.changed()

    # ---- running

    def run(self, tensors: Sequence[Any]) -> Any:
        """The result of one call with the tensors among the arguments."""
        with lock:
            given = self._given(tensors) if self.donated else {}
            outputs = self._once(tensors)
            while outputs is None:
                outputs = self._once(tensors)
            return self._found(outputs, tensors, given)

    def run_all(self, tensors: Sequence[Any]) -> tuple[Any, Any]:
        """The result, and what has become of containers among the arguments."""
        found = self.run(tensors)
        return found if self.has_changes else (found, ())

    def _given(self, tensors: Sequence[Any]) -> dict[int, Buffer]:
        """What is given back of what is donated, before it is taken away."""
        numbers = [r.index for r in self.results if type(r) is _Argument]
        return {n: buffer_of(tensors[n]) for n in numbers}

    def _once(self, tensors: Sequence[Any]) -> list[Buffer] | None:
        """Run, and make what the call changes, in one breath; the outputs. None if something was
        changed meanwhile, by a call in a signal handler: then nothing has been done."""
        number = _changes[0]
        runnable = self.runnable
        outputs: list[Buffer] = []
        if runnable is not None:
            inputs = self._inputs(tensors)
            if self.only_fresh:
                outputs += map(runnable.output_buffer, self.fresh)
            else:
                outputs = self._outputs(runnable, inputs, tensors)
            if self.scalar_buffers:
                inputs += self.scalar_buffers
            pointers, launch = [*map(_pointer, inputs + outputs)], runnable.launch
            if not self.changing:
                if launch is not None:
                    launch(pointers)
                else:
                    runnable.run(*_cut(pointers, inputs), self.steps)
                return outputs
        elif not self.changing:
            return outputs
        turn = (_changes, number)
        changes: list[_Change] = []
        for s in self.states:
            t, buffer = s.tensor, outputs[s.output]
            same = t._buffer is buffer and t._value is None and t._tag is None and not t._gone
            if not same or (not t._is_leaf and (t._requires_grad or t._spent)):
                changes += _stored(t, buffer)
        for s in self.placed_states:
            changes += _stored(s.tensor.find(tensors), outputs[s.output])
        if not self.only_states:
            self._other_changes(changes, tensors, outputs)
        then: Sequence[NativeCall] = ()
        if changes:  # which holds the old values
            then = [(setattr, o, name, new) for o, name, _, new in changes]
        try:
            if runnable is None:
                in_one_breath(chain(*with_turn(turn, (), then)))
            elif launch is not None:
                launch(pointers, (), then, turn)
            else:
                runnable.run(*_cut(pointers, inputs), self.steps, (), then, turn)
        except ValueError:
            if _changes[0] == number:
                raise
            return None
        return outputs

    def _other_changes(
        self, changes: list[_Change], tensors: Sequence[Any], outputs: Sequence[Buffer]
    ) -> None:
        """Add what a call changes beside its states."""
        changes += self.gradients.writes(tensors, outputs)
        for number in self.followed:
            changes += [(tensors[number], f, None, True) for f in ("_requires_grad", "_is_leaf")]
            FOLLOWED.count += 1
        for number in self.donated:
            tensor = tensors[number]
            changes.append((tensor, "_gone", None, f"it was donated to {self.name}"))
            changes += [(tensor, f, getattr(tensor, f), None) for f in ("_buffer", "_value")]

    def _found(
        self, outputs: Sequence[Buffer], tensors: Sequence[Any], given: Mapping[int, Buffer]
    ) -> Any:
        """The result of a call that has run."""
        results = self.results
        if len(results) == 1 and self.structure is tree.LEAF:
            result = results[0]
            if type(result) is _Output and not result.weak:
                found: Any = new_tensor(buffer=outputs[result.index])
            else:
                found = self._result(result, outputs, tensors, given)
        else:
            leaves = [self._result(r, outputs, tensors, given) for r in results]
            found = unflatten(self.structure, leaves)
        return found

    def _inputs(self, tensors: Sequence[Any]) -> list[Buffer]:
        inputs: list[Buffer] = self.inputs[:]
        for at, number in self.arguments:
            buffer = tensors[number]._buffer
            inputs[at] = buffer_of(tensors[number]) if buffer is None else buffer
        for at, tensor in self.captured:
            buffer = tensor._buffer
            inputs[at] = buffer_of(tensor) if buffer is None else buffer
        for at, place in self.placed:
            inputs[at] = buffer_of(place.find(tensors))
        return inputs

    def _outputs(
        self, runnable: Runnable, inputs: list[Buffer], tensors: Sequence[Any]
    ) -> list[Buffer]:
        outputs: list[Any] = [None] * len(runnable.types)
        for owner, i in self.replaced:
            tensor = tensors[owner] if type(owner) is int else owner
            outputs[i] = _old_gradient(tensor, runnable.types[i])
        for i in self.fresh:
            if outputs[i] is None:
                outputs[i] = runnable.output_buffer(i)
        for s in self.states:
            if outputs[s.output] is None:
                buffer = s.tensor._buffer
                if (
                    buffer is not None
                    and buffer.owned
                    and getrefcount(buffer) - buffer.kept == s.holders
                ):
                    outputs[s.output] = buffer
                else:
                    del buffer
                    outputs[s.output] = _place(s.tensor, s.alias, inputs, runnable.types[s.output])
        for s in self.placed_states:
            if outputs[s.output] is None:
                tensor = s.tensor.find(tensors)
                outputs[s.output] = _place(tensor, s.alias, inputs, runnable.types[s.output])
        for number, output, alias in self.donations:
            outputs[output] = _place(tensors[number], alias, inputs, runnable.types[output])
        return outputs

    def _result(
        self,
        result: Result,
        outputs: Sequence[Buffer],
        tensors: Sequence[Any],
        given: Mapping[int, Buffer],
    ) -> Any:
        if type(result) is _Output:
            return _weakened(new_tensor(buffer=outputs[result.index]), result.weak)
        if type(result) is _Argument:
            argument = tensors[result.index]
            buffer = given[result.index] if given else buffer_of(argument)
            return _weakened(new_tensor(buffer=buffer.private()), argument._weak)
        return result.value  # type: ignore[union-attr]


def _cut(pointers: list[int], inputs: Sequence[Buffer]) -> tuple[list[int], list[int]]:
    return pointers[: len(inputs)], pointers[len(inputs) :]


def _weakened(made: TensorState, weak: bool) -> TensorState:
    """A new tensor, as one that stands for a Python number or not."""
    made._weak = weak
    return made


def _place(tensor: TensorState, alias: int, inputs: list[Buffer], type: TensorType) -> Buffer:
    """Where to write the new value of a tensor: over the old one if nobody else holds it. `alias`:
    the input that is the old value, or -1 if the program does not read it."""
    if tensor._buffer is None:
        if tensor._value is None:
            give_up_attempts()
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


def _stored(tensor: TensorState, buffer: Buffer) -> list[_Change]:
    """What changes where a tensor gets its new value from a call."""
    found: list[_Change] = []
    if tensor._buffer is not buffer:
        found.append((tensor, "_buffer", tensor._buffer, buffer))
    if tensor._value is not None or tensor._tag is not None:
        found += [(tensor, f, getattr(tensor, f), None) for f in ("_value", "_tag", "_written")]
        found += [(tensor, "_origin", None, 0)]
    if tensor._gone:
        found.append((tensor, "_gone", None, ""))
    if not tensor._is_leaf and (tensor._requires_grad or tensor._spent):
        FOLLOWED.count += 1
        found += [(tensor, f, None, False) for f in ("_requires_grad", "_spent")]
    return found


# ---- from a trace


def compile_trace(
    trace: Trace,
    result: tuple[Any, Any],
    donated: set[int],
    leaves: Sequence[Any],
) -> Compiled:
    """The program of a trace that has just ended (and is still active). `result`: that of the
    function, and what has become of containers among the arguments."""
    found = Compiled(trace.name, leaves, tuple(trace.guards))
    found.has_changes = bool(result[1])
    out_leaves, found.structure = flatten(result if found.has_changes else result[0])
    if found.structure == tree.LEAF:
        found.structure = tree.LEAF
    arguments = list(trace.arguments.values())
    made = [*out_leaves, *(a.tensor for a in arguments)]
    # a tensor from outside that is updated by what gradients are followed through, if no backward()
    # in the function has let that graph go
    through_state = trace.tracked and not trace.grads
    keeps = any(isinstance(x, TensorState) and x._trace is trace and x.keeps_graph for x in made)
    if keeps or through_state:
        found.inline = True
        return found
    updated = [a for a in arguments if _is_updated(a) and a.number not in donated]
    numbers = {a.holder: a.number for a in arguments}
    unchanged = {a.holder: a.number for a in arguments if a not in updated}
    values: list[Value] = []
    found.results = [_result_of(x, trace, unchanged, values) for x in out_leaves]
    written: list[TensorState | Argument] = [*trace.written.values(), *updated]
    values += [trace.overlay[key] for key in trace.written]
    values += [raw_value(a.tensor) for a in updated]
    changed: list[tuple[Any, Any]] = [
        (t, g) for t, g in trace.grads.values() if g is not t._grad
    ]
    changed += [
        (a.number, a.tensor._grad) for a in arguments if a.tensor._grad is not a.given._grad
    ]
    values += [raw_value(g) for _, g in changed if g is not None]
    found.donated = sorted(donated)
    if values:
        _plan(found, trace, numbers, values, written, changed, donated)
    else:
        found.gradients = _Gradients([(t, -1) for t, _ in changed])
    _watch(found, trace, [a.number for a in updated])
    return found


def _is_updated(argument: Argument) -> bool:
    return _holder(raw_value(argument.tensor)) is not argument.holder


def _watch(found: Compiled, trace: Trace, updates: list[int]) -> None:
    """Note what the arguments of a call must be for the program to hold, beside their types."""
    arguments = trace.arguments.values()
    found.updates = updates
    found.followed = [a.number for a in arguments if a.tensor._is_leaf]
    found.same = [(a.number, a.given) for a in arguments if a.met]
    found.grad_types = [(a.number, type_of(a.given._grad)) for a in arguments if a.grad_read]
    if found.states or found.placed_states or found.donated:
        found.watched = set(trace.captured) | set(trace.written)
    changed = found.states or found.placed_states or found.gradients.entries
    found.changing = bool(changed or found.followed or found.donated)
    found.only_watched = not (found.same or found.grad_types or updates or found.donated)
    found.only_states = not (found.gradients.entries or found.followed or found.donated)
    found.watchful = bool(
        found.same or found.grad_types or found.watched or updates or found.donated
    )


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
    return _Output(len(values) - 1, x._weak)


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
    written: Sequence[TensorState | Argument],
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
        _Output(places[r.index], r.weak) if type(r) is _Output else r for r in found.results
    ]
    owners = _owners_of_gradients(trace)
    inputs = _bind_inputs(found, trace, numbers, linear, owners)
    aliases: dict[int, int] = {}
    results = set(places[:num_results])
    # an input that is itself an output must not be overwritten by another output
    given = {number for number, _ in linear.inputs}
    fixed = {at for at, (number, _) in enumerate(linear.inputs) if number in order}
    for t, at in zip(written, places[num_results:], strict=False):
        place = _place_of(t, owners)
        alias = inputs.get(id(t.given if isinstance(t, Argument) else t), -1)
        if at in aliases or at in results or alias in fixed or linear.outputs[at] in given:
            alias = -1
        if alias >= 0:
            aliases[at] = alias
        computed = t._requires_grad and not t._is_leaf if isinstance(t, TensorState) else True
        if computed and not isinstance(place, _Place):
            place = _Place(place, False)
        states = found.placed_states if isinstance(place, _Place) else found.states
        states.append(_State(place, at, alias))
    _bind_gradients(found, changed, places[num_results + len(written) :])
    _bind_donations(found, linear, donated, aliases, values, places[:num_results], fixed)
    states = [*found.states, *found.placed_states]
    taken = {s.output for s in states if s.output not in results}
    taken |= {output for _, output, _ in found.donations}
    found.fresh = [i for i in range(len(linear.outputs)) if i not in taken]
    found.only_fresh = len(found.fresh) == len(linear.outputs) and not changed
    read = [p.owner for _, p in found.placed if p.grad]
    free = set(found.fresh) - results
    found.replaced = [
        (t, at)
        for t, at in found.gradients.entries
        if at in free and not any(t is owner for owner in read)
    ]
    in_sight = [s.output for s in found.states if s.alias < 0]
    in_sight += [at for _, at in found.replaced]
    places_of = dict.fromkeys(in_sight, IN_SIGHT) | aliases
    runnable, scalars = find_program(linear, places_of, trace.name, dynamic=trace.dynamic)
    found.runnable = runnable
    found.steps = linear.steps
    found.scalar_buffers = runnable.scalar_buffers(scalars)


def _owners_of_gradients(trace: Trace) -> dict[int, _Place]:
    """Where each gradient that the trace may have found is, by its id."""
    found = {
        id(owner._grad): _Place(owner, True)
        for owner, _ in trace.grads.values()
        if owner._grad is not None
    }
    for a in trace.arguments.values():
        if a.given._grad is not None:
            found[id(a.given._grad)] = _Place(a.number, True)
    return found


def _place_of(tensor: TensorState | Argument, owners: dict[int, _Place]) -> TensorState | _Place:
    if isinstance(tensor, Argument):
        return _Place(tensor.number, False)
    return owners.get(id(tensor), tensor)


def _bind_inputs(
    found: Compiled,
    trace: Trace,
    numbers: dict[Placeholder, int],
    linear: Linear,
    owners: dict[int, _Place],
) -> dict[int, int]:
    """Where each input comes from; the input number of each captured tensor or argument by its
    id."""
    given = {a.holder: id(a.given) for a in trace.arguments.values()}
    captured: dict[Placeholder, TensorState] = {}
    for key, value in trace.inputs.items():
        holder = _holder(value)
        assert isinstance(holder, Placeholder)
        captured[holder] = trace.captured[key]
    of_tensor: dict[int, int] = {}
    found.inputs = [None] * len(linear.holders)
    for at, holder in enumerate(linear.holders):
        if isinstance(holder, Buffer):
            found.inputs[at] = holder
        elif holder in numbers:
            found.arguments.append((at, numbers[holder]))
            of_tensor[given[holder]] = at
        elif holder in captured:
            tensor = captured[holder]
            of_tensor[id(tensor)] = at
            place = owners.get(id(tensor))
            if place is not None:
                found.placed.append((at, place))
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

