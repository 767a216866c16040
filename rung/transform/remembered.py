"""Reverse rules that are worked out once for each op, attributes and types of the operands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rung.core.errors import RungError
from rung.core.source import NOWHERE
from rung.ir.interpret import op_body
from rung.ir.node import Node, Value, keeping_sources, parameter, provenance
from rung.ir.op import Attrs, Op, OwnAttrs
from rung.ir.replay import Replay, replay_of
from rung.ir.subgraph import between
from rung.ir.types import TensorType
from rung.ops.composite import CompositeAttrs, as_composite
from rung.transform.grad import vjp_node
from rung.transform.jvp import check_inputs, check_types
from rung.transform.transpose import Cotangents, pull_back


@keeping_sources
def vjp_of_nodes(
    outputs: Sequence[Value], inputs: Sequence[Value], cotangents: Cotangents, whole: bool
) -> list[Value | None]:
    """As `vjp_values`, for graphs whose nodes need not be interned (pending ones). `whole`: what a
    rule builds of several nodes becomes one composite."""
    check_inputs("vjp", inputs)
    check_types("vjp", "cotangent", outputs, cotangents)
    rule = _whole_vjp if whole else _vjp_node
    return pull_back(between(outputs, inputs), outputs, inputs, cotangents, rule)


def _whole_vjp(node: Node, cotangents: Cotangents, wanted: Sequence[int]) -> Cotangents:
    return _vjp_node(node, cotangents, wanted, whole=True)


def _vjp_node(
    node: Node, cotangents: Cotangents, wanted: Sequence[int], whole: bool = False
) -> Cotangents:
    if isinstance(node.attrs, OwnAttrs):
        return vjp_node(node, cotangents, wanted)
    inputs = node.inputs
    types = tuple([v.type for v in inputs])
    same = tuple(map(inputs.index, inputs)) if len(set(inputs)) < len(inputs) else None
    there = tuple([ct is not None for ct in cotangents])
    rule = _rule(node.op, node.attrs, types, same, there, tuple(wanted), whole)
    if rule is None:
        return vjp_node(node, cotangents, wanted)
    values = [*inputs, *node.results]
    values += [ct for ct in cotangents if ct is not None]
    return rule.build(values, node.source)


@lru_cache(maxsize=1 << 14)
def _rule(
    op: Op,
    attrs: Attrs,
    types: tuple[TensorType, ...],
    same: tuple[int, ...] | None,
    there: tuple[bool, ...],
    wanted: tuple[int, ...],
    whole: bool,
) -> Replay | None:
    """From (operands…, results…, cotangents that are there…) to the cotangents of the operands.
    `same`: for each operand the number of the first that it is. None where the rule cannot be told
    from stand-ins: it fails, or looks at how its cotangents were made."""
    if _has_own_rule(op, attrs, types):
        return None
    params = [parameter(i, "x", types[i]) for i in same or range(len(types))]
    with provenance(NOWHERE):
        results = op.build(params, attrs)
    symbols = [parameter(len(types) + i, "ct", r.type) for i, r in enumerate(results)]
    given = [ct if known else None for ct, known in zip(symbols, there, strict=True)]
    try:
        found = vjp_node(results[0].node, given, wanted)
    except RungError:
        return None
    values = [*params, *results, *(ct for ct in given if ct is not None)]
    replay = replay_of(values, found)
    if replay is None or not whole or len(replay.steps) < _WHOLE:
        return replay
    name = attrs.name if isinstance(attrs, CompositeAttrs) else op.name
    return as_composite(replay, f"{name}_vjp", [v.type for v in values])


_WHOLE = 3
"""Steps from which on a rule becomes a composite."""


def _has_own_rule(op: Op, attrs: Attrs, types: tuple[TensorType, ...]) -> bool:
    """Whether the `vjp` column of an op is asked, of this one or of one in its body."""
    asked = [(op, attrs, types)]
    while asked:
        op, attrs, types = asked.pop()
        if op.vjp is not None:
            return True
        own = isinstance(attrs, CompositeAttrs) and attrs.jvp is not None
        if op.decompose is not None and op.jvp is None and not own:
            nodes = op_body(op, attrs, types).nodes
            asked += [(n.op, n.attrs, tuple([v.type for v in n.inputs])) for n in nodes]
    return False
