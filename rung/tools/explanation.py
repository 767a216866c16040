"""Every level of a compiled function, with where it came from, what it costs and what it took.

found = rung.explain(f, x, w)
print(found)                                   # the whole program: lines, kernels, times
print(found.text("schedule", kernel=2))        # one kernel at one level
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from rung.codegen.llvm.target import emit_assembly, host
from rung.core.errors import RungError, TraceError
from rung.core.source import Source
from rung.ir.interpret import evaluate
from rung.ir.node import (
    PARAMETER,
    Graph,
    Node,
    ParameterAttrs,
    Value,
    make_graph,
    make_node,
    parameter,
    provenance,
)  # fmt: skip
from rung.ir.op import Cost
from rung.ir.passes import PassReport, run_passes
from rung.ir.subgraph import between
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.kernel.loop import Kernel
from rung.kernel.plan import ConstantMemory
from rung.kernel.prepare import preparing
from rung.kernel.text import kernel_text
from rung.rules.pipeline import PIPELINE
from rung.runtime.memory import aligned_empty
from rung.runtime.program import CompiledGraph, CompiledKernel, StageInfo
from rung.runtime.roof import Roof, roof
from rung.runtime.script import HostCall, Script, compile_program
from rung.tensor.autograd import no_grad
from rung.tensor.jit import Jit, jit
from rung.tensor.programs import Runnable

LEVELS: Final = ("graph", "kernel", "schedule", "llvm", "asm")
PROFILE_RUNS: Final = 9


@dataclass(frozen=True, eq=False)
class KernelReport:
    """One kernel in its place in the program.

    `graph` holds the graph nodes that it computes, as a graph of its own; `sources` are the user's
    lines. `flops` counts those of its nodes, `nbytes` its operands and results once each (of a
    table no more than is looked up); `least_us` is the shortest time in which the machine could do
    that, `measured_us` what it took (the least of several runs)."""

    number: int
    compiled: CompiledKernel
    group: str
    graph: Graph
    sources: tuple[Source, ...]
    naive: Kernel
    flops: int
    nbytes: int
    least_us: float
    measured_us: float

    @property
    def name(self) -> str:
        """The name of the kernel in code and profiles."""
        return self.compiled.name

    @property
    def scheduled(self) -> Kernel:
        """The loop nest with its schedule."""
        return self.compiled.scheduled

    @property
    def llvm(self) -> str:
        """LLVM IR."""
        return self.compiled.lowered.ir_text

    @cached_property
    def assembly(self) -> str:
        """Machine code as text, for this machine."""
        return emit_assembly(self.llvm, host())

    @property
    def roof_part(self) -> float:
        """The least time as part of the measured one: 1 is as fast as the machine goes. Above 1 for
        work on data that lies in caches, which are faster than memory."""
        return self.least_us / self.measured_us if self.measured_us > 0 else 0.0

    def text(self, level: str) -> str:
        """The text of one of `LEVELS`. Raises RungError for another."""
        match level:
            case "graph":
                return graph_text(self.graph, data=False)
            case "kernel":
                return kernel_text(self.naive) + "\n"
            case "schedule":
                return kernel_text(self.scheduled) + "\n"
            case "llvm":
                return self.llvm
            case "asm":
                return self.assembly
        raise RungError(f"explain: no level {level!r}", fix="levels: " + ", ".join(LEVELS))

    def heading(self) -> str:
        """`kernel 3  rows_1f…  12.1 us, 83 % of the roof` and the user's lines below."""
        time = f"{self.measured_us:.1f} us, at least {self.least_us:.1f} us"
        work = f"{self.flops:,} operations, {self.nbytes:,} bytes"
        first = (
            f"kernel {self.number}  {self.name}  {time} ({self.roof_part:.0%} of the roof), {work}"
        )
        lines = [first, *(f"  {line}" for line in source_lines(self.sources))]
        once = sum(preparing(self.scheduled, self.compiled.fixed)) if self.compiled.fixed else 0
        if once:
            lines.append(f"  {once} of its phases once, before the loop; the time is without them")
        return "\n".join(lines)


