"""Functions whose derivative the user gives: `custom_jvp`, `custom_vjp`, `stop_gradient`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rung.core.errors import GradientError, ShapeError
from rung.core.wrapper import Wrapper
from rung.ir.node import Value
from rung.ir.op import Op
from rung.ir.types import TensorType
from rung.ops.creation import full, full_like
from rung.tensor import tree
from rung.tensor.autograd import detach
from rung.tensor.operate import as_tensor
from rung.tensor.ruled import CUSTOM_JVP, CUSTOM_VJP, Rule, RuleAttrs, Values
from rung.tensor.state import (
    TensorState,
    framed,
    graph_value,
    keeping_frames,
    new_tensor,
    raw_value,
    recorded,
    state,
)

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Function = Callable[..., Any]


def stop_gradient(x: Any) -> Any:
    """The same values, through which no derivative passes; x is a tree of tensors."""
    return tree.map(lambda t: detach(t) if isinstance(t, TensorState) else t, x)


class _Custom(Wrapper):
    """A function with a rule that is still to be given."""

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def _missing(self, how: str) -> GradientError:
        return GradientError(
            f"{self.name}: has no derivative rule yet", fix=f"give it by {self.name}.{how}"
        )


class custom_jvp(_Custom):
    """A function with a forward derivative of its own, given by `defjvp`; the reverse one is its
    transpose, so the rule must be linear in the tangents.

        @rung.custom_jvp
        def log1pexp(x):
            return rung.log(1 + rung.exp(x))

        @log1pexp.defjvp
        def rule(primals, tangents):
            (x,), (dx,) = primals, tangents
            return log1pexp(x), dx * rung.sigmoid(x)

    Arguments are trees of tensors; what is no tensor is passed on, with the tangent None, as have
    tensors that are no floats."""

    _rule: Function | None = None

    def defjvp(self, rule: Function) -> Function:
        """Give the rule: (primals, tangents), two tuples, -> (result, tangent of the result)."""
        self._rule = rule
        return rule

    def __call__(self, *args: Any) -> Any:
        if self._rule is None:
            raise self._missing("defjvp")
        given = _Arguments(args)
        outputs = _Outputs(self.name, self.function(*args))
        user = self._rule

        @keeping_frames
        def rule(values: Values) -> Values:
            count = len(given.values)
            primals = given.filled([new_tensor(v) for v in values[:count]])
            pairs = zip(values[:count], values[count:], strict=True)
            tangents = given.filled([_tangent(v, t) for v, t in pairs], others=False)
            with framed((*state.frames, None)), recorded():  # compiled calls are part of it
                _, moved = user(primals, tangents)
            return outputs.tangents(moved)

        return outputs.ruled(CUSTOM_JVP, rule, given, ())


class custom_vjp(_Custom):
    """A function with a reverse derivative of its own, given by `defvjp`; it has no forward one.

    @rung.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, ct: (rung.clip(ct, -1, 1),))
    """

    _rules: tuple[Function, Function] | None = None

    def defvjp(self, forward: Function, backward: Function) -> None:
        """Give the rules: `forward(*args)` -> (result, residuals), which is called in place of the
        function where gradients are followed, and `backward(residuals, cotangent)` -> a tuple with
        the cotangent of each argument (None for zero, and for what is no tensor)."""
        self._rules = (forward, backward)

    def __call__(self, *args: Any) -> Any:
        if self._rules is None:
            raise self._missing("defvjp")
        if not state.grad_enabled:
            return self.function(*args)
        forward, backward = self._rules
        given = _Arguments(args)
        result, kept = forward(*args)
        outputs = _Outputs(self.name, result)
        leaves, structure = tree.flatten(kept)
        tensors = [i for i, x in enumerate(leaves) if isinstance(x, TensorState)]
        residuals = tuple(graph_value(leaves[i]) for i in tensors)

        @keeping_frames
        def rule(values: Values) -> Values:
            filled = list(leaves)
            for i, v in zip(tensors, values, strict=False):
                assert v is not None
                filled[i] = new_tensor(v)
            cotangents = [
                new_tensor(full(t.shape, 0, t.dtype) if ct is None else ct)
                for t, ct in zip(outputs.types, values[len(tensors) :], strict=True)
            ]
            with framed((*state.frames, None)), recorded():  # compiled calls are part of it
                found = backward(
                    tree.unflatten(structure, filled), tree.unflatten(outputs.structure, cotangents)
                )
            return given.cotangents(self.name, found)

        return outputs.ruled(CUSTOM_VJP, rule, given, residuals)


def _tangent(value: Value | None, tangent: Value | None) -> Tensor | None:
    assert value is not None
    if not value.dtype.is_float:
        return None
    return new_tensor(full_like(value, 0) if tangent is None else tangent)


class _Arguments:
    """The arguments of a call, and the tensors among their leaves."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args
        self.leaves, self.structure = tree.flatten(args)
        self.places = [i for i, x in enumerate(self.leaves) if isinstance(x, TensorState)]
        self.values = tuple(graph_value(self.leaves[i]) for i in self.places)
        self.requires_grad = any(self.leaves[i]._requires_grad for i in self.places)

    def filled(self, tensors: Sequence[Any], others: bool = True) -> Any:
        """The arguments with other tensors; what is no tensor stays, or is None."""
        leaves = list(self.leaves) if others else [None] * len(self.leaves)
        for i, t in zip(self.places, tensors, strict=True):
            leaves[i] = t
        return tree.unflatten(self.structure, leaves)

    def cotangents(self, name: str, found: Any) -> list[Value | None]:
        """What a reverse rule gives, for each tensor. Raises GradientError and ShapeError."""
        if not isinstance(found, tuple | list) or len(found) != len(self.args):
            raise GradientError(
                f"{name}: the backward rule gives {_count(found)} for {len(self.args)} arguments",
                fix="return a tuple with the cotangent of each argument, None where it is zero",
            )
        given: list[Any] = []
        for ct, arg in zip(found, self.args, strict=True):
            theirs = tree.leaves(arg)
            leaves = [None] * len(theirs) if ct is None else tree.leaves(ct, _is_none)
            if len(leaves) != len(theirs):
                raise GradientError(
                    f"{name}: the backward rule gives {len(leaves)} cotangents for an argument "
                    f"with {len(theirs)} leaves",
                    fix="give each cotangent in the structure of its argument",
                )
            given += leaves
        return [_checked(name, "cotangent", given[i], self.leaves[i]._type) for i in self.places]


