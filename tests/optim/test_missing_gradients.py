"""Parameters that have a gradient in some steps only: frozen and unfrozen, experts, late groups.

Each counts its own steps, as in torch: what corrects a bias or falls with the step goes by them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import CheckpointError
from tests.torch_tables import optimizer_infos

torch = pytest.importorskip("torch")
NUM_STEPS = 12
SHAPES = ((4, 3), (3,), (2, 2), (3, 5))
UNMAPPED = ("SparseAdam", "LBFGS")
SETTINGS = [
    (info.optim_cls.__name__, setting.desc or "default", setting.kwargs)
    for info in optimizer_infos()
    if info.optim_cls.__name__ not in UNMAPPED
    for setting in info.optim_inputs_func(device="cpu")
] + [
    ("SGD", "dampened", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("Adagrad", "falling", {"lr": 0.1, "lr_decay": 0.5}),
    ("ASGD", "averaged soon", {"lr": 0.1, "t0": 3, "lambd": 0.1}),
]


class Both:
    """One optimizer here and in torch, with equal parameters in f64."""

    def __init__(self, name: str, options: dict[str, Any], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        shapes = [s for s in SHAPES if name != "Muon" or len(s) == 2]
        start = [self.rng.standard_normal(s) for s in shapes]
        options = {k: float(v) if k == "lr" else v for k, v in options.items()}
        self.ours = [nn.Parameter(x, dtype="f64") for x in start]
        self.theirs = [torch.nn.Parameter(torch.tensor(x)) for x in start]
        self.optimizer = getattr(optim, name)(self.ours, **options)
        self.wanted = getattr(torch.optim, name)(self.theirs, **options)
        self.tolerance = 5e-3 if name == "Muon" else 1e-9
        self.jitted = rung.jit(self.step)

    def gradients(self) -> list[Any]:
        there = self.rng.random(len(self.ours)) < 0.5
        there[self.rng.integers(len(there))] = True
        return [
            self.rng.standard_normal(p.shape) if t else None
            for p, t in zip(self.ours, there, strict=True)
        ]

    def step(self, grads: list[Any]) -> None:
        for p, g in zip(self.ours, grads, strict=True):
            p.grad = g
        self.optimizer.step()

    def both(self, jitted: bool, grads: list[Any]) -> None:
        mine = [None if g is None else rung.asarray(g) for g in grads]
        (self.jitted if jitted else self.step)(mine)
        for p, g in zip(self.theirs, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        self.wanted.step()

    def compare(self) -> None:
        for p, q in zip(self.ours, self.theirs, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), self.tolerance, self.tolerance)


@pytest.fixture(autouse=True)
def numbers_of_torch_in_f64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("name", "desc", "options"), SETTINGS, ids=lambda x: str(x)[:40])
def test_random_gradients_are_missing(name: str, desc: str, options: dict[str, Any]) -> None:
    case = Both(name, options, seed=len(desc))
    for _ in range(NUM_STEPS):
        case.both(False, case.gradients())
        case.compare()


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam", "Adagrad", "ASGD", "Adafactor"])
def test_also_in_jitted_steps(name: str) -> None:
    case = Both(name, {"lr": 0.1}, seed=7)
    patterns = [case.gradients() for _ in range(3)]
    for i in (0, 1, 0, 2, 2, 1, 0, 0, 2, 1):
        case.both(True, patterns[i])
        case.compare()
    assert len(case.jitted.explain_recompiles()) <= 6, case.jitted.explain_recompiles()


def test_two_steps_in_one_jitted_function() -> None:
    case = Both("Adam", {"lr": 0.1}, seed=3)
    grads = [case.rng.standard_normal(p.shape) for p in case.ours]
    some = [grads[0], None, grads[2], None]

    @rung.jit
    def twice() -> None:
        case.step([rung.asarray(g) for g in grads])
        case.step([None if g is None else rung.asarray(g) for g in some])

    for _ in range(4):
        twice()
        for given in (grads, some):
            for p, g in zip(case.theirs, given, strict=True):
                p.grad = None if g is None else torch.tensor(g)
            case.wanted.step()
        case.compare()
    assert len(twice.explain_recompiles()) == 2


def test_those_that_step_together_share_one_count() -> None:
    case = Both("Adam", {"lr": 0.1}, seed=0)
    everything = [rung.ones(p.shape, dtype="f64") for p in case.ours]
    case.step(everything)
    assert len({id(case.optimizer._counts.of(p)) for p in case.ours}) == 1
    case.step([None, *everything[1:]])
    case.step([None, *everything[1:]])
    assert len({id(case.optimizer._counts.of(p)) for p in case.ours}) == 2
    steps = [int(s["step"]) for s in case.optimizer.state_dict()["state"].values()]
    assert steps == [1, 3, 3, 3]


def test_a_group_that_is_added_late_begins_at_its_first_step() -> None:
    case = Both("AdamW", {"lr": 0.1}, seed=0)
    step = rung.jit(lambda grads: case.optimizer.step(grads))
    for _ in range(3):
        grads = [case.rng.standard_normal(p.shape) for p in case.ours]
        case.both(False, grads)
    more, theirs = nn.Parameter(np.ones(3), dtype="f64"), torch.nn.Parameter(torch.ones(3))
    case.optimizer.add_param_group({"params": [more]})
    case.wanted.add_param_group({"params": [theirs]})
    case.ours.append(more)
    case.theirs.append(theirs)
    for _ in range(3):
        grads = [case.rng.standard_normal(p.shape) for p in case.ours]
        step([rung.asarray(g) for g in grads])
        for p, g in zip(case.theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        case.wanted.step()
        case.compare()


def test_a_group_added_after_a_jitted_step_is_stepped_too() -> None:
    p, q = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([p], 0.5)

    @rung.jit
    def step() -> None:
        p.grad, q.grad = rung.ones(1), rung.ones(1)
        optimizer.step()

    step()
    optimizer.add_param_group({"params": [q]})
    step()
    assert float(p[0]) == 0.0
    assert float(q[0]) == 0.5


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "Adagrad", "ASGD", "RAdam"])
def test_counts_that_differ_are_saved_and_loaded(name: str, tmp_path: Any) -> None:
    options: dict[str, Any] = {"lr": 0.1}
    if name == "SGD":
        options |= {"momentum": 0.9, "dampening": 0.5}
    case = Both(name, options, seed=1)
    for _ in range(4):
        case.both(False, case.gradients())
    saved = case.optimizer.state_dict()
    torch_saved = copy.deepcopy(case.wanted.state_dict())
    model = nn.ParameterList(case.ours)
    nn.save_checkpoint(tmp_path / "x.safetensors", model, case.optimizer)
    for way in ("own state_dict", "state_dict of torch", "checkpoint", "named"):
        again = Both(name, options, seed=1)
        for p, q, r in zip(again.ours, case.ours, again.theirs, strict=True):
            p.assign(q)
            r.data = torch.tensor(np.asarray(q))
        again.wanted.load_state_dict(copy.deepcopy(torch_saved))
        if way == "own state_dict":
            again.optimizer.load_state_dict(saved)
        elif way == "state_dict of torch":
            again.optimizer.load_state_dict(torch_saved)
        elif way == "checkpoint":
            nn.load_checkpoint(
                tmp_path / "x.safetensors", nn.ParameterList(again.ours), again.optimizer
            )
        else:
            again.optimizer.load_named_state(case.optimizer.named_state())
        for _ in range(4):
            again.both(False, again.gradients())
            again.compare()


def test_our_state_loads_into_torch() -> None:
    case = Both("Adam", {"lr": 0.1}, seed=1)
    for _ in range(4):
        case.both(False, case.gradients())
    saved = case.optimizer.state_dict()
    state = {
        i: {k: torch.tensor(np.asarray(v)) for k, v in own.items()}
        for i, own in saved["state"].items()
    }
    case.wanted.load_state_dict({**saved, "state": state})
    for _ in range(3):
        case.both(False, case.gradients())
        case.compare()


def test_a_state_without_counts_of_parameters_loads() -> None:
    p, q = nn.Parameter([1.0]), nn.Parameter([1.0])
    one = optim.Adam([p, q], 0.1)
    one.step([rung.ones(1), rung.ones(1)])
    old = {n: t for n, t in one.named_state().items() if not n.startswith("step.")}
    two = optim.Adam([p, q], 0.1)
    two.load_named_state(old)
    assert [int(s["step"]) for s in two.state_dict()["state"].values()] == [1, 1]


@pytest.mark.parametrize("bad", [np.int64(-1), np.float64(0.5), np.float64("nan"), np.True_])
def test_a_count_that_is_none_is_refused(bad: Any) -> None:
    one = optim.Adam([nn.Parameter([1.0])], 0.1)
    with pytest.raises(CheckpointError, match=r"step\.0 is .* no number of steps"):
        one.load_named_state(one.named_state() | {"step.0": bad})


@pytest.mark.parametrize(
    "bad",
    [
        {}, {"param_groups": 1, "state": {}}, {"param_groups": [{}], "state": {}}, None, [],
        {"param_groups": [{"params": [0], "lr": "x"}], "state": {}},
        {"param_groups": [{"params": [0], "lr": 0.1}], "state": 3},
        {"param_groups": [{"params": [0], "lr": 0.1}], "state": {0: 3}},
        {"param_groups": [{"params": [0], "lr": 0.1}], "state": {0: {"exp_avg": "x"}}},
        {"param_groups": [{"params": [0], "lr": 0.1}], "state": {0: {"step": "x"}}},
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(bad: Any) -> None:
    one = optim.Adam([nn.Parameter([1.0])], 0.1)
    with pytest.raises(CheckpointError):
        one.load_state_dict(bad)
