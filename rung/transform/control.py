"""Derivatives of loops, and their forms for many examples.

Forward, a loop carries tangents beside its carries. Backward, the loop is performed once more and
keeps of each iteration what the derivative of its body wants to know; then a loop over these runs
the other way and carries cotangents:

    c, y[t] = body(k, c, x[t])          c̄, x̄[t] = pullback(residuals[t], c̄, ȳ[t])        t backward

What an iteration adds to the cotangent of a constant as a product is not added up step by step: its
factors are kept, and one product over all steps is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Final, cast

from rung.core import dtype as dt
from rung.core.errors import GradientError
from rung.ir.node import (
    PARAMETER,
    Graph,
    Node,
    Value,
    current_source,
    make_graph,
    parameter,
    topological_order,
)
from rung.ir.subgraph import between, dependent, moved_values, subgraph
from rung.ir.types import TensorType
from rung.ops.batching import to_front, with_axis
from rung.ops.contraction import DotAttrs, dot_general
from rung.ops.control import (
    RULES,
    AfterAttrs,
    EachAttrs,
    ScanAttrs,
    SwitchAttrs,
    WhileAttrs,
    after,
    scan,
    switch,
    switch_each,
    while_loop,
)
from rung.ops.creation import zeros_like
from rung.ops.families import add
from rung.ops.movement import PermuteAttrs, permute
from rung.ops.reduction import reduce_any
from rung.ops.shorthand import as_type, permuted
from rung.transform.branches import tangents_of
from rung.transform.grad import vjp_values
from rung.transform.jvp import new_parameters, or_zeros
from rung.transform.transpose import dependent_values
from rung.transform.vmap import batch_values

Values = Sequence["Value | None"]

_FEW: Final = 8
"""Simple operations that are rather done again than their result kept."""


def _given(derivative: Value | None, v: Value) -> Value:
    return zeros_like(v) if derivative is None else derivative


def _moving(body: Graph, carries: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The float parameters of a loop's body that depend on those of `wanted`, over any number of
    iterations. `carries`: the parameter of each carry, which is the output of the same place."""
    found = {i for i in wanted if body.params[i].dtype.is_float}
    while True:
        values = dependent_values(body.nodes, [body.params[i] for i in found])
        more = {i for i, v in zip(carries, body.outputs, strict=False) if v in values} - found
        if not more:
            return sorted(found)
        found |= more


# ---- scan


def _scan_jvp(
    attrs: ScanAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Values
) -> tuple[Value | None, ...]:
    """One loop that carries the tangents too."""
    body, first = attrs.body, attrs.constants + attrs.carries
    given = [i for i, t in enumerate(tangents) if t is not None]
    moving = _moving(body, range(attrs.constants, first), given)
    symbols, found = tangents_of(body, moving)
    parts = (range(attrs.constants), range(attrs.constants, first), range(first, len(inputs)))
    symbol = dict(zip(moving, symbols, strict=True))
    params: list[Value] = []
    operands: list[Value] = []
    for part in parts:
        params += [body.params[i] for i in part] + [symbol[i] for i in part if i in symbol]
        operands += [inputs[i] for i in part]
        operands += [_given(tangents[i], inputs[i]) for i in part if i in symbol]
    moved = [k for k in range(attrs.carries) if attrs.constants + k in symbol]
    shown = [k for k in range(attrs.carries, len(body.outputs)) if found[k] is not None]
    results = [
        *body.outputs[: attrs.carries],
        *(or_zeros(found[k], body.outputs[k]) for k in moved),
        *body.outputs[attrs.carries :],
        *(cast(Value, found[k]) for k in shown),
    ]
    new = ScanAttrs(
        subgraph(f"{body.name}_jvp", results, params),
        attrs.length,
        attrs.constants + sum(i < attrs.constants for i in moving),
        attrs.carries + len(moved),
        attrs.reverse,
    )
    made = scan.build(operands, new)
    tangent: dict[int, Value] = dict(zip(moved, made[attrs.carries :], strict=False))
    tangent.update(zip(shown, made[len(made) - len(shown) :], strict=True))
    return tuple(tangent.get(k) for k in range(len(outputs)))


