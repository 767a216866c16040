"""Calls that follow one another with nothing between them.

Python looks after signals, and raises what other threads ask it to, between two instructions of its
own. Where a run has written over memory, the places that hold it have to say so before that can
happen. So the run and what it changes are one list of calls of functions that are written in C, and
one such function makes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import starmap
from operator import call
from typing import Any

NativeCall = tuple[Any, ...]
"""A function that is written in C, and its arguments."""


def in_one_breath(steps: Iterable[NativeCall]) -> None:
    """Make the calls, in order; no signal handler and no exception from outside comes between. An
    exception of one of them ends the rest.

    Nothing that Python code is called for may die by it (objects with weak references, or with
    finalizers): the caller holds what is replaced."""
    deque(starmap(call, steps), 0)
