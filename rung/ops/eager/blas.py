"""How many threads BLAS uses for what is computed at once.

A program that is new is compiled beside its first steps, on the same cores. Threads of BLAS wait
for each other by spinning: where one of them has no core for itself, a product of 50 µs takes the
10 ms until that one is scheduled again. So products are computed by one thread, unless they last
many times as long as handing on a part of them.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from types import TracebackType
from typing import Any, Final

LARGE: Final = 1 << 27
"""Products of so many multiplications, some milliseconds on one thread, use all threads."""
_PREFIXES, _SUFFIXES = ("scipy_", ""), ("64_", "")


@cache
def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How OpenBLAS tells and is told the number of its threads; None where NumPy has another."""
    core: Any = sys.modules.get("numpy._core._multiarray_umath")
    try:
        library = ctypes.CDLL(core.__file__)  # finds what it is linked with, too
    except (AttributeError, OSError):
        return None
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
            tell = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
            if get is not None and tell is not None:
                tell.argtypes, tell.restype = (ctypes.c_int,), None
                return get, tell
    return None


class _OneThread:
    """While it is entered, BLAS uses one thread. `lock` is one that a signal handler may take while
    this thread has it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth, self.full = 0, 1

    def __enter__(self) -> None:
        functions = _functions()
        if functions is None:
            return
        with self.lock:
            if not self.depth:
                self.full = functions[0]()
                if self.full > 1:
                    functions[1](1)
            self.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        functions = _functions()
        if functions is None:
            return
        with self.lock:
            self.depth -= 1
            if not self.depth and self.full > 1:
                functions[1](self.full)

    def with_all(self, function: Callable[..., Any], *operands: Any, **others: Any) -> Any:
        """What a function gives with all threads."""
        functions = _functions()
        if functions is None or not self.depth or self.full <= 1:
            return function(*operands, **others)
        functions[1](self.full)
        try:
            return function(*operands, **others)
        finally:
            functions[1](1)


one_thread: Final = _OneThread()


def threaded(function: Callable[..., Any], multiplications: int) -> Callable[..., Any]:
    """A product of matrices that uses all threads where it is large."""
    if multiplications < LARGE:
        return function
    return partial(one_thread.with_all, function)