class _Outputs:
    """The results of a call."""

    def __init__(self, name: str, result: Any) -> None:
        self.name = name
        leaves, self.structure = tree.flatten(result)
        self.values = [graph_value(as_tensor(x)) for x in leaves]
        self.types = [v.type for v in self.values]

    def tangents(self, moved: Any) -> list[Value | None]:
        """What a forward rule gives, for each result. Raises GradientError and ShapeError."""
        leaves, structure = tree.flatten(moved, _is_none)
        if len(leaves) != len(self.types):
            raise GradientError(
                f"{self.name}: the rule gives tangents {structure} for results {self.structure}",
                fix="return (result, tangent) in one structure",
            )
        return [
            _checked(self.name, "tangent", t, type) if type.dtype.is_float else None
            for t, type in zip(leaves, self.types, strict=True)
        ]

    def ruled(self, op: Op, rule: Rule, given: _Arguments, residuals: tuple[Value, ...]) -> Any:
        """The results, with the rule."""
        attrs = RuleAttrs(rule, len(self.values), len(given.values))
        made = op.build((*self.values, *given.values, *residuals), attrs)
        follow = given.requires_grad and state.grad_enabled
        return tree.unflatten(
            self.structure,
            [new_tensor(v, requires_grad=follow and v.dtype.is_float) for v in made],
        )


def _is_none(x: Any) -> bool:
    return x is None


def _count(found: Any) -> str:
    return f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__


def _checked(name: str, what: str, x: Any, type: TensorType) -> Value | None:
    if x is None:
        return None
    tensor = as_tensor(x)
    if tensor._type.shape != type.shape or tensor._type.dtype is not type.dtype:
        raise ShapeError(
            f"{name}: the rule gives a {what} {tensor._type} for {type}",
            fix="it must have the shape and dtype of its value",
        )
    return raw_value(tensor)
