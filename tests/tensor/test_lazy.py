"""When graphs are run: laziness, the program cache, lifted constants, state, memory."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import RungError
from rung.core.settings import configure
from rung.tensor import executor, programs
from rung.tensor.pending import waiting


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[executor.InterpretedGraph]:
    """The graphs for which a program is made."""
    programs.clear_programs()
    rung.evaluate()
    made: list[executor.InterpretedGraph] = []
    init = executor.InterpretedGraph.__init__

    def record(self: executor.InterpretedGraph, graph: rung.ir.node.Graph) -> None:
        init(self, graph)
        made.append(self)

    monkeypatch.setattr(executor.InterpretedGraph, "__init__", record)
    return made


def test_nothing_is_run_before_a_look(compiled: list[object]) -> None:
    x = rung.ones(3) + 1
    y = x * 2
    assert not compiled
    assert y.tolist() == [4, 4, 4]
    assert len(compiled) == 1
    assert x.tolist() == [2, 2, 2]
    assert len(compiled) == 1, "x was alive, so the first look has computed it too"


def test_what_nobody_holds_is_not_computed(compiled: list[executor.InterpretedGraph]) -> None:
    x = rung.tensor([1.0, 2.0])
    rung.exp(x)
    y = x + 1
    y.realize()
    assert "exp" not in {n.op.name for n in compiled[0].graph.nodes}


def test_one_program_for_one_structure(compiled: list[object]) -> None:
    for i in range(5):
        x = rung.tensor(np.full((2, 2), i, np.float32))
        assert ((x + x) * x).sum().item() == 8 * i * i
    assert len(compiled) == 1
    y = rung.tensor(np.ones((2, 3), np.float32))
    ((y + y) * y).sum().item()
    assert len(compiled) == 2


def test_a_constant_that_varies_becomes_an_input(compiled: list[object]) -> None:
    x = rung.tensor([1.0, 2.0])
    for i in range(20):
        y = x * (0.1 * i) + 7.0
        np.testing.assert_allclose(y.numpy(), np.array([1, 2]) * 0.1 * i + 7, 1e-6)
    assert len(compiled) == programs.LIFT_AFTER
    z = x * 3.0 + 2.0
    assert z.tolist() == [5, 8]


def test_equal_constants_do_not_change_the_structure(compiled: list[object]) -> None:
    x = rung.tensor([1.0, 2.0])
    for i in range(12):
        y = x * (0.5 * i) + 2.0 + (x - 3.0) * 1.5
        expected = np.array([1, 2]) * 0.5 * i + 2 + np.array([-2, -1]) * 1.5
        np.testing.assert_allclose(y.numpy(), expected, 1e-6)
    assert len(compiled) == programs.LIFT_AFTER


def test_a_loop_of_updates_of_elements_compiles_few_programs(compiled: list[object]) -> None:
    x = rung.zeros(50)
    for i in range(50):
        x[i] = i
    np.testing.assert_array_equal(x.numpy(), np.arange(50))
    assert len(compiled) <= programs.LIFT_AFTER + 2


def test_memory_of_lifted_constants_lasts_as_long_as_the_run() -> None:
    for n in (3, 9):
        for k in range(-n, n + 1):
            assert rung.eye(n, k=k).tolist() == np.eye(n, k=k).tolist()


def test_updates_run_one_iteration_at_a_time(compiled: list[executor.InterpretedGraph]) -> None:
    p = rung.ones(4)
    q = rung.ones(4)
    for _ in range(50):
        step = p * 0.5 + q
        p += step
        q -= step * 0.1
    p.realize()
    sizes = [len(made.graph.nodes) for made in compiled]
    assert len(sizes) <= 4
    assert max(sizes) < 40, "a graph holds one turn of the loop"


def test_a_loop_without_any_look_does_not_grow_for_ever(
    compiled: list[executor.InterpretedGraph],
) -> None:
    x = rung.tensor([1.0])
    for _ in range(3000):
        x = x * 0.999
    assert x.item() == pytest.approx(0.999**3000, rel=1e-4)
    assert 2 <= len(compiled) <= 4


def test_pending_state_runs_with_the_next_look() -> None:
    p = rung.tensor([1.0, 2.0])
    p += 1
    other = rung.ones(2) * 3
    other.realize()
    assert p._buffer is not None


def test_in_place_updates_keep_the_buffer_when_nobody_else_holds_it() -> None:
    p = rung.ones((64, 64)) * 1
    p.realize()
    where = p._buffer.pointer
    for _ in range(3):
        p += 1
        p.realize()
    assert p._buffer.pointer == where
    seen = p.numpy()
    p += 1
    assert p.numpy()[0, 0] == 5
    assert p._buffer.pointer != where
    assert seen[0, 0] == 4
    keep = p.clone()
    p += 1
    assert (p.numpy()[0, 0], keep.numpy()[0, 0]) == (6, 5)


def test_old_values_survive_updates() -> None:
    p = rung.tensor([1.0])
    before = p * 10
    p += 1
    after = p * 10
    assert (before.item(), after.item()) == (10, 20)


def test_buffers_are_freed_without_the_cycle_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        x = rung.tensor(np.ones(1000, np.float32))
        y = (x * 2 + 1).exp()
        y.realize()
        buffer = weakref.ref(x._buffer)
        del x
        assert buffer() is None
    finally:
        gc.enable()


def test_a_failed_run_leaves_everything_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rung.tensor([1.0, 2.0])
    y = x + 1
    z = y * 2

    def broken(self: object, *given: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(executor.InterpretedGraph, "run", broken)
        with pytest.raises(RuntimeError, match="out of order"):
            z.numpy()
    assert z.tolist() == [4, 6]
    assert y.tolist() == [2, 3]


def test_a_pending_tensor_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = executor.InterpretedGraph.run

    def no_sine(self: executor.InterpretedGraph, *pointers: list[int]) -> None:
        if any(n.op.name == "sin" for n in self.graph.nodes):
            raise RuntimeError("no sine today")
        run(self, *pointers)

    monkeypatch.setattr(executor.InterpretedGraph, "run", no_sine)
    x = rung.tensor([1.0, 2.0])
    bad = x.sin()
    good = x + 1
    assert good.tolist() == [2, 3]
    with pytest.raises(RuntimeError, match="no sine"):
        bad.numpy()
    del bad


def test_equal_pending_tensors_share_a_buffer_but_not_updates() -> None:
    a, b = (rung.zeros(3) for _ in range(2))
    a += 1
    assert a.tolist() == [1, 1, 1]
    assert b.tolist() == [0, 0, 0]


def test_aliased_outputs() -> None:
    p, q = rung.tensor([1.0, 2.0]), rung.tensor([3.0, 4.0])
    p.realize(), q.realize()
    total = p + q
    p.assign(q)
    q.assign(total)
    assert (p.tolist(), q.tolist()) == ([3, 4], [4, 6])
    q.assign(p)
    p += 1
    assert (p.tolist(), q.tolist()) == ([4, 5], [3, 4])


def test_threads() -> None:
    errors: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for i in range(30):
                x = rung.tensor(np.full(5, seed + i, np.float32))
                y = (x * 2 + 1).sum()
                assert y.item() == 5 * (2 * (seed + i) + 1)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_waiting_tensors_are_held_weakly() -> None:
    rung.evaluate()
    x = rung.ones(3) + 1
    assert [t is x for t in waiting()] == [True]
    del x
    assert not waiting()


def test_empty_and_scalar_tensors() -> None:
    assert (rung.zeros((0, 3)) + 1).shape == (0, 3)
    assert (rung.zeros((0, 3)) + 1).sum().item() == 0
    assert rung.zeros((0, 3)).tolist() == []
    assert (rung.tensor(2.0) * 3).item() == 6


def test_a_donated_tensor_is_gone() -> None:
    @rung.jit(donate=0)
    def double(x: rung.Tensor) -> rung.Tensor:
        return x * 2

    x = rung.ones(3) + 0
    assert double(x).tolist() == [2, 2, 2]
    with pytest.raises(RungError, match="it was donated to double"):
        x.numpy()


def test_programs_do_not_keep_constants_alive() -> None:
    for _ in range(2):
        x = rung.full((200, 200), 3) * 1
        x.realize()
        buffer = weakref.ref(x._buffer)
        del x
        assert buffer() is None


class _Held(list[Any]):
    """A list that can be watched."""


def test_lifted_constants_live_until_the_program_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run allocates must not lie where its own inputs are."""
    made, alive = [], []
    buffers, run = programs.Runnable.scalar_buffers, executor.InterpretedGraph.run

    def watched(self: programs.Runnable, values: Any) -> Any:
        found = _Held(buffers(self, values))
        made.append(weakref.ref(found))
        return found

    def running(self: executor.InterpretedGraph, *given: Any) -> None:
        alive.append(made[-1]() is not None)
        run(self, *given)

    monkeypatch.setattr(programs.Runnable, "scalar_buffers", watched)
    monkeypatch.setattr(executor.InterpretedGraph, "run", running)
    configure(interpret=True)
    try:
        for n in range(programs.LIFT_AFTER + 2):
            found = rung.sin(rung.asarray([4.8, 7.5])) * (0.5 + n)
            np.testing.assert_allclose(found.numpy(), np.sin([4.8, 7.5]) * (0.5 + n), 1e-6)
    finally:
        configure(interpret=False)
    assert len(alive) == programs.LIFT_AFTER + 2
    assert all(alive)
