"""Ctrl-C, signal handlers that compute, forks, threads: state is that before or that after, and
everything goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rung
from rung.core.settings import configure
from rung.core.source import module_paths
from rung.ir.node import sources
from rung.runtime import breath, executable
from rung.runtime.pool import pool
from rung.tensor import executor, pending
from rung.tensor.programs import Runnable
from rung.tensor.state import state
from tests.generate import interruptions
from tests.generate.interruptions import PROGRAMS, Countdown, Program, throwing, values, watched

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""What is thrown into a callback of a weak reference is told on stderr and goes no further."""
BY_NAME = {p.name: p for p in PROGRAMS}


@pytest.fixture(params=["interpreted", "compiled"])
def way(request: pytest.FixtureRequest) -> Any:
    """How graphs are run."""
    configure(interpret=request.param == "interpreted")
    yield request.param
    configure(interpret=False)


def interrupted(program: Program, at: int) -> list[str]:
    """Ctrl-C at one event of a step; what is wrong then."""
    state = program.make()
    before = values(state)
    try:
        with watched(Countdown(at, throwing(KeyboardInterrupt)), lines=False):
            program.step(state)
    except KeyboardInterrupt:
        pass
    after = {**before, **program.after(before)}
    return interruptions.wrong_groups(program, values(state), [before, after])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["jit", "held", "optimizer", "lazy"])
def test_ctrl_c_at_any_moment_never_updates_twice_or_half(name: str) -> None:
    """`x += 1; x.realize()` interrupted was run again by the next look, over the new value."""
    program = BY_NAME[name]
    events = interruptions.events_of(program, lines=False)
    first = max(1, events - 200)  # where it runs
    for at in (*range(1, first, 37), *range(first, events + 1)):
        assert not interrupted(program, at), at


