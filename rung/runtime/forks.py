"""Forks: a child has the thread that forked and no other, and memory as it was at that moment.

So a fork waits until no other thread is in the middle of something: it takes all locks first. It
waits for one only while it holds no other, whatever the order in which other threads take them.
What a child cannot have (worker threads) it forgets.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Forking(threading.local):
    """The locks that this thread holds for a fork, and whether it wants none."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        self.alone = False


_locks: list[Any] = []
_in_child: list[Callable[[], None]] = []
_forking = _Forking()


def hold_at_fork(lock: Any, in_child: Callable[[], None] | None = None) -> None:
    """Have forks take the lock, one that a thread may take twice; call `in_child` in children."""
    _locks.append(lock)
    if in_child is not None:
        _in_child.append(in_child)


@contextmanager
def taking_no_locks() -> Iterator[None]:
    """Forks inside do not wait for other threads. In their children all known locks are free,
    whoever held them, and what they guard may be half changed."""
    _forking.alone = True
    try:
        yield
    finally:
        _forking.alone = False


@contextmanager
def signals_blocked() -> Iterator[None]:
    """No signal reaches this thread inside, nor, later, threads that are made inside."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _before() -> None:
    locks = [] if _forking.alone else list(_locks)
    waited = 0
    while waited < len(locks):
        locks[waited].acquire()
        _forking.held.append(locks[waited])
        taken = waited
        waited = len(locks)
        for i, lock in enumerate(locks):
            if i == taken:
                continue
            if not lock.acquire(blocking=False):
                _after()
                waited = i
                break
            _forking.held.append(lock)


def _after() -> None:
    while _forking.held:
        _forking.held.pop().release()


def _after_in_child() -> None:
    if _forking.alone:
        for lock in _locks:
            lock._at_fork_reinit()
    for forget in _in_child:
        forget()
    _after()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
