"""Runs a graph at every level, and compares the results.

Exact values must be equal. Others must be as near to a float64 run as the naive computation is;
how near that is for one element is found by running it again with roundings of other luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rung.core.dtype import DType, accumulator
from rung.ir.interpret import evaluate, interpret
from rung.ir.node import PARAMETER, Graph, Node, Value
from rung.ir.op import Array
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.kernel.interpret import interpret as interpret_kernel
from rung.kernel.loop import Buffer, Kernel
from rung.kernel.parse import parse_kernel
from rung.kernel.plan import (
    ConstantMemory,
    FaultMemory,
    InputMemory,
    Memory,
    OutputMemory,
    TempMemory,
)
from rung.kernel.text import kernel_text
from rung.ops.elementwise import DTypeAttrs
from rung.ops.parse import parse
from rung.rules.pipeline import PIPELINE
from rung.runtime.eager import graph_plan
from rung.runtime.memory import aligned_empty
from rung.runtime.program import CompiledGraph, CompiledKernel, compile_graph
from rung.runtime.script import Script, compile_program
from rung.transform.jvp import inlined, region
from tests.random_graphs import RandomGraph

Form = Callable[[CompiledKernel, Kernel], Kernel]

EPSILON = {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52}
LEAST = {"f16": 2.0**-24, "bf16": 2.0**-133, "f32": 2.0**-149, "f64": 5e-324}
"""The step between the smallest numbers."""
LUCKS = 3
"""Runs with other roundings; so many more when an element is off."""
AGAIN = 40
SUMS = ("dot_general", "conv", "reduce_sum", "cumulative_sum", "window_sum", "scatter_add")
"""Ops whose result may be far smaller than the terms that are added up."""
OF_ONE = ("normal_cdf",)
"""Ops whose error is one relative to 1."""
SLACK = 16.0
"""How many times the error of the naive runs is still as near."""


@dataclass(frozen=True)
class Mismatch:
    """A level that does not give what the graph means."""

    level: str
    output: int
    detail: str

    def __str__(self) -> str:
        return f"{self.level}: output {self.output}: {self.detail}"


def run_graph(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of the graph interpreter."""
    with np.errstate(all="ignore"):
        return interpret(graph, inputs)


# ---- float64 and other luck


def run_wide(graph: Graph, inputs: Sequence[Array], luck: int | None, exact: Mapping[Value, bool]):  # type: ignore[no-untyped-def]
    """The outputs of `graph` in float64 (luck None), or in its own dtypes with each float that is
    not exact moved by up to two units in the last place."""
    rng = None if luck is None else np.random.default_rng(luck)
    values: dict[Value, Array] = dict(zip(graph.params, inputs, strict=True))
    for v in graph.params:
        values[v] = _moved(values[v], v, rng, exact)
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        operands = [values[v] for v in node.inputs]
        with np.errstate(all="ignore"):
            results = _wide_results(node, operands) if rng is None else evaluate(node, operands)
            if rng is not None and node.op.name in SUMS and _is_rounded(node, exact):
                results = (_rounded_terms(node, operands, results[0], rng),)
        for v, a in zip(node.results, results, strict=True):
            values[v] = _moved(a, v, rng, exact)
    return [values[v] for v in graph.outputs]


def _wide_results(node: Node, operands: Sequence[Array]) -> tuple[Array, ...]:
    attrs = node.attrs
    if isinstance(attrs, DTypeAttrs) and node.op.name == "cast" and attrs.dtype.is_float:
        return (np.asarray(operands[0], np.float64),)
    if node.op.name == "bitcast":
        operands = [a.astype(node.inputs[0].type.dtype.numpy) for a in operands]
    return node.op.ref(attrs, operands)


def _is_rounded(node: Node, exact: Mapping[Value, bool]) -> bool:
    return node.results[0].type.dtype.is_float and not exact.get(node.results[0], False)


