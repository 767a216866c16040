"""Calls that follow one another with nothing between them.

Python looks after signals, and raises what other threads ask it to, between two instructions of its
own. Where a run has written over memory, the places that hold it have to say so before that can
happen. So the run and what it changes are one list of calls of functions that are written in C, and
one such function makes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import starmap
from operator import call, setitem
from typing import Any, TypeAlias

NativeCall = tuple[Any, ...]
"""A function that is written in C, and its arguments."""
Turn: TypeAlias = tuple[list[int], int]
"""A count (a list of one) of the runs that have changed something, and what it was when this run
was prepared: as it takes place, it is one more. Where it is another one by then, a signal handler
has come between."""


def with_turn(
    turn: Turn | None, first: Sequence[NativeCall], then: Sequence[NativeCall]
) -> tuple[Sequence[NativeCall], Sequence[NativeCall]]:
    """What is to be done before a run and after it, with the look at its turn (ValueError) and the
    count of it."""
    if turn is None:
        return first, then
    count, number = turn
    return ((count.index, number), *first), (*then, (setitem, count, 0, number + 1))


def in_one_breath(steps: Iterable[NativeCall]) -> None:
    """Make the calls, in order; no signal handler and no exception from outside comes between. An
    exception of one of them ends the rest.

    Nothing that Python code is called for may die by it (objects with weak references, or with
    finalizers): the caller holds what is replaced."""
    deque(starmap(call, steps), 0)
