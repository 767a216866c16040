"""Object code on disk: one checksummed file per key, written atomically, oldest evicted first."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import llvmlite

from rung.core.settings import settings
from rung.kernel.machine import Machine
from rung.runtime.forks import hold_at_fork

_MAGIC = b"RUNGOBJ1"
_DIGEST_BYTES = 32
_HEADER_BYTES = len(_MAGIC) + _DIGEST_BYTES
_TOUCH_AFTER_S = 3600.0  # a hit renews the file's time at most so often
_SOURCES = ("core", "ir", "ops", "rules", "kernel", "codegen", "runtime")  # what entries depend on


class ObjectCache:
    """Maps key text to bytes in `folder` (None: in memory only), up to `limit_bytes`.

    `salt` stands for everything that all keys depend on: target, LLVM and code version.
    A file that is truncated, altered or unreadable counts as missing and is removed; a folder
    that cannot be written to leaves the entries in memory. Processes may share a folder.
    """

    def __init__(self, folder: Path | None, limit_bytes: int, salt: str = ""):
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        self._salt = salt
        self._memory: dict[str, bytes] = {}
        self._lock = threading.RLock()
        hold_at_fork(self._lock)
        self._written_bytes: int | None = None  # in the folder, as far as we know

    def path(self, key: str) -> Path | None:
        """The file of `key`, or None without a folder."""
        if self.folder is None:
            return None
        name = hashlib.sha256(f"{self._salt}\n{key}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.o"

    def get(self, key: str) -> bytes | None:
        """The bytes kept for `key`, or None."""
        found = self._memory.get(key)
        path = self.path(key)
        if found is None and path is not None:
            found = _read_checked(path)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` for `key`. Never fails: what cannot be written stays in memory."""
        path = self.path(key)
        if path is None or not _write_checked(path, data):
            self._memory[key] = data
            return
        with self._lock:
            if self._written_bytes is None:
                self._written_bytes = sum(size for _, size, _ in self._entries())
            else:
                self._written_bytes += len(data) + _HEADER_BYTES
            if self._written_bytes > self.limit_bytes:
                self._written_bytes = self._evict()

    def unwritten(self) -> dict[str, bytes]:
        """The entries that are in memory only."""
        return dict(self._memory)

    def adopt(self, entries: Mapping[str, bytes]) -> None:
        """Keep in memory what another process could not write."""
        self._memory.update(entries)

    def clear(self) -> None:
        """Remove every entry, on disk and in memory."""
        self._memory.clear()
        for _, _, path in self._entries():
            _remove(path)
        self._written_bytes = None

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, size, path) of every file."""
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*.o") if self.folder is not None else ():
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _evict(self) -> int:
        """Remove the files used longest ago until a tenth of the limit is free again."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.limit_bytes * 9 // 10:
                break
            _remove(path)
            total -= size
        return total


def _read_checked(path: Path) -> bytes | None:
    try:
        raw = path.read_bytes()
        status = path.stat()
    except OSError:
        return None
    data = raw[_HEADER_BYTES:]
    expected = raw[len(_MAGIC) : _HEADER_BYTES]
    if not raw.startswith(_MAGIC) or hashlib.sha256(data).digest() != expected:
        _remove(path)
        return None
    with contextlib.suppress(OSError):
        if status.st_atime - status.st_mtime > _TOUCH_AFTER_S:
            os.utime(path)
    return data


def _write_checked(path: Path, data: bytes) -> bool:
    """Write to a temporary name in the same folder, then rename: readers see all or nothing."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            _remove(Path(temporary))
        return False
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


@cache
def code_version() -> str:
    """Hash of our own sources that object code depends on: an edit makes old entries unused."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _cache_for(folder: Path | None, limit_bytes: int, salt: str) -> ObjectCache:
    return ObjectCache(folder, limit_bytes, salt)


def object_cache(machine: Machine) -> ObjectCache:
    """The process's cache for objects of `machine`, by the settings cache, cache_dir, cache_mb."""
    chosen = settings()
    folder = Path(chosen.cache_dir) / "objects" if chosen.cache else None
    parts = (code_version(), llvmlite.__version__, machine.triple, machine.cpu, machine.features)
    return _cache_for(folder, chosen.cache_mb << 20, "\n".join(parts))
