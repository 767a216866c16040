"""Copies and pickles of everything that holds tensors: models, optimizers, averages, generators,
compiled functions. A copy goes on as the original would, and neither changes the other.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import data, nn, optim
from rung.core.settings import configure, settings
from rung.ops.parse import parse

rng = np.random.default_rng(0)
X = rng.standard_normal((8, 4)).astype(np.float32)
Y = rng.standard_normal((8, 3)).astype(np.float32)
OPTIMIZERS = [name for name in optim.__all__ if name[0].isupper() and name not in (
    "Chain", "Constant", "Cosine", "ExponentialDecay", "ExponentialMovingAverage", "FromFunction",
    "Group", "Linear", "MultiStepDecay", "OneCycle", "Optimizer", "ReduceLROnPlateau", "Scaled",
    "Schedule", "StepDecay", "WarmUp")]  # fmt: skip
Copy = Callable[[Any], Any]


def pickled(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


COPIES: dict[str, Copy] = {"deepcopy": copy.deepcopy, "pickle": pickled}
by_copying = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


class Net(nn.Module):
    """With a tied weight, dropout, a batch norm (buffers), and a parameter in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(4, 3)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: Any) -> Any:
        return self.last(self.drop(self.norm(self.tied(self.first(x)).relu())))


class Bare(nn.Module):
    """One matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(rng.standard_normal((4, 3)).astype(np.float32))

    def forward(self, x: Any) -> Any:
        return x @ self.weight


def loss_of(model: nn.Module) -> Any:
    return ((model(rung.asarray(X)) - rung.asarray(Y)) ** 2).mean()


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int = 3) -> None:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(steps):
        if isinstance(optimizer, optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optim.clip_grad_norm_(model, 1.0)
            optimizer.step()


def values(model: nn.Module) -> list[bytes]:
    return [np.asarray(t).tobytes() for t in model.state_dict().values()]


class Trainer:
    """What users write: a model, an optimizer and a jitted step in attributes."""

    def __init__(self) -> None:
        self.model = Net()
        self.optimizer = optim.AdamW(self.model.parameters(), lr=optim.Cosine(0.1, 10))
        self.average = optim.ExponentialMovingAverage(self.model, 0.5)
        self.generator = rung.Generator(3)
        self.stepped = rung.jit(self.step)

    def step(self, x: Any, y: Any) -> Any:
        noise = rung.random.normal(x.shape, key=self.generator)
        self.optimizer.zero_grad()
        loss = ((self.model(x + 0.1 * noise) - y) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss

    def state(self) -> list[bytes]:
        return values(self.model) + values(self.average)


@by_copying
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_pair_goes_on_as_the_original(name: str, copied: Copy) -> None:
    rung.manual_seed(0)
    model = Bare()
    optimizer = getattr(optim, name)(model.parameters(), lr=0.05)
    train(model, optimizer)
    other, its = copied((model, optimizer))
    before = values(model)
    train(other, its)
    assert values(model) == before, "the original has moved"
    train(model, optimizer)
    assert values(other) == values(model)


@by_copying
def test_ties_dropout_and_buffers(copied: Copy) -> None:
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    train(model, optimizer)
    other, its = copied((model, optimizer))
    assert other.tied.weight is other.first.weight
    assert list(its.state) == list(its.param_groups[0]["params"])
    for own in (model, other):
        rung.manual_seed(1)
        train(own, optimizer if own is model else its)
    assert values(model) == values(other)


@by_copying
def test_an_optimizer_alone_has_parameters_of_its_own(copied: Copy) -> None:
    model = Bare()
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    train(model, optimizer)
    alone = copied(optimizer)
    before = values(model)
    (p,) = alone.param_groups[0]["params"]
    p.grad = rung.ones(p.shape)
    alone.step()
    assert values(model) == before
    assert p.shape == (4, 3)


@by_copying
def test_a_model_alone(copied: Copy) -> None:
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    train(model, optimizer)
    other = copied(model)
    before = values(other)
    train(model, optimizer)
    assert values(other) == before
    train(other, optim.SGD(other.parameters(), lr=0.05))
    assert values(other) != before


@by_copying
def test_counts_that_differ(copied: Copy) -> None:
    params = [nn.Parameter([1.0]), nn.Parameter([1.0])]
    optimizer = optim.Adam(params, lr=0.1)
    optimizer.step([rung.ones(1), None])
    for p, gradient in zip(params, (rung.ones(1), None), strict=True):
        p.grad = gradient
    optimizer.step()
    again = copied(optimizer)
    steps = [[int(s["step"]) for s in o.state_dict()["state"].values()] for o in (optimizer, again)]
    assert steps[0] == steps[1] == [2, 0]
    for o in (optimizer, again):
        o.step([rung.ones(1), rung.ones(1)])
    ours = [float(p[0]) for p in again.param_groups[0]["params"]]
    assert ours == [float(p[0]) for p in params]


@by_copying
def test_a_trainer_with_a_jitted_step(copied: Copy) -> None:
    rung.manual_seed(0)
    one = Trainer()
    for _ in range(2):
        one.stepped(rung.asarray(X), rung.asarray(Y))
    two = copied(one)
    assert two.stepped.function.__self__ is two
    before = one.state()
    rung.manual_seed(1)
    second = [float(two.stepped(rung.asarray(X), rung.asarray(Y))) for _ in range(3)]
    assert one.state() == before
    rung.manual_seed(1)
    first = [float(one.stepped(rung.asarray(X), rung.asarray(Y))) for _ in range(3)]
    assert first == second
    assert one.state() == two.state()


@rung.jit
def doubled(x: Any) -> Any:
    return x * 2


@rung.custom_vjp
def halved(x: Any) -> Any:
    return x / 2


halved.defvjp(lambda x: (x / 2, None), lambda _, g: (g / 2,))


@rung.custom_jvp
def thirds(x: Any) -> Any:
    return x / 3


@rung.function
def looped(x: Any) -> Any:
    for _ in range(2):
        x = x + 1
    return x


@by_copying
@pytest.mark.parametrize("function", [doubled, halved, looped], ids=["jit", "vjp", "function"])
def test_functions_of_a_module(function: Any, copied: Copy) -> None:
    assert float(copied(function)(rung.array(2.0))) == float(function(rung.array(2.0)))
    held = copied({"f": function, "x": rung.array(2.0)})
    assert float(held["f"](held["x"])) == float(function(rung.array(2.0)))


@by_copying
def test_generators(copied: Copy) -> None:
    one = rung.Generator(5)
    rung.random.normal((3,), key=one)
    two = copied(one)
    pairs = [[np.asarray(rung.random.normal((3,), key=g)) for _ in range(3)] for g in (one, two)]
    np.testing.assert_array_equal(*pairs)


@by_copying
@pytest.mark.parametrize("dtype", ["bool", "i8", "u64", "f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors(copied: Copy, dtype: str, shape: tuple[int, ...]) -> None:
    x = rung.asarray(1 + np.arange(int(np.prod(shape))).reshape(shape)).astype(dtype)
    for given in (x, rung.flip(x), x.T):
        again = copied(given)
        assert (again.dtype, again.shape) == (given.dtype, given.shape)
        assert np.asarray(again).tobytes() == np.asarray(given).tobytes()
        again.fill_(0)
        assert not given.size or bool(rung.all(given != 0))


@by_copying
def test_what_tensors_know(copied: Copy) -> None:
    x = nn.Parameter([1.0, 2.0])
    x.note = "mine"
    x.grad = rung.ones(2)
    again = copied(x)
    assert type(again) is nn.Parameter
    assert again.requires_grad and again.is_leaf
    assert again.note == "mine"
    frozen = nn.Parameter([1.0], requires_grad=False)
    assert not copied(frozen).requires_grad
    both = copied([x, x])
    assert both[0] is both[1]


@by_copying
def test_the_gradient_of_a_copy_is_its_own(copied: Copy) -> None:
    x = rung.Tensor([1.0, 2.0], requires_grad=True)
    (x**2).sum().backward()
    again = copied(x)
    assert again.grad is None or again.grad is not x.grad
    again.grad = None
    (again * 3).sum().backward()
    np.testing.assert_array_equal(again.grad, [3.0, 3.0])
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])


@by_copying
@pytest.mark.parametrize(
    "schedule",
    [
        optim.Constant(0.1), optim.Linear(0.1, 0.0, 10), optim.Cosine(0.1, 10),
        optim.WarmUp(3, optim.StepDecay(0.1, 2)), optim.OneCycle(0.1, 10),
        optim.MultiStepDecay(0.1, (2, 4)), optim.ExponentialDecay(0.1, 0.5),
        optim.Chain(((3, optim.Constant(0.1)),), optim.Constant(0.2)),
        optim.Scaled(2.0, optim.Constant(0.1)), optim.FromFunction(abs),
    ],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_schedules(schedule: Any, copied: Copy) -> None:
    p = nn.Parameter([1.0])
    optimizer = optim.SGD([p], lr=schedule)
    optimizer.step([rung.ones(1)])
    again = copied(optimizer)
    for o in (optimizer, again):
        o.step([rung.ones(1)])
    assert float(again.lr) == float(optimizer.lr)
    assert float(again.param_groups[0]["params"][0][0]) == float(p[0])
    again.param_groups[0]["lr"] = 0.5
    assert float(optimizer.lr) != 0.5


@by_copying
def test_plateau_and_average(copied: Copy) -> None:
    model = Bare()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    plateau = optim.ReduceLROnPlateau(optimizer, patience=0)
    average = optim.ExponentialMovingAverage(model, 0.5)
    train(model, optimizer)
    average.update_parameters(model)
    own, its, watching, averaged = copied((model, optimizer, plateau, average))
    assert watching.optimizer is its
    for metric in (1.0, 2.0, 3.0):
        watching.step(metric)
    assert float(its.lr) < 1.0
    assert float(optimizer.lr) == 1.0
    train(own, its)
    averaged.update_parameters(own)
    assert int(average.n_averaged) == 1
    assert int(averaged.n_averaged) == 2


@by_copying
def test_loaders(copied: Copy) -> None:
    loader = data.DataLoader(data.TensorDataset(X, Y), batch_size=3, shuffle=True, seed=1)
    next(iter(loader))
    again = copied(loader)
    for a, b in zip(loader, again, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_a_copy_is_of_the_moment() -> None:
    x = rung.array([1.0, 2.0])
    again, shallow = copy.deepcopy(x), copy.copy(x)
    x += 1
    np.testing.assert_array_equal(again, [1.0, 2.0])
    np.testing.assert_array_equal(shallow, [1.0, 2.0])


@pytest.mark.parametrize("interpreted", [False, True])
def test_pickles_go_to_another_process(tmp_path: Path, interpreted: bool) -> None:
    before = settings().interpret
    configure(interpret=interpreted)
    try:
        go_to_another_process(tmp_path)
    finally:
        configure(interpret=before)


def go_to_another_process(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    optimizer = optim.AdamW(model.parameters(), lr=optim.Cosine(0.1, 10))
    train(model, optimizer)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps((model, optimizer, rung.Generator(3))))
    program = """
