"""Optimizers against the same formulas in NumPy, eagerly and inside jit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import CheckpointError, GradientError, RungError

Array = np.ndarray[Any, Any]
rng = np.random.default_rng(0)
START = [rng.standard_normal((3, 2)), rng.standard_normal(4)]
GRADS = [[rng.standard_normal(x.shape) for x in START] for _ in range(5)]


def sgd(
    momentum: float = 0, dampening: float = 0, weight_decay: float = 0, nesterov: bool = False
) -> list[Array]:
    found = []
    for i, start in enumerate(START):
        p, velocity = start.copy(), None
        for grads in GRADS:
            g = grads[i] + weight_decay * p
            if momentum:
                if velocity is None:
                    velocity = g
                else:
                    velocity = momentum * velocity + (1 - dampening) * g
                g = g + momentum * velocity if nesterov else velocity
            p = p - 0.1 * g
        found.append(p)
    return found


def adam(decay: float, decoupled: bool, betas: tuple[float, float] = (0.9, 0.999)) -> list[Array]:
    found = []
    for i, start in enumerate(START):
        p, m, v = start.copy(), 0.0, 0.0
        for t, grads in enumerate(GRADS, 1):
            g = grads[i]
            if decoupled:
                p = p * (1 - 0.1 * decay)
            else:
                g = g + decay * p
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g * g
            m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
            p = p - 0.1 * m_hat / (np.sqrt(v_hat) + 1e-8)
        found.append(p)
    return found


CASES: dict[str, tuple[Callable[[Any], optim.Optimizer], list[Array]]] = {
    "sgd": (lambda p: optim.SGD(p, 0.1), sgd()),
    "momentum": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        sgd(momentum=0.9, weight_decay=0.1),
    ),
    "dampening": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.3),
        sgd(momentum=0.9, dampening=0.3),
    ),
    "nesterov": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        sgd(momentum=0.9, nesterov=True),
    ),
    "adam": (lambda p: optim.Adam(p, 0.1, weight_decay=0.2), adam(0.2, decoupled=False)),
    "adamw": (lambda p: optim.AdamW(p, 0.1, weight_decay=0.2), adam(0.2, decoupled=True)),
    "small beta": (
        lambda p: optim.Adam(p, 0.1, betas=(0.3, 0.9)),
        adam(0.0, decoupled=False, betas=(0.3, 0.9)),
    ),
}


def parameters(dtype: str = "f32") -> list[nn.Parameter]:
    return [nn.Parameter(x, dtype=dtype) for x in START]


def run(optimizer: optim.Optimizer, params: list[nn.Parameter], jitted: bool) -> None:
    def step(*grads: Any) -> None:
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        optimizer.zero_grad()

    one = rung.jit(step) if jitted else step
    for grads in GRADS:
        one(*[rung.asarray(g, dtype=p.dtype) for g, p in zip(grads, params, strict=True)])
    if jitted:
        assert one.explain_recompiles() == ["first call"]


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_formula(name: str, jitted: bool) -> None:
    make, wanted = CASES[name]
    params = parameters()
    optimizer = make(params)
    run(optimizer, params, jitted)
    for p, w in zip(params, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(p), w, rtol=1e-5, atol=1e-6)
    assert int(optimizer.step_count) == len(GRADS)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_f64_and_bf16(name: str) -> None:
    make, wanted = CASES[name]
    params = parameters("f64")
    run(make(params), params, jitted=True)
    for p, w in zip(params, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(p), w, rtol=1e-12)
    params = parameters("bf16")
    optimizer = make(params)
    run(optimizer, params, jitted=True)
    for p, w in zip(params, wanted, strict=True):
        assert p.dtype is rung.bfloat16
        np.testing.assert_allclose(np.asarray(p).astype(np.float32), w, atol=0.03)
        assert all(t.dtype is rung.float32 for t in optimizer.state[p].values())


def test_eager_and_jitted_agree_to_the_bit() -> None:
    found = []
    for jitted in (False, True):
        params = parameters()
        run(optim.AdamW(params, 0.1), params, jitted)
        found.append([np.asarray(p).tobytes() for p in params])
    assert found[0] == found[1]


def test_gradients_can_be_given() -> None:
    model = nn.Linear(2, 3)
    other = nn.Linear(2, 3)
    other.load_state_dict(model.state_dict())
    x = rung.asarray(rng.standard_normal((4, 2)).astype(np.float32))

    def loss(m: Any) -> Any:
        return (m(x) ** 2).mean()

    first, second = optim.Adam(model, 0.1), optim.Adam(other, 0.1)
    first.step(rung.grad(loss)(model))
    loss(other).backward()
    second.step()
    np.testing.assert_array_equal(model.weight, other.weight)
    np.testing.assert_array_equal(model.bias, other.bias)


def test_parameters_without_a_gradient_stay() -> None:
    params = parameters()
    optimizer = optim.AdamW(params, 0.1)
    params[0].grad = rung.ones((3, 2))
    optimizer.step()
    assert not np.array_equal(params[0], START[0].astype(np.float32))
    np.testing.assert_array_equal(params[1], START[1].astype(np.float32))
    optimizer.zero_grad()
    with pytest.raises(GradientError, match="no parameter has a gradient"):
        optimizer.step()
    with pytest.raises(GradientError, match="1 gradients for 2 parameters"):
        optimizer.step([rung.ones(4)])


def test_groups_have_their_own_rates() -> None:
    a, b = parameters()
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 1.0, "momentum": 0.5}], 0.1)
    a.grad, b.grad = rung.ones((3, 2)), rung.ones(4)
    optimizer.step()
    np.testing.assert_allclose(a, START[0] - 0.1, rtol=1e-6)
    np.testing.assert_allclose(b, START[1] - 1.0, rtol=1e-6)
    assert "momentum_buffer" not in optimizer.state[a]
    assert "group 1: 1 tensors, 4 elements, momentum=0.5" in repr(optimizer)


def test_rates_change_without_a_new_trace() -> None:
    (p,) = [nn.Parameter([1.0])]
    optimizer = optim.SGD([p], 0.5)

    @rung.jit
    def step() -> None:
        p.grad = rung.ones(1)
        optimizer.step()
        optimizer.zero_grad()

    step()
    assert float(p[0]) == 0.5
    optimizer.lr = 0.25
    step()
    assert float(p[0]) == 0.25
    optimizer.param_groups[0]["lr"] = 0.125
    step()
    assert float(p[0]) == 0.125
    assert step.explain_recompiles() == ["first call"]
    optimizer.lr = optim.Constant(1.0)
    step()
    assert float(p[0]) == -0.875
    assert len(step.explain_recompiles()) == 2
    optimizer.param_groups[0]["weight_decay"] = 1.0
    step()
    assert float(p[0]) == -1.0
    assert "hyperparameters" in step.explain_recompiles()[2]


def test_state_round_trips() -> None:
    first, second = parameters(), parameters()
    one, two = optim.AdamW(first, 0.1), optim.AdamW(second, 0.5)
    run(one, first, jitted=False)
    for p, q in zip(first, second, strict=True):
        q.assign(p)
    two.load_state_dict(one.state_dict())
    run(one, first, jitted=False)
    run(two, second, jitted=False)
    for p, q in zip(first, second, strict=True):
        np.testing.assert_array_equal(p, q)
    assert one.state_dict()["param_groups"][0]["params"] == [0, 1]
    assert sorted(one.state_dict()["state"][0]) == ["exp_avg", "exp_avg_sq", "step"]
    with pytest.raises(CheckpointError, match="missing: exp_avg"):
        one.load_named_state(optim.SGD(parameters(), 0.1).named_state())
    with pytest.raises(CheckpointError, match=r"shape of exp_avg.0: \[2\]"):
        one.load_named_state(one.named_state() | {"exp_avg.0": np.zeros(2)})


def test_names_come_from_the_module() -> None:
    names = optim.SGD(nn.Linear(2, 2), 0.1, momentum=0.9).named_state()
    slots = ["momentum_buffer.weight", "momentum_buffer.bias"]
    assert list(names) == ["step", "lr.0", *slots, "step.weight", "step.bias"]


def test_mistakes() -> None:
    p = nn.Parameter([1.0])
    for make, message in (
        (lambda: optim.SGD([], 0.1), "no parameters"),
        (lambda: optim.SGD([p, p], 0.1), "given twice"),
        (lambda: optim.SGD([1.0], 0.1), "is no float tensor"),
        (lambda: optim.SGD([p], -1.0), "lr=-1.0"),
        (lambda: optim.SGD([p], 0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: optim.SGD([p], 0.1, momentum=-1.0), "must not be negative"),
        (lambda: optim.Adam([p], 0.1, betas=(0.9, 1.0)), "betas"),
        (lambda: optim.AdamW([p], 0.1, eps=-1.0), "must not be negative"),
        (lambda: optim.SGD([{"params": [p], "beta": 1}], 0.1), "a group has beta"),
    ):
        with pytest.raises(RungError, match=message):
            make()


def test_maximize() -> None:
    for make in (optim.SGD, optim.Adam):
        p = nn.Parameter([1.0])
        optimizer = make([p], 0.1, maximize=True)
        p.grad = rung.ones(1)
        optimizer.step()
        assert float(p[0]) == pytest.approx(1.1)


@pytest.mark.parametrize("jitted", [False, True])
def test_clip_grad_norm(jitted: bool) -> None:
    params = parameters()
    total = math.sqrt(sum((g**2).sum() for g in GRADS[0]))
    f = optim.clip_grad_norm_

    def clip(*grads: Any) -> Any:
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        before = f(params, 0.5)
        return before, [p.grad for p in params]

    one = rung.jit(clip) if jitted else clip
    grads = [rung.asarray(g.astype(np.float32)) for g in GRADS[0]]
    before, after = one(*grads)
    assert float(before) == pytest.approx(total, rel=1e-5)
    for g, wanted in zip(after, GRADS[0], strict=True):
        np.testing.assert_allclose(np.asarray(g), wanted * 0.5 / total, rtol=1e-4)
    for p in params:
        p.grad = None
    assert float(f(params, 1.0)) == 0


def test_small_gradients_are_not_clipped() -> None:
    p = nn.Parameter([1.0])
    p.grad = rung.array([0.25])
    assert float(optim.clip_grad_norm_(p, 1.0)) == 0.25
    assert float(p.grad[0]) == 0.25
    optim.clip_grad_value_([p], 0.125)
    assert float(p.grad[0]) == 0.125
    p.grad = rung.array([float("inf")])
    with pytest.raises(GradientError, match="norm of the gradients is inf"):
        optim.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
