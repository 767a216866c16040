"""Derivatives of branches, and their forms for many examples.

The derivative of a switch is a switch over the derivatives of its branches. For many examples with
an index each, all branches are computed and chosen from (`switch_each`); that is done only after
derivatives are taken, so that a branch that is not taken adds nothing, where 0 times its infinite
slope would be NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from rung.ir.node import Graph, Value, make_graph
from rung.ir.subgraph import moved_values
from rung.ops.batching import with_axis
from rung.ops.broadcast import broadcast_to, reduce_sum, reshaped
from rung.ops.control import RULES, EachAttrs, SwitchAttrs, switch, switch_each
from rung.ops.creation import full_like
from rung.ops.elementwise import equal, greater_equal, less_equal, where
from rung.transform.grad import vjp_values
from rung.transform.jvp import jvp_values, new_parameters, or_zeros
from rung.transform.masking import has_checks, with_condition
from rung.transform.vmap import vmap_graph

Values = Sequence["Value | None"]
Branches = tuple[Graph, ...]


def tangents_of(graph: Graph, moving: Sequence[int]) -> tuple[list[Value], list[Value | None]]:
    """Symbols for the tangents of the parameters `moving`, and the tangents of the outputs."""
    inputs = [graph.params[i] for i in moving]
    symbols = new_parameters(graph, inputs, "d_")
    floats = [v for v in graph.outputs if v.dtype.is_float]
    found = iter(jvp_values(floats, inputs, symbols))
    return symbols, [next(found) if v.dtype.is_float else None for v in graph.outputs]


def _pushed(branches: Branches, moving: Sequence[int], floats: Sequence[int]) -> Branches:
    """Branches with tangents for the parameters `moving` behind their own, that give those of the
    results `floats`."""
    found: list[Graph] = []
    for branch in branches:
        symbols, tangents = tangents_of(branch, moving)
        results = [or_zeros(tangents[k], branch.outputs[k]) for k in floats]
        found.append(make_graph(f"{branch.name}_jvp", (*branch.params, *symbols), results))
    return tuple(found)


def _pulled(branches: Branches, asked: Sequence[int], shown: Sequence[int]) -> Branches:
    """Branches with cotangents of the results `shown` behind their parameters, that give those of
    the parameters `asked`."""
    found: list[Graph] = []
    for branch in branches:
        outputs = [branch.outputs[k] for k in shown]
        symbols = new_parameters(branch, outputs, "ct_")
        params = [branch.params[i] for i in asked]
        cotangents = vjp_values(outputs, params, symbols)
        results = [or_zeros(v, p) for v, p in zip(cotangents, params, strict=True)]
        found.append(make_graph(f"{branch.name}_vjp", (*branch.params, *symbols), results))
    return tuple(found)


# ---- switch


def _switch_jvp(
    attrs: SwitchAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Values
) -> tuple[Value | None, ...]:
    """A switch over the tangents; what a branch computes for them is computed in it once more."""
    moving = [i - 1 for i, t in enumerate(tangents) if t is not None and i]
    if not moving:
        return (None,) * len(outputs)
    floats = [k for k, v in enumerate(outputs) if v.dtype.is_float]
    given = [cast(Value, tangents[i + 1]) for i in moving]
    new = SwitchAttrs(_pushed(attrs.branches, moving, floats))
    tangent = dict(zip(floats, switch.build([*inputs, *given], new), strict=True))
    return tuple(tangent.get(k) for k in range(len(outputs)))


def _switch_vjp(
    attrs: SwitchAttrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
) -> Values:
    asked = [i - 1 for i in wanted if i and inputs[i].dtype.is_float]
    shown = [k for k, ct in enumerate(cotangents) if ct is not None]
    if not asked or not shown:
        return [None] * len(wanted)
    given = [cast(Value, cotangents[k]) for k in shown]
    new = SwitchAttrs(_pulled(attrs.branches, asked, shown))
    by_operand = dict(zip(asked, switch.build([*inputs, *given], new), strict=True))
    return [by_operand.get(i - 1) for i in wanted]


def _switch_batch(
    attrs: SwitchAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    if batched[0]:
        return switch_each.build(inputs, EachAttrs(attrs.branches, tuple(batched[1:]), size))
    moving = [i for i, b in enumerate(batched[1:]) if b]
    branches = tuple(vmap_graph(branch, moving, size) for branch in attrs.branches)
    return switch.build(inputs, SwitchAttrs(branches))


# ---- switch_each


def _each_body(attrs: EachAttrs, inputs: Sequence[Value]) -> tuple[Value, ...]:
    """All branches, and a choice of their results."""
    index, *operands = inputs
    moving = [i for i, has in enumerate(attrs.mapped) if has]
    last = len(attrs.branches) - 1
    results: list[Value] = []
    for number, one in enumerate(attrs.branches):
        mine, given, own = _is_branch(index, number, last), operands, moving
        if has_checks(one):  # what an example does not take is no error
            one, given, own = with_condition(one), [mine, *operands], [0, *(i + 1 for i in moving)]
        branch = vmap_graph(one, own, attrs.size)
        made = moved_values(branch.outputs, dict(zip(branch.params, given, strict=True)))
        if number:
            made = [_chosen(mine, a, b) for a, b in zip(made, results, strict=True)]
        results = made
    return tuple(results)


def _is_branch(index: Value, number: int, last: int) -> Value:
    """For which examples a branch is the one; the first takes all that is below, the last all that
    is above."""
    here = full_like(index, number)
    if number == last:
        return greater_equal(index, here) if number else equal(index, index)
    return equal(index, here) if number else less_equal(index, here)


def _chosen(condition: Value, a: Value, b: Value) -> Value:
    """a where the condition of its example holds, else b."""
    shape = (*condition.shape, *(1,) * (len(a.shape) - 1))
    return where(broadcast_to(reshaped(condition, shape), shape=a.shape), a, b)


def _each_jvp(
    attrs: EachAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Values
) -> tuple[Value | None, ...]:
    moving = [i - 1 for i, t in enumerate(tangents) if t is not None and i]
    if not moving:
        return (None,) * len(outputs)
    floats = [k for k, v in enumerate(outputs) if v.dtype.is_float]
    given = [cast(Value, tangents[i + 1]) for i in moving]
    mapped = (*attrs.mapped, *(attrs.mapped[i] for i in moving))
    new = EachAttrs(_pushed(attrs.branches, moving, floats), mapped, attrs.size)
    tangent = dict(zip(floats, switch_each.build([*inputs, *given], new), strict=True))
    return tuple(tangent.get(k) for k in range(len(outputs)))


def _each_vjp(
    attrs: EachAttrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
) -> Values:
    asked = [i - 1 for i in wanted if i and inputs[i].dtype.is_float]
    shown = [k for k, ct in enumerate(cotangents) if ct is not None]
    if not asked or not shown:
        return [None] * len(wanted)
    given = [cast(Value, cotangents[k]) for k in shown]
    mapped = (*attrs.mapped, *(True for _ in shown))
    new = EachAttrs(_pulled(attrs.branches, asked, shown), mapped, attrs.size)
    made = switch_each.build([*inputs, *given], new)
    by_operand = {
        i: ct if attrs.mapped[i] else reduce_sum(ct, dims=(0,))
        for i, ct in zip(asked, made, strict=True)
    }
    return [by_operand.get(i - 1) for i in wanted]


def _each_batch(
    attrs: EachAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """The examples of both axes, one after the other."""
    has = (True, *attrs.mapped)
    flat = [
        _flat(v, b, h, size, attrs.size) if b or h else v
        for v, b, h in zip(inputs, batched, has, strict=True)
    ]
    mapped = tuple(b or h for b, h in zip(batched[1:], attrs.mapped, strict=True))
    made = switch_each.build(flat, replace(attrs, mapped=mapped, size=size * attrs.size))
    return tuple(reshaped(v, (size, attrs.size, *v.shape[1:])) for v in made)


def _flat(v: Value, outer: bool, inner: bool, size: int, count: int) -> Value:
    """v with one axis for the examples of both, of which it has at least one."""
    v = with_axis(v, outer, size)
    if not inner:
        one = reshaped(v, (size, 1, *v.shape[1:]))
        v = broadcast_to(one, shape=(size, count, *v.shape[1:]))
    return reshaped(v, (size * count, *v.shape[2:]))


RULES.update(
    {
        "switch.jvp": _switch_jvp,
        "switch.vjp": _switch_vjp,
        "switch.batch": _switch_batch,
        "switch_each.jvp": _each_jvp,
        "switch_each.vjp": _each_vjp,
        "switch_each.batch": _each_batch,
        "switch_each.decompose": _each_body,
    }
)
