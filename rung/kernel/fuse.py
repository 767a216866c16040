"""From a graph to kernels: naive loop nests, one for each group of nodes that share one.

A `rows` group becomes

    for r in range(rows):
        for c in ...: first level   (everything that needs no reduction of this group)
        for c in ...: second level  (what needs the results of the first level's reductions)

so that what a row produces is still in the cache, or in registers, when it is used. A `contract`
group is the loop nest of a sum of products with its element-wise epilogue innermost.
"""

from __future__ import annotations

from dataclasses import dataclass

from rung.ir.node import Graph, Node, Value
from rung.kernel.group import Grouping, Storage
from rung.kernel.group_nest import GroupNest
from rung.kernel.loop import Buffer
from rung.kernel.naming import KernelCall


@dataclass(frozen=True, eq=False)
class FusedGraph:
    """Kernels in execution order. `outputs[k]` is the value whose memory holds output k: a
    parameter or array constant, or a value that exactly one call writes."""

    calls: tuple[KernelCall, ...]
    outputs: tuple[Value, ...]


def fuse(graph: Graph) -> FusedGraph:
    """The naive kernels of a primitive graph."""
    storage = Storage(graph)
    grouping = Grouping(storage)
    readers = stored_readers(storage)
    calls = [GroupNest(storage, grouping, g, readers).build() for g in grouping.ordered()]
    buffers = [storage.elements.memory(v) for v in graph.outputs]
    owners = tuple(storage.elements.owner(b) for b in buffers if b is not None)
    return FusedGraph(tuple(calls), owners)


def stored_readers(storage: Storage) -> dict[Value, list[Node]]:
    """For each stored value, the stored nodes that read it."""
    found: dict[Value, list[Node]] = {}
    for node in storage.stored:
        body = storage.bodies[node]
        buffers = [r.source for r in body.reads]
        if body.form.opaque:
            buffers += [storage.elements.memory(v) for v in node.inputs]  # type: ignore[misc]
        for b in dict.fromkeys(buffers):
            if isinstance(b, Buffer):
                found.setdefault(storage.elements.owner(b), []).append(node)
    return found
