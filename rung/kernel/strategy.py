"""Strategies: which schedule a naive kernel gets, from its shape and the machine.

Each loop nest of a kernel is recognised by its structure, not by where it came from:

- a *map* nest ends in stores alone;
- a *sum* nest is `for o…: t = identity; for k…: t += …; y = f(t)`: contractions (matmul,
  convolution) get a register tile, other reductions lanes along `k` or along `o`;
- a *row* loop holds several nests one after the other.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from math import prod

from rung.core.errors import ScheduleError
from rung.core.settings import settings
from rung.kernel.cascade import in_parts
from rung.kernel.contract import ContractionTiling, find_contraction
from rung.kernel.contract_sized import SizedTiling, depends_on_sizes
from rung.kernel.deps import carried
from rung.kernel.loop import Block, For, Kernel
from rung.kernel.loop_steps import Branch, Fuse, Parallel, Split, Unroll, Vectorize
from rung.kernel.machine import Machine
from rung.kernel.order_steps import Reorder
from rung.kernel.recognise import (
    SumNest,
    accumulates_outside,
    element_bytes,
    independent,
    is_scan,
    load_cost,
    nest,
    only_stores,
    reads,
    stores,
    stride,
    sum_nest,
)  # fmt: skip
from rung.kernel.reduce_steps import Lanes
from rung.kernel.rewrite import axis_names, loops_named
from rung.kernel.step import Step
from rung.kernel.window import WindowTiling

TILE = 4096
"""Elements of a parallel tile of an element-wise kernel (a quarter of the first-level cache)."""
ACCUMULATORS = 4
"""Vectors in which a row reduction adds up side by side."""
SHORT = 8
"""Iterations of a loop that may stay on one thread."""
COLUMN_VECTORS = 8
"""Vectors of columns that a column reduction keeps in registers."""


def schedule_kernel(
    kernel: Kernel, group: str, machine: Machine, fixed: Set[str] = frozenset()
) -> Kernel:
    """The scheduled kernel for a naive kernel of a `group` kind. `fixed` names the inputs that are
    the same in many runs: to lay them out costs nothing.

    Where a step of the strategy does not hold, the kernel runs as it is, its outermost loop shared
    out if that is independent; with the setting `verify` the ScheduleError is raised instead."""
    try:
        scheduler = Scheduler(kernel, machine, fixed)
        for number in range(len(kernel.phases)):
            scheduler.phase(number)
        return in_parts(scheduler.kernel, machine.vector_bytes)
    except ScheduleError:
        if settings().verify:
            raise
        return in_parts(fallback(kernel), machine.vector_bytes)


def fallback(kernel: Kernel) -> Kernel:
    """Every phase as it is, parallel where its outermost loop is independent."""
    for number, phase in enumerate(kernel.phases):
        if isinstance(phase, For) and phase.axis.extent > 1 and carried(phase) is None:
            phases = list(kernel.phases)
            phases[number] = replace(phase, kind="parallel")
            kernel = replace(kernel, body=Block(tuple(phases)), schedule=("fallback",))
    return kernel


class Scheduler:
    """Applies steps to a kernel, phase by phase."""

    def __init__(self, kernel: Kernel, machine: Machine, fixed: Set[str] = frozenset()) -> None:
        self.kernel = kernel
        self.machine = machine
        self.fixed = fixed
        self._fused = 0

    def do(self, *steps: Step) -> None:
        """Apply steps in order."""
        for step in steps:
            self.kernel = step.apply(self.kernel)

    def loops(self, name: str) -> list[For]:
        """Every loop over the axis `name`."""
        return list(loops_named(self.kernel.body, name))

    def phase(self, number: int) -> None:
        """Choose and apply the schedule of one phase."""
        s = self.kernel.phases[number]
        if not isinstance(s, For):
            return
        loops, body = nest(s)
        found = sum_nest(loops, body)
        if not independent(s):
            self._scatter_phase(loops, body)
        elif only_stores(body):
            self._map_phase(loops)
        elif found is not None and len(found.accumulates) == 1 and find_contraction(found):
            self._contraction_phase(found)
        elif found is not None and self._by_columns(found):
            self._column_phase(found)
        else:
            self.parallel([x.axis.name for x in loops])
            if found is not None:
                self.in_lanes(found.reduce[-1])
            else:
                self._inner_all(body.stmts)

    def _contraction_phase(self, found: SumNest) -> None:
        if not self.kernel.sizes:
            tiling = WindowTiling(self, found)
            tiling.phase() if tiling.applies else ContractionTiling.phase(tiling)
            return
        before = self.kernel
        try:
            window = WindowTiling(self, found)
            if window.applies:
                window.phase()
                return
        except ScheduleError:  # it cuts along a size
            pass
        self.kernel = before
        SizedTiling(self, found).phase()

    # ---- maps

    def _map_phase(self, loops: list[For]) -> None:
        lanes = self.lanes(loops[0])
        inner = loops[-1].axis
        name = inner.name
        outer = [x.axis.name for x in loops[:-1]]
        size = prod(x.axis.extent for x in loops)
        tile = max(min(TILE, size // 16 // lanes * lanes), lanes)
        if inner.extent > 2 * tile:
            self.do(Split(name, tile, f"{name}_t", f"{name}_i"))
            outer.append(f"{name}_t")
            name = f"{name}_i"
        self.parallel(outer)
        self.do(Branch(name))
        self.vectorize(name, lanes)

    def vectorize(self, name: str, lanes: int) -> None:
        """Vectors along every loop over `name` (of constant extent)."""
        extent = max((x.axis.extent for x in loops_named(self.kernel.body, name)), default=0)
        if extent > 1:
            width = min(lanes, 1 << (extent - 1).bit_length())
            self.do(Split(name, width, f"{name}_v", f"{name}_l"))
            self.do(Branch(f"{name}_l"), Vectorize(f"{name}_l", width))

    def parallel(self, outer: list[str], prefix: str = "p") -> str:
        """Make one parallel loop of the outermost loops; its name."""
        if not outer:
            return ""
        whole = outer[0]
        for name in outer[1:]:
            into = self._fresh(prefix)
            self.do(Fuse(whole, name, into))
            whole = into
        loops = self.loops(whole)
        if max((x.axis.extent for x in loops), default=0) > 1 and not self._is_short(loops):
            self.do(Parallel(whole))
        return whole

    def _fresh(self, prefix: str) -> str:
        """A name for an axis: the prefix with a number."""
        taken = axis_names(self.kernel.body)
        while f"{prefix}{self._fused}" in taken:
            self._fused += 1
        self._fused += 1
        return f"{prefix}{self._fused - 1}"

    def _is_short(self, loops: list[For]) -> bool:
        """Whether loops of a few iterations look as if these depended on each other: it is not
        worth knowing better."""
        return all(x.axis.extent <= SHORT and carried(x) is not None for x in loops)

    def lanes(self, s: For) -> int:
        """SIMD width for the element types that occur in `s`."""
        return max(self.machine.vector_bytes // element_bytes(s), 1)

    def _scatter_phase(self, loops: list[For], body: Block) -> None:
        """Updates come in order; what lies side by side is shared out to the threads."""
        last = loops[-1].axis
        apart = all(stride(x, last) == 1 for x in stores(body))
        if len(loops) == 1 or not apart or last.extent < 4:
            self._inner(loops[0])
            return
        lanes = self.lanes(loops[0])
        width = max(-(-last.extent // (8 * lanes)), 1) * lanes
        name = f"{last.name}_i"
        self.do(Split(last.name, width, f"{last.name}_t", name))
        order = (f"{last.name}_t", *(x.axis.name for x in loops[:-1]), name)
        self.do(Reorder(order))
        self.parallel([f"{last.name}_t"])
        self.do(Branch(name))
        self.vectorize(name, lanes)

    # ---- reductions

    def _by_columns(self, found: SumNest) -> bool:
        """Whether vectors along the results are cheaper to load than along the reduction."""
        column, last = found.loops[-1].axis, found.reduce[-1].axis
        if column.extent < 4:
            return False
        if last.extent < 4:
            return True
        loads = reads(found.loops[0])
        return load_cost(loads, column) < load_cost(loads, last)

    def _column_phase(self, found: SumNest) -> None:
        lanes = self.lanes(found.loops[0])
        column = found.loops[-1].axis
        name = column.name
        outer = [x.axis.name for x in found.loops[:-1]]
        if depends_on_sizes([found.loops[-1]]):
            self._sized_columns(found, lanes, outer)
            return
        width = min(lanes * COLUMN_VECTORS, max(column.extent // 4 // lanes, 1) * lanes)
        if column.extent <= lanes:
            width = column.extent
        self.do(Split(name, width, f"{name}_t", f"{name}_i"))
        self.parallel([*outer, f"{name}_t"])
        self.do(Branch(f"{name}_i"))
        self._columns(f"{name}_i", found, lanes)

    def _columns(self, name: str, found: SumNest, lanes: int) -> None:
        """Lanes along the results; the reduction is serial, outside of them."""
        extent = max((x.axis.extent for x in loops_named(self.kernel.body, name)), default=0)
        width = min(lanes, 1 << (extent - 1).bit_length())
        reduce = [k.axis.name for k in found.reduce]
        self.do(Reorder((*reduce, name)))
        self.kernel = in_parts(self.kernel, self.machine.vector_bytes, reduce)
        self.do(Split(name, width, f"{name}_v", f"{name}_l"))
        self.do(Branch(f"{name}_l"), Unroll(f"{name}_v"), Vectorize(f"{name}_l", width))

    def _sized_columns(self, found: SumNest, lanes: int, shared: list[str] | None = None) -> None:
        """The same for columns whose number is made of sizes, vector by vector; with the loops
        `shared` they are shared out."""
        name, reduce = found.loops[-1].axis.name, [k.axis.name for k in found.reduce]
        self.do(Split(name, lanes, f"{name}_v", f"{name}_l"))
        if shared is not None:
            self.parallel([*shared, f"{name}_v"])
        self.do(Branch(f"{name}_l"), Reorder((*reduce, f"{name}_l")))
        self.kernel = in_parts(self.kernel, self.machine.vector_bytes, reduce)
        self.do(Vectorize(f"{name}_l", lanes))

    def in_lanes(self, loop: For) -> None:
        """Lanes along a reduction, with enough accumulators to hide the latency of the adds."""
        n = loop.axis.extent
        width = self.lanes(loop)
        while width > n:
            width //= 2
        if width < 4:
            return
        unroll = ACCUMULATORS
        while unroll > 1 and unroll * width > n:
            unroll //= 2
        self.do(Lanes(loop.axis.name, width, unroll))

    # ---- nests within a row

    def _inner_all(self, stmts: tuple[object, ...]) -> None:
        for s in stmts:
            if isinstance(s, For):
                self._inner(s)

    def _inner(self, s: For) -> None:
        loops, body = nest(s)
        found = sum_nest(loops, body)
        last = loops[-1].axis
        if only_stores(body):
            if all(stride(x, last) for x in stores(body)):
                self.vectorize(last.name, self.lanes(s))
        elif found is not None and len(found.accumulates) == 1 and find_contraction(found):
            sized = depends_on_sizes([*found.loops, *found.reduce])
            (SizedTiling if sized else ContractionTiling)(self, found).inside()
        elif found is not None and self._by_columns(found):
            if depends_on_sizes([found.loops[-1]]):
                self._sized_columns(found, self.lanes(s))
            else:
                self._columns(found.loops[-1].axis.name, found, self.lanes(s))
        elif found is not None:
            self.in_lanes(found.reduce[-1])
        elif is_scan(body):
            pass  # each element needs the one before it
        elif accumulates_outside(body):
            steps = [stride(x, last) for x in stores(body)]
            if all(steps):
                self.vectorize(last.name, self.lanes(s))
            elif None not in steps:
                self.in_lanes(loops[-1])
        else:
            self._inner_all(body.stmts)
