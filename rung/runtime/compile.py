"""Kernels to loaded code: object cache, compilation in parallel, one library per unit.

Misses are compiled by forked copies of this process, which share its memory: they write the IR
text and run LLVM, both in parallel, and LLVM ending a copy (it aborts on some wrong code) is an
error that names the kernel, not the end of the program. A fork costs 1 to 3 ms, a kernel 20.
A pipe filled with unit numbers deals the work out; each copy leaves its objects in a memory file.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rung.core.errors import LoweringError, RungError
from rung.core.settings import settings
from rung.kernel.machine import Machine, host_machine, usable_cores
from rung.runtime.assemble import assemble
from rung.runtime.cache import object_cache
from rung.runtime.copies import (
    SUPPORTED,
    end_copy,
    fork_copy,
    packed,
    revived,
    wait_for_copy,
)  # fmt: skip
from rung.runtime.forks import signals_blocked
from rung.runtime.loader import Library, link

_MAX_BATCH = 8192  # unit numbers that surely fit into a pipe
_TOKEN = struct.Struct("<I")
_RECORD = struct.Struct("<IcQ")  # unit, kind, number of bytes that follow
_STARTED, _OBJECT, _ERROR, _STUCK = b"s", b"o", b"e", b"w"

_loaded: weakref.WeakValueDictionary[str, Library] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Module:
    """LLVM IR text, the functions it exports, and a note that is kept with the object code."""

    text: str
    symbols: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """Something to compile: `make()` is called only when `key` is not cached.

    Units with equal `key` are equal. `make` must depend on nothing but what the key stands for,
    and it may run in a forked process. `name` is for error messages. `weight` says which units
    take long, so that processes begin with these.
    """

    key: str
    make: Callable[[], Module]
    name: str = ""
    weight: int = 0


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """An object file with what has to be known to use it."""

    image: bytes
    symbols: tuple[str, ...]
    note: str

    def pack(self) -> bytes:
        """As one string of bytes; `unpack` reads it."""
        head = json.dumps({"symbols": self.symbols, "note": self.note}).encode()
        return _TOKEN.pack(len(head)) + head + self.image

    @staticmethod
    def unpack(data: bytes) -> ObjectCode:
        """What `pack` wrote."""
        (size,) = _TOKEN.unpack_from(data)
        start = _TOKEN.size + size
        head = json.loads(data[_TOKEN.size : start])
        return ObjectCode(data[start:], tuple(head["symbols"]), head["note"])


def compile_units(
    units: Sequence[Unit], jobs: int | None = None, isolate: bool = False
) -> list[Library]:
    """Loaded code of each unit, for this machine, in order; equal units share one Library.

    `jobs`: processes that compile (None: the setting `compile_jobs`). A single miss and `jobs=1`
    are compiled in this process unless `isolate`. Raises LoweringError for IR that LLVM refuses,
    and what `make` raises.
    """
    libraries: dict[str, Library | None] = {unit.key: _loaded.get(unit.key) for unit in units}
    missing = {unit.key: unit for unit in units if libraries[unit.key] is None}
    objects = compile_objects(list(missing.values()), host_machine(), jobs, isolate)
    for key, code in zip(missing, objects, strict=True):
        libraries[key] = _loaded[key] = link([code.image], code.symbols, code.note)
    return [found for unit in units if (found := libraries[unit.key]) is not None]


def compile_objects(
    units: Sequence[Unit], machine: Machine, jobs: int | None = None, isolate: bool = False
) -> list[ObjectCode]:
    """Object code of each unit for any machine, from the cache or compiled; raises as above."""
    cache = object_cache(machine)
    packed: dict[str, bytes | None] = {unit.key: cache.get(unit.key) for unit in units}
    todo = list({unit.key: unit for unit in units if packed[unit.key] is None}.values())
    for first in range(0, len(todo), _MAX_BATCH):
        batch = todo[first : first + _MAX_BATCH]
        for unit, data in zip(batch, _compile(batch, machine, jobs, isolate), strict=True):
            cache.put(unit.key, data)
            packed[unit.key] = data
    return [ObjectCode.unpack(found) for unit in units if (found := packed[unit.key]) is not None]


def _compile_one(unit: Unit, machine: Machine) -> bytes:
    module = unit.make()
    return ObjectCode(assemble(module.text, machine), module.symbols, module.note).pack()


def _compile(
    units: Sequence[Unit], machine: Machine, jobs: int | None, isolate: bool
) -> Iterator[bytes]:
    workers = min(jobs or settings().compile_jobs or usable_cores(), len(units))
    if not SUPPORTED or (workers == 1 and not isolate):
        for unit in units:
            yield _compile_one(unit, machine)
        return
    records = _run_workers(units, machine, workers)
    for i in range(len(units)):
        if records.get(i, (_STARTED, b""))[0] == _STUCK:
            records[i] = (_OBJECT, _compile_one(units[i], machine))
    failed = [i for i in range(len(units)) if records.get(i, (_STARTED, b""))[0] != _OBJECT]
    if failed:
        cache = object_cache(machine)  # what has been compiled is kept all the same
        for i, (kind, body) in records.items():
            if kind == _OBJECT:
                cache.put(units[i].key, body)
        raise _failure(units, records, failed)
    for i in range(len(units)):
        yield records[i][1]


def _failure(
    units: Sequence[Unit], records: dict[int, tuple[bytes, bytes]], failed: Sequence[int]
) -> RungError:
    for i in failed:
        kind, body = records.get(i, (b"", b""))
        if kind == _ERROR:
            return revived(body)
        if kind == _STARTED:
            name = units[i].name or units[i].key
            return LoweringError(
                f"LLVM ended the process that compiled {name}", fix=_saved_text(units[i])
            )
    return LoweringError("the processes that compile were ended from outside")


def _saved_text(unit: Unit) -> str | None:
    """Keep the IR that broke LLVM where it can be looked at."""
    path = Path(tempfile.gettempdir()) / f"rung-{unit.key[:16]}.ll"
    try:
        path.write_text(unit.make().text)
    except OSError:
        return None
    return f"its LLVM IR is in {path}"


def _run_workers(
    units: Sequence[Unit], machine: Machine, workers: int
) -> dict[int, tuple[bytes, bytes]]:
    """(kind, bytes) of the last record of each unit, from forked processes that share a queue."""
    source, sink = os.pipe()
    order = sorted(range(len(units)), key=lambda i: -units[i].weight)
    os.write(sink, b"".join(map(_TOKEN.pack, order)))
    os.close(sink)
    files = [os.memfd_create("rung-objects") for _ in range(workers)]
    children: list[int] = []
    stuck = False
    try:
        for file in files:
            work = partial(_work, units, machine, source, file)
            with signals_blocked():  # a child that is made is known
                children.append(fork_copy(work))
        while children:
            stuck |= not wait_for_copy(children[-1])
            children.pop()
        found = {i: record for file in files for i, record in _read_records(file)}
        if stuck:
            left = [i for i in range(len(units)) if found.get(i, (_STARTED,))[0] == _STARTED]
            found |= dict.fromkeys(left, (_STUCK, b""))
        return found
    finally:
        for child in children:  # only after Ctrl-C or a failed fork
            end_copy(child)
        for descriptor in (source, *files):
            os.close(descriptor)


def _work(units: Sequence[Unit], machine: Machine, source: int, file: int) -> None:
    """Compile what the queue gives until it is empty."""
    while token := os.read(source, _TOKEN.size):
        (i,) = _TOKEN.unpack(token)
        _write_record(file, i, _STARTED, b"")
        try:
            _write_record(file, i, _OBJECT, _compile_one(units[i], machine))
        except Exception as error:
            _write_record(file, i, _ERROR, packed(error))


def _write_record(file: int, i: int, kind: bytes, body: bytes) -> None:
    os.write(file, _RECORD.pack(i, kind, len(body)) + body)


def _read_records(file: int) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", closefd=False) as stream:
        data = stream.read()
    at = 0
    while at + _RECORD.size <= len(data):
        i, kind, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size + size
        if at <= len(data):  # else the process died while writing
            yield i, (kind, data[at - size : at])
