"""Mistakes of users: each is a typed error on their line, with the fix; nothing is half done.

What belongs to one part stands with its tests: shapes, dtypes, axes, indices and devices of tensors
in `tensor/test_tensor.py`, looks at values inside jit in `tensor/test_jit.py`, damaged checkpoints
in `nn/test_safetensors.py` and `nn/test_checkpoint.py`, the files of the object cache in
`runtime/test_cache.py`, tensors that are not finite and Ctrl-C in `tools/test_training.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import rung
from rung import models, nn, optim
from rung.core.errors import (
    AllocationError,
    CheckpointError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexingError,
    NonFiniteError,
    RungError,
    SettingsError,
    ShapeError,
    TraceError,
)
from rung.core.settings import configure, read_settings, settings
from rung.nn import functional as f
from rung.runtime.pool import pool
from rung.tools.cli import make_app

HERE = Path(__file__).name
Call = Callable[[], Any]


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    """Nothing here depends on machine code, but for what runs in processes of its own."""
    before = settings().interpret
    configure(interpret=True)
    yield
    configure(interpret=before)


def is_on_this_line(error: RungError, call: Call) -> bool:
    """Whether the error names the line on which `call` is written."""
    return f"at {HERE}:{call.__code__.co_firstlineno}" in str(error)


# ---- layers, losses, optimizers

X = rung.tensor(np.ones((2, 3), np.float32))
LABELS = np.array([0, 9])

LAYERS: list[tuple[Call, type[RungError], str, str]] = [
    (lambda: nn.Linear(4, 2)(X), ShapeError,
     "linear: x f32[2,3] with weight f32[2,4]", "x must end in 4 features"),
    (lambda: nn.Conv2d(3, 4, 3)(rung.ones((1, 1, 8, 8))), ShapeError,
     "has 1 channels, weight f32[4,3,3,3] is for 3", "weight must be"),
    (lambda: nn.Conv2d(3, 4, 3)(X), ShapeError, "conv2d: x is f32[2,3]", "x must be [N, C, H, W]"),
    (lambda: nn.MaxPool2d(9)(rung.ones((1, 1, 8, 8))), ShapeError,
     "a window of 9", "a smaller window or more padding"),
    (lambda: nn.LayerNorm(4)(X), ShapeError, "layer_norm: normalized_shape [4]", "last dims"),
    (lambda: nn.Embedding(9, 2)(X), DTypeError, "embedding: positions are f32[2,3]", "integers"),
    (lambda: nn.Embedding(9, 2)(rung.tensor([9])), IndexingError,
     "embedding: index 9 is out of range for 9 elements", "indices go from -9 to 8"),
    (lambda: nn.MultiheadAttention(6, 4), ShapeError, "6 features in 4 heads", "must divide"),
    (lambda: nn.Dropout(1.5), RungError, "Dropout: p=1.5", "a probability from 0 to 1"),
    (lambda: f.cross_entropy(X, LABELS), IndexingError,
     "cross_entropy: label 9 is out of range for 3 classes", "labels go from 0 to 2"),
    (lambda: f.cross_entropy(X, np.ones(3, np.int64)), ShapeError,
     "cross_entropy: logits f32[2,3] with targets i64[3]", "targets must have shape [2]"),
    (lambda: f.cross_entropy(X, X[:, 0]), DTypeError, "targets f32[2] are not integers", "i64"),
    (lambda: models.GPT(models.GPTConfig(8, 9, 1, 1, 4))(np.zeros((1, 9), int)), ShapeError,
     "GPT: tokens are [1, 9]", "at most 8 positions"),
    (lambda: nn.Linear(2, 2).to("cuda"), DeviceError, "device 'cuda'", 'the only device is "cpu"'),
    (lambda: X.to("mps:0"), DeviceError, "device 'mps:0'", 'the only device is "cpu"'),
    (lambda: nn.Linear(2, 2).to("float31"), DTypeError, "unknown dtype 'float31'", "use one of"),
    (lambda: rung.tensor(["one"]), DTypeError, "array: 'one' is no number", "give bools"),
    (lambda: rung.tensor([[1.0, None]]), DTypeError, "array: None is no number", "give bools"),
    (lambda: optim.SGD([], 0.1), RungError, "SGD: no parameters", "model.parameters()"),
    (lambda: optim.AdamW(nn.Linear(2, 2), lr=-1.0), RungError, "AdamW: lr=-1.0", "at least 0"),
    (lambda: optim.AdamW(nn.Linear(2, 2)).step(), GradientError,
     "AdamW.step: no parameter has a gradient", "call loss.backward() first"),
    (lambda: nn.Linear(2, 2).load_state_dict({"weight": np.zeros((3, 2))}), CheckpointError,
     "shape of weight: the model has [2, 2], given is [3, 2]", "the sizes of the checkpoint"),
    (lambda: X.backward(), GradientError, "does not depend on one that requires", "requires_grad"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_layers_name_the_line_and_the_fix(number: int) -> None:
    call, kind, message, fix = LAYERS[number]
    with pytest.raises(kind) as caught:
        call()
    assert message in caught.value.message
    assert fix in str(caught.value.fix)
    assert is_on_this_line(caught.value, call)


def test_memory_that_is_not_there() -> None:
    call = lambda: rung.ones((1 << 22, 1 << 22)).numpy()  # noqa: E731
    configure(interpret=False)
    with pytest.raises(AllocationError, match="the system does not give") as caught:
        call()
    assert isinstance(caught.value, MemoryError)
    assert is_on_this_line(caught.value, call)
    assert (rung.ones(2) + 1).tolist() == [2, 2], "what was asked for is given up"


# ---- inside jit

COUNT = rung.tensor(2)
TRACED: dict[str, tuple[Callable[..., Any], str]] = {
    "a slice": (lambda x, n: x[:n], "the bounds of a slice of dim 0 are not known while jit"),
    "a range": (lambda x, n: [x for _ in range(n)], "not known while jit traces"),
    "a shape": (lambda x, n: rung.zeros(n), "not known while jit traces"),
    "a new shape": (lambda x, n: x.reshape(n, -1), "not known while jit traces"),
    "a mask": (lambda x, n: x[x > 0], "the number of true elements"),
    "nonzero": (lambda x, n: rung.nonzero(x), "not known while jit traces"),
    "a branch": (lambda x, n: x if n > 1 else -x, "not known while jit traces"),
    "NumPy": (lambda x, n: np.sin(x), "not known while jit traces"),
    "text": (lambda x, n: f"{n:.3f}", "not known while jit traces"),
    "pickle": (lambda x, n: __import__("pickle").dumps(x), "not known while jit traces"),
}


@pytest.mark.parametrize("name", TRACED)
def test_what_depends_on_values_is_refused_inside_jit(name: str) -> None:
    function, message = TRACED[name]
    with pytest.raises(TraceError) as caught:
        rung.jit(function)(rung.ones(3), COUNT)
    assert message in caught.value.message
    assert caught.value.fix
    assert is_on_this_line(caught.value, function)


def test_side_effects_inside_jit() -> None:
    """What Python alone keeps of a trace is refused when it is used; what is put into a tensor is
    written back at each call."""
    kept: list[Any] = []

    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last: Any = None
            self.register_buffer("total", rung.zeros(2))

        def forward(self, x: Any) -> Any:
            self.last = x * 2
            kept.append(x * 3)
            self.total += x
            return x + 1

    model = Keeper()
    run = rung.jit(model)
    run(rung.ones(2))
    run(rung.full(2, 5.0))
    assert model.total.tolist() == [6, 6]
    for use in (lambda: kept[0].tolist(), lambda: model.last + 1, lambda: print(kept[0] * 2)):
        with pytest.raises(TraceError, match="is used after the trace") as caught:
            use()
        assert "return it from the function" in str(caught.value.fix)
        assert is_on_this_line(caught.value, use)


# ---- settings

WRONG_SETTINGS = {
    "RUNG_THREDS=2": ("unknown setting RUNG_THREDS", "did you mean RUNG_THREADS? known: RUNG_TH"),
    "RUNG_threads=2": ("unknown setting RUNG_threads", "known: RUNG_THREADS"),
    "RUNG_=2": ("unknown setting RUNG_", "known: RUNG_THREADS"),
    "RUNG_THREADS=two": ("RUNG_THREADS='two' is not valid", "a whole number from 0 to 1024"),
    "RUNG_THREADS=-1": ("RUNG_THREADS='-1' is not valid", "a whole number from 0 to 1024"),
    "RUNG_DEBUG=6": ("RUNG_DEBUG='6' is not valid", "a whole number from 0 to 5"),
    "RUNG_CACHE=maybe": ("RUNG_CACHE='maybe' is not valid", "give 0 or 1"),
    "RUNG_CACHE_DIR=": ("RUNG_CACHE_DIR='' is not valid", "give a path"),
    "RUNG_TARGET=z80": ("RUNG_TARGET='z80' is not valid", "one of host, avx512, avx2, neon"),
}


@pytest.mark.parametrize("given", WRONG_SETTINGS)
def test_wrong_settings(given: str) -> None:
    name, _, value = given.partition("=")
    message, fix = WRONG_SETTINGS[given]
    with pytest.raises(SettingsError) as caught:
        read_settings({"HOME": "/", name: value})
    assert caught.value.message == message
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"thread": 2}, "unknown setting thread"),
        ({"threads": "2"}, "threads='2' is not valid"),
        ({"threads": True}, "threads=True is not valid"),
        ({"cache": 1}, "cache=1 is not valid"),
        ({"debug": 1, "target": "z80"}, "target='z80' is not valid"),
    ],
)
def test_wrong_changes_change_nothing(changes: dict[str, Any], message: str) -> None:
    before = settings()
    with pytest.raises(SettingsError, match=message):
        configure(**changes)
    assert settings() is before


def test_the_pool_follows_the_settings() -> None:
    before, threads = settings().threads, pool().threads
    try:
        configure(threads=3)
        assert pool().threads == 3
        configure(debug=settings().debug)
        assert pool().threads == 3
    finally:
        configure(threads=before)
        pool().resize(threads)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A new process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_an_unknown_variable_stops_a_program() -> None:
    done = python("import rung; print(rung.ones(2).tolist())", RUNG_THREDS="2")
    assert done.returncode == 1
    assert "SettingsError: unknown setting RUNG_THREDS" in done.stderr
    assert done.stdout == ""


# ---- the object cache, from outside

CACHED = """
import rung
x = rung.asarray([[1.0, 2.0], [3.0, 4.0]])
print((x.softmax(1) @ x).tolist())
from rung.kernel.machine import host_machine
from rung.runtime.cache import object_cache
c = object_cache(host_machine())
print(c.misses > 0)
"""


@pytest.mark.parametrize("damage", ["truncated", "altered", "emptied", "directory"])
def test_a_damaged_object_cache_is_rebuilt_silently(tmp_path: Path, damage: str) -> None:
    def run() -> tuple[list[str], str]:
        done = python(CACHED, RUNG_CACHE_DIR=str(tmp_path), RUNG_CACHE="1", RUNG_INTERPRET="0")
        return done.stdout.splitlines(), done.stderr

    (wanted, built), errors = run()
    assert (built, errors) == ("True", "")
    assert run() == ([wanted, "False"], "")
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files
    for path in files:
        whole = path.read_bytes()
        path.unlink()
        if damage == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "altered":
            path.write_bytes(whole[:-9] + bytes(b ^ 85 for b in whole[-9:]))
        elif damage == "emptied":
            path.touch()
        else:
            path.mkdir()
    assert run() == ([wanted, "True"], "")
    rebuilt = "True" if damage == "directory" else "False"
    assert run() == ([wanted, rebuilt], "")


# ---- a disk that is full

FULL = """
import resource, signal, sys
import rung
from rung import models, nn, optim
model = models.MLP([300, 300])
optimizer = optim.AdamW(model)
nn.save_checkpoint(sys.argv[1], model, optimizer, step=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
rung.manual_seed(1)
try:
    nn.save_checkpoint(sys.argv[1], models.MLP([300, 300]), optimizer, step=2)
except rung.CheckpointError as error:
    print(error)
"""


def test_a_file_that_cannot_be_written_whole(tmp_path: Path) -> None:
    """The system stops the write half-way: the older checkpoint stays, and nothing else does."""
    path = tmp_path / "x.safetensors"
    done = python(f"import sys; sys.argv[1:] = [{str(path)!r}]\n{FULL}", RUNG_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    assert f"{path} cannot be written" in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == [path]
    assert nn.load_checkpoint(path, models.MLP([300, 300])).step == 1


# ---- training that goes wrong


def test_check_finite_on_the_command_line(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    sizes = ["--batch-size", "2", "--block-size", "8", "--layers", "1", "--heads", "1"]
    out = tmp_path / "out"
    options = [*sizes, "--width", "8", "--steps", "50", "--lr", "1e38", "--check-finite"]
    result = CliRunner().invoke(
        make_app(), ["train", "gpt", "--data", str(text), "--out", str(out), *options]
    )
    assert isinstance(result.exception, NonFiniteError)
    assert "is not finite; the update was not applied" in str(result.exception)
    assert result.exception.message.startswith("step ")
    assert "a lower learning rate" in str(result.exception.fix)
