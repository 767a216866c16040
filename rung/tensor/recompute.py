"""The nodes of `checkpoint` in pending graphs: results that know what they were made from, and
values that have a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rung.ir.node import Node, Value
from rung.ir.op import Array, Attrs, Cost, Op, OwnAttrs
from rung.ir.subgraph import between, moved_values
from rung.ir.types import TensorType
from rung.ops.batching import all_with_axis
from rung.ops.control import AfterAttrs, after
from rung.tensor.leaf import NOT_COMPILED, PASSED_ON, identity_op
from rung.transform.grad import vjp_values

Policy = Callable[[Sequence[Node]], Sequence[Node]]
"""Which of the nodes whose results a derivative reads (operands before users) keep them."""


@dataclass(frozen=True, eq=False)
class CheckpointAttrs(OwnAttrs):
    """Operands: `results` results, then all that they are made from."""

    policy: Policy
    results: int


def _types(attrs: Attrs, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    assert isinstance(attrs, CheckpointAttrs)
    return tuple(types[: attrs.results])


def _ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, CheckpointAttrs)
    return tuple(operands[: attrs.results])


def _jvp(
    attrs: Attrs,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    tangents: Sequence[Value | None],
) -> tuple[Value | None, ...]:
    assert isinstance(attrs, CheckpointAttrs)
    return tuple(tangents[: attrs.results])


def _vjp(
    attrs: Attrs,
    inputs: Sequence[Value],
    cotangents: Sequence[Value | None],
    wanted: Sequence[int],
) -> Sequence[Value | None]:
    assert isinstance(attrs, CheckpointAttrs)
    results, edge = inputs[: attrs.results], inputs[attrs.results :]
    pairs = [(v, ct) for v, ct in zip(results, cotangents, strict=True) if ct is not None]
    cts = [ct for _, ct in pairs]
    again = after.build([*edge, *cts], AfterAttrs(len(edge)))
    known = dict(zip(edge, again, strict=True))
    made = moved_values([v for v, _ in pairs], known)
    asked = [i - attrs.results for i in wanted if i >= attrs.results]
    found = vjp_values(made, [again[i] for i in asked], cts)
    wanted_again = {v for n in between(_given(found), [*again, *cts]) for v in n.inputs}
    nodes = [
        n for n in between(results, edge) if any(known.get(r) in wanted_again for r in n.results)
    ]
    saved = [r for n in attrs.policy(nodes) for r in n.results]
    saved = [r for r in dict.fromkeys(saved) if r in known and known[r] not in cts]
    waiting = after.build([*saved, *cts], AfterAttrs(len(saved))) if saved else ()
    first = {known[r]: w for r, w in zip(saved, waiting, strict=True)}
    by_operand = {
        i: moved_values([ct], first)[0]
        for i, ct in zip(asked, found, strict=True)
        if ct is not None
    }
    return [by_operand.get(i - attrs.results) for i in wanted]


def _given(values: Sequence[Value | None]) -> list[Value]:
    return [v for v in values if v is not None]


def _batch(
    attrs: Attrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    assert isinstance(attrs, CheckpointAttrs)
    count = attrs.results
    results = all_with_axis(inputs[:count], batched[:count], size)
    return CHECKPOINT.build([*results, *inputs[count:]], attrs)


CHECKPOINT = Op(
    name="checkpoint",
    family="gradient",
    arity=None,
    type=_types,
    ref=_ref,
    axes=None,
    cost=lambda attrs, ins, outs: Cost(0, 0),
    doc="Results that are computed once more for their reverse derivative.",
    attrs=CheckpointAttrs,
    jvp=_jvp,
    vjp=_vjp,
    batch=_batch,
    blank=NOT_COMPILED,
)


@dataclass(frozen=True)
class NameAttrs(Attrs):
    """What the value is called."""

    name: str


NAME = identity_op(
    "checkpoint_name",
    "The identity, of a value that has a name.",
    NameAttrs,
    **PASSED_ON,
    batch=lambda attrs, inputs, batched, size: NAME.build(inputs, attrs),
)
