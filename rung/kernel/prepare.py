"""What a kernel does only once when some of its inputs are the same in many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from rung.kernel.deps import written_buffers
from rung.kernel.loop import Alloc, Kernel, Stmt
from rung.kernel.rewrite import used_buffers


def phases(kernel: Kernel) -> list[Stmt]:
    """The phases that become code."""
    return [p for p in kernel.phases if not isinstance(p, Alloc)]


def preparing(kernel: Kernel, fixed: Set[str]) -> tuple[bool, ...]:
    """For each phase, whether it makes temporaries of nothing but the inputs `fixed` (by name), so
    that one run of it is enough for as long as these stay the same."""
    params = set(kernel.params)
    made = [written_buffers(p) & params for p in phases(kernel)]
    writers = Counter(b for buffers in made for b in buffers)
    found: list[bool] = []
    for phase, buffers in zip(phases(kernel), made, strict=True):
        alone = all(b.role == "temp" and writers[b] == 1 for b in buffers)
        others = (used_buffers(phase) & params) - buffers
        found.append(bool(buffers) and alone and all(b.name in fixed for b in others))
    return tuple(found)
