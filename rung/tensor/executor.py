"""How a graph is run: compiled to machine code, or interpreted in NumPy (`RUNG_INTERPRET=1`)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rung.core.settings import settings
from rung.ir.interpret import interpret
from rung.ir.node import Graph
from rung.ir.passes import run_passes
from rung.ir.types import TensorType
from rung.rules.pipeline import PIPELINE
from rung.runtime.program import compile_graph


class Program(Protocol):
    """A graph that can be run on raw pointers to dense row-major arrays."""

    @property
    def output_types(self) -> Sequence[TensorType]: ...
    def run(self, inputs: Sequence[int], outputs: Sequence[int]) -> None: ...


class Executor(Protocol):
    """Makes a program of a graph. `aliases`: output index -> input index whose buffer the caller
    passes for both."""

    def __call__(self, graph: Graph, aliases: Mapping[int, int]) -> Program: ...


class InterpretedGraph:
    """A graph run node by node in NumPy."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.output_types = tuple(v.type for v in graph.outputs)

    def run(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        arrays = [_array_at(at, v.type) for at, v in zip(inputs, self.graph.params, strict=True)]
        results = interpret(self.graph, arrays)
        # all results exist before the first is written: an output may lie where an input does
        copies = [np.array(r) for r in results]
        for at, result, type in zip(outputs, copies, self.output_types, strict=True):
            _array_at(at, type)[...] = result


def _array_at(pointer: int, type: TensorType) -> np.ndarray[Any, Any]:
    memory = (ctypes.c_char * type.nbytes).from_address(pointer)
    return np.frombuffer(memory, type.dtype.numpy, type.size).reshape(type.shape)


def interpreted(graph: Graph, aliases: Mapping[int, int]) -> Program:
    """The executor that interprets."""
    return InterpretedGraph(graph)


def compiled(graph: Graph, aliases: Mapping[int, int]) -> Program:
    """The executor that compiles to machine code."""
    primitive, _ = run_passes(graph, PIPELINE)
    return compile_graph(primitive, aliases)


def current_executor() -> Executor:
    """The executor that the settings ask for."""
    return interpreted if settings().interpret else compiled
