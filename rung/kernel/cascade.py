"""Long sums are added up in parts: the step `cascade`, and which loops of a kernel need it.

The rounding error of n terms that are added one after the other grows with n. In parts of a fixed
number of terms, whose sums are added up in parts again, it grows with log(n), as in pairwise
summation. How a sum is cut depends on its length alone, so results do not depend on threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from rung.core.errors import ScheduleError
from rung.ir.expr import Expr, raw_call, read, transform, variables
from rung.kernel.combine import identity
from rung.kernel.deps import Access, accesses, local_buffers, pinned
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Buffer,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    children,
    map_stmts,
    walk_stmts,
)  # fmt: skip
from rung.kernel.loop_steps import Split
from rung.kernel.recognise import reads
from rung.kernel.rewrite import block, map_exprs
from rung.kernel.step import Step

TERMS = 16
"""Terms that are added up one after the other by up to `FEW_VECTORS` accumulators: one addition
more for so many."""
MANY_TERMS = 256
"""The same for the tile of a contraction, which has no registers for a second one, and for running
sums, in which each level costs an addition for each element."""
FEW_VECTORS = 8
"""Vectors of accumulators that leave registers for the sums of parts."""


@dataclass(frozen=True)
class LongSum:
    """What a loop adds up in `buffer[index]`, and does nothing else with. `loops` are those inside
    of it along which the index moves; `running`: the sum so far is read in the loop as well."""

    buffer: Buffer
    index: tuple[Expr, ...]
    loops: tuple[For, ...]
    running: bool

    @property
    def place(self) -> tuple[Expr, ...]:
        """The index in a buffer for one part."""
        return tuple(f.axis for f in self.loops)

    def nest(self, s: Stmt) -> Stmt:
        """A statement for each accumulator."""
        for f in reversed(self.loops):
            s = replace(f, body=block(s))
        return s

    def terms(self, vector_bytes: int) -> int:
        """How many terms are added up one after the other."""
        size = prod(f.axis.extent for f in self.loops) * self.buffer.dtype.itemsize
        return MANY_TERMS if self.running or size > FEW_VECTORS * vector_bytes else TERMS


@dataclass(frozen=True)
class Cascade(Step):
    """A loop that adds up numbers does so in parts of `terms` iterations, whose sums are added up.

        for k in range(100):           for k_s in range(7):
            s[()] += x[k]                  s_k: register(f32)
                                ->         s_k[()] = 0.0
                                           for k_p in range(minimum(16, 100 - 16*k_s)):
                                               s_k[()] += x[16*k_s + k_p]
                                           s[()] += s_k[()]
        cascade('k', 16)

    A sum that is read in the loop is `s[()] + s_k[()]` there. Loops of no more iterations, and
    those that do more with what they add up, stay as they are."""

    name = "cascade"
    axis: str
    terms: int

    def rewrite(self, kernel: Kernel) -> Kernel:
        if self.terms < 1:
            self.fail(f"parts of {self.terms} terms")
        self.require(kernel, self.axis)
        self.require_fresh(kernel, f"{self.axis}_s", f"{self.axis}_p")
        new = self.on_loops(kernel, self.axis, self._in_parts)
        if new is kernel:
            self.fail(f"loop {self.axis!r} adds up nothing of more than {self.terms} terms")
        return new

    def _in_parts(self, loop: For) -> Stmt:
        sums = long_sums(loop)
        if loop.axis.extent <= self.terms or loop.kind != "serial" or not sums:
            return loop
        split = Split(self.axis, self.terms, f"{self.axis}_s", f"{self.axis}_p")
        outer = split.on_loop(loop)
        inside: Stmt = outer.body
        parts = [(s, self._part(s)) for s in sums]
        for s, part in parts:
            inside = _collected(inside, s, part)
        starts = [s.nest(Store(p, s.place, identity("add", p.dtype))) for s, p in parts]
        ends = [s.nest(Accumulate(s.buffer, s.index, "add", read(p, s.place))) for s, p in parts]
        allocs = [Alloc(part) for _, part in parts]
        return replace(outer, body=block(*allocs, *starts, inside, *ends))

    def _part(self, s: LongSum) -> Buffer:
        shape = tuple(f.axis.extent for f in s.loops)
        apart = all(f.kind in ("unroll", "vector") for f in s.loops)
        name = f"{s.buffer.name}_{self.axis}"
        return Buffer(name, s.buffer.dtype, shape, "register" if apart else "scratch")


def _collected(s: Stmt, found: LongSum, part: Buffer) -> Stmt:
    """`s` with what it adds to a sum added to `part`."""
    so_far = read(found.buffer, found.index)
    both = raw_call("add", (so_far, read(part, found.place)), part.dtype)

    def running(e: Expr) -> Expr | None:
        return both if e is so_far else None

    def collected(x: Stmt) -> Stmt | None:
        if isinstance(x, Accumulate) and x.buffer is found.buffer:
            return replace(x, buffer=part, index=found.place)
        return None

    s = map_stmts(s, collected)
    return map_exprs(s, lambda e: transform(e, running)) if found.running else s


def long_sums(loop: For) -> list[LongSum]:
    """The sums that a loop adds up."""
    private = local_buffers(loop.body)
    by_buffer: dict[Buffer, list[Access]] = {}
    for a in accesses(loop.body):
        if a.buffer not in private:
            by_buffer.setdefault(a.buffer, []).append(a)
    found = [_long_sum(loop, b, uses) for b, uses in by_buffer.items() if not b.dtype.is_bool]
    return [x for x in found if x is not None]


def _adds_floats(s: Stmt) -> bool:
    return isinstance(s, Accumulate) and s.combine == "add" and s.buffer.dtype.is_float


def _long_sum(loop: For, buffer: Buffer, uses: list[Access]) -> LongSum | None:
    """The sum in a buffer, unless the loop does more with it."""
    writes = [a for a in uses if a.write]
    if not writes or any(a.combine != "add" for a in writes):
        return None
    first = writes[0]
    along = variables(*first.index)
    loops = tuple(f for f in first.loops if f.axis in along)
    if loop.axis in along or any(a.index != first.index for a in uses):
        return None
    extents = {f.axis: f.extent for f in loops}
    for a in uses:
        around = {f.axis: f.extent for f in a.loops}
        if any(around.get(axis) is not extent for axis, extent in extents.items()):
            return None
    inside = {loop.axis, *(f.axis for f in first.loops)}
    if any(not variables(f.extent).isdisjoint(inside) for f in loops):
        return None
    bare = replace(first, loops=())
    axes = pinned(bare, bare, loops)
    if axes is None or any(f.axis not in axes for f in loops):
        return None
    guarded = any(_is_guarded(s, buffer) for s in walk_stmts(loop.body))
    if guarded and (len(writes) < len(uses) or buffer.role not in ("register", "scratch")):
        return None
    return LongSum(buffer, first.index, loops, len(writes) < len(uses))


def _is_guarded(s: Stmt, buffer: Buffer) -> bool:
    """Whether what a statement does with a buffer is not done in all iterations."""
    if isinstance(s, If):
        return True
    if not isinstance(s, Store | Accumulate):
        return False
    guarded = any(r.source is buffer and r.guard is not None for r in reads(s))
    return guarded or (s.buffer is buffer and s.guard is not None)


# ---- which loops need it


def in_parts(kernel: Kernel, vector_bytes: int) -> Kernel:
    """The kernel with no long sum of floats that is added up one term after the other, as far as
    its loops allow."""
    while (step := _next_cascade(kernel.body, vector_bytes)) is not None:
        try:
            kernel = step.apply(kernel)
        except ScheduleError:
            return kernel
    return kernel


def _next_cascade(s: Stmt, vector_bytes: int) -> Cascade | None:
    """The step for the first loop, innermost ones first, that adds up too many terms."""
    for c in children(s):
        found = _next_cascade(c, vector_bytes)
        if found is not None:
            return found
    if not isinstance(s, For) or s.kind != "serial" or _most_terms(s) <= 2 * TERMS:
        return None
    if not any(map(_adds_floats, walk_stmts(s.body))):
        return None
    for x in long_sums(s):
        if not x.buffer.dtype.is_float:
            continue
        terms, each = x.terms(vector_bytes), _terms(s.body, x)
        iterations = max(terms // each, 1)
        if each * s.axis.extent > 2 * terms and s.axis.extent > iterations:
            return Cascade(s.axis.name, iterations)
    return None


def _most_terms(s: Stmt) -> int:
    """At most so many statements are performed."""
    inside = sum(map(_most_terms, children(s))) if children(s) else 1
    return inside * s.axis.extent if isinstance(s, For) else inside


def _terms(s: Stmt, found: LongSum) -> int:
    """How many terms one place of a sum gets, one after the other."""
    if isinstance(s, Accumulate):
        return int(s.buffer is found.buffer)
    inside = sum(_terms(c, found) for c in children(s))
    if isinstance(s, For) and s.kind != "vector" and s.axis not in variables(*found.index):
        return inside * s.axis.extent
    return inside
