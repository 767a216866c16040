"""Files and texts that are broken: headers of weights, checkpoints, states of optimizers, texts of
graphs and kernels.

A right one is changed: cut, bits flipped, parts repeated or exchanged, and within JSON every value
by another of any kind. A reader gives what it reads, or its typed error; nothing else. A checkpoint
that is refused leaves the model as it was.
"""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rung
from rung import nn, optim
from rung.core.errors import CheckpointError, GraphError, RungError
from rung.core.settings import configure, settings
from rung.ir.text import graph_text
from rung.kernel.parse import parse_kernel
from rung.kernel.text import kernel_text
from rung.nn.safetensors import read_safetensors, write_safetensors
from rung.ops.parse import parse
from tests.kernel.random_nests import Nests
from tests.random_graphs import random_graph

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    4,
    8,
    2**31,
    2**63,
    2**64,
    10**40,
    -(2**63),
    0.0,
    0.5,
    1e308,
    -1.5,
    float("nan"),
    float("inf"),
    "",
    "F32",
    "F8_E4M3",
    "x",
    "\ud800",
    "é" * 40,
    "1" * 5000,
    [],
    {},
    [0],
    [0, 0],
    [0, 4],
    [4, 0],
    [-4, 0],
    [0, 2**64],
    [1, 2, 3],
    [[]],
    [None],
    ["a"],
    [0.0, 4.0],
    [True, 4],
    {"a": 1},
    {"dtype": "F32"},
    {"data_offsets": [0, 4], "dtype": "F32", "shape": [1]},
    [2**40, 2**40],
    [0] * 40,
    [1] * 70,
]


def _deep(rng: random.Random) -> bytes:
    depth = rng.choice((50, 900, 5000, 200_000))
    open_, close = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return open_ * depth + b"1" + close * (depth if rng.random() < 0.5 else 0)


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them changed."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, size = rng.randrange(len(found) + 1), rng.choice((1, 2, 8, 40))
        kind = rng.randrange(7)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            del found[at : at + size]
        elif kind == 3:
            found[at:at] = rng.randbytes(size)
        elif kind == 4:
            found[at:at] = found[at : at + size] * rng.choice((1, 3, 100))
        elif kind == 5:
            found[at : at + size] = rng.choice((b"-", b"\x00", b"{", b'"', b"1e999", b"\xff"))
        else:
            found += rng.randbytes(size)
    return bytes(found)


