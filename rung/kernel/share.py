"""Sharing costly values among the loops of a row.

The loops of a row that follow one another often need the same value of each element: softmax adds
up exp(x - m) and then scales it. What costs a transcendental function is computed by the first loop
that needs it and kept in scratch memory, which for a row lies in the first-level cache.

    for c1 in range(n): s += exp(x[c1] - m)          for c1 in range(n):
    for c2 in range(n):                          ->      t[c1] = exp(x[c1] - m); s += t[c1]
        y[c2] = exp(x[c2] - m)*q                     for c2 in range(n): y[c2] = t[c2]*q
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rung.ir.expr import (
    Call,
    Expr,
    Read,
    Var,
    free_variables,
    read,
    substitute,
    transform,
    walk,
)  # fmt: skip
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    Opaque,
    Stmt,
    Store,
    map_stmts,
    walk_stmts,
)  # fmt: skip
from rung.kernel.rewrite import map_exprs
from rung.ops import transcendental

COSTLY: Final = frozenset(op.name for op in transcendental.RECORDS) - {"sqrt", "rsqrt"}
"""Scalar ops that cost more than a load and a store of the first-level cache."""
ROW_BYTES: Final = 1 << 15
"""Bytes of a row's shared value beyond which computing it again is no worse."""


def share_in_rows(s: Stmt) -> Stmt:
    """`s` with costly values shared among sibling loops, at every depth."""
    counter = iter(range(1 << 30))

    def rewrite(x: Stmt) -> Stmt | None:
        if isinstance(x, For):
            body = _share(x.body, counter)
            return None if body is x.body else replace(x, body=body)
        return None

    return map_stmts(s, rewrite)


def _share(body: Block, counter: Iterator[int]) -> Block:
    while True:
        new = _share_one(body, counter)
        if new is body:
            return body
        body = new


def _share_one(body: Block, counter: Iterator[int]) -> Block:
    loops = [(i, s) for i, s in enumerate(body.stmts) if isinstance(s, For) and _is_plain(s)]
    for n, (i, first) in enumerate(loops):
        later = [(j, s) for j, s in loops[n + 1 :] if s.extent is first.extent]
        for value in _costly_values(first):
            users = [(j, s) for j, s in later if _contains(s, _at(value, first.axis, s.axis))]
            if users and _stays(value, body.stmts[i : users[-1][0] + 1]):
                return _shared(body, i, first, value, users, next(counter))
    return body


def _is_plain(s: For) -> bool:
    return all(isinstance(x, Store | Accumulate) for x in s.body.stmts)


def _at(value: Expr, old: Var, new: Var) -> Expr:
    return substitute(value, {old: new})


def _costly_values(s: For) -> list[Expr]:
    """Costly values over the loop's axis, largest first."""
    found: dict[Expr, None] = {}
    for x in s.body.stmts:
        assert isinstance(x, Store | Accumulate)
        for e in walk(x.value):
            costly = isinstance(e, Call) and e.dtype.is_float and s.axis in free_variables(e)
            if costly and any(isinstance(c, Call) and c.op in COSTLY for c in walk(e)):
                found[e] = None
    return list(found)


def _contains(s: For, value: Expr) -> bool:
    return any(
        e is value for x in s.body.stmts if isinstance(x, Store | Accumulate) for e in walk(x.value)
    )


def _stays(value: Expr, stmts: tuple[Stmt, ...]) -> bool:
    """Whether nothing that `value` reads is written by the statements."""
    sources = {e.source for e in walk(value) if isinstance(e, Read)}
    for s in stmts:
        for x in walk_stmts(s):
            if isinstance(x, Store | Accumulate) and x.buffer in sources:
                return False
            if isinstance(x, Opaque):
                return False
    return True


def _shared(
    body: Block, at: int, first: For, value: Expr, users: list[tuple[int, For]], number: int
) -> Block:
    extent = first.axis.extent
    if extent * value.dtype.itemsize > ROW_BYTES:
        return body
    kept = Buffer(f"e{number}", value.dtype, (extent,), "scratch")
    stmts = list(body.stmts)
    own = read(kept, (first.axis,))
    stored = Store(kept, (first.axis,), value)
    rest = _with(first.body, value, own)
    stmts[at] = replace(first, body=Block((stored, *rest.stmts)))
    for j, s in users:
        there, here = _at(value, first.axis, s.axis), read(kept, (s.axis,))
        stmts[j] = replace(s, body=_with(s.body, there, here))
    return Block((*stmts[:at], Alloc(kept), *stmts[at:]))


def _with(body: Block, old: Expr, new: Expr) -> Block:
    return Block(tuple(map_exprs(x, lambda e: _replaced(e, old, new)) for x in body.stmts))


def _replaced(e: Expr, old: Expr, new: Expr) -> Expr:
    return transform(e, lambda x: new if x is old else None)