def _scan_vjp(
    attrs: ScanAttrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
) -> Values:
    return _Backward(attrs, inputs, cotangents, wanted).cotangents()


class _Backward:
    """The reverse derivative of one scan."""

    def __init__(
        self, attrs: ScanAttrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
    ) -> None:
        self.attrs, self.inputs, self.wanted = attrs, inputs, wanted
        self.given = cotangents
        body = self.body = attrs.body
        first = attrs.constants + attrs.carries
        carries = range(attrs.constants, first)
        self.moving = _moving(body, carries, wanted)
        self.carried = [k for k in range(attrs.carries) if attrs.constants + k in self.moving]
        values = dependent_values(body.nodes, [body.params[i] for i in self.moving])
        self.shown = [
            k
            for k in range(attrs.carries, len(body.outputs))
            if body.outputs[k] in values and cotangents[k] is not None
        ]
        self.steps = body.params[attrs.constants :]
        self._pull_back()
        self._keep()

    def _pull_back(self) -> None:
        """The cotangents of the moving parameters, made from symbols for those of the outputs."""
        body = self.body
        outputs = [body.outputs[k] for k in (*self.carried, *self.shown)]
        self.symbols = new_parameters(body, outputs, "ct_")
        found = vjp_values(outputs, [body.params[i] for i in self.moving], self.symbols)
        self.found = dict(zip(self.moving, found, strict=True))
        self.products: dict[int, _Product] = {}
        for i in self.moving:
            value = self.found[i]
            product = None if value is None or i >= self.attrs.constants else _product(value)
            if product is not None and self._changes(product):
                self.products[i] = product

    def _changes(self, product: _Product) -> bool:
        """Whether both factors are different in each iteration."""
        given = [*self.steps, *self.symbols]
        values = dependent(between(product.node.inputs, given), given)
        return all(v in values for v in product.node.inputs)

    def _expressions(self) -> list[Value]:
        """What an iteration of the backward loop computes."""
        found: list[Value] = []
        for i in self.moving:
            value = self.found[i]
            if i in self.products:
                found += self.products[i].node.inputs
            elif value is not None:
                found.append(value)
        return found

    def _keep(self) -> None:
        """The values of the body that the backward loop needs of each iteration."""
        body = self.body
        nodes = between(self._expressions(), [*body.params, *self.symbols])
        linear = dependent(nodes, self.symbols)
        changing = dependent(nodes, self.steps)
        read = [v for n in nodes if any(r in linear for r in n.results) for v in n.inputs]
        read += self._expressions()
        xs = body.params[self.attrs.constants + self.attrs.carries :]
        free = {*body.params[: self.attrs.constants], *xs}
        needed = [v for v in dict.fromkeys(read) if v in changing and v not in linear]
        kept = dict.fromkeys(_origin(v, free) for v in needed)
        self.kept = _without_easy([v for v in kept if v not in xs], free)

    def cotangents(self) -> Values:
        body, attrs, moving = self.body, self.attrs, self.moving
        constants, carries = attrs.constants, attrs.carries
        summed = [i for i in moving if i < constants and i not in self.products]
        sliced = [i for i in moving if i >= constants + carries]
        first = len(body.params) + len(self.symbols)
        totals = [parameter(first + n, "total", body.params[i].type) for n, i in enumerate(summed)]
        results = [
            *(_given(self.found[constants + k], body.outputs[k]) for k in self.carried),
            *(_plus(t, self.found[i]) for t, i in zip(totals, summed, strict=True)),
            *(_given(self.found[i], body.params[i]) for i in sliced),
            *(v for p in self.products.values() for v in p.node.inputs),
        ]
        count = len(self.carried)
        given = [
            *body.params[:constants],
            *self.symbols[:count],
            *totals,
            *self.symbols[count:],
            *body.params[constants + carries :],
            *self.kept,
        ]
        graph = subgraph(f"{body.name}_vjp", results, given)
        final = [_given(self.given[k], body.outputs[k]) for k in self.carried]
        operands = [
            *self.inputs[:constants],
            *final,
            *(zeros_like(t) for t in totals),
            *(cast(Value, self.given[k]) for k in self.shown),
            *self.inputs[constants + carries :],
            *self._residuals(),
        ]
        states = count + len(summed)
        made = scan.build(
            operands, ScanAttrs(graph, attrs.length, constants, states, not attrs.reverse)
        )
        numbers = [*(constants + k for k in self.carried), *summed, *sliced]
        found = dict(zip(numbers, made, strict=False))
        stacks = iter(made[len(numbers) :])
        for i, product in self.products.items():
            found[i] = product.over_steps(next(stacks), next(stacks))
        return [found.get(i) for i in self.wanted]

    def _residuals(self) -> Sequence[Value]:
        """What is kept, of all iterations: from the loop performed once more."""
        if not self.kept:
            return ()
        outputs = [*self.body.outputs, *self.kept]
        graph = subgraph(f"{self.body.name}_kept", outputs, self.body.params)
        made = scan.build(self.inputs, replace(self.attrs, body=graph))
        return made[len(self.body.outputs) :]


