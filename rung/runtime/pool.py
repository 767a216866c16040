"""The worker pool: native threads, parked between runs, and the memory that runs share."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from rung.core.errors import DeviceError, SettingsError
from rung.core.settings import Settings, follow_settings, settings
from rung.kernel.machine import usable_cores
from rung.runtime.forks import hold_at_fork, signals_blocked
from rung.runtime.loader import Library
from rung.runtime.memory import Block
from rung.runtime.native import StateOffset
from rung.runtime.native_library import native_library

_DONE_SPIN_US = 50.0  # wait for a group before yielding
_STEAL_US = 1.0  # wait for other threads before doing their share
_WORKER_WORDS = 3
_STACK_BYTES = 8 << 20


class Pool:
    """`threads` threads (the caller is one of them) that run programs together.

    `lock` is held during a run, so that runs of several Python threads follow one another; the
    arena and the scratch blocks therefore are shared by all programs. `binding` is replaced
    whenever an address that programs have stored has changed, and so is what `bound`, a list of
    one, holds. A signal handler may run programs while the thread that it interrupts holds the
    lock, and change the binding; while a script is `underway`, these get an arena of their own.
    """

    def __init__(self, threads: int, spin_us: float):
        self.lock = threading.RLock()
        self.underway = 0
        self.threads = threads
        self.spin_us = spin_us
        self.binding = object()
        self.bound = [self.binding]
        self.arena = Block(0)
        self._native: Library = native_library()
        self._workers: list[ctypes.c_void_p] = []
        self._buried: list[Block] = []
        self._left: list[object] = []  # by the parent of this process
        self._scratch = self._state = Block(0)
        self._births = np.zeros((0, _WORKER_WORDS), np.int64)
        self._unborn: Iterator[int] = iter(())
        self._new_state(threads)

    @property
    def state_address(self) -> int:
        """Start of the state block that native code works on."""
        return self._state.address

    @property
    def started(self) -> bool:
        """Whether all workers run."""
        return len(self._workers) == self.threads - 1

    def reserve(self, arena_bytes: int, scratch_bytes: int) -> None:
        """Make arena and per-thread scratch at least this large. Call with `lock` held."""
        if arena_bytes > self.arena.nbytes:
            self.take_back(Block(0))  # the old one goes before the new one comes
            self.take_back(Block(arena_bytes))
        if not self.has(0, scratch_bytes):
            self._set_scratch(-(-max(scratch_bytes, 4096) // 4096) * 4096)

    def has(self, arena_bytes: int, scratch_bytes: int) -> bool:
        """Whether arena and per-thread scratch are at least this large."""
        scratch = max(scratch_bytes, 4096) * self.threads
        return arena_bytes <= self.arena.nbytes and scratch <= self._scratch.nbytes

    def release(self) -> None:
        """Give the arena back to the system, unless a script is underway that uses it; the next run
        takes a new one."""
        with self.lock:
            if not self.underway:
                self.take_back(Block(0))

    def start(self) -> None:
        """Start the missing workers. Call with `lock` held."""
        self._calibrate()
        entry = self._native.address("rung_worker")
        with signals_blocked():
            for tid in self._unborn:  # each number comes once, whoever starts them
                words = self._births[tid]
                words[:] = (self.state_address, tid, self._epoch())
                try:
                    self._workers.append(_create_thread(entry, words.ctypes.data))
                except DeviceError:
                    self._unborn = chain((tid,), self._unborn)
                    raise

    def stop(self) -> None:
        """Let the workers leave and wait until they have. Call with `lock` held."""
        if self._workers:
            leave = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._native.address("rung_leave"))
            leave(self.state_address)
        for worker in self._workers:
            _libc().pthread_join(worker, None)
        self._workers = []
        self._unborn = iter(range(1, self.threads))
        self.rebind()

    def resize(self, threads: int) -> None:
        """Change the number of threads, between runs."""
        if threads < 1:
            raise SettingsError(f"threads={threads}", fix="give 1 or more")
        with self.lock:
            self.stop()
            self._new_state(threads)

    def bury(self, block: Block) -> None:
        """Give back a dead program's memory as soon as no late worker can read it."""
        self._buried.append(block)
        start = StateOffset.GATE
        if not self._state.data[start : start + 4].view(np.int32)[0]:
            self._buried.clear()

    def forget_workers(self) -> None:
        """After a fork: the child has no workers, and the parent's state is of no use to it."""
        self._left.append((self._state, self._births, self._scratch))  # a run may be about to start
        self._workers = []
        self._new_state(self.threads)

    def set_arena_aside(self) -> None:
        """Let programs bind to another arena from now on; the caller keeps the one they had."""
        self.take_back(Block(0))

    def take_back(self, arena: Block) -> None:
        """Let programs bind to this arena."""
        binding, bound, old = object(), self.bound, self.arena
        # all at once: nothing is called between, and the old one lives on until all is done
        self.arena = arena
        self.binding = binding
        bound[0] = binding
        del old

    def rebind(self) -> None:
        """Let programs ask for all addresses again."""
        self.take_back(self.arena)

    def _set_scratch(self, nbytes: int) -> None:
        """Give each thread this much scratch: address and stride are stored together."""
        block = Block(nbytes * self.threads)
        words, pair = _words(self._state, StateOffset.SCRATCH, 2), (block.address, nbytes)
        old = self._scratch
        if block.nbytes > self._scratch.nbytes:  # a signal handler has not made it larger
            words[:] = pair
            self._scratch = block
        del old

    def _new_state(self, threads: int) -> None:
        """A new state block, without scratch and workers."""
        state, births = Block(StateOffset.BYTES), np.zeros((threads, _WORKER_WORDS), np.int64)
        _words(state, StateOffset.NUM_THREADS)[0] = threads
        unborn, scratch, binding, bound = iter(range(1, threads)), Block(0), object(), self.bound
        old = (self._state, self._births, self._scratch)
        # all at once, as above
        self._state, self._births, self._scratch = state, births, scratch
        self.threads, self._unborn = threads, unborn
        self.binding = binding
        bound[0] = binding
        del old

    def _set_word(self, offset: StateOffset, value: int) -> None:
        _words(self._state, offset)[0] = value

    def _epoch(self) -> int:
        start = StateOffset.EPOCH
        return int(self._state.data[start : start + 4].view(np.int32)[0])

    def _calibrate(self) -> None:
        """Turn microseconds into pauses; nobody spins when there are more threads than cores."""
        crowded = self.threads > usable_cores()
        pauses = pauses_per_us()
        idle = 0.0 if crowded else self.spin_us
        self._set_word(StateOffset.IDLE_SPINS, int(idle * pauses))
        patience = 0.0 if crowded else _DONE_SPIN_US
        self._set_word(StateOffset.DONE_SPINS, int(patience * pauses))
        self._set_word(StateOffset.STEAL_SPINS, int(_STEAL_US * pauses))


