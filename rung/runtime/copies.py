"""Copies of this process that compile: forks that nobody but their maker knows.

A copy has the graphs and kernels of this process without anybody writing them down. It has the
forking thread alone, so it uses nothing that another thread may have been in the middle of: locks
are free in it whoever held them, LLVM is entered by nobody while it is made, and the memory of
large tensors is not there at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from functools import cache
from operator import call
from pathlib import Path

from llvmlite.binding import ffi

from rung.core.errors import LoweringError, RungError
from rung.runtime.breath import in_one_breath
from rung.runtime.forks import signals_blocked, taking_no_locks
from rung.runtime.memory import free_list, large_blocks_left_out

STUCK_S = 2.0
SUPPORTED = sys.platform == "linux"
"""Elsewhere a fork of a process with threads may do nothing but start another program."""


def fork_copy(work: Callable[[], None]) -> int:
    """Process number of a copy of this process that does `work` and ends.

    Ctrl-C, which reaches the copy as well, is left to this process. Raises OSError when the system
    gives no process."""
    lock = getattr(ffi.lib, "_lock", None)  # llvmlite's own, held during all of its calls
    with (
        signals_blocked(),  # a child that is made is known
        taking_no_locks(),
        warnings.catch_warnings(),
        lock or contextlib.nullcontext(),
        large_blocks_left_out() as left_out,
    ):
        warnings.simplefilter("ignore")  # about forking with threads: the copy waits for none
        child = os.fork() if threading.active_count() == 1 else _fork_beside_threads()
        if child == 0:
            _live(work, left_out)
    return child


def _fork_beside_threads() -> int:
    """As `os.fork`, without the handlers that C libraries have for forks. That of OpenBLAS ends its
    threads, and a thread that waits for a product then waits for ever.

    The locks of malloc stay as they are, so now and then a copy may be stuck: see `Watch`."""
    fork, python = _bare_fork(), ctypes.pythonapi
    if fork is None:
        return os.fork()
    for function in (python.PyOS_AfterFork_Child, python.PyOS_AfterFork_Parent):
        function.restype = None
    number: list[int] = []
    after = (python.PyOS_AfterFork_Child, python.PyOS_AfterFork_Parent)
    # one call: Python's own look at other threads must not come before the child knows it has none
    steps = (
        (deque, map(call, (python.PyOS_BeforeFork,)), 0),
        (number.extend, map(call, (fork,))),
        (deque, map(call, map(after.__getitem__, map(bool, number))), 0),
    )
    in_one_breath(steps)
    if number[0] < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return number[0]


@cache
def _bare_fork() -> Callable[[], int] | None:
    """The fork of the C library that calls no handlers; the interpreter's lock is held."""
    library = ctypes.PyDLL(None, use_errno=True)
    found: Callable[[], int] | None = getattr(library, "_Fork", None)
    return found


class Watch:
    """Looks whether a copy still does something. One that waits is stuck: it has nobody to wait
    for."""

    def __init__(self, process: int) -> None:
        self._status = Path(f"/proc/{process}/stat")
        self._since = self._looked = time.monotonic()
        self._before: tuple[str, ...] = ()

    def is_stuck(self) -> bool:
        """Whether the copy has waited all the time for STUCK_S seconds; cheap to ask often."""
        now = time.monotonic()
        if now < self._looked + STUCK_S / 8:
            return False
        self._looked = now
        try:
            fields = self._status.read_text().rpartition(")")[2].split()
        except OSError:
            return False
        state, times = fields[0], tuple(fields[11:13])
        if state != "S" or times != self._before:
            self._before, self._since = times, now
        return now - self._since > STUCK_S


def _live(work: Callable[[], None], left_out: object) -> None:
    """Do the work, then end this process. `left_out` lives as long as it."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)  # handlers are the parent's
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        gc.disable()
        free_list.clear()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
        status = 0
    finally:
        os._exit(status)


def wait_for_copy(process: int) -> bool:
    """Wait until a copy has ended; whether it has by itself. One that is stuck is ended.

    A handler of the user's may have waited for the process already."""
    watch, handle = Watch(process), process_handle(process)
    if handle is None:
        return end_copy(process, kill=False)
    with os.fdopen(handle) as file:
        ended = select.poll()
        ended.register(file, select.POLLIN)
        while not ended.poll(STUCK_S / 4 * 1e3):
            if watch.is_stuck():
                end_copy(process)
                return False
    return end_copy(process, kill=False)


def end_copy(process: int, kill: bool = True) -> bool:
    """Kill a copy, if asked to, and wait for its end; True."""
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    return True


def process_handle(process: int) -> int | None:
    """A descriptor that stands for the process, whatever becomes of its number; it can be read when
    the process has ended. None where the system has no such thing."""
    try:
        return os.pidfd_open(process)
    except OSError:
        return None


def packed(error: Exception) -> bytes:
    """An error of a copy as bytes: what is not ours becomes a LoweringError with its traceback."""
    if isinstance(error, RungError):
        return pickle.dumps((type(error), error.message, error.fix, error.source))
    text = "".join(traceback.format_exception(error))
    return pickle.dumps((LoweringError, f"code generation failed:\n{text}", None, None))


def revived(body: bytes) -> RungError:
    """The error that `packed` wrote."""
    kind, message, fix, source = pickle.loads(body)
    error: RungError = kind(message, fix=fix, source=source)
    return error
