"""The cache of programs by graph structure, and running one.

A constant is compiled into a program. When the same structure has come with `LIFT_AFTER` different
values of a constant, that constant becomes a 0-d input of one program for all its values: so a
learning rate or a loop index that changes each time costs `LIFT_AFTER` compilations, not endless
ones.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from sys import getrefcount

from rung.core.dtype import Scalar
from rung.core.errors import RungError
from rung.core.settings import settings
from rung.core.source import Source
from rung.ir.node import Graph
from rung.ir.types import TensorType
from rung.runtime.background import BackgroundCompile
from rung.runtime.breath import NativeCall, Turn
from rung.runtime.eager import EagerPlan
from rung.runtime.forks import hold_at_fork
from rung.runtime.program import CompiledGraph
from rung.runtime.sized import SizedRun
from rung.tensor.executor import Program, compiled_beside, current_executor, is_compiling
from rung.tensor.leaf import LISTED, Buffer, new_buffer, tensor_type
from rung.tensor.linear import Key, Linear, Step, build_graph
from rung.tensor.sizes import clear_structures, num_sized, sized_program

LIFT_AFTER = 3
_MAX_FAMILIES = 2048
_MAX_ONCE = 1 << 16
_KEPT_BYTES = 1 << 16  # outputs up to this size are kept ready for the next run
_KEPT = 3


class Runnable:
    """A compiled program with its graph, and buffers ready for its small outputs. `steps`: those of
    the pending graph that it was compiled for. `launch`: see `CompiledGraph`; None if what it runs
    may fail. A program that serves many sizes has a function that makes the `graph`."""

    __slots__ = ("_graph", "_kept", "launch", "program", "scalar_types", "steps", "types")

    def __init__(
        self,
        program: Program,
        graph: Graph | Callable[[], Graph],
        scalar_types: Sequence[TensorType],
        steps: Sequence[Step] = (),
    ) -> None:
        self.program = program
        self.launch = program.launch if isinstance(program, CompiledGraph | SizedRun) else None
        self._graph = graph
        self.scalar_types = scalar_types
        self.steps = steps
        types = program.output_types if callable(graph) else [v.type for v in graph.outputs]
        self.types = [tensor_type(t.dtype, t.shape) for t in types]
        self._kept: list[list[Buffer] | None] = [
            [] if t.nbytes <= _KEPT_BYTES else None for t in self.types
        ]

    @property
    def graph(self) -> Graph:
        """The graph as it was traced."""
        if callable(self._graph):
            self._graph = self._graph()
        return self._graph

    def output_buffer(self, index: int) -> Buffer:
        """A buffer for output `index`: one that nobody holds any more, or a new one."""
        kept = self._kept[index]
        if kept is None:
            return new_buffer(self.types[index])
        for buffer in kept:  # held before it is counted: a signal handler takes another one
            if getrefcount(buffer) == LISTED + 1:
                return buffer
        buffer = new_buffer(self.types[index])
        if len(kept) < _KEPT:
            buffer.kept = 1
            kept.append(buffer)
        return buffer

    def __del__(self) -> None:
        """Nobody keeps the buffers any more: who holds one, holds all that is counted."""
        for kept in self._kept:
            for buffer in kept or ():
                buffer.kept = 0

    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        steps: Sequence[Step],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> None:
        """Run the program over addresses, for a pending graph of the same structure whose steps are
        `steps`: errors name the lines of these. `first`, the run, and `then` are done in one
        breath, if it is its `turn`."""
        try:
            self.program.run(inputs, outputs, first, then, turn)
        except RungError as e:
            if e.source is None or steps is self.steps:
                raise
            raise e.at(_same_place(e.source, self.steps, steps)) from None

    def scalar_buffers(self, values: Sequence[Scalar]) -> list[Buffer]:
        """Inputs for the constants that are lifted."""
        return [filled_buffer(t, v) for t, v in zip(self.scalar_types, values, strict=True)]


def filled_buffer(type: TensorType, value: Scalar) -> Buffer:
    """A buffer with every element `value`."""
    buffer = new_buffer(tensor_type(type.dtype, type.shape))
    buffer.array[...] = value
    return buffer


def _same_place(place: Source, before: Sequence[Step], now: Sequence[Step]) -> Source:
    """The line of the step of `now` that stands where one of line `place` stands in `before`;
    `place` if none does."""
    pairs = [(old[3], new[3]) for old, new in zip(before, now, strict=True)]
    same = [new for old, new in pairs if old == place]
    near = [new for old, new in pairs if (old.file, old.line) == (place.file, place.line)]
    return next(iter((*same, *near)), place)


@dataclass(slots=True)
class Coming:
    """A program that takes over at look number `at`, and is compiled beside until then. `steps`:
    those of the pending graph that `graph` was made of."""

    at: float
    graph: Graph
    steps: Sequence[Step]
    job: BackgroundCompile


class Family:
    """The programs of one structure; for each constant the values seen, and if it is lifted.

    `looks`: how often it was computed without `jit`, `eager` the plan to do that op by op, and
    `coming` the programs that will do it instead, `wait` looks after they are begun: -1 as long as
    that is not known, 0 for what is fused at the first look (see `rung.tensor.tiers`)."""

    __slots__ = ("coming", "eager", "lifted", "looks", "programs", "seen", "wait")

    def __init__(self, num_constants: int) -> None:
        self.seen: list[set[Hashable]] = [set() for _ in range(num_constants)]
        self.lifted: tuple[bool, ...] = (False,) * num_constants
        self.programs: dict[Hashable, Runnable] = {}
        self.looks = 0
        self.wait = -1
        self.eager: EagerPlan | None = None
        self.coming: dict[Hashable, Coming] = {}

    def note(self, constants: Sequence[Scalar]) -> tuple[bool, ...]:
        """Remember the constants of a graph that has no program yet; which are lifted now. Other
        threads may lift more meanwhile: go on with what this gave."""
        lifted = self.lifted
        for i, value in enumerate(constants):
            if not lifted[i]:
                self.seen[i].add(_bits(value))
                if len(self.seen[i]) >= LIFT_AFTER:
                    self.lifted = lifted = (*lifted[:i], True, *lifted[i + 1 :])
        return lifted


def _bits(value: Scalar) -> Hashable:
    return struct.pack("<d", value) if isinstance(value, float) else value


_notes: deque[str] = deque(maxlen=1000)


def note_compiling(text: str) -> None:
    """Remember that something is compiled, and why; the setting `debug` has it told at once."""
    _notes.append(text)
    if settings().debug >= 1:
        print(f"rung: {text}", file=sys.stderr)


def recompiles() -> list[str]:
    """What this process has compiled so far, and why, the last thousand: programs that have come
    often without `jit`, with the look from which on they are fused, and traces of functions under
    `jit`."""
    return list(_notes)


_families: OrderedDict[Key, Family] = OrderedDict()
_once: set[int] = set()
_num_compiled = [0]


def family_of(linear: Linear, lasting: bool = True) -> Family:
    """What is known of the structure of a pending graph. Of one that has not come before only its
    hash is kept, unless it is `lasting`: many come once, and never again."""
    key = linear.key
    with _looking_up:
        family = _families.get(key)
        if family is not None:
            if len(_families) > _MAX_FAMILIES // 2:
                _families.move_to_end(key)
            return family
        family = Family(len(linear.constants))
        if not lasting and hash(key) not in _once:
            if len(_once) >= _MAX_ONCE:
                _once.clear()
            _once.add(hash(key))
            return family
        if not lasting:
            family.looks = 1
        _families[key] = family
        if len(_families) > _MAX_FAMILIES:
            _families.popitem(last=False)
        return family


def find_program(
    linear: Linear,
    aliases: Mapping[int, int],
    name: str,
    family: Family | None = None,
    dynamic: bool | None = True,
) -> tuple[Runnable, list[Scalar]]:
    """The program for a pending graph (of this `family`, where that is known), compiled if there is
    none yet, and the values for its lifted constants. `aliases`: output index -> input index that
    share a buffer. `dynamic`: it may be one for all sizes; False asks for one of this size alone,
    None takes one for all sizes if there is one, but makes none."""
    if family is None:
        family = family_of(linear)
    lifted = family.lifted
    key = program_key(lifted, linear, aliases)
    found = family.programs.get((key, _STATIC) if dynamic is False else key)
    if found is None:
        with _compiling:
            found, lifted = _new_program(linear, aliases, name, family, dynamic)
    return found, [v for v, lift in zip(linear.constants, lifted, strict=True) if lift]


def _new_program(
    linear: Linear, aliases: Mapping[int, int], name: str, family: Family, dynamic: bool | None
) -> tuple[Runnable, Sequence[bool]]:
    """The program for a pending graph, unless another thread has made it meanwhile, and which
    constants are inputs of it."""
    lifted = family.note(linear.constants)
    key = program_key(lifted, linear, aliases)
    if dynamic is False:
        key = key, _STATIC
    found = family.programs.get(key)
    if found is not None:
        return found, lifted
    if dynamic and key not in family.coming:
        sized = _sized(family, linear, aliases, name)
        if sized is not None:
            return sized
    coming = family.coming.pop(key, None)
    if coming is None:
        graph, steps = build_graph(linear, lifted, name), linear.steps
    else:
        coming.job.wait()
        graph, steps = coming.graph, coming.steps
    found = family.programs[key] = _compile(graph, steps, len(linear.inputs), aliases)
    return found, lifted


_STATIC = "of this size alone"
_looking_up = threading.RLock()
_compiling = threading.RLock()
"""Held while a program is compiled, so that no two threads compile the same."""
hold_at_fork(_compiling)
hold_at_fork(_looking_up)


def _sized(
    family: Family, linear: Linear, aliases: Mapping[int, int], name: str
) -> tuple[Runnable, Sequence[bool]] | None:
    """A program for any size, if the structure of a pending graph has come with another one, and
    which constants are inputs of it."""
    if not is_compiling():
        return None
    num_made, num_tries = num_sized()
    found = sized_program(linear, aliases, name)
    if num_sized()[1] > num_tries:
        _num_compiled[0] += num_sized()[0] - num_made
        why = found if isinstance(found, str) else "compiled once for all sizes"
        note_compiling(f"{name}: {len(linear.steps)} ops have come with another size: {why}")
    if isinstance(found, str):
        return None
    sized, sizes, program = found
    lifted = family.lifted = tuple(sized.template.lifted)
    pairs = zip(linear.constant_steps, lifted, strict=True)
    scalars = [linear.steps[at][5][0] for at, lift in pairs if lift]
    runnable = Runnable(program, lambda: sized.graph(sizes, name), scalars, linear.steps)
    family.programs[program_key(lifted, linear, aliases)] = runnable
    return runnable, lifted


def program_key(lifted: Sequence[bool], linear: Linear, aliases: Mapping[int, int]) -> Hashable:
    """What a program of a family is known by, where these constants are inputs."""
    pairs = tuple(aliases.items()) if aliases else ()
    if not lifted:
        return current_executor(), pairs
    constants = zip(lifted, linear.constants, strict=True)
    return current_executor(), pairs, *[None if lift else _bits(v) for lift, v in constants]


def _compile(
    graph: Graph, steps: Sequence[Step], num_inputs: int, aliases: Mapping[int, int]
) -> Runnable:
    program = current_executor()(graph, aliases)
    _num_compiled[0] += 1
    return Runnable(program, graph, [p.type for p in graph.params[num_inputs:]], steps)


def compile_beside(
    family: Family, lifted: Sequence[bool], linear: Linear, aliases: Mapping[int, int], name: str
) -> Coming:
    """Begin to compile the program for a pending graph, of which these constants are inputs; it
    takes over `family.wait` looks from now."""
    graph, at = build_graph(linear, lifted, name), family.looks + family.wait
    place = linear.steps[-1][3].describe() if linear.steps else ""
    note_compiling(
        f"{name}: {len(linear.steps)} ops have come {family.looks} times, and are fused from time "
        f"{at} on: {place}"
    )
    coming = Coming(at, graph, linear.steps, compiled_beside(graph, aliases))
    family.coming[program_key(lifted, linear, aliases)] = coming
    return coming


def num_compiled() -> int:
    """How many programs this process has made so far, those with code from the disk among them."""
    return _num_compiled[0]


def clear_programs() -> None:
    """Forget all programs of this process (those on disk stay)."""
    _families.clear()
    _once.clear()
    clear_structures()
