"""The schedule of sums of products: a register tile of outer products.

    for n0 in parallel:              # panels of NR columns
        for m0:                      # tiles of MR rows
            t[MR, NR] = 0
            for k:
                t[m, n] += a[m, k] * b[k, n]      # MR broadcasts, NR/lanes vectors
            y = f(t)

The tile is the one of those that the registers hold with the least predicted time of the busiest
core. Before, the broadcast factor is laid out tile after tile by a phase of its own; a panel is
laid out as it is reached, or before too where several blocks of rows read it. Where the broadcast
factor is much larger than the second-level cache, each block of its rows is laid out in memory that
stays there, and all panels pass by. Each step asks ahead for what was laid out, and a tile for what
its epilogue reads. Edges get kernels of their exact size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING

from rung.ir.expr import Call, Expr, Read, Var, var, variables, walk
from rung.kernel.domain_steps import Narrow, Skip
from rung.kernel.loop import Accumulate, Alloc, Buffer, For, Store, walk_stmts
from rung.kernel.loop_steps import Branch, Fuse, Peel, Split, Unroll, Vectorize
from rung.kernel.memory_steps import Pack, PrefetchIn, PrefetchRest, Stage, reads_of
from rung.kernel.order_steps import Reorder
from rung.kernel.recognise import SumNest, element_bytes, nest, reads, stride, sum_nest
from rung.kernel.reduce_steps import AccumulateIn
from rung.kernel.rewrite import constant_extent, loops_named

if TYPE_CHECKING:
    from rung.kernel.strategy import Scheduler

BLOCK_ROWS = 48
"""Rows that a block of rows keeps at least."""
TERMS = 256
"""Terms of a sum that are added up one after the other."""
LONG_SUM = 4096
"""Terms of a sum that one pass over a panel takes."""
BLOCK_COST = 1.03
"""What it costs to cut the rows into blocks: the panels are laid out by a phase of its own."""
FAR_COST = 1.06
"""What it costs that a block of rows does not stay in the second-level cache."""
EVEN = 16
"""Panels for each core from which it does not matter that their number does not divide."""
COPY_ROWS = 32
"""Rows of a factor that are copied together."""
LOAD_COST = 0.25
"""What a load of a tile's step shows, as a part of a multiply-add."""
STEP_COST = 1.0
"""What a step of a tile costs besides."""
FEW_PANELS = 2
"""Panels up to which nothing is laid out for all of them."""
STAGE_PANELS = 8
"""Panels from which the broadcast factor is laid out tile by tile."""
STAGE_PANELS_NEAR = 12
"""The same for a factor that the second-level cache holds."""
STAGE_MOST = 1 << 24
"""Elements of a factor from which a copy takes more memory than it is worth, if its rows are
contiguous."""
ODD_COST = 1.03
"""What a height that is no power of two costs: such tiles are slower to lay out."""
AHEAD = 8
"""Terms of the sum by which the tiles ask ahead for their factors."""
REST_TERMS = 128
"""Terms of the sum from which a tile asks for what is read and written after it."""
NEAR = 0.4
"""Part of the second-level cache that a block of rows may take."""
FAR = 6
"""Sizes of that cache from which on the broadcast factor is better laid out block by block."""
CACHE_WAY = 4096
"""Bytes after which addresses share a set of the first-level cache, which holds as many of them as
its size has these."""
FEW = 4
"""Steps of a tile that are written out where each counts for other rows."""
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


@dataclass(frozen=True)
class Tiles:
    """How a contraction is cut: equal blocks of rows, and the register tile, `height` rows by
    `vectors` vectors of columns."""

    blocks: int
    height: int
    vectors: int


