"""L-BFGS beside that of torch, its state, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import CheckpointError, RungError

torch = pytest.importorskip("torch")
START = np.array([-1.2, 1.0, 0.5, -0.7, 1.5, 0.2])

CASES: list[dict[str, Any]] = [
    {"lr": 0.001},
    {"lr": 0.002, "history_size": 3, "max_iter": 5},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "lr": 0.1, "max_iter": 7, "history_size": 2},
    {"line_search_fn": "strong_wolfe", "max_eval": 3},
    {"line_search_fn": "strong_wolfe", "lr": 100.0, "tolerance_grad": 1e-3},
]


def valley(x: Any, y: Any) -> Any:
    """Rosenbrock's function of [x, y]: both packages have these operators."""
    return (
        (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        + (100 * (y - x[-1] ** 2) ** 2 + (1 - x[-1]) ** 2).sum()
    )


def closure_of(params: list[Any], optimizer: Any) -> Any:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = valley(*params)
        loss.backward()
        return loss

    return closure


def ours(dtype: str, options: dict[str, Any]) -> tuple[list[Any], optim.LBFGS]:
    params = [nn.Parameter(START[:5], dtype=dtype), nn.Parameter(START[5:], dtype=dtype)]
    return params, optim.LBFGS(params, **options)


def theirs(options: dict[str, Any]) -> tuple[list[Any], Any]:
    params = [torch.nn.Parameter(torch.tensor(x)) for x in (START[:5], START[5:])]
    return params, torch.optim.LBFGS(params, **options)


@pytest.mark.parametrize("options", CASES)
def test_steps(options: dict[str, Any]) -> None:
    (a, one), (b, two) = ours("f64", options), theirs(options)
    for _ in range(4):
        found, wanted = one.step(closure_of(a, one)), two.step(closure_of(b, two))
        assert float(found) == pytest.approx(wanted.item(), rel=1e-4, abs=1e-9)
        for p, q in zip(a, b, strict=True):
            np.testing.assert_allclose(np.asarray(p), q.detach().numpy(), rtol=1e-5, atol=1e-7)
    state = two.state[b[0]]
    assert (one.memory.n_iter, one.memory.func_evals) == (state["n_iter"], state["func_evals"])


def test_f32_finds_the_minimum() -> None:
    params, optimizer = ours("f32", {"line_search_fn": "strong_wolfe", "max_iter": 100})
    for _ in range(3):
        optimizer.step(closure_of(params, optimizer))
    for p in params:
        np.testing.assert_allclose(np.asarray(p), np.ones(p.shape), atol=1e-2)
        assert p.dtype is rung.float32


class Valley(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(START[:5], dtype="f64")
        self.y = nn.Parameter(START[5:], dtype="f64")


def steps(model: Valley, optimizer: optim.LBFGS, count: int) -> None:
    for _ in range(count):
        optimizer.step(closure_of([model.x, model.y], optimizer))


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_iter": 4, "line_search_fn": "strong_wolfe"}
    whole, half, resumed, again = (Valley() for _ in range(4))
    steps(whole, optim.LBFGS(whole, **options), 4)
    first = optim.LBFGS(half, **options)
    steps(half, first, 2)
    nn.save_checkpoint(tmp_path / "half.safetensors", half, first)
    second = optim.LBFGS(resumed, **options)
    nn.load_checkpoint(tmp_path / "half.safetensors", resumed, second)
    third = optim.LBFGS(again, **options)
    again.load_state_dict(half.state_dict())
    third.load_state_dict(first.state_dict())
    for model, optimizer in ((resumed, second), (again, third)):
        steps(model, optimizer, 2)
        assert np.asarray(model.x).tobytes() == np.asarray(whole.x).tobytes()
        assert np.asarray(model.y).tobytes() == np.asarray(whole.y).tobytes()


def test_the_state_of_torch_loads() -> None:
    options: dict[str, Any] = {"max_iter": 4, "line_search_fn": "strong_wolfe"}
    (a, one), (b, two) = ours("f64", options), theirs(options)
    two.step(closure_of(b, two))
    one.load_state_dict(two.state_dict())
    for p, q in zip(a, b, strict=True):
        p.assign(q.detach().numpy().copy())
    one.step(closure_of(a, one))
    two.step(closure_of(b, two))
    for p, q in zip(a, b, strict=True):
        np.testing.assert_allclose(np.asarray(p), q.detach().numpy(), rtol=1e-6)


def test_mistakes() -> None:
    p, q = nn.Parameter([1.0]), nn.Parameter([1.0, 2.0])
    with pytest.raises(RungError, match="line_search_fn='armijo'"):
        optim.LBFGS([p], line_search_fn="armijo")
    with pytest.raises(RungError, match="one group"):
        optim.LBFGS([{"params": [p]}, {"params": [q]}])
    optimizer = optim.LBFGS([p])
    with pytest.raises(CheckpointError, match=r"shape of d: \[2\] for 1"):
        optimizer.load_named_state(optim.LBFGS([q]).named_state())
    with pytest.raises(CheckpointError, match="missing: func_evals"):
        optimizer.load_named_state(optim.SGD([p]).named_state())
