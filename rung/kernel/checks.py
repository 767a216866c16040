"""The checks of a graph as numbers that its program writes beside its outputs.

    i = check_range(j, low=0, high=9)            i = check_range(j, low=0, high=9)
    y = take(x, i)                          ->   y = take(x, i)
    return y                                     return y, fault(j)

The check itself is another name for `j`. Its fault, a reduction like any other, is looked at by the
runtime: once at the end of a run, and before the first kernel that writes over memory that somebody
can see, so that a run that fails leaves that as it was.
"""

from __future__ import annotations

from rung.ir.node import Graph, Node, make_graph, provenance
from rung.ops.check import RangeAttrs, check_range, fault


def with_faults(graph: Graph) -> tuple[Graph, tuple[Node, ...]]:
    """`graph` with the fault of each check as a further output, and these checks in order."""
    checks = tuple(n for n in graph.nodes if n.op is check_range and n.types[0].size)
    if not checks:
        return graph, ()
    found = []
    for node in checks:
        assert isinstance(node.attrs, RangeAttrs)
        with provenance(node.source):
            found.append(fault(node.attrs, node.inputs))
    return make_graph(graph.name, graph.params, (*graph.outputs, *found)), checks