def _rounded_terms(
    node: Node, operands: Sequence[Array], total: Array, rng: np.random.Generator
) -> Array:
    """A sum whose terms are rounded, in the dtype in which they are added up."""
    size = node.op.ref(
        node.attrs, [np.abs(a) if a.dtype.kind not in "iub" else a for a in operands]
    )
    dtype = accumulator(node.results[0].type.dtype)
    error = EPSILON[dtype.name] * _luck(node) * np.asarray(size[0], np.float64)
    moved = np.asarray(total, np.float64) + rng.uniform(-1, 1, total.shape) * error
    return np.asarray(moved.astype(total.dtype))


def _moved(
    a: Array, v: Value, rng: np.random.Generator | None, exact: Mapping[Value, bool]
) -> Array:
    dtype: DType = v.type.dtype
    if not dtype.is_float:
        return a
    if rng is None:
        return np.asarray(a, np.float64)
    if exact.get(v, False):
        return a
    part = rng.uniform(-2, 2, a.shape) * _luck(v.node) * EPSILON[dtype.name]
    wide = np.asarray(a, np.float64)
    with np.errstate(all="ignore"):
        moved = wide + part if v.node.op.name in OF_ONE else wide * (1 + part)
        return np.asarray(moved).astype(dtype.numpy)


def _luck(node: Node) -> float:
    """By how much further off one that adds up many terms may be: NumPy adds in pairs, we do not,
    and equal terms are all rounded to the same side."""
    if node.op is PARAMETER:
        return 1.0
    if node.op.axes is None:
        inner = region(inlined(node), node.inputs) if node.op.decompose else []
        return max(map(_luck, inner), default=1.0)
    form = node.op.axes(node.attrs, [v.type for v in node.inputs])
    terms = math.prod(x.extent for x in (*form.reduce, *((form.scan,) if form.scan else ())))
    return max(1.0, terms**0.5 / 4)


class Truth:
    """What the outputs of a graph must be, and how near each element can be expected."""

    def __init__(self, drawn: RandomGraph) -> None:
        self.drawn = drawn
        self.graph = drawn.graph
        self.naive = run_graph(drawn.graph, drawn.inputs)
        self._wide: list[Array] | None = None
        self._spread: list[Array] = []
        self._lucks = 0

    def check(self, level: str, outputs: Sequence[Array]) -> list[Mismatch]:
        """Where `outputs` are wrong."""
        found = []
        for k, (v, ours) in enumerate(zip(self.graph.outputs, outputs, strict=True)):
            exact = self.drawn.exact.get(v, False) or not v.type.dtype.is_float
            detail = self._exact(k, ours) if exact else self._near(k, ours)
            if detail:
                found.append(Mismatch(level, k, f"{v.type} {v.node.op.name}: {detail}"))
        return found

    def _exact(self, k: int, ours: Array) -> str:
        naive = self.naive[k]
        same = (ours == naive) | ((ours != ours) & (naive != naive))
        return "" if np.all(same) else self._describe(naive, ours, ~same)

    def _near(self, k: int, ours: Array) -> str:
        wrong = self._far(k, ours, LUCKS)
        if np.any(wrong):
            wrong = self._far(k, ours, AGAIN)
        return self._describe(self.naive[k], ours, wrong) if np.any(wrong) else ""

    def _far(self, k: int, ours: Array, lucks: int) -> Array:
        """Which elements are farther from float64 than the naive runs are."""
        self._sample(lucks)
        assert self._wide is not None
        truth, spread = self._wide[k], self._spread[k]
        name = self.graph.outputs[k].type.dtype.name
        with np.errstate(all="ignore"):
            wide = np.asarray(ours, np.float64)
            rounding = EPSILON[name] * np.abs(truth) + LEAST[name]
            limit = SLACK * spread + 4 * rounding + 1e-300
            off = ~(np.abs(wide - truth) <= limit)
        settled = np.isfinite(truth) & np.isfinite(spread)
        odd = ~np.isfinite(truth) & (spread == 0)
        same = (wide == truth) | (np.isnan(wide) & np.isnan(truth))
        return np.asarray((settled & off) | (odd & ~same))

    def _sample(self, lucks: int) -> None:
        drawn = self.drawn
        if self._wide is None:
            self._wide = run_wide(drawn.graph, drawn.inputs, None, drawn.exact)
            self._spread = [_distance(a, w) for a, w in zip(self.naive, self._wide, strict=True)]
        while self._lucks < lucks:
            self._lucks += 1
            again = run_wide(drawn.graph, drawn.inputs, self._lucks, drawn.exact)
            for k, (a, w) in enumerate(zip(again, self._wide, strict=True)):
                self._spread[k] = np.maximum(self._spread[k], _distance(a, w))

    def _describe(self, naive: Array, ours: Array, wrong: Array) -> str:
        place = tuple(int(i) for i in np.argwhere(wrong)[0]) if np.ndim(wrong) else ()
        return (
            f"{int(np.sum(wrong))} of {np.size(wrong)} wrong, first at {list(place)}: "
            f"{ours[place]!r}, not {naive[place]!r}"
        )


