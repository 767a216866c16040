"""From a graph to something that runs: plan, schedules, object code, recipe."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from rung.codegen.llvm.lower import LoweredKernel, lower_kernel
from rung.codegen.llvm.target import Target, host
from rung.core.errors import IndexingError, LoweringError
from rung.core.settings import settings
from rung.ir.digest import graph_digest
from rung.ir.expr import Const, Size, is_sized, sized_value
from rung.ir.node import Graph
from rung.ir.types import TensorType
from rung.kernel.deps import written_buffers
from rung.kernel.loop import Accumulate, For, Kernel, Stmt, Store, children
from rung.kernel.machine import Machine, host_machine
from rung.kernel.plan import (
    IN_SIGHT,
    ConstantMemory,
    FaultMemory,
    InputMemory,
    Memory,
    OutputMemory,
    Plan,
    PlannedCall,
    TempMemory,
    make_plan,
)  # fmt: skip
from rung.kernel.prepare import phases, preparing
from rung.kernel.strategy import schedule_kernel
from rung.kernel.text import expr_text, kernel_text
from rung.ops.check import RangeAttrs, fault_error
from rung.runtime.arena import Interval, plan_arena
from rung.runtime.breath import NativeCall, Turn
from rung.runtime.cache import object_cache
from rung.runtime.compile import Module, Unit, compile_units
from rung.runtime.executable import (
    Arena,
    Constant,
    Fault,
    Input,
    Output,
    Slot,
    StageFlags,
)  # fmt: skip
from rung.runtime.loader import Library
from rung.runtime.recipe import Recipe, Step

_TILED_WEIGHT = 4
"""How much longer a character of a naive kernel takes to compile if it becomes tiles."""
ALONE_WORK = 30_000
"""Scalar operations below which a whole program runs on the calling thread."""


@dataclass(frozen=True)
class Shape:
    """What the stage table needs to know of a compiled kernel: (symbol, grid) of each phase, the
    bytes of scratch that a thread needs, the bytes of each temporary that its schedule added to
    the parameters, the phases that one run of many needs, and which temporaries these fill.
    `grids` are the grids as text where they depend on sizes."""

    phases: tuple[tuple[str, int], ...]
    scratch_bytes: int
    temp_bytes: tuple[int, ...] = ()
    preparing: tuple[bool, ...] = ()
    kept: tuple[bool, ...] = ()
    grids: tuple[str, ...] = ()

    @property
    def each_run(self) -> list[int]:
        """The numbers of the phases of every run."""
        return [i for i, once in enumerate(self.preparing) if not once]


class CompiledKernel:
    """A distinct kernel of a program: naive form, schedule and code are made when they are asked
    for, so that a kernel found in the cache costs neither. `fixed` names the inputs that are the
    same in many runs."""

    def __init__(
        self,
        naive: Kernel,
        group: str,
        machine: Machine,
        target: Target,
        fixed: frozenset[str] = frozenset(),
    ) -> None:
        self.naive = naive
        self.group = group
        self.fixed = fixed
        self._machine = machine
        self._target = target
        text = kernel_text(replace(naive, name="kernel", sources=(), schedule=()))
        parts = [text, group, repr(machine), target.triple, target.cpu, target.features]
        parts += sorted(fixed)
        self.key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        self._weight = len(text) * (_TILED_WEIGHT if group == "contract" else 1)
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
            self._scheduled = schedule_kernel(named, self.group, self._machine, self.fixed)
        return self._scheduled

    @property
    def lowered(self) -> LoweredKernel:
        """LLVM IR of the scheduled kernel."""
        if self._lowered is None:
            self._lowered = lower_kernel(self.scheduled, self._target)
        return self._lowered

    def unit(self) -> Unit:
        """What the compiler takes."""
        return Unit(self.key, self._module, self.name, self._weight)

    def _module(self) -> Module:
        low = self.lowered
        added = self.scheduled.params[len(self.naive.params) :]
        once = preparing(self.scheduled, self.fixed)
        made = [written_buffers(p) for p, o in zip(phases(self.scheduled), once, strict=True) if o]
        grids = [expr_text(g) for g in low.grids] if self.naive.sizes else []
        note = json.dumps(
            {
                "grids": grids,
                "phases": low.phases,
                "scratch": low.scratch_bytes,
                "temps": [b.nbytes for b in added],
                "preparing": once,
                "kept": [any(b in buffers for buffers in made) for b in added],
            }
        )
        return Module(low.ir_text, tuple(symbol for symbol, _ in low.phases), note)


def shape_of(library: Library) -> Shape:
    """Grids and scratch, from the note that is kept with the kernel's object code."""
    data = json.loads(library.note)
    return Shape(
        tuple((symbol, grid) for symbol, grid in data["phases"]),
        data["scratch"],
        tuple(data["temps"]),
        tuple(data["preparing"]),
        tuple(data["kept"]),
        tuple(data["grids"]),
    )


