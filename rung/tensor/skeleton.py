"""The structure of pending graphs with their integers set apart.

Programs of one structure at several sizes have equal skeletons: what differs are numbers, the dims
of inputs and integers among attributes, listed in the order of a walk. A template is a pending
graph whose numbers are polynomials of a few sizes, found from those that have come and checked
against each new one, so no wrong guess is ever run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from rung.core.dtype import DType, Scalar
from rung.ir.expr import Expr, Size, size
from rung.ir.node import PARAMETER, Graph, Value, make_graph, make_node, parameter, provenance
from rung.ir.types import TensorType
from rung.kernel.generalise import Fit, NotGeneral, Probes
from rung.kernel.text import expr_text
from rung.ops.control import HOLDERS
from rung.ops.creation import ConstantAttrs, constant
from rung.tensor.linear import Linear

Number = int | float
Numbers = tuple[Number, ...]
MOST_SIZES: Final = 3
"""Sizes that a template may have."""


def _is_record(x: Any) -> bool:
    """Whether the fields of an attribute are attributes."""
    return dataclasses.is_dataclass(x) and not isinstance(x, DType)


class _Parts:
    """A walk that takes structure and numbers apart."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.numbers: list[Number] = []

    def type(self, t: TensorType) -> None:
        """A type: its dims are numbers."""
        self.parts += (t.dtype, len(t.shape))
        self.numbers += t.shape

    def value(self, x: Any) -> None:
        """An attribute, or a part of one."""
        kind = type(x)
        if kind is int:
            self.parts.append(int)
            self.numbers.append(x)
        elif kind is tuple:
            self.parts += (tuple, len(x))
            for item in x:
                self.value(item)
        elif kind is TensorType:
            self.type(x)
        elif kind is Graph:
            parts, numbers = _of_graph(x)
            self.parts.append(parts)
            self.numbers += numbers
        elif _is_record(x):
            self.parts.append(kind)
            for f in dataclasses.fields(x):
                self.value(getattr(x, f.name))
        else:
            self.parts.append(x)


@lru_cache(maxsize=4096)
def _of_graph(graph: Graph) -> tuple[tuple[Any, ...], Numbers]:
    """Structure and numbers of the body of a composite; its constants are numbers too."""
    found = _Parts()
    known: dict[Value, int] = {}
    for node in graph.nodes:
        attrs = node.attrs
        operands = tuple(known[v] for v in node.inputs)
        if node.op is PARAMETER:
            found.parts.append(PARAMETER)
            found.type(node.types[0])
        elif isinstance(attrs, ConstantAttrs) and type(attrs.value) in (int, float):
            found.parts += (constant, attrs.dtype, type(attrs.value))
            found.numbers.append(attrs.value)  # type: ignore[arg-type]
        else:
            found.parts += (node.op, operands)
            found.value(attrs)
        for v in node.results:
            known[v] = len(known)
    found.parts += (graph.name, tuple(known[v] for v in graph.outputs))
    return tuple(found.parts), tuple(found.numbers)


def skeleton(linear: Linear) -> tuple[tuple[Any, ...], Numbers]:
    """Structure and numbers of a pending graph. Raises NotGeneral for one with loops."""
    found = _Parts()
    for _, t in linear.inputs:
        found.type(t)
    for op, attrs, operands, *_ in linear.steps:
        if op in HOLDERS:
            raise NotGeneral(f"{op.name} has a body of its own")
        if isinstance(attrs, ConstantAttrs):
            found.parts += (op, attrs.dtype)
        else:
            found.parts += (op, operands)
            found.value(attrs)
    found.parts.append(tuple(linear.outputs))
    return tuple(found.parts), tuple(found.numbers)


# ---- the way back: a graph of the same structure with other numbers


def _with_numbers(x: Any, numbers: Iterator[Number]) -> Any:
    """`x` with its numbers replaced, in the order of the walk."""
    kind = type(x)
    if kind is int:
        return next(numbers)
    if kind is tuple:
        return tuple([_with_numbers(item, numbers) for item in x])
    if kind is TensorType:
        return _type(x, numbers)
    if kind is Graph:
        return _graph(x, numbers)
    if _is_record(x):
        names = [f.name for f in dataclasses.fields(x)]
        return kind(**{n: _with_numbers(getattr(x, n), numbers) for n in names})
    return x


def _type(t: TensorType, numbers: Iterator[Number]) -> TensorType:
    return TensorType(t.dtype, tuple([int(next(numbers)) for _ in t.shape]))


def _graph(graph: Graph, numbers: Iterator[Number]) -> Graph:
    values: dict[Value, Value] = {}
    for node in graph.nodes:
        attrs = node.attrs
        if node.op is PARAMETER:
            index, name = attrs.index, attrs.name  # type: ignore[attr-defined]
            values[node.results[0]] = parameter(index, name, _type(node.types[0], numbers))
            continue
        if isinstance(attrs, ConstantAttrs) and type(attrs.value) in (int, float):
            new: Any = dataclasses.replace(attrs, value=next(numbers))
        else:
            new = _with_numbers(attrs, numbers)
        with provenance(node.source):
            made = make_node(node.op, tuple([values[v] for v in node.inputs]), new)
        values.update(zip(node.results, made, strict=True))
    params = [values[p] for p in graph.params]
    return make_graph(graph.name, params, [values[v] for v in graph.outputs])


