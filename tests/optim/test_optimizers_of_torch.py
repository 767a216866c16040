"""Every optimizer beside the one of the same name in torch: the same gradients, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import RungError

torch = pytest.importorskip("torch")
Array = np.ndarray[Any, Any]
NUM_STEPS = 22
SHAPES = ((3, 5), (4,), (6, 2), (2, 3, 4))
MATRICES = ((3, 5), (6, 2))

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "betas": (0.4, 0.9), "maximize": True}),
    ("AdamW", {"lr": 0.05, "amsgrad": True}),
    ("Adamax", {"lr": 0.05, "weight_decay": 0.1}),
    ("Adamax", {"betas": (0.3, 0.9), "maximize": True}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1}),
    ("NAdam", {"momentum_decay": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.05}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"betas": (0.8, 0.95), "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.8, "centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.5, "eps": 1e-3, "maximize": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr_decay": 0.5, "initial_accumulator_value": 0.1, "weight_decay": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.7, "weight_decay": 0.1, "maximize": True}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.1, "etas": (0.4, 1.5), "step_sizes": (0.05, 0.2), "maximize": True}),
    ("ASGD", {"lr": 0.1, "t0": 5, "weight_decay": 0.1}),
    ("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"lr": 0.1, "weight_decay": 0.1, "d": 1.5, "beta2_decay": -0.5}),
    ("Adafactor", {"eps": (1e-3, 0.1), "maximize": True}),
]
MUON: list[dict[str, Any]] = [
    {"lr": 0.02},
    {"lr": 0.02, "nesterov": False, "momentum": 0.5, "weight_decay": 0.2},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
]


def drawn(shapes: tuple[tuple[int, ...], ...]) -> tuple[list[Array], list[list[Array]]]:
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(s) for s in shapes]
    return start, [[rng.standard_normal(s) for s in shapes] for _ in range(NUM_STEPS)]


@contextmanager
def torch_default(dtype: str) -> Iterator[Any]:
    """torch keeps numbers of a step in its default dtype."""
    kind = {"f32": torch.float32, "f64": torch.float64}[dtype]
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield kind
    finally:
        torch.set_default_dtype(before)


def torch_steps(name: str, options: dict[str, Any], dtype: str, shapes: Any) -> list[list[Array]]:
    start, gradients = drawn(shapes)
    found = []
    with torch_default(dtype) as kind:
        params = [torch.nn.Parameter(torch.tensor(x, dtype=kind)) for x in start]
        optimizer = getattr(torch.optim, name)(params, **options)
        for grads in gradients:
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.tensor(g, dtype=kind)
            optimizer.step()
            found.append([p.detach().numpy().copy() for p in params])
    return found


def our_steps(
    name: str, options: dict[str, Any], dtype: str, shapes: Any, jitted: bool
) -> tuple[list[list[Array]], optim.Optimizer]:
    start, gradients = drawn(shapes)
    params = [nn.Parameter(x, dtype=dtype) for x in start]
    optimizer = getattr(optim, name)(params, **options)

    def step(*grads: Any) -> None:
        optimizer.step(list(grads))

    one = rung.jit(step) if jitted else step
    found = []
    for grads in gradients:
        one(*[rung.asarray(g, dtype=dtype) for g in grads])
        found.append([np.array(p) for p in params])
    return found, optimizer


def close(found: list[list[Array]], wanted: list[list[Array]], tolerance: float) -> None:
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=f"step {step}")


def test_name(case: tuple[str, dict[str, Any]]) -> str:
    return " ".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


test_name.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES, ids=test_name)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_steps(case: tuple[str, dict[str, Any]], dtype: str) -> None:
    wanted = torch_steps(*case, dtype, SHAPES)
    found, _ = our_steps(*case, dtype, SHAPES, jitted=True)
    close(found, wanted, 3e-5 if dtype == "f32" else 1e-11)


@pytest.mark.parametrize("options", MUON)
def test_muon(options: dict[str, Any]) -> None:
    """Products in bf16 are summed in another order, so each step may differ by its last bits."""
    wanted = torch_steps("Muon", options, "f32", MATRICES)
    found, _ = our_steps("Muon", options, "f32", MATRICES, jitted=True)
    close(found, wanted, 5e-3)


def test_lion() -> None:
    """torch has none: the formula of the paper in NumPy."""
    options = {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1}
    found, _ = our_steps("Lion", options, "f64", SHAPES, jitted=True)
    start, gradients = drawn(SHAPES)
    m = [np.zeros_like(x) for x in start]
    for step, grads in enumerate(gradients):
        for i, g in enumerate(grads):
            direction = np.sign(0.8 * m[i] + 0.2 * g)
            start[i] = start[i] - 0.05 * (direction + 0.1 * start[i])
            m[i] = 0.9 * m[i] + 0.1 * g
            np.testing.assert_allclose(found[step][i], start[i], rtol=1e-11)


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adafactor", "NAdam", "Rprop", "ASGD"])
def test_eager_steps_are_the_jitted_ones(name: str) -> None:
    eager, _ = our_steps(name, {}, "f32", SHAPES[:2], jitted=False)
    jitted, _ = our_steps(name, {}, "f32", SHAPES[:2], jitted=True)
    close(eager, jitted, 1e-6)


RESUMED = [*dict(CASES), "Lion", "Muon"]


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    options = {**dict(CASES).get(name, {}), "lr": 0.05}
    half, whole = _model(), _model()
    with_half, with_whole = (getattr(optim, name)(m, **options) for m in (half, whole))
    _train(whole, with_whole, 0, 8)
    _train(half, with_half, 0, 4)
    nn.save_checkpoint(tmp_path / "half.safetensors", half, with_half, step=4)
    resumed = _model()
    optimizer = getattr(optim, name)(resumed, **options)
    nn.load_checkpoint(tmp_path / "half.safetensors", resumed, optimizer)
    _train(resumed, optimizer, 4, 8)
    assert np.asarray(resumed.weight).tobytes() == np.asarray(whole.weight).tobytes()
    again = getattr(optim, name)(resumed, **options)
    again.load_state_dict(optimizer.state_dict())
    for key, value in again.named_state().items():
        np.testing.assert_array_equal(value, optimizer.named_state()[key], err_msg=key)


@pytest.mark.parametrize("name", RESUMED)
def test_16_bit_parameters_have_a_wide_state(name: str) -> None:
    start, gradients = drawn(MATRICES)
    narrow, wide = ([nn.Parameter(x, dtype=d) for x in start] for d in ("bf16", "f32"))
    options = {"lr": 0.02}
    first, second = (getattr(optim, name)(p, **options) for p in (narrow, wide))
    for grads in gradients[:3]:
        for optimizer, dtype in ((first, "bf16"), (second, "f32")):
            optimizer.step([rung.asarray(g, dtype=dtype) for g in grads])
    for p, q in zip(narrow, wide, strict=True):
        assert p.dtype is rung.bfloat16
        np.testing.assert_allclose(np.asarray(p).astype(np.float32), np.asarray(q), atol=0.04)
        kinds = {t.dtype for t in first.state[p].values()}
        assert kinds <= {rung.float32, rung.float64}


def _model() -> nn.Module:
    model = nn.Linear(5, 3, bias=False)
    model.weight.assign(drawn(((3, 5),))[0][0])
    return model


def _train(model: Any, optimizer: optim.Optimizer, start: int, stop: int) -> None:
    for i in range(start, stop):
        x = np.random.default_rng(i).standard_normal((4, 5)).astype(np.float32)
        (model(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_state_of_torch_loads() -> None:
    start, gradients = drawn(SHAPES)
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in start]
    one = torch.optim.Adam(theirs, lr=0.05, amsgrad=True)
    ours = [nn.Parameter(x, dtype="f64") for x in start]
    two = optim.Adam(ours, lr=0.05, amsgrad=True)
    for step, grads in enumerate(gradients[:6]):
        if step == 3:
            two.load_state_dict(one.state_dict())
            for p, q in zip(ours, theirs, strict=True):
                p.assign(q.detach().numpy().copy())
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        one.step()
        if step >= 3:
            two.step([rung.asarray(g) for g in grads])
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(p), q.detach().numpy(), rtol=1e-12)


def test_groups() -> None:
    start, gradients = drawn(SHAPES)
    ours = [nn.Parameter(x, dtype="f64") for x in start]
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in start]
    made: list[Any] = []
    for kind, params in ((optim.RMSprop, ours), (torch.optim.RMSprop, theirs)):
        groups: Any = [
            {"params": params[:1]},
            {"params": params[1:3], "lr": 0.1, "alpha": 0.5, "weight_decay": 0.1},
        ]
        made.append(kind(groups, lr=0.02))
        made[-1].add_param_group({"params": params[3:], "momentum": 0.5, "centered": True})
    for grads in gradients:
        made[0].step([rung.asarray(g) for g in grads])
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        made[1].step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(p), q.detach().numpy(), rtol=1e-11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.RMSprop(p, alpha=-1), "alpha=-1"),
        (lambda p: optim.Adagrad(p, lr_decay=-1), "lr_decay=-1"),
        (lambda p: optim.Adadelta(p, rho=2), "rho=2"),
        (lambda p: optim.Rprop(p, etas=(1.5, 2)), "etas"),
        (lambda p: optim.ASGD(p, weight_decay=-1), "weight_decay=-1"),
        (lambda p: optim.Adafactor(p, d=0.5), r"d=0\.5"),
        (lambda p: optim.Adafactor(p, beta2_decay=0.5), "beta2_decay"),
        (lambda p: optim.Muon(p), "is no matrix"),
        (lambda p: optim.Muon(p, adjust_lr_fn="new"), "adjust_lr_fn"),
        (lambda p: optim.Lion(p, betas=(0.9, 1.0)), r"beta2=1\.0"),
        (lambda p: optim.NAdam(p, momentum_decay=-1), "momentum_decay"),
        (lambda p: optim.RAdam(p, betas=(0.9, 1.0)), "RAdam: betas"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(RungError, match=message):
        make([nn.Parameter([1.0])])
