"""The schedule of contractions whose columns are several short axes: convolutions.

The columns (pixels of an image, or places of a filter) are packed while they still are separate
axes, so that the copy walks over rows of the image; then they become one axis, along which the
packed block is contiguous, and the register tile of `rung.kernel.contract` does the rest.

    for image in parallel:
        b[k, kh, kw, oh, ow] = x[image, k, oh + kh, ow + kw]     # zero outside
        y[image, m, pixel] += w[m, k, kh, kw] * b[k, kh, kw, pixel]

Where the sum is long instead, its outermost axis is walked over block by block and the results are
kept in scratch memory. In the gradient of a filter the roles are exchanged as well: its few places
are the rows of the tile and its channels the vectors, so that both copies run along the image."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rung.ir.expr import Read, Var, variables, walk
from rung.kernel.contract import ContractionTiling, LaidOut, choose_tiles
from rung.kernel.loop import Alloc, Buffer, Store, walk_stmts
from rung.kernel.loop_steps import Fuse, Split
from rung.kernel.memory_steps import Flatten, Pack
from rung.kernel.order_steps import Reorder
from rung.kernel.recognise import SumNest, stride
from rung.kernel.reduce_steps import AccumulateIn

if TYPE_CHECKING:
    from rung.kernel.strategy import Scheduler

SHORT_COLUMN = 8
"""Places side by side below which a copy along them is slow."""
PACK_BYTES = 1 << 18
"""Bytes that a packed block of columns should not exceed."""


class WindowTiling(ContractionTiling):
    """Schedules one contraction; `applies` where its columns are several short axes."""

    def __init__(self, scheduler: Scheduler, found: SumNest) -> None:
        super().__init__(scheduler, found)
        self.short = self._short_columns()
        columns = self.c.columns
        self.leading = columns[: len(columns) - len(self.short)]
        self.axes = [x.axis for x in self.found.reduce]
        self.applies = len(self.short) > 1 and len(self._right_reads()) == 1

    def _short_columns(self) -> tuple[Var, ...]:
        """Trailing column axes that are one axis for everything that is stored."""
        columns = self.c.columns
        if columns[-1].extent >= 2 * self.lanes:
            return ()
        first = len(columns) - 1
        while first and self._joined(columns[first - 1], columns[first]):
            first -= 1
        return columns[first:]

    def _joined(self, a: Var, b: Var) -> bool:
        stores = self.found.stores
        accesses: list[Read | Store] = [*stores, *(r for s in stores for r in _reads(s))]
        return all(_moves_with(e, a, b) for e in accesses)

    def _right_reads(self) -> list[Read]:
        reads = [e for e in walk(self.c.right) if isinstance(e, Read)]
        return [r for r in reads if self.c.columns[-1] in variables(r)]

    def phase(self) -> None:
        """As a phase of its own."""
        if self._is_filter_gradient():
            self._filter_phase()
            return
        outer = [v.name for v in (*self.c.batch, *self.c.rows[:-1], *self.leading)]
        k_block = self._long_sum()
        outer, short = self._window_blocks(outer, k_block)
        row = self.c.rows[-1]
        inner = [k.name for k in self.axes if k.name != k_block]
        blocks = [k_block] if k_block else []
        do = self.s.do
        do(Reorder((*outer, *blocks, row.name, *short, *inner)))
        panel = self.s.parallel(outer)
        self._pack_window(k_block or panel, inner, short)
        column = short[0]
        for name in short[1:]:
            do(Fuse(column, name, column + name))
            column += name
        self._flatten()
        self._tile_window(row, column, inner, bool(k_block))

    def _is_filter_gradient(self) -> bool:
        """Whether the columns are too short to copy along them, while the sum is long and the other
        factor lies side by side along its last axis."""
        (window,) = self._right_reads()
        others = [e for e in walk(self.c.left) if isinstance(e, Read)]
        if self.short[-1].extent >= SHORT_COLUMN or len(self.axes) < 3 or len(others) != 1:
            return False
        apart = window.source is not others[0].source and len(self.c.rows) == 1
        plain = apart and stride(others[0], self.axes[-1]) == 1
        return plain and all(set(self.axes) <= variables(r) for r in (window, others[0]))

    def _filter_phase(self) -> None:
        """The places of the filter become the rows of the tile: what they read is copied along the
        rows of the image, and the other factor, turned, gives the vectors."""
        block, *inner = [k.name for k in self.axes]
        column = self.c.rows[-1].name
        self.short, self.leading = self.c.columns, ()
        outer, short = self._window_blocks([v.name for v in self.c.batch], block)
        do = self.s.do
        do(Reorder((*outer, block, *short, column, *inner)))
        self.s.parallel(outer)
        (window,) = self._right_reads()
        (other,) = [e for e in walk(self.c.left) if isinstance(e, Read)]
        assert isinstance(window.source, Buffer) and isinstance(other.source, Buffer)
        near, turned = f"b_{window.source.name}", f"p_{other.source.name}"
        do(Pack(window.source.name, block, (*short, *inner), near))
        do(Pack(other.source.name, block, (*inner, column), turned))
        along = f"{turned}_{inner[0]}"
        for name in inner[1:]:
            do(Fuse(along, f"{turned}_{name}", along + name))
            along += name
        self.packed.append(LaidOut(f"{near}_{inner[-1]}", [], ""))
        self.packed.append(LaidOut(f"{turned}_{column}", [], along))
        row = short[0]
        for name in short[1:]:
            do(Fuse(row, name, row + name))
            row += name
        target = self.found.accumulates[0].buffer.name
        for name in (near, turned, target):
            do(Flatten(name, 0))
        self._tile_rows(row, column, inner)

    def _tile_rows(self, row: str, column: str, reduce: list[str]) -> None:
        rows, columns = (max(x.axis.extent for x in self.s.loops(a)) for a in (row, column))
        # rows of whole vectors, or the tile would not be held in registers
        width = columns if columns % self.lanes == 0 else min(columns, self.lanes)
        tiles = choose_tiles(rows, width, self.registers, self.lanes)
        self.m, self.n = f"{row}_r", f"{column}_c"
        m0, n0 = f"{row}_t", f"{column}_t"
        self.reduce = reduce
        do = self.s.do
        do(Split(row, tiles.height, m0, self.m))
        do(Split(column, min(tiles.vectors * self.lanes, width), n0, self.n))
        do(Reorder((n0, m0, *reduce, self.m, self.n)))
        do(AccumulateIn(self.found.accumulates[0].buffer.name, reduce[0]))
        self._finish(m0)

    def _long_sum(self) -> str:
        """The reduced axis that is walked over block by block, if the packed block needs it."""
        columns = prod(v.extent for v in self.short)
        terms = prod(k.extent for k in self.axes)
        bytes_of_column = terms * 4
        if len(self.axes) < 2 or self.leading or columns * bytes_of_column <= PACK_BYTES:
            return ""
        return self.axes[0].name

    def _window_blocks(self, outer: list[str], k_block: str) -> tuple[list[str], list[str]]:
        """Cut the first of the short axes where the packed block is too large, or where there is
        too little to share out; (loops outside, short axes)."""
        first, *rest = self.short
        terms = prod(k.extent for k in self.axes if k.name != k_block)
        width = prod(v.extent for v in rest)
        axes = (*self.c.batch, *self.c.rows[:-1], *self.leading)
        tiles = prod(v.extent for v in axes)
        cores = self.s.machine.cores
        best = first.extent
        for size in range(first.extent, 0, -1):
            if first.extent % size:
                continue
            best = size
            enough = tiles * (first.extent // size) >= cores
            if enough and size * width * terms * 4 <= PACK_BYTES:
                break
        names = [v.name for v in self.short]
        if best == first.extent and outer:
            return outer, names
        block, within = f"{first.name}_b", f"{first.name}_i"
        self.s.do(Split(first.name, best, block, within))
        return [*outer, block], [within, *names[1:]]

    def _pack_window(self, at: str, reduce: list[str], short: list[str]) -> None:
        (r,) = self._right_reads()
        assert isinstance(r.source, Buffer)
        free = {v.name for v in variables(r)}
        axes = (*[k for k in reduce if k in free], *short)
        name = self.packed_name = f"b_{r.source.name}"
        self.s.do(Pack(r.source.name, at, axes, name))
        last = self.short[-1]
        if last.extent >= 4:
            self.packed.append(LaidOut(f"{name}_{short[-1]}", [], ""))

    def _flatten(self) -> None:
        """Local buffers over the short axes are over one axis too."""
        target = self.found.accumulates[0].buffer.name
        for s in walk_stmts(self.s.kernel.body):
            if isinstance(s, Alloc) and s.buffer.name in (target, self.packed_name):
                dims = len(s.buffer.shape) - len(self.short)
                if dims >= 0:
                    self.s.do(Flatten(s.buffer.name, dims))

    def _tile_window(self, row: Var, column: str, reduce: list[str], blocked: bool) -> None:
        width = max(x.axis.extent for x in self.s.loops(column))
        tiles = choose_tiles(row.extent, width, self.registers, self.lanes)
        height, vectors = tiles.height, tiles.vectors
        self.m, self.n = f"{row.name}_r", f"{column}_c"
        m0, n0 = f"{row.name}_t", f"{column}_t"
        self.reduce = reduce
        do = self.s.do
        do(Split(row.name, height, m0, self.m))
        do(Split(column, min(vectors * self.lanes, width), n0, self.n))
        do(Reorder((n0, m0, *reduce, self.m, self.n)))
        if blocked:
            do(AccumulateIn(self.found.accumulates[0].buffer.name, reduce[0]))
        self._finish(m0)


def _moves_with(e: Read | Store, a: Var, b: Var) -> bool:
    """Whether the place moves with `a` as it does with the end of `b`."""
    outer, inner = stride(e, a), stride(e, b)
    return outer is not None and inner is not None and outer == inner * b.extent


def _reads(s: Store) -> list[Read]:
    return [e for e in walk(*s.index, s.value) if isinstance(e, Read)]
