"""The schedule of sums of products over extents that are made of sizes.

    for t in parallel:                   # blocks of rows, panels of NR columns
        for m0:                          # tiles of 8 rows
            if whole: t[8, NR] ...
            else:     t[4, NR], t[2, NR], t[1, NR]: the binary digits of the rows that are left

As for known extents (`rung.kernel.contract`) a register tile of outer products is what everything
is done in. Rows that are left over get tiles of 4, 2 and 1 rows, columns single vectors, the last
of them masked."""

from __future__ import annotations

from typing import Final

from rung.ir.expr import Const, Var, variables
from rung.kernel.contract import ContractionTiling, LaidOut, Tiles, panel_reads, tile_cost
from rung.kernel.loop import Buffer, For
from rung.kernel.loop_steps import Branch, Peel, Split, Unroll, Vectorize
from rung.kernel.memory_steps import Pack
from rung.kernel.order_steps import Reorder
from rung.kernel.recognise import stride
from rung.kernel.sized_steps import Halve

USUAL: Final = 128
"""What an extent that is made of sizes is taken for where tiles are chosen."""
BLOCK_TILES: Final = 8
"""Tiles of rows in a block, which is the least that a core takes of the rows."""
LONG_ROW: Final = 4096
"""Bytes from row to row from which a panel is better copied, even where it is contiguous."""
MOST_PACKED: Final = 1 << 23
"""Bytes of a panel that is copied, at most."""