import pickle, sys
import numpy as np, rung
from tests.test_copies import train
model, optimizer, generator = pickle.load(open(sys.argv[1], "rb"))
rung.manual_seed(1)
train(model, optimizer)
drawn = rung.random.normal((3,), key=generator)
np.save(sys.argv[2], np.asarray(model[0].weight).ravel().tolist() + drawn.tolist())
"""
    args = [sys.executable, "-c", program, str(tmp_path / "x.pickle"), str(tmp_path / "y.npy")]
    now = asdict(settings())  # bits are equal where the settings are
    env = {f"RUNG_{n.upper()}": f"{int(x) if isinstance(x, bool) else x}" for n, x in now.items()}
    subprocess.run(args, check=True, env=os.environ | env)
    rung.manual_seed(1)
    train(model, optimizer)
    drawn = rung.random.normal((3,), key=rung.Generator(3))
    wanted = np.asarray(model[0].weight).ravel().tolist() + drawn.tolist()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)


def test_errors() -> None:
    """As they come from another process: the message, the fix and the line of where they arose."""
    with pytest.raises(rung.ShapeError) as caught:
        rung.ones(2) + rung.ones(3)
    for copied in COPIES.values():
        again = copied(caught.value)
        assert type(again) is rung.ShapeError
        assert (str(again), again.fix) == (str(caught.value), caught.value.fix)
    with pytest.raises(SyntaxError) as unread:
        parse("def")
    assert str(pickled(unread.value)) == str(unread.value)
