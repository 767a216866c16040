"""Forks take all locks, whatever the order in which threads take some of them."""

from __future__ import annotations

import os
import threading

import pytest

from rung.runtime import forks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
def test_a_fork_beside_threads_that_take_locks_in_another_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = threading.RLock(), threading.RLock()
    monkeypatch.setattr(forks, "_locks", [first, second])
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            with second:
                threading.Event().wait(0.0005)
                with first:
                    pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(0 if first.acquire(timeout=1) and second.acquire(timeout=1) else 1)
        assert os.waitpid(child, 0)[1] == 0
    end.set()
    thread.join(10)
    assert not thread.is_alive()
