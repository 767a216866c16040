"""Where the time of a compile goes: `rung explain --compile FILE.py:function`.

found = compile_report(function, *args)
print(found.text())

All is compiled once more, in this process alone, and nothing is taken from the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rung.codegen.llvm.target import CompileTimes, compile_times, emit_object, host
from rung.core.settings import configure, settings
from rung.ir.passes import run_passes
from rung.kernel.machine import usable_cores
from rung.rules.pipeline import PIPELINE
from rung.runtime.loader import link
from rung.runtime.program import CompiledGraph, CompiledKernel
from rung.runtime.script import Script
from rung.tensor.jit import Jit, jit

PARTS = {
    "tracing": "the function, with derivatives",
    "passes": "decompose, simplify, merge",
    "digest": "the key of the whole program",
    "plan": "fusion, naive kernels, memory",
    "keys": "of the kernels",
    "schedule": "of the kernels",
    "lowering": "to LLVM IR text",
    "LLVM parse": "and verification",
    "LLVM passes": "",
    "LLVM code": "instruction selection, registers, object code",
    "loading": "",
}
PARALLEL = ("schedule", "lowering", "LLVM parse", "LLVM passes", "LLVM code")
"""Parts that processes share out."""


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """What a distinct kernel costs to compile. `calls`: how often the program runs it."""

    name: str
    calls: int
    schedule_s: float
    lowering_s: float
    lines: int
    llvm: CompileTimes

    @property
    def total_s(self) -> float:
        """All of it."""
        llvm = self.llvm
        return self.schedule_s + self.lowering_s + llvm.parse_s + llvm.passes_s + llvm.code_s


@dataclass
class CompileReport:
    """Seconds of each of `PARTS`, and of each kernel."""

    name: str
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    kernels: list[KernelTimes] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        """With one core."""
        return sum(self.seconds.values())

    def wall_s(self, cores: int) -> float:
        """With `cores` processes, if the kernels divide evenly."""
        shared = sum(self.seconds[part] for part in PARALLEL)
        return self.total_s - shared + shared / cores

    def text(self) -> str:
        """Two tables: by part, and by kernel, the longest first."""
        cores = settings().compile_jobs or usable_cores()
        lines = [
            f"{self.name}: {self.total_s:.2f} s to compile in one process, at least "
            f"{self.wall_s(cores):.2f} s in {cores}; {len(self.kernels)} distinct kernels",
            "",
            "part             ms  share",
        ]
        for part, what in PARTS.items():
            spent = self.seconds[part]
            share = spent / self.total_s if self.total_s else 0.0
            note = f"  {what}" if what else ""
            lines.append(f"{part:12} {spent * 1e3:6,.1f} {share:6.0%}{note}")
        lines += ["", "kernel                 calls      ms  schedule  lowering  LLVM parse  passes"
                      "    code   lines   bytes"]  # fmt: skip
        for k in sorted(self.kernels, key=lambda k: -k.total_s):
            llvm = k.llvm
            lines.append(
                f"{k.name[:22]:22} {k.calls:5} {k.total_s * 1e3:7,.1f} {k.schedule_s * 1e3:9,.1f} "
                f"{k.lowering_s * 1e3:9,.1f} {llvm.parse_s * 1e3:11,.1f} "
                f"{llvm.passes_s * 1e3:7,.1f} {llvm.code_s * 1e3:7,.1f} {k.lines:7,} "
                f"{llvm.nbytes:7,}"
            )
        return "\n".join([*lines, ""])

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def compile_report(
    program: CompiledGraph | Script, name: str, function: Callable[..., Any], *args: Any
) -> CompileReport:
    """What compiling `function(*args)`, whose compiled form is `program`, costs."""
    report = CompileReport(name)
    with report.part("tracing"):
        _trace(function, args)
    if isinstance(program, Script):
        with report.part("passes"):
            run_passes(program.graph, PIPELINE)
    known: dict[str, CompiledKernel] = {}
    calls: dict[str, int] = {}
    for p in program.programs:
        for kernel in _planned(p, report):
            known.setdefault(kernel.key, kernel)
            calls[kernel.key] = calls.get(kernel.key, 0) + 1
    for key, kernel in known.items():
        report.kernels.append(_kernel_times(kernel, calls[key], report))
    return report


def _trace(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Trace a function and compile nothing."""
    inner = function.function if isinstance(function, Jit) else function
    before = settings().interpret
    configure(interpret=True)
    try:
        jit(inner).compile(*args)
    finally:
        configure(interpret=before)


def _planned(program: CompiledGraph, report: CompileReport) -> tuple[CompiledKernel, ...]:
    planning = program.planning()
    with report.part("digest"):
        planning.recipe_key()
    with report.part("passes"):
        assert planning.graph is not None
    with report.part("plan"):
        assert planning.plan is not None
    with report.part("keys"):
        return planning.kernels


def _kernel_times(kernel: CompiledKernel, calls: int, report: CompileReport) -> KernelTimes:
    before: Mapping[str, float] = dict(report.seconds)
    with report.part("schedule"):
        assert kernel.scheduled is not None
    with report.part("lowering"):
        lowered = kernel.lowered
    llvm = compile_times(lowered.ir_text, host())
    report.seconds["LLVM parse"] += llvm.parse_s
    report.seconds["LLVM passes"] += llvm.passes_s
    report.seconds["LLVM code"] += llvm.code_s
    image = emit_object(lowered.ir_text, host())
    with report.part("loading"):
        link([image], [symbol for symbol, _ in lowered.phases])
    return KernelTimes(
        kernel.name,
        calls,
        report.seconds["schedule"] - before["schedule"],
        report.seconds["lowering"] - before["lowering"],
        lowered.ir_text.count("\n"),
        llvm,
    )
