"""A compiled program: a table of stages over one arena, run by the native pool."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rung.core.errors import LoweringError
from rung.runtime.memory import Block
from rung.runtime.native import COUNTER_STRIDE, PatchOffset, ProgramOffset, StageOffset
from rung.runtime.native_library import native_library
from rung.runtime.pool import pool

_WORD = 8


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


Slot: TypeAlias = Arena | Input | Output | Constant


class StageFlags(IntFlag):
    """How a stage runs."""

    NONE = 0
    BARRIER = 1  # starts when all earlier stages are complete, on all threads
    SERIAL = 2  # thread 0 does all of it
    DYNAMIC = 4  # tiles are taken from a counter instead of split evenly


@dataclass(frozen=True, slots=True)
class Stage:
    """One call of `void f(ptr args, i64 begin, i64 end, ptr scratch)` over tiles [0, grid).

    Without BARRIER a stage may start on one thread while another still is in earlier stages:
    right only if each thread reads what the same thread wrote (same grid, same split), or
    nothing of them. `chunk` is the number of tiles a DYNAMIC stage takes at a time; `width`
    limits how many threads take part (0: all).
    """

    function: int
    args: tuple[Slot, ...]
    grid: int
    flags: StageFlags = StageFlags.BARRIER
    chunk: int = 1
    width: int = 0
    name: str = ""


class Executable:
    """Stages in order, run together on the pool's threads; holds no Python state per stage.

    `alone` runs everything on the calling thread and wakes nobody: for programs of a few
    microseconds. `keep` holds whatever must outlive the program, such as its Libraries.
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
    ):
        self.stages = tuple(stages)
        self.arena_bytes = arena_bytes
        self.scratch_bytes = scratch_bytes
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs
        self.alone = alone
        self._keep = tuple(keep)
        self._pool = pool()
        self._binding: object = None
        self._call = _native_run()
        self._pointers = (ctypes.c_size_t * (num_inputs + num_outputs))()
        self._pointers_at = ctypes.addressof(self._pointers)
        self._check()
        self._tables = _Tables(self)
        self._program_at = self._tables.block.address

    def run(self, pointers: list[int]) -> None:
        """Run once. `pointers`: addresses of the inputs, then of the outputs.

        Blocks until all stages are complete; the GIL is released meanwhile. Raises ValueError
        when the number of pointers is wrong.
        """
        with self._pool.lock:
            if self._binding is not self._pool.binding:
                self._bind()
            self._pointers[:] = pointers  # type: ignore[assignment]
            self._call(self._program_at, self._pointers_at)

    def run_at(self, table: int) -> None:
        """As `run`, with the address of a table of pointers that the caller keeps."""
        with self._pool.lock:
            if self._binding is not self._pool.binding:
                self._bind()
            self._call(self._program_at, table)

    def profile(self, pointers: list[int]) -> list[float]:
        """Run once with a barrier and a time stamp around every stage; microseconds per stage."""
        stamps = np.zeros(len(self.stages) + 1, np.int64)
        with self._pool.lock:
            if self._binding is not self._pool.binding:
                self._bind()
            self._pointers[:] = pointers  # type: ignore[assignment]
            self._tables.set_header(ProgramOffset.PROFILE, stamps.ctypes.data)
            self._call(self._program_at, self._pointers_at)
            self._tables.set_header(ProgramOffset.PROFILE, 0)
        times: list[float] = (np.diff(stamps) / 1e3).tolist()
        return times

    def _bind(self) -> None:
        """Start workers if there is need for them, and store the pool's addresses in the tables."""
        shared = self._pool
        if not self.alone and not shared.started:
            shared.start()
        shared.reserve(self.arena_bytes, self.scratch_bytes)
        self._tables.bind_arena(shared.arena_address)
        self._tables.set_header(ProgramOffset.STATE, shared.state_address)
        self._binding = shared.binding

    def _check(self) -> None:
        for stage in self.stages:
            if stage.function == 0 or stage.grid < 0 or stage.chunk < 1:
                raise LoweringError(f"stage {stage.name!r} has no function, a bad grid or chunk")
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
            case Constant(array):
                good = array.flags.c_contiguous
        if not good:
            raise LoweringError(f"stage {stage.name!r}: argument {slot} is out of range")


