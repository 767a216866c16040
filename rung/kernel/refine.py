"""Splitting loop variables at the boundaries at which index expressions take them apart.

A loop over a flat position `r` whose body uses `r // 64` and `r % 64` becomes two loops whose
variables are those digits, so that every index is linear again."""

from __future__ import annotations

from collections.abc import Iterable

from rung.core.dtype import int64
from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Var,
    const,
    iadd,
    imul,
    isub,
    linear_terms,
    var,
    walk,
)  # fmt: skip
from rung.kernel.loop import Block, For, Stmt, loop, map_stmts, stmt_exprs, walk_stmts
from rung.kernel.rewrite import substitute_stmt

_COMPARISONS = ("less", "less_equal", "greater", "greater_equal")


def _place(digit: Expr, v: Var) -> int:
    """What one step of `digit` is in steps of `v`: 1 for v and v % e, d for v // d and
    (v // d) % e; 0 when it is no digit of `v`."""
    place = 1
    if isinstance(digit, Call) and digit.op == "remainder":
        digit = digit.args[0]
    if isinstance(digit, Call) and digit.op == "floor_divide" and isinstance(digit.args[1], Const):
        place = int(digit.args[1].value)
        digit = digit.args[0]
    return place if digit is v else 0


def boundaries(v: Var, exprs: Iterable[Expr]) -> list[int]:
    """The places at which `v` is cut: d for v // d and v % d; d and d * e for (v // d) % e."""
    found: set[int] = set()
    for e in walk(*exprs):
        if isinstance(e, Call) and e.op in ("floor_divide", "remainder"):
            base, d = e.args
            if not isinstance(d, Const):
                continue
            place = 1
            if isinstance(base, Call) and base.op == "floor_divide":
                inner = base.args[1]
                if isinstance(inner, Const):
                    base, place = base.args[0], int(inner.value)
            if base is v:
                found |= {place, place * int(d.value)}
        elif isinstance(e, Call) and e.op in _COMPARISONS and e.args[0].dtype is int64:
            terms, constant = linear_terms(isub(*e.args))
            if len(terms) == 1 and abs(next(iter(terms.values()))) == 1:
                found.add(abs(constant) * _place(next(iter(terms)), v))
    return sorted(b for b in found if 1 < b < v.extent)


def digits(v: Var, exprs: Iterable[Expr]) -> tuple[tuple[Var, ...], Expr] | None:
    """Loop variables, outermost first, that together make up `v`, and `v` in terms of them; None
    when nothing cuts it. Boundaries that do not divide one another are left as they are."""
    chain = [1]
    for b in boundaries(v, exprs):
        if b % chain[-1] == 0 and v.extent % b == 0:
            chain.append(b)
    if len(chain) == 1:
        return None
    ends = [*chain[1:], v.extent]
    axes = [var(f"{v.name}_{len(chain) - 1 - i}", ends[i] // chain[i]) for i in range(len(chain))]
    total: Expr = const(0)
    for axis, place in zip(axes, chain, strict=True):
        total = iadd(total, imul(axis, place))
    return tuple(reversed(axes)), total


def refine_loops(s: Stmt) -> Stmt:
    """Split each loop at the boundaries at which its body takes its variable apart."""

    def rewrite(x: Stmt) -> Stmt | None:
        if not isinstance(x, For):
            return None
        split = digits(x.axis, [e for y in walk_stmts(x.body) for e in stmt_exprs(y)])
        if split is None:
            return None
        axes, total = split
        body: Stmt = substitute_stmt(x.body, {x.axis: total})
        assert isinstance(body, Block)
        nest: tuple[Stmt, ...] = body.stmts
        for axis in reversed(axes):
            nest = (loop(axis, *nest, kind=x.kind),)
        return nest[0]

    return map_stmts(s, rewrite)