class SizedTiling(ContractionTiling):
    """Schedules one contraction of a kernel that depends on sizes."""

    def phase(self) -> None:
        """As a phase of its own: blocks of rows and panels are shared out to the threads."""
        self._sized(True)

    def inside(self) -> None:
        """Within a row of a larger kernel."""
        self._sized(False)

    def _sized(self, shared: bool) -> None:
        do, lanes = self.s.do, self.lanes
        rows, columns = self.c.rows[-1], self.c.columns[-1]
        batch = [v.name for v in (*self.c.batch, *self.c.rows[:-1], *self.c.columns[:-1])]
        self.rows, self.columns = rows, columns
        self.tiles = self._chosen(rows, columns)
        height, width = self.tiles.height, self.tiles.vectors * lanes
        if not self._is_sized(columns):
            width = min(width, columns.extent)
        self.m, self.n = m, n = f"{rows.name}_r", f"{columns.name}_c"
        m0, n0 = f"{rows.name}_t", f"{columns.name}_t"
        do(Split(rows.name, height, m0, m), Split(columns.name, width, n0, n))
        outer = [*batch]
        if shared:
            do(Split(m0, BLOCK_TILES, f"{m0}_b", f"{m0}_u"))
            outer, m0 = [*batch, f"{m0}_b"], f"{m0}_u"
        do(Reorder((*outer, n0, m0, m, n)))
        panel = self.s.parallel([*outer, n0]) if shared else n0
        self._pack_panel(panel)
        self._cut_edges(m0)
        for copy in self.packed:
            do(Branch(copy.last))
            if copy.turned:
                self._turn_sized(copy.turned, copy.last)
            else:
                self.s.vectorize(copy.last, lanes)

    def _is_sized(self, v: Var) -> bool:
        """Whether a loop over the axis has an extent that is made of sizes."""
        loops = [*self.found.loops, *self.found.reduce]
        return any(f.axis is v and not isinstance(f.extent, Const) for f in loops)

    def _chosen(self, rows: Var, columns: Var) -> Tiles:
        """The tile with the least predicted time; of a power of two of rows if these vary, and
        narrow if the columns do, of which it leaves half a tile over on average."""
        many, wide = (USUAL if self._is_sized(v) else v.extent for v in (rows, columns))
        powers = self._is_sized(rows)
        found = [
            Tiles(1, height, vectors)
            for vectors in range(1, 3 if self._is_sized(columns) else 7)
            for height in range(1, (self.registers - 1 - vectors) // vectors + 1)
            if not powers or (height & (height - 1) == 0 and height <= 16)
        ]
        return min(
            found,
            key=lambda t: (
                tile_cost(many, wide, t.height, t.vectors, self.lanes),
                -t.height * t.vectors,
            ),
        )

    def _pack_panel(self, panel: str) -> None:
        """Copy what the tiles of a panel load as vectors, where it is not contiguous or its rows
        are far apart."""
        for r in panel_reads(self.c.right, self.c.columns[-1], self.found.reduce):
            along, last = stride(r, self.c.columns[-1]), self.found.reduce[-1].axis
            across = stride(r, last)
            near = across is not None and abs(across) * r.dtype.itemsize < LONG_ROW
            if (along == 1 and near) or not isinstance(r.source, Buffer):
                continue
            if self._is_read_twice(r):
                continue
            free = {v.name for v in variables(r)}
            used = [k for k in self.reduce if k in free]
            terms = 1
            for f in self.found.reduce:
                terms *= f.axis.extent if f.axis.name in free else 1
            nbytes = terms * self.tiles.vectors * self.lanes * r.dtype.itemsize
            if not used or (along == 1 and nbytes > MOST_PACKED):
                continue
            name = self._fresh(f"b_{r.source.name}")
            pack = Pack(r.source.name, panel, (*used, self.n), name)
            if not pack.holds(self.s.kernel):
                continue
            self.s.do(pack)
            turned = f"{name}_{used[-1]}" if along != 1 and across == 1 else ""
            self.packed.append(LaidOut(f"{name}_{self.n}", [], turned))

    def _turn_sized(self, along: str, across: str) -> None:
        """Copy squares that are transposed in registers, and what is left of them one by one."""
        loops = self.s.loops(along)
        if all(isinstance(f.extent, Const) for f in loops):
            self._turn(along, across)
            return
        wide = max(f.axis.extent for f in self.s.loops(across))
        if wide == 1 or max(f.axis.extent for f in loops) < self.lanes:
            self.s.vectorize(across, self.lanes)
            return
        width = min(self.lanes, 1 << (wide - 1).bit_length())
        outer, column, vectors, lane = (f"{along}_b", f"{along}_u", f"{across}_v", f"{across}_l")
        do = self.s.do
        do(Split(along, self.lanes, outer, column), Split(across, width, vectors, lane))
        do(Reorder((outer, vectors, column, lane)))
        do(Branch(column, f"{column}_r"), Branch(lane), Unroll(column), Vectorize(lane, width))

    def _cut_edges(self, m0: str) -> None:
        """Tiles of their own for what is left of columns and rows; then the sum outside of them."""
        do, lanes, m, n = self.s.do, self.lanes, self.m, self.n
        columns, rows = [n], [m]
        if self._is_sized(self.columns):
            rest, vectors, single = f"{n}_e", f"{n}_q", f"{n}_s"
            do(Branch(n, rest))
            do(Split(rest, lanes, vectors, single), Reorder((vectors, m0, m, single)))
            columns.append(single)
        else:
            do(Branch(n))
        if self._is_sized(self.rows):
            rest = f"{m}_e"
            do(Branch(m, rest))
            if self._has(rest):
                halve = Halve(rest)
                rows += halve.names(self.tiles.height - 1)
                do(halve)
        else:
            do(Branch(m))
        rows = [x for x in rows if self._has(x)]
        do(Reorder((*self.reduce, *rows, *columns)))
        k = steps = self.reduce[-1]
        outermost = self.reduce[0]
        if not any(map(self._is_sized, (x.axis for x in self.found.reduce))):
            part, terms = self._short_sums()
            steps = self._step_reduction(part, terms)
            outermost = outermost if len(self.reduce) > 1 else steps if part == k else f"{k}_s"
        nv, nl = f"{n}v", f"{n}l"
        do(Split(n, lanes, nv, nl), Peel(nv), *map(Unroll, rows))
        if self._has(nv):
            do(Unroll(nv))
        do(Vectorize(nl, lanes))
        if len(columns) > 1:
            do(Vectorize(columns[-1], lanes))
        self._leave_out(outermost, steps)


def depends_on_sizes(loops: list[For]) -> bool:
    """Whether the extent of a loop is made of sizes."""
    return any(not isinstance(f.extent, Const) for f in loops)