@cache
def choose_tiles(
    rows: int,
    columns: int,
    registers: int,
    lanes: int,
    groups: int = 1,
    cores: int = 1,
    cached_rows: int = 1 << 30,
) -> Tiles:
    """The cut with the least predicted time of the busiest core. `groups` such contractions are
    shared out together; a panel of one block is the least that a core takes. More rows than
    `cached_rows` are read again for every panel from farther away than the second-level cache."""
    limit = rows // BLOCK_ROWS if cores > 1 else 1
    blocks = [n for n in range(1, max(limit, 1) + 1) if rows % n == 0 and n <= 4 * cores]
    return min(
        (
            Tiles(n, height, vectors)
            for n in blocks
            for vectors in range(1, 7)
            for height in range(1, (registers - 1 - vectors) // vectors + 1)
        ),
        key=lambda t: (
            t.blocks
            * tile_cost(rows // t.blocks, columns, t.height, t.vectors, lanes)
            * _imbalance(-(-columns // lanes), t.vectors, groups * t.blocks, cores)
            * (BLOCK_COST if t.blocks > 1 else 1.0)
            * (FAR_COST if rows // t.blocks > cached_rows else 1.0),
            -t.height * t.vectors,
        ),
    )


def _imbalance(vectors: int, width: int, groups: int, cores: int) -> float:
    """The work of the busiest core over the mean, when each core that is free takes the next of
    `groups` times the panels of `width` (the last is narrower)."""
    panels = groups * -(-vectors // width)
    if cores == 1 or panels > EVEN * cores:
        return 1.0
    loads = [0] * cores
    for _ in range(groups):
        for size, number in _cuts(vectors, width):
            for _ in range(number):
                loads[loads.index(min(loads))] += size
    return max(loads) * cores / (groups * vectors)


def tile_cost(rows: int, columns: int, height: int, vectors: int, lanes: int) -> float:
    """Predicted time of all tiles for one term of the sum, in multiply-adds: the edges have tiles
    of their own size; a step costs its multiply-adds (at least 8, to hide their latency) and shows
    a part of its loads (a vector is asked for ahead as well)."""
    total = 0.0
    for h, n in _cuts(rows, height):
        for v, m in _cuts(-(-columns // lanes), vectors):
            total += n * m * (max(h * v, 8) + LOAD_COST * (h + 2 * v) + STEP_COST)
    return total if height & (height - 1) == 0 else total * ODD_COST


def _cuts(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, number) of the parts of an extent: whole ones and the rest."""
    cuts = [(size, extent // size), (extent % size, 1)]
    return [(s, n) for s, n in cuts if s and n]


@dataclass(frozen=True)
class LaidOut:
    """A copy of a factor: the loop over what lies side by side in it, the loops that are shared out
    (when it has a phase of its own), and the loop over what lies side by side in the source, if
    that is another one."""

    last: str
    shared: list[str]
    turned: str


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
        self.block: list[str] = []
        self.packed: list[LaidOut] = []
        self.copies: list[LaidOut] = []
        self.staged: set[str] = set()
        self.streams: list[str] = []
        self.k_block = ""
        self.near = False

    def phase(self) -> None:
        """As a phase of its own: panels shared out to the threads."""
        batch, m0, n0 = self._tile(stage=True)
        if self.near:
            self._pack_rows(self.s.parallel(batch), m0)
        else:
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
        accesses += found.accumulates
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
        for r in panel_reads(self.c.right, self.c.columns[-1], self.found.reduce):
            contiguous = stride(r, self.c.columns[-1]) == 1
            if contiguous and self.rows.extent < PACK_ROWS:
                continue
            if not isinstance(r.source, Buffer) or self._is_read_twice(r):
                continue
            free = {v.name for v in variables(r)}
            reduce = [k.axis for k in self.found.reduce]
            used = [n for n, k in zip(self.reduce, reduce, strict=True) if k.name in free]
            name = self._fresh(f"b_{r.source.name}")
            self.s.do(Pack(r.source.name, panel, (*used, self.n), name))
            turns = used and not contiguous and stride(r, reduce[-1]) == 1
            turned = f"{name}_{used[-1]}" if turns else ""
            self.packed.append(LaidOut(f"{name}_{self.n}", [], turned))
            self.streams += [name] if self.reduce[-1] in used else []

    def _pack_rows(self, at: str, m0: str) -> None:
        """Copy the rows of a block, tile after tile, where the second-level cache keeps them."""
        for r in panel_reads(self.c.left, self.c.rows[-1], self.found.reduce):
            assert isinstance(r.source, Buffer)
            name = self._fresh(f"a_{r.source.name}")
            self.s.do(Pack(r.source.name, at, (m0, *self.reduce, self.m), name))
            self.packed.append(LaidOut(f"{name}_{self.m}", [], f"{name}_{self.reduce[-1]}"))
            self.streams.append(name)

    def _is_read_twice(self, r: Read) -> bool:
        """Whether the nest reads the buffer in another way too, along the same axes."""
        along = variables(r)
        found = [x for x in reads(self.found.loops[0]) if x.source is r.source]
        return any(x is not r and variables(x) >= along for x in found)

    def _moves(self, r: Read, axes: tuple[str, ...]) -> bool:
        """Whether the tiles read the buffer of `r` along all these axes: in an index that is a
        quotient, a loop of one iteration is nothing."""
        assert isinstance(r.source, Buffer)
        found = (x for phase in self.s.kernel.phases for x in reads_of(phase, r.source))
        return any({v.name for v in variables(x)}.issuperset(axes) for x in found)

    def _fresh(self, name: str) -> str:
        """`name`, or with a number behind it if another tiling of the kernel took it."""
        taken = {x.buffer.name for x in walk_stmts(self.s.kernel.body) if isinstance(x, Alloc)}
        names = itertools.chain((name,), (f"{name}_{i}" for i in itertools.count(1)))
        return next(n for n in names if n not in taken)

    def _tile(self, stage: bool = False) -> tuple[list[str], str, str]:
        """Split into tiles; the names of the loops over batches, row tiles and panels."""
        batch = [v.name for v in self.c.batch]
        rows, columns = self.c.rows[-1], self.c.columns[-1]
        batch += [v.name for v in (*self.c.rows[:-1], *self.c.columns[:-1])]
        if stage:
            rows, batch = self._cut(rows, columns, batch)
        else:
            self.tiles = choose_tiles(rows.extent, columns.extent, self.registers, self.lanes)
        height, vectors = self.tiles.height, self.tiles.vectors
        self.m, self.n = f"{rows.name}_r", f"{columns.name}_c"
        m0, n0 = f"{rows.name}_t", f"{columns.name}_t"
        width = min(vectors * self.lanes, columns.extent)
        self.rows, self.columns = rows, columns
        self.s.do(Split(rows.name, height, m0, self.m), Split(columns.name, width, n0, self.n))
        panels = columns.extent // width
        others = prod(v.extent for v in self.c.columns[:-1])
        if stage and not self.near:
            self._stage(m0, panels * others)
        if stage:
            self._stage_panels(n0, panels)
        self.k_block = self._reduction_blocks() if stage else ""
        blocks = [self.k_block] if self.k_block else []
        self.s.do(Reorder((*batch, n0, *blocks, m0, *self.reduce, self.m, self.n)))
        return batch, m0, n0

    def _reduction_blocks(self) -> str:
        """Cut a reduction whose panel would not stay in the second-level cache into equal blocks;
        the name of the loop over them, empty when it is not cut."""
        k = self.found.reduce[-1].axis
        parts = next((p for p in _parts(k.extent) if k.extent // p <= LONG_SUM), 0)
        if len(self.reduce) > 1 or k.extent <= 2 * LONG_SUM or not parts:
            return ""
        block, within = f"{k.name}_b", f"{k.name}_i"
        self.s.do(Split(k.name, k.extent // parts, block, within))
        self.reduce = [within]
        return block

    def _cut(self, rows: Var, columns: Var, batch: list[str]) -> tuple[Var, list[str]]:
        """Choose the tiles. The rows are cut into blocks where there are too few panels to share
        out; the loop over the rows that is left, and the loops outside of it."""
        axes = (*self.c.batch, *self.c.rows[:-1], *self.c.columns[:-1])
        groups, cores = prod(v.extent for v in axes), self.s.machine.cores
        sizes = rows.extent, columns.extent, self.registers, self.lanes
        row_bytes = max(4 * prod(x.axis.extent for x in self.found.reduce), 4)
        self.tiles = choose_tiles(*sizes, groups, cores, self.s.machine.l2_bytes // row_bytes)
        near = self._near_blocks(rows.extent, columns.extent, row_bytes)
        if near:
            self.near = True
            self.tiles = replace(self.tiles, blocks=near)
        if self.tiles.blocks == 1:
            return rows, batch
        block, within = f"{rows.name}_b", f"{rows.name}_i"
        self.block = [block]
        size = rows.extent // self.tiles.blocks
        self.s.do(Split(rows.name, size, block, within))
        return var(within, size), [*batch, block]

    def _near_blocks(self, rows: int, columns: int, row_bytes: int) -> int:
        """Into how many blocks the rows are cut so that each stays in the second-level cache while
        all panels pass by; 0 where that does not fit or does not pay."""
        machine, width = self.s.machine, self.tiles.vectors * self.lanes
        far = rows * row_bytes >= FAR * machine.l2_bytes and columns >= 3 * width
        axes = (*self.c.batch, *self.c.rows, *self.c.columns, *self.reduce)
        reads = panel_reads(self.c.left, self.c.rows[-1], self.found.reduce)
        if not far or len(axes) != 3 or len(reads) != 1 or self._is_read_twice(reads[0]):
            return 0
        panels = panel_reads(self.c.right, self.c.columns[-1], self.found.reduce)
        plain = all(variables(r) <= {*self.c.columns, self.found.reduce[-1].axis} for r in panels)
        if not plain or any(map(self._is_read_twice, panels)):
            return 0
        if stride(reads[0], self.found.reduce[-1].axis) != 1:
            return 0
        counts = range(machine.cores, rows // BLOCK_ROWS + 1, machine.cores)
        whole = [n for n in counts if rows % (n * self.tiles.height) == 0]
        limit = int(machine.l2_bytes * NEAR)
        return next((n for n in whole if rows // n * row_bytes <= limit), 0)

    def _stage_panels(self, n0: str, panels: int) -> None:
        """Where blocks of rows read the same panels, or many runs, these are laid out once for all
        of them."""
        column = self.c.columns[-1]
        outer = {v.name for v in self.c.batch}
        for r in panel_reads(self.c.right, column, self.found.reduce):
            free = {v.name for v in variables(r)}
            reduce = [k.axis.name for k in self.found.reduce if k.axis.name in free]
            plain = free == {column.name, *reduce} and not outer
            assert isinstance(r.source, Buffer)
            again = (self.block and panels > FEW_PANELS) or r.source.name in self.s.fixed
            order = (n0, *reduce, self.n)
            if not again or not plain or self._is_read_twice(r) or not self._moves(r, order):
                continue
            name = f"p_{r.source.name}"
            self.s.do(Stage(r.source.name, order, 0, name))
            turned = f"{name}_{reduce[-1]}" if stride(r, column) != 1 else ""
            axes = (n0,) if turned else self._by_rows(name, [], n0, reduce)
            shared = [f"{name}_{a}" for a in axes]
            self.copies.append(LaidOut(f"{name}_{self.n}", shared, turned))
            last = self.found.reduce[-1].axis.name
            self.streams += [name] if last in reduce else []
            self.staged.add(name)

    def _stage(self, m0: str, panels: int) -> None:
        """Lay the factor that is broadcast out as the tiles read it, one after the other, where
        `panels` are enough for its cost or its own layout is slow to read."""
        row, last = self.c.rows[-1], self.found.reduce[-1].axis
        for r in panel_reads(self.c.left, row, self.found.reduce):
            assert isinstance(r.source, Buffer)
            free = {v.name for v in variables(r)} | set(self.block)
            outer = [v.name for v in (*self.c.batch, *self.c.rows[:-1]) if v.name in free]
            outer += self.block
            reduce = [k.axis.name for k in self.found.reduce if k.axis.name in free]
            along, across = stride(r, last), stride(r, row)
            apart = across is None or (
                across * r.dtype.itemsize % CACHE_WAY == 0
                and self.tiles.height > self.s.machine.l1d_bytes // CACHE_WAY
            )
            size = prod(v.extent for v in variables(r))
            nbytes, machine = size * r.dtype.itemsize, self.s.machine
            most = STAGE_PANELS_NEAR if nbytes <= machine.l2_bytes else STAGE_PANELS
            few = panels < most or nbytes <= machine.l1d_bytes or size > STAGE_MOST
            fine = panels <= FEW_PANELS or (along == 1 and not apart and few)
            fine = fine and r.source.name not in self.s.fixed
            plain = len(outer) + len(reduce) + 1 == len(free)
            order = (*outer, m0, *reduce, self.m)
            if fine or not plain or self._is_read_twice(r) or not self._moves(r, order):
                continue
            name = f"a_{r.source.name}"
            self.s.do(Stage(r.source.name, order, 0, name))
            turned = f"{name}_{last.name}" if along == 1 else ""
            axes = (*outer, m0) if turned else self._by_rows(name, outer, m0, reduce)
            shared = [f"{name}_{a}" for a in axes]
            self.copies.append(LaidOut(f"{name}_{self.m}", shared, turned))
            self.streams += [name] if last.name in reduce else []

    def _by_rows(self, name: str, outer: list[str], t0: str, reduce: list[str]) -> tuple[str, ...]:
        """Copy block by block of what lies side by side, not tile by tile: every line of the cache
        is used up before the next. The loops that are shared out."""
        if not reduce:
            return (*outer, t0)
        *others, k = reduce
        last = self.m if t0.removesuffix("_t") == self.m.removesuffix("_r") else self.n
        block, within = f"{name}_{k}_b", f"{name}_{k}_i"
        first = [f"{name}_{a}" for a in (*outer, *others)]
        self.s.do(
            Split(f"{name}_{k}", COPY_ROWS, block, within),
            Reorder((*first, block, f"{name}_{t0}", within, f"{name}_{last}")),
        )
        return (*outer, *others, f"{k}_b")

    def _finish(self, m0: str) -> None:
        do = self.s.do
        self._ask_for_rest()
        k = self.reduce[-1]
        part, terms = self._short_sums()  # before the edges get tiles that end within a vector
        do(Branch(self.n), *(Branch(copy.last) for copy in self.packed), Peel(m0), Branch(self.m))
        for copy in self.copies:
            self.s.parallel(copy.shared, f"{copy.last}_p")
            do(Branch(copy.last))
        for copy in (*self.packed, *self.copies):
            if copy.turned:
                self._turn(copy.turned, copy.last)
            else:
                self.s.vectorize(copy.last, self.lanes)
        steps = self._step_reduction(part, terms)
        nv, nl = f"{self.n}v", f"{self.n}l"
        do(Split(self.n, self.lanes, nv, nl), Peel(nv))
        do(Unroll(self.m))
        if self._has(nv):
            do(Unroll(nv))
        do(Vectorize(nl, self.lanes))
        outermost = self.reduce[0] if len(self.reduce) > 1 else steps if part == k else f"{k}_s"
        self._leave_out(outermost, steps)

    def _leave_out(self, outermost: str, steps: str) -> None:
        """Terms that no sum of a tile counts, and sums that nobody looks at. The loops are the
        outermost one of the reduction and that over its steps."""
        narrow, skip = Narrow(steps), Skip(outermost)
        if self.found.accumulates[0].guard is not None and narrow.holds(self.s.kernel):
            self.s.do(narrow)
            for ragged in (f"{steps}_a", f"{steps}_z"):
                extents = [constant_extent(x) for x in loops_named(self.s.kernel.body, ragged)]
                if extents and all(n is not None and n <= FEW for n in extents):
                    self.s.do(Unroll(ragged))
        if skip.holds(self.s.kernel):
            self.s.do(skip)

    def _turn(self, along: str, across: str) -> None:
        """Copy squares of a vector's width, which are transposed in registers, where what lies
        side by side in the source is apart in the copy."""
        body = self.s.kernel.body
        extent, wide = (max(x.axis.extent for x in loops_named(body, a)) for a in (along, across))
        if extent < self.lanes or wide == 1:
            self.s.vectorize(across, self.lanes)
            return
        width = min(self.lanes, 1 << (wide - 1).bit_length())
        outer, column = f"{along}_b", f"{along}_u"
        vectors, lane = f"{across}_v", f"{across}_l"
        self.s.do(Split(along, self.lanes, outer, column), Split(across, width, vectors, lane))
        self.s.do(Reorder((outer, vectors, column, lane)))
        self.s.do(Branch(column), Branch(lane), Unroll(column), Vectorize(lane, width))

    def _short_sums(self) -> tuple[str, int]:
        """A long sum is added up in parts of its own, so that its rounding errors do not grow with
        its length; the loop over the terms of a part, and its extent."""
        k = self.reduce[-1]
        extent = max(x.axis.extent for x in loops_named(self.s.kernel.body, k))
        target = self.found.accumulates[0].buffer.name
        terms = next((extent // p for p in _parts(extent) if extent // p <= TERMS), 0)
        if extent >= 2 * TERMS and terms:
            self.s.do(Split(k, terms, f"{k}_s", f"{k}_p"))
            self.s.do(AccumulateIn(target, f"{k}_p"))
            return f"{k}_p", terms
        if len(self.reduce) > 1 and extent >= TERMS // 4:
            self.s.do(AccumulateIn(target, k))
        return k, extent

    def _ask_for_rest(self) -> None:
        """A tile asks at its start for what is read and written after its sum."""
        rest = PrefetchRest(self.reduce[0])
        terms = prod(x.axis.extent for x in self.found.reduce)
        if terms >= REST_TERMS and not self.k_block and rest.has_effect(self.s.kernel):
            self.s.do(rest)

    def _step_reduction(self, k: str, extent: int) -> str:
        """A few steps of the reduction at a time, so that its loop costs nothing, which ask ahead
        for what has been laid out for them. The loop over them."""
        steps = 2
        if extent % steps == 0 and extent > steps:
            self.s.do(Split(k, steps, f"{k}_o", f"{k}_u"), Unroll(f"{k}_u"))
            k, extent = f"{k}_o", extent // steps
        else:
            steps = 1
        if extent * steps > 2 * AHEAD:
            for name in self.streams:
                self.s.do(PrefetchIn(name, k, AHEAD // steps))
        return k

    def _has(self, name: str) -> bool:
        return any(True for _ in loops_named(self.s.kernel.body, name))


def _parts(extent: int) -> list[int]:
    """The numbers of equal parts into which an extent may be cut."""
    return [p for p in range(2, 65) if extent % p == 0]


def _dense(e: Read | Store | Accumulate, a: Var, b: Var) -> bool:
    """Whether the place moves with `a` as it does with the end of `b`, and no guard tells them
    apart."""
    if e.guard is not None and {a, b} & variables(e.guard):
        return False
    outer, inner = stride(e, a), stride(e, b)
    return outer is not None and inner is not None and outer == inner * b.extent


def panel_reads(right: Expr, column: Var, reduce: Iterable[For]) -> list[Read]:
    """The reads of the vector factor that move with the columns and the reduction."""
    inner = {x.axis for x in reduce}
    found = [e for e in walk(right) if isinstance(e, Read)]
    return [r for r in found if column in variables(r) and inner & variables(r)]
