"""Transposes of linear programs: cotangents of inputs from cotangents of outputs.

`y = A x` becomes `x̄ = Aᵀ ȳ`. The program is walked from its outputs to its inputs; each node gives
cotangents to its operands, and those of one value are added up. None stands for zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rung.core.errors import GradientError
from rung.core.source import NOWHERE, Source
from rung.ir.node import Node, Value, provenance, topological_order
from rung.ops.families import sum_of
from rung.transform.jvp import check_types, derivative_source

Cotangents = Sequence[Value | None]
NodeRule = Callable[[Node, Cotangents, Sequence[int]], Sequence[Value | None]]
"""(node, cotangents of its results, operands wanted) -> a cotangent for each of those operands."""


def transpose_values(
    outputs: Sequence[Value], inputs: Sequence[Value], cotangents: Cotangents
) -> list[Value | None]:
    """The cotangents of `inputs`, in which `outputs` must be linear. Raises GradientError for a
    node that is not; ShapeError for a cotangent that has not the type of its output."""
    check_types("transpose", "cotangent", outputs, cotangents)
    return pull_back(topological_order(outputs), outputs, inputs, cotangents, transpose_node)


def transpose_node(node: Node, cotangents: Cotangents, wanted: Sequence[int]) -> Cotangents:
    """The cotangents of the operands `wanted` of a node that is linear in each of them."""
    op = node.op
    if op.transpose is None or not all(i in op.linear for i in wanted):
        raise not_linear(node)
    with provenance(derivative_source(node.source, "transpose")):
        return [op.transpose(node.attrs, node.inputs, cotangents, i) for i in wanted]


def not_linear(node: Node) -> GradientError:
    """The error for a nonlinear node in a program that must be linear."""
    return GradientError(
        f"{node.op.name}: is not linear, so it cannot be transposed", source=node.source
    )


def pull_back(
    order: Sequence[Node],
    outputs: Sequence[Value],
    inputs: Sequence[Value],
    cotangents: Cotangents,
    rule: NodeRule,
) -> list[Value | None]:
    """The cotangents of `inputs` (float values, of the nodes of `order` or in front of them): walk
    `order` (operands before users) backwards and give each node's cotangents to `rule`. Operands
    that do not depend on `inputs` get none."""
    active = dependent_values(order, inputs)
    pending: dict[Value, list[Value]] = {}
    for v, ct in zip(outputs, cotangents, strict=True):
        if ct is not None and v in active:
            pending.setdefault(v, []).append(ct)
    asked = set(inputs)
    found: dict[Value, Value | None] = {}
    for node in reversed(order):
        results = node.results
        if len(results) == 1:
            terms = pending.pop(results[0], None)
            if terms is None:
                continue
            cts = [terms[0] if len(terms) == 1 else _total(terms, node.source)]
        elif any(r in pending for r in results):
            cts = [_total(pending.pop(r, ()), node.source) for r in results]
        else:
            continue
        found.update((r, ct) for r, ct in zip(results, cts, strict=True) if r in asked)
        wanted = [i for i, v in enumerate(node.inputs) if v in active]
        if wanted:
            for i, ct in zip(wanted, rule(node, cts, wanted), strict=True):
                if ct is not None:
                    pending.setdefault(node.inputs[i], []).append(ct)
    for v in inputs:
        if v not in found:
            found[v] = _total(pending.get(v, ()), NOWHERE)
    return [found[v] for v in inputs]


def _total(terms: Sequence[Value], source: Source) -> Value | None:
    """The sum of the cotangents of a value, on its line, or that of its first use if it has none
    (parameters)."""
    if len(terms) < 2:
        return terms[0] if terms else None
    source = source if source.line else terms[-1].node.source
    with provenance(derivative_source(source, "transpose")):
        return sum_of(terms)


def dependent_values(order: Sequence[Node], inputs: Sequence[Value]) -> set[Value]:
    """The float values among the results of `order` (operands before users) that depend on
    `inputs`, and the inputs themselves."""
    active = set(inputs)
    for node in order:
        for v in node.inputs:
            if v in active:
                active.update([r for r in node.results if r.type.dtype.is_float])
                break
    return active
