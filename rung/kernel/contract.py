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

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from rung.ir.expr import Call, Expr, Read, Var, var, variables, walk
from rung.kernel.loop import Buffer, For
from rung.kernel.loop_steps import Branch, Peel, Split, Unroll, Vectorize
from rung.kernel.memory_steps import Pack, Stage
from rung.kernel.order_steps import Reorder
from rung.kernel.recognise import SumNest, element_bytes, stride

if TYPE_CHECKING:
    from rung.kernel.strategy import Scheduler

IMBALANCE = 1.2
"""By how much the busiest thread may exceed the mean before rows are cut into blocks."""
BLOCK_ROWS = 48
"""Rows that a block of rows keeps at least."""
CACHE_WAY = 4096
"""Bytes after which addresses share a set of the first-level cache."""
PACK_ROWS = 32
"""Rows from which a panel that is contiguous already is packed all the same."""


@dataclass(frozen=True)
class Contraction:
    """The roles of the axes of a sum of products: `batch` occurs in both factors, `rows` only in the
    one that is broadcast, `columns` only in the one that is loaded as vectors."""

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

    A step of k costs MR * NV multiply-adds (at least 8, to hide their latency); of the loads, the NV
    vectors come from the second-level cache and show more than the MR broadcasts."""
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
        contraction = find_contraction(found)
        assert contraction is not None
        self.s = scheduler
        self.found = found
        self.c = contraction
        self.reduce = [x.axis.name for x in found.reduce]
        machine = scheduler.machine
        self.lanes = max(machine.vector_bytes // element_bytes(found.loops[0]), 1)
        self.registers = machine.num_vector_registers

    def phase(self) -> None:
        """As a phase of its own: panels shared out to the threads."""
        batch, m0, n0 = self._tile(stage=True)
        panel = self.s.parallel([*batch, n0])
        self._pack(panel)
        self._finish(m0)

    def inside(self) -> None:
        """Within a row of a larger kernel."""
        _, m0, n0 = self._tile()
        self._pack(n0)
        self._finish(m0)

    def _pack(self, panel: str) -> None:
        """Copy what the tiles of a panel load as vectors into one block, vectors one after the
        other, when enough row tiles use it or it would not be vectors at all."""
        step = self.columns.extent if self.columns is not self.c.columns[-1] else 1
        for r in _panel_reads(self.c.right, self.c.columns[-1], self.found.reduce):
            contiguous = stride(r, self.c.columns[-1]) == step
            if contiguous and self.rows.extent < PACK_ROWS:
                continue
            assert isinstance(r.source, Buffer)
            free = {v.name for v in variables(r)}
            axes = (*[k for k in self.reduce if k in free], self.n)
            name = f"b{len(self.packed)}_{r.source.name}"
            self.s.do(Pack(r.source.name, panel, axes, name))
            self.packed.append((f"{name}_{self.n}", contiguous))

    def _tile(self, stage: bool = False) -> tuple[list[str], str, str]:
        """Split into tiles; the names of the loops over batches, row tiles and panels."""
        batch = [v.name for v in self.c.batch]
        rows, extra_rows = self._merged(self.c.rows, "m")
        columns, extra_columns = self._merged(self.c.columns, "n")
        batch += [*extra_rows, *extra_columns]
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
        self.s.do(Split(rows.name, height, m0, self.m), Split(columns.name, width, n0, self.n))
        if stage and columns.extent > 2 * width:
            self._stage(batch, m0, -(-rows.extent // height))
        self.s.do(Reorder((*batch, n0, m0, *self.reduce, self.m, self.n)))
        return batch, m0, n0

    def _blocks(self, rows: Var, columns: Var, batch: list[str]) -> tuple[Var, list[str]]:
        """Where there are too few panels to share out, the rows are cut into equal blocks."""
        _, vectors = tile_shape(rows.extent, columns.extent, self.registers, self.lanes)
        panels = -(-columns.extent // (vectors * self.lanes))
        axes = (*self.c.batch, *self.c.rows[:-1], *self.c.columns[:-1])
        panels *= prod(v.extent for v in axes)
        cores = self.s.machine.cores
        for n in range(1, rows.extent // BLOCK_ROWS + 1):
            rounds = -(-panels * n // cores)
            if rows.extent % n == 0 and rounds * cores <= IMBALANCE * panels * n:
                if n == 1:
                    break
                block, within = f"{rows.name}_b", f"{rows.name}_i"
                self.block = [block]
                self.s.do(Split(rows.name, rows.extent // n, block, within))
                return var(within, rows.extent // n), [*batch, block]
        return rows, batch

    def _stage(self, batch: list[str], m0: str, num_tiles: int) -> None:
        """Copy the factor that is broadcast where its layout would be slow to read: tile after
        tile when its rows are not contiguous, with padded rows when these share cache sets."""
        row, last = self.rows, self.found.reduce[-1].axis
        for r in _panel_reads(self.c.left, row, self.found.reduce):
            assert isinstance(r.source, Buffer)
            free = {v.name for v in variables(r)} | set(self.block)
            outer = [v.name for v in (*self.c.batch, *self.c.rows[:-1]) if v.name in free]
            outer += self.block
            reduce = [k for k in self.reduce if k in free]
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
                axes = (*outer, m0)
            self.copies.append((copied, [f"{name}_{a}" for a in axes]))

    def _merged(self, axes: tuple[Var, ...], name: str) -> tuple[Var, list[str]]:
        """(the axis to tile, names of the outer loops that are left)."""
        return axes[-1], [v.name for v in axes[:-1]]

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
        k = self.found.reduce[-1].axis
        steps = next((u for u in (4, 2) if k.extent % u == 0 and k.extent > u), 1)
        if steps > 1:
            self.s.do(Split(k.name, steps, f"{k.name}_o", f"{k.name}_u"), Unroll(f"{k.name}_u"))

    def _has(self, name: str) -> bool:
        from rung.kernel.rewrite import loops_named

        return any(True for _ in loops_named(self.s.kernel.body, name))


def _panel_reads(right: Expr, column: Var, reduce: Iterable[For]) -> list[Read]:
    """The reads of the vector factor that move with the columns and the reduction."""
    inner = {x.axis for x in reduce}
    found = [e for e in walk(right) if isinstance(e, Read)]
    return [r for r in found if column in variables(r) and inner & variables(r)]
