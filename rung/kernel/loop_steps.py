"""Schedule steps on loops: split, fuse, reorder, peel, branch, unroll, vectorize, parallel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rung.ir.expr import (
    Const,
    Expr,
    Var,
    compare,
    const,
    free_variables,
    from_terms,
    iadd,
    ifloordiv,
    iminimum,
    imod,
    imul,
    is_sized,
    isub,
    raw_call,
    transform,
    var,
)  # fmt: skip
from rung.kernel.deps import carried, ragged_end
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    For,
    If,
    Kernel,
    Prefetch,
    Stmt,
    Store,
    walk_stmts,
    with_body,
)  # fmt: skip
from rung.kernel.rewrite import (
    block,
    constant_extent,
    loops_named,
    replace_loops,
    substitute_stmt,
    when,
)  # fmt: skip
from rung.kernel.step import Step, describe_conflict


@dataclass(frozen=True)
class Split(Step):
    """A loop becomes two: blocks of `factor` iterations, and the iterations of a block.

        for i in range(100):             for i0 in range(8):
            y[i] = x[i]             ->       for i1 in range(minimum(14, 100 - 14*i0), at_most=14):
                                                 y[14*i0 + i1] = x[14*i0 + i1]

    Where the factor divides the extent, the inner extent is the factor."""

    name = "split"
    axis: str
    factor: int
    outer: str
    inner: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        if self.factor < 1:
            self.fail(f"the factor {self.factor} is less than 1")
        self.require(kernel, self.axis)
        self.require_fresh(kernel, self.outer, self.inner, instead_of=(self.axis,))
        return self.on_loops(kernel, self.axis, self.on_loop)

    def on_loop(self, loop: For) -> For:
        """The two loops that a loop becomes."""
        if loop.kind == "vector":
            self.fail(f"loop {self.axis!r} is vectorized already")
        f, most = self.factor, loop.axis.extent
        outer, inner = var(self.outer, -(-most // f)), var(self.inner, min(f, most))
        num_outer = ifloordiv(iadd(loop.extent, f - 1), f)
        rest = isub(loop.extent, imul(outer, f))
        num_inner = const(min(f, most)) if self._exact(loop) else iminimum(const(f), rest)
        body = substitute_stmt(loop.body, {loop.axis: iadd(imul(outer, f), inner)})
        kind = "serial" if loop.kind == "parallel" else loop.kind
        inside = For(inner, num_inner, block(body), kind)
        return For(outer, num_outer, Block((inside,)), loop.kind)

    def _exact(self, loop: For) -> bool:
        extent = constant_extent(loop)
        if extent is None:
            return imod(loop.extent, self.factor) is const(0)
        return extent % self.factor == 0 or extent < self.factor


@dataclass(frozen=True)
class Fuse(Step):
    """Two loops, one directly in the other, become one over the product.

        for i in range(8):                for t in range(80):
            for j in range(10):      ->       y[t//10, t%10] = 0.0
                y[i, j] = 0.0

    The extents must be constants, or made of sizes: then the divisor is."""

    name = "fuse"
    outer: str
    inner: str
    into: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.outer, self.inner)
        self.require_fresh(kernel, self.into, instead_of=(self.outer, self.inner))
        return self.on_loops(kernel, self.outer, self._fuse)

    def _fuse(self, loop: For) -> Stmt:
        inside = loop.body.stmts[0] if len(loop.body.stmts) == 1 else None
        if not isinstance(inside, For) or inside.axis.name != self.inner:
            self.fail(f"loop {self.inner!r} is not all there is in loop {self.outer!r}")
        n, m = inside.extent, loop.extent
        if any(not isinstance(e, Const) and not is_sized(e) for e in (n, m)):
            self.fail(
                f"the extent of {self.outer!r} or {self.inner!r} is not a constant",
                fix="fuse before the split that makes it ragged, or peel first",
            )
        if loop.kind == "vector" or inside.kind not in ("serial", loop.kind):
            self.fail(f"a {inside.kind} loop in a {loop.kind} loop cannot become one")
        axis = var(self.into, inside.axis.extent * loop.axis.extent)
        if not inside.axis.extent:
            return Block(())
        quotient, rest = _divided(axis, n) if m is not const(1) else (const(0), axis)
        mapping: dict[Var, Expr] = {loop.axis: quotient, inside.axis: rest}
        return For(axis, imul(m, n), block(substitute_stmt(inside.body, mapping)), loop.kind)


def _divided(e: Expr, by: Expr) -> tuple[Expr, Expr]:
    """Quotient and remainder of an index by a number, or by what is made of sizes."""
    if isinstance(by, Const):
        return ifloordiv(e, int(by.value)), imod(e, int(by.value))
    return raw_call("floor_divide", (e, by), e.dtype), raw_call("remainder", (e, by), e.dtype)


@dataclass(frozen=True)
class Peel(Step):
    """The last iteration of a loop is taken out, so that ragged extents inside become constants.

        for i0 in range(8):                           for i0 in range(7):
            for i1 in range(min(14, 100 - 14*i0)):        for i1 in range(14): ...
                ...                             ->    for i1 in range(2): ...     # 98 + i1

    A loop in which no extent depends on it stays. Not for a parallel loop: use `branch`."""

    name = "peel"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        return self.on_loops(kernel, self.axis, self._peel)

    def _peel(self, loop: For) -> Stmt:
        if not any(loop.axis in free_variables(e) for e in _extents(loop.body)):
            return loop
        n = constant_extent(loop)
        if n is None:
            self.fail(f"the extent of {self.axis!r} is not a constant")
        if loop.kind == "parallel":
            self.fail("the loop is parallel", fix="use branch on the ragged loop inside")
        last = tightened(substitute_stmt(loop.body, {loop.axis: const(n - 1)}))
        if n == 1:
            return last
        shorter = var(self.axis, n - 1)
        body = tightened(substitute_stmt(loop.body, {loop.axis: shorter}))
        return block(replace(loop, axis=shorter, extent=const(n - 1), body=block(body)), last)


def tightened(s: Stmt) -> Stmt:
    """`s` with every loop of constant extent over an axis of that extent."""
    if isinstance(s, Block):
        return block(*[tightened(c) for c in s.stmts])
    if isinstance(s, If):
        return with_body(s, block(tightened(s.body)))
    if not isinstance(s, For):
        return s
    body, axis = tightened(s.body), s.axis
    n = constant_extent(s)
    if n is not None and n < axis.extent:
        axis = var(axis.name, n)
        body = substitute_stmt(body, {s.axis: axis})
    return For(axis, s.extent, block(body), s.kind, s.lanes)


def _extents(s: Stmt) -> list[Expr]:
    return [x.extent for x in walk_stmts(s) if isinstance(x, For)]


@dataclass(frozen=True)
class Branch(Step):
    """A ragged loop becomes two with constant extents, told apart by a condition as far out as the
    extent allows.

        for t in parallel(24):                          for t in parallel(24):
            for k in range(64):                             if t//3 < 7:
                for i1 in range(                                for k in range(64):
                    min(14, 100 - 14*(t//3))):    ->                for i1 in range(14): ...
                    ...                                     if t//3 >= 7:
                                                                for k in range(64):
                                                                    for i1 in range(2): ...

    A loop of constant extent stays. With sizes, the last block has as many iterations as are left;
    `rest` names its axis, if given."""

    name = "branch"
    axis: str
    rest: str = ""

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.axis)
        return replace(kernel, body=block(self._within(kernel.body)))

    def _within(self, s: Stmt) -> Stmt:
        if self.axis not in s.axes:
            return s
        if isinstance(s, Block):
            return block(*[self._within(c) for c in s.stmts])
        if isinstance(s, If):
            return with_body(s, block(self._within(s.body)))
        assert isinstance(s, For)
        body: Stmt = block(self._within(s.body))
        for extent in self._ragged(body):
            end = ragged_end(extent)
            if end is None:
                self.fail(f"the extent of {self.axis!r} is not minimum(factor, n - outer)")
            if s.axis in free_variables(extent):
                body = self._two_ways(s, body, extent, *end)
        return with_body(s, block(body))

    def _ragged(self, s: Stmt) -> list[Expr]:
        found = dict.fromkeys(x.extent for x in loops_named(s, self.axis))
        return [e for e in found if not isinstance(e, Const) and not is_sized(e)]

    def _two_ways(
        self, loop: For, body: Stmt, extent: Expr, f: int, outer: dict[Expr, int], n: Expr
    ) -> Stmt:
        if any(c % f for c in outer.values()):
            self.fail(f"the extent of {self.axis!r} is not made of whole blocks of {f}")
        tile = from_terms({t: c // f for t, c in outer.items()}, 0)
        full = tightened(_with_extent(body, extent, const(f)))
        num_full, left = ifloordiv(n, f), imod(n, f)
        if left is const(0):
            return full
        rest = tightened(_with_extent(body, extent, left))
        if self.rest:
            rest = _renamed(rest, self.axis, self.rest)
        if tile is loop.axis:
            rest = substitute_stmt(rest, {loop.axis: num_full})
        is_full = compare("less", tile, num_full)
        return block(when(is_full, full), when(compare("greater_equal", tile, num_full), rest))


def _renamed(s: Stmt, old: str, new: str) -> Stmt:
    """`s` with the loops over one axis over another one."""

    def renamed(loop: For) -> Stmt:
        axis = var(new, loop.axis.extent)
        return replace(loop, axis=axis, body=block(substitute_stmt(loop.body, {loop.axis: axis})))

    return replace_loops(s, old, renamed)


def _with_extent(s: Stmt, old: Expr, new: Expr) -> Stmt:
    """`s` with the extent `old` being `new`."""
    if isinstance(s, Block):
        return block(*[_with_extent(c, old, new) for c in s.stmts])
    if isinstance(s, If):
        return with_body(s, block(_with_extent(s.body, old, new)))
    if not isinstance(s, For):
        return s
    extent = transform(s.extent, lambda e: new if e is old else None)
    return For(s.axis, extent, block(_with_extent(s.body, old, new)), s.kind, s.lanes)


@dataclass(frozen=True)
class Unroll(Step):
    """The iterations of a loop are written out one after the other in the code.

        for i1 in range(4): ...   ->   for i1 in unroll(4): ...

    The extent must be a constant."""

    name = "unroll"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        return self.on_loops(kernel, self.axis, self._unroll)

    def _unroll(self, loop: For) -> Stmt:
        if constant_extent(loop) is None:
            self.fail(f"the extent of {self.axis!r} is not a constant", fix="peel or branch first")
        if loop.kind in ("parallel", "vector"):
            self.fail(f"loop {self.axis!r} is {loop.kind} already")
        return For(loop.axis, loop.extent, loop.body, "unroll", loop.lanes)


@dataclass(frozen=True)
class Vectorize(Step):
    """The iterations of an innermost loop become the lanes of one vector operation.

        for j1 in range(7): ...   ->   for j1 in vector(7, lanes=8): ...

    The extent must be at most `lanes`; lanes beyond it are masked. Iterations must be independent,
    or accumulate into a place that does not depend on the axis (a reduction over the lanes by a
    fixed tree)."""

    name = "vectorize"
    axis: str
    lanes: int

    def rewrite(self, kernel: Kernel) -> Kernel:
        if self.lanes < 1 or self.lanes & (self.lanes - 1):
            self.fail(f"{self.lanes} lanes: not a power of two")
        return self.on_loops(kernel, self.axis, self._vectorize)

    def _vectorize(self, loop: For) -> Stmt:
        n = loop.axis.extent
        if n > self.lanes:
            self.fail(
                f"loop {self.axis!r} has {n} iterations for {self.lanes} lanes", fix="split it"
            )
        if loop.kind == "parallel":
            self.fail(f"loop {self.axis!r} is parallel")
        for s in walk_stmts(loop.body):
            if not isinstance(s, Store | Accumulate | Alloc | If | Block | Prefetch):
                what = f"loop {s.axis.name!r}" if isinstance(s, For) else type(s).__name__.lower()
                self.fail(f"{what} is inside of loop {self.axis!r}", fix="reorder it outwards")
        pair = carried(loop, reductions=True)
        if pair is not None:
            self.fail(f"iterations of {self.axis!r} depend: one {describe_conflict(pair)}")
        return For(loop.axis, loop.extent, loop.body, "vector", self.lanes)


@dataclass(frozen=True)
class Parallel(Step):
    """The iterations of the outermost loop of a phase are shared out to the threads.

        for t in range(24): ...   ->   for t in parallel(24): ...

    Iterations must be independent: what one writes, no other reads or writes."""

    name = "parallel"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.axis)
        phases = [self._parallel(s) for s in kernel.phases]
        return replace(kernel, body=Block(tuple(phases)))

    def _parallel(self, s: Stmt) -> Stmt:
        if not (isinstance(s, For) and s.axis.name == self.axis):
            if any(loops_named(s, self.axis)):
                self.fail(f"loop {self.axis!r} is not outermost", fix="reorder it outwards")
            return s
        if constant_extent(s) is None and not is_sized(s.extent):
            self.fail(f"the extent of {self.axis!r} is not a constant")
        pair = carried(s)
        if pair is not None:
            self.fail(f"iterations of {self.axis!r} depend: one {describe_conflict(pair)}")
        return replace(s, kind="parallel")