class _Tables:
    """Header, stage table, argument words, patches and counters in one block of memory."""

    def __init__(self, program: Executable):
        stages = program.stages
        self._constants = [
            slot.array for stage in stages for slot in stage.args if isinstance(slot, Constant)
        ]
        num_args = sum(len(stage.args) for stage in stages)
        patches = _patches(program)
        dynamic = [i for i, stage in enumerate(stages) if StageFlags.DYNAMIC in stage.flags]
        sizes = (
            int(ProgramOffset.BYTES),
            len(stages) * StageOffset.BYTES,
            len(dynamic) * COUNTER_STRIDE,
            num_args * _WORD,
            len(patches) * PatchOffset.BYTES,
        )
        starts = np.cumsum((0, *sizes)).tolist()
        self.block = Block(starts[-1])
        self._words = self.block.data.view(np.int64)
        _, stages_at, counters_at, self._args_at, patches_at = starts[:-1]
        base = self.block.address
        self._counters = {stage: base + counters_at + k * 64 for k, stage in enumerate(dynamic)}
        self._fill_args(stages)
        self._fill_stages(stages, stages_at)
        for k, (word, index, offset) in enumerate(patches):
            at = (patches_at + k * PatchOffset.BYTES) // _WORD
            self._words[at : at + 3] = (base + self._args_at + word * _WORD, index, offset)
        self.set_header(ProgramOffset.STAGES, base + stages_at)
        self.set_header(ProgramOffset.NUM_STAGES, len(stages))
        self.set_header(ProgramOffset.PATCHES, base + patches_at)
        self.set_header(ProgramOffset.NUM_PATCHES, len(patches))
        self.set_header(ProgramOffset.COUNTERS, base + counters_at)
        self.set_header(ProgramOffset.NUM_COUNTERS, len(dynamic))
        self.set_header(ProgramOffset.ALONE, int(program.alone))

    def set_header(self, offset: ProgramOffset, value: int) -> None:
        """Store one word of the program's header."""
        self._words[offset // _WORD] = value

    def bind_arena(self, address: int) -> None:
        """Store the addresses of all arena buffers."""
        self._words[self._arena_words] = address + self._arena_offsets

    def _fill_args(self, stages: Sequence[Stage]) -> None:
        first = self._args_at // _WORD
        words: list[int] = []
        offsets: list[int] = []
        for word, slot in enumerate(slot for stage in stages for slot in stage.args):
            if isinstance(slot, Arena):
                words.append(first + word)
                offsets.append(slot.offset)
            elif isinstance(slot, Constant):
                self._words[first + word] = slot.array.ctypes.data
        self._arena_words = np.array(words, np.int64)
        self._arena_offsets = np.array(offsets, np.int64)

    def _fill_stages(self, stages: Sequence[Stage], start: int) -> None:
        args = self.block.address + self._args_at
        for i, stage in enumerate(stages):
            at = (start + i * StageOffset.BYTES) // _WORD
            row = self._words[at : at + StageOffset.BYTES // _WORD]
            row[StageOffset.FUNCTION // _WORD] = stage.function
            row[StageOffset.ARGS // _WORD] = args
            row[StageOffset.GRID // _WORD] = stage.grid
            row[StageOffset.BARRIER // _WORD] = int(StageFlags.BARRIER in stage.flags and i > 0)
            serial = StageFlags.SERIAL in stage.flags
            row[StageOffset.WIDTH // _WORD] = 1 if serial else stage.width
            row[StageOffset.COUNTER // _WORD] = self._counters.get(i, 0)
            row[StageOffset.CHUNK // _WORD] = stage.chunk
            args += len(stage.args) * _WORD


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
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    return prototype(native_library().address("rung_run"))
