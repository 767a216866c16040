"""Composites: functions of ops that keep their name in the graph.

`softmax(x, dim=-1)` makes one node of the op `composite`, which holds its decomposition as a graph.
A backend may claim the whole by its name; all else sees the body after `decompose`. The derivative
of a composite is that of its body, unless it has a better one of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from rung.core.dtype import DType
from rung.core.errors import GraphError
from rung.core.source import NOWHERE
from rung.ir.interpret import interpret
from rung.ir.node import (
    PARAMETER,
    Graph,
    ParameterAttrs,
    Value,
    current_source,
    make_graph,
    parameter,
    provenance,
)
from rung.ir.op import Array, Attrs, Cost, EagerKernel, Op
from rung.ir.replay import Replay
from rung.ir.types import TensorType

Static = bool | int | float | str | None | DType | tuple[int, ...] | tuple[tuple[int, int], ...]
P = ParamSpec("P")
R = TypeVar("R", Value, tuple[Value, ...])


@dataclass(frozen=True)
class CompositeAttrs(Attrs):
    """`name`, decomposition `body`, and the keyword attributes it was built with (in order).
    `jvp`: (operands…, results…, tangents of the operands…) -> tangents of the results, if that is
    not to be the derivative of the body."""

    name: str
    body: Graph
    static: tuple[tuple[str, Static], ...] = ()
    jvp: Graph | None = None


@dataclass(frozen=True)
class Call:
    """A composite that is to be computed whole: the names and types of the operands that are given,
    its static attributes, the types of its results, and the reference."""

    names: tuple[str, ...]
    types: Sequence[TensorType]
    static: Mapping[str, Static]
    results: Sequence[TensorType]
    exact: Callable[..., tuple[Array, ...]]

    def number(self, name: str) -> float:
        """A static attribute that is a number."""
        value = self.static[name]
        assert isinstance(value, int | float)
        return value

    def whole(self, name: str) -> int:
        """One that is a whole number."""
        value = self.static[name]
        assert isinstance(value, int)
        return value

    def dims(self, name: str) -> tuple[int, ...]:
        """One that is a tuple of whole numbers."""
        value = self.static[name]
        assert isinstance(value, tuple)
        return value  # type: ignore[return-value]


CallRule = Callable[[Call], "EagerKernel | None"]
"""How a composite is computed at once by a kernel of its own, where it has one."""
_RULES: Final[dict[Graph, CallRule]] = {}
"""The rules of composites by their bodies, so that a user's function of the same name has none."""


def claim(body: Graph, rule: CallRule) -> None:
    """Have the composites of this body computed at once by the kernels of `rule`."""
    _RULES[body] = rule


def inline(body: Graph, inputs: Sequence[Value], via: str = "") -> tuple[Value, ...]:
    """The outputs of `body` with `inputs` for its parameters, as nodes of the line being executed,
    made by `via` if that is given. Raises GraphError if a type is not that of the parameter."""
    _check_inputs(body, [v.type for v in inputs])
    values: dict[Value, Value] = dict(zip(body.params, inputs, strict=True))
    here = current_source()
    with provenance(here.with_via(via) if via else here):
        for node in body.nodes:
            if node.op is not PARAMETER:
                new = node.op.build([values[v] for v in node.inputs], node.attrs)
                values.update(zip(node.results, new, strict=True))
    return tuple(values[v] for v in body.outputs)


def _check_inputs(body: Graph, types: Sequence[TensorType]) -> None:
    expected = [p.type for p in body.params]
    if list(types) != expected:
        raise GraphError(f"{body.name}: takes {expected}, got {list(types)}")


def _type(attrs: Attrs, ins: Sequence[TensorType]) -> tuple[TensorType, ...]:
    assert isinstance(attrs, CompositeAttrs)
    _check_inputs(attrs.body, ins)
    return tuple(v.type for v in attrs.body.outputs)


def _ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    assert isinstance(attrs, CompositeAttrs)
    return tuple(interpret(attrs.body, operands))


