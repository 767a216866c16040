"""Long sums are added up in parts: the step `cascade`, and which loops of a kernel need it.

The rounding error of n terms that are added one after the other grows with n. In parts of a fixed
number of terms, whose sums are added up in parts again, it grows with log(n), as in pairwise
summation. How a sum is cut depends on its length alone, so results do not depend on threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from math import prod

from rung.core.dtype import float32
from rung.core.errors import ScheduleError
from rung.ir.expr import Const, Expr, Read, raw_call, read, transform, variables, walk
from rung.kernel.combine import identity
from rung.kernel.deps import Access, accesses, local_buffers, pinned
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    children,
    map_stmts,
    remembered,
    walk_stmts,
    with_body,
)  # fmt: skip
from rung.kernel.loop_steps import Split
from rung.kernel.recognise import reads
from rung.kernel.reduce_steps import Wide
from rung.kernel.rewrite import axis_names, block, loops_named, map_exprs
from rung.kernel.step import Step

TERMS = 4
"""Terms that are added up one after the other by up to `FEW_VECTORS` accumulators, and parts of
these: one addition more for so many. Four equal numbers add up without an error."""
FEW_TERMS = 16
"""Loops of so many stay as they are."""
MANY_TERMS = 256
"""Terms, and parts, for the tile of a contraction, which has no registers for a second one, and for
running sums, in which each level costs an addition for each element."""
SIZED_TERMS = 4
"""Terms, and parts, where the number of terms depends on sizes: each level is a loop that a few
terms go through as well."""
WIDE = "_s_s_s"
"""Sums over loops of this many levels of parts are kept in f64 registers: to add to these costs
nothing there, and what is left over of the parts, and the lanes, are added up without an error."""
SIZED_WIDE = "_s"
"""The same, where parts are longer because the number of terms depends on sizes."""
FEW_VECTORS = 8
"""Vectors of accumulators that leave registers for the sums of parts."""


@dataclass(frozen=True)
class Place:
    """`buffer[index]`, kept as `part[own]` in a buffer for one part. `path` are the loops and
    conditions on which the index depends."""

    index: tuple[Expr, ...]
    own: tuple[Expr, ...]
    path: tuple[For | If, ...]

    def nest(self, *stmts: Stmt) -> Stmt:
        """Statements for each element of the place."""
        s: Stmt = block(*stmts)
        for f in reversed(self.path):
            s = with_body(f, block(s))
        return s


@dataclass(frozen=True)
class LongSum:
    """What a loop adds up in a buffer, and does nothing else with; `shape` is that of a buffer for
    one part. `running`: the sum so far is read in the loop as well."""

    buffer: Buffer
    places: tuple[Place, ...]
    shape: tuple[int, ...]
    running: bool = False

    def terms(self, vector_bytes: int) -> int:
        """How many terms are added up one after the other."""
        size = prod(self.shape) * self.buffer.dtype.itemsize
        return MANY_TERMS if self.running or size > FEW_VECTORS * vector_bytes else TERMS

    def part(self, axis: str) -> Buffer:
        """The buffer for one part of the loop over `axis`."""
        loops = [f for p in self.places for f in p.path]
        apart = all(isinstance(f, For) and f.kind in ("unroll", "vector") for f in loops)
        role = "register" if apart or self.buffer.role == "register" else "scratch"
        return Buffer(f"{self.buffer.name}_{axis}", self.buffer.dtype, self.shape, role)

    def start(self, part: Buffer) -> Stmt:
        """Nothing is added up yet."""
        zero = identity("add", part.dtype)
        return block(*(p.nest(Store(part, p.own, zero)) for p in self.places))

    def end(self, part: Buffer) -> Stmt:
        """What was added up is added to the sum. An element that two places have in common is
        added once."""
        zero, several = identity("add", part.dtype), len(self.places) > 1
        stmts = []
        for p in self.places:
            add = Accumulate(self.buffer, p.index, "add", read(part, p.own))
            stmts.append(p.nest(add, *([Store(part, p.own, zero)] if several else [])))
        return block(*stmts)

    def collected(self, s: Stmt, part: Buffer) -> Stmt:
        """`s` with what it adds to the sum added to `part`."""
        own = {p.index: p.own for p in self.places}

        def add(x: Stmt) -> Stmt | None:
            if isinstance(x, Accumulate) and x.buffer is self.buffer:
                return replace(x, buffer=part, index=own[x.index])
            return None

        s = map_stmts(s, add)
        if not self.running:
            return s
        (place,) = self.places
        so_far = read(self.buffer, place.index)
        both = raw_call("add", (so_far, read(part, place.own)), part.dtype)
        return map_exprs(s, lambda e: transform(e, lambda x: both if x is so_far else None))


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
        parts = [(s, s.part(self.axis)) for s in sums]
        for s, part in parts:
            inside = s.collected(inside, part)
        starts = [s.start(part) for s, part in parts]
        ends = [s.end(part) for s, part in parts]
        allocs = [Alloc(part) for _, part in parts]
        return replace(outer, body=block(*allocs, *starts, inside, *ends))


@remembered
def long_sums(loop: For) -> tuple[LongSum, ...]:
    """The sums that a loop adds up."""
    private = local_buffers(loop.body)
    by_buffer: dict[Buffer, list[Access]] = {}
    for a in accesses(loop.body):
        if a.buffer not in private:
            by_buffer.setdefault(a.buffer, []).append(a)
    found = [_long_sum(loop, b, uses) for b, uses in by_buffer.items() if not b.dtype.is_bool]
    return tuple(x for x in found if x is not None)


def _adds_floats(s: Stmt) -> bool:
    return isinstance(s, Accumulate) and s.combine == "add" and s.buffer.dtype.is_float


def _long_sum(loop: For, buffer: Buffer, uses: list[Access]) -> LongSum | None:
    """The sum in a buffer, unless the loop does more with it."""
    writes = [a for a in uses if a.write]
    if not writes or any(a.combine != "add" for a in writes):
        return None
    if any(loop.axis in variables(*a.index) for a in uses):
        return None
    running = len(writes) < len(uses)
    guarded = any(_is_guarded(s, buffer) for s in walk_stmts(loop.body))
    if guarded and (running or buffer.role not in ("register", "scratch")):
        return None
    one = _one_place(loop, uses)
    if one is not None:
        shape = tuple(f.axis.extent for f in _loops(one))
        return LongSum(buffer, (one,), shape, running)
    if running or buffer.role != "register":
        return None
    places = tuple(dict.fromkeys(_places(loop.body, buffer, ())))
    inside = {s.axis for s in walk_stmts(loop) if isinstance(s, For)}
    bounds = [e for p in places for e in _bounds(p)]
    if loop.axis in variables(*bounds) or any(isinstance(e, Read) for e in walk(*bounds)):
        return None
    if any(not variables(f.extent).isdisjoint(inside) for p in places for f in _loops(p)):
        return None
    return LongSum(buffer, places, buffer.shape)


def _one_place(loop: For, uses: list[Access]) -> Place | None:
    """The place that all uses have in common, an element for each iteration of the loops inside."""
    first = uses[0]
    along = variables(*first.index)
    loops = tuple(f for f in first.loops if f.axis in along)
    extents = {f.axis: f.extent for f in loops}
    for a in uses:
        around = {f.axis: f.extent for f in a.loops}
        same = all(around.get(axis) is extent for axis, extent in extents.items())
        if a.index != first.index or not same:
            return None
    inside = {loop.axis, *(f.axis for f in first.loops)}
    if any(not variables(f.extent).isdisjoint(inside) for f in loops):
        return None
    bare = replace(first, loops=())
    axes = pinned(bare, bare, loops)
    if axes is None or any(f.axis not in axes for f in loops):
        return None
    return Place(first.index, tuple(f.axis for f in loops), loops)


def _places(s: Stmt, buffer: Buffer, path: tuple[For | If, ...]) -> Iterator[Place]:
    """Where a statement adds to a buffer, each with the loops and conditions that matter to it."""
    if isinstance(s, For | If):
        yield from _places(s.body, buffer, (*path, s))
    elif isinstance(s, Block):
        for c in s.stmts:
            yield from _places(c, buffer, path)
    elif isinstance(s, Accumulate) and s.buffer is buffer:
        needed = variables(*s.index, *(f.condition for f in path if isinstance(f, If)))
        kept = tuple(f for f in path if isinstance(f, If) or f.axis in needed)
        yield Place(s.index, s.index, tuple(with_body(f, Block(())) for f in kept))


def _loops(place: Place) -> Iterator[For]:
    return (f for f in place.path if isinstance(f, For))


def _bounds(place: Place) -> Iterator[Expr]:
    return (f.condition if isinstance(f, If) else f.extent for f in place.path)


def _is_guarded(s: Stmt, buffer: Buffer) -> bool:
    """Whether what a statement does with a buffer is not done in all iterations."""
    if isinstance(s, If):
        return True
    if not isinstance(s, Store | Accumulate):
        return False
    guarded = any(r.source is buffer and r.guard is not None for r in reads(s))
    return guarded or (s.buffer is buffer and s.guard is not None)


# ---- which loops need it


def in_parts(kernel: Kernel, vector_bytes: int, axes: Iterable[str] = ()) -> Kernel:
    """The kernel with no long sum of floats that is added up one term after the other, as far as
    its loops (those over `axes`, if given) allow."""
    only = set(axes)
    sized = bool(kernel.sizes)
    while (step := _next_cascade(kernel.body, kernel.body, vector_bytes, only, sized)) is not None:
        try:
            kernel = step.apply(kernel)
        except ScheduleError:
            return kernel
        only |= {f"{step.axis}_s"} if only else set()
    return kernel if axes else _kept_in_f64(kernel)


def _kept_in_f64(kernel: Kernel) -> Kernel:
    """The kernel with the sums of loops of many levels in f64 registers, and what these are
    gathered in."""
    names, wide_from = set(axis_names(kernel.body)), SIZED_WIDE if kernel.sizes else WIDE
    tops = [n for n in names if n.endswith(wide_from) and f"{n}_s" not in names]
    loops = (f for n in sorted(tops) for f in loops_named(kernel.body, n))
    sums = dict.fromkeys(s.buffer for f in loops for s in long_sums(f) if not s.running)
    wide = [b for b in sums if b.role == "register" and b.dtype is float32]
    for x in walk_stmts(kernel.body):
        if isinstance(x, Accumulate) and isinstance(x.value, Read) and x.combine == "add":
            kept = x.buffer.role == "register" and x.buffer.dtype is float32
            if kept and x.value.source in wide:
                wide.append(x.buffer)
    for name in dict.fromkeys(b.name for b in wide):
        kernel = Wide(name).apply(kernel)
    return kernel


def _next_cascade(
    s: Stmt, whole: Stmt, vector_bytes: int, only: Set[str], sized: bool
) -> Cascade | None:
    """The step for the first loop of `s`, innermost ones first, that adds up too many terms. Loops
    over one axis, those of the tiles at the edges, are cut alike: as the largest tile is."""
    for c in children(s):
        found = _next_cascade(c, whole, vector_bytes, only, sized)
        if found is not None:
            return found
    if only and not (isinstance(s, For) and s.axis.name in only):
        return None
    if not isinstance(s, For) or s.kind != "serial" or _most_terms(s) <= FEW_TERMS:
        return None
    if not _has_float_sum(s):
        return None
    for x in long_sums(s):
        if not x.buffer.dtype.is_float:
            continue
        alike = (y for f in loops_named(whole, s.axis.name) for y in long_sums(f))
        terms, each = max(y.terms(vector_bytes) for y in alike), _terms(s.body, x)
        iterations, most = max(terms // each, 1), max(2 * terms, FEW_TERMS)
        if terms == TERMS and s.axis.name.endswith("_s"):
            iterations = most = TERMS
        if sized and not isinstance(s.extent, Const):
            iterations = most = max(iterations, SIZED_TERMS)
        if each * s.axis.extent > most and s.axis.extent > iterations:
            return Cascade(s.axis.name, iterations)
    return None


@remembered
def _has_float_sum(s: Stmt) -> bool:
    return _adds_floats(s) or any(map(_has_float_sum, children(s)))


@remembered
def _most_terms(s: Stmt) -> int:
    """At most so many statements are performed."""
    inside = sum(map(_most_terms, children(s))) if children(s) else 1
    return inside * s.axis.extent if isinstance(s, For) else inside


def _terms(s: Stmt, found: LongSum) -> int:
    """How many terms one place of a sum gets, one after the other."""
    if isinstance(s, Accumulate):
        return int(s.buffer is found.buffer)
    inside = sum(_terms(c, found) for c in children(s))
    if isinstance(s, For) and s.kind != "vector" and not _moves_along(found, s):
        return inside * s.axis.extent
    return inside


def _moves_along(found: LongSum, loop: For) -> bool:
    return any(loop.axis in variables(*p.index) for p in found.places)