def with_numbers(linear: Linear, numbers: Sequence[Number]) -> Linear:
    """A pending graph of the same structure with other numbers. The types of results are left out,
    and there are no holders."""
    left = iter(numbers)
    found = Linear()
    found.inputs = [(n, _type(t, left)) for n, t in linear.inputs]
    for op, attrs, operands, source, first, _ in linear.steps:
        new = attrs if isinstance(attrs, ConstantAttrs) else _with_numbers(attrs, left)
        found.steps.append((op, new, operands, source, first, ()))
    found.constants, found.constant_steps = linear.constants, linear.constant_steps
    found.outputs = linear.outputs
    return found


# ---- templates


class Template:
    """Pending graphs of one structure, with numbers that follow from a few sizes.

    `linear` is one of them, `lifted` the constants that are inputs, because they change."""

    def __init__(self, seen: Sequence[tuple[Numbers, Linear]], high: Callable[..., int]) -> None:
        """From graphs of equal skeletons that differ in their numbers. Raises NotGeneral where
        these are no polynomials of at most three sizes."""
        rows = [numbers for numbers, _ in seen]
        self.linear = seen[-1][1]
        num_dims = sum(len(t.shape) for _, t in self.linear.inputs)
        columns = list(zip(*rows, strict=True))
        self.varying = [i for i, c in enumerate(columns) if len(set(c)) > 1]
        self.bases = _bases([(i, columns[i]) for i in self.varying if i < num_dims])
        self.fixed = rows[-1]
        while not self._fits(columns, high):
            pass
        constants = [linear.constants for _, linear in seen]
        self.lifted = [len(set(map(_exactly, c))) > 1 for c in zip(*constants, strict=True)]

    def _fits(self, columns: Sequence[Sequence[Number]], high: Callable[..., int]) -> bool:
        """Find how the numbers follow from the sizes. False where one does not, which then is a
        size too: that of something that no input has."""
        forms: list[tuple[float | None, Expr]] = []
        rest: list[int] = []
        if self.bases:
            values = tuple(zip(*(columns[i] for i in self.bases), strict=True))
            limit = high(*(n for row in values for n in row))
            self.sizes = tuple(size(f"n{k}", 0, limit) for k in range(len(self.bases)))
            fit = Fit(Probes(self.sizes, values), guess=True)  # type: ignore[arg-type]
        for i in self.varying:
            try:
                if not self.bases:
                    raise NotGeneral("what differs are no sizes")
                forms.append(_form(columns[i], fit))
            except NotGeneral:
                rest.append(i)
        sizes = (i for i in rest if all(type(n) is int and n >= 0 for n in columns[i]))
        another = next(sizes, None)
        if rest and another is None:
            raise NotGeneral(f"a number does not follow from sizes: {list(columns[rest[0]])}")
        if another is not None:
            self.bases.append(another)
        if len(self.bases) > MOST_SIZES:
            raise NotGeneral(f"{len(self.bases)} sizes vary")
        if not rest:
            self._forms = _compiled(self.sizes, forms)
        return not rest

    def numbers_at(self, sizes: Sequence[int]) -> list[Number]:
        """All numbers of the graph at these sizes."""
        numbers = list(self.fixed)
        for i, n in zip(self.varying, self._forms(*sizes), strict=True):
            numbers[i] = n
        return numbers

    def at(self, sizes: Sequence[int]) -> Linear:
        """The graph at these sizes."""
        return with_numbers(self.linear, self.numbers_at(sizes))

    def sizes_of(self, numbers: Numbers, constants: Sequence[Scalar]) -> tuple[int, ...] | None:
        """The sizes of a graph of the same structure with these numbers and constants; None if it
        is none of the template's."""
        sizes = tuple([int(numbers[i]) for i in self.bases])
        if numbers != tuple(self.numbers_at(sizes)):
            return None
        for lift, own, given in zip(self.lifted, self.linear.constants, constants, strict=True):
            if not lift and _exactly(own) != _exactly(given):
                return None
        return sizes


def _exactly(x: Scalar) -> object:
    """What tells a constant from others: 0.0 is not -0.0, and 1 not 1.0."""
    return type(x), repr(x)


def _bases(columns: Sequence[tuple[int, tuple[Number, ...]]]) -> list[int]:
    """The dims that stand for sizes: not those that are equal to one before, a multiple of it, or
    by a number apart from it."""
    found: list[tuple[int, tuple[Number, ...]]] = []
    for i, column in columns:
        if not any(_follows(column, base) for _, base in found):
            found.append((i, column))
    return [i for i, _ in found]


def _follows(column: Sequence[Number], base: Sequence[Number]) -> bool:
    apart = {a - b for a, b in zip(column, base, strict=True)}
    ratio = {a / b if b else None for a, b in zip(column, base, strict=True)}
    (only,) = ratio if len(ratio) == 1 else (None,)
    return len(apart) == 1 or (only is not None and float(only).is_integer())


def _form(column: Sequence[Number], fit: Fit) -> tuple[float | None, Expr]:
    """(None, p) for the integers p, (a, p) for the floats a / p."""
    if all(type(n) is int for n in column):
        return None, fit.integer([int(n) for n in column], "a number")
    return fit.quotient([float(n) for n in column])


def _compiled(sizes: Sequence[Size], forms: Sequence[tuple[float | None, Expr]]) -> Any:
    """A function from the sizes to the numbers."""
    texts = [expr_text(e) if top is None else f"{top!r}/({expr_text(e)})" for top, e in forms]
    names = ", ".join(n.name for n in sizes)
    return eval(f"lambda {names}: [{', '.join(texts)}]", {"minimum": min, "maximum": max})

