"""The commands: training, stopping, resuming, sampling, what is said about mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import rung
from rung import data, models, nn, optim
from rung.core.errors import CheckpointError, NonFiniteError, RungError
from rung.tools import sample, train_digits, train_gpt, training
from rung.tools.cli import make_app

TINY = train_gpt.Recipe(
    num_steps=6,
    batch_size=2,
    block_size=8,
    n_layer=1,
    n_head=2,
    n_embd=8,
    dropout=0.1,
    validate_every=3,
    save_every=2,
)
TEXT = "the quick brown fox jumps over the lazy dog. " * 20
SIZES = ["--batch-size=2", "--block-size=8", "--layers=1", "--heads=2", "--width=8"]


def quiet() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def test_gpt_trains_and_leaves_everything(tmp_path: Path) -> None:
    result = train_gpt.train_gpt(TINY, TEXT, tmp_path, quiet())
    assert (result.step, result.interrupted) == (6, False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.safetensors", "history.csv", "loss.svg"
    ]  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    assert [bool(r["validation"]) for r in rows] == [False, False, True, False, False, True]
    saved = nn.read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert saved.step == 6
    assert saved.config["kind"] == "gpt"
    trained = sample.load(tmp_path)
    text = "".join(sample.continuation(trained, "the ", 5, 0.8, 5, seed=0))
    assert len(text) == 5
    assert set(text) <= set(TEXT)
    with pytest.raises(RungError, match="is not in the vocabulary"):
        list(sample.continuation(trained, "§", 5, 0.8, None, seed=0))
    with pytest.raises(RungError, match="the prompt is empty"):
        list(sample.continuation(trained, "", 5, 0.8, None, seed=0))


@pytest.mark.parametrize("check_finite", [False, True])
def test_resumed_equals_uninterrupted(tmp_path: Path, check_finite: bool) -> None:
    whole = train_gpt.train_gpt(TINY, TEXT, tmp_path / "a", quiet(), check_finite=check_finite)

    def stop_after_three(console: Console) -> training.Result:
        real = training._Display.show

        def show(self: Any, step: int, loss: float) -> None:
            real(self, step, loss)
            if step == 3:
                signal.raise_signal(signal.SIGINT)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training._Display, "show", show)
            return train_gpt.train_gpt(
                TINY, TEXT, tmp_path / "b", console, check_finite=check_finite
            )

    first = stop_after_three(quiet())
    assert (first.step, first.interrupted) == (3, True)
    rung.random.rand(3)
    rest = train_gpt.train_gpt(
        TINY, TEXT, tmp_path / "b", quiet(), resume=True, check_finite=check_finite
    )
    assert rest.history == whole.history
    saved = [nn.read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("a", "b")]
    assert saved[0].loader == saved[1].loader
    for name, array in saved[0].arrays.items():
        assert array.tobytes() == saved[1].arrays[name].tobytes(), name


def test_check_finite_trains_the_same(tmp_path: Path) -> None:
    plain = train_gpt.train_gpt(TINY, TEXT, tmp_path / "a", quiet())
    checked = train_gpt.train_gpt(TINY, TEXT, tmp_path / "b", quiet(), check_finite=True)
    np.testing.assert_allclose(
        [x for _, x in plain.history.losses], [x for _, x in checked.history.losses], rtol=1e-5
    )


def test_an_older_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"precious")
    with pytest.raises(RungError, match=r"exists\n.*\n?.*--resume"):
        train_gpt.train_gpt(TINY, TEXT, tmp_path, quiet())
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"precious"


class Fragile(nn.Module):
    """Two layers, with a division that can go wrong in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.act = nn.LogSigmoid()
        self.second = nn.Linear(2, 1)

    def forward(self, x: Any) -> Any:
        return self.second(self.act(self.first(x)))


def make_run(out: Path, loss_of: Any, model: nn.Module, xs: Any) -> training.Run:
    loader = data.DataLoader(data.TensorDataset(xs), 2)
    return training.Run(
        "test", model, optim.SGD(model, 0.1), loader, loss_of, len(loader), out, {}, 2, "rows",
        check_finite=True,
    )  # fmt: skip


