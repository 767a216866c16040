"""Running what is pending: a look at any tensor computes all tensors that are still alive.

So a value is computed once, a state that is updated each step never grows a graph over several
steps, and what nobody holds any more is never computed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import setitem
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from rung.core.errors import IndexingError, TraceError
from rung.core.source import Source
from rung.ir.literal import sub_graphs
from rung.ir.node import Value, sources, topological_order
from rung.ir.subgraph import between, moved_values
from rung.ops.check import check_range
from rung.runtime.breath import NativeCall, in_one_breath
from rung.runtime.eager import EagerPlan
from rung.runtime.forks import hold_at_fork
from rung.tensor.leaf import (
    LEAF,
    Buffer,
    Example,
    LeafAttrs,
    Placeholder,
    Step,
    copied_buffer,
    others,
)
from rung.tensor.linear import Linear, linearize, rebuild
from rung.tensor.programs import Family, family_of, find_program
from rung.tensor.ruled import TRANSPARENT, behind
from rung.tensor.tiers import comes_eagerly, eager_plan, run_eagerly

if TYPE_CHECKING:
    from rung.tensor.state import TensorState

_PURGE_AT = 4096

class _Waiting(threading.local):
    """The tensors of this thread that are not computed yet, held weakly."""

    def __init__(self) -> None:
        self.tensors: list[ReferenceType[TensorState]] = []
        self.purge_at = _PURGE_AT


lock = threading.RLock()
"""Held while tensors change from pending to computed."""
hold_at_fork(lock)
_waiting = _Waiting()
_realized: dict[int, Buffer] = {}
_realized_refs: dict[int, ReferenceType[Value]] = {}


def note_pending(tensor: TensorState) -> None:
    """Remember a tensor whose value is not computed yet; held weakly."""
    _waiting.tensors.append(ref(tensor))
    if len(_waiting.tensors) > _waiting.purge_at:
        _waiting.tensors = [ref(t) for t in waiting()]
        _waiting.purge_at = max(_PURGE_AT, 2 * len(_waiting.tensors))


def waiting() -> list[TensorState]:
    """The tensors of this thread that are alive and not computed, in the order in which they
    became so."""
    found: dict[int, TensorState] = {}
    for weak in _waiting.tensors:
        tensor = weak()
        if tensor is not None and tensor._buffer is None and tensor._value is not None:
            found[id(tensor)] = tensor
    return list(found.values())


def realized_buffer(value: Value) -> Buffer | None:
    """The buffer that holds a pending value which has been computed already."""
    return _realized.get(id(value))


def _note_realized(value: Value) -> None:
    """To be called before the buffer of a value that has been computed is noted."""
    key = id(value)

    def forget(_: object, key: int = key) -> None:
        _realized.pop(key, None)
        _realized_refs.pop(key, None)

    _realized_refs[key] = ref(value, forget)


def evaluate(wanted: TensorState | None = None, alone: bool = False) -> None:
    """Compute all pending tensors of this thread that are alive. If that fails and `wanted` can be
    computed alone, or where it is to be, the others stay pending. What was made in the body of a
    loop that has ended, and is still alive, has no value and is passed over."""
    there = sources()
    depth = len(there)
    try:
        with lock:
            while not _evaluated(wanted, alone):
                pass
    finally:
        del there[depth:]


def _evaluated(wanted: TensorState | None, alone: bool) -> bool:
    """Evaluate, unless a signal handler that wants the same comes between: then that is done, and
    what is left has to be looked for again."""
    if wanted is not None and wanted._buffer is not None:
        return True
    if wanted is not None and alone:
        return _run_or_undo([wanted])
    noted = _waiting.tensors
    count = len(noted)
    targets = waiting()
    if wanted is not None and not any(t is wanted for t in targets):
        targets.append(wanted)
    try:
        alone = len(targets) == 1 and wanted is not None
        done = _run_or_undo(targets) if alone else _run_known(targets, wanted)
    except Exception as e:
        if alone:
            raise
        failed = _set_aside(targets, e.source) if isinstance(e, IndexingError) else []
        if wanted is None:
            _undo(failed)
            raise
        return wanted._buffer is not None or _run_or_undo([wanted], failed)
    if done and noted is _waiting.tensors:
        del noted[:count]
    return done


def _run_known(targets: Sequence[TensorState], wanted: TensorState | None) -> bool:
    """Compute the targets; without those that have no value, unless one is `wanted`."""
    try:
        return _run(targets)
    except TraceError:
        left = [t for t in targets if t._buffer is None]
        known = [t for t in left if t is wanted or not _is_of_a_body(t)]
        if len(known) == len(left):
            raise
        return _run(known)


def _is_of_a_body(tensor: TensorState) -> bool:
    if tensor._value is None:
        return False
    holders = linearize([tensor._value], _realized).holders
    return any(isinstance(h, Placeholder) for h in holders)


def _run_or_undo(targets: Sequence[TensorState], others: Sequence[TensorState] = ()) -> bool:
    """Compute tensors. Where a position is out of range, pending updates that need it are undone
    before the error is raised, those of `others` too."""
    try:
        return _run(targets)
    except IndexingError as e:
        _undo(_set_aside([*waiting(), *targets, *others], e.source))
        raise


def _undo(updated: Sequence[TensorState]) -> None:
    """Give tensors what they held before they were updated, where that is still there."""
    for tensor in updated:
        before = None if tensor.keeps_graph else _origin(tensor)
        if before is not None:
            _settle(tensor, before, keep=False)


def _set_aside(targets: Sequence[TensorState], place: Source | None) -> list[TensorState]:
    """Those that need the check at a line, which has failed: they wait until somebody asks for
    them, and nothing else fails because of them."""
    found = {id(t): t for t in targets if t._value is not None and _checks_at(t._value, place)}
    _waiting.tensors = [r for r in _waiting.tensors if id(r()) not in found]
    return list(found.values())


def _checks_at(value: Value, place: Source | None) -> bool:
    """Whether a check at a line is among what makes a pending value."""
    nodes = list(topological_order([value]))
    while nodes:
        node = nodes.pop()
        if node.op is check_range and node.source == place:
            return True
        nodes += (n for graph in sub_graphs(node.attrs) for n in graph.nodes)
    return False


def _origin(tensor: TensorState) -> Buffer | None:
    """What an updated tensor held before, where its pending value is made of that."""
    value = tensor._value
    for node in topological_order([] if value is None else [value]):
        attrs = node.attrs
        if isinstance(attrs, LeafAttrs) and id(attrs.holder) == tensor._origin:
            return attrs.holder if isinstance(attrs.holder, Buffer) else None
    return None


def source_buffer(value: Value) -> Buffer | None:
    """The buffer that a value stands for without computing anything, or None."""
    while True:
        found = _realized.get(id(value))
        if found is not None:
            return found
        node = value.node
        if node.op is LEAF:
            assert isinstance(node.attrs, LeafAttrs)
            holder = node.attrs.holder
            return holder if isinstance(holder, Buffer) else None
        if node.op not in TRANSPARENT:
            return None
        value = behind(value)


def _run(targets: Sequence[TensorState]) -> bool:
    """Compute these tensors; False if something came between."""
    computed: list[TensorState] = []
    for tensor in targets:
        value = tensor._value
        if value is None:
            if tensor._buffer is not None:
                continue  # computed already
            return False
        known = source_buffer(value)
        del value  # whoever holds it holds the memory of its operands
        if known is not None:
            _settle(tensor, known, keep=tensor.keeps_graph)
        else:
            computed.append(tensor)
    return not computed or _compute(computed)


def _compute(targets: Sequence[TensorState]) -> bool:
    found = [t._value for t in targets]
    values = [v for v in found if v is not None]
    if len(values) < len(found):  # a signal handler has computed it meanwhile
        return False
    numbered = comes_eagerly() and any(t.keeps_graph for t in targets)
    linear = linearize(values, _realized, numbered)
    if linear.placeholders and any(isinstance(h, Example) for h in linear.holders):
        values = [_from_outside(v) for v in values]
        for tensor, value in zip(targets, values, strict=True):
            tensor._value = value
        del value
        linear = linearize(values, _realized, numbered)
    if linear.placeholders:
        _refuse_placeholders(linear)
    positions = _unique_outputs(linear)
    found = [t._value for t in targets]
    if found != values:
        return False  # or now
    family = family_of(linear, lasting=not comes_eagerly())
    aliases = _aliases(linear, targets, positions)
    plan = eager_plan(family, linear, aliases)
    if plan is None:
        linear.numbers = None  # which hold the values, and so the memory of operands
    if plan is not None or not aliases:
        del found
        _execute_apart(linear, targets, values, positions, family, plan)
        return True
    kept = [v if t.keeps_graph else None for t, v in zip(targets, values, strict=True)]
    weak = [ref(v) for v in values]
    attempt = _Attempt(linear, targets, positions, kept)
    _attempts.append(attempt)
    try:
        del found
        taken = _taken(targets, values)
        del values
        if not taken:
            _undo_attempt(attempt)
            return False  # a signal handler has computed it
        for tensor in targets:
            tensor._origin = 0
        _execute(linear, aliases, attempt, [old() for old in weak], family)
    except BaseException as e:
        undone = not any(a is attempt for a in _attempts)
        _undo_attempt(attempt)
        if undone and isinstance(e, ValueError) and not attempt.committed():
            return False  # a signal handler has undone it
        for tensor, at in zip(targets, positions, strict=True):
            if at in aliases:
                tensor._origin = id(linear.holders[aliases[at]])
        raise
    return True


def _taken(targets: Sequence[TensorState], values: Sequence[Value]) -> bool:
    """Leave the tensors empty; whether all of them were still to be computed."""
    complete = True
    for tensor, value in zip(targets, values, strict=True):
        # nothing is called from the look at a tensor on: no signal handler comes between
        if tensor._value is value and tensor._buffer is None:
            tensor._value = None
        else:
            complete = False
    return complete


def _settle(tensor: TensorState, buffer: Buffer, keep: bool) -> None:
    tensor._written = None
    tensor._depth = tensor._origin = 0
    tensor._buffer = buffer  # first: at any time it has the one or the other
    if not keep:
        tensor._value = None


@dataclass(eq=False, repr=False, slots=True)
class _Attempt:
    """An evaluation that is on its way: its tensors are empty, so that nobody but the graph holds
    what they are computed from. `result`: the buffer of the first one, once there is one."""

    linear: Linear
    targets: Sequence[TensorState]
    positions: Sequence[int]
    kept: Sequence[Value | None]
    result: Buffer | None = None

    def committed(self) -> bool:
        """Whether the tensors have got their buffers."""
        return self.result is not None and self.targets[0]._buffer is self.result


_attempts: list[_Attempt] = []


def undo_attempts() -> None:
    """Give tensors of evaluations that have not come to their end (an exception ended them, or this
    is a signal handler that came between) their pending values back, as if nothing had been tried.
    Call with the lock held."""
    while _attempts:
        attempt = _attempts[-1]
        linear = attempt.linear
        leaves = [h.leaf() for h in linear.holders if isinstance(h, Buffer)]
        values = rebuild(linear, leaves)
        restored = [
            (setattr, t, "_value", values[at] if value is None else value)
            for t, at, value in zip(attempt.targets, attempt.positions, attempt.kept, strict=True)
            if t._value is None and t._buffer is None
        ]
        with suppress(ValueError):  # where a signal handler has undone it meanwhile
            in_one_breath(
                ((_attempts.index, attempt), *restored, (_attempts.remove, attempt))
            )
        _waiting.tensors.extend(map(ref, attempt.targets))


def _undo_attempt(attempt: _Attempt) -> None:
    """Undo this one, also where that is done already but some of its tensors were taken since."""
    if not any(a is attempt for a in _attempts):
        _attempts.append(attempt)
    undo_attempts()


def _from_outside(value: Value) -> Value:
    """A value that was made in the body of a loop which has ended, of what the loop only read."""
    while True:
        known: dict[Value, Value] = {}
        for node in between([value], ()):
            attrs = node.attrs
            if isinstance(attrs, LeafAttrs) and isinstance(attrs.holder, Example):
                outer = attrs.holder.outer.get(id(attrs))
                if outer is not None:
                    known[node.results[0]] = outer
        if not known:
            return value
        value = moved_values([value], known)[0]


def _refuse_placeholders(linear: Linear) -> None:
    for holder in linear.holders:
        if isinstance(holder, Placeholder):
            raise leaked(holder)


def leaked(holder: Placeholder) -> TraceError:
    """The error for a tensor of a finished trace that is used outside, or for a look at the value
    of one example inside `vmap`."""
    if isinstance(holder, Step):
        if holder.live:
            return TraceError(
                f"{holder.what}: the value of a tensor is not known, as it stands for that of any "
                "iteration or branch",
                fix="compute with tensors: where, cond, while_loop",
            )
        return TraceError(
            f"a tensor made inside {holder.what} is used outside of it",
            fix="return it from the function",
        )
    if isinstance(holder, Example):
        if holder.live:
            return TraceError(
                f"vmap of {holder.what}: the value of a tensor is not known, as it stands for one "
                "of many examples",
                fix="compute with tensors (where, masks), or leave the argument whole by None in "
                "in_axes",
            )
        return TraceError(
            f"a tensor made inside vmap of {holder.what} is used outside of it",
            fix="return it from the function",
        )
    return TraceError(
        f"a tensor made while jit traced {holder.what} is used after the trace",
        fix="return it from the function, or store it with tensor.assign(...)",
    )


def _unique_outputs(linear: Linear) -> list[int]:
    """Make each output stand once; the position of each target among them."""
    if len(linear.outputs) == 1:
        return [0]
    order = {number: at for at, number in enumerate(dict.fromkeys(linear.outputs))}
    positions = [order[number] for number in linear.outputs]
    linear.outputs = list(order)
    return positions


def _aliases(
    linear: Linear, targets: Sequence[TensorState], positions: Sequence[int]
) -> dict[int, int]:
    """Updates of a state in place: output -> the input that is the old value."""
    origins: dict[int, int] = {}
    for tensor, at in zip(targets, positions, strict=True):
        if tensor._origin:
            origins.setdefault(tensor._origin, at)
    found: dict[int, int] = {}
    if origins:
        types = {at: t._type for t, at in zip(targets, positions, strict=True)}
        for index, holder in enumerate(linear.holders):
            at = origins.get(id(holder), -1)
            if at >= 0 and at not in found and linear.inputs[index][1] == types[at]:
                found[at] = index
    return found


def _execute_apart(
    linear: Linear,
    targets: Sequence[TensorState],
    values: list[Value],
    positions: Sequence[int],
    family: Family,
    plan: EagerPlan | None,
) -> None:
    """Run a program that writes over nothing (its fused form, or this plan), and give the tensors
    that are still pending their buffers. What comes between finds the ones as good as the
    others."""
    outputs = _fused(linear, family) if plan is None else _eager(linear, plan)
    values.reverse()
    for tensor, at in zip(targets, positions, strict=True):
        value, buffer = values.pop(), outputs[at]
        keep = tensor.keeps_graph
        # nothing is called from here on: no signal handler comes between
        if tensor._value is value:
            tensor._buffer = buffer
            tensor._written, tensor._depth, tensor._origin = None, 0, 0
            if not keep:
                tensor._value = None
        weak = ref(value)
        value = None  # type: ignore[assignment]
        alive = weak()
        if alive is not None:
            _note_realized(alive)
            _realized[id(alive)] = buffer


def _eager(linear: Linear, plan: EagerPlan) -> list[Buffer]:
    """The results of a plan. What it keeps of the way to them is noted as realized."""
    outputs, kept = run_eagerly(plan, linear)
    for value, buffer in kept:
        _note_realized(value)
        _realized[id(value)] = buffer
    linear.numbers = None  # which hold the values
    return outputs


def _fused(linear: Linear, family: Family) -> list[Buffer]:
    """The results of a fused program that writes over nothing."""
    runnable, scalars = find_program(linear, {}, "lazy", family, dynamic=None)
    inputs: list[Buffer] = linear.holders  # type: ignore[assignment]
    outputs = [runnable.output_buffer(at) for at in range(len(runnable.types))]
    numbers = runnable.scalar_buffers(scalars)  # held until the program has run
    pointers = [b.pointer for b in (*inputs, *numbers)]
    runnable.run(pointers, [b.pointer for b in outputs], linear.steps)
    return outputs


def _execute(
    linear: Linear,
    aliases: dict[int, int],
    attempt: _Attempt,
    alive: Sequence[Value | None],
    family: Family,
) -> None:
    """Run the program and give the tensors their buffers, and the values that are still `alive`, in
    one breath: what came between would find state that is written over, but still pending."""
    runnable, scalars = find_program(linear, aliases, "lazy", family, dynamic=None)
    inputs: list[Buffer] = linear.holders  # type: ignore[assignment]
    outputs: list[Any] = [None] * len(runnable.types)
    for at, index in aliases.items():
        if others(inputs, index) or not inputs[index].owned:
            inputs[index] = copied_buffer(inputs[index])
        outputs[at] = inputs[index]
    for at, buffer in enumerate(outputs):
        if buffer is None:
            outputs[at] = runnable.output_buffer(at)
    numbers = runnable.scalar_buffers(scalars)  # held until the program has run
    pointers = [b.pointer for b in (*inputs, *numbers)]
    attempt.result = outputs[attempt.positions[0]]
    found = list(zip(attempt.targets, attempt.positions, attempt.kept, alive, strict=True))
    for tensor, _, _, value in found:
        tensor._written, tensor._depth = None, 0
        if value is not None:
            _note_realized(value)
    then: list[NativeCall] = []
    for tensor, at, keep, value in found:
        then.append((setattr, tensor, "_buffer", outputs[at]))
        if keep is not None:
            then.append((setattr, tensor, "_value", keep))
        if value is not None:
            then.append((setitem, _realized, id(value), outputs[at]))
    then.append((_attempts.remove, attempt))
    first = ((_attempts.index, attempt),)  # raises where a signal handler has undone it
    runnable.run(pointers, [b.pointer for b in outputs], linear.steps, first, then)
