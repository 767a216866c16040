"""Training steps: the same bits on one thread and on two; compiled near interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import models, nn, optim
from rung.core.settings import configure, settings
from rung.nn import functional as f
from rung.runtime import pool
from rung.tensor.programs import clear_programs

Array = np.ndarray[Any, Any]
Trained = dict[str, Array]


def mlp() -> tuple[nn.Module, Callable[[Any, Any], Any], tuple[Array, Array]]:
    rng = np.random.default_rng(0)
    model = models.MLP([300, 70, 10], dropout=0.1)
    batch = rng.standard_normal((48, 300)).astype(np.float32), rng.integers(0, 10, 48)
    return model, lambda x, y: f.cross_entropy(model(x), y), batch


def convnet() -> tuple[nn.Module, Callable[[Any, Any], Any], tuple[Array, Array]]:
    rng = np.random.default_rng(0)
    model = models.ConvNet(width=8)
    batch = rng.standard_normal((16, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 16)
    return model, lambda x, y: f.cross_entropy(model(x), y), batch


def gpt() -> tuple[nn.Module, Callable[[Any, Any], Any], tuple[Array, Array]]:
    rng = np.random.default_rng(0)
    model = models.GPT(models.GPTConfig(32, 50, 2, 2, 32, dropout=0.1))
    return model, model.loss, (rng.integers(0, 50, (4, 32)), rng.integers(0, 50, (4, 32)))


MODELS = {"mlp": mlp, "convnet": convnet, "gpt": gpt}


def train(name: str, num_steps: int) -> Trained:
    """The losses, and every parameter, buffer and moment after `num_steps` steps."""
    rung.manual_seed(0)
    model, loss_of, batch = MODELS[name]()
    optimizer = optim.AdamW(model, lr=3e-3, weight_decay=0.1)

    @rung.jit
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optim.clip_grad_norm_(model, 1.0)
        optimizer.step()
        return loss

    x, y = map(rung.asarray, batch)
    losses = np.array([float(step(x, y)) for _ in range(num_steps)])
    state = model.state_dict() | optimizer.named_state()
    return {"losses": losses, **{n: np.array(t) for n, t in state.items()}}


@pytest.fixture
def on_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; afterwards it is as before."""
    before = pool.pool().threads
    yield pool.set_threads
    pool.set_threads(before)


@pytest.mark.parametrize("name", MODELS)
def test_results_do_not_depend_on_threads(name: str, on_threads: Callable[[int], None]) -> None:
    found = []
    for threads in (1, 2, 3):
        on_threads(threads)
        found.append(train(name, 3))
    one = found[0]
    assert np.isfinite(one["losses"]).all()
    assert len(set(one["losses"])) == 3, "it learns"
    for other in found[1:]:
        assert one.keys() == other.keys()
        for key, array in one.items():
            assert array.tobytes() == other[key].tobytes(), key


@pytest.mark.parametrize("name", MODELS)
def test_compiled_trains_as_interpreted(name: str) -> None:
    """Twenty steps. The losses are some 1e-6 apart: rounding, trained on."""
    compiled = train(name, 20)
    before = settings().interpret
    clear_programs()
    configure(interpret=True)
    try:
        interpreted = train(name, 20)
    finally:
        configure(interpret=before)
        clear_programs()
    assert not settings().interpret
    assert compiled["losses"][-1] < compiled["losses"][0]
    np.testing.assert_allclose(compiled["losses"], interpreted["losses"], rtol=2e-5)
    assert np.abs(compiled["losses"][:3] / interpreted["losses"][:3] - 1).max() < 1e-6
