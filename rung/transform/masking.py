"""Checks that count only where a condition holds.

Where branches are computed for all examples and chosen afterwards, or examples stay in a loop that
they have left, positions occur that nobody uses. These must not be errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rung.core import dtype as dt
from rung.ir.node import (
    Graph,
    Node,
    ParameterAttrs,
    Value,
    make_graph,
    make_node,
    parameter,
    provenance,
)
from rung.ir.op import Attrs
from rung.ir.subgraph import between
from rung.ir.types import TensorType
from rung.ops.broadcast import broadcast_to
from rung.ops.check import check_range, holds_check
from rung.ops.composite import CompositeAttrs
from rung.ops.control import EachAttrs, ScanAttrs, SwitchAttrs, WhileAttrs
from rung.ops.elementwise import logical_and


def has_checks(graph: Graph) -> bool:
    """Whether something in a graph, or in those inside, is checked."""
    return any(map(holds_check, graph.nodes))


def masked_values(
    outputs: Sequence[Value], condition: Value, known: dict[Value, Value]
) -> list[Value]:
    """`outputs` with the values of `known` replaced, and checks that count only where the scalar
    bool `condition` holds."""
    for node in between(outputs, known):
        inputs = tuple(known.get(v, v) for v in node.inputs)
        results: Sequence[Value] = node.results
        if holds_check(node):
            with provenance(node.source):
                results = _masked(node, inputs, condition)
        elif inputs != node.inputs:
            with provenance(node.source):
                results = make_node(node.op, inputs, node.attrs)
        known.update(zip(node.results, results, strict=True))
    return [known[v] for v in outputs]


def _masked(node: Node, inputs: tuple[Value, ...], condition: Value) -> Sequence[Value]:
    attrs = node.attrs
    if node.op is check_range:
        mask = broadcast_to(condition, shape=inputs[0].shape)
        if len(inputs) > 1:
            mask = logical_and(mask, inputs[1])
        return check_range.build((inputs[0], mask), attrs)
    if isinstance(attrs, CompositeAttrs):
        body = attrs.body
        return masked_values(body.outputs, condition, dict(zip(body.params, inputs, strict=True)))
    new: Attrs
    if isinstance(attrs, ScanAttrs):
        body = with_condition(attrs.body)
        new, inputs = replace(attrs, body=body, constants=attrs.constants + 1), (condition, *inputs)
    elif isinstance(attrs, WhileAttrs):
        asked, body = with_condition(attrs.condition), with_condition(attrs.body)
        inputs = (condition, *inputs)
        new = WhileAttrs(asked, body, attrs.constants + 1, attrs.limit)
    elif isinstance(attrs, EachAttrs):
        branches = tuple(map(with_condition, attrs.branches))
        new = EachAttrs(branches, (False, *attrs.mapped), attrs.size)
        inputs = (inputs[0], condition, *inputs[1:])
    else:
        assert isinstance(attrs, SwitchAttrs)
        new = SwitchAttrs(tuple(map(with_condition, attrs.branches)))
        inputs = (inputs[0], condition, *inputs[1:])
    return make_node(node.op, inputs, new)


def with_condition(graph: Graph) -> Graph:
    """`graph` with one more parameter in front, a scalar bool without which its checks do not
    count."""
    condition = parameter(0, "counts", TensorType(dt.bool_, ()))
    params = [condition]
    for i, p in enumerate(graph.params, 1):
        assert isinstance(p.node.attrs, ParameterAttrs)
        params.append(parameter(i, p.node.attrs.name, p.type))
    known = dict(zip(graph.params, params[1:], strict=True))
    return make_graph(graph.name, params, masked_values(graph.outputs, condition, known))
