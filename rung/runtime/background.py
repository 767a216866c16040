"""Compilation beside the running program: one copy of this process compiles a graph into the cache.

The copy (`rung/runtime/copies.py`) writes objects and recipes to the disk, as any process does, so
that `compile_program` on the same graph finds all of them. What it cannot write, because the folder
is read-only or the disk full, comes back through a memory file. Jobs wait in a queue; whoever asks
about a job (`poll`, `wait`) moves the queue on. There is no thread, so nothing happens, and no fork
is made, at a moment that the program has not chosen.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fcntl import F_SETFL, F_SETOWN, F_SETSIG, fcntl
from functools import partial

from rung.core.errors import LoweringError, RungError
from rung.core.settings import configure
from rung.ir.node import Graph
from rung.kernel.machine import Machine, host_machine
from rung.runtime.cache import object_cache
from rung.runtime.copies import SUPPORTED, Watch, fork_copy, packed, process_handle, revived
from rung.runtime.forks import hold_at_fork, signals_blocked
from rung.runtime.program import Lower
from rung.runtime.script import compile_program

NICENESS = 5
"""A copy gets a third of the time that a busy thread of the program gets."""
LIMIT_S = 900
"""A copy that takes longer is ended."""
_RETRY_S = 0.005
_LOOK_S = 0.5
_MESSAGE_BYTES = 2000  # of what LLVM says before it ends a copy


class State(Enum):
    """What has become of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDED = (State.DONE, State.FAILED, State.CANCELLED)


class BackgroundCompile:
    """A graph that is compiled beside the program. `error`: why it has failed. Threads may share
    it."""

    __slots__ = ("_copy", "_request", "error", "state")

    def __init__(self, request: _Request) -> None:
        self.state = State.QUEUED
        self.error: RungError | None = None
        self._request = request
        self._copy: _Copy | None = None

    def poll(self) -> bool:
        """Whether the job has ended; does not wait. It also starts what the queue has room for."""
        if self.state not in _ENDED:
            with _queue.lock:
                _queue.advance()
        return self.state in _ENDED

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, `timeout` seconds at most; whether it has. One that is
        still in the queue starts at once, since the one who waits leaves a core free.

        Ctrl-C ends the waiting alone."""
        limit = float("inf") if timeout is None else time.monotonic() + timeout
        while not self.poll():
            with _queue.lock:
                if self.state is State.QUEUED:
                    _queue.start(self)
                copy = self._copy
                end = None if copy is None else copy.end_descriptor()
            left = max(limit - time.monotonic(), 0.0)
            if end is not None:
                with os.fdopen(end) as file:
                    poll = select.poll()
                    poll.register(file, select.POLLIN)
                    poll.poll(min(left, _LOOK_S) * 1e3)
            elif copy is not None:
                time.sleep(min(left, _RETRY_S))
            if time.monotonic() >= limit:
                return self.poll()
        return True

    def cancel(self) -> None:
        """End the job if it has not ended, and its process with it."""
        with _queue.lock:
            if self.state in _ENDED:
                return
            if self.state is State.QUEUED:
                _queue.waiting.remove(self)
            self._end(State.CANCELLED)
            _queue.advance()

    def _end(self, state: State, error: RungError | None = None) -> None:
        copy, self._copy = self._copy, None
        self.error = error
        self.state = state
        if copy is not None:
            _queue.running.remove(self)
            copy.close()


def compile_in_background(
    graph: Graph,
    aliases: Mapping[int, int] | None = None,
    machine: Machine | None = None,
    lower: Lower | None = None,
) -> BackgroundCompile:
    """Compile a graph in a process of its own, at low priority, into the cache. The arguments are
    those of `compile_program`, which needs some milliseconds for them once the job is done.

    An error of the compilation, or the death of its process, ends as the state FAILED. So it does
    at once where a process cannot be copied: there, compile in the foreground."""
    job = BackgroundCompile(_Request(graph, dict(aliases or {}), machine, lower))
    if not SUPPORTED:
        job.error = LoweringError("this system has no copies of processes that could compile")
        job.state = State.FAILED
        return job
    with _queue.lock:
        _queue.waiting.append(job)
        _queue.advance()
    return job


def set_most_background(count: int) -> None:
    """How many processes compile beside the program at the same time (1 if this is not called)."""
    with _queue.lock:
        _queue.most = count
        _queue.advance()


def cancel_background() -> None:
    """End all jobs that have not ended."""
    with _queue.lock:
        for job in (*_queue.waiting, *_queue.running):
            job.cancel()


@dataclass(frozen=True)
class _Request:
    graph: Graph
    aliases: Mapping[int, int]
    machine: Machine | None
    lower: Lower | None


class _Queue:
    """Jobs in the order in which they came, and those whose copies are at work."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.most = 1
        self.waiting: deque[BackgroundCompile] = deque()
        self.running: list[BackgroundCompile] = []

    def advance(self) -> None:
        """Note what has ended, and start what there is room for. Call with `lock` held."""
        for job in tuple(self.running):
            copy = job._copy
            if copy is not None and copy.has_ended():
                self._collect(job, copy)
            elif copy is not None and copy.watch.is_stuck():
                copy.close()
                self.running.remove(job)
                self.waiting.appendleft(job)
                self.start(job)
        while self.waiting and len(self.running) < self.most:
            self.start(self.waiting[0])

    def start(self, job: BackgroundCompile) -> None:
        """Start a job of the queue. Call with `lock` held."""
        self.waiting.remove(job)
        try:
            with signals_blocked():  # a copy that is made is known
                job._copy = _Copy(job._request)
                self.running.append(job)
                job.state = State.RUNNING
        except OSError as error:
            job._end(State.FAILED, LoweringError(f"cannot start a process that compiles: {error}"))

    def _collect(self, job: BackgroundCompile, copy: _Copy) -> None:
        report = copy.report()
        if report is None:
            job._end(State.FAILED, copy.failure())
        elif isinstance(report, RungError):
            job._end(State.FAILED, report)
        else:
            object_cache(job._request.machine or host_machine()).adopt(report)
            job._end(State.DONE)

    def restart_in_child(self) -> None:
        """After a fork by the user: the copies are the parent's, so the jobs wait again."""
        for job in self.running:
            if job._copy is not None:
                job._copy.forget()
            job._copy = None
            job.state = State.QUEUED
        self.waiting.extendleft(reversed(self.running))
        self.running.clear()


