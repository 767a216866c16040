"""Control flow: ops whose attributes are graphs.

    scan        c, y[t] = body(k, c, x[t]) for each t        a loop of known length
    while_loop  c = body(k, c) while condition(k, c)
    switch      branches[index](x…)
    switch_each the same for many examples, of which each has its index
    after       x…, as soon as some other values are known

The graphs are closed: what they read from outside is an operand. Their derivatives and their forms
for many examples are made from those of the bodies, in `rung.transform.control` and
`rung.transform.branches`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import DTypeError, GraphError, ShapeError
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value
from rung.ir.op import Array, Attrs, Cost, Op
from rung.ir.types import TensorType

Types = Sequence[TensorType]
Values = Sequence["Value | None"]


@dataclass(frozen=True)
class ScanAttrs(Attrs):
    """`body`: (constants…, carries…, slices…) -> (carries…, results…), performed `length` times,
    from the last slice to the first if `reverse`."""

    body: Graph
    length: int
    constants: int
    carries: int
    reverse: bool = False


@dataclass(frozen=True)
class WhileAttrs(Attrs):
    """`condition`: (constants…, carries…) -> bool; `body`: (constants…, carries…) -> carries…, at
    most `limit` times if that is not 0."""

    condition: Graph
    body: Graph
    constants: int
    limit: int = 0


@dataclass(frozen=True)
class SwitchAttrs(Attrs):
    """`branches`: graphs of the same parameters and results."""

    branches: tuple[Graph, ...]


@dataclass(frozen=True)
class EachAttrs(Attrs):
    """`branches` as those of a switch, for one example; which of their operands differ by example,
    and so have an axis of `size` in front."""

    branches: tuple[Graph, ...]
    mapped: tuple[bool, ...]
    size: int


@dataclass(frozen=True)
class AfterAttrs(Attrs):
    """The first `count` operands are the results; the others are only waited for."""

    count: int


def _check_params(what: str, graph: Graph, types: Types) -> None:
    expected = [p.type for p in graph.params]
    if list(types) != expected:
        raise ShapeError(f"{what}: {graph.name} takes {_listed(expected)}, got {_listed(types)}")


def _listed(types: Types) -> str:
    return "(" + ", ".join(map(str, types)) + ")"


def _results(graph: Graph) -> list[TensorType]:
    return [v.type for v in graph.outputs]


def _check_carries(what: str, carries: Types, made: Types) -> None:
    for number, (before, after) in enumerate(zip(carries, made, strict=False)):
        if before != after:
            raise ShapeError(
                f"{what}: carry {number} is {before} before an iteration and {after} after it",
                fix="a carry keeps its shape and dtype; cast or reshape what the body returns",
            )
    if len(made) < len(carries):
        raise ShapeError(f"{what}: the body gives {len(made)} of {len(carries)} carries")


# ---- scan


def _scan_type(attrs: Attrs, ins: Types) -> tuple[TensorType, ...]:
    assert isinstance(attrs, ScanAttrs)
    first = attrs.constants + attrs.carries
    if attrs.length < 0 or min(attrs.constants, attrs.carries) < 0 or first > len(ins):
        raise GraphError("scan: the numbers of its operands do not fit")
    for t in ins[first:]:
        if not t.shape or t.shape[0] != attrs.length:
            raise ShapeError(
                f"scan: {t} has no first dim of {attrs.length}",
                fix="what is scanned over has one length",
            )
    slices = [TensorType(t.dtype, t.shape[1:]) for t in ins[first:]]
    _check_params("scan", attrs.body, [*ins[:first], *slices])
    made = _results(attrs.body)
    carries = ins[attrs.constants : first]
    _check_carries("scan", carries, made)
    stacked = (TensorType(t.dtype, (attrs.length, *t.shape)) for t in made[len(carries) :])
    return (*carries, *stacked)


def _scan_ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, ScanAttrs)
    first = attrs.constants + attrs.carries
    constants, xs = operands[: attrs.constants], operands[first:]
    carries = list(operands[attrs.constants : first])
    kept = [
        np.empty((attrs.length, *t.shape), t.dtype.numpy)
        for t in _results(attrs.body)[attrs.carries :]
    ]
    steps = range(attrs.length)
    for t in reversed(steps) if attrs.reverse else steps:
        made = interpret(attrs.body, [*constants, *carries, *(x[t] for x in xs)])
        carries = made[: attrs.carries]
        for stack, y in zip(kept, made[attrs.carries :], strict=True):
            stack[t] = y
    return (*(np.array(c) for c in carries), *kept)


def _graph_flops(graph: Graph) -> int:
    return sum(
        n.op.cost(n.attrs, [v.type for v in n.inputs], list(n.types)).flops for n in graph.nodes
    )


def _scan_cost(attrs: Attrs, ins: Types, outs: Types) -> Cost:
    assert isinstance(attrs, ScanAttrs)
    flops = attrs.length * _graph_flops(attrs.body)
    return Cost(flops, sum(t.nbytes for t in (*ins, *outs)))


# ---- while_loop


def _while_type(attrs: Attrs, ins: Types) -> tuple[TensorType, ...]:
    assert isinstance(attrs, WhileAttrs)
    if not 0 <= attrs.constants <= len(ins) or attrs.limit < 0:
        raise GraphError("while_loop: the numbers of its operands do not fit")
    _check_params("while_loop", attrs.condition, ins)
    _check_params("while_loop", attrs.body, ins)
    asked = _results(attrs.condition)
    if asked != [TensorType(dt.bool_, ())]:
        raise DTypeError(
            f"while_loop: the condition gives {_listed(asked)}, not one bool",
            fix="compare, and reduce arrays with all or any",
        )
    carries, made = ins[attrs.constants :], _results(attrs.body)
    _check_carries("while_loop", carries, made)
    if len(made) != len(carries):
        raise GraphError(f"while_loop: the body gives {len(made)} values for {len(carries)}")
    return tuple(carries)


def _while_ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, WhileAttrs)
    constants = operands[: attrs.constants]
    carries = list(operands[attrs.constants :])
    steps = 0
    while interpret(attrs.condition, [*constants, *carries])[0]:
        if attrs.limit and steps == attrs.limit:
            break
        carries = interpret(attrs.body, [*constants, *carries])
        steps += 1
    return tuple(np.array(c) for c in carries)


def _while_cost(attrs: Attrs, ins: Types, outs: Types) -> Cost:
    assert isinstance(attrs, WhileAttrs)
    flops = max(attrs.limit, 1) * (_graph_flops(attrs.body) + _graph_flops(attrs.condition))
    return Cost(flops, sum(t.nbytes for t in (*ins, *outs)))


# ---- switch


def _switch_type(attrs: Attrs, ins: Types) -> tuple[TensorType, ...]:
    assert isinstance(attrs, SwitchAttrs)
    if not ins or ins[0] != TensorType(dt.int32, ()):
        raise DTypeError(f"switch: the index is {_listed(ins[:1])}, not a scalar i32")
    if not attrs.branches:
        raise GraphError("switch: has no branches")
    first = _results(attrs.branches[0])
    for number, branch in enumerate(attrs.branches):
        _check_params("switch", branch, ins[1:])
        made = _results(branch)
        if made != first:
            raise ShapeError(
                f"switch: branch {number} gives {_listed(made)}, branch 0 {_listed(first)}",
                fix="all branches give the same shapes and dtypes",
            )
    return tuple(first)


def _switch_ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, SwitchAttrs)
    number = min(max(int(operands[0]), 0), len(attrs.branches) - 1)
    return tuple(np.array(a) for a in interpret(attrs.branches[number], operands[1:]))


def _switch_cost(attrs: Attrs, ins: Types, outs: Types) -> Cost:
    assert isinstance(attrs, SwitchAttrs)
    return Cost(max(map(_graph_flops, attrs.branches)), sum(t.nbytes for t in (*ins, *outs)))


# ---- switch_each


def _each_type(attrs: Attrs, ins: Types) -> tuple[TensorType, ...]:
    assert isinstance(attrs, EachAttrs)
    if not ins or ins[0] != TensorType(dt.int32, (attrs.size,)):
        raise DTypeError(f"switch_each: the index is {_listed(ins[:1])}, not i32[{attrs.size}]")
    if len(attrs.mapped) != len(ins) - 1:
        raise GraphError("switch_each: the numbers of its operands do not fit")
    for t, has in zip(ins[1:], attrs.mapped, strict=True):
        if has and t.shape[:1] != (attrs.size,):
            raise ShapeError(f"switch_each: {t} has no first dim of {attrs.size}")
    types = [
        TensorType(t.dtype, t.shape[1:]) if has else t
        for t, has in zip(ins[1:], attrs.mapped, strict=True)
    ]
    made = _switch_type(SwitchAttrs(attrs.branches), [TensorType(dt.int32, ()), *types])
    return tuple(TensorType(t.dtype, (attrs.size, *t.shape)) for t in made)


def _each_ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, EachAttrs)
    found = [
        np.empty((attrs.size, *t.shape), t.dtype.numpy) for t in _results(attrs.branches[0])
    ]
    for k in range(attrs.size):
        one = [a[k] if has else a for a, has in zip(operands[1:], attrs.mapped, strict=True)]
        made = _switch_ref(SwitchAttrs(attrs.branches), [operands[0][k], *one])
        for stack, y in zip(found, made, strict=True):
            stack[k] = y
    return tuple(found)


def _each_cost(attrs: Attrs, ins: Types, outs: Types) -> Cost:
    assert isinstance(attrs, EachAttrs)
    flops = attrs.size * sum(map(_graph_flops, attrs.branches))
    return Cost(flops, sum(t.nbytes for t in (*ins, *outs)))


# ---- after


def _after_type(attrs: Attrs, ins: Types) -> tuple[TensorType, ...]:
    assert isinstance(attrs, AfterAttrs)
    if not 0 < attrs.count <= len(ins):
        raise GraphError(f"after: {attrs.count} results of {len(ins)} operands")
    return tuple(ins[: attrs.count])


def _after_ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, AfterAttrs)
    return tuple(operands[: attrs.count])


# ---- records

RULES: dict[str, Callable[..., Any]] = {}
"""Rules by `op.column`, which `rung.transform` gives: they take derivatives of bodies."""


def _rule(name: str) -> Callable[..., Any]:
    return lambda *args: RULES[name](*args)


def _control(name: str, doc: str, attrs: type[Attrs], **columns: Any) -> Op:
    return Op(
        name=name,
        family="control",
        arity=None,
        axes=None,
        doc=doc,
        attrs=attrs,
        jvp=_rule(f"{name}.jvp"),
        vjp=_rule(f"{name}.vjp"),
        batch=_rule(f"{name}.batch"),
        blank={
            "axes": "a loop of kernels, not a kernel",
            "transpose": "vjp stands for it",
            "emit": "run by the script of the runtime",
            "samples": "bodies are graphs: tests/transform/test_control.py",
        },
        **columns,
    )


scan = _control(
    "scan",
    "A body performed for each slice of the operands, which hands carries on to the next.",
    ScanAttrs,
    type=_scan_type,
    ref=_scan_ref,
    cost=_scan_cost,
)
while_loop = _control(
    "while_loop",
    "A body performed on carries as long as a condition of them holds.",
    WhileAttrs,
    type=_while_type,
    ref=_while_ref,
    cost=_while_cost,
)
switch = _control(
    "switch",
    "The branch whose number the first operand is (brought into range), on the other operands.",
    SwitchAttrs,
    type=_switch_type,
    ref=_switch_ref,
    cost=_switch_cost,
)

after = _control(
    "after",
    "Operands as they are, once the others are known: what is made of them is not computed before.",
    AfterAttrs,
    type=_after_type,
    ref=_after_ref,
    cost=lambda attrs, ins, outs: Cost(0, 0),
)

switch_each = _control(
    "switch_each",
    "For each example the branch whose number its element of the first operand is. All branches "
    "are computed, but a derivative sees that one alone: slopes of the others do not count.",
    EachAttrs,
    type=_each_type,
    ref=_each_ref,
    cost=_each_cost,
    decompose=_rule("switch_each.decompose"),
)

CONTROL = (scan, while_loop, switch, after)
"""What a program is cut at. All but `after` hold graphs."""
HOLDERS = (scan, while_loop, switch, switch_each)
"""What holds graphs."""
RECORDS = (*CONTROL, switch_each)
