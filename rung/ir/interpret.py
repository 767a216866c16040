"""The meaning of a graph: every node computed by the `ref` column of its op, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rung.core.errors import GraphError, LoweringError, RungError
from rung.core.source import NOWHERE
from rung.ir.node import Graph, Node, Value, make_graph, parameter, provenance
from rung.ir.op import Array, Attrs, Op, RefRule
from rung.ir.types import TensorType, array_type

Decompose = Callable[[Attrs, Sequence[Value]], Sequence[Value]]


def interpret(graph: Graph, args: Sequence[Array]) -> list[Array]:
    """The outputs of `graph` for `args`: one array per parameter, of its dtype and shape.

    A value is let go after its last use. Raises GraphError if an argument or a result of a `ref`
    has another type than the graph says."""
    values: dict[Value, Array] = {}
    if len(args) != len(graph.params):
        raise GraphError(
            f"graph {graph.name}: takes {len(graph.params)} arguments, got {len(args)}"
        )
    for p, arg in zip(graph.params, args, strict=True):
        values[p] = _checked(
            np.asarray(arg), p.type, f"graph {graph.name}: argument {p.node.attrs}"
        )
    last_use = last_uses(graph)
    kept = set(graph.outputs)
    for number, node in enumerate(graph.nodes):
        if node.results[0] not in values:
            operands = [values[v] for v in node.inputs]
            values.update(zip(node.results, evaluate(node, operands), strict=True))
        for v in (*node.inputs, *node.results):
            if last_use.get(v, number) <= number and v not in kept:
                values.pop(v, None)
    return [values[v] for v in graph.outputs]


def evaluate(node: Node, operands: Sequence[Array]) -> tuple[Array, ...]:
    """The results of one node for operand arrays, checked against its types. What `ref` raises as
    a RungError names the line of the node."""
    try:
        results = node.op.ref(node.attrs, operands)
    except RungError as e:
        raise e.at(node.source) from None
    if len(results) != len(node.results):
        raise GraphError(f"{node.op.name}: ref gives {len(results)} of {len(node.results)} results")
    return tuple(
        _checked(np.asarray(a), v.type, f"{node.op.name}: result {v.index} of ref")
        for a, v in zip(results, node.results, strict=True)
    )


def _checked(array: Array, type: TensorType, what: str) -> Array:
    if array.shape != type.shape or array.dtype != type.dtype.numpy:
        raise GraphError(f"{what} is {array.dtype}{list(array.shape)}, not {type}")
    return array


def last_uses(graph: Graph) -> dict[Value, int]:
    """For each value that is read, the position in `graph.nodes` of the last node that reads it."""
    return {v: number for number, node in enumerate(graph.nodes) for v in node.inputs}


# ---- bodies of composites


@lru_cache(maxsize=4096)
def op_body(op: Op, attrs: Attrs, types: tuple[TensorType, ...]) -> Graph:
    """What `op` decomposes to, as a graph over operands of the given types. Raises LoweringError
    for an op without `decompose`."""
    if op.decompose is None:
        raise LoweringError(f"{op.name}: is a primitive and has no body")
    return body_graph(op.name, op.decompose, attrs, types)


def body_graph(name: str, decompose: Decompose, attrs: Attrs, types: Sequence[TensorType]) -> Graph:
    """The graph that `decompose(attrs, operands)` builds for operands of the given types."""
    params = [parameter(i, f"x{i}", t) for i, t in enumerate(types)]
    with provenance(NOWHERE):
        return make_graph(name, params, decompose(attrs, params))


def body_reference(name: str, decompose: Decompose) -> RefRule:
    """The `ref` column of a composite: its body, interpreted."""

    def ref(attrs: Attrs, operands: Sequence[np.ndarray[Any, Any]]) -> tuple[Array, ...]:
        types = [array_type(a) for a in operands]
        return tuple(interpret(body_graph(name, decompose, attrs, types), operands))

    return ref
