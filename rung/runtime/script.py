"""Programs with control flow or host ops: a script that calls compiled graphs, in native code.

The graph is cut at its loops and branches, and at the ops that run on the host. What lies between
two of these is compiled as a graph of its own; a loop becomes instructions around the calls of its
body, whose pointers move along. At a host op the script returns, Python calls the reference of the
op on the buffers, and the script goes on. All that lives between calls has a place in one block of
memory, planned like an arena.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, compress, repeat
from operator import and_
from typing import cast

import numpy as np

from rung.ir.interpret import evaluate
from rung.ir.literal import sub_graphs
from rung.ir.node import PARAMETER, Graph, Node, Value, make_graph
from rung.ir.op import Attrs
from rung.ir.subgraph import between, dependent, moved_values, subgraph
from rung.ir.types import TensorType
from rung.kernel.machine import Machine
from rung.kernel.plan import IN_SIGHT
from rung.ops.broadcast import broadcast_to, reshape
from rung.ops.check import check_range
from rung.ops.control import CONTROL, ScanAttrs, SwitchAttrs, WhileAttrs, after
from rung.ops.movement import permute
from rung.runtime.arena import Interval, plan_arena
from rung.runtime.breath import NativeCall, Turn, in_one_breath, with_turn
from rung.runtime.executable import Executable
from rung.runtime.memory import Block, Memory, array_at
from rung.runtime.native_library import native_library
from rung.runtime.native_script import Opcode, ProgressOffset
from rung.runtime.pool import pool
from rung.runtime.program import CompiledGraph, Lower, compile_graph

_LAYOUT = (broadcast_to, reshape, permute)
_SMALLER = 16
"""How many times smaller than what is made from it a value is that is rather kept."""
_SLICE_NS = 100_000_000
"""How long a script runs before Python may look after signals."""
_NEVER = 2**62
_START = np.array([0, 0, -1, -1])
"""The progress of a script that begins."""

Slot = int
"""The number of a word of the frame that holds an address."""


def needs_script(graph: Graph) -> bool:
    """Whether some node of the graph, or of the graphs inside, is a loop, a branch or a host op."""
    found, seen = [graph], {graph}
    for g in found:
        for node in g.nodes:
            if _is_cut(node):
                return True
            inner = [sub for sub in sub_graphs(node.attrs) if sub not in seen]
            seen.update(inner)
            found += inner
    return False


def _is_cut(node: Node) -> bool:
    """Whether a node stands between compiled graphs instead of in one."""
    return node.op in CONTROL or node.op.host


def may_fail(node: Node) -> bool:
    """Whether a node, or one of the graphs inside it, runs on the host or checks positions."""
    if node.op.host or node.op is check_range:
        return True
    return any(may_fail(inner) for graph in sub_graphs(node.attrs) for inner in graph.nodes)


def compile_program(
    graph: Graph,
    aliases: Mapping[int, int] | None = None,
    machine: Machine | None = None,
    lower: Lower | None = None,
) -> CompiledGraph | Script:
    """Compile any graph for this machine; see `compile_graph` for the arguments and errors."""
    if not needs_script(graph):
        return compile_graph(graph, aliases, machine, lower)
    return Script(graph, aliases or {}, machine, lower)


@dataclass(frozen=True, eq=False)
class HostCall:
    """A node whose op runs on the host. The addresses of its operands and then its results stand in
    the frame from word `first` on."""

    node: Node
    first: int

    def run(self, words: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Call the reference of the op on what lies at these addresses. Operands are left alone, so
        a call that was interrupted can be done again. Raises the errors of the reference, on the
        line of the node."""
        node = self.node
        types = [*(v.type for v in node.inputs), *node.types]
        addresses = words[self.first : self.first + len(types)].tolist()
        arrays = [array_at(at, type) for at, type in zip(addresses, types, strict=True)]
        count = len(node.inputs)
        for to, result in zip(arrays[count:], evaluate(node, arrays[:count]), strict=True):
            to[...] = result


def _is_unbounded(graph: Graph) -> bool:
    """Whether there is a loop that only its condition ends, here or in a graph within."""
    for node in graph.nodes:
        if isinstance(node.attrs, WhileAttrs) and not node.attrs.limit:
            return True
        if any(map(_is_unbounded, sub_graphs(node.attrs))):
            return True
    return False


