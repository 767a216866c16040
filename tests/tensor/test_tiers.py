"""Programs without jit: op by op at first, fused when they have come often."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import AllocationError, IndexingError, LoweringError, RungError
from rung.core.settings import configure
from rung.ops.creation import array
from rung.runtime.background import BackgroundCompile, State
from rung.tensor import programs, tiers
from rung.tensor.programs import clear_programs, num_compiled
from rung.tensor.state import new_tensor

HERE = Path(__file__)


@pytest.fixture(autouse=True)
def automatic() -> Iterator[None]:
    configure(tier="auto")
    clear_programs()
    yield
    configure(tier="fused")
    clear_programs()


def step(x: Any, w: Any) -> Any:
    return rung.tanh(x @ w).sum(0)


X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
WANTED = np.tanh(X @ W).sum(0)


def take_over_at(monkeypatch: pytest.MonkeyPatch, wait: int) -> None:
    monkeypatch.setattr(tiers, "_looks_to_wait", lambda linear: wait)


def test_nothing_is_compiled_before_a_program_has_come_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_over_at(monkeypatch, 4)
    x, w = rung.asarray(X), rung.asarray(W)
    before, counts = num_compiled(), []
    for _ in range(tiers.START + 6):
        np.testing.assert_allclose(step(x, w).numpy(), WANTED, rtol=1e-5)
        counts.append(num_compiled() - before)
    assert counts == [0] * (tiers.START + 3) + [1] * 3
    assert "3 ops have come 3 times, and are fused from time 7 on" in rung.recompiles()[-1]
    assert HERE.name in rung.recompiles()[-1]


@pytest.mark.parametrize(("tier", "compiled"), [("eager", 0), ("fused", 1)])
def test_a_tier_can_be_forced(tier: str, compiled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take_over_at(monkeypatch, 1)
    configure(tier=tier)
    x, w = rung.asarray(X), rung.asarray(W)
    before = num_compiled()
    for _ in range(8):
        np.testing.assert_allclose(step(x, w).numpy(), WANTED, rtol=1e-5)
    assert num_compiled() - before == compiled


def test_a_structure_that_comes_once_leaves_nothing_behind() -> None:
    for n in range(1, 200):
        assert (rung.ones(n) + rung.ones(n)).sum().item() == 2 * n
    assert not programs._families


def test_constants_that_change_do_not_keep_a_program_from_being_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_over_at(monkeypatch, 3)
    x = rung.asarray(X)
    before = num_compiled()
    for i in range(20):
        np.testing.assert_allclose((x * (i + 0.5)).numpy(), X * np.float32(i + 0.5))
    assert num_compiled() - before == 1


def test_loops_are_fused_at_once() -> None:
    before = num_compiled()
    last, _ = rung.scan(lambda c, x: (c * 2 + x, c), rung.zeros(()), rung.arange(5.0))
    assert last.item() == 26
    assert num_compiled() > before


SCRIPT = """
import sys
import numpy as np
import rung
from rung import nn, optim
from rung.tensor.programs import num_compiled

rung.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = optim.Adam(model.parameters(), lr=0.05)
x = rung.asarray(np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32))
y = x.sum(1, keepdims=True)
for _ in range(60):
    loss = ((model(x) - y) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item().hex())
    for p in model.parameters():
        print(p.numpy().tobytes().hex())
print(num_compiled(), file=sys.stderr)
"""


def test_two_runs_of_a_script_give_the_same_bits(tmp_path: Path) -> None:
    """From an empty cache, from a full one, and beside other work."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("import rung\n", "import rung\n" + HURRY, 1))
    outputs, compiled = [], []
    for threads in ("1", "1", "2"):
        environment = {**os.environ, "RUNG_CACHE_DIR": str(tmp_path / "cache"), "RUNG_TIER": "auto"}
        environment["OPENBLAS_NUM_THREADS"] = threads
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout)
        compiled.append(int(done.stderr.split()[-1]))
    assert compiled[0] == compiled[1] == compiled[2] >= 1
    assert outputs[0] == outputs[1]


HURRY = "from rung.tensor import tiers\ntiers._looks_to_wait = lambda linear: 20\n"


def gather(x: Any, i: Any) -> Any:
    return rung.take(x, i, axis=0) * 2


@pytest.mark.parametrize("tier", ["eager", "fused"])
def test_both_tiers_refuse_the_same(tier: str) -> None:
    configure(tier=tier)
    x = rung.asarray(X)
    with pytest.raises(IndexingError) as caught:
        gather(x, rung.tensor([0, 6]) + 1).numpy()
    assert caught.value.source is not None
    assert caught.value.source.text == "return rung.take(x, i, axis=0) * 2"
    with pytest.raises(IndexingError):
        gather(x, rung.tensor([0, 6]) + 1).numpy()
    np.testing.assert_array_equal(gather(x, rung.tensor([0, 2]) + 1).numpy(), X[[1, 3]] * 2)


