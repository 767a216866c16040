"""Values, nodes and graphs: immutable and hash-consed (equal ones are the same object).

Identity of a node is op, inputs, attributes and source; of a graph its name, parameters and
outputs. So `parse(print(g)) is g`, and a node is shared only where its line is shared; merging
equal computations of different lines is the `cse` pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar
from weakref import ReferenceType, WeakValueDictionary, ref

import numpy as np

from rung.core.errors import GraphError
from rung.core.source import NOWHERE, Source, user_source
from rung.ir import op as op_module
from rung.ir.op import NO_ATTRS, Attrs, Cost, LoopForm, Op
from rung.ir.types import TensorType

P = ParamSpec("P")
R = TypeVar("R")

class Value:
    """Result `index` of `node`; operators are those of the op records, so use those to compute."""

    __slots__ = ("__weakref__", "index", "node", "type")

    def __init__(self, node: Node, index: int, type: TensorType) -> None:
        self.node = node
        self.index = index
        self.type = type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> Any:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<{self.node.op.name} {self.type}>"


class Node:
    """An application of `op`. Made by `make_node` only.

    It refers to its values weakly (they refer to it), so that a graph is freed, with the buffers
    that its leaves hold, as soon as nobody refers to a value of it, without the cycle collector.
    """

    __slots__ = ("__weakref__", "_values", "attrs", "inputs", "op", "source", "types", "watched")

    op: Op
    inputs: tuple[Value, ...]
    attrs: Attrs
    source: Source
    types: tuple[TensorType, ...]
    watched: bool
    """In a pending graph: a derivative may be asked with respect to what the node is made from."""
    _values: list[ReferenceType[Value] | None]

    def __init__(
        self,
        op: Op,
        inputs: tuple[Value, ...],
        attrs: Attrs,
        source: Source,
        types: tuple[TensorType, ...],
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.source = source
        self.types = types
        self.watched = True
        self._values = [None] * len(types)

    @property
    def results(self) -> tuple[Value, ...]:
        """The node's values; at any time at most one object stands for each."""
        if len(self.types) == 1:
            kept = self._values[0]
            found = None if kept is None else kept()
            if found is None:
                found = Value(self, 0, self.types[0])
                self._values[0] = ref(found)
            return (found,)
        return tuple(map(self._value, range(len(self.types))))

    def _value(self, index: int) -> Value:
        kept = self._values[index]
        found = None if kept is None else kept()
        if found is None:
            found = Value(self, index, self.types[index])
            self._values[index] = ref(found)
        return found

    def __repr__(self) -> str:
        return f"<node {self.op.name} {', '.join(map(str, self.types))}>"


_nodes: WeakValueDictionary[tuple[object, ...], Node] = WeakValueDictionary()


class _Here(threading.local):
    """The sources that this thread gives to nodes instead of lines, the last one in force."""

    def __init__(self) -> None:
        self.sources: list[Source] = []


_here = _Here()


class provenance:
    """Context manager: nodes made inside carry `source` instead of the line being executed.

    Its end may be interrupted before it has begun: functions that are not called by others of this
    package, and use it, are `keeping_sources`."""

    __slots__ = ("source",)

    def __init__(self, source: Source) -> None:
        self.source = source

    def __enter__(self) -> None:
        _here.sources.append(self.source)

    def __exit__(self, *_: object) -> None:
        _here.sources.pop()


def sources() -> list[Source]:
    """The sources in force in this thread, the last one before the others. Who adds one takes what
    is there too much away (`del sources[depth:]`) whatever happens."""
    return _here.sources


