"""Forward derivatives: tangents of outputs from tangents of inputs.

A tangent has the type of its value; None stands for zero. Each node made here carries the source
of the node it differentiates, via `jvp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from rung.core.errors import GradientError, ShapeError
from rung.core.source import Source
from rung.ir.node import (
    Graph,
    Node,
    ParameterAttrs,
    Value,
    keeping_sources,
    make_graph,
    parameter,
    provenance,
    topological_order,
)
from rung.ops.composite import CompositeAttrs, inline
from rung.ops.creation import zeros_like
from rung.ops.families import sum_of
from rung.ops.shorthand import as_type, wide

Tangents = Sequence[Value | None]
COMPUTING = ("elementwise", "reduction", "cumulative")
"""Families whose derivatives are formulas, not movements of elements."""


@keeping_sources
def jvp_values(
    outputs: Sequence[Value], inputs: Sequence[Value], tangents: Tangents
) -> list[Value | None]:
    """The tangents of `outputs` when `inputs` have `tangents` (one each, None = zero).

    Raises GradientError for an input that is not a float, and for a node without a derivative on
    the way; ShapeError for a tangent that has not the type of its input."""
    check_inputs("jvp", inputs)
    check_types("jvp", "tangent", inputs, tangents)
    return push_forward(topological_order(outputs), outputs, inputs, tangents)


@keeping_sources
def push_forward(
    order: Sequence[Node], outputs: Sequence[Value], inputs: Sequence[Value], tangents: Tangents
) -> list[Value | None]:
    """The tangents of `outputs`, by the nodes of `order` (operands before users)."""
    given = dict(zip(inputs, tangents, strict=True))
    known = {v: t for v, t in given.items() if t is not None}
    for node in order:
        operands = [known.get(v) for v in node.inputs]
        if any(t is not None for t in operands):
            made = zip(node.results, node_jvp(node, operands), strict=True)
            known.update((r, t) for r, t in made if t is not None and r not in given)
    return [known.get(v) for v in outputs]


def region(outputs: Sequence[Value], boundary: Sequence[Value]) -> list[Node]:
    """The nodes that `outputs` need beyond the nodes of `boundary`, operands before users."""
    edge = {v.node for v in boundary}
    return [node for node in topological_order(outputs, boundary) if node not in edge]


def node_jvp(node: Node, tangents: Tangents) -> tuple[Value | None, ...]:
    """The tangents of the results of `node` from those of its operands."""
    op = node.op
    if not any(r.dtype.is_float for r in node.results):
        return (None,) * len(node.results)
    with provenance(derivative_source(node.source, "jvp")):
        if op.jvp is not None:
            return _ruled_jvp(node, tangents)
        moving = [i for i, t in enumerate(tangents) if t is not None]
        if op.linear and all(i in op.linear for i in moving):
            return _joint_jvp(node, tangents) if op.joint else _product_jvp(node, tangents, moving)
        rule = own_jvp(node)
        if rule is not None:
            filled = [or_zeros(t, v) for t, v in zip(tangents, node.inputs, strict=True)]
            return inline(rule, (*node.inputs, *node.results, *filled))
    if op.decompose is None:
        raise no_derivative(node)
    body = inlined(node)
    return tuple(push_forward(region(body, node.inputs), body, node.inputs, tangents))


def _ruled_jvp(node: Node, tangents: Tangents) -> tuple[Value | None, ...]:
    """The tangents by the rule of the op. What it computes of 16-bit floats it computes in f32: the
    square of 300 in the slope of an arc tangent would be infinite."""
    op = node.op
    assert op.jvp is not None
    computes = op.axes is not None and op.family in COMPUTING and not op.joint
    if not computes or all(wide(v) is v for v in (*node.inputs, *node.results)):
        return op.jvp(node.attrs, node.inputs, node.results, tangents)
    inputs, results = [wide(v) for v in node.inputs], [wide(v) for v in node.results]
    moved = [None if t is None else wide(t) for t in tangents]
    found = op.jvp(node.attrs, inputs, results, moved)
    return tuple(
        None if t is None else as_type(t, r.dtype)
        for t, r in zip(found, node.results, strict=True)
    )


def own_jvp(node: Node) -> Graph | None:
    """The rule for tangents that a composite has of its own."""
    return node.attrs.jvp if isinstance(node.attrs, CompositeAttrs) else None


def _joint_jvp(node: Node, tangents: Tangents) -> tuple[Value | None, ...]:
    linear = node.op.linear
    operands = [
        v if i not in linear else zeros_like(v) if t is None else t
        for i, (v, t) in enumerate(zip(node.inputs, tangents, strict=True))
    ]
    return node.op.build(operands, node.attrs)


def _product_jvp(node: Node, tangents: Tangents, moving: list[int]) -> tuple[Value | None, ...]:
    parts: list[tuple[Value, ...]] = []
    for i in moving:
        operands: list[Value | None] = list(node.inputs)
        operands[i] = tangents[i]
        parts.append(node.op.build(operands, node.attrs))  # type: ignore[arg-type]
    return tuple(sum_of(terms) for terms in zip(*parts, strict=True))


def inlined(node: Node) -> tuple[Value, ...]:
    """What `node` decomposes to, on its own operands: the very nodes that decomposing it makes."""
    assert node.op.decompose is not None
    with provenance(node.source):
        return tuple(node.op.decompose(node.attrs, node.inputs))


def jvp_graph(graph: Graph, wrt: Sequence[int]) -> Graph:
    """`graph` with its tangents: parameters (parameters…, a tangent for each of `wrt`), outputs
    (outputs…, a tangent for each float output, zeros where it does not depend on `wrt`)."""
    inputs = [graph.params[i] for i in wrt]
    check_inputs("jvp", inputs)
    tangents = new_parameters(graph, inputs, "d_")
    floats = [v for v in graph.outputs if v.dtype.is_float]
    found = jvp_values(floats, inputs, tangents)
    filled = [or_zeros(t, v) for t, v in zip(found, floats, strict=True)]
    return make_graph(f"{graph.name}_jvp", (*graph.params, *tangents), (*graph.outputs, *filled))


# ---- shared with reverse mode


@lru_cache(maxsize=1 << 16)
def derivative_source(source: Source, via: str) -> Source:
    """`source.with_via(via)`, remembered."""
    return source.with_via(via)


def parameter_name(v: Value) -> str:
    """The name of a graph parameter, the op of any other value."""
    attrs = v.node.attrs
    return attrs.name if isinstance(attrs, ParameterAttrs) else v.node.op.name


def new_parameters(graph: Graph, like: Iterable[Value], prefix: str) -> list[Value]:
    """Parameters that follow those of `graph`, of the types of `like`."""
    first = len(graph.params)
    return [parameter(first + k, prefix + parameter_name(v), v.type) for k, v in enumerate(like)]


def or_zeros(derivative: Value | None, v: Value) -> Value:
    """The derivative, or zeros of the type of `v` for None."""
    if derivative is not None:
        return derivative
    with provenance(derivative_source(v.node.source, "zero")):
        return zeros_like(v)


def no_derivative(node: Node) -> GradientError:
    """The error for a node that has no derivative rule."""
    why = node.op.blank.get("jvp", "no derivative is known")
    return GradientError(
        f"{node.op.name}: has no derivative: {why}",
        source=node.source,
        fix="keep the op off the differentiated path, or stop the gradient before it",
    )


def check_inputs(transform: str, inputs: Iterable[Value]) -> None:
    """Raise GradientError for an input that is not a float."""
    for i, v in enumerate(inputs):
        if not v.dtype.is_float:
            raise GradientError(
                f"{transform}: input {i} ({parameter_name(v)}) is {v.type}; "
                "only floats have a derivative",
                source=v.node.source if v.node.source.line else None,
                fix="leave it out of the inputs, or cast it to a float before",
            )


def check_types(transform: str, what: str, values: Sequence[Value], derivatives: Tangents) -> None:
    """Raise ShapeError unless there is one derivative (or None) per value, of its type."""
    if len(values) != len(derivatives):
        raise ShapeError(f"{transform}: {len(values)} values, but {len(derivatives)} {what}s")
    for i, (v, d) in enumerate(zip(values, derivatives, strict=True)):
        if d is not None and d.type != v.type:
            raise ShapeError(f"{transform}: {what} {i} is {d.type}, but its value is {v.type}")
