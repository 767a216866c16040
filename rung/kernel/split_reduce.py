"""Long reductions to few results are done in two steps, so that all threads take part.

    y[c] = sum over 3072 rows of x[row, c]     ->     p[16, c] = sums over 192 rows each
                                                      y[c] = sum over p[16, c]

A graph rewrite: the partial results are a reduction of a reshape. How many parts there are depends
on the shape alone, so results do not depend on the number of threads."""

from __future__ import annotations

from math import prod

from rung.core.dtype import accumulator
from rung.ir.node import PARAMETER, Graph, Node, Value, make_graph, provenance
from rung.ir.op import Attrs
from rung.ops.broadcast import reshape
from rung.ops.elementwise import cast

REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_any", "reduce_all")
MIN_ELEMENTS = 1 << 15
"""Elements from which a reduction is worth sharing out."""
PARTS = 16
"""Parts aimed at."""
ENOUGH_RESULTS = 4096
"""Results per part above which there are enough to share out as they are."""


def split_reductions(graph: Graph) -> Graph:
    """`graph` with long reductions over leading dims, or over all dims, in two steps."""
    values: dict[Value, Value] = {}
    changed = False
    for node in graph.nodes:
        inputs = tuple(values.get(v, v) for v in node.inputs)
        parts = _parts(node)
        if parts > 1:
            changed = True
            values[node.results[0]] = _in_two_steps(node, inputs[0], parts)
        elif inputs != node.inputs:
            with provenance(node.source):
                new = node.op.build(inputs, node.attrs)
            values.update(zip(node.results, new, strict=True))
    if not changed:
        return graph
    return make_graph(graph.name, graph.params, [values.get(v, v) for v in graph.outputs])


def _parts(node: Node) -> int:
    """Into how many parts a node is split; 1 = not."""
    if node.op is PARAMETER or node.op.name not in REDUCTIONS:
        return 1
    x, dims = node.inputs[0].type, _dims(node.attrs)
    leading = dims == tuple(range(len(dims)))
    results = x.size // max(prod(x.shape[d] for d in dims), 1)
    if not leading or x.size < MIN_ELEMENTS or results > ENOUGH_RESULTS:
        return 1
    rows = prod(x.shape[: len(dims)])
    return max((p for p in range(1, 2 * PARTS + 1) if rows % p == 0 and rows // p >= 8), default=1)


def _dims(attrs: Attrs) -> tuple[int, ...]:
    dims: tuple[int, ...] = attrs.dims  # type: ignore[attr-defined]
    return dims


def _in_two_steps(node: Node, x: Value, parts: int) -> Value:
    dims = _dims(node.attrs)
    rest = x.shape[len(dims) :]
    rows = prod(x.shape[: len(dims)])
    kind = type(node.attrs)
    narrow = x.type.dtype
    with provenance(node.source):
        wide = x if accumulator(narrow) is narrow else cast(x, dtype=accumulator(narrow))
        split = reshape(wide, shape=(parts, rows // parts, *rest))
        partial = node.op(split, attrs=kind(dims=(1,)))  # type: ignore[call-arg]
        total = node.op(partial, attrs=kind(dims=(0,)))  # type: ignore[call-arg]
        return total if wide is x else cast(total, dtype=narrow)
