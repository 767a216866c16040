"""What a function keeps in memory between its forward and its backward pass.

print(rung.inspect_residuals(loss, x, y))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.core.errors import GradientError
from rung.core.source import Source
from rung.ir.node import PARAMETER, Node, Value
from rung.ir.subgraph import between
from rung.ir.types import TensorType
from rung.ops.control import after
from rung.runtime.program import CompiledGraph
from rung.runtime.script import Script
from rung.tensor import tree
from rung.tensor.jit import jit
from rung.tensor.operate import as_tensor
from rung.tensor.state import TensorState
from rung.tools.explanation import machine_program, source_lines


@dataclass(frozen=True)
class Residual:
    """A value in memory when the forward pass is over, which the backward pass reads: its type, the
    op that made it, and the user's line that this came from."""

    type: TensorType
    op: str
    source: Source

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return self.type.nbytes


@dataclass(frozen=True)
class Residuals:
    """What is kept, largest first. `inputs`: arguments, parameters and other tensors from outside
    that the backward pass reads; they are in memory anyway."""

    name: str
    values: tuple[Residual, ...]
    inputs: tuple[TensorType, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept, without inputs."""
        return sum(r.nbytes for r in self.values)

    def __iter__(self) -> Iterator[Residual]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        count = f"{len(self)} value{'s' * (len(self) != 1)}"
        lines = [f"{self.name} keeps {count}, {self.nbytes:,} bytes, for its backward pass"]
        for r in self.values:
            line, *_ = source_lines([r.source]) or ["(no line)"]
            lines.append(f"{r.nbytes:14,}  {r.type!s:22} {r.op:16} {line}")
        size = sum(t.nbytes for t in self.inputs)
        lines.append(f"and reads {len(self.inputs)} inputs of {size:,} bytes")
        return "\n".join(lines)


def inspect_residuals(function: Callable[..., Any], *args: Any) -> Residuals:
    """What the compiled program keeps between the forward and the backward pass of
    `function(*args)`, differentiated with respect to the float tensors among the arguments and all
    parameters that it reads. The program is made, not run.

    It is the memory that counts: what a kernel of the backward pass computes once more from
    something else that is kept (fused element-wise operations, `checkpoint`) is not listed, and
    what a kernel of the forward pass computed early for the backward pass is. Raises GradientError
    for a function whose results are not floats, and what tracing raises."""
    name = getattr(function, "__name__", type(function).__name__)

    def both(*args: Any) -> Any:
        leaves, structure = tree.flatten(args)
        inner = [_leaf(x) for x in leaves]
        made = tree.leaves(function(*tree.unflatten(structure, inner)))
        floats = [y for y in made if isinstance(y, TensorState) and y.dtype.is_float]
        if not floats:
            raise GradientError(f"inspect_residuals: {name} gives no float tensors")
        sum(y.sum() for y in floats).backward()
        wanted = [x.grad for x in inner if isinstance(x, TensorState)]
        counted.append(len(floats))
        return [y.detach() for y in floats], wanted

    counted: list[int] = []
    found = jit(both).compile(*args)
    if found.runnable is None:
        return Residuals(name, (), ())
    forward = [k for k in found.result_outputs()[: counted[-1]] if k >= 0]
    program = machine_program(found.runnable, {})
    return _found(name, program, forward)


def _leaf(x: Any) -> Any:
    """A tensor of its own for a float argument, which gradients are followed to."""
    if not isinstance(x, TensorState | np.ndarray):
        return x
    tensor = as_tensor(x)
    return tensor.detach().requires_grad_() if tensor.dtype.is_float else tensor


# ---- which values


@dataclass(frozen=True)
class _Event:
    """A kernel, or a loop: what it reads and writes, and whether results of the forward pass depend
    on what it writes."""

    reads: Sequence[Value]
    writes: Sequence[Value]
    forward: bool


def _found(name: str, program: CompiledGraph | Script, forward: Sequence[int]) -> Residuals:
    if isinstance(program, Script):
        events = _events_of_script(program, forward)
    else:
        outputs = program.plan.graph.outputs
        events = list(_events(program, {}, [outputs[k] for k in forward]))
    last = max((i for i, e in enumerate(events) if e.forward), default=-1)
    made = {v for e in events[: last + 1] for v in e.writes}
    read = list(dict.fromkeys(v for e in events[last + 1 :] for v in e.reads))
    kept = [v for v in read if v in made]
    values = [Residual(v.type, v.node.op.name, v.node.source) for v in kept]
    inputs = [v.type for v in read if v.node.op is PARAMETER]
    return Residuals(name, tuple(sorted(values, key=_smallest_last)), tuple(inputs))


def _smallest_last(r: Residual) -> int:
    return -r.nbytes


def _events_of_script(script: Script, forward: Sequence[int]) -> list[_Event]:
    ahead = _values([script.graph.outputs[k] for k in forward])
    events: list[_Event] = []
    for part in script.parts:
        if isinstance(part, Node):
            reads = [_origin(v) for v in part.inputs]
            events.append(_Event(reads, part.results, not ahead.isdisjoint(part.results)))
        else:
            graph = part.program.plan.graph
            known = dict(zip(graph.outputs, part.made, strict=True))
            known |= dict(zip(graph.params, map(_origin, part.given), strict=True))
            wanted = [i for i, v in zip(graph.outputs, part.made, strict=True) if v in ahead]
            events += _events(part.program, known, wanted)
    return events


def _events(
    program: CompiledGraph, known: Mapping[Value, Value], wanted: Sequence[Value]
) -> Iterator[_Event]:
    """The kernels of a program, in order. `known`: what its values are called outside; `wanted`:
    the outputs that belong to the forward pass."""
    ahead = _values(wanted)
    for call in program.plan.calls:
        pairs = list(zip(call.kernel.params, call.args, strict=False))
        reads = [known.get(v, v) for b, v in pairs if b.role != "output"]
        writes = [v for b, v in pairs if b.role != "input"]
        yield _Event(reads, [known.get(v, v) for v in writes], not ahead.isdisjoint(writes))


def _values(outputs: Sequence[Value]) -> set[Value]:
    """All values that lead to `outputs`."""
    return {r for node in between(outputs, ()) for r in node.results}


def _origin(value: Value) -> Value:
    """The value that one which only waits is."""
    while value.node.op is after:
        value = value.node.inputs[value.index]
    return value
