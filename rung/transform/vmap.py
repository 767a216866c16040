"""Programs for many examples at once: one more parallel axis through every node.

The axis is the first dim of each value that has it. A node none of whose operands has it is left
alone. Any other becomes the same op with `attrs.with_axis`, its operands repeated where they lack
the axis; an op for which that will not do says so in its record (`batch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rung.core.errors import GraphError
from rung.ir.node import (
    Graph,
    Node,
    Value,
    keeping_sources,
    make_graph,
    parameter,
    provenance,
    topological_order,
)
from rung.ir.types import TensorType
from rung.ops.batching import all_with_axis
from rung.ops.composite import COMPOSITE
from rung.transform.jvp import derivative_source, inlined, parameter_name, region


@keeping_sources
def batch_values(
    outputs: Sequence[Value], examples: Mapping[Value, Value], size: int
) -> list[Value | None]:
    """`outputs`, computed for many examples: `examples` gives for values of one example those of
    all, with an axis of `size` in front. None for an output that depends on none of them."""
    known = dict(examples)
    _push(topological_order(outputs), known, size)
    return [known.get(v) for v in outputs]


def _push(order: Sequence[Node], known: dict[Value, Value], size: int) -> None:
    """Add to `known` what the nodes of `order` (operands before users) are for many examples."""
    for node in order:
        batched = [v in known for v in node.inputs]
        if any(batched) and node.results[0] not in known:
            inputs = [known.get(v, v) for v in node.inputs]
            known.update(zip(node.results, batch_node(node, inputs, batched, size), strict=True))


def batch_node(
    node: Node, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value]:
    """The results of `node` on `inputs`, of which those of `batched` have the axis."""
    op = node.op
    if op is COMPOSITE:
        return _batch_body(node, inputs, batched, size)
    with provenance(derivative_source(node.source, "vmap")):
        if op.batch is not None:
            return op.batch(node.attrs, inputs, batched, size)
        results = op.build(all_with_axis(inputs, batched, size), node.attrs.with_axis(size))
    if any(r.shape != (size, *old.shape) for r, old in zip(results, node.results, strict=True)):
        raise GraphError(
            f"{op.name}: has no rule for a parallel axis: {node.attrs}", source=node.source
        )
    return results


def _batch_body(
    node: Node, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value]:
    body = inlined(node)
    known = {v: new for v, new, has in zip(node.inputs, inputs, batched, strict=True) if has}
    _push(region(body, node.inputs), known, size)
    return [all_with_axis([known.get(v, v)], [v in known], size)[0] for v in body]


def vmap_graph(graph: Graph, batched: Sequence[int], size: int) -> Graph:
    """`graph` for `size` examples: parameters `batched` and all outputs get an axis in front."""
    types = [p.type for p in graph.params]
    for i in batched:
        types[i] = TensorType(types[i].dtype, (size, *types[i].shape))
    params = [
        parameter(i, parameter_name(p), type)
        for i, (p, type) in enumerate(zip(graph.params, types, strict=True))
    ]
    known = {graph.params[i]: params[i] for i in batched}
    found = batch_values(graph.outputs, known, size)
    outputs = [
        all_with_axis([v if b is None else b], [b is not None], size)[0]
        for v, b in zip(graph.outputs, found, strict=True)
    ]
    return make_graph(f"{graph.name}_vmap", params, outputs)
