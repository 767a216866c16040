"""The node of `checkpoint` in pending graphs: results that know what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rung.ir.node import Node, Value
from rung.ir.op import Array, Attrs, Cost, Op
from rung.ir.subgraph import between, moved_values
from rung.ir.types import TensorType
from rung.ops.batching import all_with_axis
from rung.ops.control import AfterAttrs, after
from rung.tensor.leaf import NOT_COMPILED
from rung.transform.grad import vjp_values

Policy = Callable[[Sequence[Node]], Sequence[Node]]
"""Which of the nodes of a function (operands before users) keep their results."""


@dataclass(frozen=True, eq=False)
class CheckpointAttrs(Attrs):
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
    saved = [r for n in attrs.policy(between(results, edge)) for r in n.results]
    first = {known[r]: r for r in saved if r in known and known[r] not in cts}
    by_operand = {
        i: moved_values([ct], first)[0]
        for i, ct in zip(asked, found, strict=True)
        if ct is not None
    }
    return [by_operand.get(i - attrs.results) for i in wanted]


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
