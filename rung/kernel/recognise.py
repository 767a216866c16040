"""Recognising the structure of naive loop nests."""

from __future__ import annotations

from dataclasses import dataclass

from rung.ir.expr import Read, Var, factors, free_variables, linear_terms, walk
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    Opaque,
    Stmt,
    Store,
    remembered,
    walk_stmts,
)  # fmt: skip


@dataclass(frozen=True)
class SumNest:
    """`for loops: allocs; t = identity; for reduce: accumulates; stores`."""

    loops: tuple[For, ...]
    reduce: tuple[For, ...]
    accumulates: tuple[Accumulate, ...]
    stores: tuple[Store, ...]


def nest(s: For) -> tuple[list[For], Block]:
    """The loops of a perfect nest, outermost first, and the body of the innermost."""
    loops = [s]
    while len(loops[-1].body.stmts) == 1 and isinstance(loops[-1].body.stmts[0], For):
        loops.append(loops[-1].body.stmts[0])
    return loops, loops[-1].body


def sum_nest(loops: list[For], body: Block) -> SumNest | None:
    """The parts of a sum nest, or None when it is not one."""
    local: set[Buffer] = set()
    reduce: list[For] = []
    accumulates: list[Accumulate] = []
    stores: list[Store] = []
    for s in body.stmts:
        if isinstance(s, Alloc):
            local.add(s.buffer)
        elif isinstance(s, Store) and not reduce and s.buffer in local:
            continue
        elif isinstance(s, Store) and reduce:
            stores.append(s)
        elif isinstance(s, For) and not reduce:
            reduce, inside = nest(s)
            if not all(isinstance(x, Accumulate) and x.buffer in local for x in inside.stmts):
                return None
            accumulates = [x for x in inside.stmts if isinstance(x, Accumulate)]
        else:
            return None
    if not reduce or not stores:
        return None
    return SumNest(tuple(loops), tuple(reduce), tuple(accumulates), tuple(stores))


def only_stores(s: Stmt) -> bool:
    """Whether there is nothing but stores."""
    return all(isinstance(x, Store | Block) for x in walk_stmts(s))


def accumulates_outside(body: Block) -> bool:
    """Whether the body adds to something that was started outside of it."""
    local = {x.buffer for x in walk_stmts(body) if isinstance(x, Alloc)}
    return any(isinstance(x, Accumulate) and x.buffer not in local for x in body.stmts)


def is_scan(body: Block) -> bool:
    """Whether what is accumulated is read within the same iteration (a cumulative op)."""
    sums = {x.buffer for x in body.stmts if isinstance(x, Accumulate)}
    return any(r.source in sums for x in body.stmts if isinstance(x, Store) for r in reads(x))


def stores(s: Stmt) -> list[Store | Accumulate]:
    """Every store and accumulation."""
    return [x for x in walk_stmts(s) if isinstance(x, Store | Accumulate)]


def reads(s: Stmt) -> list[Read]:
    """Every distinct read."""
    found: dict[Read, None] = {}
    for x in stores(s):
        found.update(dict.fromkeys(_own_reads(x)))
    return list(found)


@remembered
def _own_reads(s: Store | Accumulate) -> tuple[Read, ...]:
    roots = (*s.index, s.value, *(() if s.guard is None else (s.guard,)))
    return tuple(e for e in walk(*roots) if isinstance(e, Read))


def element_bytes(s: Stmt) -> int:
    """Bytes of the widest element that is computed with (at least 4)."""
    sizes = [x.buffer.dtype.itemsize for x in stores(s)]
    sizes += [e.dtype.itemsize for e in reads(s) if not e.dtype.is_integer]
    return max([4, *sizes])


def stride(e: Read | Store | Accumulate, v: Var) -> int | None:
    """By how much the place moves with `v`, in elements; None when that is not constant."""
    buffer = e.source if isinstance(e, Read) else e.buffer
    assert isinstance(buffer, Buffer)
    total = 0
    for i, step in zip(e.index, buffer.strides, strict=True):
        terms, _ = linear_terms(i)
        for t, c in terms.items():
            if t is v:
                total += c * step
            elif any(x is v for x in walk(t)):
                return None
    return total


def moves(e: Store | Accumulate, v: Var) -> bool:
    """Whether the place moves with `v`, by a step that is the same everywhere and not 0."""
    step = stride(e, v)
    if step is not None or len(e.index) != 1:
        return bool(step)
    found = [factors(t)[0] for t in linear_terms(e.index[0])[0] if v in free_variables(t)]
    return all(x is v for x in found)


def load_cost(loads: list[Read], v: Var) -> float:
    """What vectors along `v` cost to load: one for contiguous, little for equal elements, much for
    a gather."""
    costs = {1: 1.0, 0: 0.25, -1: 1.5}
    return sum(costs.get(step, 8.0) if (step := stride(r, v)) is not None else 10.0 for r in loads)


def independent(s: For) -> bool:
    """Whether the naive outer loops of a phase may be shared out (those of a scatter may not)."""
    axes = [x.axis for x in nest(s)[0] if x.axis.extent > 1]
    for x in walk_stmts(s):
        kept = isinstance(x, Store | Accumulate) and x.buffer.role in ("output", "inout", "temp")
        if kept and not all(moves(x, v) for v in axes):  # type: ignore[arg-type]
            return False
        if isinstance(x, Opaque) and axes:
            return x.row is s.axis
    return True
