"""Compilation beside the program: warm afterwards, and nothing that happens to the copy matters."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rung.core.errors import LoweringError, ShapeError
from rung.core.settings import configure, settings
from rung.ir.node import Graph
from rung.ir.parse import parse_graph
from rung.ir.passes import run_passes
from rung.kernel.machine import host_machine
from rung.ops.table import OPS
from rung.rules.pipeline import PIPELINE
from rung.runtime import background, compile
from rung.runtime.background import (
    BackgroundCompile,
    State,
    cancel_background,
    compile_in_background,
    set_most_background,
)
from rung.runtime.cache import object_cache
from rung.runtime.copies import fork_copy
from rung.runtime.memory import Block
from rung.runtime.script import Script, compile_program

SCAN = """
@graph
def body(x: f32[{n}], y: f32[{n}]):
    a = add(x, y)
    t = tanh(a)
    return t

@graph
def sums(x: f32[{n}], ys: f32[5, {n}]):
    z = scan(x, ys, body=body, constants=0, carries=1, length=5)
    e = exp(z)
    return e
"""


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path) -> Iterator[Path]:
    before = settings()
    configure(cache_dir=str(tmp_path), cache=True)
    compile._loaded.clear()
    yield tmp_path
    cancel_background()
    set_most_background(1)
    configure(cache_dir=before.cache_dir, cache=before.cache)


def softmax(rows: int) -> Graph:
    """A graph with a composite; no two numbers of rows share a kernel."""
    text = f"@graph\ndef f(x: f32[{rows}, 40]):\n    y = softmax(x, dim=1)\n    return y\n"
    return parse_graph(text, OPS)


def lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def slow(seconds: float) -> Callable[[Graph], Graph]:
    def lower(graph: Graph) -> Graph:
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # a copy that sleeps is taken for one that is stuck
            pass
        return lowered(graph)

    return lower


def run(program: Any, *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = np.empty(program.output_types[0].shape, np.float32)
    program.run([a.ctypes.data for a in arrays], [out.ctypes.data])
    return out


def refuse(*given: Any) -> Any:
    raise AssertionError("something is compiled in the foreground")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def process_of(job: BackgroundCompile) -> int:
    assert job._copy is not None
    return job._copy.process


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("graph", [softmax(30), parse_graph(SCAN.format(n=24), OPS)])
def test_what_was_compiled_beside_is_found(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    job = compile_in_background(graph, lower=lowered)
    assert job.wait()
    assert (job.state, job.error) == (State.DONE, None)
    monkeypatch.setattr(compile, "_compile_one", refuse)
    monkeypatch.setattr(compile, "_run_workers", refuse)
    program = compile_program(graph, lower=lowered)
    assert isinstance(program, Script) == (graph.name == "sums")
    arrays = [np.random.default_rng(0).random(p.type.shape, np.float32) for p in graph.params]
    monkeypatch.undo()
    configure(cache=False)
    np.testing.assert_array_equal(
        run(program, *arrays), run(compile_program(graph, lower=lowered), *arrays)
    )


@pytest.mark.parametrize("how", ["no cache", "no folder", "full disk"])
def test_what_cannot_be_written_comes_back(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "no cache":
        configure(cache=False)
    if how == "no folder":
        (tmp_path / "objects").write_text("a file, no folder")
    if how == "full disk":
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    graph = softmax(31)
    job = compile_in_background(graph, lower=lowered)
    assert job.wait()
    assert job.state is State.DONE
    assert not list(tmp_path.glob("objects/*/*"))
    monkeypatch.setattr(compile, "_compile_one", refuse)
    x = np.ones((31, 40), np.float32)
    np.testing.assert_allclose(run(compile_program(graph, lower=lowered), x), 1 / 40)


def test_an_error_of_the_compiler_comes_back_with_its_type() -> None:
    def lower(graph: Graph) -> Graph:
        raise ShapeError("rows differ", fix="transpose it")

    job = compile_in_background(softmax(32), lower=lower)
    assert job.wait()
    assert job.state is State.FAILED
    assert isinstance(job.error, ShapeError)
    assert (job.error.message, job.error.fix) == ("rows differ", "transpose it")


def test_the_death_of_a_copy_ends_its_job_alone() -> None:
    def lower(graph: Graph) -> Graph:
        os.write(2, b"LLVM ERROR: out of registers\n")
        os.abort()

    dead, after = (compile_in_background(softmax(33), lower=how) for how in (lower, lowered))
    assert dead.wait()
    assert dead.state is State.FAILED
    assert isinstance(dead.error, LoweringError)
    assert "SIGABRT" in str(dead.error)
    assert "out of registers" in str(dead.error)
    assert after.wait()
    assert after.state is State.DONE


def test_a_copy_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LIMIT_S", 1)
    job = compile_in_background(softmax(34), lower=slow(60))
    assert job.wait(20)
    assert job.state is State.FAILED
    assert "longer than 1 s" in str(job.error)


def test_a_copy_that_is_stuck_is_made_again(tmp_path: Path) -> None:
    """As one is whose lock of malloc was held by another thread."""
    first = tmp_path / "first"

    def lower(graph: Graph) -> Graph:
        if not first.exists():
            first.write_text("")
            threading.Event().wait()
        return lowered(graph)

    job = compile_in_background(softmax(33), lower=lower)
    assert job.wait(30)
    assert job.state is State.DONE


def test_jobs_follow_one_another() -> None:
    jobs = [compile_in_background(softmax(35 + i), lower=slow(0.2)) for i in range(3)]
    assert [job.state for job in jobs] == [State.RUNNING, State.QUEUED, State.QUEUED]
    until(jobs[0].poll)
    assert [job.state for job in jobs] == [State.DONE, State.RUNNING, State.QUEUED]
    until(jobs[2].poll)
    assert [job.state for job in jobs] == [State.DONE] * 3


def test_more_copies_may_be_asked_for() -> None:
    set_most_background(2)
    jobs = [compile_in_background(softmax(35 + i), lower=slow(0.2)) for i in range(3)]
    assert [job.state for job in jobs] == [State.RUNNING, State.RUNNING, State.QUEUED]


def test_who_waits_for_a_job_of_the_queue_has_it_started() -> None:
    first = compile_in_background(softmax(38), lower=slow(60))
    second = compile_in_background(softmax(39), lower=lowered)
    assert second.wait(60)
    assert (first.state, second.state) == (State.RUNNING, State.DONE)
    assert not first.wait(0.05)


def test_a_cancelled_job_leaves_no_process() -> None:
    running, queued = (compile_in_background(softmax(40 + i), lower=slow(60)) for i in range(2))
    process = process_of(running)
    queued.cancel()
    running.cancel()
    assert (running.state, queued.state) == (State.CANCELLED, State.CANCELLED)
    assert running.poll()
    assert running.wait()
    assert not is_alive(process)
    with pytest.raises(ChildProcessError):
        os.waitpid(process, 0)
    running.cancel()
    assert compile_in_background(softmax(42), lower=lowered).wait()


def test_nothing_is_left_over() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert compile_in_background(softmax(43), lower=lowered).wait()
    compile_in_background(softmax(44), lower=slow(60)).cancel()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_user_who_waits_for_all_children_takes_nothing_away() -> None:
    job = compile_in_background(softmax(45), lower=lowered)
    os.waitpid(process_of(job), 0)
    assert job.poll()
    assert job.state is State.DONE


def test_ctrl_c_ends_the_waiting_and_not_the_copy() -> None:
    job = compile_in_background(softmax(46), lower=slow(0.5))
    process = process_of(job)

    def press() -> None:
        os.kill(process, signal.SIGINT)  # as the terminal does: to all processes
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.1, press)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        job.wait()
    timer.join()
    assert job.wait()
    assert job.state is State.DONE


def test_the_copy_ends_with_the_program() -> None:
    code = """
        import os, signal, sys, time
        from rung.ir.parse import parse_graph
        from rung.ops.table import OPS
        from rung.runtime.background import compile_in_background
        def busy(graph):
            while True:
                pass
        graph = parse_graph("@graph\\ndef f(x: f32[3]):\\n    y = exp(x)\\n    return y\\n", OPS)
        job = compile_in_background(graph, lower=busy)
        print(job._copy.process, flush=True)
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    """
    for end in ("killed", "at its end"):
        command = [sys.executable, "-c", textwrap.dedent(code), end]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        process = int(done.stdout)
        until(lambda process=process: not is_alive(process))


def test_the_thread_that_asked_may_end() -> None:
    jobs: list[BackgroundCompile] = []
    ask = lambda: jobs.append(compile_in_background(softmax(47), lower=slow(0.3)))  # noqa: E731
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert jobs[0].wait()
    assert jobs[0].state is State.DONE


def test_threads_compute_while_copies_are_made() -> None:
    end = threading.Event()
    found: list[float] = []

    def multiply() -> None:
        a = np.ones((300, 300), np.float32)
        while not end.is_set():
            found.append(float((a @ a)[0, 0]))  # with the threads of NumPy's library

    def compile_and_run(rows: int) -> None:
        x = np.zeros((rows, 40), np.float32)
        while not end.is_set():
            found.append(float(run(compile_program(softmax(rows), lower=lowered), x)[0, 0] * 12e3))

    threads = [threading.Thread(target=multiply) for _ in range(2)]
    threads += [threading.Thread(target=compile_and_run, args=(100 + i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        jobs = [compile_in_background(softmax(50 + i), lower=lowered) for i in range(12)]
        assert all(job.wait(120) for job in jobs)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert [job.state for job in jobs] == [State.DONE] * len(jobs)
    assert set(np.round(found)) == {300.0}


def test_a_fork_of_the_user_compiles_for_itself() -> None:
    job = compile_in_background(softmax(70), lower=slow(0.5))
    process = process_of(job)
    child = os.fork()
    if child == 0:
        done = job.state is State.QUEUED and job.wait() and job.state is State.DONE
        os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert process_of(job) == process
    assert job.wait()
    assert job.state is State.DONE


def test_large_memory_is_not_in_a_copy_and_is_in_other_children() -> None:
    block = Block(8 << 20)
    block.data[:] = 7

    def is_mapped() -> bool:
        ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines()]
        ends = [[int(end, 16) for end in r.split("-")] for r in ranges]
        return any(first <= block.address < last for first, last in ends)

    def status(child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert is_mapped()
    assert status(fork_copy(lambda: os._exit(10 + is_mapped()))) == 10
    child = os.fork()
    if child == 0:
        os._exit(int(ctypes.string_at(block.address, 1)[0]))
    assert status(child) == 7


def test_files_of_the_program_are_closed_for_others() -> None:
    """Who reads from a pipe of the program waits for nobody else."""
    reading, writing = os.pipe()
    job = compile_in_background(softmax(71), lower=slow(60))
    os.close(writing)
    time.sleep(0.2)
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""
    os.close(reading)
    job.cancel()


def test_a_job_found_in_the_cache_ends_without_compiling() -> None:
    graph = softmax(72)
    compile_program(graph, lower=lowered)
    hits = object_cache(host_machine()).hits
    assert compile_in_background(graph, lower=lowered).wait()
    assert object_cache(host_machine()).hits == hits
