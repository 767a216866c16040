"""Checkpoints: a resumed run equals one that was never interrupted, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import data, nn, optim
from rung.core.errors import CheckpointError


class Net(nn.Module):
    """With batch norm (buffers) and dropout (random state)."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


class Training:
    """All that a run consists of."""

    def __init__(self, make: str = "adamw", seed: int = 0) -> None:
        rung.manual_seed(seed)
        rng = np.random.default_rng(0)
        self.model = Net()
        schedule = optim.WarmUp(3, optim.Cosine(0.05, 20))
        self.optimizer: optim.Optimizer = (
            optim.AdamW(self.model, schedule)
            if make == "adamw"
            else optim.SGD(self.model, schedule, momentum=0.9, nesterov=True)
        )
        examples = data.TensorDataset(
            rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 3, 20)
        )
        self.loader = data.DataLoader(examples, 6, shuffle=True, seed=5, drop_last=True)

        @rung.jit
        def step(x: Any, y: Any) -> Any:
            loss = nn.functional.cross_entropy(self.model(x), y)
            loss.backward()
            optim.clip_grad_norm_(self.model, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.detach()

        self.step = step

    def run(self, count: int) -> list[float]:
        batches = self.loader.forever()
        losses = [float(self.step(*next(batches))) for _ in range(count)]
        batches.close()
        return losses

    def save(self, path: Path, step: int) -> None:
        nn.save_checkpoint(
            path, self.model, self.optimizer, loader=self.loader, step=step, config={"width": 6}
        )

    def load(self, path: Path) -> nn.Checkpoint:
        return nn.load_checkpoint(path, self.model, self.optimizer, loader=self.loader)

    def bits(self) -> dict[str, bytes]:
        everything = self.model.state_dict() | self.optimizer.named_state()
        return {name: np.asarray(t).tobytes() for name, t in everything.items()}


@pytest.mark.parametrize("make", ["adamw", "sgd"])
def test_resumed_equals_uninterrupted(tmp_path: Path, make: str) -> None:
    path = tmp_path / "run" / "x.safetensors"
    whole = Training(make)
    wanted = whole.run(10)
    first = Training(make)
    losses = first.run(4)
    first.save(path, 4)
    second = Training(make, seed=99)
    second.run(2)
    saved = second.load(path)
    assert (saved.step, saved.config) == (4, {"width": 6})
    losses += second.run(6)
    assert losses == wanted
    assert second.bits() == whole.bits()


def test_saving_changes_nothing(tmp_path: Path) -> None:
    wanted = Training().run(5)
    b = Training()
    losses = b.run(3)
    b.save(tmp_path / "x", 3)
    assert losses + b.run(2) == wanted


def test_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "x"
    training = Training()
    training.run(1)
    training.save(path, 1)
    arrays, metadata = nn.read_safetensors(path)
    assert metadata["format"] == "rung checkpoint 1"
    assert "model.body.1.running_var" in arrays
    assert "optimizer.exp_avg.head.weight" in arrays
    assert arrays["optimizer.step"] == 1
    assert set(nn.read_checkpoint(path).part("random")) == set(
        rung.random.default_generator().state
    )


def test_a_shared_parameter_is_saved_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    nn.save_checkpoint(tmp_path / "x", model)
    assert "model.1.weight" not in nn.read_safetensors(tmp_path / "x")[0]
    before = np.asarray(model[0].weight)
    model[0].weight.assign(0)
    nn.load_checkpoint(tmp_path / "x", model)
    np.testing.assert_array_equal(model[1].weight, before)


def test_a_wrong_checkpoint_changes_nothing(tmp_path: Path) -> None:
    training = Training()
    training.run(1)
    training.save(tmp_path / "x", 1)
    nn.save_checkpoint(tmp_path / "bare", training.model)
    nn.write_safetensors(tmp_path / "weights", {"a": np.zeros(2)})
    wide = Net(5)
    other = Training("sgd", seed=7)
    before = other.bits()
    random = np.asarray(rung.random.default_generator().state["draws"])
    for name, message in (
        ("x", "state given is of another optimizer"),
        ("bare", "holds no optimizer"),
        ("weights", "is no rung checkpoint 1, but 'a file of weights alone'"),
        ("none", "No such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            other.load(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"shape of body.0.weight: the model has \[5, 4\]"):
        nn.load_checkpoint(tmp_path / "x", wide)
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="is cut off"):
        other.load(tmp_path / "cut")
    assert other.bits() == before
    np.testing.assert_array_equal(rung.random.default_generator().state["draws"], random)


def test_metadata_that_do_not_parse(tmp_path: Path) -> None:
    nn.write_safetensors(
        tmp_path / "x", {}, {"format": "rung checkpoint 1", "step": "many", "config": "{}"}
    )
    with pytest.raises(CheckpointError, match="metadata do not parse"):
        nn.read_checkpoint(tmp_path / "x")
