"""The plan of a program: which kernel works on which memory, in which order.

Donated state: output k may be written into the memory of input i. Then everything that reads the
input must come before the kernel that writes the output, and that kernel itself may read the input
only at the place that it is about to write. Where that cannot be had, the output is written to
temporary memory and copied at the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rung.core.dtype import DType
from rung.core.errors import LoweringError
from rung.ir.expr import Expr, Read, read, var, walk
from rung.ir.node import PARAMETER, Graph, Node, Value, make_graph, provenance
from rung.kernel.checks import with_faults
from rung.kernel.fuse import FusedGraph, fuse
from rung.kernel.loop import Accumulate, Block, Buffer, Kernel, Stmt, Store, loop, walk_stmts
from rung.kernel.naming import KernelCall, rename
from rung.kernel.split_reduce import split_reductions
from rung.ops.creation import array_constant
from rung.ops.elementwise import cast


@dataclass(frozen=True)
class InputMemory:
    """The buffer of graph parameter `index`."""

    index: int


@dataclass(frozen=True)
class OutputMemory:
    """The buffer of graph output `index`."""

    index: int


@dataclass(frozen=True)
class TempMemory:
    """Temporary memory number `index` of `nbytes`."""

    index: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class ConstantMemory:
    """An array that belongs to the program."""

    array: npt.NDArray[np.generic]


@dataclass(frozen=True)
class FaultMemory:
    """The word of check number `index`: see `rung.kernel.checks`."""

    index: int


IN_SIGHT = -1
"""For an output in place of an input: its buffer holds what somebody can see, but is no input."""
Memory: TypeAlias = InputMemory | OutputMemory | TempMemory | ConstantMemory | FaultMemory


@dataclass(frozen=True, eq=False)
class PlannedCall:
    """A naive kernel, the memory of each of its parameters, the kind of group it came from, and the
    graph values that the parameters hold (none for a copy). `guarded`: it writes over memory that
    somebody can see, so it does nothing once a check has failed."""

    kernel: Kernel
    memory: tuple[Memory, ...]
    group: str
    args: tuple[Value, ...] = ()
    guarded: bool = False

    def written(self) -> list[Memory]:
        """Memory of the parameters that the kernel writes."""
        pairs = zip(self.kernel.params, self.memory, strict=True)
        return [m for b, m in pairs if b.role != "input"]


@dataclass(frozen=True, eq=False)
class Plan:
    """Calls in execution order, on values of `graph`; `copies` counts the outputs that had to be
    copied. The word of `checks[k]` is fault memory k. All kernels that write such words come before
    the first guarded one."""

    calls: tuple[PlannedCall, ...]
    copies: int
    graph: Graph
    checks: tuple[Node, ...] = ()


def make_plan(graph: Graph, aliases: Mapping[int, int]) -> Plan:
    """Fuse a primitive graph and give memory to everything. `aliases`: output -> input whose buffer
    the caller passes for both, or `IN_SIGHT`."""
    graph, checks = with_faults(graph)
    graph = _with_outputs_apart(split_reductions(graph))
    return _Planner(graph, fuse(graph), aliases, checks).plan()


def _with_outputs_apart(graph: Graph) -> Graph:
    """`graph` with a value of its own for each output: the kernel that makes a value stores it as
    often as it is wanted, and no copy has to wait for it."""
    outputs: list[Value] = []
    taken: set[Value] = set()
    for v in graph.outputs:
        while v in taken and v.node.op is not PARAMETER:
            with provenance(v.node.source):
                v = cast(v, dtype=v.dtype)
        taken.add(v)
        outputs.append(v)
    return make_graph(graph.name, graph.params, outputs)


class _Planner:
    def __init__(
        self, graph: Graph, fused: FusedGraph, aliases: Mapping[int, int], checks: tuple[Node, ...]
    ) -> None:
        self.graph = graph
        self.fused = fused
        self.checks = checks
        self.first_fault = len(graph.outputs) - len(checks)
        self.in_sight = frozenset(aliases) if checks else frozenset()
        self.aliases = {k: i for k, i in aliases.items() if i != IN_SIGHT}
        self.memory: dict[Value, Memory] = {}
        self.copy_to: list[tuple[Value, int]] = []
        self._temps = 0
        self._separate: dict[Value, KernelCall] = {}
        for i, p in enumerate(graph.params):
            self.memory[p] = InputMemory(i)

    def plan(self) -> Plan:
        ordered = self._order(self._claim_outputs())
        _check_written(ordered)
        planned = [self._bind(c) for c in ordered]
        early, late = self._copies()
        calls = (*early, *planned, *late)
        return Plan(calls, len(early) + len(late), self.graph, self.checks)

    def _copies(self) -> tuple[list[PlannedCall], list[PlannedCall]]:
        """Copies before and after the kernels. A donated input is copied before anything overwrites
        it; where its target is donated memory as well, by way of a temporary."""
        donated = {self.graph.params[i] for i in self.aliases.values()}
        early: list[PlannedCall] = []
        late: list[PlannedCall] = []
        for value, k in self.copy_to:
            source = self._memory_of(value)
            if value not in donated:
                late.append(_copy(value, source, OutputMemory(k), k in self.in_sight))
            elif k not in self.aliases and k not in self.in_sight:
                early.append(_copy(value, source, OutputMemory(k)))
            else:
                saved = TempMemory(self._temps, value.type.nbytes)
                self._temps += 1
                early.append(_copy(value, source, saved))
                late.append(_copy(value, saved, OutputMemory(k), k in self.in_sight))
        return early, late

    def _claim_outputs(self) -> list[KernelCall]:
        """Give outputs their memory; those that cannot be written directly are copied."""
        calls = list(self.fused.calls)
        writer = {v: i for i, c in enumerate(calls) for v in _written(c)}
        for k, value in enumerate(self.fused.outputs):
            if k >= self.first_fault:
                self.memory[value] = FaultMemory(k - self.first_fault)
                continue
            claimed = value in self.memory or value not in writer
            source = self.aliases.get(k)
            if not claimed and source is not None:
                param = self.graph.params[source]
                before = calls[writer[value]]
                merged = merge_in_place(before, value, param)
                if merged is None:
                    claimed = True
                else:
                    calls[writer[value]] = merged
                    for v in _written(before):
                        self._separate.setdefault(v, before)
            if value.node.op is PARAMETER and source == value.node.attrs.index:  # type: ignore[attr-defined]
                continue  # given back as it came
            if not value.type.size:
                continue  # there is nothing to write
            if claimed:
                self.copy_to.append((value, k))
                self._temporary_if_free(value)
            else:
                self.memory[value] = OutputMemory(k)
        return calls

    def _temporary_if_free(self, value: Value) -> None:
        """Memory for an output that is copied out late, unless it has some."""
        if value not in self.memory and value.node.op is not PARAMETER:
            self._memory_of(value)

    def _order(self, calls: list[KernelCall]) -> list[KernelCall]:
        """Topological order in which readers of donated inputs come before their overwriters."""
        while True:
            order = self._try_order(calls)
            if order is not None:
                return order
            self._undonate(calls)

    def _try_order(self, calls: list[KernelCall]) -> list[KernelCall] | None:
        writer = {v: i for i, c in enumerate(calls) for v in _written(c)}
        overwriter = self._overwriters(writer)
        after: list[set[int]] = [set() for _ in calls]
        waits = [0] * len(calls)
        checking = {i for i, c in enumerate(calls) if any(map(self._is_fault, _written(c)))}
        guarded = {i for i, c in enumerate(calls) if self._is_guarded(c)}
        if checking & guarded:
            return None
        for i in checking:
            after[i] |= guarded
        for i in guarded:
            waits[i] += len(checking)
        for i, c in enumerate(calls):
            for v in c.args:
                w = writer.get(v)
                if w is not None and w != i and i not in after[w]:
                    after[w].add(i)
                    waits[i] += 1
                o = overwriter.get(v)
                if o is not None and o != i and o not in after[i]:
                    after[i].add(o)
                    waits[o] += 1
        ready = [i for i, n in enumerate(waits) if not n]
        heapq.heapify(ready)
        order: list[KernelCall] = []
        while ready:
            i = heapq.heappop(ready)
            order.append(calls[i])
            for j in after[i]:
                waits[j] -= 1
                if not waits[j]:
                    heapq.heappush(ready, j)
        return order if len(order) == len(calls) else None

    def _is_fault(self, value: Value) -> bool:
        return isinstance(self.memory.get(value), FaultMemory)

    def _is_guarded(self, call: KernelCall) -> bool:
        memory = map(self.memory.get, _written(call))
        return any(isinstance(m, OutputMemory) and m.index in self.in_sight for m in memory)

    def _overwriters(self, writer: dict[Value, int]) -> dict[Value, int]:
        """For each donated parameter, the call that overwrites it."""
        found: dict[Value, int] = {}
        for value, memory in self.memory.items():
            if isinstance(memory, OutputMemory) and memory.index in self.aliases:
                found[self.graph.params[self.aliases[memory.index]]] = writer[value]
        return found

    def _undonate(self, calls: list[KernelCall]) -> None:
        """Break a cycle: the last output that is still written in place, or in sight of others
        before all checks, is copied instead."""
        held = self.aliases.keys() | self.in_sight
        for value, memory in reversed(list(self.memory.items())):
            if isinstance(memory, OutputMemory) and memory.index in held:
                del self.memory[value]
                self.copy_to.append((value, memory.index))
                self._memory_of(value)
                self._separate_again(calls, value)
                return

    def _separate_again(self, calls: list[KernelCall], value: Value) -> None:
        """Let the call that writes `value` read its donated input from where it is again; what the
        call overwrites in place beside it stays so."""
        call = self._separate.get(value)
        if call is None:
            return
        at = next(i for i, c in enumerate(calls) if value in _written(c))
        for other in _written(call):
            memory = self.memory.get(other)
            if isinstance(memory, OutputMemory) and memory.index in self.aliases:
                merged = merge_in_place(call, other, self.graph.params[self.aliases[memory.index]])
                assert merged is not None
                call = merged
        calls[at] = call

    def _memory_of(self, value: Value) -> Memory:
        found = self.memory.get(value)
        if found is None:
            if value.node.op.name == "array_constant":
                data = value.node.attrs.data.array  # type: ignore[attr-defined]
                found = ConstantMemory(np.ascontiguousarray(data))
            else:
                found = TempMemory(self._temps, value.type.nbytes)
                self._temps += 1
            self.memory[value] = found
        return found

    def _bind(self, call: KernelCall) -> PlannedCall:
        memory = tuple(map(self._memory_of, call.args))
        return PlannedCall(call.kernel, memory, call.group, call.args, self._is_guarded(call))


def _check_written(calls: Sequence[KernelCall]) -> None:
    """Whether all that a kernel reads has been written before. Raises LoweringError."""
    written: set[Value] = set()
    for call in calls:
        for buffer, value in zip(call.kernel.params, call.args, strict=True):
            made = value.node.op is not PARAMETER and value.node.op is not array_constant
            if made and buffer.role == "input" and value.type.size and value not in written:
                raise LoweringError(
                    f"a kernel of {call.group} reads {value.node.op.name}, which nothing has "
                    "written before",
                    source=value.node.source,
                )
        written.update(_written(call))


def _copy(value: Value, source: Memory, target: Memory, guarded: bool = False) -> PlannedCall:
    kernel = copy_kernel(value.type.dtype, value.type.size)
    if value.node.source.line:
        kernel = replace(kernel, sources=(value.node.source,))
    return PlannedCall(kernel, (source, target), "rows", guarded=guarded)


def copy_kernel(dtype: DType, size: int) -> Kernel:
    """`y[r] = x[r]`."""
    source = Buffer("x0", dtype, (size,), "input")
    target = Buffer("y1", dtype, (size,), "output")
    r = var("r", size)
    body = loop(r, Store(target, (r,), read(source, (r,))))
    return Kernel("kernel", (source, target), Block((body,)))


def _written(call: KernelCall) -> list[Value]:
    pairs = zip(call.kernel.params, call.args, strict=True)
    return [v for b, v in pairs if b.role != "input"]


def merge_in_place(call: KernelCall, value: Value, param: Value) -> KernelCall | None:
    """`call` writing `value` into the memory of `param`: as it is when it does not read `param`;
    with one `inout` buffer when it reads each element of it only before overwriting that very
    element; None otherwise."""
    if param not in call.args:
        return call
    target = call.kernel.params[call.args.index(value)]
    source = call.kernel.params[call.args.index(param)]
    if not _reads_before_writes(call.kernel, source, target):
        return None
    both = replace(target, role="inout")
    names = {source: both, target: both}
    params = tuple(both if b is target else b for b in call.kernel.params if b is not source)
    args = tuple(v for v in call.args if v is not param)
    body = Block(tuple(rename(p, names) for p in call.kernel.phases))
    return KernelCall(replace(call.kernel, params=params, body=body), args, call.group)


def _reads_before_writes(kernel: Kernel, source: Buffer, target: Buffer) -> bool:
    if target.dtype is not source.dtype or target.shape != source.shape:
        return False
    if len(kernel.phases) != 1:
        return False
    places: set[tuple[Expr, ...]] = set()
    written = False
    for s in walk_stmts(kernel.phases[0]):
        if not isinstance(s, Store | Accumulate):
            continue
        reads = [e for e in _reads(s) if e.source is source]
        if written and reads:
            return False
        places |= {e.index for e in reads}
        if s.buffer is target:
            if isinstance(s, Accumulate) or s.guard is not None:
                return False
            places.add(s.index)
            written = True
    return len(places) == 1


def _reads(s: Store | Accumulate) -> list[Read]:
    roots: Sequence[Expr] = (*s.index, s.value, *(() if s.guard is None else (s.guard,)))
    return [e for e in walk(*roots) if isinstance(e, Read)]


__all__ = ["Memory", "Plan", "PlannedCall", "Stmt", "make_plan"]