def test_a_signal_handler_that_computes_while_a_step_runs() -> None:
    """It waited for the lock that the step which it interrupts holds."""
    x, seen = interruptions.filled(0, 50_000), list[float]()
    own = interruptions.filled(0)

    def ring(*_: object) -> None:
        own.assign(own + 1)
        seen.append(float(own.sum()))
        seen.append(float((x * 0).sum()))
        signal.setitimer(signal.ITIMER_REAL, 0.002)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        for _ in range(300):
            x += 1
            x.realize()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert float(x[0]) == float(x[-1]) == 300
    assert seen[::2] == [5.0 * (i + 1) for i in range(len(seen) // 2)]
    assert not any(seen[1::2])


def test_nothing_of_python_runs_within_a_breath_after_a_signal_handler_that_computes() -> None:
    """It had computed what was about to be computed once more: the buffer that it gave died within
    the breath, and a signal that came then found the evaluation half done."""
    x, within = interruptions.filled(0, 50_000), list[str]()

    def step() -> None:
        x.add_(1)
        x.realize()

    def count_down(at: int) -> int:
        """A step with a handler that looks at x at one event; the events of the step."""
        left = at

        def profile(frame: Any, event: str, argument: Any) -> None:
            nonlocal left
            outer = frame.f_back
            if event == "call" and outer and outer.f_code is breath.in_one_breath.__code__:
                within.append(frame.f_code.co_name)
            left -= 1
            if left == 0:
                float((x * 0).sum())

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            step()
        finally:
            sys.setprofile(before)
        return at - left

    for _ in range(3):
        step()
    float((x * 0).sum())
    events = count_down(-1)
    for at in range(1, events + 1):
        count_down(at)
        assert not within, at
    assert float(x[0]) == float(x[-1]) == 4 + events


def test_a_signal_handler_that_computes_within_a_loop_and_a_host_op() -> None:
    """Programs that it runs leave the memory of the script alone that is underway."""

    @rung.jit
    def work(x: Any) -> Any:
        x = rung.fori_loop(0, 300, lambda i, x: rung.sin(x) @ x * 0.01 + 1, x)
        return rung.linalg.inv(x @ x.T + rung.eye(40) * 40)

    x = rung.asarray(np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32))
    wanted, rings = np.asarray(work(x)), 0

    def ring(*_: object) -> None:
        nonlocal rings
        rings += 1
        assert_allclose(work(x), wanted, rtol=1e-5)
        assert (rung.ones(999) * 3).sum().item() == 2997
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert_allclose(work(x), wanted, rtol=1e-5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rings > 2


@pytest.mark.parametrize("kind", ["script", "state", "checked", "plain"])
def test_signal_handlers_that_move_memory_at_any_moment(kind: str) -> None:
    """What a program is bound to, arena, scratch, workers, is asked for in the breath of its run:
    between a look at the binding and the run, a handler may have let go of all of it."""
    x = rung.asarray(np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32))
    count = interruptions.filled(0, 1)
    rows = rung.asarray([3, 1])

    def advance(x: Any) -> Any:
        count.assign(count + 1)
        return rung.softmax(x @ x, axis=1) @ x

    programs: dict[str, Any] = {
        "script": lambda x: rung.linalg.inv(
            rung.fori_loop(0, 3, lambda i, x: rung.sin(x) @ x * 0.01 + 1, x) + rung.eye(40) * 40
        ),
        "state": advance,
        "checked": lambda x, rows: rung.softmax(x @ x, axis=1)[rows] @ x,
        "plain": lambda x: rung.softmax(x @ x, axis=1) @ x,
    }
    work = rung.jit(programs[kind])
    arguments = (x, rows) if kind == "checked" else (x,)
    larger = rung.jit(lambda x: rung.softmax(x @ x.T, axis=1) @ x @ x.T)
    big = rung.ones((200, 30))
    wanted, wanted_big = np.asarray(work(*arguments)), np.asarray(larger(big))

    def move() -> None:
        assert_allclose(larger(big), wanted_big, rtol=1e-5)
        assert_allclose(work(*arguments), wanted, rtol=1e-5)
        pool().release()

    counted = Countdown(-1, move)
    with watched(counted, lines=False):
        work(*arguments)
    pool().release()
    for at in range(1, counted.seen + 20):
        with watched(Countdown(at, move), lines=False):
            found = work(*arguments)
        assert_allclose(found, wanted, rtol=1e-5, err_msg=f"event {at}")


@pytest.mark.usefixtures("way")
def test_a_signal_handler_keeps_what_the_same_program_gives() -> None:
    """Its result gets a buffer of its own, also where one has just been found free: between any two
    instructions of the search."""
    double = rung.jit(lambda x: x * 2)
    x, other = interruptions.filled(1), interruptions.filled(5)
    double(x)
    kept: list[Any] = []
    left = at = 0

    def step(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = frame.f_code is Runnable.output_buffer.__code__
        left -= event == "opcode"
        if event == "opcode" and not left:
            kept.append(double(other))
        return step

    while not left:
        at += 1
        left = at
        before = sys.gettrace()
        sys.settrace(step)
        try:
            found = double(x)
        finally:
            sys.settrace(before)
        left = max(left, 0)
        assert np.asarray(found).tolist() == [2.0] * 5, at
        assert all(np.asarray(k).tolist() == [10.0] * 5 for k in kept), at
        kept.clear()
    assert at > 20


def test_ctrl_c_at_any_moment_leaves_no_function_open() -> None:
    """A thread that is out of a loop, a branch or `vmap` is not taken to be in it, and tensors from
    outside are what they were; whoever holds the exception does not matter."""
    total, ones = interruptions.filled(0), interruptions.filled(1)

    def body(x: Any) -> Any:
        total.add_(x)
        return rung.cond(x.sum() > 0, lambda x: x * 2, lambda x: x, x)

    class Twice(rung.nn.Module):
        def forward(self, x: Any) -> Any:
            return rung.grad(lambda x: (x * x).sum())(x)

    twice = Twice()

    def step() -> None:
        twice(ones)
        rung.fori_loop(0, 2, lambda i, x: body(x), ones)
        rung.vmap(lambda x: rung.while_loop(lambda c: c.sum() < 5, lambda c: c + 1, x))(total)

    configure(interpret=True)
    counted = Countdown(-1, lambda: None)
    with watched(counted, lines=False):
        step()
    held: list[BaseException] = []
    for at in range(1, counted.seen, 3):
        total.fill_(0).realize()
        try:
            with watched(Countdown(at, throwing(KeyboardInterrupt)), lines=False):
                step()
        except KeyboardInterrupt as e:
            held.append(e)
        assert (state.frames, state.mapping, state.checks) == ((), 0, []), at
        assert not sources() and not module_paths(), at
        assert np.asarray(total).shape == (5,), at
    configure(interpret=False)
    assert len(held) > 100


def test_children_of_a_fork_while_another_thread_computes() -> None:
    """The child has no such thread, and had its locks."""
    stop = threading.Event()

    def compute() -> None:
        x = interruptions.filled(1, 20_000)
        while not stop.is_set():
            x.assign(rung.sin(x) + 1)
            x.realize()

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                try:
                    signal.alarm(20)
                    os._exit(float((rung.ones(30_000) * 2).sum()) != 60_000)
                finally:
                    os._exit(9)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_a_fork_within_a_signal_handler() -> None:
    """Parent and child both go on from where they were interrupted."""
    ends: list[int] = []

    def ring(*_: object) -> None:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(float((rung.ones(3000) * 2).sum()) != 6000)
        ends.append(os.waitpid(child, 0)[1])
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    x = interruptions.filled(0, 50_000)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.003)
    try:
        for _ in range(200):
            x += 1
            x.realize()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert float(x[0]) == 200
    assert not any(ends)


def test_a_second_ctrl_c_leaves_a_loop_whole() -> None:
    """State that a long loop writes over is never half new."""
    a, b = interruptions.filled(0, 2000), interruptions.filled(0, 2000)

    @rung.jit
    def work() -> None:
        a.assign(rung.fori_loop(0, 40_000, lambda i, x: x + 1, a * 1))
        b.assign(b + 1)

    work()
    main = threading.get_ident()
    stop = threading.Event()

    def press() -> None:
        while not stop.wait(0.03):
            signal.pthread_kill(main, signal.SIGINT)

    before, count = np.asarray(a), float(b[0])
    thread = threading.Thread(target=press)
    thread.start()
    while thread.is_alive():
        try:
            work()
        except KeyboardInterrupt:
            stop.set()
            break
    while thread.is_alive():
        with contextlib.suppress(KeyboardInterrupt):
            thread.join()
    done = float(b[0]) - count
    np.testing.assert_array_equal(np.asarray(a), before + 40_000 * done)


def test_the_interpreter_ends_while_a_thread_computes() -> None:
    """Without a crash, and without waiting for the thread."""
    program = (
        "import threading, rung, time\n"
        "def work():\n"
        "    x = rung.ones(100000)\n"
        "    while True:\n"
        "        x = (rung.sin(x) + 1).realize()\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_the_generator_finds_what_is_done_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the changes of a run are made by Python code, exceptions come between them."""

    def slowly(steps: Iterable[tuple[Any, ...]]) -> None:
        for function, *arguments in steps:
            function(*arguments)

    for module in (executable, executor, pending, breath):
        monkeypatch.setattr(module, "in_one_breath", slowly)
    monkeypatch.setattr(slowly, "__code__", _of_the_package(slowly))
    program = BY_NAME["jit"]
    configure(interpret=True)
    try:
        events = interruptions.events_of(program, lines=False) + 40
        assert any(interrupted(program, at) for at in range(1, events))
    finally:
        configure(interpret=False)


def _of_the_package(function: Any) -> Any:
    name = os.path.join(interruptions.PACKAGE, "slowly.py")
    return function.__code__.replace(co_filename=name)
