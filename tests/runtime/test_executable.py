"""Executables: exact ranges, barriers, slots, profile, concurrency, fork."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rung.core.errors import LoweringError, SettingsError
from rung.runtime.executable import (
    Arena,
    Constant,
    Executable,
    Input,
    Output,
    Stage,
    StageFlags,
)
from rung.runtime.pool import pool, set_threads

BARRIER, SERIAL = StageFlags.BARRIER, StageFlags.SERIAL


@pytest.mark.parametrize("grid", [0, 1, 2, 3, 7, 64, 1001])
@pytest.mark.parametrize(
    "options",
    [
        {"flags": BARRIER},
        {"flags": BARRIER | SERIAL},
        {"flags": BARRIER, "width": 2},
    ],
    ids=["all", "serial", "width2"],
)
def test_every_tile_runs_exactly_once(stages, threads, grid, options):
    counts = np.zeros(grid + 1, np.int64)
    stage = Stage(stages.address("mark"), (Output(0),), grid, **options)
    program = Executable([stage], num_outputs=1)
    for _ in range(5):
        program.run([counts.ctypes.data])
    assert counts[:grid].tolist() == [5] * grid
    assert counts[grid] == 0


def _chain(stages, length: int, grid: int) -> Executable:
    """Each stage reads what other threads wrote in the stage before: barriers are needed."""
    size = Constant(np.array(grid, np.int64))
    half = grid * 8
    slots = [Input(0), *[Arena((i % 2) * half) for i in range(length - 1)], Output(0)]
    steps = [
        Stage(stages.address("mirror"), (slots[i], slots[i + 1], size), grid) for i in range(length)
    ]
    return Executable(steps, arena_bytes=2 * half, num_inputs=1, num_outputs=1, keep=[stages])


def test_barriers_order_stages(stages, threads):
    grid, length = 37, 60
    program = _chain(stages, length, grid)
    start = np.arange(grid)
    out = np.zeros(grid, np.int64)
    for _ in range(20):
        out[:] = 0
        program.run([start.ctypes.data, out.ctypes.data])
        assert np.array_equal(out, start + length)  # an even number of mirrors


def test_barrier_survives_many_runs_and_naps(stages):
    set_threads(2)
    program = _chain(stages, 50, 8)
    start, out = np.arange(8), np.zeros(8, np.int64)
    for i in range(400):
        program.run([start.ctypes.data, out.ctypes.data])
        if i % 40 == 0:
            time.sleep(0.001)  # workers fall asleep in between
    assert np.array_equal(out, start + 50)


def test_offsets_of_inputs_and_outputs(stages):
    size = Constant(np.array(4, np.int64))
    stage = Stage(stages.address("mirror"), (Input(0, 16), Output(0, 8), size), 4)
    source, out = np.arange(6), np.zeros(6, np.int64)
    program = Executable([stage], num_inputs=1, num_outputs=1)
    program.run([source.ctypes.data, out.ctypes.data])
    assert out.tolist() == [0, 6, 5, 4, 3, 0]


def test_pointers_are_patched_anew_for_each_run(stages):
    program = Executable([Stage(stages.address("mark"), (Output(0),), 3)], num_outputs=1)
    first, second = np.zeros(3, np.int64), np.zeros(3, np.int64)
    program.run([first.ctypes.data])
    program.run([second.ctypes.data])
    program.run([second.ctypes.data])
    assert first.tolist() == [1, 1, 1]
    assert second.tolist() == [2, 2, 2]


def test_table_kept_by_the_caller(stages):
    program = Executable([Stage(stages.address("mark"), (Output(0),), 3)], num_outputs=1)
    counts = np.zeros(3, np.int64)
    table = np.array([counts.ctypes.data], np.uintp)
    program.run_at(table.ctypes.data)
    assert counts.tolist() == [1, 1, 1]


def test_each_thread_has_its_own_scratch(stages, threads):
    grid = 20_000
    out = np.zeros(grid, np.uintp)
    program = Executable(
        [Stage(stages.address("where"), (Output(0),), grid)], scratch_bytes=5000, num_outputs=1
    )
    seen: set[int] = set()
    deadline = time.monotonic() + 10
    while len(seen) < threads and time.monotonic() < deadline:
        program.run([out.ctypes.data])
        blocks = np.unique(out)
        assert len(blocks) <= threads
        seen.update(blocks.tolist())
        time.sleep(0.0001)
    assert len(seen) == threads
    assert all(block % 64 == 0 for block in seen)
    assert (np.diff(sorted(seen)) >= 5000).all()


def test_a_thread_that_is_done_helps_the_others(stages):
    set_threads(2)
    grid = 64  # the first share takes long, the second none
    out = np.zeros(grid, np.uintp)
    program = Executable(
        [Stage(stages.address("slow"), (Output(0),), grid)], scratch_bytes=64, num_outputs=1
    )
    deadline = time.monotonic() + 10
    while len(np.unique(out[:32])) < 2 and time.monotonic() < deadline:
        out[:] = 0
        program.run([out.ctypes.data])
        assert (out > 0).all()
    assert len(np.unique(out[:32])) == 2


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_programs_come_and_go_while_workers_are_late(stages, threads, busy):
    """Late workers must neither touch the work of later runs nor memory that is gone."""
    chance = random.Random(threads)
    command = [sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(command) for _ in range(3 if busy else 0)]
    try:
        for _ in range(100):
            length, grid = chance.randrange(1, 15), chance.randrange(1, 40)
            program = _chain(stages, length, grid)
            start, out = np.arange(grid), np.zeros(grid, np.int64)
            expected = (start if length % 2 == 0 else start[::-1]) + length
            for _ in range(chance.randrange(1, 4)):
                out[:] = 0
                program.run([start.ctypes.data, out.ctypes.data])
                assert np.array_equal(out, expected)
            if chance.random() < 0.2:
                assert len(program.profile([start.ctypes.data, out.ctypes.data])) == length
                assert np.array_equal(out, expected)
            if chance.random() < 0.05:
                pool().release()
            del program
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_memory_of_dead_programs_is_given_back(stages):
    set_threads(2)
    for _ in range(50):
        program = _chain(stages, 5, 8)
        start, out = np.arange(8), np.zeros(8, np.int64)
        program.run([start.ctypes.data, out.ctypes.data])
        del program
    time.sleep(0.01)
    for _ in range(2):
        Executable([])  # buries its tables, and with them what had to wait
        gc.collect()
    assert len(pool()._buried) == 0


def test_nobody_waits_for_a_worker_that_does_not_come(stages):
    """With more threads than cores can run, the caller takes the shares of those that sleep."""
    set_threads(16)
    try:
        counts = np.zeros(64, np.int64)
        program = Executable([Stage(stages.address("mark"), (Output(0),), 64)], num_outputs=1)
        program.run([counts.ctypes.data])
        times = []
        for _ in range(30):
            time.sleep(0.001)
            start = time.perf_counter()
            program.run([counts.ctypes.data])
            times.append(time.perf_counter() - start)
        assert (counts == 31).all()
        assert min(times) < 1e-3
    finally:
        set_threads(2)


def test_alone_runs_on_the_caller(stages):
    out = np.zeros(64, np.uintp)
    stage = Stage(stages.address("where"), (Output(0),), 64)
    Executable([stage], scratch_bytes=64, num_outputs=1, alone=True).run([out.ctypes.data])
    assert len(np.unique(out)) == 1


def test_arena_grows_and_old_programs_follow(stages):
    small = _chain(stages, 4, 8)
    start, out = np.arange(8), np.zeros(8, np.int64)
    small.run([start.ctypes.data, out.ctypes.data])
    before = pool().arena.address
    bytes_needed = pool().arena.nbytes + (1 << 20)
    large = Executable([], arena_bytes=bytes_needed)
    large.run([])
    assert pool().arena.nbytes >= bytes_needed
    out[:] = 0
    small.run([start.ctypes.data, out.ctypes.data])
    assert np.array_equal(out, start + 4)
    pool().release()
    assert pool().arena.nbytes == 0
    small.run([start.ctypes.data, out.ctypes.data])
    assert np.array_equal(out, start + 4)
    assert before  # the first arena had an address of its own


def test_profile_times_every_stage(stages, threads):
    counts = np.zeros(200_000, np.int64)
    long = Stage(stages.address("mark"), (Output(0),), len(counts))
    short = Stage(stages.address("mark"), (Output(0),), 1)
    program = Executable([long, short, short], num_outputs=1)
    program.run([counts.ctypes.data])
    runs = [program.profile([counts.ctypes.data]) for _ in range(5)]
    assert all(len(times) == 3 and min(times) >= 0 for times in runs)
    assert any(times[0] > times[1] for times in runs)
    program.run([counts.ctypes.data])
    assert (counts[1:] == 7).all()


def test_profile_is_right_whoever_does_the_work(stages):
    """A stage takes no less time than its tiles do, also when other threads do all of them."""
    set_threads(2)
    counts = np.zeros(400_000, np.int64)
    long = Stage(stages.address("mark"), (Output(0),), len(counts))
    program = Executable([long] * 6, num_outputs=1)
    alone = Executable([long] * 6, num_outputs=1, alone=True)
    least = min(min(alone.profile([counts.ctypes.data])) for _ in range(5)) / 4
    for _ in range(40):
        assert min(program.profile([counts.ctypes.data])) > least


def test_python_threads_take_turns(stages):
    set_threads(2)
    results: list[bool] = []

    def work(seed: int) -> None:
        program = _chain(stages, 20, 16)
        start, out = np.arange(16) + seed, np.zeros(16, np.int64)
        for _ in range(60):
            out[:] = 0
            program.run([start.ctypes.data, out.ctypes.data])
            results.append(bool((out == start + 20).all()))

    workers = [threading.Thread(target=work, args=(seed * 100,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 180
    assert all(results)


def _in_child(action) -> int:
    """Exit status of a forked child that runs `action`; a child that hangs is killed."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if action() else 1)
        except BaseException:
            os._exit(2)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_restart_in_a_forked_child(stages):
    set_threads(2)
    program = _chain(stages, 20, 16)
    start, out = np.arange(16), np.zeros(16, np.int64)

    def action() -> bool:
        out[:] = 0
        for _ in range(50):
            program.run([start.ctypes.data, out.ctypes.data])
        return bool((out == start + 20).all()) and pool().started

    assert action()
    assert _in_child(action) == 0
    assert action()


