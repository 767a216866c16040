"""The schedule of sums of products: a register tile of outer products.

    for n0 in parallel:              # panels of NR columns
        for m0:                      # tiles of MR rows
            t[MR, NR] = 0
            for k:
                t[m, n] += a[m, k] * b[k, n]      # MR broadcasts, NR/lanes vectors
            y = f(t)

The tile is the largest that the registers hold, with the least padding for the shape at hand. Edges
get kernels of their exact size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from rung.ir.expr import Call, Expr, Read, Var, var, variables, walk
from rung.kernel.loop import Accumulate, Buffer, For, Store
from rung.kernel.loop_steps import Branch, Fuse, Peel, Split, Unroll, Vectorize
from rung.kernel.memory_steps import Pack, Stage
from rung.kernel.order_steps import Reorder
from rung.kernel.recognise import SumNest, element_bytes, nest, reads, stride, sum_nest
from rung.kernel.reduce_steps import AccumulateIn
from rung.kernel.rewrite import loops_named

if TYPE_CHECKING:
    from rung.kernel.strategy import Scheduler

IMBALANCE = 1.2
"""By how much the busiest thread may exceed the mean before rows are cut into blocks."""
BLOCK_ROWS = 48
"""Rows that a block of rows keeps at least."""
LONG_SUM = 4096
"""Terms of a sum that one pass over a panel takes."""
CACHE_PART = 0.5
"""Part of the second-level cache that a block of the broadcast factor takes."""
MANY_PANELS = 8
"""Panels from which it matters where the broadcast factor is read from."""
LEAST_BLOCK = 64
"""Rows below which a block is not cut for the cache's sake."""
COPY_ROWS = 32
"""Rows of a factor that are copied together."""
CACHE_WAY = 4096
"""Bytes after which addresses share a set of the first-level cache."""
PACK_ROWS = 32
"""Rows from which a panel that is contiguous already is packed all the same."""


@dataclass(frozen=True)
class Contraction:
    """The roles of the axes of a sum of products: `batch` occurs in both factors, `rows` only in
    the one that is broadcast, `columns` only in the one that is loaded as vectors."""

    batch: tuple[Var, ...]
    rows: tuple[Var, ...]
    columns: tuple[Var, ...]
    left: Expr
    right: Expr


def find_contraction(found: SumNest) -> Contraction | None:
    """The contraction that a sum nest is, or None (no product, or no axis of one side alone)."""
    a = found.accumulates[0]
    value = a.value
    while isinstance(value, Call) and value.op == "cast":
        value = value.args[0]
    if a.combine != "add" or not (isinstance(value, Call) and value.op == "multiply"):
        return None
    left, right = value.args
    axes = [x.axis for x in found.loops]
    in_left, in_right = variables(left), variables(right)
    only_left = tuple(v for v in axes if v in in_left and v not in in_right)
    only_right = tuple(v for v in axes if v in in_right and v not in in_left)
    batch = tuple(v for v in axes if v not in only_left and v not in only_right)
    if not only_left or not only_right:
        return None
    fast = [v for v in reversed(axes) if any(stride(s, v) == 1 for s in found.stores)]
    if fast and fast[0] in only_left:
        left, right, only_left, only_right = right, left, only_right, only_left
    return Contraction(batch, only_left, only_right, left, right)


