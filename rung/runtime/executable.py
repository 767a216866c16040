"""A compiled program: a table of stages over one arena, run by the native pool."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from itertools import chain, compress, pairwise, repeat
from operator import call, eq, setitem
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from rung.core.errors import LoweringError
from rung.runtime.breath import NativeCall, Turn, in_one_breath, with_turn
from rung.runtime.memory import Block
from rung.runtime.native import (
    COUNTER_STRIDE,
    GroupOffset,
    PatchOffset,
    ProgramOffset,
    StageOffset,
)
from rung.runtime.native_library import native_library
from rung.runtime.pool import Pool, pool

_WORD = 8
MANY = 1 << 62
"""More than there are stages."""
_ALL_TAKEN = 1 << 62
"""A counter of tiles before its share is first taken."""


@dataclass(frozen=True, slots=True)
class Arena:
    """A buffer at `offset` bytes in the arena."""

    offset: int


@dataclass(frozen=True, slots=True)
class Input:
    """`offset` bytes into the caller's input buffer number `index`."""

    index: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """`offset` bytes into the caller's output buffer number `index`."""

    index: int
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A buffer that belongs to the program; `array` is C-contiguous."""

    array: npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Fault:
    """Word number `index` of what the program finds to be wrong."""

    index: int


Slot: TypeAlias = Arena | Input | Output | Constant | Fault


class StageFlags(IntFlag):
    """How a stage runs."""

    NONE = 0
    BARRIER = 1  # starts when all earlier stages are complete, on all threads
    SERIAL = 2  # one thread does all of it
    GUARDED = 4  # neither it nor what comes after it is done once a fault has been found


_GUARDED = StageFlags.GUARDED


@dataclass(frozen=True, slots=True)
class Stage:
    """One call of `void f(ptr args, i64 begin, i64 end, ptr scratch)` over tiles [0, grid).

    Stages up to the next BARRIER form a group that is cut into one share for each thread: share v
    holds the v-th part of the tiles of each of its stages. Shares run at the same time, and a
    thread that is done with its own helps the others, so a stage without BARRIER reads nothing that
    its group writes. `width` limits over how many shares the tiles are split (0: all).
    """

    function: int
    args: tuple[Slot, ...]
    grid: int
    flags: StageFlags = StageFlags.BARRIER
    width: int = 0
    name: str = ""


_ALL: Final = slice(None)


class Executable:
    """Stages in order, run together on the pool's threads; holds no Python state per stage.

    `alone` runs everything on the calling thread and wakes nobody: for programs of a few
    microseconds. `keep` holds whatever must outlive the program, such as its Libraries.

    Stages may write faults, `num_faults` words: each run writes them all, 0 where nothing is wrong,
    before the first guarded stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        arena_bytes: int = 0,
        scratch_bytes: int = 0,
        num_inputs: int = 0,
        num_outputs: int = 0,
        alone: bool = False,
        keep: Sequence[object] = (),
        num_faults: int = 0,
    ):
        self.stages = tuple(stages)
        self.faults = np.zeros(num_faults, np.uint64)
        self.arena_bytes = arena_bytes
        self.scratch_bytes = scratch_bytes
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs
        self.alone = alone
        self._keep = tuple(keep)
        self._pool = pool()
        self.guarded = next((i for i, s in enumerate(self.stages) if s.flags & _GUARDED), MANY)
        self._binding: object = None
        self._call = _native_run()
        self._pointers = (ctypes.c_size_t * (num_inputs + num_outputs))()
        self._pointers_at = ctypes.addressof(self._pointers)
        self._check()
        self._tables = _Tables(self, self._pool)
        self._launch: _Launch | None = None
        self._program_at = 0
        self._arguments = (0, self._pointers_at)

    def run(
        self,
        pointers: list[int],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> tuple[int, ...]:
        """Run once. `pointers`: addresses of the inputs, then of the outputs. The faults, if one is
        not 0. `first`, the run, and, if there is no fault, `then` are done in one breath, which
        begins with a look at the `turn`; one of a run with faults may count.

        Blocks until all stages are complete; the GIL is released meanwhile. Raises ValueError
        when the number of pointers is wrong, or it is no more its turn.
        """
        shared = self._pool
        with shared.lock:
            kept = shared.arena if shared.underway else None
            try:
                if kept is not None:
                    shared.set_arena_aside()
                if first or then:
                    return self._run_and(pointers, *with_turn(turn, first, then))
                while True:
                    # a signal handler may run programs and so move what this one is bound to; it
                    # is not called from here to the run: nothing is called, and nothing is made
                    if self._binding is shared.binding:
                        self._pointers[_ALL] = pointers  # type: ignore[assignment]
                        if turn is not None:
                            if turn[0][0] != turn[1]:
                                raise ValueError("a signal handler has come between")
                            turn[0][0] += 1
                        if not self._call(*self._arguments):
                            return ()
                        faults = self.faults.tolist()
                        if any(faults):  # no signal handler has run this program meanwhile
                            return tuple(faults)
                    else:
                        self._bind()
            finally:
                if kept is not None:
                    shared.take_back(kept)

    def _run_and(
        self, pointers: list[int], first: Sequence[NativeCall], then: Sequence[NativeCall]
    ) -> tuple[int, ...]:
        fill = (setitem, self._pointers, _ALL, pointers)
        found: list[int] = []
        while True:
            self.header()
            bound = (self._pool.bound.index, self._binding)
            steps: Iterable[NativeCall] = (bound, *first, fill, (self._call, *self._arguments))
            if len(self.faults):
                same = map(call, repeat(self.faults.tobytes))
                fine = map(eq, same, repeat(bytes(self.faults.nbytes)))
                steps = chain(steps, ((found.extend, self.faults),), compress(then, fine))
            else:
                steps = (*steps, *then)
            try:
                in_one_breath(steps)
            except ValueError:
                if self._binding is self._pool.binding:
                    raise
                continue
            return tuple(map(int, found)) if any(found) else ()

    def run_at(self, table: int) -> tuple[int, ...]:
        """As `run`, with the address of a table of pointers that the caller keeps."""
        with self._pool.lock:
            while True:
                arguments = (self._program_at, table)
                if self._binding is self._pool.binding:
                    if not self._call(*arguments):
                        return ()
                    faults = self.faults.tolist()
                    if any(faults):
                        return tuple(faults)
                else:
                    self._bind()

    def header(self) -> int:
        """Address of the program's header: valid until the pool's binding changes. Call with the
        pool's lock held."""
        while self._binding is not self._pool.binding:
            self._bind()
        return self._program_at

    def profile(self, pointers: list[int]) -> list[float]:
        """Run once with a barrier and a time stamp around every stage, guarded or not;
        microseconds per stage."""
        stamps = np.zeros(len(self.stages) + 1, np.int64)
        with self._pool.lock:
            while True:
                self.header()
                launch = _Launch(self, self._tables.singles, self._pool, stamps.ctypes.data)
                arguments = (launch.address, self._pointers_at)
                if self._binding is self._pool.binding:
                    self._pointers[_ALL] = pointers  # type: ignore[assignment]
                    self._call(*arguments)
                    break
        times: list[float] = (np.diff(stamps) / 1e3).tolist()
        return times

    def _bind(self) -> None:
        """Start workers if there is need for them, and store the pool's addresses: those of the
        binding that there was before. It may have changed, by what a signal handler does."""
        shared = self._pool
        if not self.alone and not shared.started:
            shared.start()
        shared.reserve(self.arena_bytes, self.scratch_bytes)
        binding = shared.binding
        if not shared.has(self.arena_bytes, self.scratch_bytes):
            return
        self._tables.bind_arena(shared.arena.address)
        launch = _Launch(self, self._tables.groups, shared)
        arguments, old = (launch.address, self._pointers_at), self._launch
        # together: nothing is called between, and what is replaced lives on until all is done; a
        # header that scripts may have for this binding is not replaced
        if self._binding is not binding:
            self._launch, self._program_at, self._arguments = launch, launch.address, arguments
            self._binding = binding
        del old

    def _check(self) -> None:
        for stage in self.stages:
            if stage.function == 0 or stage.grid < 0:
                raise LoweringError(f"stage {stage.name!r} has no function or a bad grid")
        first = self.stages[self.guarded] if self.guarded < MANY else None
        if first is not None and StageFlags.BARRIER not in first.flags and self.guarded:
            raise LoweringError(f"stage {first.name!r} is guarded and does not wait for faults")
        for stage in self.stages:
            for slot in stage.args:
                self._check_slot(stage, slot)

    def _check_slot(self, stage: Stage, slot: Slot) -> None:
        match slot:
            case Input(index):
                good = 0 <= index < self.num_inputs
            case Output(index):
                good = 0 <= index < self.num_outputs
            case Arena(offset):
                good = 0 <= offset <= self.arena_bytes
            case Fault(index):
                good = 0 <= index < len(self.faults)
            case Constant(array):
                good = array.flags.c_contiguous
        if not good:
            raise LoweringError(f"stage {stage.name!r}: argument {slot} is out of range")


@dataclass(frozen=True, slots=True)
class _Groups:
    """A group table in memory: its address, number of entries, and the first guarded one."""

    address: int
    count: int
    guarded: int


class _Tables:
    """Stage table, argument words, patches and group tables in one block of memory.

    `groups` is cut at the barriers, `singles` has a group for every stage. Only the arguments
    change once a program has run: threads that come late still read the rest.
    """

    def __init__(self, program: Executable, shared: Pool):
        stages = program.stages
        self._pool = shared
        self._guarded = program.guarded
        self._faults, self.faults_at = program.faults, program.faults.ctypes.data
        self._constants = [
            slot.array for stage in stages for slot in stage.args if isinstance(slot, Constant)
        ]
        patches = _patches(program)
        starts = _group_starts(stages)
        sizes = (
            len(stages) * StageOffset.BYTES,
            sum(len(stage.args) for stage in stages) * _WORD,
            len(patches) * PatchOffset.BYTES,
            len(starts) * GroupOffset.BYTES,
            len(stages) * GroupOffset.BYTES,
        )
        places = np.cumsum((0, *sizes)).tolist()
        self.block = Block(places[-1])
        self._words = self.block.data.view(np.int64)
        base = self.block.address
        self.stages_at, self._args_at, self.patches_at = (base + place for place in places[:3])
        self.num_stages, self.num_patches = len(stages), len(patches)
        self._fill_args(stages)
        self._fill_stages(stages)
        for k, (word, index, offset) in enumerate(patches):
            at = self.patches_at + k * PatchOffset.BYTES
            self._store(at, (self._args_at + word * _WORD, index, offset))
        self.groups = self._fill_groups(base + places[3], starts, stages)
        self.singles = self._fill_groups(base + places[4], list(range(len(stages))), stages)

    def __del__(self) -> None:
        self._pool.bury(self.block)

    def bind_arena(self, address: int) -> None:
        """Store the addresses of all arena buffers."""
        self._words[self._arena_words] = address + self._arena_offsets

    def _store(self, address: int, values: Sequence[int]) -> None:
        at = (address - self.block.address) // _WORD
        self._words[at : at + len(values)] = values

    def _fill_args(self, stages: Sequence[Stage]) -> None:
        first = (self._args_at - self.block.address) // _WORD
        words: list[int] = []
        offsets: list[int] = []
        for word, slot in enumerate(slot for stage in stages for slot in stage.args):
            if isinstance(slot, Arena):
                words.append(first + word)
                offsets.append(slot.offset)
            elif isinstance(slot, Constant):
                self._words[first + word] = slot.array.ctypes.data
            elif isinstance(slot, Fault):
                self._words[first + word] = self.faults_at + 8 * slot.index
        self._arena_words = np.array(words, np.int64)
        self._arena_offsets = np.array(offsets, np.int64)

    def _fill_stages(self, stages: Sequence[Stage]) -> None:
        args = self._args_at
        for i, stage in enumerate(stages):
            row = {
                StageOffset.FUNCTION: stage.function,
                StageOffset.ARGS: args,
                StageOffset.GRID: stage.grid,
                StageOffset.WIDTH: _width(stage),
                StageOffset.NUMBER: i,
            }
            self._store(self.stages_at + i * StageOffset.BYTES, [row[key] for key in sorted(row)])
            args += len(stage.args) * _WORD

    def _fill_groups(self, address: int, starts: Sequence[int], stages: Sequence[Stage]) -> _Groups:
        for g, (first, end) in enumerate(pairwise([*starts, len(stages)])):
            widths = [_width(stage) for stage in stages[first:end]]
            row = {
                GroupOffset.FIRST: self.stages_at + first * StageOffset.BYTES,
                GroupOffset.END: self.stages_at + end * StageOffset.BYTES,
                GroupOffset.WIDTH: 0 if 0 in widths else max(widths),
            }
            self._store(address + g * GroupOffset.BYTES, [row[key] for key in sorted(row)])
        guarded = sum(start < self._guarded for start in starts) if self._guarded < MANY else MANY
        return _Groups(address, len(starts), guarded)


class _Launch:
    """A program's header for one binding, with what its runs count: shares and tiles taken,
    and shares done."""

    def __init__(
        self, program: Executable, groups: _Groups, shared: Pool, profile: int = 0
    ) -> None:
        tables = program._tables
        row_bytes = -(-groups.count * 4 // 128) * 128
        done_at = int(ProgramOffset.BYTES)
        claims_at = done_at + row_bytes
        counters_at = claims_at + row_bytes * shared.threads
        counters_bytes = tables.num_stages * shared.threads * COUNTER_STRIDE
        self._pool = shared
        self._block = Block(counters_at + counters_bytes)
        self._block.data[counters_at:].view(np.int64)[:] = _ALL_TAKEN
        self.address = base = self._block.address
        words = self._block.data[: ProgramOffset.BYTES].view(np.int64)
        for key, value in {
            ProgramOffset.STAGES: tables.stages_at,
            ProgramOffset.NUM_STAGES: tables.num_stages,
            ProgramOffset.PATCHES: tables.patches_at,
            ProgramOffset.NUM_PATCHES: tables.num_patches,
            ProgramOffset.COUNTERS: base + counters_at,
            ProgramOffset.PROFILE: profile,
            ProgramOffset.ALONE: int(program.alone),
            ProgramOffset.STATE: shared.state_address,
            ProgramOffset.GROUPS: groups.address,
            ProgramOffset.NUM_GROUPS: groups.count,
            ProgramOffset.DONE: base + done_at,
            ProgramOffset.CLAIMS: base + claims_at,
            ProgramOffset.CLAIM_STRIDE: row_bytes,
            ProgramOffset.FAULTS: tables.faults_at,
            ProgramOffset.NUM_FAULTS: len(program.faults),
            ProgramOffset.GUARDED_STAGE: MANY if profile else program.guarded,
            ProgramOffset.GUARDED_GROUP: MANY if profile else groups.guarded,
        }.items():
            words[key // _WORD] = value

    def __del__(self) -> None:
        self._pool.bury(self._block)


def _width(stage: Stage) -> int:
    return 1 if StageFlags.SERIAL in stage.flags else stage.width


def _group_starts(stages: Sequence[Stage]) -> list[int]:
    """Numbers of the stages that begin a group."""
    return [i for i, stage in enumerate(stages) if i == 0 or StageFlags.BARRIER in stage.flags]


def _patches(program: Executable) -> list[tuple[int, int, int]]:
    """(argument word, index of the caller's pointer, byte offset) for inputs and outputs."""
    found: list[tuple[int, int, int]] = []
    for word, slot in enumerate(slot for stage in program.stages for slot in stage.args):
        if isinstance(slot, Input):
            found.append((word, slot.index, slot.offset))
        elif isinstance(slot, Output):
            found.append((word, program.num_inputs + slot.index, slot.offset))
    return found


@cache
def _native_run() -> ctypes._FuncPointer:
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    return prototype(native_library().address("rung_run"))
