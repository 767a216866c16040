"""Unrolled loops that are emitted as loops: what comes after the sum of a register tile.

A tile is kept in registers because its loops are unrolled. What is then computed from it (a bias,
an activation, the update of an optimizer) would be written out for every row of the tile, which is
most of the code of many kernels and gains nothing: the tile is stored, and a loop over its rows
does the rest.

    for m in unroll(14):                  for m in unroll(14):
        for n in vector(16):                  for n in vector(16):
            y[m, n] = f(t[m, n])    ->            t_rows[m, n] = t[m, n]
                                          for m in range(14):
                                              for n in vector(16):
                                                  y[m, n] = f(t_rows[m, n])
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from itertools import chain

from rung.codegen.llvm.address import Lanes, find_address
from rung.core import dtype as dt
from rung.ir.expr import Call, Expr, Read, Var, const, read, transform, variables, walk
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Prefetch,
    Stmt,
    Store,
    children,
    stmt_exprs,
    walk_stmts,
)  # fmt: skip
from rung.kernel.rewrite import constant_extent, map_exprs
from rung.kernel.share import COSTLY

LEAST_ROWS = 4
"""Iterations from which a loop is a loop."""
LEAST_WORK = 256
"""Operations, in all iterations, up to which code is written out."""
WORTH_A_COPY = 20
"""Operations for each value of the tile that make a store and a load of it cheap."""
COSTLY_WORK = 15
"""Operations of a function such as exp."""


def in_memory(kernel: Kernel) -> frozenset[Buffer]:
    """The register buffers that are too large to be registers: the variable of a loop that stays a
    loop is in an index of them."""
    found: set[Buffer] = set()

    def visit(s: Stmt, moving: frozenset[Var]) -> None:
        if isinstance(s, For) and s.kind in ("serial", "parallel") and constant_extent(s) != 1:
            moving |= {s.axis}
        if moving:
            accesses = [e for e in walk(*stmt_exprs(s)) if isinstance(e, Read)]
            for buffer, index in chain(
                ((s.buffer, s.index) for s in (s,) if isinstance(s, Store | Accumulate)),
                ((e.source, e.index) for e in accesses if isinstance(e.source, Buffer)),
            ):
                if buffer.role == "register" and not moving.isdisjoint(_all_variables(index)):
                    found.add(buffer)
        for c in children(s):
            visit(c, moving)

    visit(kernel.body, frozenset())
    return frozenset(found)


def rolled(s: For, memory: Set[Buffer]) -> Block | None:
    """The statements for an unrolled loop that had better be a loop, or None. `memory`: the
    register buffers that are not in registers."""
    count = constant_extent(s)
    if count is None or count < LEAST_ROWS or not _is_simple(s):
        return None
    if any(b.role == "register" and b not in memory for b in _stored(s)):
        return None
    tiles = dict.fromkeys(r for r in _tile_reads(s) if r.source not in memory)
    work = sum(w for w, _ in _works(s.body))
    if count * work < LEAST_WORK or work < WORTH_A_COPY * sum(_copies(s.body, tiles)):
        return None
    loop = replace(s, kind="serial")
    if not tiles:
        return Block((loop,))
    copied = {r.source: _rows_of(r.source) for r in tiles if isinstance(r.source, Buffer)}

    def of_rows(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e in tiles and isinstance(e.source, Buffer):
            return read(copied[e.source], e.index, e.dtype, e.guard)
        return None

    before = [Alloc(b) for b in copied.values()]
    copies = [c for c in (_copy(s, tiles, copied),) if c is not None]
    return Block((*before, *copies, map_exprs(loop, lambda e: transform(e, of_rows))))


def _rows_of(tile: Buffer) -> Buffer:
    return replace(tile, name=f"{tile.name}_rows")


def _copy(s: Stmt, tiles: dict[Read, None], copied: dict[Buffer, Buffer]) -> Stmt | None:
    """The loops of `s` around copies of what its statements read of the tiles, each once."""
    if isinstance(s, Block):
        seen: dict[Stmt, None] = {}
        for c in s.stmts:
            made = _copy(c, tiles, copied)
            parts = made.stmts if isinstance(made, Block) else (made,)
            seen |= dict.fromkeys(p for p in parts if p is not None)
        return Block(tuple(seen)) if seen else None
    if isinstance(s, For):
        body = _copy(s.body, tiles, copied)
        return replace(s, body=body) if isinstance(body, Block) else None
    found = dict.fromkeys(e for e in walk(*stmt_exprs(s)) if isinstance(e, Read) and e in tiles)
    stores = [
        Store(copied[e.source], e.index, read(e.source, e.index, e.dtype))
        for e in found
        if isinstance(e.source, Buffer)
    ]
    return Block(tuple(stores)) if stores else None


def _is_simple(s: For) -> bool:
    """Whether there are only unrolled and vector loops, with stores in them."""
    for c in walk_stmts(s):
        if isinstance(c, For) and c.kind not in ("unroll", "vector"):
            return False
        if isinstance(c, If | Alloc | Opaque | Prefetch | Accumulate):
            return False
        if any(_asks_for(e, s.axis) for e in walk(*stmt_exprs(c))):
            return False  # most rows have no condition if each has code of its own
    return True


def _asks_for(e: Expr, axis: Var) -> bool:
    if not isinstance(e, Call) or e.dtype is not dt.bool_:
        return False
    return any(a.dtype is dt.int64 and axis in variables(a) for a in e.args)


def _stored(s: Stmt) -> Iterator[Buffer]:
    return (c.buffer for c in walk_stmts(s) if isinstance(c, Store))


def _tile_reads(s: For) -> Iterator[Read]:
    """What is read of registers along the loop."""
    for c in walk_stmts(s):
        for e in walk(*stmt_exprs(c)):
            if not isinstance(e, Read) or not isinstance(e.source, Buffer):
                continue
            if e.source.role == "register" and s.axis in _all_variables(e.index):
                yield e


def _all_variables(index: tuple[Expr, ...]) -> set[Var]:
    return {v for i in index for v in variables(i)}


def _works(s: Stmt, times: int = 1, lane: For | None = None) -> Iterator[tuple[int, Stmt]]:
    """For each store the operations that are emitted for it."""
    if isinstance(s, For):
        count = constant_extent(s) or 1
        if s.kind == "vector":
            lane = s
        else:
            times *= count
    if isinstance(s, Store):
        work = sum(_work(e) for e in walk(s.value))
        for buffer, index in ((s.buffer, s.index), *_reads(s.value)):
            work += _lanes_apart(buffer, index, lane)
        yield times * work, s
    for c in children(s):
        yield from _works(c, times, lane)


def _work(e: Expr) -> int:
    if not isinstance(e, Call):
        return 0
    return COSTLY_WORK if e.op in COSTLY else 1


def _reads(value: Expr) -> Iterator[tuple[Buffer, tuple[Expr, ...]]]:
    for e in walk(value):
        if isinstance(e, Read) and isinstance(e.source, Buffer):
            yield e.source, e.index


def _lanes_apart(buffer: Buffer, index: tuple[Expr, ...], lane: For | None) -> int:
    """Operations of an access: one, or one for each lane if these do not lie side by side."""
    if lane is None or lane.axis not in _all_variables(index):
        return 1
    width = lane.lanes or constant_extent(lane) or 1
    zeros = tuple(
        transform(i, lambda e: const(0) if isinstance(e, Var) and e is not lane.axis else None)
        for i in index
    )
    lanes = Lanes(lane.axis, width)
    address = find_address(zeros, buffer.strides, lanes, lambda e: lane.axis in variables(e))
    return 1 if address.step in (1, -1) else width


def _copies(s: Stmt, tiles: dict[Read, None], times: int = 1) -> Iterator[int]:
    """How many values of the tiles each read is."""
    if isinstance(s, For) and s.kind == "unroll":
        times *= constant_extent(s) or 1
    if isinstance(s, Block) and tiles:
        found = [e for c in s.stmts for e in walk(*stmt_exprs(c)) if e in tiles]
        yield times * len(dict.fromkeys(found))
    for c in children(s):
        yield from _copies(c, tiles, times)
