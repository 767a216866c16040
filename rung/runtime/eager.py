"""Running a program at once, op by op, by kernels that are already there: those of NumPy.

Nothing is compiled. A program costs one walk over its steps when its structure is new, and then a
microsecond or so for each op beside the work itself. An op that has no `eager` kernel is run by its
body, or by its reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from rung.core.dtype import Scalar
from rung.core.errors import AllocationError, RungError
from rung.core.source import Source
from rung.ir.interpret import op_body
from rung.ir.node import PARAMETER, Graph, ParameterAttrs, Value
from rung.ir.op import Array, Attrs, EagerKernel, Op
from rung.ir.types import TensorType
from rung.ops.control import after
from rung.ops.creation import ConstantAttrs, constant
from rung.runtime.memory import aligned_empty

POOLED_BYTES = 1 << 18
"""Results of this size and above lie in memory that is used again with its pages."""

_SMALLER = "smaller batches, or a dtype of fewer bytes"

Step = tuple[Op, Attrs, tuple[int, ...], Any, int, tuple[TensorType, ...]]
"""op, attributes, numbers of its operands, its source, number of its first result, their types."""
_Row = tuple[int, EagerKernel, Any, int, tuple[int, ...]]
"""How it is called, the kernel, its operands, where its result goes, what nobody reads after it."""
_UNARY, _BINARY, _MANY, _INTO, _SEVERAL, _CONSTANT, _PASS = range(7)


class EagerPlan:
    """The steps of a program with a kernel for each.

    `inputs`: number and type of each input; `constants`: positions of the steps whose scalar each
    run gives anew; `outputs`: the numbers of the results. Values have numbers as in `Linear`.
    `fresh` are the values that lie in aligned memory of their own."""

    def __init__(
        self,
        inputs: Sequence[tuple[int, TensorType]],
        steps: Sequence[Step],
        outputs: Sequence[int],
    ) -> None:
        total = len(inputs) + sum(len(s[5]) for s in steps)
        self._size = total
        self._inputs = [number for number, _ in inputs]
        self.outputs = list(outputs)
        types: list[TensorType] = [None] * total  # type: ignore[list-item]
        for number, type in inputs:
            types[number] = type
        for step in steps:
            for at, type in enumerate(step[5], step[4]):
                types[at] = type
        self.types = [types[n] for n in outputs]
        self._rows = _rows(steps, types, set(outputs))
        self.fresh = {row[3] for row in self._rows if row[0] == _INTO}

    def run(
        self,
        arrays: Sequence[Array],
        constants: Sequence[Scalar],
        place: Callable[[int], Source] | None = None,
        keep: bool = False,
    ) -> list[Any]:
        """All values, by their numbers, for arrays of the types of the inputs and the scalars of
        the constants in the order of their steps. They may be views of inputs, or of each other;
        what is no result is let go after its last use unless `keep`. Of what a kernel raises,
        `place` (if it is given) says by the number of the step which line it is of."""
        values: list[Any] = [None] * self._size
        for number, array in zip(self._inputs, arrays, strict=True):
            values[number] = array
        scalars = iter(constants)
        number = -1
        try:
            for number, (kind, kernel, at, to, dead) in enumerate(self._rows):  # noqa: B007
                if kind == _BINARY:
                    a, b = at
                    values[to] = kernel(values[a], values[b])
                elif kind == _UNARY:
                    values[to] = kernel(values[at])
                elif kind == _CONSTANT:
                    values[to] = kernel(next(scalars))
                elif kind == _MANY:
                    values[to] = kernel(*[values[a] for a in at])
                elif kind == _INTO:
                    operands, shape, dtype = at
                    out = aligned_empty(shape, dtype)
                    values[to] = kernel(*[values[a] for a in operands], out=out)
                elif kind == _SEVERAL:
                    for b, result in enumerate(kernel(*[values[a] for a in at]), to):
                        values[b] = result
                else:
                    for b, a in enumerate(at, to):
                        values[b] = values[a]
                if dead and not keep:
                    for a in dead:
                        values[a] = None
        except RungError as e:
            if place is None:
                raise
            raise e.at(place(number)) from None
        except MemoryError as e:
            where = None if place is None else place(number)
            raise AllocationError(str(e), source=where, fix=_SMALLER) from None
        return values

    def results(self, arrays: Sequence[Array], constants: Sequence[Scalar]) -> list[Array]:
        """The results alone."""
        values = self.run(arrays, constants)
        return [values[n] for n in self.outputs]


def _rows(steps: Sequence[Step], types: Sequence[TensorType], outputs: set[int]) -> list[_Row]:
    last: dict[int, int] = {}
    for at, step in enumerate(steps):
        for a in step[2]:
            last[a] = at
    rows: list[_Row] = []
    for at, (op, attrs, operands, _, first, results) in enumerate(steps):
        dead = tuple([a for a in dict.fromkeys(operands) if last[a] == at and a not in outputs])
        rows.append((*_row(op, attrs, operands, results, first, types), dead))
    return rows


def _row(
    op: Op,
    attrs: Attrs,
    operands: tuple[int, ...],
    results: tuple[TensorType, ...],
    first: int,
    types: Sequence[TensorType],
) -> tuple[int, EagerKernel, Any, int]:
    if op is constant:
        assert isinstance(attrs, ConstantAttrs)
        return _CONSTANT, _scalar(attrs.dtype.numpy), (), first
    if op is after:
        return _PASS, _nothing, operands[: len(results)], first
    kernel = eager_kernel(op, attrs, tuple([types[a] for a in operands]), results)
    if len(results) != 1:
        return _SEVERAL, kernel, operands, first
    if isinstance(kernel, np.ufunc) and results[0].nbytes >= POOLED_BYTES:
        where = (operands, results[0].shape, results[0].dtype.numpy)
        return _INTO, kernel, where, first
    if len(operands) == 2:
        return _BINARY, kernel, operands, first
    if len(operands) == 1:
        return _UNARY, kernel, operands[0], first
    return _MANY, kernel, operands, first


def _nothing() -> Array:
    raise AssertionError


@cache
def _scalar(dtype: np.dtype[Any]) -> EagerKernel:
    return lambda value: np.array(value, dtype)


@lru_cache(maxsize=1 << 14)
def eager_kernel(
    op: Op, attrs: Attrs, types: tuple[TensorType, ...], results: tuple[TensorType, ...]
) -> EagerKernel:
    """A function of arrays that computes an op at once: its `eager` kernel, else its body, else its
    reference. One result is an array, several are a tuple."""
    if op.eager is not None:
        found = op.eager(attrs, types, results)
        if found is not None:
            return found
    if op.decompose is not None:
        return _body(op, attrs, types)
    ref = op.ref
    if len(results) == 1:
        return lambda *arrays: ref(attrs, arrays)[0]
    return lambda *arrays: ref(attrs, arrays)


def _body(op: Op, attrs: Attrs, types: tuple[TensorType, ...]) -> EagerKernel:
    plan, scalars = graph_plan(op_body(op, attrs, types))
    if len(plan.outputs) == 1:
        (output,) = plan.outputs
        return lambda *arrays: plan.run(arrays, scalars)[output]
    return lambda *arrays: tuple(plan.results(arrays, scalars))


def graph_plan(graph: Graph) -> tuple[EagerPlan, list[Scalar]]:
    """The plan of a graph, and its constants."""
    numbers: dict[Value, int] = {}
    for i, p in enumerate(graph.params):
        assert isinstance(p.node.attrs, ParameterAttrs)
        numbers[p] = i
    inputs = [(i, p.type) for i, p in enumerate(graph.params)]
    total = len(inputs)
    steps: list[Step] = []
    scalars: list[Scalar] = []
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        if isinstance(node.attrs, ConstantAttrs):
            scalars.append(node.attrs.value)
        operands = tuple([numbers[v] for v in node.inputs])
        steps.append((node.op, node.attrs, operands, node.source, total, node.types))
        for result in node.results:
            numbers[result] = total + result.index
        total += len(node.types)
    return EagerPlan(inputs, steps, [numbers[v] for v in graph.outputs]), scalars
