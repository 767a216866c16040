"""Schedule steps on the order of loops and statements: reorder, fission, fuse_loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rung.ir.expr import Expr, Var, variables
from rung.kernel.deps import accesses, conflicts, local_buffers, pinned
from rung.kernel.loop import Alloc, Block, Buffer, For, If, Kernel, Stmt, walk_stmts, with_body
from rung.kernel.rewrite import (
    axis_names,
    block,
    loops_named,
    replace_buffer,
    substitute_stmt,
    used_buffers,
)  # fmt: skip
from rung.kernel.step import Step, describe_conflict


@dataclass(frozen=True)
class Reorder(Step):
    """Nested loops in the given order, outermost first.

        for i in range(8):                           for i in range(8):
            for j in range(8):                           for j in range(8):
                c[i, j] = 0.0                                c[i, j] = 0.0
                for k in range(8):                ->     for k in range(8):
                    c[i, j] += a[i, k]*b[k, j]               for j in range(8):
                                                                 c[i, j] += a[i, k]*b[k, j]
        reorder(('i', 'k', 'j'))

    No dependence may be turned round. A loop that moves into a later one is first distributed over
    the statements beside that; buffers local to it grow by its extent (`m` becomes `m[j]`)."""

    name = "reorder"
    axes: tuple[str, ...]

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, *self.axes)
        if len(set(self.axes)) < len(self.axes):
            self.fail("an axis is named twice")
        return replace(kernel, body=block(self._within(kernel.body)))

    def _within(self, s: Stmt) -> Stmt:
        """Order each outermost loop over one of the axes."""
        if isinstance(s, Block):
            return block(*[self._within(c) for c in s.stmts])
        if isinstance(s, For) and s.axis.name in self.axes:
            return self._ordered(s)
        if isinstance(s, For | If):
            return with_body(s, block(self._within(s.body)))
        return s

    def _ordered(self, nest: For) -> Stmt:
        prefix, body = _perfect(nest, self.axes)
        deeper = [self.axes.index(n) for n in axis_names(body) if n in self.axes]
        first_deeper = min(deeper, default=len(self.axes))
        place = {loop.axis: self.axes.index(loop.axis.name) for loop in prefix}
        movers = [f for f in prefix if place[f.axis] > first_deeper]
        movers.sort(key=lambda f: place[f.axis])
        stay = [f for f in prefix if f not in movers]
        stay.sort(key=lambda f: place[f.axis])
        check_permutation(self, prefix, [*stay, *movers], body)
        if not movers:
            inner = self._within(body)
        else:
            hidden = [s for s in body.stmts if _holds(s, self.axes) and not self._is_ordered(s)]
            if hidden:
                self.fail(f"loop {_outer_name(hidden[0])!r} is between", fix="name it as well")
            parts = distribute(self, movers, body, lambda s: _holds(s, self.axes))
            if len(parts) == 1:
                self.fail(f"what is in loop {prefix[-1].axis.name!r} cannot be taken apart")
            inner = block(*[self._within(p) for p in parts])
        return _nest(stay, inner)

    def _is_ordered(self, s: Stmt) -> bool:
        return isinstance(s, For) and s.axis.name in self.axes


def _outer_name(s: Stmt) -> str:
    return s.axis.name if isinstance(s, For) else "if"


def _holds(s: Stmt, axes: Sequence[str]) -> bool:
    return any(isinstance(x, For) and x.axis.name in axes for x in walk_stmts(s))


def _perfect(nest: For, axes: Sequence[str]) -> tuple[list[For], Block]:
    """The loops over `axes` that are directly in each other, and what is inside."""
    prefix = [nest]
    while len(prefix[-1].body.stmts) == 1:
        inside = prefix[-1].body.stmts[0]
        if not isinstance(inside, For) or inside.axis.name not in axes:
            break
        prefix.append(inside)
    return prefix, prefix[-1].body


def _nest(loops: Sequence[For], body: Stmt) -> Stmt:
    for loop in reversed(loops):
        body = with_body(loop, block(body))
    return body


def check_permutation(step: Step, old: list[For], new: list[For], body: Block) -> None:
    """Check that the perfect nest `old` around `body` may be nested as `new`."""
    if old == new:
        return
    for loop in old:
        if loop.kind in ("parallel", "vector"):
            step.fail(f"loop {loop.axis.name!r} is {loop.kind} already")
    for i, loop in enumerate(new):
        for later in new[i + 1 :]:
            if later.axis in variables(loop.extent):
                name = loop.axis.name
                step.fail(f"the extent of {name!r} depends on {later.axis.name!r}")
    band = tuple(old)
    private = local_buffers(body)
    found = [a for a in accesses(body) if a.buffer not in private]
    written = frozenset(a.buffer for a in found if a.write)
    for pair in conflicts(found, found):
        axes = pinned(*pair, band, written)
        if axes is None:
            continue
        free = [f for f in old if f.axis not in axes]
        if [f for f in new if f.axis not in axes] != free:
            names = " and ".join(repr(f.axis.name) for f in free)
            step.fail(f"an order of {names} is needed: an iteration {describe_conflict(pair)}")


def distribute(step: Step, loops: Sequence[For], body: Block, alone: object) -> list[Stmt]:
    """The nest `loops` around each group of statements of `body`: those for which `alone` holds
    are groups of their own. Local buffers of the body are grown by the extents of the loops."""
    assert callable(alone)
    groups: list[list[Stmt]] = []
    allocs: list[Buffer] = []
    fresh = True
    for s in body.stmts:
        if isinstance(s, Alloc):
            allocs.append(s.buffer)
            continue
        single = bool(alone(s))
        if fresh or single:
            groups.append([])
        groups[-1].append(s)
        fresh = single
    blocks: list[Stmt] = [Block(tuple(g)) for g in groups]
    _check_distribution(step, loops, blocks, set(allocs))
    grown: list[Stmt] = []
    for buffer in allocs:
        users = [i for i, b in enumerate(blocks) if buffer in used_buffers(b)]
        if len(users) == 1:
            blocks[users[0]] = block(Alloc(buffer), blocks[users[0]])
        elif users:
            big, blocks = _grow(buffer, loops, blocks)
            grown.append(Alloc(big))
    return [*grown, *(_nest(loops, b) for b in blocks)]


def _grow(buffer: Buffer, loops: Sequence[For], blocks: list[Stmt]) -> tuple[Buffer, list[Stmt]]:
    """A local buffer with one more dim for each loop."""
    shape = tuple(f.axis.extent for f in loops) + buffer.shape
    big = Buffer(buffer.name, buffer.dtype, shape, buffer.role)
    axes: tuple[Expr, ...] = tuple(f.axis for f in loops)

    def place(index: tuple[Expr, ...]) -> tuple[Buffer, tuple[Expr, ...]]:
        return big, axes + index

    return big, [replace_buffer(b, buffer, place) for b in blocks]


def _check_distribution(
    step: Step, loops: Sequence[For], groups: Sequence[Stmt], private: set[Buffer]
) -> None:
    band = tuple(loops)
    for f in loops:
        if f.kind in ("parallel", "vector"):
            step.fail(f"loop {f.axis.name!r} is {f.kind} already")
    found = []
    for g in groups:
        hidden = private | local_buffers(g)
        found.append([a for a in accesses(g) if a.buffer not in hidden])
    written = frozenset(a.buffer for g in found for a in g if a.write)
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            for pair in conflicts(first, second):
                axes = pinned(*pair, band, written)
                if axes is not None and any(f.axis not in axes for f in band):
                    names = " and ".join(repr(f.axis.name) for f in band if f.axis not in axes)
                    what = describe_conflict(pair)
                    step.fail(f"{names} cannot be distributed: an iteration {what}")


@dataclass(frozen=True)
class Fission(Step):
    """A loop is distributed over the statements of its body.

        for i in range(8):             for i in range(8):
            y[i] = x[i]           ->       y[i] = x[i]
            z[i] = y[i]                for i in range(8):
                                           z[i] = y[i]

    Statements may share elements only within an iteration. Local buffers of the body grow by the
    extent of the loop."""

    name = "fission"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        return self.on_loops(kernel, self.axis, self._distribute)

    def _distribute(self, loop: For) -> Stmt:
        return block(*distribute(self, [loop], loop.body, lambda _: True))


@dataclass(frozen=True)
class FuseLoops(Step):
    """Two neighbouring loops of one extent become one.

        for i in range(8):             for i in range(8):
            y[i] = x[i]           ->       y[i] = x[i]
        for j in range(8):                 z[i] = y[i]
            z[j] = y[j]

    What the second touches of the first's must be of the same iteration."""

    name = "fuse_loops"
    first: str
    second: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.first, self.second)
        body = self._within(kernel.body)
        if body is kernel.body:
            self.fail(f"loop {self.second!r} does not follow loop {self.first!r} directly")
        return replace(kernel, body=block(body))

    def _within(self, s: Stmt) -> Stmt:
        if isinstance(s, Block):
            done: list[Stmt] = []
            for c in s.stmts:
                before = done[-1] if done else None
                if _is_over(before, self.first) and _is_over(c, self.second):
                    assert isinstance(before, For) and isinstance(c, For)
                    done[-1] = self._joined(before, c)
                else:
                    done.append(self._within(c))
            same = len(done) == len(s.stmts) and all(map(_same, done, s.stmts))
            return s if same else block(*done)
        if isinstance(s, For | If):
            body = self._within(s.body)
            return s if body is s.body else with_body(s, block(body))
        return s

    def _joined(self, a: For, b: For) -> Stmt:
        if a.extent is not b.extent:
            self.fail(f"the extents of {self.first!r} and {self.second!r} differ")
        if a.kind != b.kind:
            self.fail(f"loop {self.first!r} is {a.kind}, loop {self.second!r} is {b.kind}")
        if self.first in b.body.axes or self.second in a.body.axes:
            self.fail("one has a loop over the axis of the other inside")
        mapping: dict[Var, Expr] = {b.axis: a.axis}
        second = block(substitute_stmt(b.body, mapping))
        _check_distribution_of(self, a, (a.body, second))
        return replace(a, body=block(a.body, second))


def _check_distribution_of(step: Step, loop: For, parts: Sequence[Stmt]) -> None:
    """Fusing is legal where fission of the result is."""
    serial = replace(loop, kind="serial")
    private = local_buffers(parts[0]) | local_buffers(parts[1])
    _check_distribution(step, [serial], parts, private)


def _same(a: Stmt, b: Stmt) -> bool:
    return a is b


def _is_over(s: Stmt | None, axis: str) -> bool:
    return isinstance(s, For) and s.axis.name == axis


def has_loop(s: Stmt, axis: str) -> bool:
    """Whether there is a loop over `axis` below a statement."""
    return any(loops_named(s, axis))
