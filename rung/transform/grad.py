"""Reverse derivatives: each node linearized by its `jvp`, then transposed.

    ȳ ──transpose──▶ x̄        y = f(x), ẏ = J ẋ (jvp, linear in ẋ), x̄ = Jᵀ ȳ

Linearizing and transposing node by node, from the outputs back, gives the program that linearizing
the whole and then transposing it would: the tangents are symbols that vanish again.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.core.errors import GradientError
from rung.ir.node import (
    PARAMETER,
    Graph,
    Node,
    Value,
    keeping_sources,
    make_graph,
    parameter,
    provenance,
    topological_order,
)
from rung.ops.creation import full_like
from rung.transform.jvp import (
    check_inputs,
    check_types,
    derivative_source,
    inlined,
    new_parameters,
    no_derivative,
    node_jvp,
    or_zeros,
    own_jvp,
    region,
)
from rung.transform.transpose import Cotangents, pull_back, transpose_node


@keeping_sources
def vjp_values(
    outputs: Sequence[Value], inputs: Sequence[Value], cotangents: Cotangents
) -> list[Value | None]:
    """The cotangents of `inputs` (any float values that `outputs` are made from) when `outputs`
    have `cotangents`; None stands for zero, and for an input that no output depends on.

    Raises GradientError for an input that is not a float, and for a node without a derivative on
    the way; ShapeError for a cotangent that has not the type of its output."""
    check_inputs("vjp", inputs)
    check_types("vjp", "cotangent", outputs, cotangents)
    return pull_back(topological_order(outputs), outputs, inputs, cotangents, vjp_node)


def vjp_node(node: Node, cotangents: Cotangents, wanted: Sequence[int]) -> Cotangents:
    """The cotangents of the operands `wanted` of any differentiable node: by `transpose` where it
    is linear, by `jvp` and transposing that where it is not, by its body where it has neither."""
    op = node.op
    if op.vjp is not None:
        with provenance(derivative_source(node.source, "vjp")):
            return op.vjp(node.attrs, node.inputs, cotangents, wanted)
    linear = [i for i in wanted if i in op.linear] if op.transpose is not None else []
    others = [i for i in wanted if i not in linear]
    found: dict[int, Value | None] = {}
    if others and op.jvp is None and own_jvp(node) is None:
        if op.decompose is None:
            raise no_derivative(node)
        return _by_body(node, cotangents, wanted)
    if linear:
        found.update(zip(linear, transpose_node(node, cotangents, linear), strict=True))
    if others:
        found.update(zip(others, _linearized(node, cotangents, others), strict=True))
    return [found[i] for i in wanted]


def _by_body(node: Node, cotangents: Cotangents, wanted: Sequence[int]) -> Cotangents:
    """By what `node` decomposes to. There an operand is a value, whose cotangent is that of all
    the places where it stands together: it is given to the first of them."""
    body = inlined(node)
    operands = list(dict.fromkeys(node.inputs[i] for i in wanted))
    found = pull_back(region(body, node.inputs), body, operands, cotangents, vjp_node)
    totals = dict(zip(operands, found, strict=True))
    return [totals.pop(node.inputs[i], None) for i in wanted]


def _linearized(node: Node, cotangents: Cotangents, wanted: Sequence[int]) -> Cotangents:
    symbols = {i: parameter(i, "tangent", node.inputs[i].type) for i in wanted}
    tangents = node_jvp(node, [symbols.get(i) for i in range(len(node.inputs))])
    pairs = [
        (t, ct)
        for t, ct in zip(tangents, cotangents, strict=True)
        if t is not None and ct is not None
    ]
    outputs, inputs = [t for t, _ in pairs], list(symbols.values())
    order = region(outputs, (*node.inputs, *node.results, *inputs))
    return pull_back(order, outputs, inputs, [ct for _, ct in pairs], transpose_node)


def vjp_graph(graph: Graph, wrt: Sequence[int]) -> Graph:
    """`graph` with its reverse derivative: parameters (parameters…, a cotangent for each float
    output), outputs (outputs…, a gradient for each of `wrt`)."""
    floats = [v for v in graph.outputs if v.dtype.is_float]
    cotangents = new_parameters(graph, floats, "ct_")
    return _with_gradients(graph, wrt, floats, cotangents, "vjp")


def grad_graph(graph: Graph, wrt: Sequence[int], output: int = 0) -> Graph:
    """`graph` with the gradients of its scalar float output number `output`: outputs (outputs…, a
    gradient for each parameter of `wrt`). A gradient that is zero is zeros. Raises GradientError
    if the output is not a scalar float, or a parameter of `wrt` is not a float."""
    loss = graph.outputs[output]
    if loss.shape != () or not loss.dtype.is_float:
        raise GradientError(
            f"grad: output {output} of {graph.name} is {loss.type}, not a float scalar",
            source=loss.node.source if loss.node.source.line else None,
            fix="reduce it to one number, e.g. by mean or sum",
        )
    with provenance(derivative_source(loss.node.source, "transpose")):
        one = full_like(loss, 1)
    return _with_gradients(graph, wrt, [loss], [one], "grad")


def _with_gradients(
    graph: Graph, wrt: Sequence[int], outputs: list[Value], cotangents: list[Value], name: str
) -> Graph:
    inputs = [graph.params[i] for i in wrt]
    found = vjp_values(outputs, inputs, cotangents)
    gradients = [or_zeros(g, v) for g, v in zip(found, inputs, strict=True)]
    extra = [c for c in cotangents if c.node.op is PARAMETER]
    return make_graph(f"{graph.name}_{name}", (*graph.params, *extra), (*graph.outputs, *gradients))
