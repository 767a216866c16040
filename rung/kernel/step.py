"""The base of schedule steps: checked rewrites of a kernel that keep its meaning.

Axes and buffers are named; a step acts on every loop over the axis, so that the copies that `peel`
and `branch` make are scheduled together.
"""

from __future__ import annotations

import itertools
from dataclasses import MISSING, dataclass, fields, replace
from typing import ClassVar, NoReturn

from rung.core.errors import ScheduleError
from rung.core.source import NOWHERE
from rung.ir.expr import var
from rung.kernel.deps import Access
from rung.kernel.loop import Alloc, Block, Buffer, For, Kernel, Stmt, is_name, loop, walk_stmts
from rung.kernel.rewrite import axis_names, replace_loops
from rung.kernel.text import place_text


@dataclass(frozen=True)
class Step:
    """One rewrite. `name` is its spelling in the text of a schedule."""

    name: ClassVar[str]

    def __str__(self) -> str:
        values = [(f, getattr(self, f.name)) for f in fields(self)]
        while values and values[-1][0].default is not MISSING:
            if values[-1][1] != values[-1][0].default:
                break
            values.pop()
        return f"{self.name}({', '.join(repr(v) for _, v in values)})"

    def apply(self, kernel: Kernel) -> Kernel:
        """The rewritten kernel. Raises ScheduleError where a side condition does not hold."""
        new = self.rewrite(kernel)
        return replace(new, schedule=(*kernel.schedule, str(self)))

    def holds(self, kernel: Kernel) -> bool:
        """Whether the side conditions of the step hold."""
        try:
            self.rewrite(kernel)
        except ScheduleError:
            return False
        return True

    def rewrite(self, kernel: Kernel) -> Kernel:
        """The rewrite itself, without the note in `Kernel.schedule`."""
        raise NotImplementedError

    def fail(self, message: str, fix: str | None = None) -> NoReturn:
        """Raise the ScheduleError of this step."""
        raise ScheduleError(f"{self}: {message}", fix=fix, source=NOWHERE)

    # -- what the steps share

    def require(self, kernel: Kernel, *axes: str) -> None:
        """Check that there is a loop over each axis."""
        known = axis_names(kernel.body)
        for axis in axes:
            if axis not in known:
                self.fail(f"no loop {axis!r}", fix=f"the loops are {', '.join(known) or 'none'}")

    def require_fresh(self, kernel: Kernel, *names: str, instead_of: tuple[str, ...] = ()) -> None:
        """Check that the names are usable for new axes."""
        taken = set(axis_names(kernel.body)) - set(instead_of)
        for name in names:
            if not is_name(name):
                self.fail(f"{name!r} cannot name an axis")
            if name in taken or names.count(name) > 1:
                self.fail(f"there is an axis {name!r} already")

    def on_loops(self, kernel: Kernel, axis: str, f: object) -> Kernel:
        """The kernel with each loop over `axis` replaced by `f(loop)`. A phase stays one phase
        where its parts share local memory: then a loop of one iteration is around them."""
        self.require(kernel, axis)
        assert callable(f)
        taken = set(axis_names(kernel.body))
        phases: list[Stmt] = []
        for phase in kernel.phases:
            new = replace_loops(phase, axis, f)
            parts = new.stmts if isinstance(new, Block) else (new,)
            if new is not phase and len(parts) > 1 and any(isinstance(p, Alloc) for p in parts):
                numbers = (f"{axis}_w{n}" for n in itertools.count())
                name = next(n for n in numbers if n not in taken)
                taken.add(name)
                parts = (loop(var(name, 1), *parts),)
            phases.extend(parts)
        return replace(kernel, body=Block(tuple(phases)))

    def buffer(self, kernel: Kernel, name: str) -> Buffer:
        """The buffer of that name. After peeling several local ones may share it: the first."""
        known = (*kernel.params, *_allocated(kernel.body))
        found = next((b for b in known if b.name == name), None)
        return found if found is not None else self.fail(f"no buffer {name!r}")


def _allocated(s: Stmt) -> list[Buffer]:
    return [a.buffer for a in walk_stmts(s) if isinstance(a, Alloc)]


def describe_conflict(pair: tuple[Access, Access]) -> str:
    """`writes c[i] and reads c[i - 1]`"""
    return " and ".join(f"{_verb(a)} {place_text(a.buffer, a.index)}" for a in pair)


def _verb(a: Access) -> str:
    if not a.write:
        return "reads"
    return "writes" if a.combine is None else f"{a.combine}s into"


def loop_text(loop: For) -> str:
    """How a message names a loop."""
    return repr(loop.axis.name)
