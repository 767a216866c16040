"""The file layout: what is written is read, and what is broken is named."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rung.core.errors import CheckpointError
from rung.nn.safetensors import read_safetensors, write_safetensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float64),
    "flags": np.array([True, False]),
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
    "bytes": np.arange(5, dtype=np.uint8),
}


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ARRAYS, {"step": "12"})
    arrays, metadata = read_safetensors(path)
    assert metadata["step"] == "12"
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()
    assert list(tmp_path.iterdir()) == [path]


def test_the_reference_implementation_reads_and_writes_the_same(tmp_path: Path) -> None:
    plain = {k: v for k, v in ARRAYS.items() if k != "brain"}
    write_safetensors(tmp_path / "ours", plain)
    for name, array in load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(array, plain[name])
    save_file(plain, tmp_path / "theirs", {"k": "v"})
    arrays, metadata = read_safetensors(tmp_path / "theirs")
    assert metadata == {"k": "v"}
    for name, array in plain.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_not_contiguous(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(3, 4).T[::2]
    write_safetensors(tmp_path / "x", {"x": x})
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x")[0]["x"], x)


BROKEN = {
    "empty file": (b"", "is cut off: it has 0 bytes"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P", "is no safetensors file"),
    "header beyond the end": (struct.pack("<Q", 100) + b"{}", "is cut off: 10 of at least 108"),
    "not JSON": (raw(b"{nope"), "its header does not parse (JSONDecodeError"),
    "not UTF-8": (raw(b"\xff\xfe\xfd"), "its header does not parse (UnicodeDecodeError"),
    "a list": (raw([1]), "its header does not parse"),
    "name twice": (raw(b'{"a":1,"a":1}'), "a name stands twice"),
    "no offsets": (raw({"a": {"dtype": "F32", "shape": []}}), "KeyError: 'data_offsets'"),
    "nested without end": (raw(b'{"a":' * 100_000), "RecursionError"),
    "a number of 5,000 digits": (raw(b'{"a":' + b"1" * 5000 + b"}"), "ValueError"),
    "dims beyond NumPy's": (
        raw({"a": {"dtype": "U8", "shape": [0, 2**70], "data_offsets": [0, 0]}}),
        "shape (0, 1180591620717411303424)",
    ),
    "70 dims": (
        raw({"a": {"dtype": "U8", "shape": [1] * 70, "data_offsets": [0, 1]}}, b"x"),
        "a has 70 dims",
    ),
    "bools for numbers": (
        raw({"a": {"dtype": "U8", "shape": [True], "data_offsets": [False, True]}}, b"x"),
        "shape (True,)",
    ),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}}), "metadata must be text"),
    "metadata as a list": (raw({"__metadata__": [1]}), "AttributeError"),
    "unknown dtype": (
        raw({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
        "dtype 'F8_E4M3', which rung does not have",
    ),
    "negative": (
        raw({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        "shape (-1,)",
    ),
    "size and shape": (
        raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        "a f32[2] does not fill 4 bytes",
    ),
    "hole": (
        raw({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, bytes(2)),
        "a begins at byte 1 of the data, not at 0",
    ),
    "overlap": (
        raw(
            {
                "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
            },
            bytes(3),
        ),
        "b begins at byte 1 of the data, not at 2",
    ),
    "too little data": (
        raw({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, bytes(3)),
        "is cut off: 3 of 4 bytes of data are there",
    ),
    "too much data": (
        raw({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, bytes(5)),
        "is corrupt: 5 of 4 bytes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_safetensors(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.arange(3.0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_safetensors(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.arange(3.0)})
    changed = bytearray(path.read_bytes())
    changed[-3] ^= 4
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match="is corrupt: the checksum"):
        read_safetensors(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_safetensors(tmp_path / "none")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.arange(3.0)})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="No space left on device") as error:
        write_safetensors(path, {"a": np.zeros(1000)})
    assert "the disk is full" in str(error.value)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_safetensors(path)[0]["a"], np.arange(3.0))
    assert list(tmp_path.iterdir()) == [path]


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="make the directory first"):
        write_safetensors(tmp_path / "none" / "x", {"a": np.zeros(2)})