def changed_tree(rng: random.Random, tree: Any) -> Any:
    """JSON values with one of them exchanged, left out or added."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        found = dict(tree)
        kind = rng.random()
        if kind < 0.1:
            del found[key]
        elif kind < 0.2:
            found[rng.choice(("", "__metadata__", "a", "dtype", f"{key}\x00"))] = found[key]
        else:
            found[key] = changed_tree(rng, found[key])
        return found
    if isinstance(tree, list) and tree and rng.random() < 0.6:
        found_list = list(tree)
        found_list[rng.randrange(len(tree))] = rng.choice(VALUES)
        return found_list
    return rng.choice(VALUES)


def changed_header(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, its length right or not."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.7:
        made = json.loads(header)
        for _ in range(rng.choice((1, 1, 2))):
            made = changed_tree(rng, made)
        text = json.dumps(made).encode(errors="surrogatepass")
    elif rng.random() < 0.3:
        text = _deep(rng)
    else:
        text = changed_bytes(rng, header)
    said = len(text)
    if rng.random() < 0.1:
        said = rng.choice((0, 1, 7, said - 1, said + 1, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", said % 2**64) + text + rest


# ---- readers


class _Place:
    """What a loader of data says of its place."""

    def __init__(self) -> None:
        self.loader = rung.data.DataLoader(rung.data.TensorDataset(np.ones((6, 2))), batch_size=2)

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.loader.load_state_dict(state)


def _weights(rng: random.Random, folder: Path) -> str:
    path = folder / "x.safetensors"
    arrays = {"a": np.arange(3.0), "b": np.ones((2, 2), np.float32), "c": np.zeros((0, 3), np.int8)}
    write_safetensors(path, arrays, {"k": "v"})
    data = path.read_bytes()
    data = changed_header(rng, data) if rng.random() < 0.7 else changed_bytes(rng, data)
    path.write_bytes(data)
    return expect(CheckpointError, lambda: read_safetensors(path), data)


def _checkpoint(rng: random.Random, folder: Path) -> str:
    path = folder / "x.safetensors"
    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), 0.1)
    nn.save_checkpoint(path, model, optimizer, loader=_Place(), step=2, config={"a": 1})
    arrays, metadata = read_safetensors(path)
    metadata.pop("crc32", None)
    named: dict[str, Any] = dict(arrays)
    if rng.random() < 0.5:
        key = rng.choice(("step", "config", "loader", "format"))
        good = metadata[key]
        if rng.random() < 0.5:
            metadata[key] = json.dumps(
                changed_tree(rng, json.loads(good) if key != "format" else 1)
            )
        else:
            text = changed_bytes(rng, good.encode()) if rng.random() < 0.8 else _deep(rng)
            metadata[key] = text.decode(errors="replace")
    else:
        name = rng.choice(list(named))
        named[name] = rng.choice(
            (
                np.zeros(0),
                np.full(named[name].shape, np.nan, np.float32),
                np.ones((1,) * 9, np.int8),
                np.zeros(named[name].shape, np.float16),
                np.zeros(named[name].shape, bool),
                np.full(named[name].shape, -1, np.int64),
                np.float64(1e30) * np.ones(named[name].shape),
            )
        )
        if rng.random() < 0.2:
            del named[name]
    write_safetensors(path, named, metadata)
    other = nn.Linear(3, 2)

    def read() -> None:
        before = [np.array(p) for p in other.parameters()]
        try:
            nn.load_checkpoint(path, other, optim.Adam(other.parameters(), 0.1), loader=_Place())
        except RungError:
            for a, b in zip(before, other.parameters(), strict=True):
                np.testing.assert_array_equal(a, b, err_msg="half loaded")
            raise

    return expect(CheckpointError, read, str((metadata, {n: a.dtype for n, a in named.items()})))


def _state(rng: random.Random, folder: Path) -> str:
    name = rng.choice(("SGD", "Adam", "NAdam", "ASGD", "LBFGS", "Rprop", "Adafactor"))
    params = [nn.Parameter([1.0, 2.0]), nn.Parameter([[3.0, 4.0]])]
    one = getattr(optim, name)(params, lr=0.1)
    if name != "LBFGS":
        one.step([rung.ones(2), rung.ones((1, 2))])
    state = rung.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, one.state_dict())
    for _ in range(rng.choice((1, 1, 3))):
        state = changed_tree(rng, state)
    return expect(RungError, lambda: one.load_state_dict(state), repr(state))


def _graph(rng: random.Random, folder: Path) -> str:
    text = graph_text(random_graph(rng.randrange(200)).graph)
    broken = changed_bytes(rng, text.encode()).decode(errors="replace")
    return expect((GraphError,), lambda: parse(broken), broken)


def _kernel(rng: random.Random, folder: Path) -> str:
    text = kernel_text(Nests(random.Random(rng.randrange(200))).kernel())
    broken = changed_bytes(rng, text.encode()).decode(errors="replace")
    return expect((RungError,), lambda: parse_kernel(broken), broken)


def expect(
    errors: type[Exception] | tuple[type[Exception], ...], read: Callable[[], Any], shown: Any
) -> str:
    """What is wrong with reading something: empty, or the error that came."""
    try:
        read()
    except errors:
        return ""
    except (Exception, MemoryError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{text[:200]}: reading {str(shown)[:400]!r}"
    return ""


KINDS = (_weights, _weights, _checkpoint, _state, _graph, _kernel)


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`."""
    rng = random.Random(seed)
    before = settings().interpret
    configure(interpret=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = KINDS[seed % len(KINDS)](rng, Path(folder))
    finally:
        configure(interpret=before)
    return [found] if found else []


def show(seed: int) -> str:
    """Which reader case `seed` is of."""
    return KINDS[seed % len(KINDS)].__name__.strip("_")