def keeping_sources(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, after which the sources in force are those before it, also where the end of a
    block in it was interrupted."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        there = _here.sources
        depth = len(there)
        try:
            return function(*args, **kwargs)
        finally:
            del there[depth:]

    return call


def current_source() -> Source:
    """What a node made now would carry: the `provenance` in force, else the line being executed."""
    there = _here.sources
    return there[-1] if there else user_source()


def make_node(op: Op, inputs: tuple[Value, ...], attrs: Attrs = NO_ATTRS) -> tuple[Value, ...]:
    """The interned node's values. Attributes that are left out take their defaults.

    Raises the typed errors of the op's `type` rule."""
    source = current_source()
    key = (op, inputs, attrs, source)
    found = _nodes.get(key)
    if found is not None:
        return found.results
    if op.arity is not None and len(inputs) != op.arity:
        raise GraphError(f"{op.name}: takes {op.arity} operands, got {len(inputs)}")
    if type(attrs) is not op.attrs:
        if attrs is NO_ATTRS and (default := _default_attrs(op)) is not None:
            return make_node(op, inputs, default)
        given, wanted = type(attrs).__name__, op.attrs.__name__
        raise GraphError(f"{op.name}: attributes are {given}, not {wanted}")
    types = op.type(attrs, [v.type for v in inputs])
    node = Node(op, inputs, attrs, source, types)
    _nodes[key] = node
    return node.results


@cache
def _default_attrs(op: Op) -> Attrs | None:
    """The attributes of an op that has a default for each, else None."""
    try:
        return op.attrs()
    except TypeError:
        return None


op_module._maker[:] = [make_node]


@dataclass(frozen=True)
class ParameterAttrs(Attrs):
    """Position, name and type of a graph parameter."""

    index: int
    name: str
    type: TensorType


def _parameter_ref(attrs: Attrs, operands: Sequence[np.ndarray[Any, Any]]) -> Any:
    raise GraphError("parameter: has no value of its own; run the graph with arguments")


PARAMETER = Op(
    name="parameter",
    family="creation",
    arity=0,
    type=lambda attrs, _: (attrs.type,),  # type: ignore[attr-defined]
    ref=_parameter_ref,
    axes=lambda attrs, _: LoopForm(()),
    cost=lambda attrs, ins, outs: Cost(0, 0),
    doc="A value that is given when the graph is run.",
    attrs=ParameterAttrs,
    blank={"jvp": "a leaf", "transpose": "a leaf", "emit": "a buffer", "samples": "a leaf"},
)


def parameter(index: int, name: str, type: TensorType) -> Value:
    """Graph parameter number `index`."""
    with provenance(NOWHERE):
        return make_node(PARAMETER, (), ParameterAttrs(index, name, type))[0]


class Graph:
    """A function from parameters to outputs; interned, so equal graphs are the same object."""

    __slots__ = ("__weakref__", "_order", "name", "outputs", "params")

    name: str
    params: tuple[Value, ...]
    outputs: tuple[Value, ...]
    _order: tuple[Node, ...] | None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes that the outputs need, operands before users, parameters first."""
        if self._order is None:
            self._order = topological_order(self.outputs, self.params)
        return self._order

    def __repr__(self) -> str:
        params = ", ".join(str(p.type) for p in self.params)
        return f"<graph {self.name}({params}) -> {', '.join(str(v.type) for v in self.outputs)}>"


_graphs: WeakValueDictionary[tuple[object, ...], Graph] = WeakValueDictionary()


def make_graph(name: str, params: Iterable[Value], outputs: Iterable[Value]) -> Graph:
    """The interned graph. Raises GraphError if `params` are not parameters 0, 1, … in order, or an
    output needs a parameter that is not among them."""
    params, outputs = tuple(params), tuple(outputs)
    for i, p in enumerate(params):
        attrs = p.node.attrs
        if not isinstance(attrs, ParameterAttrs) or attrs.index != i:
            raise GraphError(f"graph {name}: parameter {i} is {p!r}, not parameter number {i}")
    key = (name, params, outputs)
    found = _graphs.get(key)
    if found is None:
        found = Graph()
        found.name, found.params, found.outputs, found._order = name, params, outputs, None
        for node in found.nodes:
            if node.op is PARAMETER and node.results[0] not in params:
                raise GraphError(f"graph {name}: {node.attrs} is used but not a parameter")
        _graphs[key] = found
    return found


def topological_order(outputs: Iterable[Value], first: Iterable[Value] = ()) -> tuple[Node, ...]:
    """Nodes reachable from `outputs`, operands before users, those of `first` in front; stable."""
    order: list[Node] = []
    done: set[Node] = set()
    for v in first:
        if v.node not in done:
            done.add(v.node)
            order.append(v.node)
    for output in outputs:
        stack: list[tuple[Node, Iterator[Value]]] = [(output.node, iter(output.node.inputs))]
        if output.node in done:
            continue
        entered = {output.node}
        while stack:
            node, inputs = stack[-1]
            for v in inputs:
                if v.node not in done and v.node not in entered:
                    entered.add(v.node)
                    stack.append((v.node, iter(v.node.inputs)))
                    break
            else:
                stack.pop()
                done.add(node)
                order.append(node)
    return tuple(order)


def users(graph: Graph) -> dict[Value, list[Node]]:
    """For each value of the graph, the nodes that read it (once per node), in order."""
    found: dict[Value, list[Node]] = {r: [] for node in graph.nodes for r in node.results}
    for node in graph.nodes:
        for v in dict.fromkeys(node.inputs):
            found[v].append(node)
    return found
