"""Which of two tiers computes a pending graph: op by op at once, or as a fused program.

A program that is not under `jit` runs at once, by kernels that are already there. When its
structure has come `START` times, it is compiled beside the running program, and takes over at a
look whose number depends on the graph alone: `START` and as many more as compiling is estimated to
take. So two runs of a script give the same bits, whatever the machine is busy with and whatever is
on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rung.core.settings import settings
from rung.ir.node import Value
from rung.ir.types import TensorType
from rung.ops.composite import CompositeAttrs
from rung.ops.control import HOLDERS
from rung.ops.creation import constant
from rung.ops.eager.blas import one_thread
from rung.runtime.background import State
from rung.runtime.copies import SUPPORTED
from rung.runtime.eager import EagerPlan
from rung.runtime.forks import hold_at_fork
from rung.runtime.memory import ALIGNMENT
from rung.tensor.leaf import LEAF, Buffer, new_buffer
from rung.tensor.linear import Linear
from rung.tensor.programs import Coming, Family, compile_beside, note_compiling, program_key
from rung.tensor.ruled import TRANSPARENT

hold_at_fork(one_thread.lock)
START = 3
"""The look at which compiling begins."""
_OP_S, _FLOP_S, _BYTE_S = 2e-6, 1 / 40e9, 1 / 8e9
_COMPILE_S = 2.5e-3
"""What is assumed of an op computed eagerly, and of one in a program that is compiled beside."""
_POLL_EVERY = 8
_COPIED = 4096
"""Results from this size on lie where vectors do."""


def comes_eagerly() -> bool:
    """Whether a structure that is new is computed op by op."""
    found = settings()
    return found.tier != "fused" and not found.interpret


def eager_plan(family: Family, linear: Linear, aliases: Mapping[int, int]) -> EagerPlan | None:
    """The plan to compute a pending graph op by op; None where a fused program is to. To be called
    once for each look."""
    if family.wait == 0 or not comes_eagerly():
        return None
    if family.eager is None:
        if any(step[0] in HOLDERS for step in linear.steps):  # a loop is not run op by op
            family.wait = 0
            return None
        family.eager = EagerPlan(linear.inputs, linear.steps, linear.outputs)
    if settings().tier == "eager":
        return family.eager
    family.looks += 1
    lifted = family.note(linear.constants)
    if family.looks < START:
        return family.eager
    key = program_key(lifted, linear, aliases)
    if key in family.programs:
        return None
    coming = family.coming.get(key)
    if coming is None:
        if family.wait < 0:
            family.wait = _looks_to_wait(linear)
        coming = compile_beside(family, lifted, linear, aliases, "lazy")
    if family.looks < coming.at:
        if family.looks % _POLL_EVERY == 0:
            coming.job.poll()  # which moves on what waits to be compiled
        return family.eager
    return family.eager if _has_failed(coming) else None


def _has_failed(coming: Coming) -> bool:
    """Whether a program that is to take over cannot: what it would do is done op by op for good."""
    job = coming.job
    if not SUPPORTED:
        return False  # it is compiled here
    job.wait()
    if job.state is State.DONE:
        return False
    if coming.at < math.inf:
        note_compiling(f"lazy: not fused, but computed op by op: {job.error or job.state.value}")
    coming.at = math.inf
    return True


def _looks_to_wait(linear: Linear) -> int:
    """How many looks last as long as compiling, by what the graph says alone."""
    types: dict[int, TensorType] = dict(linear.inputs)
    ops, seconds = 0, _OP_S
    for op, attrs, operands, _, first, results in linear.steps:
        types.update(enumerate(results, first))
        cost = op.cost(attrs, [types[n] for n in operands], results)
        own = len(attrs.body.nodes) if isinstance(attrs, CompositeAttrs) else 1
        ops += own
        seconds += own * _OP_S + cost.flops * _FLOP_S + cost.bytes * _BYTE_S
    return max(1, math.ceil(_COMPILE_S * ops / seconds))


Kept = list[tuple[Value, Buffer]]


def run_eagerly(plan: EagerPlan, linear: Linear) -> tuple[list[Buffer], Kept]:
    """The results of a pending graph, in buffers of their own, and what was computed on the way to
    them, if the graph is kept for a derivative: that reads it. Raises what an op raises, on its
    line, and AllocationError."""
    holders: Sequence[Buffer] = linear.holders  # type: ignore[assignment]
    arrays = [b.array for b in holders]
    steps, numbers = linear.steps, linear.numbers
    with np.errstate(all="ignore"), one_thread:
        found = plan.run(
            arrays, linear.constants, lambda number: steps[number][3], numbers is not None
        )
    taken = set(map(id, arrays))
    buffers: list[Buffer] = []
    for number, type in zip(plan.outputs, plan.types, strict=True):
        array = found[number]
        buffer = _buffer(array, type, number in plan.fresh, taken)
        if buffer is None:
            buffer = new_buffer(type)
            buffer.array[...] = array
        buffers.append(buffer)
    return buffers, _kept(linear, found, arrays)


def _kept(linear: Linear, found: Sequence[Any], inputs: Sequence[Any]) -> Kept:
    """The values that lie dense in memory which is that of no input; nothing is written there."""
    if linear.numbers is None:
        return []
    given = {id(_owner(a)) for a in inputs}
    kept: Kept = []
    for value, number in linear.numbers.items():
        array = found[number]
        if value.node.op in _NOT_KEPT or not isinstance(array, np.ndarray):
            continue
        if array.flags.c_contiguous and id(_owner(array)) not in given:
            kept.append((value, Buffer(array, value.type, owned=False)))
    return kept


def _owner(array: Any) -> Any:
    """What the memory of an array belongs to."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


_NOT_KEPT = frozenset((LEAF, constant, *TRANSPARENT))


def _buffer(array: Any, type: TensorType, fresh: bool, taken: set[int]) -> Buffer | None:
    """A buffer over the memory of an array, where nobody else has that (its id is then `taken`) and
    vectors can lie there; else None."""
    if not isinstance(array, np.ndarray) or id(array) in taken:
        return None
    own = array.base is None and array.flags.c_contiguous and array.flags.writeable
    if fresh or (own and (type.nbytes < _COPIED or array.ctypes.data % ALIGNMENT == 0)):
        taken.add(id(array))
        return Buffer(array, type, owned=True)
    return None