def _without_easy(kept: Sequence[Value], free: Set[Value]) -> list[Value]:
    """`kept` without what a few simple operations make of the others and the values `free`: to
    compute it again is faster than to keep it."""
    number = {node: n for n, node in enumerate(topological_order(kept))}
    found, given = dict.fromkeys(kept), {*kept, *free}
    for v in sorted(kept, key=lambda v: number[v.node], reverse=True):
        given.remove(v)
        if _edge(v, given) == set():
            del found[v]
        else:
            given.add(v)
    return list(found)


def _origin(v: Value, free: Set[Value]) -> Value:
    """The one value of which a few simple operations, with the values `free`, make `v`, if it is no
    larger; else `v`. It is kept instead: others may be made of it too."""
    found = _edge(v, free)
    if found is None or len(found) != 1:
        return v
    (origin,) = found
    return origin if origin.type.nbytes <= v.type.nbytes else v


def _edge(v: Value, given: Set[Value]) -> set[Value] | None:
    """The values besides those `given` of which simple operations make `v`; None if these are more
    than a few."""
    found: set[Value] = set()
    nodes: set[Node] = set()
    stack = [v]
    while stack and len(nodes) <= _FEW:
        u = stack.pop()
        if u in given:
            continue
        if not _is_easy(u.node):
            found.add(u)
        elif u.node not in nodes:
            nodes.add(u.node)
            stack += u.node.inputs
    return found if len(nodes) <= _FEW else None


def _is_easy(node: Node) -> bool:
    """Whether a node costs no more than to read its result, and is made element by element."""
    if node.op is PARAMETER:
        return False
    if node.op.elementwise:
        types = [v.type for v in node.inputs], list(node.types)
        return node.op.cost(node.attrs, *types).flops <= node.types[0].size
    return node.op.family in ("creation", "movement")


def _plus(total: Value, more: Value | None) -> Value:
    return total if more is None else add(total, more)


@dataclass(frozen=True)
class _Product:
    """A `dot_general`, permuted afterwards."""

    node: Node
    dims: tuple[int, ...]

    def over_steps(self, a: Value, b: Value) -> Value:
        """The sum of the products of all steps; a and b have those as first dim."""
        attrs = cast(DotAttrs, cast(DotAttrs, self.node.attrs).with_axis(0))
        batch, contract = attrs.batch, attrs.contract
        summed = DotAttrs(
            (batch[0][1:], batch[1][1:]),
            ((0, *contract[0]), (0, *contract[1])),
            attrs.domain,
        )
        return permuted(dot_general(a, b, attrs=summed), self.dims)