class Script:
    """A graph with control flow or host ops that runs: `run` takes addresses of dense row-major
    arrays.

    `parts`: what it performs in order, between loops and branches and these themselves.
    `arena_bytes`: the part of the shared arena that it works in. Programs that it calls use the
    beginning of it, and what waits meanwhile lies behind."""

    def __init__(
        self, graph: Graph, aliases: Mapping[int, int], machine: Machine | None, lower: Lower | None
    ) -> None:
        self.graph = graph if lower is None else lower(graph)
        self.input_types = tuple(p.type for p in graph.params)
        self.output_types = tuple(v.type for v in graph.outputs)
        builder = _Builder(machine, lower, self.graph)
        # such a loop may never end: what is done with it has to be possible to give up
        self._staged = dict(aliases) if _is_unbounded(self.graph) else {}
        if self._staged:
            aliases = {}
        inputs = [builder.slot() for _ in self.input_types]
        outputs = [builder.slot() for _ in self.output_types]
        self.parts = builder.graph(self.graph, inputs, outputs, aliases)
        builder.emit(Opcode.END)
        self.programs: tuple[CompiledGraph, ...] = tuple(dict.fromkeys(builder.programs))
        self.host_calls: tuple[HostCall, ...] = tuple(builder.host_calls)
        self._code = builder.code()
        self._calls = builder.calls()
        self._callers = builder.callers()
        executables = dict.fromkeys(executable for _, executable in self._callers.values())
        self._checked = [e for e in executables if len(e.faults)]
        self._offsets, self.arena_bytes = builder.memory()
        self._frame = Block(8 * builder.num_slots)
        self._words = self._frame.data.view(np.int64)
        self._addresses = self._words.data
        self._pack = struct.Struct(f"{len(inputs) + len(outputs)}q").pack_into
        self._place = Block(ProgressOffset.BYTES)
        self._progress = self._place.data.view(np.int64)
        # where it is (-1: at its end), until when, which host op it asks for, what has failed
        self._at, self._failed = self._progress[:1].item, self._progress[3:].item
        self._writes_over = bool(aliases)
        self._binding: object = None
        arguments = (self._code, self._frame, self._place)
        self._call: NativeCall = (_native_script(), *(b.address for b in arguments))

    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> None:
        """Run once over the given addresses; blocks until the outputs are written. Signals are
        looked after on the way, and Ctrl-C ends it; where state is written over, they are looked
        after between host ops and when the run has ended, so that state is never half old and half
        new. `first`, a look at the `turn`, and each part of the run are done in one breath, and so
        are the last part and `then`. Raises what host ops raise, and IndexingError for a position
        out of range; state is not written over before the last host op has returned, and the last
        check has been made."""
        shared = pool()
        first, then = with_turn(turn, first, then)
        with shared.lock:
            kept = shared.arena if shared.underway else None
            before = (self._words.copy(), self._progress.copy()) if shared.underway else None
            shared.underway += 1
            try:
                if kept is not None:
                    shared.set_arena_aside()
                if self._binding is not shared.binding:
                    self._bind()
                if self._staged:
                    outputs, copies = self._staging(outputs)
                    then = (*copies, *then)
                self._pack(self._addresses, 0, *inputs, *outputs)
                self._progress[:] = _START
                self._go_on(first, then)
            finally:
                shared.underway -= 1
                if before is not None:  # perhaps it is this script that is underway
                    self._words[:], self._progress[:] = before
                if kept is not None:
                    shared.take_back(kept)

    def _staging(self, outputs: Sequence[int]) -> tuple[list[int], list[NativeCall]]:
        """Where the run is to write, and what puts it into its place when it has ended."""
        into, copies = list(outputs), list[NativeCall]()
        for at in self._staged:
            memory = Memory(self.output_types[at].nbytes)
            into[at] = memory.address
            copies.append((ctypes.memmove, outputs[at], memory.address, memory.nbytes))
            copies.append((id, memory))  # so long it is needed
        return into, copies

    def _go_on(self, first: Sequence[NativeCall], then: Sequence[NativeCall]) -> None:
        shared, progress = pool(), self._progress
        faults: dict[Executable, list[int]] = {e: [] for e in self._checked}
        while self._at(0) >= 0:
            asked = progress.item(2)
            if asked >= 0:
                self.host_calls[asked].run(self._words)
                progress[2] = -1
            if self._binding is not shared.binding:  # a host op, or a signal handler, ran programs
                self._bind_programs()
            progress[1] = _NEVER if self._writes_over else time.monotonic_ns() + _SLICE_NS
            rest: Iterable[NativeCall] = ()
            if then:  # done if the program has come to its end
                ended = map(np.signbit, map(self._at, repeat(0)))
                fine = map(np.signbit, map(self._failed, repeat(0)))
                rest = compress(then, map(and_, ended, fine))
            bound = (shared.bound.index, self._binding)
            notes = []
            for executable, found in faults.items():
                found.clear()
                notes.append((found.extend, executable.faults))
            try:
                in_one_breath(chain((bound, *first, self._call, *notes), rest))
            except ValueError:
                if self._binding is shared.binding:
                    raise
                continue  # a signal handler ran programs, just now
            if self._failed(0) >= 0:
                program, executable = self._callers[self._failed(0)]
                raise program.error([int(word) for word in faults[executable]])

    def _bind(self) -> None:
        """Store the addresses of programs and memory."""
        shared = pool()
        shared.reserve(self.arena_bytes, 0)  # while a script is underway nobody takes it away
        self._bind_programs()
        for slot, offset in self._offsets.items():
            self._words[slot] = shared.arena.address + offset

    def _bind_programs(self) -> None:
        """Store the addresses of programs. What one program asks of the pool may move what another
        one was told."""
        shared = pool()
        while True:
            binding = shared.binding
            code = self._code.data.view(np.int64)
            for word, executable in self._calls:
                code[word] = executable.header()
            if shared.binding is binding:
                break
        self._binding = binding


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a graph between control-flow nodes: the program computes `made` from `given`,
    values of that graph."""

    program: CompiledGraph
    given: tuple[Value, ...]
    made: tuple[Value, ...]


class _Builder:
    """Collects the instructions, slots and memory of a script."""

    def __init__(self, machine: Machine | None, lower: Lower | None, whole: Graph) -> None:
        self.machine = machine
        self.lower = lower
        self.whole = whole
        self.programs: list[CompiledGraph] = []
        self.host_calls: list[HostCall] = []
        self.num_slots = 0
        self._rows: list[list[int]] = []
        self._calls: list[_Call] = []
        self._memory: dict[Slot, _Lifetime] = {}
        self._compiled: dict[tuple[object, ...], CompiledGraph] = {}
        self._loop = _Loop(frozenset())
        self._lowered: dict[Graph, Graph] = {}

    # -- what comes out

    def code(self) -> Block:
        block = Block(8 * 4 * len(self._rows))
        block.data.view(np.int64)[:] = list(itertools.chain(*self._rows))
        return block

    def calls(self) -> list[tuple[int, Executable]]:
        """The word of the code that holds the header of a program, for each call."""
        return [(4 * call.row + 1, call.executable) for call in self._calls]

    def callers(self) -> dict[int, tuple[CompiledGraph, Executable]]:
        """What each instruction that is a call runs."""
        return {call.row: (call.program, call.executable) for call in self._calls}

    def memory(self) -> tuple[dict[Slot, int], int]:
        """The offset in the arena of the memory of each slot that has some, and the bytes of all,
        what the programs use among them."""
        calls = [(call.row, call.program.arena_bytes) for call in self._calls]
        intervals = []
        for slot, x in self._memory.items():
            floor = max((n for row, n in calls if x.first <= row <= x.last), default=0)
            intervals.append(Interval(str(slot), x.nbytes, x.first, x.last, floor))
        plan = plan_arena(intervals)
        total = max([plan.total_bytes, *(n for _, n in calls)])
        return {int(name): offset for name, offset in plan.offsets.items()}, total

    # -- instructions

    def emit(self, opcode: Opcode, a: int = 0, b: int = 0, c: int = 0) -> int:
        """Add an instruction; its number."""
        self._rows.append([int(opcode), a, b, c])
        return len(self._rows) - 1

    def here(self) -> int:
        """The number of the next instruction."""
        return len(self._rows)

    def point(self, row: int, operand: int) -> None:
        """Make operand (1 to 3) of an instruction point here."""
        self._rows[row][operand] = self.here()

    def slot(self) -> Slot:
        """A new word of the frame."""
        self.num_slots += 1
        return self.num_slots - 1

    def room(self, type: TensorType) -> Slot:
        """A slot with memory for a value, from here until `used`."""
        slot = self.slot()
        self._memory[slot] = _Lifetime(type.nbytes, self.here(), self.here())
        return slot

    def used(self, slots: Sequence[Slot]) -> None:
        """What is in these slots is used up to here."""
        for slot in slots:
            if slot in self._memory:
                self._memory[slot].last = self.here()

    def copy(self, to: Slot, source: Slot, type: TensorType) -> None:
        if to != source and type.nbytes:
            self.emit(Opcode.COPY, to, source, type.nbytes)

    # -- graphs

    def graph(
        self,
        graph: Graph,
        inputs: Sequence[Slot],
        outputs: Sequence[Slot],
        aliases: Mapping[int, int],
    ) -> list[Segment | Node]:
        """Compute a graph. Outputs of `aliases` may lie where the inputs do."""
        if any(map(_is_cut, graph.nodes)):
            return _Cut(self, graph, inputs, outputs, aliases).emit()
        program = self.call(graph, inputs, outputs, aliases)
        return [Segment(program, graph.params, graph.outputs)]

    def body(
        self,
        graph: Graph,
        inputs: Sequence[Slot],
        outputs: Sequence[Slot],
        aliases: Mapping[int, int],
    ) -> None:
        """Compute the graph of a control-flow node."""
        lowered = self._lowered.get(graph)
        if lowered is None:
            lowered = graph if self.lower is None else self.lower(graph)
            self._lowered[graph] = lowered
        self.graph(lowered, inputs, outputs, aliases)

    def call(
        self,
        graph: Graph,
        inputs: Sequence[Slot],
        outputs: Sequence[Slot],
        aliases: Mapping[int, int],
    ) -> CompiledGraph:
        """Call a graph without control flow; its program."""
        fixed = frozenset(k for k, slot in enumerate(inputs) if slot in self._loop.fixed)
        key = (graph, tuple(sorted(aliases.items())), fixed)
        program = self._compiled.get(key)
        if program is None:
            program = compile_graph(graph, aliases, self.machine, fixed=fixed)
            self._compiled[key] = program
        kept = [self._kept(n) for n in program.kept_bytes]
        pointers = (*inputs, *outputs, *kept)
        self._run(program, program.executable, pointers)
        if program.preparation is not None:
            self._loop.preparations.append((program, program.preparation, pointers))
        self.programs.append(program)
        return program

    def _run(
        self, program: CompiledGraph, executable: Executable, pointers: Sequence[Slot]
    ) -> None:
        first = self._in_a_row(pointers)
        row = self.emit(Opcode.CALL, 0, first)
        self._calls.append(_Call(row, program, executable))

    def _kept(self, nbytes: int) -> Slot:
        """A slot with memory for what the loop around keeps."""
        slot = self.slot()
        self._memory[slot] = _Lifetime(nbytes, self._loop.start, self.here())
        self._loop.kept.append(slot)
        return slot

    @contextmanager
    def loop(self, fixed: Sequence[Slot]) -> Iterator[None]:
        """Around the instructions of a loop, from the first one to which it jumps back on. What
        the programs in it make of the slots `fixed` alone is made once, before."""
        outer, self._loop = self._loop, _Loop(frozenset(fixed))
        self._loop.start = enter = self.emit(Opcode.JUMP)
        self.point(enter, 1)
        yield
        if self._loop.preparations:
            leave = self.emit(Opcode.JUMP)
            self.point(enter, 1)
            for program, executable, pointers in self._loop.preparations:
                self._run(program, executable, pointers)
            self.emit(Opcode.JUMP, enter + 1)
            self.point(leave, 1)
        self.used(self._loop.kept)
        self._loop = outer

    def _in_a_row(self, slots: Sequence[Slot]) -> Slot:
        """The first of new slots, in a row, that get the addresses of `slots`."""
        first = self.num_slots
        self.num_slots += len(slots)
        for k, slot in enumerate(slots):
            self.emit(Opcode.SET, first + k, slot)
        return first

    def control(self, node: Node, inputs: Sequence[Slot], outputs: Sequence[Slot]) -> None:
        """Perform a control-flow node, or one that runs on the host."""
        if node.op.host:
            first = self._in_a_row((*inputs, *outputs))
            self.emit(Opcode.HOST, len(self.host_calls))
            self.host_calls.append(HostCall(node, first))
            return
        attrs: Attrs = node.attrs
        if isinstance(attrs, ScanAttrs):
            self._scan(attrs, node, inputs, outputs)
        elif isinstance(attrs, WhileAttrs):
            self._while(attrs, node, inputs, outputs)
        else:
            self._switch(cast(SwitchAttrs, attrs), inputs, outputs)

    def _scan(
        self, attrs: ScanAttrs, node: Node, inputs: Sequence[Slot], outputs: Sequence[Slot]
    ) -> None:
        first = attrs.constants + attrs.carries
        carries = outputs[: attrs.carries]
        starts = inputs[attrs.constants : first]
        for to, source, type in zip(carries, starts, node.types, strict=False):
            self.copy(to, source, type)
        if not attrs.length:
            return
        xs = [(s, v.type) for s, v in zip(inputs[first:], node.inputs[first:], strict=True)]
        ys = list(zip(outputs[attrs.carries :], node.types[attrs.carries :], strict=True))
        moving: list[tuple[Slot, int]] = []
        for base, type in (*xs, *ys):
            step, at = type.nbytes // attrs.length, self.slot()
            start = step * (attrs.length - 1) if attrs.reverse else 0
            self.emit(Opcode.SET, at, base, start)
            moving.append((at, -step if attrs.reverse else step))
        cursors = [at for at, _ in moving]
        counter = self.slot()
        self.emit(Opcode.VALUE, counter, attrs.length)
        aliases = {k: attrs.constants + k for k in range(attrs.carries)}
        with self.loop(inputs[: attrs.constants]):
            top = self.here()
            self.body(
                attrs.body,
                [*inputs[: attrs.constants], *carries, *cursors[: len(xs)]],
                [*carries, *cursors[len(xs) :]],
                aliases,
            )
            for at, step in moving:
                self.emit(Opcode.SET, at, at, step)
            self.emit(Opcode.LOOP, counter, top)

    def _while(
        self, attrs: WhileAttrs, node: Node, inputs: Sequence[Slot], outputs: Sequence[Slot]
    ) -> None:
        """The condition once before the loop; in it, one program for the body and the condition of
        what the body gave."""
        constants = inputs[: attrs.constants]
        for to, source, r in zip(outputs, inputs[attrs.constants :], node.types, strict=True):
            self.copy(to, source, r)
        flag = self.room(attrs.condition.outputs[0].type)
        self.body(attrs.condition, [*constants, *outputs], [flag], {})
        counter = self.slot()
        self.emit(Opcode.VALUE, counter, attrs.limit)
        leave = self.emit(Opcode.UNLESS, flag)
        aliases = {k: attrs.constants + k for k in range(len(outputs))}
        with self.loop(constants):
            top = self.here()
            self.body(_with_condition(attrs), [*constants, *outputs], [*outputs, flag], aliases)
            done = self.emit(Opcode.UNLESS, flag)
            self.emit(Opcode.LOOP, counter, top) if attrs.limit else self.emit(Opcode.BACK, top)
            self.point(done, 2)
        self.point(leave, 2)
        self.used([flag])

    def _switch(self, attrs: SwitchAttrs, inputs: Sequence[Slot], outputs: Sequence[Slot]) -> None:
        leaving: list[int] = []
        for number, branch in enumerate(attrs.branches):
            last = number == len(attrs.branches) - 1
            skip = -1 if last else self.emit(Opcode.ABOVE, inputs[0], number)
            self.body(branch, inputs[1:], outputs, {})
            if not last:
                leaving.append(self.emit(Opcode.JUMP))
                self.point(skip, 3)
        for row in leaving:
            self.point(row, 1)


@dataclass(frozen=True)
class _Call:
    """Instruction `row` runs a program or its preparation, in the first bytes of the arena."""

    row: int
    program: CompiledGraph
    executable: Executable


@dataclass
class _Loop:
    """The innermost loop whose instructions are written: the slots that stay the same in it, what
    runs once before, the memory that this fills, and its first instruction."""

    fixed: frozenset[Slot]
    preparations: list[tuple[CompiledGraph, Executable, tuple[Slot, ...]]] = field(
        default_factory=list
    )
    kept: list[Slot] = field(default_factory=list)
    start: int = 0


@dataclass
class _Lifetime:
    """Memory of `nbytes` that is in use from instruction `first` to `last`."""

    nbytes: int
    first: int
    last: int


class _Cut:
    """A graph with control flow or host ops, cut into the graphs between these nodes."""

    def __init__(
        self,
        builder: _Builder,
        graph: Graph,
        inputs: Sequence[Slot],
        outputs: Sequence[Slot],
        aliases: Mapping[int, int],
    ) -> None:
        self.builder = builder
        self.nodes = graph.nodes
        self.aliases = aliases
        self.inputs = set(inputs)
        self.outputs = list(zip(graph.outputs, outputs, strict=True))
        self.place: dict[Value, Slot] = dict(zip(graph.params, inputs, strict=True))
        self.controls = [node for node in graph.nodes if _is_cut(node)]
        anchors = [r for node in self.controls for r in node.results]
        self.given = dependent(graph.nodes, (*graph.params, *anchors))
        self.asked = {v for c in self.controls for v in c.inputs} | set(graph.outputs)
        self.step = self._steps()
        self.sure = self._sure_from() if graph is builder.whole else 0
        self.last_use = self._last_uses()
        self.parts: list[Segment | Node] = []
        self.target: dict[Value, Slot] = {}
        self.in_place: dict[Value, Value] = {}
        self.in_sight: set[Value] = set()
        for k, (value, slot) in enumerate(self.outputs):
            if value in self.place or value in self.target or value.node.op is after:
                continue
            if k not in aliases:
                self.target[value] = slot
            elif aliases[k] == IN_SIGHT:
                if self.step[value.node] >= self.sure:
                    self.target[value] = slot
                    self.in_sight.add(value)
            elif self._may_overwrite(value, graph.params[aliases[k]]):
                self.target[value] = slot
                self.in_place[value] = graph.params[aliases[k]]

    def _steps(self) -> dict[Node, int]:
        """The step of each node: 0 before the first control-flow node; number k of those is step
        2k + 1, and what needs it comes from step 2k + 2 on. What is made element by element of
        parameters, and of values much smaller than itself, waits for its first reader: to keep its
        operands costs less memory."""
        number = {node: 2 * k + 1 for k, node in enumerate(self.controls)}
        found: dict[Node, int] = {}
        light: set[Node] = set()
        for node in self.nodes:
            earliest = max((found[v.node] for v in node.inputs), default=0)
            found[node] = number.get(node, earliest + earliest % 2)
            if node.op.elementwise or node.op in _LAYOUT:
                most = node.types[0].nbytes // _SMALLER
                if all(
                    v.node.op is PARAMETER or v.node in light or v.type.nbytes <= most
                    for v in node.inputs
                ):
                    light.add(node)
        latest = dict.fromkeys(light, 2 * len(self.controls))
        for node in reversed(self.nodes):
            if node in light:
                found[node] = latest[node]
            for v in node.inputs:
                if v.node in light:
                    latest[v.node] = min(latest[v.node], found[node] - found[node] % 2)
        return found

    def _last_uses(self) -> dict[Value, int]:
        """The last step that reads each value from memory."""
        found = {v: 2 * len(self.controls) + 1 for v, _ in self.outputs}
        for node in reversed(self.nodes):
            for v in node.inputs:
                found[v] = max(found.get(v, 0), self.step[node])
            if node.op is after:  # another name for the same memory
                for v, r in zip(node.inputs, node.results, strict=False):
                    found[v] = max(found[v], found.get(r, 0))
        return found

    def _sure_from(self) -> int:
        """The first step after all that call the host or hold checks, or the last of those steps if
        it is a segment, which keeps its checks before what it writes over."""
        found = [self.step[node] + 1 for node in self.controls if may_fail(node)]
        checks = {node.results[0]: node for node in self.nodes if node.op is check_range}
        found += [self.step[node] for node in checks.values()]
        for node in self.nodes:  # what needs no parameter is made again by each segment
            known = [v for v in node.inputs if v in checks and v not in self.given]
            found += [self.step[node] // 2 * 2] * bool(known)
        return max(found, default=0)

    def _may_overwrite(self, value: Value, param: Value) -> bool:
        """Whether nothing reads the memory of `param` after the segment that makes `value`, and
        nothing can fail after it: state is whole when an error is raised."""
        is_output = any(v is param for v, _ in self.outputs)
        here = self.step[value.node]
        free = self.last_use.get(param, 0) <= here and here >= self.sure
        return here % 2 == 0 and free and not is_output

    def emit(self) -> list[Segment | Node]:
        """All instructions; the segments and control-flow nodes that they perform, in order."""
        for number, control in enumerate((*self.controls, None)):
            self._segment(2 * number)
            if control is not None:
                self._control(control)
        self._give_out()
        return self.parts

    def _give_out(self) -> None:
        """Put the outputs where they are wanted. What is passed on from an input goes first: an
        output may take its place."""
        late: list[tuple[Value, Slot]] = []
        for k, (value, slot) in enumerate(self.outputs):
            source = self.place[value]
            if source not in self.inputs or source == slot:
                late.append((value, slot))
            elif k not in self.aliases:
                self.builder.copy(slot, source, value.type)
            else:
                saved = self.builder.room(value.type)
                self.builder.copy(saved, source, value.type)
                self.place[value] = saved
                late.append((value, slot))
        for value, slot in late:
            self.builder.copy(slot, self.place[value], value.type)
            self.builder.used([self.place[value]])

    def _needed(self, step: int) -> list[Value]:
        """The values of a segment that are read after it. Those that need no parameter are made
        again by each segment that reads them, unless somebody else wants them in memory."""
        return [
            r
            for node in self.nodes
            if node.op is not PARAMETER and not _is_cut(node) and self.step[node] == step
            for r in node.results
            if self.last_use.get(r, -1) > step and (r in self.given or r in self.asked)
        ]

    def _segment(self, step: int) -> None:
        wanted = self._needed(step)
        if not wanted:
            return
        known = [v for v in self.place if v in self.given]
        used = {v for node in between(wanted, known) for v in node.inputs} | set(wanted)
        given = [v for v in known if v in used]
        slots = [self._slot(v) for v in wanted]
        ins = [self.place[v] for v in given]
        number = {v: i for i, v in enumerate(given)}
        aliases = {
            k: number[self.in_place[v]]
            for k, v in enumerate(wanted)
            if v in self.in_place and self.in_place[v] in number
        }
        aliases |= {k: IN_SIGHT for k, v in enumerate(wanted) if v in self.in_sight}
        graph = subgraph("segment", wanted, given)
        program = self.builder.call(graph, ins, slots, aliases)
        self.parts.append(Segment(program, tuple(given), tuple(wanted)))
        self.builder.used([*ins, *slots])
        self.place.update(zip(wanted, slots, strict=True))

    def _control(self, node: Node) -> None:
        ins = [self.place[v] for v in node.inputs]
        if node.op is after:
            self.place.update(zip(node.results, ins, strict=False))
            self.builder.used(ins)
            return
        slots = [self._slot(r) for r in node.results]
        self.parts.append(node)
        self.builder.control(node, ins, slots)
        self.builder.used([*ins, *slots])
        self.place.update(zip(node.results, slots, strict=True))

    def _slot(self, value: Value) -> Slot:
        found = self.target.get(value)
        return self.builder.room(value.type) if found is None else found


def _with_condition(attrs: WhileAttrs) -> Graph:
    """The body of a loop, with the condition of what it gives as one more output."""
    body, condition = attrs.body, attrs.condition
    after = [*body.params[: attrs.constants], *body.outputs]
    flag = moved_values(condition.outputs, dict(zip(condition.params, after, strict=True)))
    return make_graph(f"{body.name}_{condition.name}", body.params, [*body.outputs, *flag])


@cache
def _native_script() -> ctypes._FuncPointer:
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return prototype(native_library().address("rung_script"))
