"""The safetensors file layout: named arrays and text, without any code in the file.

    8 bytes   length N of the header, little endian
    N bytes   JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
              "__metadata__": {"key": "text"}}
    the rest  the arrays, dense and row-major, one after the other without holes

Layout: https://huggingface.co/docs/safetensors. Our own writer adds the CRC-32 of the data to the
metadata (`crc32`), so that a flipped bit is found; files of others load without one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from rung.core.arguments import MAX_RANK, described, host_arrays
from rung.core.dtype import ALL, DType, as_dtype
from rung.core.errors import CheckpointError

Array = np.ndarray[Any, Any]

_FILE_NAMES: Final[dict[DType, str]] = {
    d: {"b": "BOOL", "i": f"I{d.bits}", "u": f"U{d.bits}", "f": f"F{d.bits}"}[d.kind]
    if d.name != "bf16"
    else "BF16"
    for d in ALL
}
_DTYPES: Final = {name: dtype for dtype, name in _FILE_NAMES.items()}
_MAX_HEADER: Final = 100_000_000
_ALIGN: Final = 8


@dataclass(frozen=True)
class Entry:
    """Where one array lies: byte range [begin, end) of the data."""

    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


# ---- writing


def write_safetensors(
    path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `arrays` and `metadata` to `path`, whole or not at all.

    The file is written beside `path` under another name, flushed to disk, and then renamed. Raises
    CheckpointError when that fails (full disk, no permission); an older file at `path` is then
    untouched and nothing is left over."""
    path = Path(path)
    dense = {name: _dense(name, array) for name, array in arrays.items()}
    checksum = 0
    for array in dense.values():
        checksum = zlib.crc32(_bytes_of(array), checksum)
    header = _header(dense, {**(metadata or {}), "crc32": f"{checksum:08x}"})
    try:
        _write_atomically(path, [header, *(_bytes_of(a) for a in dense.values())])
    except OSError as error:
        raise _write_error(
            path, error, len(header) + sum(a.nbytes for a in dense.values())
        ) from None


def _dense(name: str, array: Array) -> Array:
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise CheckpointError(f"{name}: {described(array)} is no array", fix="give arrays")
    array = np.ascontiguousarray(array).reshape(array.shape)
    if as_dtype(array.dtype) not in _FILE_NAMES:
        raise CheckpointError(f"{name}: dtype {array.dtype} has no name in a safetensors file")
    return array


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _header(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": _FILE_NAMES[as_dtype(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return struct.pack("<Q", len(text)) + text


def _write_atomically(path: Path, parts: list[bytes | memoryview]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(path: Path) -> None:
    """Make the rename itself last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_error(path: Path, error: OSError, size: int) -> CheckpointError:
    fixes = {
        errno.ENOSPC: f"the disk is full: free {_megabytes(size)} or choose another place",
        errno.EDQUOT: f"the disk quota is used up: free {_megabytes(size)}",
        errno.EFBIG: f"the file system takes no file of {_megabytes(size)}",
        errno.ENOENT: "make the directory first",
        errno.EACCES: "choose a place that you may write to",
        errno.EROFS: "choose a place that you may write to",
    }
    reason = error.strerror or str(error)
    return CheckpointError(
        f"{path} cannot be written: {reason}; nothing was changed",
        fix=fixes.get(error.errno or 0),
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# ---- reading


def read_safetensors(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata of a file.

    Raises CheckpointError that says what is wrong: no such file, not this layout, cut off, changed
    since it was written."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            entries, metadata, start = _read_header(path, file, size)
            arrays = _read_arrays(path, file, entries, metadata, size - start)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return arrays, metadata


def _read_header(
    path: Path, file: BinaryIO, size: int
) -> tuple[dict[str, Entry], dict[str, str], int]:
    start = file.read(8)
    if len(start) < 8:
        raise CheckpointError(f"{path} is cut off: it has {size} bytes, not even a header")
    (length,) = struct.unpack("<Q", start)
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"{path} is no safetensors file: its first bytes are {start!r}",
            fix="give a .safetensors file; files made by pickle (.pt, .bin) are not read",
        )
    if 8 + length > size:
        raise CheckpointError(f"{path} is cut off: {size} of at least {8 + length} bytes are there")
    entries, metadata = _parse_header(path, file.read(length))
    return entries, metadata, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _parse_header(path: Path, text: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
        metadata = header.pop("__metadata__", None) or {}
        entries = {name: _parse_entry(name, given) for name, given in header.items()}
        if not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError("metadata must be text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{path} is no valid safetensors file: its header does not parse ({reason})"
        ) from None
    _check_ranges(path, entries)
    return dict(sorted(entries.items(), key=lambda item: item[1].begin)), metadata


def _parse_entry(name: str, given: dict[str, Any]) -> Entry:
    begin, end = given["data_offsets"]
    shape = tuple(given["shape"])
    if not all(type(n) is int and 0 <= n < 1 << 60 for n in (*shape, begin, end)):
        raise ValueError(f"{name} has shape {shape} and offsets {begin}, {end}")
    if len(shape) > MAX_RANK:
        raise ValueError(f"{name} has {len(shape)} dims")
    if given["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has the dtype {given['dtype']!r}, which rung does not have")
    dtype = _DTYPES[given["dtype"]]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} {dtype}{list(shape)} does not fill {end - begin} bytes")
    return Entry(dtype, shape, begin, end)


def _check_ranges(path: Path, entries: Mapping[str, Entry]) -> None:
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise CheckpointError(
                f"{path} is corrupt: {name} begins at byte {entry.begin} of the data, not at {at}"
            )
        at = entry.end


def _read_arrays(
    path: Path, file: BinaryIO, entries: dict[str, Entry], metadata: dict[str, str], there: int
) -> dict[str, Array]:
    wanted = max((entry.end for entry in entries.values()), default=0)
    if there != wanted:
        state = "is cut off" if there < wanted else "is corrupt"
        raise CheckpointError(f"{path} {state}: {there} of {wanted} bytes of data are there")
    arrays: dict[str, Array] = {}
    checksum = 0
    for name, entry in entries.items():
        with host_arrays(f"{path}: {name}"):
            array = np.empty(entry.shape, entry.dtype.numpy)
        view = _bytes_of(array)
        if file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise CheckpointError(f"{path} is cut off within {name}")
        checksum = zlib.crc32(view, checksum)
        arrays[name] = array
    written = metadata.get("crc32")
    if written is not None and written != f"{checksum:08x}":
        raise CheckpointError(
            f"{path} is corrupt: the checksum of its data is {checksum:08x}, not {written}",
            fix="take an older checkpoint",
        )
    return arrays
