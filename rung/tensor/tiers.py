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
from rung.ir.types import TensorType
from rung.ops.control import HOLDERS
from rung.runtime.background import State
from rung.runtime.copies import SUPPORTED
from rung.runtime.eager import EagerPlan
from rung.runtime.memory import ALIGNMENT
from rung.tensor.leaf import Buffer, new_buffer
from rung.tensor.linear import Linear
from rung.tensor.programs import Coming, Family, compile_beside, note_compiling, program_key

START = 3
"""The look at which compiling begins."""
_OP_S, _FLOP_S, _BYTE_S = 2e-6, 1 / 20e9, 1 / 5e9
_COMPILE_S = 5e-3
"""What is assumed of an op computed eagerly, and of one in a program that is compiled."""
_PATIENCE = 1.5
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
    family.note(linear.constants)
    if family.looks < START:
        return family.eager
    key = program_key(family, linear, aliases)
    if key in family.programs:
        return None
    coming = family.coming.get(key)
    if coming is None:
        if family.wait < 0:
            family.wait = _looks_to_wait(linear)
        coming = compile_beside(family, linear, aliases, "lazy", family.wait)
    if family.looks < coming.at or _has_failed(coming):
        return family.eager
    return None


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
    seconds = 0.0
    for op, attrs, operands, _, first, results in linear.steps:
        types.update(enumerate(results, first))
        cost = op.cost(attrs, [types[n] for n in operands], results)
        seconds += _OP_S + cost.flops * _FLOP_S + cost.bytes * _BYTE_S
    return max(1, math.ceil(_PATIENCE * _COMPILE_S * len(linear.steps) / max(seconds, _OP_S)))


def run_eagerly(plan: EagerPlan, linear: Linear) -> list[Buffer]:
    """The results of a pending graph, in buffers of their own. Raises what an op raises, on its
    line, and AllocationError."""
    holders: Sequence[Buffer] = linear.holders  # type: ignore[assignment]
    arrays = [b.array for b in holders]
    steps = linear.steps
    with np.errstate(all="ignore"):
        found = plan.run(arrays, linear.constants, lambda number: steps[number][3])
    seen = set(map(id, arrays))
    buffers: list[Buffer] = []
    for array, type, fresh in zip(found, plan.types, plan.fresh, strict=True):
        buffers.append(_buffer(array, type, fresh and id(array) not in seen, seen))
        seen.add(id(array))
    return buffers


def _buffer(array: Any, type: TensorType, fresh: bool, seen: set[int]) -> Buffer:
    """A buffer for a result: its own memory where nobody else has that."""
    if fresh:
        return Buffer(array, type, owned=True)
    if isinstance(array, np.ndarray):
        own = array.base is None and array.flags.c_contiguous and id(array) not in seen
        if own and (type.nbytes < _COPIED or array.ctypes.data % ALIGNMENT == 0):
            return Buffer(array, type, owned=True)
    buffer = new_buffer(type)
    buffer.array[...] = array
    return buffer