class _Alarm(Exception):
    pass


def test_signal_during_a_run_is_raised_after_it_and_leaves_the_pool_usable(stages):
    set_threads(2)
    counts = np.zeros(1_000_000, np.int64)
    stage = Stage(stages.address("mark"), (Output(0),), len(counts))
    program = Executable([stage] * 5, num_outputs=1)
    program.run([counts.ctypes.data])

    def ring(_number: int, _frame: object) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(_Alarm):
            while True:
                program.run([counts.ctypes.data])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (counts == counts[0]).all()  # whole runs only
    counts[:] = 0
    program.run([counts.ctypes.data])
    assert (counts == 5).all()


def test_threads_that_ask_first_at_the_same_time_get_one_pool():
    code = """
import threading
from rung.runtime.pool import pool
found = []
threads = [threading.Thread(target=lambda: found.append(pool())) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len({id(p) for p in found}) == 1
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_process_ends_while_workers_are_awake_or_asleep(stages):
    code = """
import sys, time
sys.path.insert(0, "tests/runtime")
from conftest import STAGES
from rung.kernel.machine import host_machine
from rung.runtime.assemble import assemble
from rung.runtime.executable import *
from rung.runtime.loader import link
library = link([assemble(STAGES, host_machine())], ["mark"])
counts = np.zeros(8, np.int64)
program = Executable([Stage(library.address("mark"), (Output(0),), 8)], num_outputs=1)
program.run([counts.ctypes.data])
time.sleep(float(sys.argv[1]))
"""
    environment = os.environ | {"RUNG_THREADS": "3", "RUNG_SPIN_US": "20000"}
    for nap in ("0", "0.05"):
        command = [sys.executable, "-c", code, nap]
        done = subprocess.run(command, timeout=60, env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def test_wrong_number_of_pointers(stages):
    program = Executable([Stage(stages.address("mark"), (Output(0),), 3)], num_outputs=1)
    with pytest.raises(ValueError, match="size"):
        program.run([1, 2])
    counts = np.zeros(3, np.int64)
    program.run([counts.ctypes.data])  # the lock is free again


@pytest.mark.parametrize("slot", [Input(0), Output(1), Arena(-64), Arena(65)])
def test_slots_out_of_range(stages, slot):
    stage = Stage(stages.address("mark"), (slot,), 1, name="k0")
    with pytest.raises(LoweringError, match="k0"):
        Executable([stage], num_outputs=1, arena_bytes=64)


def test_zero_threads_are_refused():
    with pytest.raises(SettingsError, match="threads=0"):
        set_threads(0)
