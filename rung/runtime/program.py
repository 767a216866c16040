"""From a primitive graph to something that runs: plan, schedules, object code, stage table."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import llvmlite

from rung.codegen.llvm.lower import LoweredKernel, lower_kernel
from rung.codegen.llvm.target import Target, host
from rung.ir.expr import Const
from rung.ir.node import Graph
from rung.ir.types import TensorType
from rung.kernel.loop import Accumulate, For, Kernel, Stmt, Store, children
from rung.kernel.machine import Machine, host_machine
from rung.kernel.plan import (
    ConstantMemory,
    InputMemory,
    Memory,
    OutputMemory,
    Plan,
    PlannedCall,
    TempMemory,
    make_plan,
)  # fmt: skip
from rung.kernel.strategy import schedule_kernel
from rung.kernel.text import kernel_text
from rung.runtime.arena import Interval, plan_arena
from rung.runtime.compile import Module, Unit, compile_units
from rung.runtime.executable import (
    Arena,
    Constant,
    Executable,
    Input,
    Output,
    Slot,
    Stage,
    StageFlags,
)  # fmt: skip
from rung.runtime.loader import Library

GENERATORS = ("kernel", "codegen")
"""The folders whose source decides which code a kernel becomes."""
ALONE_WORK = 30_000
"""Scalar operations below which a whole program runs on the calling thread."""


@dataclass(frozen=True)
class Shape:
    """What the stage table needs to know of a compiled kernel: (symbol, grid) of each phase, the
    bytes of scratch that a thread needs, and the bytes of each temporary that its schedule added
    to the parameters."""

    phases: tuple[tuple[str, int], ...]
    scratch_bytes: int
    temp_bytes: tuple[int, ...] = ()


@cache
def generator_hash() -> str:
    """Hash of the source that turns kernels into code: part of the key of every cached object, so
    that one made by another version is never taken for this one's."""
    root = Path(__file__).parent.parent
    files = sorted(path for folder in GENERATORS for path in (root / folder).rglob("*.py"))
    found = hashlib.sha256()
    for path in files:
        found.update(path.relative_to(root).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


class CompiledKernel:
    """A distinct kernel of a program: naive form, schedule and code are made when they are asked
    for, so that a kernel found in the cache costs neither."""

    def __init__(self, naive: Kernel, group: str, machine: Machine, target: Target) -> None:
        self.naive = naive
        self.group = group
        self._machine = machine
        self._target = target
        text = kernel_text(replace(naive, name="kernel", sources=(), schedule=()))
        parts = (text, group, repr(machine), target.triple, target.cpu, target.features)
        salt = f"{generator_hash()} {llvmlite.__version__}"
        self.key = hashlib.sha256("\0".join((salt, *parts)).encode()).hexdigest()
        self._scheduled: Kernel | None = None
        self._lowered: LoweredKernel | None = None

    @property
    def name(self) -> str:
        """Name of the kernel in code and profiles."""
        return f"{self.group}_{self.key[:12]}"

    @property
    def scheduled(self) -> Kernel:
        """The kernel with its schedule applied."""
        if self._scheduled is None:
            named = replace(self.naive, name=self.name)
            self._scheduled = schedule_kernel(named, self.group, self._machine)
        return self._scheduled

    @property
    def lowered(self) -> LoweredKernel:
        """LLVM IR of the scheduled kernel."""
        if self._lowered is None:
            self._lowered = lower_kernel(self.scheduled, self._target)
        return self._lowered

    def unit(self) -> Unit:
        """What the compiler takes."""
        return Unit(self.key, self._module, self.name)

    def _module(self) -> Module:
        low = self.lowered
        added = self.scheduled.params[len(self.naive.params) :]
        note = json.dumps(
            {
                "phases": low.phases,
                "scratch": low.scratch_bytes,
                "temps": [b.nbytes for b in added],
            }
        )
        return Module(low.ir_text, tuple(symbol for symbol, _ in low.phases), note)


def shape_of(library: Library) -> Shape:
    """Grids and scratch, from the note that is kept with the kernel's object code."""
    data = json.loads(library.note)
    phases = tuple((symbol, grid) for symbol, grid in data["phases"])
    return Shape(phases, data["scratch"], tuple(data["temps"]))


@dataclass(frozen=True, eq=False)
class StageInfo:
    """Which kernel and phase a stage is, for profiles and `explain`."""

    kernel: CompiledKernel
    call: PlannedCall
    phase: int


class CompiledGraph:
    """A graph that runs: `run` takes addresses of dense row-major arrays."""

    def __init__(
        self, graph: Graph, plan: Plan, kernels: Sequence[CompiledKernel], stages: StageTable
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.kernels = tuple(kernels)
        self.stages = stages.infos
        self.input_types: tuple[TensorType, ...] = tuple(p.type for p in graph.params)
        self.output_types: tuple[TensorType, ...] = tuple(v.type for v in graph.outputs)
        self.executable = stages.executable
        self.arena_bytes = stages.executable.arena_bytes
        self._run = self.executable.run

    def run(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Run once over the given addresses; blocks until the outputs are written."""
        self._run([*inputs, *outputs])

    def run_at(self, table: int) -> None:
        """Run once with the address of a table of pointers, inputs then outputs."""
        self.executable.run_at(table)

    def profile(self, inputs: Sequence[int], outputs: Sequence[int]) -> list[float]:
        """Run once; microseconds of each stage."""
        return self.executable.profile([*inputs, *outputs])


@dataclass(frozen=True, eq=False)
class StageTable:
    """An executable and what each of its stages is."""

    executable: Executable
    infos: tuple[StageInfo, ...]


def compile_graph(
    graph: Graph, aliases: Mapping[int, int] | None = None, machine: Machine | None = None
) -> CompiledGraph:
    """Compile a primitive graph for this machine. `aliases` maps outputs to the inputs whose buffer
    the caller passes for both (donated state).

    Raises LoweringError for ops that have no lowering."""
    machine = machine or host_machine()
    plan = make_plan(graph, aliases or {})
    target = host()
    found: dict[tuple[Kernel, str], CompiledKernel] = {}
    kernels: list[CompiledKernel] = []
    for call in plan.calls:
        bare = replace(call.kernel, sources=())
        key = (bare, call.group)
        if key not in found:
            found[key] = CompiledKernel(bare, call.group, machine, target)
        kernels.append(found[key])
    distinct = list(found.values())
    libraries = compile_units([k.unit() for k in distinct])
    loaded = dict(zip(distinct, libraries, strict=True))
    shapes = {k: shape_of(library) for k, library in loaded.items()}
    table = _StageBuilder(graph, plan, kernels, shapes, loaded, aliases or {}).build()
    return CompiledGraph(graph, plan, kernels, table)


class _StageBuilder:
    """Turns planned calls into stages: barriers where one stage needs another's result, and one
    arena for the temporary memory."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        kernels: Sequence[CompiledKernel],
        shapes: Mapping[CompiledKernel, Shape],
        loaded: Mapping[CompiledKernel, Library],
        aliases: Mapping[int, int],
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.kernels = kernels
        self.shapes = shapes
        self.loaded = loaded
        self.aliases = aliases

    def build(self) -> StageTable:
        self._added = self._added_temps()
        barriers, epochs = self._barriers()
        offsets, arena_bytes = self._arena(epochs)
        stages: list[Stage] = []
        infos: list[StageInfo] = []
        for i, (call, kernel) in enumerate(zip(self.plan.calls, self.kernels, strict=True)):
            slots = tuple(self._slot(m, offsets) for m in (*call.memory, *self._added[i]))
            for phase, (symbol, grid) in enumerate(self.shapes[kernel].phases):
                flags = StageFlags.BARRIER if phase or barriers[i] else StageFlags.NONE
                if grid == 1:
                    flags |= StageFlags.SERIAL
                address = self.loaded[kernel].address(symbol)
                stages.append(Stage(address, slots, grid, flags, name=symbol))
                infos.append(StageInfo(kernel, call, phase))
        executable = Executable(
            stages,
            arena_bytes=arena_bytes,
            scratch_bytes=max((s.scratch_bytes for s in self.shapes.values()), default=0),
            num_inputs=len(self.graph.params),
            num_outputs=len(self.graph.outputs),
            alone=sum(work(c.kernel) for c in self.plan.calls) < ALONE_WORK,
            keep=tuple(self.loaded.values()),
        )
        return StageTable(executable, tuple(infos))

    def _added_temps(self) -> list[tuple[TempMemory, ...]]:
        """Memory of the temporaries that schedules added, for each call."""
        used = [m.index for c in self.plan.calls for m in c.memory if isinstance(m, TempMemory)]
        number = itertools.count(max(used, default=-1) + 1)
        return [
            tuple(TempMemory(next(number), n) for n in self.shapes[k].temp_bytes)
            for k in self.kernels
        ]

    def _place(self, m: Memory) -> object:
        """What identifies memory: donated outputs are their inputs."""
        if isinstance(m, OutputMemory) and m.index in self.aliases:
            return InputMemory(self.aliases[m.index])
        return m

    def _barriers(self) -> tuple[list[bool], list[int]]:
        """For each call whether it waits for all before it, and the barrier epoch it runs in."""
        read: set[object] = set()
        written: set[object] = set()
        barriers: list[bool] = []
        epochs: list[int] = []
        epoch = 0
        for call, kernel in zip(self.plan.calls, self.kernels, strict=True):
            pairs = list(zip(call.kernel.params, call.memory, strict=True))
            writes = {self._place(m) for b, m in pairs if b.role != "input"}
            reads = {self._place(m) for b, m in pairs if b.role in ("input", "inout")}
            wait = bool(reads & written or writes & (written | read))
            if wait:
                epoch += 1
                read, written = set(), set()
            barriers.append(wait)
            epochs.append(epoch)
            phases = len(self.shapes[kernel].phases)
            if phases > 1:
                epoch += phases - 1
                read, written = set(), set()
            read |= reads
            written |= writes
        return barriers, epochs

    def _arena(self, epochs: list[int]) -> tuple[dict[int, int], int]:
        """Byte offset of every temporary by its number."""
        first: dict[TempMemory, int] = {}
        last: dict[TempMemory, int] = {}
        for i, call in enumerate(self.plan.calls):
            end = epochs[i] + len(self.shapes[self.kernels[i]].phases) - 1
            for m in (*call.memory, *self._added[i]):
                if isinstance(m, TempMemory):
                    first.setdefault(m, epochs[i])
                    last[m] = end
        intervals = [Interval(str(m.index), m.nbytes, first[m], last[m]) for m in first]
        plan = plan_arena(intervals)
        return {int(name): offset for name, offset in plan.offsets.items()}, plan.total_bytes

    def _slot(self, m: Memory, offsets: Mapping[int, int]) -> Slot:
        match m:
            case InputMemory(index):
                return Input(index)
            case OutputMemory(index):
                return Output(index)
            case TempMemory(index, _):
                return Arena(offsets[index])
            case ConstantMemory(array):
                return Constant(array)


def work(kernel: Kernel) -> int:
    """Scalar statements that a naive kernel executes."""

    def visit(s: Stmt) -> int:
        if isinstance(s, Store | Accumulate):
            return 1
        inner = sum(visit(c) for c in children(s))
        if isinstance(s, For):
            extent = int(s.extent.value) if isinstance(s.extent, Const) else s.axis.extent
            return inner * extent
        return inner

    return sum(visit(p) for p in kernel.phases)


Compiler = Callable[[Graph, Mapping[int, int]], CompiledGraph]
