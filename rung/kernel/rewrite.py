"""What schedule steps are made of: finding loops, replacing them, substituting in statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rung.ir.expr import Const, Expr, Read, Var, const, read, substitute, transform, var
from rung.kernel.loop import (
    Accumulate, Alloc, Block, Buffer, For, If, Kernel, Opaque, Prefetch, Stmt, Store, children,
    walk_stmts,
)  # fmt: skip

ExprMap = Callable[[Expr], Expr]


def block(*stmts: Stmt) -> Block:
    """A block of the statements, with blocks among them spliced in."""
    flat: list[Stmt] = []
    for s in stmts:
        flat.extend(s.stmts if isinstance(s, Block) else (s,))
    return Block(tuple(flat))


def map_exprs(s: Stmt, f: ExprMap) -> Stmt:
    """`s` with `f` applied to every expression (not to buffers that are written)."""
    if isinstance(s, Block):
        return Block(tuple([map_exprs(c, f) for c in s.stmts]))
    if isinstance(s, For):
        body = map_exprs(s.body, f)
        assert isinstance(body, Block)
        return For(s.axis, f(s.extent), body, s.kind, s.lanes)
    if isinstance(s, Store):
        guard = None if s.guard is None else f(s.guard)
        return with_guard(Store(s.buffer, tuple(map(f, s.index)), f(s.value)), guard)
    if isinstance(s, Accumulate):
        guard = None if s.guard is None else f(s.guard)
        index = tuple(map(f, s.index))
        return with_guard(Accumulate(s.buffer, index, s.combine, f(s.value)), guard)
    if isinstance(s, If):
        return when(f(s.condition), map_exprs(s.body, f))
    if isinstance(s, Opaque):
        return replace(s, row=f(s.row))
    if isinstance(s, Prefetch):
        return Prefetch(s.buffer, tuple(map(f, s.index)))
    return s


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
    memo: dict[Expr, Expr] = {}

    def f(e: Expr) -> Expr:
        found = memo.get(e)
        if found is None:
            found = memo[e] = substitute(e, mapping)
        return found

    return map_exprs(s, f)


def replace_buffer(s: Stmt, old: Buffer, place: Callable[[tuple[Expr, ...]], tuple[Buffer, tuple[Expr, ...]]]) -> Stmt:
    """`s` with every access of `old` made one of what `place(index)` gives."""

    def leaf(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.source is old:
            buffer, index = place(tuple(transform(i, leaf) for i in e.index))
            return read(buffer, index, e.dtype, e.guard and transform(e.guard, leaf))
        return None

    def visit(x: Stmt) -> Stmt:
        if isinstance(x, Block):
            return block(*[visit(c) for c in x.stmts])
        if isinstance(x, For):
            return For(x.axis, transform(x.extent, leaf), block(visit(x.body)), x.kind, x.lanes)
        if isinstance(x, If):
            return If(transform(x.condition, leaf), block(visit(x.body)))
        new = map_exprs(x, lambda e: transform(e, leaf))
        if isinstance(new, Store | Accumulate) and new.buffer is old:
            buffer, index = place(new.index)
            return replace(new, buffer=buffer, index=index)
        return new

    return visit(s)


def loops_named(s: Stmt, name: str) -> Iterator[For]:
    """The loops over axis `name` below a statement."""
    return (x for x in walk_stmts(s) if isinstance(x, For) and x.axis.name == name)


def axis_names(s: Stmt) -> list[str]:
    """The names of the axes of loops below a statement, in program order, each once."""
    return list(dict.fromkeys(x.axis.name for x in walk_stmts(s) if isinstance(x, For)))


def replace_loops(s: Stmt, name: str, f: Callable[[For], Stmt]) -> Stmt:
    """`s` with every loop over axis `name` replaced by `f` of it."""
    if isinstance(s, For) and s.axis.name == name:
        return f(s)
    if isinstance(s, Block):
        new = [replace_loops(c, name, f) for c in s.stmts]
        if all(a is b for a, b in zip(new, s.stmts, strict=True)):
            return s
        return block(*new)
    if isinstance(s, For | If):
        body = block(replace_loops(s.body, name, f))
        return s if body is s.body else replace(s, body=body)
    return s


def constant_extent(loop: For) -> int | None:
    """The trip count of a loop where it is a number."""
    return int(loop.extent.value) if isinstance(loop.extent, Const) else None


def with_body(kernel: Kernel, body: Stmt) -> Kernel:
    """`kernel` with another body."""
    return replace(kernel, body=body if isinstance(body, Block) else Block((body,)))


def used_buffers(s: Stmt) -> set[Buffer]:
    """The buffers that a statement reads, writes or prefetches."""
    found: set[Buffer] = set()

    def note(e: Expr) -> Expr:
        transform(e, leaf)
        return e

    def leaf(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Buffer):
            found.add(e.source)
        return None

    for x in walk_stmts(s):
        if isinstance(x, Store | Accumulate | Prefetch):
            found.add(x.buffer)
        if isinstance(x, Opaque):
            found.update(x.outputs, x.inputs)
        if not isinstance(x, Block | For | If | Alloc):
            map_exprs(x, note)
    return found


def fresh_var(name: str, extent: int) -> tuple[Var, Const]:
    """A loop variable and its extent as an expression."""
    return var(name, extent), const(extent)