def test_the_first_bad_tensor_is_named(tmp_path: Path) -> None:
    def square(model: Any) -> Any:
        return lambda x: (model(x) ** 2).mean()

    def spoilt(model: Fragile) -> Fragile:
        model.first.weight.assign(np.full((2, 2), -1e38, np.float32))
        return model

    fine = np.ones((4, 2), np.float32)
    bad = fine.copy()
    bad[3, 1] = np.nan
    model = Fragile()
    cases = [
        (model, square(model), bad, r"step 2: part 0 of the batch f32\[2,2\] is not finite"),
        (model, lambda x: model(x).mean() * np.inf, fine, "step 1: the loss is not finite"),
    ]
    wrong = spoilt(Fragile())
    huge = 10 * fine
    message = r"the result of first \(Linear\) f32\[2,2\] is not finite; the update was not applied"
    cases.append((wrong, square(wrong), huge, message))
    other = Fragile()
    other.second.bias.assign(np.array([np.inf], np.float32))
    cases.append((other, square(other), fine, r"step 1: parameter second.bias f32\[1\]"))
    for net, loss_of, xs, text in cases:
        before = {n: np.asarray(t) for n, t in net.state_dict().items()}
        run = make_run(tmp_path / "x", loss_of, net, xs)
        with pytest.raises(NonFiniteError, match=text):
            training.train(run, quiet())
        if "step 1" in text:
            for name, tensor in net.state_dict().items():
                np.testing.assert_array_equal(tensor, before[name])


def test_a_bad_gradient_is_named(tmp_path: Path) -> None:
    model = Fragile()
    model.first.weight.assign(0)
    model.first.bias.assign(0)

    def loss_of(x: Any) -> Any:
        return model.first(x).sqrt().sum() + model.second(x).sum()

    run = make_run(tmp_path, loss_of, model, np.ones((2, 2), np.float32))
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient of first\.bias is not finite"):
        training.train(run, quiet())


def test_digits_learn(tmp_path: Path) -> None:
    recipe = train_digits.Recipe(epochs=2, batch_size=256, width=4, lr=1e-2)
    result, accuracy = train_digits.train_digits(recipe, tmp_path, quiet())
    assert result.step == 10
    losses = [x for _, x in result.history.losses]
    assert losses[-1] < losses[0]
    assert 0 <= accuracy <= 1
    model = models.ConvNet(width=4)
    nn.load_checkpoint(tmp_path / "checkpoint.safetensors", model)
    assert train_digits.accuracy(model, data.load_digits().test) == accuracy


def test_checkpoints_of_other_models(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    nn.save_checkpoint(path, models.MLP([2, 2]), config={"kind": "digits"})
    with pytest.raises(CheckpointError, match="is of 'digits', not of a GPT"):
        sample.load(tmp_path)
    nn.save_checkpoint(path, models.MLP([2, 2]), config={"kind": "gpt", "sizes": {"depth": 1}})
    with pytest.raises(CheckpointError, match="its configuration is not known"):
        sample.load(tmp_path)


# ---- the command line


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(make_app(), list(arguments))


def test_train_and_sample_from_the_command_line(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    out = str(tmp_path / "out")
    result = invoke("train", "gpt", "--data", str(text), "--out", out, "--steps=4", *SIZES)
    assert result.exit_code == 0, result.output
    assert re.search(r"validation loss \d\.\d{4} after 4 steps \(64 tokens\)", result.output)
    result = invoke("sample", out, "--prompt", "the ", "--tokens", "7")
    assert result.exit_code == 0
    assert len(result.stdout.rstrip("\n")) == 11
    again = invoke("sample", out, "--prompt", "the ", "--tokens", "7")
    assert again.stdout == result.stdout


def test_every_op_with_every_column() -> None:
    found = json.loads(invoke("ops", "--json").stdout)
    assert len(found) >= 100
    columns = {"op", "type", "ref", "jvp", "transpose", "axes", "facts", "cost", "emit", "dtypes"}
    assert columns <= set(found[0])
    by_name = {row["op"]: row for row in found}
    assert by_name["add"]["facts"].startswith("commutative associative")
    assert by_name["exp"]["emit"] == "exp"
    assert by_name["dot_general"]["jvp"] == "linear in 0, 1"
    assert by_name["argmax"]["jvp"] != "—"
    text = invoke("ops", "--family", "pooling").output
    assert "window_max" in text
    assert "blank cells:" in text
    assert isinstance(invoke("ops", "--family", "none").exception, RungError)


def program(*arguments: str, **environment: str) -> Popen[str]:
    code = "from rung.tools.cli import main; main()"
    return Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_mistakes_are_told_without_a_traceback(tmp_path: Path) -> None:
    process = program("sample", str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("CheckpointError: ")
    assert "No such file" in errors
    assert "Traceback" not in errors
    process = program("ops", RUNG_THREDS="2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SettingsError: unknown setting RUNG_THREDS" in errors


def test_ctrl_c_leaves_a_checkpoint_to_go_on_with(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    options = [*SIZES, "--steps=1000000", "--data", str(text), "--out", str(tmp_path)]
    process = program("train", "gpt", *options, RUNG_INTERPRET="1")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert "gpt: 1/1000000" in lines[1]
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    found = re.search(r"stopped after step (\d+)", output)
    assert found
    saved = nn.read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert saved.step == int(found[1])
    sample.load(tmp_path)
