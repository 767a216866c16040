"""What schedule steps are made of: finding loops, replacing them, substituting in statements."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import replace

from rung.ir.expr import Const, Expr, Read, Var, read, substitute, transform, walk
from rung.kernel.loop import (
    Accumulate,
    Block,
    Buffer,
    For,
    If,
    Opaque,
    Prefetch,
    Stmt,
    Store,
    children,
    stmt_exprs,
    walk_stmts,
    with_body,
)  # fmt: skip

ExprMap = Callable[[Expr], Expr]
PlaceMap = Callable[[tuple[Expr, ...]], tuple[Buffer, tuple[Expr, ...]]]


def block(*stmts: Stmt) -> Block:
    """A block of the statements, with blocks among them spliced in."""
    if len(stmts) == 1 and isinstance(stmts[0], Block):
        return stmts[0]
    flat: list[Stmt] = []
    for s in stmts:
        if isinstance(s, Block):
            flat.extend(s.stmts)
        else:
            flat.append(s)
    return Block(tuple(flat))


def map_exprs(s: Stmt, f: ExprMap) -> Stmt:
    """`s` with `f` applied to every expression (not to buffers that are written)."""
    if isinstance(s, Block):
        stmts = [map_exprs(c, f) for c in s.stmts]
        return s if all(map(operator.is_, stmts, s.stmts)) else block(*stmts)
    if isinstance(s, For):
        extent, body = f(s.extent), map_exprs(s.body, f)
        same = extent is s.extent and body is s.body
        return s if same else For(s.axis, extent, block(body), s.kind, s.lanes)
    if isinstance(s, Store | Accumulate):
        return _map_store(s, f)
    if isinstance(s, If):
        return when(f(s.condition), map_exprs(s.body, f))
    if isinstance(s, Opaque):
        return replace(s, row=f(s.row))
    if isinstance(s, Prefetch):
        return Prefetch(s.buffer, tuple(map(f, s.index)))
    return s


def _map_store(s: Store | Accumulate, f: ExprMap) -> Stmt:
    index, value = tuple(map(f, s.index)), f(s.value)
    guard = None if s.guard is None else f(s.guard)
    if index == s.index and value is s.value and guard is s.guard:
        return s
    if isinstance(s, Store):
        return with_guard(Store(s.buffer, index, value), guard)
    return with_guard(Accumulate(s.buffer, index, s.combine, value), guard)


def with_guard(s: Store | Accumulate, guard: Expr | None) -> Stmt:
    """The statement under a guard; nothing when that is constantly false."""
    if isinstance(guard, Const):
        return s if guard.value else Block(())
    return s if guard is None else replace(s, guard=guard)


def when(condition: Expr, body: Stmt) -> Stmt:
    """`if condition: body`, decided where the condition is constant."""
    if isinstance(condition, Const):
        return body if condition.value else Block(())
    return If(condition, body if isinstance(body, Block) else Block((body,)))


def substitute_stmt(s: Stmt, mapping: dict[Var, Expr]) -> Stmt:
    """`s` with loop variables that are free in it replaced."""
    keys = mapping.keys()
    memo: dict[Expr, Expr] = {}

    def f(e: Expr) -> Expr:
        found = memo.get(e)
        if found is None:
            found = memo[e] = substitute(e, mapping)
        return found

    def visit(x: Stmt) -> Stmt:
        if x.variables.isdisjoint(keys):
            return x
        if isinstance(x, Block):
            return block(*map(visit, x.stmts))
        if isinstance(x, For):
            return For(x.axis, f(x.extent), block(visit(x.body)), x.kind, x.lanes)
        if isinstance(x, If):
            return when(f(x.condition), visit(x.body))
        return map_exprs(x, f)

    return visit(s)


def replace_buffer(s: Stmt, old: Buffer, place: PlaceMap) -> Stmt:
    """`s` with every access of `old` made one of what `place(index)` gives."""

    memo: dict[Expr, Expr] = {}

    def leaf(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.source is old:
            buffer, index = place(tuple([f(i) for i in e.index]))
            return read(buffer, index, e.dtype, e.guard and f(e.guard))
        return None

    def f(e: Expr) -> Expr:
        return transform(e, leaf, memo)

    def visit(x: Stmt) -> Stmt:
        if isinstance(x, Block):
            return block(*[visit(c) for c in x.stmts])
        if isinstance(x, For):
            return For(x.axis, f(x.extent), block(visit(x.body)), x.kind, x.lanes)
        if isinstance(x, If):
            return If(f(x.condition), block(visit(x.body)))
        new = map_exprs(x, f)
        if isinstance(new, Store | Accumulate) and new.buffer is old:
            buffer, index = place(new.index)
            return replace(new, buffer=buffer, index=index)
        return new

    return visit(s)


def loops_named(s: Stmt, name: str) -> Iterator[For]:
    """The loops over axis `name` below a statement."""
    stack = [s]
    while stack:
        x = stack.pop()
        if name in x.axes:
            if isinstance(x, For) and x.axis.name == name:
                yield x
            stack.extend(reversed(children(x)))


def axis_names(s: Stmt) -> list[str]:
    """The names of the axes of loops below a statement, in program order, each once."""
    return list(s.axes)


def replace_loops(s: Stmt, name: str, f: Callable[[For], Stmt]) -> Stmt:
    """`s` with every loop over axis `name` replaced by `f` of it."""
    if name not in s.axes:
        return s
    if isinstance(s, For) and s.axis.name == name:
        return f(s)
    if isinstance(s, Block):
        new = [replace_loops(c, name, f) for c in s.stmts]
        if all(a is b for a, b in zip(new, s.stmts, strict=True)):
            return s
        return block(*new)
    if isinstance(s, For | If):
        body = block(replace_loops(s.body, name, f))
        return s if body is s.body else with_body(s, body)
    return s


def constant_extent(loop: For) -> int | None:
    """The trip count of a loop where it is a number."""
    return int(loop.extent.value) if isinstance(loop.extent, Const) else None


def used_buffers(s: Stmt) -> set[Buffer]:
    """The buffers that a statement reads, writes or prefetches."""
    found: set[Buffer] = set()
    roots: list[Expr] = []
    for x in walk_stmts(s):
        if isinstance(x, Store | Accumulate | Prefetch):
            found.add(x.buffer)
        elif isinstance(x, Opaque):
            found.update(x.outputs, x.inputs)
        roots.extend(stmt_exprs(x))
    reads = (e.source for e in walk(*roots) if isinstance(e, Read))
    return found.union(b for b in reads if isinstance(b, Buffer))