@dataclass(frozen=True)
class HostReport:
    """A call of a host op between kernels: its name, the types of its operands and results, the
    user's line, its operations and the time of a call (the least of several, on random operands;
    0 where the op refuses these)."""

    op: str
    operands: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    source: Source
    flops: int
    measured_us: float

    def describe(self) -> str:
        """`cholesky(f64[3,3]) -> f64[3,3]  12.1 us  train.py:4   y = cholesky(x)`"""
        operands, results = (", ".join(map(str, ts)) for ts in (self.operands, self.results))
        line = "; ".join(source_lines([self.source]))
        return f"{self.op}({operands}) -> {results}  {self.measured_us:,.1f} us  {line}"


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of the program: the `arena` for temporaries, `inputs`, `outputs` (without those that
    are written over inputs) and `constants`; how many outputs were `donated` the memory of an
    input, and how many had to be `copied`."""

    arena: int
    inputs: int
    outputs: int
    constants: int
    donated: int
    copied: int

    @property
    def peak(self) -> int:
        """Bytes that are in use during a run."""
        return self.arena + self.inputs + self.outputs + self.constants

    def describe(self) -> str:
        """One line."""
        return (
            f"memory: peak {self.peak:,} bytes = inputs {self.inputs:,} + outputs {self.outputs:,}"
            f" + arena {self.arena:,} + constants {self.constants:,}; "
            f"{self.donated} outputs donated, {self.copied} copied"
        )


@dataclass(frozen=True, eq=False)
class Explanation:
    """A compiled function, level by level; printing it gives the overview."""

    name: str
    graph: Graph
    passes: tuple[PassReport, ...]
    kernels: tuple[KernelReport, ...]
    host_calls: tuple[HostReport, ...]
    memory: MemoryReport
    roof: Roof
    program: CompiledGraph | Script

    @property
    def lowered(self) -> Graph:
        """The graph after all passes."""
        return self.passes[-1].graph if self.passes else self.graph

    @property
    def measured_us(self) -> float:
        """The sum over the kernels and the host calls."""
        hosted = sum(c.measured_us for c in self.host_calls)
        return sum(k.measured_us for k in self.kernels) + hosted

    def __str__(self) -> str:
        return self.text()

    def text(self, level: str = "", kernel: int | None = None) -> str:
        """The overview; with a level, that level of every kernel, or of one. The `graph` level of
        the whole program is the graph as traced and after the passes. Raises RungError for an
        unknown level or kernel."""
        if kernel is not None and not 0 <= kernel < len(self.kernels):
            raise RungError(f"explain: no kernel {kernel}", fix=f"0 to {len(self.kernels) - 1}")
        chosen = self.kernels if kernel is None else (self.kernels[kernel],)
        if not level:
            return self.overview() if kernel is None else self._all_levels(chosen[0])
        if level == "graph" and kernel is None:
            after = "after " + ", ".join(p.name for p in self.passes)
            traced = graph_text(self.graph, "as traced", data=False)
            return traced + "\n\n" + graph_text(self.lowered, after, data=False)
        return "\n\n".join(f"{commented(k.heading(), level)}\n{k.text(level)}" for k in chosen)

    def _all_levels(self, k: KernelReport) -> str:
        parts = [f"---- {level}\n{k.text(level)}" for level in LEVELS]
        return "\n\n".join([k.heading(), *parts])

    # ---- the overview

    def overview(self) -> str:
        """What the program is made of: passes, rules, memory, and a line for each kernel."""
        hosted = [f"     {c.describe()}" for c in self.host_calls]
        calls = ["", "host calls (Python, between kernels):", *hosted] if hosted else []
        return "\n".join([*self._head(), "", *self._table(), *calls, ""])

    def _head(self) -> list[str]:
        r = self.roof
        lines = [
            f"{self.name}: {len(self.graph.nodes)} nodes traced, {len(self.lowered.nodes)} after "
            f"the passes, {len(self.kernels)} kernels, {self.measured_us:,.1f} us",
            f"roof: {r.fma_all_gflops:,.0f} GFLOP/s, memory "
            f"{max(r.read_all_gbs, r.copy_all_gbs):.1f} GB/s, {r.threads} threads",
            self.memory.describe(),
        ]
        for p in self.passes:
            lines.append(p.describe())
            hits = {name: count.hits for name, count in p.rules.items() if count.hits}
            if hits:
                fired = ", ".join(f"{n} {c}" for n, c in sorted(hits.items(), key=_most_first))
                lines.append(f"  rules: {fired}")
        return lines

    def _table(self) -> list[str]:
        lines = [
            "   # kernel               measured us    least us   roof    GFLOP/s     GB/s  from"
        ]
        for k in self.kernels:
            rate = k.flops / k.measured_us / 1e3 if k.measured_us else 0.0
            stream = k.nbytes / k.measured_us / 1e3 if k.measured_us else 0.0
            first, *more = source_lines(k.sources) or ["(a copy)"]
            rest = f" (and {len(more)} more lines)" if more else ""
            lines.append(
                f"{k.number:4} {k.name[:20]:20} {k.measured_us:11,.1f} {k.least_us:11,.1f} "
                f"{k.roof_part:6.0%} {rate:10,.1f} {stream:8.1f}  {first}{rest}"
            )
        return lines


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return (-item[1], item[0])


def commented(text: str, level: str) -> str:
    """`text` as a comment of the language of a level."""
    mark = {"llvm": "; ", "asm": "# "}.get(level, "# ")
    return "\n".join(mark + line for line in text.splitlines())


def source_lines(sources: Iterable[Source]) -> list[str]:
    """Each of the user's lines once, with its module path."""
    lines: dict[str, None] = {}
    for s in sources:
        if s.line:
            path = f"[{s.path}] " if s.path else ""
            lines[path + s.describe()] = None
    return list(lines)