@dataclass(frozen=True, eq=False)
class StageInfo:
    """Which kernel and phase a stage is, for profiles and `explain`."""

    kernel: CompiledKernel
    call: PlannedCall
    phase: int


Lower = Callable[[Graph], Graph]
"""From a graph as it was traced to one of primitive ops."""


class Planning:
    """What a program is made from. Each part is worked out when it is first asked for: a program
    whose recipe is on disk needs none of it to run."""

    def __init__(
        self,
        graph: Graph,
        aliases: Mapping[int, int],
        machine: Machine,
        lower: Lower | None,
        fixed: frozenset[int] = frozenset(),
    ) -> None:
        self.given = graph
        self.fixed = fixed
        self.aliases = aliases
        self.machine = machine
        self._lower = lower

    @cached_property
    def graph(self) -> Graph:
        """The primitive graph."""
        return self.given if self._lower is None else self._lower(self.given)

    @cached_property
    def plan(self) -> Plan:
        """Which kernel works on which memory, in which order."""
        return make_plan(self.graph, self.aliases)

    @cached_property
    def kernels(self) -> tuple[CompiledKernel, ...]:
        """The kernel of each call of the plan; equal kernels are the same object."""
        target = host()
        found: dict[tuple[Kernel, str, frozenset[str]], CompiledKernel] = {}
        kernels: list[CompiledKernel] = []
        for call in self.plan.calls:
            bare = replace(call.kernel, sources=())
            fixed = self._fixed(call) if call.group == "contract" else frozenset()
            key = (bare, call.group, fixed)
            if key not in found:
                found[key] = CompiledKernel(bare, call.group, self.machine, target, fixed)
            kernels.append(found[key])
        return tuple(kernels)

    def _fixed(self, call: PlannedCall) -> frozenset[str]:
        """The inputs of a kernel that are the same in many runs."""
        return frozenset(
            b.name
            for b, m in zip(call.kernel.params, call.memory, strict=True)
            if b.role == "input" and isinstance(m, InputMemory) and m.index in self.fixed
        )

    def recipe_key(self) -> str:
        """Under which the recipe is kept."""
        uses = f"{sorted(self.aliases.items())} {sorted(self.fixed)}"
        parts = (graph_digest(self.given), uses, repr(self.machine))
        lowered = "lowered" if self._lower is None else "traced"
        return "\0".join(("recipe", lowered, *parts))

    def anew(self) -> Planning:
        """The same, with nothing worked out."""
        return Planning(self.given, self.aliases, self.machine, self._lower, self.fixed)

    def unit(self, key: str, name: str) -> Unit:
        """What the compiler takes for a kernel that is only known by its key."""

        def make() -> Module:
            for kernel in self.kernels:
                if kernel.key == key:
                    return kernel.unit().make()
            raise StaleRecipeError(f"{name} is no kernel of {self.given.name}")

        return Unit(key, make, name)


class StaleRecipeError(LoweringError):
    """A recipe from disk does not fit the program that it is for."""


