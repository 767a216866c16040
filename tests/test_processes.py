"""Children of any kind, and exceptions from outside, while threads build and run programs."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import rung
from rung.runtime import forks
from rung.runtime.forks import hold_at_fork

UNRAISABLE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""What is thrown within a finalizer ends there, and an open file may stay open."""
ROWS = np.random.default_rng(0).random((16, 16)).astype(np.float32)


def products(x: Any) -> Any:
    """A tensor of an array."""
    a = rung.asarray(x)
    return rung.tanh(a @ a.T).sum(axis=1)


def products_of(x: Any) -> Any:
    """An array of an array."""
    return np.asarray(products(x))


@contextmanager
def computing_threads() -> Iterator[None]:
    """Three threads that compute meanwhile."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            products_of(ROWS)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        yield
    finally:
        end.set()
        for t in threads:
            t.join()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
def test_processes_started_while_threads_compute(method: str) -> None:
    wanted = products_of(ROWS)
    with computing_threads(), multiprocessing.get_context(method).Pool(2) as pool:
        arrays = pool.map_async(products_of, [ROWS] * 4).get(timeout=120)
        tensors = pool.map_async(products, [rung.asarray(ROWS)] * 2).get(timeout=120)
    for found in (*arrays, *map(np.asarray, tensors)):
        np.testing.assert_array_equal(found, wanted)


@UNRAISABLE
def test_an_exception_thrown_into_a_thread_leaves_the_others_whole() -> None:
    class Thrown(Exception):
        pass

    ended = []

    def work() -> None:
        n = 0
        try:
            while True:
                np.asarray(rung.ones((16,)) + n)
                n += 1
        except Thrown:
            ended.append(n)

    with computing_threads():
        for moment in range(10):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(0.003 * moment)
            throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
            while thread.is_alive():
                throw(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Thrown))
                thread.join(0.5)
    assert len(ended) == 10
    np.testing.assert_array_equal(rung.ones((16,)) + 1, np.full(16, 2.0))


@UNRAISABLE
def test_ctrl_c_while_a_program_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(size: int) -> Any:
        w = rung.ones((size, 16)).requires_grad_()
        rung.tanh(rung.ones((32, size)) @ w).softmax(-1).sum().backward()
        return np.asarray(w.grad)

    gradient(9)
    interrupted = 0
    for moment in range(8):
        size = 1000 + moment  # compiled for the first time
        timer = threading.Timer(0.01 + 0.02 * moment, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            gradient(size)
            timer.join()
            time.sleep(1)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        found = gradient(size)
        assert found.shape == (size, 16)
        assert np.isfinite(found).all()
    assert interrupted


def test_a_fork_waits_for_locks_in_whatever_order_threads_take_them() -> None:
    """A thread that holds the outer lock and wants the inner one, which is known first."""
    inner, outer, stop = threading.RLock(), threading.RLock(), threading.Event()
    hold_at_fork(inner)
    hold_at_fork(outer)

    def nest() -> None:
        while not stop.is_set():
            with outer:
                time.sleep(1e-4)
                with inner:
                    pass

    thread = threading.Thread(target=nest, daemon=True)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        thread.start()
        for _ in range(50):
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
    finally:
        faulthandler.cancel_dump_traceback_later()
        sys.setswitchinterval(before)
        stop.set()
        thread.join()
        forks._locks.remove(inner)
        forks._locks.remove(outer)
