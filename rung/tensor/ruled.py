"""Derivative rules of users in pending graphs: identities that hold a rule.

The results of a function with such a rule pass through `custom_jvp` or `custom_vjp`. Whoever takes
a derivative asks the rule and does not see what is behind the node; vmap maps the rule too. As
`tag` and `detach`, the nodes are gone when a graph is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from weakref import WeakKeyDictionary

from rung.core.errors import TraceError
from rung.ir.node import PARAMETER, Graph, Value, make_graph, make_node, provenance
from rung.ir.op import Array, Attrs, BatchRule, Cost, Op, OwnAttrs
from rung.ir.types import TensorType
from rung.ops.batching import all_with_axis, with_axis
from rung.tensor.leaf import DETACH, LEAF, NOT_COMPILED, TAG, Example, leaf_value
from rung.tensor.recompute import CHECKPOINT, NAME
from rung.transform.vmap import batch_values

Values = Sequence["Value | None"]
Rule = Callable[[Values], Values]
"""Of `custom_jvp`: (inputs…, tangents…) -> tangents of the results. Of `custom_vjp`: (residuals…,
cotangents of the results…) -> cotangents of the inputs. None stands for zero."""


@dataclass(frozen=True, eq=False)
class RuleAttrs(OwnAttrs):
    """A rule for operands (results…, inputs…, residuals…): the numbers of the first two."""

    rule: Rule
    results: int
    inputs: int


def _types(attrs: Attrs, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    assert isinstance(attrs, RuleAttrs)
    return tuple(types[: attrs.results])


def _ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, RuleAttrs)
    return tuple(operands[: attrs.results])


def _jvp(
    attrs: Attrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Values
) -> tuple[Value | None, ...]:
    assert isinstance(attrs, RuleAttrs)
    first = attrs.results
    if all(t is None for t in tangents[first:]):
        return (None,) * first
    return tuple(attrs.rule([*inputs[first:], *tangents[first:]]))


def _vjp(
    attrs: Attrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
) -> Values:
    assert isinstance(attrs, RuleAttrs)
    first, end = attrs.results, attrs.results + attrs.inputs
    found = attrs.rule([*inputs[end:], *cotangents])
    return [found[i - first] if first <= i < end else None for i in wanted]


def _batch(op: Callable[[], Op]) -> BatchRule:
    def rule(
        attrs: Attrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
    ) -> tuple[Value, ...]:
        assert isinstance(attrs, RuleAttrs)
        new = replace(attrs, rule=_mapped(attrs.rule, size))
        return op().build(all_with_axis(inputs, batched, size), new)

    return rule


def _mapped(rule: Rule, size: int) -> Rule:
    """The rule for many examples, from that for one."""

    def mapped(values: Values) -> Values:
        holder = Example("a derivative rule")
        known: dict[Value, Value] = {}
        one: list[Value | None] = []
        for v in values:
            example = None
            if v is not None:
                example = leaf_value(holder, TensorType(v.dtype, v.shape[1:]))
                known[example] = v
            one.append(example)
        found = rule(one)
        holder.live = False
        return [None if v is None else _all(v, known, size) for v in found]

    return mapped


def _all(value: Value, known: dict[Value, Value], size: int) -> Value:
    (batched,) = batch_values([value], known, size)
    return with_axis(value, False, size) if batched is None else batched


def _op(name: str, doc: str, **columns: Any) -> Op:
    return Op(
        name=name,
        family="gradient",
        arity=None,
        type=_types,
        ref=_ref,
        axes=None,
        cost=lambda attrs, ins, outs: Cost(0, 0),
        doc=doc,
        attrs=RuleAttrs,
        **columns,
    )


CUSTOM_JVP = _op(
    "custom_jvp",
    "The identity of some results, whose forward derivative a user gives.",
    jvp=_jvp,
    batch=_batch(lambda: CUSTOM_JVP),
    blank=NOT_COMPILED,
)
CUSTOM_VJP = _op(
    "custom_vjp",
    "The identity of some results, whose reverse derivative a user gives.",
    vjp=_vjp,
    batch=_batch(lambda: CUSTOM_VJP),
    blank={**NOT_COMPILED, "jvp": "custom_vjp gives the reverse derivative alone"},
)
TRANSPARENT = (TAG, DETACH, CUSTOM_JVP, CUSTOM_VJP, CHECKPOINT, NAME)
"""Ops that are the identity of their first operands, and are gone when a graph is compiled."""


_plain: WeakKeyDictionary[Graph, Graph | None] = WeakKeyDictionary()
"""Graphs without transparent nodes, by the graph with them; None for one that has none."""


def without_rules(attrs: Attrs) -> Attrs:
    """Attributes whose graphs (the bodies of loops) are without transparent nodes."""
    old = {f.name: getattr(attrs, f.name) for f in fields(attrs)}
    new = {name: _without_rules(value) for name, value in old.items()}
    return attrs if new == old else replace(attrs, **new)


def _without_rules(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_without_rules, value))
    if not isinstance(value, Graph):
        return value
    if value not in _plain:
        plain = _plain_graph(value)
        _plain[value] = None if plain is value else plain
    found = _plain[value]
    return value if found is None else found


def _plain_graph(graph: Graph) -> Graph:
    known: dict[Value, Value] = dict(zip(graph.params, graph.params, strict=True))
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        if node.op is LEAF:
            raise TraceError(
                f"{graph.name}: a derivative rule of a function in it reads a tensor from outside",
                source=node.source,
                fix="give that tensor to the function, so that the rule gets it with the residuals",
            )
        inputs = tuple(known[v] for v in node.inputs)
        made: Sequence[Value] = inputs
        if node.op not in TRANSPARENT:
            attrs = without_rules(node.attrs)
            with provenance(node.source):
                made = make_node(node.op, inputs, attrs)
        known.update(zip(node.results, made, strict=False))
    return make_graph(graph.name, graph.params, [known[v] for v in graph.outputs])


def behind(value: Value) -> Value:
    """The operand that a result of a transparent node is."""
    return value.node.inputs[value.index]
