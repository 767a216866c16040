"""Schedule steps that leave out what does not count: terms of a sum that its guard rules out, and
sums that nobody looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from rung.core import dtype as dt
from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Read,
    Var,
    both,
    compare,
    conjuncts,
    const,
    from_terms,
    iadd,
    ifloordiv,
    imaximum,
    iminimum,
    imul,
    isub,
    linear_terms,
    reads_data,
    var,
    variables,
)
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Stmt,
    Store,
    map_stmts,
    stmt_exprs,
    walk_stmts,
    with_body,
)
from rung.kernel.loop_steps import tightened
from rung.kernel.rewrite import (
    block,
    constant_extent,
    substitute_stmt,
    used_buffers,
    when,
)
from rung.kernel.step import Step


@dataclass(frozen=True)
class Narrow(Step):
    """A loop over terms of sums runs over those that some sum counts, and asks no more where all of
    them count.

        for t in range(32):                          for t in range(32):
            for k in range(256):                         for k in range(8*t + 1):
                for m in unroll(8):                          for m in unroll(8): s[m] += ...
                    accumulate(s[m], 'add', ...,  ->     for k_z in range(7):
                               guard=8*t + m >= k)           for m in unroll(8):
                                                                 accumulate(s[m], 'add', ...,
                                                                            guard=m >= k_z + 1)

    A loop without a guard stays. The terms keep their order. Nothing but accumulations and hints
    may be in the loop, which is a serial one. Of the guards the comparisons of sums of multiples of
    loop variables are made use of."""

    name = "narrow"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require_fresh(kernel, f"{self.axis}_a", f"{self.axis}_z")
        return self.on_loops(kernel, self.axis, self._narrow)

    def _narrow(self, loop: For) -> Stmt:
        sums = [s for s in walk_stmts(loop.body) if isinstance(s, Accumulate)]
        if all(s.guard is None for s in sums):
            return loop
        if any(isinstance(s, Store | If | Alloc | Opaque) for s in walk_stmts(loop.body)):
            self.fail(f"loop {self.axis!r} does more than accumulate")
        inner = _ranges(loop.body)
        counted = [_Terms.of(s.guard, loop.axis, loop.extent, inner) for s in dict.fromkeys(sums)]
        if not any(c.bounded for c in counted) or loop.kind != "serial":
            self.fail(f"no comparison bounds loop {self.axis!r}, or it is not serial")
        return self._segments(loop, counted)

    def _segments(self, loop: For, counted: Sequence[_Terms]) -> Stmt:
        """The terms before the first that all sums count, these, and those behind them."""
        low = reduce(iminimum, [c.low for c in counted])
        high = reduce(imaximum, [c.high for c in counted])
        first = iminimum(reduce(imaximum, [c.first for c in counted]), high)
        last = imaximum(reduce(iminimum, [c.last for c in counted]), first)
        kept = {c.guard: c.kept for c in counted}

        def leaf(s: Stmt) -> Stmt | None:
            return replace(s, guard=kept[s.guard]) if isinstance(s, Accumulate) else None

        segments = (
            (f"{self.axis}_a", low, first, loop.body),
            (self.axis, first, last, block(map_stmts(loop.body, leaf))),
            (f"{self.axis}_z", last, high, loop.body),
        )
        return block(*(_from(loop, *s) for s in segments))


@dataclass(frozen=True)
class _Terms:
    """The terms k that a guard counts: none before `low` or from `high` on, each from `first` to
    before `last` where `kept` holds. `bounded` tells whether that says anything."""

    guard: Expr | None
    low: Expr
    high: Expr
    first: Expr
    last: Expr
    kept: Expr | None
    bounded: bool

    @staticmethod
    def of(guard: Expr | None, axis: Var, end: Expr, inner: dict[Var, int]) -> _Terms:
        """The terms of a loop up to `end` over `axis` that a guard counts."""
        rising: list[_Bound] = []
        falling: list[_Bound] = []
        kept: Expr | None = None
        for part in conjuncts(guard):
            bound = _Bound.of(part, axis, inner)
            if bound is None or not bound.step:
                kept = both(kept, part)
            else:
                (rising if bound.step > 0 else falling).append(bound)
        zero: Expr = const(0)
        low = iminimum(reduce(imaximum, (b.low(b.most) for b in rising), zero), end)
        high = imaximum(reduce(iminimum, (b.high(b.most) for b in falling), end), low)
        first = iminimum(reduce(imaximum, (b.low(b.least) for b in rising), low), high)
        last = imaximum(reduce(iminimum, (b.high(b.least) for b in falling), high), first)
        return _Terms(guard, low, high, first, last, kept, bool(rising or falling))


@dataclass(frozen=True)
class _Bound:
    """`step*k + outer + inner >= 0`, where `inner` lies between `least` and `most`."""

    step: int
    outer: Expr
    least: int
    most: int

    @staticmethod
    def of(part: Expr, axis: Var, inner: dict[Var, int]) -> _Bound | None:
        """The bound that a part of a guard is; None if it is none."""
        difference = _difference(part)
        if difference is None:
            return None
        terms, constant = linear_terms(difference)
        if any(t is not axis and t not in inner and _touches(t, axis, inner) for t in terms):
            return None
        moving = {t: c for t, c in terms.items() if t in inner}
        ends = [(c * (inner[t] - 1), 0) for t, c in moving.items() if isinstance(t, Var)]
        rest = {t: c for t, c in terms.items() if t not in moving and t is not axis}
        outer = from_terms(rest, constant)
        return _Bound(terms.get(axis, 0), outer, sum(map(min, ends)), sum(map(max, ends)))

    def low(self, inner: int) -> Expr:
        """The first k that satisfies it, for a positive step."""
        return imul(ifloordiv(iadd(self.outer, inner), self.step), -1)

    def high(self, inner: int) -> Expr:
        """One more than the last k that satisfies it, for a negative step."""
        return iadd(ifloordiv(iadd(self.outer, inner), -self.step), 1)


def _difference(part: Expr) -> Expr | None:
    """The expression that is at least zero where a comparison of indices holds."""
    if not isinstance(part, Call) or reads_data(part):
        return None
    a, b = (part.args * 2)[:2]
    if a.dtype is not dt.int64:
        return None
    if part.op == "greater_equal":
        return isub(a, b)
    if part.op == "greater":
        return isub(isub(a, b), 1)
    if part.op == "less_equal":
        return isub(b, a)
    return isub(isub(b, a), 1) if part.op == "less" else None


def _touches(e: Expr, axis: Var, inner: dict[Var, int]) -> bool:
    return any(v is axis or v in inner for v in variables(e))


def _ranges(s: Stmt) -> dict[Var, int]:
    """The extents of the loops below a statement, at most."""
    found: dict[Var, int] = {}
    for x in walk_stmts(s):
        if isinstance(x, For):
            n = constant_extent(x)
            found[x.axis] = max(x.axis.extent if n is None else n, found.get(x.axis, 0))
    return found


def _from(loop: For, name: str, start: Expr, end: Expr, body: Block) -> Stmt:
    """The iterations of a loop from `start` to before `end`."""
    extent = isub(end, start)
    if isinstance(extent, Const) and extent.value == 0:
        return Block(())
    axis = var(name, loop.axis.extent)
    moved = substitute_stmt(body, {loop.axis: iadd(axis, start)})
    return tightened(For(axis, extent, block(moved), loop.kind, loop.lanes))


@dataclass(frozen=True)
class Skip(Step):
    """A sum that is looked at only under a condition is left out where that holds nowhere.

        for t in range(32):                          for t in range(32):
            for m in unroll(8): s[m] = 0.0               for m in unroll(8): s[m] = 0.0
            for k in range(64):                          if 8*t + 7 >= 48*p:
                for m in unroll(8):            ->            for k in range(64):
                    s[m] += ...                                  for m in unroll(8):
            for m in unroll(8):                                      s[m] += ...
                y[8*t + m] = where(8*t + m >= 48*p,      for m in unroll(8):
                                   s[m], 0.0)                y[8*t + m] = where(...)
        skip('k')

    All uses must have one condition, of which the comparisons of sums of multiples of loop
    variables are made use of."""

    name = "skip"
    axis: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.axis)
        body = self._visit(kernel.body)
        if body is kernel.body:
            self.fail(f"what loop {self.axis!r} sums up is not used under one condition alone")
        return replace(kernel, body=block(body))

    def _visit(self, s: Stmt) -> Stmt:
        if self.axis not in s.axes:
            return s
        if isinstance(s, For | If):
            body = block(self._visit(s.body))
            return s if body is s.body else with_body(s, body)
        assert isinstance(s, Block)
        done: list[Stmt] = []
        for n, c in enumerate(s.stmts):
            mine = isinstance(c, For) and c.axis.name == self.axis
            condition = _use_of(s, n) if mine else None
            done.append(self._visit(c) if condition is None else when(condition, c))
        same = all(a is b for a, b in zip(done, s.stmts, strict=True))
        return s if same else block(*done)


def _use_of(s: Block, n: int) -> Expr | None:
    """The condition under which statements behind number `n` of a block look at what that one
    accumulates in local buffers; None where it has other effects or they look anyway."""
    own = {x.buffer for x in walk_stmts(s.stmts[n]) if isinstance(x, Alloc)}
    local = {x.buffer for x in s.stmts[:n] if isinstance(x, Alloc)}
    written = {x.buffer for x in walk_stmts(s.stmts[n]) if isinstance(x, Store | Accumulate)} - own
    if any(isinstance(x, Opaque) for x in walk_stmts(s.stmts[n])):
        return None
    if len(written) != 1 or not written <= local:
        return None
    (buffer,) = written
    found: set[Expr] = set()
    for later in s.stmts[n + 1 :]:
        if buffer in used_buffers(later):
            condition = _condition_of(later, buffer)
            if condition is None:
                return None
            found.add(condition)
    return found.pop() if len(found) == 1 else None


def _condition_of(s: Stmt, buffer: Buffer) -> Expr | None:
    """The condition for some iteration of the loops of `s` to look at `buffer`."""
    inner = _ranges(s)
    writes = any(isinstance(x, Store | Accumulate) and x.buffer is buffer for x in walk_stmts(s))
    if writes:
        return None
    guards: set[Expr] = set()
    roots = (e for x in walk_stmts(s) for e in stmt_exprs(x))
    if not all(_collect(e, buffer, guards.add) for e in roots) or len(guards) != 1:
        return None
    none = var("", 1)
    bounds = [_Bound.of(part, none, inner) for part in conjuncts(guards.pop())]
    conditions = [compare("greater_equal", iadd(b.outer, b.most), 0) for b in bounds if b]
    return reduce(both, conditions, None)


def _collect(e: Expr, buffer: Buffer, found: Callable[[Expr], None]) -> bool:
    """Whether `e` reads `buffer` only as what `where` picks; its conditions go to `found`."""
    stack, seen = [e], {e}
    while stack:
        x = stack.pop()
        if isinstance(x, Read) and x.source is buffer:
            return False
        parts = x.children()
        if isinstance(x, Call) and x.op == "where":
            condition, picked, other = x.args
            if isinstance(picked, Read) and picked.source is buffer:
                found(condition)
                parts = (condition, other)
        stack.extend(c for c in parts if c not in seen)
        seen.update(parts)
    return True