def _cost(attrs: Attrs, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Cost:
    assert isinstance(attrs, CompositeAttrs)
    flops = sum(
        node.op.cost(
            node.attrs, [v.type for v in node.inputs], [r.type for r in node.results]
        ).flops
        for node in attrs.body.nodes
    )
    return Cost(flops, sum(t.nbytes for t in (*ins, *outs)))


def _decompose(attrs: Attrs, inputs: Sequence[Value]) -> Sequence[Value]:
    assert isinstance(attrs, CompositeAttrs)
    return inline(attrs.body, inputs, attrs.name)


def _eager(
    attrs: Attrs, ins: Sequence[TensorType], outs: Sequence[TensorType]
) -> EagerKernel | None:
    assert isinstance(attrs, CompositeAttrs)
    rule = _RULES.get(attrs.body)
    if rule is None:
        return None
    names = []
    for p in attrs.body.params:
        assert isinstance(p.node.attrs, ParameterAttrs)
        names.append(p.node.attrs.name)
    exact = functools.partial(_exact, attrs)
    return rule(Call(tuple(names), ins, dict(attrs.static), outs, exact))


def _exact(attrs: CompositeAttrs, *operands: Array) -> tuple[Array, ...]:
    return _ref(attrs, operands)


COMPOSITE = Op(
    name="composite",
    family="composite",
    arity=None,
    type=_type,
    ref=_ref,
    axes=None,
    cost=_cost,
    doc="A named function of ops, kept whole until something asks for its decomposition.",
    attrs=CompositeAttrs,
    decompose=_decompose,
    eager=_eager,
    blank={
        "axes": "decomposed before anything needs the index map",
        "jvp": "that of its body, or the one among its attributes",
        "transpose": "decomposed before differentiation",
        "emit": "decomposed, or claimed by name",
        "samples": "each composite has its own value tests",
    },
)


def composite(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a function of graph values into one that builds a `composite` node of its name.

    Positional parameters are operands (`Value`, or None where an optional one is left out);
    keyword-only parameters are static attributes. The body is traced once per operand types and
    attributes. Errors of the body are raised at the call.
    """
    return _builder(function, None, None)


def composite_with_kernel(eager: CallRule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `composite`, of a function that kernels of `eager` compute at once."""
    return lambda function: _builder(function, None, eager)


def composite_with_jvp(
    jvp: Callable[..., Value], eager: CallRule | None = None
) -> Callable[[Callable[P, Value]], Callable[P, Value]]:
    """As `composite`, of a function of one result whose tangent is
    `jvp(operands…, result, tangents…)`, with the static attributes as keywords."""
    return lambda function: _builder(function, jvp, eager)


def _builder(
    function: Callable[P, R], jvp: Callable[..., Value] | None, eager: CallRule | None
) -> Callable[P, R]:
    signature = inspect.signature(function)
    name = function.__name__
    bodies: dict[object, tuple[CompositeAttrs, bool]] = {}
    calls: dict[object, tuple[CompositeAttrs, bool]] = {}

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> R:
        call = _call_key(args, kwargs)
        known = None if call is None else calls.get(call)
        if known is not None:
            given = [v for v in args if isinstance(v, Value)]
            results = COMPOSITE.build(given, known[0])
            return results[0] if known[1] else results  # type: ignore[return-value]
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        operands = dict(zip(bound.arguments, bound.args, strict=False))
        types = tuple((n, _operand_type(name, n, v)) for n, v in operands.items())
        static = {n: _static(name, n, v) for n, v in bound.kwargs.items()}
        key = (types, repr(static))
        found = bodies.get(key)
        if found is None:
            body, single = _trace(name, function, types, static)
            rule = None if jvp is None else _trace_jvp(functools.partial(jvp, **static), body)
            attrs = CompositeAttrs(name, body, tuple(static.items()), rule)
            found = bodies[key] = attrs, single
            if eager is not None:
                claim(body, eager)
        attrs, single = found
        if call is not None:
            if len(calls) >= _MAX_CALLS:
                calls.clear()
            calls[call] = found
        inputs = tuple(v for v in operands.values() if isinstance(v, Value))
        results = COMPOSITE.build(inputs, attrs)
        return results[0] if single else results  # type: ignore[return-value]

    return build


_MAX_CALLS = 1 << 12


def _call_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """What a call that gives operands by position and attributes by name says, but for the values
    of the operands; None for others."""
    key: list[Any] = []
    for v in args:
        if v is not None and type(v) is not Value:
            return None
        key.append(v and v.type)
    for name, x in kwargs.items():
        if type(x) not in (bool, int, str, tuple):
            if type(x) is not float:
                return None
            x = x.hex()
        elif type(x) is tuple and not all(type(i) is int for i in x):
            return None
        key += (name, type(x), x)
    return tuple(key)


def _trace_jvp(jvp: Callable[..., Value], body: Graph) -> Graph:
    """The graph of a tangent rule, for operands and results like those of `body`."""
    names = [f"x{i}" for i in range(len(body.params))]
    types = [p.type for p in body.params]
    tangents = [(f"d_{n}", t) for n, t in zip(names, types, strict=True)]
    given = [*zip(names, types, strict=True), ("y", body.outputs[0].type), *tangents]
    params = [parameter(i, n, t) for i, (n, t) in enumerate(given)]
    with provenance(NOWHERE):
        return make_graph(f"{body.name}_jvp", params, [jvp(*params)])


def _operand_type(name: str, operand: str, value: object) -> TensorType | None:
    """The type of an operand, None for one that is left out."""
    if value is None or isinstance(value, Value):
        return None if value is None else value.type
    raise GraphError(
        f"{name}: {operand} is {value!r}, not a value of a graph",
        fix=f"make it one with constant or array, or leave {operand} out",
    )


def _static(name: str, field: str, value: object) -> Static:
    """The attribute as it is kept: lists become tuples, NumPy scalars Python ones."""
    if isinstance(value, list | tuple):
        return tuple(_static(name, field, v) for v in value)  # type: ignore[return-value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | DType):
        return value
    raise GraphError(
        f"{name}: {field}={value!r} is not an attribute",
        fix="attributes are numbers, text, dtypes and tuples of them",
    )


def _trace(
    name: str,
    function: Callable[..., Value | tuple[Value, ...]],
    types: tuple[tuple[str, TensorType | None], ...],
    static: dict[str, Static],
) -> tuple[Graph, bool]:
    params: list[Value] = []
    operands: list[Value | None] = []
    for operand, type in types:
        if type is not None:
            params.append(parameter(len(params), operand, type))
        operands.append(None if type is None else params[-1])
    with provenance(NOWHERE):
        result = function(*operands, **static)
    outputs = (result,) if isinstance(result, Value) else result
    return make_graph(name, params, outputs), isinstance(result, Value)


RECORDS = (COMPOSITE,)


def as_composite(replay: Replay, name: str, types: Sequence[TensorType]) -> Replay:
    """The same results by one composite, of those given values (of `types`) that matter."""
    given = len(types)
    made = dict.fromkeys(i for i in replay.outputs if i >= given)
    read = {i for step in replay.steps for i in step[2] if i < given}
    params = {i: parameter(k, f"x{k}", types[i]) for k, i in enumerate(sorted(read))}
    values: list[Any] = [params.get(i) for i in range(given)]
    for op, attrs, operands, _, via in replay.steps:
        with provenance(NOWHERE.with_via(via) if via else NOWHERE):
            values += op.build([values[i] for i in operands], attrs)
    body = make_graph(name, params.values(), [values[i] for i in made])
    results = tuple([v.type for v in body.outputs])
    step = (COMPOSITE, CompositeAttrs(name, body), tuple(params), results, "")
    place = {i: given + k for k, i in enumerate(made)}
    return Replay((step,), tuple([place.get(i, i) for i in replay.outputs]))
