"""What a process needs to run a graph that an earlier one has planned: the kernels by the keys of
their object code, and the stage table. It is kept beside the object code."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.core.dtype import as_dtype
from rung.runtime.executable import (
    Arena,
    Constant,
    Executable,
    Fault,
    Input,
    Output,
    Slot,
    Stage,
    StageFlags,
)  # fmt: skip
from rung.runtime.loader import Library

MOST_CONSTANT_BYTES = 1 << 20
"""A program whose own arrays are larger is planned again in each process."""


@dataclass(frozen=True, slots=True)
class Step:
    """A stage with its function by name: `symbol` of kernel number `kernel`."""

    kernel: int
    symbol: str
    grid: int
    flags: StageFlags
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A program. `kernels`: (key of the object code, name) of each; `alone`: see Executable.
    `num_faults`: how many words the steps write of what they find to be wrong.
    `early`: the steps that one run of many needs; `kept_bytes`: sizes of what they make, which lies
    in memory that the caller gives after that for the outputs."""

    kernels: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    early: tuple[Step, ...]
    kept_bytes: tuple[int, ...]
    arena_bytes: int
    scratch_bytes: int
    alone: bool
    num_faults: int

    def executable(
        self, libraries: Mapping[str, Library], num_inputs: int, num_outputs: int
    ) -> Executable:
        """The program over loaded code, by key."""
        return self._executable(self.steps, libraries, num_inputs, num_outputs)

    def preparation(
        self, libraries: Mapping[str, Library], num_inputs: int, num_outputs: int
    ) -> Executable | None:
        """What comes before many runs, if there is anything."""
        if not self.early:
            return None
        return self._executable(self.early, libraries, num_inputs, num_outputs)

    def _executable(
        self,
        steps: Sequence[Step],
        libraries: Mapping[str, Library],
        num_inputs: int,
        num_outputs: int,
    ) -> Executable:
        loaded = [libraries[key] for key, _ in self.kernels]
        stages = [
            Stage(loaded[s.kernel].address(s.symbol), s.slots, s.grid, s.flags, name=s.symbol)
            for s in steps
        ]
        return Executable(
            stages,
            arena_bytes=self.arena_bytes,
            scratch_bytes=self.scratch_bytes,
            num_inputs=num_inputs,
            num_outputs=num_outputs + len(self.kept_bytes),
            alone=self.alone,
            keep=tuple(loaded),
            num_faults=self.num_faults,
        )

    def pack(self) -> bytes | None:
        """As bytes, which `unpack` reads; None if the arrays of the program are too large."""
        arrays: list[Any] = []
        steps, early = (
            [_step_record(s, arrays) for s in part] for part in (self.steps, self.early)
        )
        if sum(a.nbytes for a in arrays) > MOST_CONSTANT_BYTES:
            return None
        data = {
            "kernels": self.kernels,
            "steps": steps,
            "early": early,
            "kept": self.kept_bytes,
            "arrays": [_array_record(a) for a in arrays],
            "sizes": [self.arena_bytes, self.scratch_bytes, self.num_faults],
            "alone": self.alone,
        }
        return json.dumps(data, separators=(",", ":")).encode()

    @staticmethod
    def unpack(data: bytes) -> Recipe:
        """What `pack` wrote."""
        record = json.loads(data)
        constants = [Constant(_array(*a)) for a in record["arrays"]]
        steps, early = (
            tuple(_step(constants, *s) for s in record[part]) for part in ("steps", "early")
        )
        kernels = tuple((key, name) for key, name in record["kernels"])
        kept, (arena, scratch, faults) = tuple(record["kept"]), record["sizes"]
        return Recipe(kernels, steps, early, kept, arena, scratch, record["alone"], faults)


def _step_record(s: Step, arrays: list[Any]) -> list[Any]:
    slots = [_slot_record(x, arrays) for x in s.slots]
    return [s.kernel, s.symbol, s.grid, int(s.flags), slots]


def _step(
    constants: list[Constant], kernel: int, symbol: str, grid: int, flags: int, slots: list[Any]
) -> Step:
    places = tuple(_slot(constants, *x) for x in slots)
    return Step(kernel, symbol, grid, StageFlags(flags), places)


def _slot_record(slot: Slot, arrays: list[Any]) -> tuple[str, int, int]:
    match slot:
        case Input(index, offset):
            return "input", index, offset
        case Output(index, offset):
            return "output", index, offset
        case Arena(offset):
            return "arena", offset, 0
        case Fault(index):
            return "fault", index, 0
        case Constant(array):
            for at, other in enumerate(arrays):
                if other is array:
                    return "constant", at, 0
            arrays.append(array)
            return "constant", len(arrays) - 1, 0


def _slot(constants: list[Constant], kind: str, number: int, offset: int) -> Slot:
    if kind == "constant":
        return constants[number]
    if kind == "arena":
        return Arena(number)
    if kind == "fault":
        return Fault(number)
    return (Input if kind == "input" else Output)(number, offset)


def _array_record(array: np.ndarray[Any, Any]) -> tuple[str, list[int], str]:
    return as_dtype(array.dtype).name, list(array.shape), base64.b64encode(array.tobytes()).decode()


def _array(dtype: str, shape: list[int], data: str) -> np.ndarray[Any, Any]:
    items = np.frombuffer(base64.b64decode(data), as_dtype(dtype).numpy)
    return items.reshape(shape).copy()