_queue = _Queue()
hold_at_fork(_queue.lock, _queue.restart_in_child)
atexit.register(cancel_background)


class _Copy:
    """A process that compiles one graph. It ends when this process does: the kernel sends SIGKILL
    to it when the pipe, whose other end only this process has, is closed."""

    def __init__(self, request: _Request) -> None:
        self._parent = os.getpid()
        self._report = os.memfd_create("rung-report")
        self._messages = os.memfd_create("rung-messages")
        watched, self._alive = os.pipe()
        try:
            self.process = fork_copy(partial(_work, request, self, watched))
        except BaseException:
            self.process = 0
            self._close_files()
            raise
        finally:
            os.close(watched)
        self._status: int | None = None
        self._handle = process_handle(self.process)
        self.watch = Watch(self.process)

    def has_ended(self) -> bool:
        """Whether the process is no more; does not wait."""
        try:
            process, status = os.waitpid(self.process, os.WNOHANG)
        except ChildProcessError:  # a handler of the user's waits for all children
            return True
        if process:
            self._status = status
        return bool(process)

    def end_descriptor(self) -> int | None:
        """A new descriptor that can be read when the process has ended, where the system has it."""
        return None if self._handle is None else os.dup(self._handle)

    def report(self) -> Mapping[str, bytes] | RungError | None:
        """What the process has written: entries for the cache, or an error; None if it died."""
        data = _contents(self._report)
        if not data:
            return None
        return revived(data[1:]) if data[:1] == b"e" else pickle.loads(data[1:])

    def failure(self) -> RungError:
        """The error for a process that died."""
        number = 0 if self._status is None else os.WTERMSIG(self._status)
        text = "the process that compiles beside the program has ended"
        if number == signal.SIGALRM:
            text += f": it took longer than {LIMIT_S} s"
        elif number:
            text += f" by {signal.Signals(number).name}"
        said = _contents(self._messages)[-_MESSAGE_BYTES:].decode(errors="replace").strip()
        return LoweringError(f"{text}\n{said}" if said else text)

    def close(self) -> None:
        """End the process if it has not ended, and give back what belongs to it."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                if self._handle is None:
                    os.kill(self.process, signal.SIGKILL)
                else:
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.process, 0)
        self.forget()

    def forget(self) -> None:
        """Give back what belongs to it; the process is left alone."""
        self._close_files()
        if self._handle is not None:
            os.close(self._handle)

    def _close_files(self) -> None:
        for descriptor in (self._report, self._messages, self._alive):
            os.close(descriptor)

    # -- in the process itself

    def become(self, watched: int) -> None:
        """Make this process a quiet one: at low priority, and without the files of its parent, who
        may wait for the end of a pipe."""
        nothing = os.open(os.devnull, os.O_RDWR)
        kept = {self._report, self._messages, watched, nothing}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):  # the folder that was listed
                    os.fstat(int(name))
                    os.dup2(nothing, int(name))
        os.dup2(self._messages, 2)
        fcntl(watched, F_SETOWN, os.getpid())
        fcntl(watched, F_SETSIG, signal.SIGKILL)
        fcntl(watched, F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        if os.getppid() != self._parent:
            os._exit(1)
        os.nice(NICENESS)
        signal.alarm(LIMIT_S)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")

    def send(self, data: bytes) -> None:
        """Write the report."""
        with os.fdopen(os.dup(self._report), "wb") as file:
            file.write(data)


def _work(request: _Request, copy: _Copy, watched: int) -> None:
    """What a copy does."""
    copy.become(watched)
    try:
        configure(compile_jobs=1)
        cache = object_cache(request.machine or host_machine())
        before = cache.unwritten()
        compile_program(request.graph, request.aliases, request.machine, request.lower)
        made = {key: data for key, data in cache.unwritten().items() if key not in before}
        copy.send(b"d" + pickle.dumps(made))
    except Exception as error:
        copy.send(b"e" + packed(error))


def _contents(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)