def _distance(a: Array, wide: Array) -> Array:
    """|a - wide|; 0 where both are the same infinity or NaN, inf where only one is finite."""
    ours = np.asarray(a, np.float64)
    truth = np.asarray(wide, np.float64)
    with np.errstate(all="ignore"):
        same = (ours == truth) | (np.isnan(ours) & np.isnan(truth))
        gap = np.where(same, 0.0, np.abs(ours - truth))
    return np.where(np.isnan(gap), np.inf, gap)


# ---- kernels in their interpreter


class Memories:
    """The arrays behind the memory of a plan."""

    def __init__(self, drawn: RandomGraph) -> None:
        graph = drawn.graph
        self.inputs = [np.array(a).reshape(-1) for a in drawn.inputs]
        self.outputs = [np.zeros(v.type.size, v.type.dtype.numpy) for v in graph.outputs]
        for output, source in drawn.aliases.items():
            self.outputs[output] = self.inputs[source]
        self.temps: dict[int, Array] = {}
        self.faults: dict[int, Array] = {}

    def array(self, memory: Memory, dtype: DType, shape: tuple[int, ...]) -> Array:
        """The array of `memory` as a kernel sees it."""
        if isinstance(memory, InputMemory):
            found = self.inputs[memory.index]
        elif isinstance(memory, OutputMemory):
            found = self.outputs[memory.index]
        elif isinstance(memory, ConstantMemory):
            found = np.array(memory.array).reshape(-1)
        elif isinstance(memory, FaultMemory):
            found = self.faults.setdefault(memory.index, np.ones(1, np.uint64))
        else:
            assert isinstance(memory, TempMemory)
            found = self.temps.setdefault(memory.index, np.zeros(memory.nbytes, np.uint8))
        return found.view(dtype.numpy).reshape(shape)


