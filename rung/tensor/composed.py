"""Functions of tensors that become one named node: a composite, whose body is worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from rung.core.source import NOWHERE, user_source
from rung.ir.node import (
    Node,
    Value,
    make_graph,
    make_node,
    parameter,
    provenance,
    sources,
    topological_order,
)
from rung.ir.types import TensorType
from rung.ops.composite import COMPOSITE, CallRule, CompositeAttrs, claim
from rung.tensor.state import (
    TensorState,
    graph_value,
    inherit,
    new_tensor,
    raw_value,
    state,
    unrecorded,
)

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

_MAX_BODIES = 1 << 12
remembered: list[dict[Any, Any]] = []
"""The bodies of all functions."""
Results = tuple["Tensor", ...]
P = ParamSpec("P")


def composed(
    eager: CallRule,
) -> Callable[[Callable[..., Sequence[Tensor]]], Callable[..., Results]]:
    """A function of tensors (by position) and plain hashable values (by keyword) as one node of its
    name; what it computes must depend on these alone. It gives a sequence of tensors, and is run
    once for each kind of arguments, without following gradients. `eager` is the rule of its
    kernel."""
    return lambda function: _composed(function, eager)


def _composed(function: Callable[..., Sequence[Tensor]], eager: CallRule) -> Callable[..., Results]:
    bodies: dict[Any, tuple[CompositeAttrs, tuple[TensorType, ...]]] = {}
    remembered.append(bodies)
    name = function.__name__.strip("_")

    @wraps(function)
    def build(*tensors: TensorState, **static: Any) -> Results:
        key = (*[t._type for t in tensors], *static.items())
        found = bodies.get(key)
        if found is None:
            found = unrecorded(_body, name, function, [t._type for t in tensors], static)
            if len(bodies) >= _MAX_BODIES:
                bodies.clear()
            bodies[key] = found
            claim(found[0].body, eager)
        return _node(*found, tensors)

    return build


def one_node(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """`function` as one node of its name, where it is called outside of `jit` and of functions for
    many values, with tensors and plain values. What it computes must depend on types and values of
    the arguments alone, and not look at tensors."""
    bodies: dict[Any, tuple[CompositeAttrs, tuple[TensorType, ...]]] = {}
    remembered.append(bodies)
    name = function.__name__

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        form = _form(args, kwargs)
        if form is None or state.trace is not None or state.mapping or state.recorder is not None:
            return function(*args, **kwargs)
        found = bodies.get(form)
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, TensorState)]
        if found is None:
            found = _body(name, _of_tensors(function, args, kwargs), [t._type for t in tensors], {})
            if len(bodies) >= _MAX_BODIES:
                bodies.clear()
            bodies[form] = found
        return _node(*found, tensors)[0]

    return call


def _form(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a body depends on; None for arguments that are neither tensors nor plain."""
    form: list[Any] = []
    for x in (*args, *kwargs.values()):
        if isinstance(x, TensorState):
            if x._weak:
                return None
            form.append(x._type)
        elif x is None or type(x) in (bool, int, str):
            form.append((type(x), x))
        elif type(x) is float:
            form.append(x.hex())
        else:
            return None
    return (*form, *kwargs)


def _of_tensors(
    function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Sequence[Tensor]]:
    """`function` of the tensors among its arguments, the others as they are."""

    def of_tensors(*tensors: Tensor) -> Sequence[Tensor]:
        following = iter(tensors)
        placed = [next(following) if isinstance(x, TensorState) else x for x in args]
        named = {
            k: next(following) if isinstance(x, TensorState) else x for k, x in kwargs.items()
        }
        return [function(*placed, **named)]

    return of_tensors


def _node(
    attrs: CompositeAttrs, types: tuple[TensorType, ...], tensors: Sequence[TensorState]
) -> Results:
    values = tuple([graph_value(t) for t in tensors])
    there = sources()
    place = there[-1] if there else user_source()
    results = Node(COMPOSITE, values, attrs, place, types).results
    requires, depth = inherit(tensors)
    return tuple(
        [
            new_tensor(v, requires_grad=requires and v.type.dtype.is_float, depth=depth)
            for v in results
        ]
    )


def _body(
    name: str,
    function: Callable[..., Sequence[Tensor]],
    types: Sequence[TensorType],
    static: dict[str, Any],
) -> tuple[CompositeAttrs, tuple[TensorType, ...]]:
    enabled = state.grad_enabled
    params = [parameter(i, f"x{i}", t) for i, t in enumerate(types)]
    try:
        state.grad_enabled = False
        with provenance(NOWHERE):
            found = function(*[new_tensor(p) for p in params], **static)
            outputs = _interned([raw_value(t) for t in found])
    finally:
        state.grad_enabled = enabled
    body = make_graph(name, params, outputs)
    given = tuple((k, v) for k, v in static.items())
    return CompositeAttrs(name, body, given), tuple([v.type for v in outputs])


def _interned(values: Sequence[Value]) -> list[Value]:
    """The same values, of nodes that are interned."""
    known: dict[Value, Value] = {}
    for node in topological_order(values):
        with provenance(node.source):
            made = make_node(node.op, tuple([known[v] for v in node.inputs]), node.attrs)
        known.update(zip(node.results, made, strict=True))
    return [known[v] for v in values]
