"""Copies that turn rows into columns, through registers.

    for j in unroll(16):
        for i in vector(8):
            y[8*j + i] = x[1000*i + j]

Lane by lane this is 16 gathers. Instead each of the 8 rows is loaded as one vector along `j`, and
the rows are interleaved in pairs, log2(8) times: what comes out lies as `y` wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.codegen.llvm.builder import Function
from rung.codegen.llvm.types import Val, lanes_of
from rung.ir.expr import Const, Read
from rung.kernel.loop import Buffer, For, Store


@dataclass(frozen=True)
class TileCopy:
    """An unrolled loop of `columns` turns around a vector loop of `rows` lanes, both full, whose
    body is one store of one read."""

    columns: int
    rows: int
    vector: For
    store: Store
    source: Read


def find_tile_copy(s: For) -> TileCopy | None:
    """The copy that an unrolled loop is, by its form; where it moves is for the caller to see."""
    inner = s.body.stmts[0] if len(s.body.stmts) == 1 else None
    if not (isinstance(inner, For) and inner.kind == "vector" and len(inner.body.stmts) == 1):
        return None
    store = inner.body.stmts[0]
    if not (isinstance(store, Store) and isinstance(store.value, Read)) or store.guard is not None:
        return None
    source = store.value
    rows = inner.lanes or inner.axis.extent
    full = all(isinstance(x.extent, Const) for x in (s, inner)) and inner.axis.extent == rows
    columns = s.axis.extent
    if not full or source.guard is not None or source.dtype is not store.buffer.dtype:
        return None
    if not isinstance(source.source, Buffer) or source.source is store.buffer:
        return None
    if columns & (columns - 1) or rows & (rows - 1) or not 1 < rows <= columns:
        return None
    return TileCopy(columns, rows, inner, store, source)


def interleave(f: Function, rows: Sequence[Val]) -> list[Val]:
    """Vectors that hold element 0 of every row, then element 1 of every row, and so on."""
    if len(rows) == 1:
        return list(rows)
    even, odd = interleave(f, rows[0::2]), interleave(f, rows[1::2])
    count = lanes_of(rows[0].type)
    low = [lane for i in range(count // 2) for lane in (i, count + i)]
    high = [lane + count // 2 for lane in low]
    return [f.shuffle(x, half, y) for x, y in zip(even, odd, strict=True) for half in (low, high)]