# ---- making it


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """What becomes of `function(*args, **kwargs)` when it is compiled, each kernel timed on this
    machine. `function` may be under `rung.jit` already; it is traced, not run, so no state changes.

    Raises TraceError for what cannot be traced, RungError for a function that computes nothing."""
    compiled = function if isinstance(function, Jit) else jit(function)
    try:
        found = compiled.compile(*args, **kwargs)
    except TraceError:
        with no_grad():
            found = compiled.compile(*args, **kwargs)
    if found.runnable is None:
        raise RungError(f"explain: {compiled.name} computes nothing: its results are constants")
    aliases = {s.output: s.alias for s in (*found.states, *found.placed_states) if s.alias >= 0}
    aliases |= {output: alias for _, output, alias in found.donations}
    return explain_program(compiled.name, found.runnable, aliases)


def explain_program(name: str, runnable: Runnable, aliases: Mapping[int, int]) -> Explanation:
    """The explanation of a compiled program, some of whose outputs are written over inputs."""
    _, reports = run_passes(runnable.graph, PIPELINE)
    program = machine_program(runnable, aliases)
    return Explanation(
        name=name,
        graph=runnable.graph,
        passes=tuple(reports),
        kernels=tuple(_kernel_reports(program)),
        host_calls=tuple(_host_report(c.node) for c in _host_calls(program)),
        program=program,
        memory=_memory_report(program, aliases),
        roof=roof(),
    )


def machine_program(runnable: Runnable, aliases: Mapping[int, int]) -> CompiledGraph | Script:
    """The program in machine code, also where another executor runs it."""
    program = runnable.program
    if isinstance(program, CompiledGraph | Script):
        return program
    return compile_program(runnable.graph, aliases, lower=_lowered)


def _lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def _kernel_reports(program: CompiledGraph | Script) -> list[KernelReport]:
    """A report of each kernel; of one in a loop, for one iteration."""
    reports: list[KernelReport] = []
    for part in program.programs:
        times = stage_times(part)
        for info, stages in _by_call(part.stages):
            reports.append(_kernel_report(len(reports), info, sum(times[i] for i in stages)))
    return reports


def _host_calls(program: CompiledGraph | Script) -> tuple[HostCall, ...]:
    return program.host_calls if isinstance(program, Script) else ()


def _host_report(node: Node) -> HostReport:
    operands = tuple(v.type for v in node.inputs)
    return HostReport(
        op=node.op.name,
        operands=operands,
        results=node.types,
        source=Source(node.source.file, node.source.line, node.source.path),
        flops=_cost(node).flops,
        measured_us=_host_us(node, [_example(t, seed) for seed, t in enumerate(operands)]),
    )


def _host_us(node: Node, operands: Sequence[np.ndarray[Any, Any]]) -> float:
    """The least time of a call in µs. Square matrices are made positive definite, so that every
    decomposition exists."""
    given = [_regular(a) if a.ndim > 1 else a for a in operands]
    times: list[float] = []
    for _ in range(PROFILE_RUNS):
        start = time.perf_counter()
        try:
            evaluate(node, given)
        except RungError:
            return 0.0
        times.append((time.perf_counter() - start) * 1e6)
    return min(times)