def temporary(buffer: Buffer) -> Array:
    """Memory for a buffer of any strides."""
    whole = np.zeros(buffer.nbytes // buffer.dtype.itemsize, buffer.dtype.numpy)
    strides = [s * buffer.dtype.itemsize for s in buffer.strides]
    return np.lib.stride_tricks.as_strided(whole, buffer.shape, strides)


def run_kernels(compiled: CompiledGraph, drawn: RandomGraph, form: Form) -> list[Array]:
    """The outputs by interpreting the kernels of the plan, each in the given form."""
    memories = Memories(drawn)
    for call, kernel in zip(compiled.plan.calls, compiled.kernels, strict=True):
        chosen = form(kernel, call.kernel)
        given = chosen.params[: len(call.memory)]
        pairs = zip(given, call.memory, strict=True)
        arrays = [memories.array(m, b.dtype, b.shape) for b, m in pairs]
        arrays += [temporary(b) for b in chosen.params[len(given) :]]  # added by the schedule
        interpret_kernel(chosen, arrays)
    assert not any(word[0] for word in memories.faults.values()), "a position is out of range"
    shapes = [v.type.shape for v in drawn.graph.outputs]
    return [a.reshape(s) for a, s in zip(memories.outputs, shapes, strict=True)]


# ---- machine code


def run_machine(compiled: CompiledGraph | Script, drawn: RandomGraph) -> list[Array]:
    """The outputs of the machine code."""
    inputs = [np.array(a, order="C") for a in drawn.inputs]
    outputs = [aligned_empty(t.shape, t.dtype.numpy) for t in compiled.output_types]
    for output, source in drawn.aliases.items():
        outputs[output] = inputs[source]
    given, made = [a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs]
    if isinstance(compiled, CompiledGraph):
        kept = [aligned_empty(n, np.uint8) for n in compiled.kept_bytes]
        made += [a.ctypes.data for a in kept]
        compiled.prepare(given, made)
    compiled.run(given, made)
    return outputs


def fixed_inputs(drawn: RandomGraph) -> frozenset[int]:
    """Some inputs that nothing is written over, as if many runs were to follow."""
    free = [i for i in range(len(drawn.inputs)) if i not in drawn.aliases.values()]
    return frozenset(free[::2] or free)


# ---- NumPy's kernels


def check_eager(drawn: RandomGraph, truth: Truth) -> list[Mismatch]:
    """Mismatches of the graph op by op, which must leave its inputs alone."""
    plan, scalars = graph_plan(drawn.graph)
    inputs = [np.array(a, order="C") for a in drawn.inputs]
    for a in inputs:
        a.flags.writeable = False
    with np.errstate(all="ignore"):
        outputs = [np.asarray(a) for a in plan.results(inputs, scalars)]
    wrong = [
        Mismatch("eager", k, f"is {a.dtype}{list(a.shape)}, not {t}")
        for k, (a, t) in enumerate(zip(outputs, plan.types, strict=True))
        if a.dtype != t.dtype.numpy or a.shape != t.shape
    ]
    return wrong or truth.check("eager", outputs)


# ---- all of them


def check_levels(drawn: RandomGraph, kernels: bool = True) -> list[Mismatch]:
    """Every mismatch between the levels of one graph; `kernels` includes the interpreter of
    kernels, naive and scheduled, and the text of every level."""
    truth = Truth(drawn)
    lowered, _ = run_passes(drawn.graph, PIPELINE)
    found = check_eager(drawn, truth)
    found += truth.check("simplified graph", run_graph(lowered, drawn.inputs))
    compiled = compile_program(lowered, drawn.aliases)
    found += truth.check("machine code", run_machine(compiled, drawn))
    if isinstance(compiled, Script):
        return found
    prepared = compile_graph(lowered, drawn.aliases, fixed=fixed_inputs(drawn))
    if prepared.kept_bytes:
        found += truth.check("prepared machine code", run_machine(prepared, drawn))
    if kernels or found:
        naive = run_kernels(compiled, drawn, lambda _, kernel: kernel)
        found += truth.check("naive kernels", naive)
        scheduled = run_kernels(compiled, drawn, lambda kernel, _: kernel.scheduled)
        found += truth.check("scheduled kernels", scheduled)
        found += check_text(drawn.graph, lowered, compiled)
    return found


def check_text(graph: Graph, lowered: Graph, compiled: CompiledGraph) -> list[Mismatch]:
    """Texts that do not read back to the identical object."""
    found = [
        Mismatch("text", -1, f"of the graph {which} reads back to another")
        for which, g in (("drawn", graph), ("lowered", lowered))
        if parse(graph_text(g)) is not g
    ]
    forms = [f for k in dict.fromkeys(compiled.kernels) for f in (k.naive, k.scheduled)]
    changed = [f for f in forms if parse_kernel(kernel_text(f)) is not f]
    return found + [Mismatch("text", -1, f"of {f.name} reads back to another") for f in changed]