@pytest.mark.parametrize("tier", ["eager", "fused"])
def test_an_update_that_fails_leaves_what_was(tier: str) -> None:
    configure(tier=tier)
    x = rung.asarray(X.copy())
    x += 1
    x.numpy()
    x += gather(x, rung.tensor([0, 1, 2, 8]) + rung.tensor([0, 0, 0, 1]))
    with pytest.raises(IndexingError):
        x.numpy()
    np.testing.assert_array_equal(x.numpy(), X + 1)


def test_memory_that_runs_out_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tier="eager")
    x = rung.asarray(X.copy())
    x += 1
    y = rung.tanh(x) + 1
    plan = tiers.EagerPlan
    monkeypatch.setattr(plan, "__init__", _failing(plan.__init__))
    with pytest.raises(AllocationError) as caught:
        y.numpy()
    assert caught.value.source is not None
    assert caught.value.source.text == "y = rung.tanh(x) + 1"
    monkeypatch.undo()
    np.testing.assert_array_equal(x.numpy(), X + 1)
    np.testing.assert_allclose(y.numpy(), np.tanh(X + 1) + 1, rtol=1e-6)


def _failing(made: Any) -> Any:
    def init(plan: Any, *args: Any) -> None:
        made(plan, *args)
        kind, _, at, to, dead = plan._rows[-1]
        plan._rows[-1] = (kind, _no_memory, at, to, dead)

    return init


def _no_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError("no memory for 2.0 GB")


def test_a_program_that_cannot_be_compiled_goes_on_op_by_op(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_over_at(monkeypatch, 2)

    def failed(graph: Any, aliases: Any) -> BackgroundCompile:
        job = object.__new__(BackgroundCompile)
        job.state, job.error = State.FAILED, LoweringError("the compiler died")
        job._copy = None
        return job

    monkeypatch.setattr(programs, "compiled_beside", failed)
    x, w = rung.asarray(X), rung.asarray(W)
    before = num_compiled()
    for _ in range(10):
        np.testing.assert_allclose(step(x, w).numpy(), WANTED, rtol=1e-5)
    assert num_compiled() == before
    assert "not fused" in rung.recompiles()[-1]
    assert "the compiler died" in rung.recompiles()[-1]


def test_what_is_computed_op_by_op_has_memory_of_its_own() -> None:
    """Results that are views of operands, or of each other, are no longer so in tensors."""
    configure(tier="eager")
    x = rung.asarray(X.copy())
    same, turned, part = x.reshape(8, 4), x.T, x[1:3]
    twice = turned.reshape(-1)
    rung.stack([same.sum(), part.sum(), twice.sum()]).numpy()
    x += 5
    x.numpy()
    np.testing.assert_array_equal(same.numpy(), X.reshape(8, 4))
    np.testing.assert_array_equal(turned.numpy(), X.T)
    np.testing.assert_array_equal(part.numpy(), X[1:3])
    same += 1
    same.numpy()
    np.testing.assert_array_equal(turned.numpy(), X.T)
    np.testing.assert_array_equal(twice.numpy(), X.T.reshape(-1))


def test_wrong_programs_fail_alike() -> None:
    for tier in ("eager", "fused"):
        configure(tier=tier)
        with pytest.raises(RungError):
            rung.linalg.solve(rung.zeros((2, 2)), rung.ones(2)).numpy()


def test_a_constant_array_that_is_a_result_has_memory_of_its_own() -> None:
    """What a user writes there does not change the constant."""
    configure(tier="eager")

    def made() -> rung.Tensor:
        return new_tensor(array(np.arange(3.0)))

    first = made()
    rung.evaluate(first)
    np.from_dlpack(first)[0] = 9.0
    assert np.asarray(made()).tolist() == [0.0, 1.0, 2.0]


def test_state_is_updated_in_place_once_a_program_is_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the result of the step keeps its graph."""
    take_over_at(monkeypatch, 2)
    w = rung.tensor(W, requires_grad=True)
    total = rung.zeros((8, 3))
    total.numpy()
    places: list[int] = []
    for _ in range(12):
        loss = (w * w).sum()
        total += w.detach() * 2
        loss.item()
        places.append(total._buffer.pointer)
    assert num_compiled() > 0
    assert places[-1] == places[-2] == places[-3]