def _product(v: Value) -> _Product | None:
    """The product that `v` is, if it is one."""
    dims = tuple(range(len(v.shape)))
    if v.node.op is permute:
        dims, v = cast(PermuteAttrs, v.node.attrs).dims, v.node.inputs[0]
    return _Product(v.node, dims) if v.node.op is dot_general else None


def _scan_batch(
    attrs: ScanAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    first = attrs.constants + attrs.carries
    has = _batched_params(attrs.body, attrs.constants, batched, attrs.carries, size)
    body = _batched_body(attrs.body, has, size, attrs.carries, attrs.constants)
    operands = [
        with_axis(v, b, size) if h and i < first else v
        for i, (v, b, h) in enumerate(zip(inputs, batched, has, strict=True))
    ]
    operands[first:] = [
        to_front(v, 1) if b else v for v, b in zip(inputs[first:], batched[first:], strict=True)
    ]
    made = scan.build(operands, replace(attrs, body=body.graph))
    results: list[Value] = []
    for k, (v, b) in enumerate(zip(made, body.batched, strict=True)):
        moved = to_front(v, 1) if b and k >= attrs.carries else v
        results.append(with_axis(moved, b, size))
    return tuple(results)


@dataclass(frozen=True)
class _Body:
    """A body for many examples, and which outputs have the axis."""

    graph: Graph
    batched: tuple[bool, ...]


def _batched_params(
    body: Graph, constants: int, batched: Sequence[bool], carries: int, size: int
) -> list[bool]:
    """Which parameters of a loop's body have the axis, over any number of iterations."""
    has = list(batched)
    while True:
        nodes = body.nodes
        values = dependent(nodes, [p for p, b in zip(body.params, has, strict=True) if b])
        more = [k for k in range(carries) if body.outputs[k] in values and not has[constants + k]]
        if not more:
            return has
        for k in more:
            has[constants + k] = True


def _batched_body(
    body: Graph, has: Sequence[bool], size: int, carries: int, constants: int
) -> _Body:
    """The body for parameters of which those of `has` have the axis, and so have carries after an
    iteration that have it before."""
    params = [
        parameter(i, f"x{i}", TensorType(p.dtype, (size, *p.shape)) if h else p.type)
        for i, (p, h) in enumerate(zip(body.params, has, strict=True))
    ]
    plain = dict(zip(body.params, params, strict=True))
    examples = {p: new for p, new, h in zip(body.params, params, has, strict=True) if h}
    found = batch_values(body.outputs, examples, size)
    outputs: list[Value] = []
    batched: list[bool] = []
    for k, (v, b) in enumerate(zip(body.outputs, found, strict=True)):
        wants = k < carries and has[constants + k]
        outputs.append(with_axis(v, False, size) if b is None and wants else v if b is None else b)
        batched.append(b is not None or wants)
    fixed = {p: new for p, new in plain.items() if p not in examples}
    fixed |= {new: new for new in examples.values()}
    graph = make_graph(f"{body.name}_vmap", params, moved_values(outputs, fixed))
    return _Body(graph, tuple(batched))


# ---- while_loop


def _while_jvp(
    attrs: WhileAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Values
) -> tuple[Value | None, ...]:
    body, constants = attrs.body, attrs.constants
    given = [i for i, t in enumerate(tangents) if t is not None]
    moving = _moving(body, range(constants, len(inputs)), given)
    symbols, found = tangents_of(body, moving)
    symbol = dict(zip(moving, symbols, strict=True))
    parts = (range(constants), range(constants, len(inputs)))
    params: list[Value] = []
    old: list[Value] = []
    operands: list[Value] = []
    for part in parts:
        params += [body.params[i] for i in part] + [symbol[i] for i in part if i in symbol]
        old += [attrs.condition.params[i] for i in part]
        old += [symbol[i] for i in part if i in symbol]
        operands += [inputs[i] for i in part]
        operands += [_given(tangents[i], inputs[i]) for i in part if i in symbol]
    moved = [k for k in range(len(body.outputs)) if constants + k in symbol]
    results = [*body.outputs, *(or_zeros(found[k], body.outputs[k]) for k in moved)]
    new = WhileAttrs(
        subgraph(attrs.condition.name, attrs.condition.outputs, old),
        subgraph(f"{body.name}_jvp", results, params),
        constants + sum(i < constants for i in moving),
        attrs.limit,
    )
    made = while_loop.build(operands, new)
    tangent = dict(zip(moved, made[len(body.outputs) :], strict=True))
    return tuple(tangent.get(k) for k in range(len(outputs)))


def _while_vjp(
    attrs: WhileAttrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
) -> Values:
    if not attrs.limit:
        raise GradientError(
            "while_loop: has no reverse derivative, as nobody knows how many iterations it takes",
            source=current_source(),
            fix="give limit=, the most iterations that it may take, or use fori_loop or scan",
        )
    return _scan_vjp(_as_scan(attrs), inputs, cotangents, wanted)


def _as_scan(attrs: WhileAttrs) -> ScanAttrs:
    """The loop as one of `limit` steps, which do nothing once the condition fails."""
    params, constants = attrs.body.params, attrs.constants
    known = dict(zip(attrs.condition.params, params, strict=True))
    (go_on,) = moved_values(attrs.condition.outputs, known)
    branches = SwitchAttrs((_stay(attrs), attrs.body))
    made = switch.build([as_type(go_on, dt.int32), *params], branches)
    return ScanAttrs(
        make_graph(f"{attrs.body.name}_step", params, made),
        attrs.limit,
        constants,
        len(params) - constants,
    )


def _stay(attrs: WhileAttrs) -> Graph:
    """The step that leaves the carries as they are."""
    params = attrs.body.params
    return make_graph("stay", params, params[attrs.constants :])


def _while_batch(
    attrs: WhileAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    constants, carries = attrs.constants, len(inputs) - attrs.constants
    has = _batched_params(attrs.body, constants, batched, carries, size)
    asked = _batched_body(attrs.condition, has, size, 0, constants)
    if asked.batched[0]:  # each example stops by itself: all carries are its own
        has[constants:] = [True] * carries
        asked = _batched_body(attrs.condition, has, size, 0, constants)
    body = _batched_body(attrs.body, has, size, carries, constants)
    condition, graph = asked.graph, body.graph
    if asked.batched[0]:
        (each,) = asked.graph.outputs
        condition = make_graph(condition.name, condition.params, [reduce_any(each, dims=(0,))])
        (go_on,) = moved_values(
            asked.graph.outputs, dict(zip(asked.graph.params, graph.params, strict=True))
        )
        branches = EachAttrs((_stay(attrs), attrs.body), tuple(has), size)
        chosen = switch_each.build([as_type(go_on, dt.int32), *graph.params], branches)
        graph = make_graph(graph.name, graph.params, chosen)
    operands = [
        with_axis(v, b, size) if h else v for v, b, h in zip(inputs, batched, has, strict=True)
    ]
    made = while_loop.build(operands, replace(attrs, condition=condition, body=graph))
    return tuple(with_axis(v, h, size) for v, h in zip(made, has[constants:], strict=True))


# ---- after


def _after_jvp(
    attrs: AfterAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Values
) -> tuple[Value | None, ...]:
    return tuple(tangents[: attrs.count])


def _after_vjp(
    attrs: AfterAttrs, inputs: Sequence[Value], cotangents: Values, wanted: Sequence[int]
) -> Values:
    return [cotangents[i] if i < attrs.count else None for i in wanted]


def _after_batch(
    attrs: AfterAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    made = after.build(inputs, attrs)
    return tuple(with_axis(v, b, size) for v, b in zip(made, batched, strict=False))


RULES.update(
    {
        "after.jvp": _after_jvp,
        "after.vjp": _after_vjp,
        "after.batch": _after_batch,
        "scan.jvp": _scan_jvp,
        "scan.vjp": _scan_vjp,
        "scan.batch": _scan_batch,
        "while_loop.jvp": _while_jvp,
        "while_loop.vjp": _while_vjp,
        "while_loop.batch": _while_batch,
    }
)