class CompiledGraph:
    """A graph that runs: `run` takes addresses of dense row-major arrays.

    `kept_bytes`: sizes of what is made of fixed inputs. If there is any, the caller gives memory
    for it, whose addresses follow the outputs, and runs `preparation` with the same table before
    the first `executable`. `launch`: runs it on the addresses of all inputs and then all outputs,
    without a look at faults; None where it may find some."""

    def __init__(
        self, planning: Planning, recipe: Recipe, libraries: Mapping[str, Library]
    ) -> None:
        self._planning = planning
        self._libraries = libraries
        given = planning.given
        self.input_types: tuple[TensorType, ...] = tuple(p.type for p in given.params)
        self.output_types: tuple[TensorType, ...] = tuple(v.type for v in given.outputs)
        counts = len(given.params), len(given.outputs)
        self.executable = recipe.executable(libraries, *counts)
        self.preparation = recipe.preparation(libraries, *counts)
        self.kept_bytes = recipe.kept_bytes
        self.arena_bytes = recipe.arena_bytes
        self._run = self.executable.run
        self.launch = None if len(self.executable.faults) else self._run

    @property
    def graph(self) -> Graph:
        """The primitive graph."""
        return self._planning.graph

    @property
    def plan(self) -> Plan:
        """The calls of kernels with their memory."""
        return self._planning.plan

    @property
    def kernels(self) -> tuple[CompiledKernel, ...]:
        """The kernel of each call."""
        return self._planning.kernels

    def planning(self) -> Planning:
        """What it is made from, with nothing worked out yet."""
        return self._planning.anew()

    @property
    def aliases(self) -> Mapping[int, int]:
        """Outputs that lie where inputs do."""
        return {k: i for k, i in self._planning.aliases.items() if i != IN_SIGHT}

    @property
    def programs(self) -> tuple[CompiledGraph, ...]:
        """Itself, as the one program of which it consists."""
        return (self,)

    @cached_property
    def stages(self) -> tuple[StageInfo, ...]:
        """What each stage of the executable is."""
        return tuple(
            StageInfo(kernel, call, phase)
            for call, kernel in zip(self.plan.calls, self.kernels, strict=True)
            for phase in shape_of(self._libraries[kernel.key]).each_run
        )

    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> None:
        """Run once over the given addresses; blocks until the outputs are written. With fixed
        inputs, `outputs` end with the memory for what is made of them, prepared before. Raises
        IndexingError for a position that is out of range; outputs that lie where inputs do, or are
        in sight, are then as they were. `first`, the run, and `then` are done in one breath, if it
        is its `turn`."""
        faults = self._run([*inputs, *outputs], first, then, turn)
        if faults:
            raise self.error(faults)

    def error(self, faults: Sequence[int]) -> IndexingError:
        """The error for faults of which some are not 0, on the line of the first check that has
        failed."""
        node, word = next((n, w) for n, w in zip(self.plan.checks, faults, strict=True) if w)
        assert isinstance(node.attrs, RangeAttrs)
        return fault_error(node.attrs, node.inputs[0].dtype, word, node.source)

    def prepare(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Make what is made of fixed inputs, with the addresses that `run` will get."""
        if self.preparation is not None:
            self.preparation.run([*inputs, *outputs])

    def run_at(self, table: int) -> None:
        """Run once with the address of a table of pointers, inputs then outputs; raises as `run`
        does."""
        faults = self.executable.run_at(table)
        if faults:
            raise self.error(faults)

    def profile(self, inputs: Sequence[int], outputs: Sequence[int]) -> list[float]:
        """As `run`, whatever the checks say; microseconds of each stage."""
        return self.executable.profile([*inputs, *outputs])


def compile_graph(
    graph: Graph,
    aliases: Mapping[int, int] | None = None,
    machine: Machine | None = None,
    lower: Lower | None = None,
    fixed: frozenset[int] = frozenset(),
) -> CompiledGraph:
    """Compile a graph for this machine. `aliases` maps outputs to the inputs whose buffer the
    caller passes for both (donated state), or to IN_SIGHT; `lower` makes the graph primitive where
    it is not. `fixed`: inputs that are the same in many runs, so that they are laid out once; see
    CompiledGraph.

    Raises LoweringError for ops that have no lowering."""
    machine = machine or host_machine()
    planning = Planning(graph, aliases or {}, machine, lower, fixed)
    cache = object_cache(machine)
    key = planning.recipe_key()
    found = None if settings().verify else cache.get(key)
    if found is not None:
        recipe = Recipe.unpack(found)
        with contextlib.suppress(StaleRecipeError):
            units = (planning.unit(*k) for k in recipe.kernels)
            return CompiledGraph(planning, recipe, load_units(units))
    distinct = dict.fromkeys(planning.kernels)
    libraries = load_units(k.unit() for k in distinct)
    recipe = RecipeBuilder(
        planning.plan.calls,
        planning.kernels,
        {k: shape_of(libraries[k.key]) for k in distinct},
        planning.aliases,
        len(graph.outputs),
        len(planning.plan.checks),
    ).build(sum(work(c.kernel) for c in planning.plan.calls) < ALONE_WORK)
    packed = recipe.pack()
    if packed is not None:
        cache.put(key, packed)
    return CompiledGraph(planning, recipe, libraries)


def load_units(units: Iterable[Unit]) -> dict[str, Library]:
    """Loaded code by key."""
    wanted = list(units)
    return dict(zip([u.key for u in wanted], compile_units(wanted), strict=True))


@dataclass(frozen=True)
class KeptMemory:
    """Memory number `index` of what is made of fixed inputs."""

    index: int
    nbytes: int


class RecipeBuilder:
    """Turns planned calls into stages: barriers where one stage needs another's result, and one
    arena for the temporary memory. `kernels` are those of the calls, `shapes` what is known of
    them; `num_faults` words are written of what is found to be wrong."""

    def __init__(
        self,
        calls: Sequence[PlannedCall],
        kernels: Sequence[CompiledKernel],
        shapes: Mapping[CompiledKernel, Shape],
        aliases: Mapping[int, int],
        num_outputs: int,
        num_faults: int,
    ) -> None:
        self.calls = calls
        self.kernels = kernels
        self.shapes = shapes
        self.aliases = aliases
        self.num_outputs = num_outputs
        self.num_faults = num_faults

    def build(self, alone: bool) -> Recipe:
        """The recipe; `alone`: see Executable."""
        self._added = self._added_temps()
        barriers, epochs = self._barriers()
        offsets, arena_bytes = self._arena(epochs)
        numbers = {k: i for i, k in enumerate(self.shapes)}
        steps: list[Step] = []
        early: list[Step] = []
        for i, (call, kernel) in enumerate(zip(self.calls, self.kernels, strict=True)):
            slots = tuple(self._slot(m, offsets) for m in (*call.memory, *self._added[i]))
            shape, first = self.shapes[kernel], True
            for (symbol, grid), once in zip(shape.phases, shape.preparing, strict=True):
                flags = StageFlags.SERIAL if grid == 1 else StageFlags.NONE
                if once:
                    early.append(Step(numbers[kernel], symbol, grid, flags, slots))
                    continue
                if barriers[i] or not first:
                    flags |= StageFlags.BARRIER
                if call.guarded:
                    flags |= StageFlags.GUARDED
                steps.append(Step(numbers[kernel], symbol, grid, flags, slots))
                first = False
        kept = [m for added in self._added for m in added if isinstance(m, KeptMemory)]
        return Recipe(
            kernels=tuple((k.key, k.name) for k in self.shapes),
            steps=tuple(steps),
            early=tuple(early),
            kept_bytes=tuple(m.nbytes for m in kept),
            arena_bytes=arena_bytes,
            scratch_bytes=max((s.scratch_bytes for s in self.shapes.values()), default=0),
            alone=alone,
            num_faults=self.num_faults,
        )

    def _added_temps(self) -> list[tuple[Memory | KeptMemory, ...]]:
        """Memory of what comes behind the parameters of each call: the temporaries that schedules
        added."""
        used = [m.index for c in self.calls for m in c.memory if isinstance(m, TempMemory)]
        number, place = itertools.count(max(used, default=-1) + 1), itertools.count()
        found: list[tuple[Memory | KeptMemory, ...]] = []
        for kernel in self.kernels:
            shape = self.shapes[kernel]
            sizes = zip(shape.temp_bytes, shape.kept, strict=True)
            found.append(
                tuple(
                    KeptMemory(next(place), n) if kept else TempMemory(next(number), n)
                    for n, kept in sizes
                )
            )
        return found

    def _place(self, m: Memory) -> object:
        """What identifies memory: donated outputs are their inputs."""
        if isinstance(m, OutputMemory) and self.aliases.get(m.index, IN_SIGHT) != IN_SIGHT:
            return InputMemory(self.aliases[m.index])
        return m

    def _barriers(self) -> tuple[list[bool], list[int]]:
        """For each call whether it waits for all before it, and the barrier epoch it runs in. The
        first guarded one waits: the look at the faults is where stages are waited for."""
        read: set[object] = set()
        written: set[object] = set()
        barriers: list[bool] = []
        epochs: list[int] = []
        epoch, guarded = 0, False
        for call, kernel in zip(self.calls, self.kernels, strict=True):
            pairs = list(zip(call.kernel.params, call.memory, strict=True))
            writes = {self._place(m) for b, m in pairs if b.role != "input"}
            reads = {self._place(m) for b, m in pairs if b.role in ("input", "inout")}
            guards = call.guarded and not guarded
            guarded |= call.guarded
            wait = guards or bool(reads & written or writes & (written | read))
            if wait:
                epoch += 1
                read, written = set(), set()
            barriers.append(wait)
            epochs.append(epoch)
            count = len(self.shapes[kernel].each_run)
            if count > 1:
                epoch += count - 1
                read, written = set(), set()
            read |= reads
            written |= writes
        return barriers, epochs

    def _arena(self, epochs: list[int]) -> tuple[dict[int, int], int]:
        """Byte offset of every temporary by its number."""
        first: dict[TempMemory, int] = {}
        last: dict[TempMemory, int] = {}
        for i, call in enumerate(self.calls):
            end = epochs[i] + len(self.shapes[self.kernels[i]].each_run) - 1
            for m in (*call.memory, *self._added[i]):
                if isinstance(m, TempMemory):
                    first.setdefault(m, epochs[i])
                    last[m] = end
        intervals = [Interval(str(m.index), m.nbytes, first[m], last[m]) for m in first]
        plan = plan_arena(intervals)
        return {int(name): offset for name, offset in plan.offsets.items()}, plan.total_bytes

    def _slot(self, m: Memory | KeptMemory, offsets: Mapping[int, int]) -> Slot:
        match m:
            case InputMemory(index):
                return Input(index)
            case OutputMemory(index):
                return Output(index)
            case TempMemory(index, _):
                return Arena(offsets[index])
            case ConstantMemory(array):
                return Constant(array)
            case FaultMemory(index):
                return Fault(index)
            case KeptMemory(index):
                return Output(self.num_outputs + index)


def work(kernel: Kernel, sizes: Mapping[Size, int] = MappingProxyType({})) -> int:
    """Scalar statements that a naive kernel executes."""

    def visit(s: Stmt) -> int:
        if isinstance(s, Store | Accumulate):
            return 1
        inner = sum(visit(c) for c in children(s))
        if isinstance(s, For):
            known = isinstance(s.extent, Const) or (bool(sizes) and is_sized(s.extent))
            return inner * (sized_value(s.extent, sizes) if known else s.axis.extent)
        return inner

    return sum(visit(p) for p in kernel.phases)


Compiler = Callable[[Graph, Mapping[int, int]], CompiledGraph]