def _regular(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if x.shape[-1] != x.shape[-2] or x.dtype.kind != "f":
        return x
    made = x @ np.swapaxes(x, -1, -2) + x.shape[-1] * np.eye(x.shape[-1])
    return np.asarray(made.astype(x.dtype))


def _kernel_report(number: int, info: StageInfo, measured_us: float) -> KernelReport:
    call = info.call
    graph = kernel_graph(call.args, call.kernel, f"kernel_{number}")
    flops = sum(_cost(n).flops for n in graph.nodes if n.op is not PARAMETER)
    nbytes = _bytes_moved(graph)
    return KernelReport(
        number=number,
        compiled=info.kernel,
        group=call.group,
        graph=graph,
        sources=_sources(call.kernel, graph),
        naive=call.kernel,
        flops=flops,
        nbytes=nbytes,
        least_us=roof().least_us(flops, nbytes),
        measured_us=measured_us,
    )


def _by_call(stages: Sequence[StageInfo]) -> list[tuple[StageInfo, list[int]]]:
    """The stages of each call together: the first one, and the numbers of all."""
    found: list[tuple[StageInfo, list[int]]] = []
    for i, info in enumerate(stages):
        if found and found[-1][0].call is info.call:
            found[-1][1].append(i)
        else:
            found.append((info, [i]))
    return found


def _sources(kernel: Kernel, graph: Graph) -> tuple[Source, ...]:
    """The lines of what the kernel is for, then those of what went into it."""
    into = (n.source for n in graph.nodes if n.source.line)
    lines = (Source(s.file, s.line, s.path) for s in (*kernel.sources, *into))
    return tuple(dict.fromkeys(lines))


def _cost(node: Node) -> Cost:
    ins = [v.type for v in node.inputs]
    return node.op.cost(node.attrs, ins, list(node.types))


def _bytes_moved(graph: Graph) -> int:
    """Bytes of the results, and of each parameter as much as its readers can want."""
    wanted: Counter[Value] = Counter()
    for node in graph.nodes:
        for v in dict.fromkeys(node.inputs):
            wanted[v] += _cost(node).bytes
    read = sum(min(p.type.nbytes, wanted[p]) for p in graph.params)
    return read + sum(v.type.nbytes for v in graph.outputs)


def kernel_graph(args: Sequence[Value], kernel: Kernel, name: str) -> Graph:
    """The nodes that a kernel computes, as a graph from what it reads to what it writes. Values
    that it computes again although another kernel has them too are in it."""
    pairs = list(zip(kernel.params, args, strict=False))
    outputs = [v for b, v in pairs if b.role not in ("input", "temp")]
    read = {v for b, v in pairs if b.role == "input"}
    moved: dict[Value, Value] = {}
    params: list[Value] = []

    def given(v: Value) -> Value:
        named = v.node.attrs.name if isinstance(v.node.attrs, ParameterAttrs) else ""
        params.append(parameter(len(params), named or f"x{len(params)}", v.type))
        return params[-1]

    for node in between(outputs, read):
        if node.op is PARAMETER:
            continue
        for v in node.inputs:
            if v not in moved:
                moved[v] = given(v)
        with provenance(node.source):
            new = make_node(node.op, tuple(moved[v] for v in node.inputs), node.attrs)
        moved.update(zip(node.results, new, strict=True))
    return make_graph(name, params, [moved[v] if v in moved else given(v) for v in outputs])


def stage_times(program: CompiledGraph) -> list[float]:
    """The least time of each stage in µs, over several runs on arrays of our own."""
    aliases = program.aliases
    inputs = [_example(t, seed) for seed, t in enumerate(program.input_types)]
    outputs = [
        inputs[aliases[k]] if k in aliases else aligned_empty(t.shape, t.dtype.numpy)
        for k, t in enumerate(program.output_types)
    ]
    outputs += [aligned_empty((n,), np.dtype(np.uint8)) for n in program.kept_bytes]
    pointers = [a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs]
    program.prepare(*pointers)
    runs = [program.profile(*pointers) for _ in range(PROFILE_RUNS)]
    return [min(times) for times in zip(*runs, strict=True)]


def _example(type: TensorType, seed: int) -> np.ndarray[Any, Any]:
    """Ordinary numbers: floats around zero, small integers."""
    rng = np.random.default_rng(seed)
    array = aligned_empty(type.shape, type.dtype.numpy)
    if type.dtype.is_float:
        array[...] = rng.standard_normal(type.shape, np.float32).astype(array.dtype)
    else:
        array[...] = rng.integers(0, 2, type.shape).astype(array.dtype)
    return array


def _memory_report(program: CompiledGraph | Script, aliases: Mapping[int, int]) -> MemoryReport:
    calls = [call for part in program.programs for call in part.plan.calls]
    memory = [m for call in calls for m in call.memory]
    constants = {id(m.array): m.array.nbytes for m in memory if isinstance(m, ConstantMemory)}
    outputs = [t.nbytes for k, t in enumerate(program.output_types) if k not in aliases]
    return MemoryReport(
        arena=program.arena_bytes,
        inputs=sum(t.nbytes for t in program.input_types),
        outputs=sum(outputs),
        constants=sum(constants.values()),
        donated=len(aliases),
        copied=sum(part.plan.copies for part in program.programs),
    )
