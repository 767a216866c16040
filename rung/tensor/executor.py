"""How a graph is run: compiled to machine code, or interpreted in NumPy (`RUNG_INTERPRET=1`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from operator import setitem
from typing import Protocol

import numpy as np

from rung.codegen.llvm.target import emit_assembly, host
from rung.core.arguments import host_arrays
from rung.core.settings import settings
from rung.ir.interpret import interpret
from rung.ir.node import Graph
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.kernel.text import kernel_text
from rung.rules.pipeline import PIPELINE
from rung.runtime.background import BackgroundCompile, compile_in_background
from rung.runtime.breath import NativeCall, Turn, in_one_breath, with_turn
from rung.runtime.memory import array_at
from rung.runtime.program import CompiledGraph, CompiledKernel
from rung.runtime.script import Script, compile_program


class Program(Protocol):
    """A graph that can be run on raw pointers to dense row-major arrays."""

    @property
    def output_types(self) -> Sequence[TensorType]: ...
    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> None:
        """Run once. `first`, the writing of outputs that lie where inputs do, and `then` are done
        in one breath. Raises ValueError where it is no more its `turn`."""
        ...


class Executor(Protocol):
    """Makes a program of a graph. `aliases`: output index -> input index whose buffer the caller
    passes for both."""

    def __call__(self, graph: Graph, aliases: Mapping[int, int]) -> Program: ...


class InterpretedGraph:
    """A graph run node by node in NumPy."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.output_types = tuple(v.type for v in graph.outputs)

    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        first: Sequence[NativeCall] = (),
        then: Sequence[NativeCall] = (),
        turn: Turn | None = None,
    ) -> None:
        """Run once; see `Program`."""
        arrays = [array_at(at, v.type) for at, v in zip(inputs, self.graph.params, strict=True)]
        with host_arrays(self.graph.name):
            # all results exist before the first is written: an output may lie where an input does
            copies = [np.array(r) for r in interpret(self.graph, arrays)]
        places = [array_at(at, t) for at, t in zip(outputs, self.output_types, strict=True)]
        writes = [(setitem, to, ..., x) for to, x in zip(places, copies, strict=True)]
        first, then = with_turn(turn, first, then)
        in_one_breath((*first, *writes, *then))


def interpreted(graph: Graph, aliases: Mapping[int, int]) -> Program:
    """The executor that interprets."""
    return InterpretedGraph(graph)


def compiled(graph: Graph, aliases: Mapping[int, int]) -> Program:
    """The executor that compiles to machine code; the setting `debug` has it tell about it."""
    start = time.perf_counter()
    found = compile_program(graph, aliases, lower=_lowered)
    level = settings().debug
    if level:
        seconds = time.perf_counter() - start
        print(f"rung: {_summary(graph, found, seconds)}", file=sys.stderr)
    if level >= 2:
        _show("graph", graph_text(graph))
        _, reports = run_passes(graph, PIPELINE)
        before = [graph, *(r.graph for r in reports)]
        for r, old in zip(reports, before, strict=False):
            _show(f"graph {r.describe()}", "" if r.graph is old else graph_text(r.graph))
    if level >= 3:
        for kernel in _kernels(found):
            _show_kernel(kernel, level)
    return found


def compiled_beside(graph: Graph, aliases: Mapping[int, int]) -> BackgroundCompile:
    """What `compiled` will do with a graph, begun in a process beside this one: when that has
    ended, it takes some milliseconds."""
    return compile_in_background(graph, aliases, lower=_lowered)


def _lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def _summary(graph: Graph, found: CompiledGraph | Script, seconds: float) -> str:
    kernels, stages = len(_kernels(found)), sum(len(p.stages) for p in found.programs)
    return (
        f"compiled {graph.name}: {len(graph.nodes)} nodes, {kernels} kernels in {stages} stages, "
        f"{found.arena_bytes / 1e6:.1f} MB arena, {seconds:.2f} s"
    )


def _kernels(found: CompiledGraph | Script) -> list[CompiledKernel]:
    """The distinct kernels of a program, or of all that a script calls."""
    return list(dict.fromkeys(k for p in found.programs for k in p.kernels))


def _show_kernel(kernel: CompiledKernel, level: int) -> None:
    _show(f"kernel {kernel.name}", kernel_text(kernel.scheduled))
    if level >= 4:
        _show(f"LLVM IR of {kernel.name}", kernel.lowered.ir_text)
    if level >= 5:
        _show(f"assembly of {kernel.name}", emit_assembly(kernel.lowered.ir_text, host()))


def _show(title: str, text: str) -> None:
    print(f"# ---- {title}\n{text}", file=sys.stderr)


def is_compiling() -> bool:
    """Whether graphs are compiled to machine code."""
    return current_executor() is compiled


def current_executor() -> Executor:
    """The executor that the settings ask for."""
    return interpreted if settings().interpret else compiled
