"""Programs generic in sizes: compiled once, and planned for each size.

The graphs of a program at a few sizes, the *probes*, are fused as any graph is; nothing is compiled
or run for them. Their kernels become one kernel each (`rung.kernel.generalise`), scheduled with
ragged ends in place of exact ones. What a size costs is then a stage table: grids, places in the
arena, and an array of the sizes, which kernels get behind their buffers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from rung.codegen.llvm.target import host
from rung.core.errors import IndexingError
from rung.ir.expr import Expr, Size, size, sized_value
from rung.ir.node import Graph, Node
from rung.ir.types import TensorType
from rung.kernel.generalise import Fit, Generaliser, NotGeneral, Probes
from rung.kernel.machine import host_machine
from rung.kernel.plan import (
    ConstantMemory,
    Memory,
    Plan,
    PlannedCall,
    TempMemory,
    make_plan,
)  # fmt: skip
from rung.kernel.text import expr_text
from rung.ops.check import RangeAttrs, fault_error
from rung.runtime.breath import NativeCall, Turn
from rung.runtime.executable import Executable
from rung.runtime.program import (
    ALONE_WORK,
    CompiledKernel,
    KeptMemory,
    Lower,
    RecipeBuilder,
    Shape,
    load_units,
    shape_of,
    work,
)  # fmt: skip

LOW: Final = 2
"""The least size. One is special everywhere, by broadcasting; programs of size 1 are static."""
LEAST_HIGH: Final = 1 << 13
"""The greatest size that kernels are made for, at least."""
PROBES: Final = (
    (1021, 1031, 1051, 1063, 1009, 1033, 1049, 1069, 1013, 1019, 1039, 1061),
    (257, 269, 281, 311, 251, 271, 293, 313, 263, 277, 283, 307),
    (4099, 4111, 4127, 4157, 4091, 4129, 4139, 4177, 4093, 4133, 4153, 4159),
)
PROBES_OF_SEVERAL: Final = (
    (97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151),
    PROBES[1],
    PROBES[0],
)
"""Where sizes are probed: primes, so that nothing is equal by accident, near each other, so that
fusion decides alike; smaller where several sizes are multiplied. Each row is tried in turn."""
MOST_PLANS: Final = 512
"""Plans that a program keeps, one for each size."""

Sizes = tuple[int, ...]
GraphAt = Callable[[Sizes], Graph]


def probe_values(number: int, primes: Sequence[int]) -> tuple[Sizes, ...]:
    """The values of `number` sizes at each probe, all different."""
    if not 1 <= number <= 3:
        raise NotGeneral(f"{number} sizes vary")
    count = {1: 4, 2: 5, 3: 4}[number]
    return tuple(tuple(primes[i * count + p] for i in range(number)) for p in range(count))


def high_for(*seen: int) -> int:
    """The greatest size to make kernels for where sizes up to `seen` have come."""
    return max(LEAST_HIGH, 1 << math.ceil(math.log2(max(*seen, 1)) + 2))


@dataclass(frozen=True, eq=False)
class _SizedTemp:
    """Temporary memory whose bytes depend on sizes."""

    index: int
    nbytes: Expr


@dataclass(frozen=True, eq=False)
class _SizedCall:
    """A planned call for all sizes."""

    call: PlannedCall
    temps: tuple[_SizedTemp | None, ...]
    """For each parameter its temporary memory, where it is that."""


@dataclass(frozen=True, eq=False)
class _SizedCheck:
    """A check of positions whose range may depend on sizes."""

    node: Node
    low: Expr
    high: Expr

    def attrs(self, sizes: Mapping[Size, int]) -> RangeAttrs:
        """The range at these sizes."""
        assert isinstance(self.node.attrs, RangeAttrs)
        low, high = (sized_value(e, sizes) for e in (self.low, self.high))
        return replace(self.node.attrs, low=low, high=high)


class SizedProgram:
    """A program for all values of its sizes within [`low`, `high`]."""

    def __init__(
        self, graph_at: GraphAt, number: int, high: int, aliases: Mapping[int, int], lower: Lower
    ) -> None:
        """Raises NotGeneral where the program is another one at another size, and LoweringError
        where a graph cannot be compiled."""
        self.low, self.high, self.aliases = LOW, high, aliases
        self.sizes = tuple(size(f"n{i}", LOW, high) for i in range(number))
        rows = PROBES if number == 1 else PROBES_OF_SEVERAL
        for last, primes in enumerate(rows, 1 - len(rows)):
            try:
                self._generalise(graph_at, probe_values(number, primes), lower)
                break
            except NotGeneral:
                if not last:
                    raise
        self._load()
        self._plans: OrderedDict[Sizes, SizedRun] = OrderedDict()

    def _generalise(self, graph_at: GraphAt, values: tuple[Sizes, ...], lower: Lower) -> None:
        """Plan the program at each probe, and make one of the plans."""
        fit = Fit(Probes(self.sizes, values))
        graphs = [graph_at(v) for v in values]
        plans: list[Plan] = []
        for g in graphs:  # one by one: those that differ mostly do so at once
            plans.append(make_plan(lower(g), self.aliases))
            if _outline(plans[-1]) != _outline(plans[0]):
                raise NotGeneral("the program has other kernels at other sizes")
        general = Generaliser(fit)
        self._calls = _general_calls(plans, general, fit)
        self._outputs = _general_types([[v.type for v in g.outputs] for g in graphs], fit)
        self.num_inputs = len(graphs[0].params)
        self.checks = _general_checks([p.checks for p in plans], fit)

    def _load(self) -> None:
        """Compile the kernels, or take them from the cache."""
        machine, target = host_machine(), host()
        made: dict[tuple[object, str], CompiledKernel] = {}
        self.kernels: list[CompiledKernel] = []
        for sized in self._calls:
            bare = replace(sized.call.kernel, sources=())
            key = (bare, sized.call.group)
            if key not in made:
                made[key] = CompiledKernel(bare, sized.call.group, machine, target)
            self.kernels.append(made[key])
        distinct = list(dict.fromkeys(self.kernels))
        self.libraries = load_units(k.unit() for k in distinct)
        self._shapes = {k: shape_of(self.libraries[k.key]) for k in distinct}
        self._numbers = self._compiled_numbers()

    def _compiled_numbers(self) -> Callable[..., list[int]]:
        """A function from the sizes to all numbers of a plan: bytes of temporaries, work, grids,
        dims of outputs, in the order in which `at` takes them."""
        texts = [expr_text(t.nbytes) for c in self._calls for t in c.temps if t is not None]
        for shape in self._shapes.values():
            texts += shape.grids
        texts += [expr_text(n) for _, dims in self._outputs for n in dims]
        names = ", ".join(n.name for n in self.sizes)
        scope = {"minimum": min, "maximum": max}
        function: Callable[..., list[int]] = eval(f"lambda {names}: [{', '.join(texts)}]", scope)
        return function

    def takes(self, sizes: Sizes) -> bool:
        """Whether the program is for these sizes."""
        return len(sizes) == len(self.sizes) and all(self.low <= n <= self.high for n in sizes)

    def at(self, sizes: Sizes) -> SizedRun:
        """The program for these sizes. Raises ValueError for sizes beyond the limits."""
        found = self._plans.get(sizes)
        if found is None:
            if not self.takes(sizes):
                limits = f"{self.low} to {self.high}"
                raise ValueError(f"sizes {sizes} are not {len(self.sizes)} of {limits}")
            found = self._plans[sizes] = self._planned(sizes)
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        return found

    def _planned(self, sizes: Sizes) -> SizedRun:
        values = dict(zip(self.sizes, sizes, strict=True))
        numbers = iter(self._numbers(*sizes))
        calls = [
            replace(
                c.call,
                memory=tuple(
                    m if t is None else TempMemory(t.index, next(numbers))
                    for m, t in zip(c.call.memory, c.temps, strict=True)
                ),
            )
            for c in self._calls
        ]
        shapes = {k: _shape_at(s, numbers) for k, s in self._shapes.items()}
        types = tuple(
            TensorType(kind.dtype, tuple(next(numbers) for _ in dims))
            for kind, dims in self._outputs
        )
        builder = _SizedBuilder(
            calls, self.kernels, shapes, self.aliases, len(types), len(self.checks)
        )
        builder.values = values
        alone = sum(work(c.kernel, values) for c in calls) < ALONE_WORK
        recipe = builder.build(alone)
        executable = recipe.executable(self.libraries, self.num_inputs, len(types))
        return SizedRun(self, values, executable, types)


class _SizedBuilder(RecipeBuilder):
    """Kernels that depend on sizes get these behind all other memory."""

    values: Mapping[Size, int]

    def _added_temps(self) -> list[tuple[Memory | KeptMemory, ...]]:
        arrays: dict[tuple[Size, ...], ConstantMemory] = {}
        found = super()._added_temps()
        for i, kernel in enumerate(self.kernels):
            used = kernel.naive.sizes
            if used and used not in arrays:
                array = np.array([self.values[n] for n in used], np.int64)
                arrays[used] = ConstantMemory(array)
            if used:
                found[i] = (*found[i], arrays[used])
        return found


class SizedRun:
    """A program at one size: see `rung.tensor.executor.Program`. `launch` as in CompiledGraph."""

    def __init__(
        self,
        program: SizedProgram,
        sizes: Mapping[Size, int],
        executable: Executable,
        output_types: tuple[TensorType, ...],
    ) -> None:
        self.program = program
        self.sizes = sizes
        self.executable = executable
        self.output_types = output_types
        self.launch = None if len(executable.faults) else executable.run

    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> None:
        """Run once over addresses, as `CompiledGraph.run` does."""
        faults = self.executable.run([*inputs, *outputs], first, then, turn)
        if faults:
            raise self._error(faults)

    def _error(self, faults: Sequence[int]) -> IndexingError:
        checks = self.program.checks
        check, word = next((c, w) for c, w in zip(checks, faults, strict=True) if w)
        dtype, source = check.node.inputs[0].dtype, check.node.source
        return fault_error(check.attrs(self.sizes), dtype, word, source)


def _shape_at(shape: Shape, numbers: Iterator[int]) -> Shape:
    """The shape of a kernel with its grids at a size."""
    if not shape.grids:
        return shape
    phases = tuple((symbol, next(numbers)) for symbol, _ in shape.phases)
    return replace(shape, phases=phases, grids=())


def _general_checks(checks: Sequence[Sequence[Node]], fit: Fit) -> list[_SizedCheck]:
    """The checks for all sizes."""
    found = []
    for row in zip(*checks, strict=True):
        attrs = [n.attrs for n in row if isinstance(n.attrs, RangeAttrs)]
        if len({replace(a, low=0, high=0) for a in attrs}) > 1:
            raise NotGeneral("positions are checked in other ways at other sizes")
        low = fit.integer([a.low for a in attrs], "the range of a position")
        high = fit.integer([a.high for a in attrs], "the range of a position")
        found.append(_SizedCheck(row[0], low, high))
    return found


def _general_types(
    types: Sequence[Sequence[TensorType]], fit: Fit
) -> list[tuple[TensorType, tuple[Expr, ...]]]:
    found = []
    for row in zip(*types, strict=True):
        if len({(t.dtype, len(t.shape)) for t in row}) > 1:
            raise NotGeneral("results have other types at other sizes")
        dims = tuple(fit.integer(n, "a dim") for n in zip(*(t.shape for t in row), strict=True))
        found.append((row[0], dims))
    return found


def _outline(plan: Plan) -> list[object]:
    """What of a plan does not depend on sizes, if it is one for all."""
    return [(c.group, len(c.memory), c.guarded, c.kernel.body.axes) for c in plan.calls]


def _general_calls(plans: Sequence[Plan], general: Generaliser, fit: Fit) -> list[_SizedCall]:
    """The planned calls for all sizes. Raises NotGeneral where plans differ."""
    if len({len(p.calls) for p in plans}) > 1:
        raise NotGeneral("the program has other kernels at other sizes")
    found: list[_SizedCall] = []
    for row in zip(*(p.calls for p in plans), strict=True):
        first = row[0]
        if len({(c.group, len(c.memory), c.guarded) for c in row}) > 1:
            raise NotGeneral("the program has other kernels at other sizes")
        memory = [_memory(m, fit) for m in zip(*(c.memory for c in row), strict=True)]
        kernel = general.kernel([replace(c.kernel, sources=()) for c in row])
        kernel = replace(kernel, sources=first.kernel.sources)
        kept = tuple(m for m, _ in memory)
        found.append(
            _SizedCall(replace(first, kernel=kernel, memory=kept), tuple(t for _, t in memory))
        )
    return found


def _memory(row: Sequence[Memory], fit: Fit) -> tuple[Memory, _SizedTemp | None]:
    first = row[0]
    if isinstance(first, ConstantMemory):
        arrays = [m.array for m in row if isinstance(m, ConstantMemory)]
        same = len(arrays) == len(row) and all(
            a.shape == arrays[0].shape and a.dtype == arrays[0].dtype
            and a.tobytes() == arrays[0].tobytes() for a in arrays
        )
        if not same:
            raise NotGeneral("an array of the program depends on the size")
        return first, None
    if isinstance(first, TempMemory):
        temps = [m for m in row if isinstance(m, TempMemory)]
        if len(temps) < len(row) or len({m.index for m in temps}) > 1:
            raise NotGeneral("the program has other temporaries at other sizes")
        nbytes = fit.integer([m.nbytes for m in temps], "the bytes of a temporary")
        return first, _SizedTemp(first.index, nbytes)
    if any(m != first for m in row):
        raise NotGeneral("kernels have other memory at other sizes")
    return first, None