def _words(block: Block, offset: int, count: int = 1) -> npt.NDArray[np.int64]:
    return block.data[offset : offset + 8 * count].view(np.int64)


@cache
def pauses_per_us() -> float:
    """How many pause instructions take a microsecond here (one takes 5 to 50 ns)."""
    spin = ctypes.CFUNCTYPE(None, ctypes.c_int64)(native_library().address("rung_spin"))
    count = 200
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        spin(count)
        best = min(best, time.perf_counter() - start)
    return count / (best * 1e6)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _create_thread(entry: int, argument: int) -> ctypes.c_void_p:
    """pthread_create of native code: no Python thread state, so the GIL is never involved."""
    thread = ctypes.c_void_p()
    status = _libc().pthread_create(
        ctypes.byref(thread), None, ctypes.c_void_p(entry), ctypes.c_void_p(argument)
    )
    if status != 0:
        raise DeviceError(
            f"cannot start a worker thread: {os.strerror(status)}", fix="lower RUNG_THREADS"
        )
    return thread


_made: list[Pool] = []
_making = threading.RLock()


def pool() -> Pool:
    """The process's pool, made at first use from the settings `threads` and `spin_us`."""
    if not _made:
        with _making:
            if not _made:
                _made.append(_make_pool())
    return _made[0]


def _make_pool() -> Pool:
    chosen = settings()
    made = Pool(chosen.threads or usable_cores(), chosen.spin_us)
    hold_at_fork(made.lock, made.forget_workers)
    atexit.register(_stop_at_exit, made)
    follow_settings(lambda old, new: _follow(made, old, new))
    return made


def _follow(made: Pool, old: Settings, new: Settings) -> None:
    """Take over a change of the settings `threads` and `spin_us`."""
    if (new.threads, new.spin_us) != (old.threads, old.spin_us):
        made.spin_us = new.spin_us
        made.resize(new.threads or usable_cores())


def _stop_at_exit(made: Pool) -> None:
    if made.lock.acquire(timeout=1.0):
        made.stop()
        made.lock.release()


def set_threads(threads: int) -> None:
    """Use `threads` threads from now on. Results do not depend on the number."""
    pool().resize(threads)