def tile_shape(rows: int, columns: int, registers: int, lanes: int) -> tuple[int, int]:
    """(MR, NV): rows and vectors of columns of the register tile with the least predicted time.

    A step of k costs MR * NV multiply-adds (at least 8, to hide their latency); of the loads, the
    NV vectors come from the second-level cache and show more than the MR broadcasts."""
    best: tuple[float, int, int] | None = None
    for vectors in range(1, 7):
        panels = -(-columns // (vectors * lanes))
        for height in range(1, (registers - 1 - vectors) // vectors + 1):
            steps = -(-rows // height) * panels
            cost = steps * (max(height * vectors, 8) + 0.25 * height + vectors + 1)
            if best is None or (cost, -height * vectors) < (best[0], -best[1] * best[2]):
                best = (cost, height, vectors)
    assert best is not None
    return best[1], best[2]


class ContractionTiling:
    """Schedules one contraction of a kernel."""

    def __init__(self, scheduler: Scheduler, found: SumNest) -> None:
        self.s = scheduler
        self.found = self._collapsed(found)
        contraction = find_contraction(self.found)
        assert contraction is not None
        self.c = contraction
        self.reduce = [x.axis.name for x in self.found.reduce]
        machine = scheduler.machine
        self.lanes = max(machine.vector_bytes // element_bytes(found.loops[0]), 1)
        self.registers = machine.num_vector_registers

    def phase(self) -> None:
        """As a phase of its own: panels shared out to the threads."""
        batch, m0, n0 = self._tile(stage=True)
        panel = self.s.parallel([*batch, n0])
        self._pack(self.k_block or panel)
        if self.k_block:
            target = self.found.accumulates[0].buffer.name
            self.s.do(AccumulateIn(target, self.reduce[0]))
        self._finish(m0)

    def _collapsed(self, found: SumNest) -> SumNest:
        """The nest with neighbouring loops of one role made one where every access allows it."""
        while True:
            pair = self._collapsible(found)
            if pair is None:
                return found
            outer, inner = pair
            into = f"{outer.name}{inner.name}"
            first = found.loops[0].axis.name
            self.s.do(Fuse(outer.name, inner.name, into))
            first = into if first == outer.name else first
            around = next(iter(loops_named(self.s.kernel.body, first)))
            again = sum_nest(*nest(around))
            assert again is not None
            found = again

    def _collapsible(self, found: SumNest) -> tuple[Var, Var] | None:
        c = find_contraction(found)
        assert c is not None
        axes = [x.axis for x in found.loops]
        pairs = list(itertools.pairwise(axes))
        reduce = [x.axis for x in found.reduce]
        accesses: list[Read | Store | Accumulate] = [*reads(found.loops[0]), *found.stores]
        for a, b in [*pairs, *itertools.pairwise(reduce)]:
            role = next((r for r in (c.batch, c.rows, c.columns, tuple(reduce)) if a in r), ())
            if b in role and all(_dense(e, a, b) for e in accesses):
                return a, b
        return None

    def inside(self) -> None:
        """Within a row of a larger kernel."""
        _, m0, n0 = self._tile()
        self._pack(n0)
        self._finish(m0)

    def _pack(self, panel: str) -> None:
        """Copy what the tiles of a panel load as vectors into one block, vectors one after the
        other, when enough row tiles use it or it would not be vectors at all."""
        if self.staged:
            return
        for r in _panel_reads(self.c.right, self.c.columns[-1], self.found.reduce):
            contiguous = stride(r, self.c.columns[-1]) == 1
            if (contiguous and self.rows.extent < PACK_ROWS) or not isinstance(r.source, Buffer):
                continue
            assert isinstance(r.source, Buffer)
            free = {v.name for v in variables(r)}
            reduce = [k.axis for k in self.found.reduce]
            used = [n for n, k in zip(self.reduce, reduce, strict=True) if k.name in free]
            axes = (*used, self.n)
            name = f"b{len(self.packed)}_{r.source.name}"
            self.s.do(Pack(r.source.name, panel, axes, name))
            self.packed.append((f"{name}_{self.n}", contiguous))

    def _tile(self, stage: bool = False) -> tuple[list[str], str, str]:
        """Split into tiles; the names of the loops over batches, row tiles and panels."""
        batch = [v.name for v in self.c.batch]
        rows, columns = self.c.rows[-1], self.c.columns[-1]
        batch += [v.name for v in (*self.c.rows[:-1], *self.c.columns[:-1])]
        self.block: list[str] = []
        if stage:
            rows, batch = self._blocks(rows, columns, batch)
        height, vectors = tile_shape(rows.extent, columns.extent, self.registers, self.lanes)
        self.m, self.n = f"{rows.name}_r", f"{columns.name}_c"
        m0, n0 = f"{rows.name}_t", f"{columns.name}_t"
        width = min(vectors * self.lanes, columns.extent)
        self.rows, self.columns = rows, columns
        self.packed: list[tuple[str, bool]] = []
        self.copies: list[tuple[str, list[str]]] = []
        self.staged: set[str] = set()
        self.s.do(Split(rows.name, height, m0, self.m), Split(columns.name, width, n0, self.n))
        if stage and columns.extent > 2 * width:
            self._stage(batch, m0)
            self._stage_panels(n0)
        self.k_block = self._reduction_blocks() if stage else ""
        blocks = [self.k_block] if self.k_block else []
        self.s.do(Reorder((*batch, n0, *blocks, m0, *self.reduce, self.m, self.n)))
        return batch, m0, n0

    def _reduction_blocks(self) -> str:
        """Cut a reduction whose panel would not stay in the second-level cache into equal blocks;
        the name of the loop over them, empty when it is not cut."""
        k = self.found.reduce[-1].axis
        parts = next(
            (p for p in range(2, 65) if k.extent % p == 0 and k.extent // p <= LONG_SUM), 0
        )
        if len(self.reduce) > 1 or k.extent <= 2 * LONG_SUM or not parts:
            return ""
        block, within = f"{k.name}_b", f"{k.name}_i"
        self.s.do(Split(k.name, k.extent // parts, block, within))
        self.reduce = [within]
        return block

    def _blocks(self, rows: Var, columns: Var, batch: list[str]) -> tuple[Var, list[str]]:
        """The rows are cut into equal blocks where there are too few panels to share out, or where
        the broadcast factor, which every panel reads, does not stay in the second-level cache."""
        _, vectors = tile_shape(rows.extent, columns.extent, self.registers, self.lanes)
        own = -(-columns.extent // (vectors * self.lanes))
        axes = (*self.c.batch, *self.c.rows[:-1], *self.c.columns[:-1])
        panels = own * prod(v.extent for v in axes)
        cores = self.s.machine.cores
        row_bytes = 4 * prod(x.axis.extent for x in self.found.reduce)
        cache = CACHE_PART * self.s.machine.l2_bytes if own >= MANY_PANELS else float("inf")
        for n in range(1, rows.extent // BLOCK_ROWS + 1):
            size = rows.extent // n
            rounds = -(-panels * n // cores)
            if rows.extent % n or rounds * cores > IMBALANCE * panels * n:
                continue
            if size * row_bytes > cache and size >= 2 * LEAST_BLOCK:
                continue
            if n == 1:
                break
            block, within = f"{rows.name}_b", f"{rows.name}_i"
            self.block = [block]
            self.s.do(Split(rows.name, size, block, within))
            return var(within, size), [*batch, block]
        return rows, batch

    def _stage_panels(self, n0: str) -> None:
        """Where blocks of rows read the same panels, those that are not contiguous are laid out
        once for all blocks."""
        column = self.c.columns[-1]
        outer = {v.name for v in self.c.batch}
        for r in _panel_reads(self.c.right, column, self.found.reduce):
            free = {v.name for v in variables(r)}
            reduce = [k.axis.name for k in self.found.reduce if k.axis.name in free]
            plain = free == {column.name, *reduce} and not outer
            if not self.block or not plain or stride(r, column) == 1:
                continue
            assert isinstance(r.source, Buffer)
            name = f"p_{r.source.name}"
            self.s.do(Stage(r.source.name, (n0, *reduce, self.n), 0, name))
            self.copies.append((f"{name}_{self.n}", [f"{name}_{n0}"]))
            self.staged.add(name)

    def _stage(self, batch: list[str], m0: str) -> None:
        """Copy the factor that is broadcast where its layout would be slow to read: tile after
        tile when its rows are not contiguous, with padded rows when these share cache sets."""
        row, last = self.c.rows[-1], self.found.reduce[-1].axis
        for r in _panel_reads(self.c.left, row, self.found.reduce):
            assert isinstance(r.source, Buffer)
            free = {v.name for v in variables(r)} | set(self.block)
            outer = [v.name for v in (*self.c.batch, *self.c.rows[:-1]) if v.name in free]
            outer += self.block
            reduce = [k.axis.name for k in self.found.reduce if k.axis.name in free]
            if len(outer) + len(reduce) + 1 != len(free):
                continue
            name = f"a_{r.source.name}"
            along, across = stride(r, last), stride(r, row)
            if along == 1 and across is not None and across * r.dtype.itemsize % CACHE_WAY:
                continue
            axes = (*outer, m0, *reduce, self.m)
            copied = f"{name}_{self.m}"
            if along == 1:
                self.s.do(Stage(r.source.name, (*outer, m0, self.m, *reduce), 16, name))
                copied = f"{name}_{reduce[-1]}"
                axes = (*outer, m0)
            else:
                self.s.do(Stage(r.source.name, axes, 0, name))
                axes = self._by_rows(name, outer, m0, reduce)
            self.copies.append((copied, [f"{name}_{a}" for a in axes]))

    def _by_rows(self, name: str, outer: list[str], m0: str, reduce: list[str]) -> tuple[str, ...]:
        """Copy block by block of what lies side by side, not tile by tile: every line of the cache
        is used up before the next. The loops that are shared out."""
        if len(reduce) > 1:
            return (*outer, m0)
        (k,) = reduce
        block, within = f"{name}_{k}_b", f"{name}_{k}_i"
        first = [f"{name}_{a}" for a in outer]
        self.s.do(
            Split(f"{name}_{k}", COPY_ROWS, block, within),
            Reorder((*first, block, f"{name}_{m0}", within, f"{name}_{self.m}")),
        )
        return (*outer, f"{k}_b")

    def _finish(self, m0: str) -> None:
        do = self.s.do
        do(Branch(self.n), *(Branch(copy) for copy, _ in self.packed), Peel(m0), Branch(self.m))
        for copy, _ in self.packed:
            self.s.vectorize(copy, self.lanes)
        for copy, outer in self.copies:
            self.s.parallel(outer, f"{copy}_p")
            do(Branch(copy))
            self.s.vectorize(copy, self.lanes)
        self._unroll_reduction()
        nv, nl = f"{self.n}v", f"{self.n}l"
        do(Split(self.n, self.lanes, nv, nl), Peel(nv))
        do(Unroll(self.m))
        if self._has(nv):
            do(Unroll(nv))
        do(Vectorize(nl, self.lanes))

    def _unroll_reduction(self) -> None:
        """A few steps of the reduction at a time, so that its loop costs nothing."""
        k = self.reduce[-1]
        extent = max(x.axis.extent for x in loops_named(self.s.kernel.body, k))
        steps = 2
        if extent % steps == 0 and extent > steps:
            self.s.do(Split(k, steps, f"{k}_o", f"{k}_u"), Unroll(f"{k}_u"))

    def _has(self, name: str) -> bool:
        return any(True for _ in loops_named(self.s.kernel.body, name))


def _dense(e: Read | Store | Accumulate, a: Var, b: Var) -> bool:
    """Whether the place moves with `a` as it does with the end of `b`, and no guard tells them
    apart."""
    if isinstance(e, Read) and e.guard is not None and {a, b} & variables(e.guard):
        return False
    outer, inner = stride(e, a), stride(e, b)
    return outer is not None and inner is not None and outer == inner * b.extent


def _panel_reads(right: Expr, column: Var, reduce: Iterable[For]) -> list[Read]:
    """The reads of the vector factor that move with the columns and the reduction."""
    inner = {x.axis for x in reduce}
    found = [e for e in walk(right) if isinstance(e, Read)]
    return [r for r in found if column in variables(r) and inner & variables(r)]
