"""Long reductions to few results are done in two steps, so that all threads take part.

    y[c] = sum over 3072 rows of x[row, c]     ->     p[16, c] = sums over 192 rows each
                                                      y[c] = sum over p[16, c]

A graph rewrite: the partial results are a reduction of a reshape. How many parts there are depends
on the shape alone, so results do not depend on the number of threads. Parts of 16-bit floats are
kept in f32, so that what is rounded or leaves the range on the way does not show.

A scatter_add of many terms for each place is cut into parts as well, each with a target of its own,
because the terms of a place come in any order. Single elements of f32 are added up in f64 instead.
"""

from __future__ import annotations

from math import prod

from rung.core.dtype import accumulator, float32, float64
from rung.ir.node import PARAMETER, Graph, Node, Value, make_graph, provenance
from rung.ir.op import Attrs
from rung.ops.broadcast import reduce_sum, reshape
from rung.ops.creation import full
from rung.ops.elementwise import cast
from rung.ops.families import add
from rung.ops.indexing import BatchAttrs, scatter_add
from rung.ops.movement import cut

REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_any", "reduce_all")
MIN_ELEMENTS = 1 << 15
"""Elements from which a reduction is worth sharing out."""
PARTS = 16
"""Parts aimed at."""
ENOUGH_RESULTS = 4096
"""Results per part above which there are enough to share out as they are."""


TERMS_AT_PLACE = 64
"""Terms that a place of a scatter gets on average in one part. The targets of all parts together
are that much smaller than the updates."""
LEAST_PART = 128
"""Terms from which on a part of a scatter is worth a target of its own."""


def split_reductions(graph: Graph) -> Graph:
    """`graph` with long reductions over leading dims, or over all dims, in two steps, and long sums
    of scatters in parts."""
    values: dict[Value, Value] = {}
    changed = False
    for node in graph.nodes:
        inputs = tuple(values.get(v, v) for v in node.inputs)
        parts = _parts(node)
        if parts > 1:
            changed = True
            values[node.results[0]] = _in_two_steps(node, inputs[0], parts)
        elif (parts := _scatter_parts(node)) > 1:
            changed = True
            values[node.results[0]] = _scatter_in_parts(node, inputs, parts)
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


def _scatter_parts(node: Node) -> int:
    """Into how many parts a sum of updates is cut; 1 = not."""
    if node.op is not scatter_add or not node.results[0].type.dtype.is_float:
        return 1
    x, index, updates = (v.type for v in node.inputs)
    if node.attrs != BatchAttrs() or not x.size or not updates.size:
        return 1
    number, places = prod(index.shape[:-1]), prod(x.shape[: index.shape[-1]])
    return max(number // max(TERMS_AT_PLACE * places, LEAST_PART), 1)


def _scatter_in_parts(node: Node, inputs: tuple[Value, ...], parts: int) -> Value:
    x, index, updates = inputs
    k = index.shape[-1]
    rest = x.shape[k:]
    number = prod(index.shape[:-1])
    with provenance(node.source):
        if x.dtype is float32 and not prod(rest) > 1:
            total = scatter_add(cast(x, dtype=float64), index, cast(updates, dtype=float64))
            return cast(total, dtype=float32)
        index, updates = reshape(index, shape=(number, k)), reshape(updates, shape=(number, *rest))
        length = number // parts
        done = parts * length
        if done < number:
            x = scatter_add(x, cut(index, 0, done, number), cut(updates, 0, done, number))
        found = scatter_add(
            full((parts, *x.shape), 0, x.dtype),
            reshape(cut(index, 0, 0, done), shape=(parts, length, k)),
            reshape(cut(updates, 0, 0, done), shape=(parts, length, *rest)),
            batch_dims=1,
        )
        return add(x, reduce_sum(found, dims=(0,)))


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
