"""Derivatives in both styles: functions of functions, and `requires_grad` with `backward()`.

Both stand on `rung.transform`. The use of a tensor that a derivative is asked for carries a tag in
the graph; a derivative is taken with respect to the tagged value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Any

from rung.core.errors import GradientError, ShapeError
from rung.ir.node import Value
from rung.ops.creation import full_like
from rung.ops.families import add
from rung.tensor import tree
from rung.tensor.leaf import DETACH, TAG, Tag, TagAttrs, detached, tagged
from rung.tensor.operate import as_tensor
from rung.tensor.pending import waiting
from rung.tensor.state import (
    TensorState,
    begin_write,
    graph_value,
    new_tensor,
    raw_value,
    state,
    unrecorded,
    write,
)
from rung.transform.jvp import jvp_values
from rung.transform.remembered import vjp_of_nodes

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Function = Callable[..., Any]


class _GradMode(ContextDecorator):
    """Gradients followed or not, inside a `with` block or a decorated function."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(state.grad_enabled)
        state.grad_enabled = self._enabled

    def __exit__(self, *_: object) -> None:
        state.grad_enabled = self._before[-1]
        self._before.pop()

    def __del__(self) -> None:
        if getattr(self, "_before", None):  # Ctrl-C came at the very start of `__exit__`
            state.grad_enabled = self._before[0]


def no_grad() -> _GradMode:
    """Follow no gradients: as `with rung.no_grad():` or `@rung.no_grad()`."""
    return _GradMode(enabled=False)


def enable_grad() -> _GradMode:
    """Follow gradients again, inside `no_grad`."""
    return _GradMode(enabled=True)


def is_grad_enabled() -> bool:
    """Whether gradients are followed now."""
    return state.grad_enabled


def detach(x: TensorState) -> Tensor:
    """A tensor of the same value through which no derivative passes."""
    if x._buffer is not None and state.trace is None and x._trace is None and not state.mapping:
        return new_tensor(buffer=x._buffer.private())
    return new_tensor(detached(raw_value(x)), depth=x._depth)


# ---- backward


def backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> None:
    """Add the derivative of this tensor to `.grad` of each `requires_grad` tensor it is made from.

    `gradient` is the cotangent, of the shape of this tensor; a scalar has one by default. The graph
    is let go unless `retain_graph`. `create_graph` makes gradients that can themselves be
    differentiated. Raises GradientError."""
    value = raw_value(self)
    cotangent = _cotangent(self, value, gradient)
    uses, seen = _uses(value)
    if not uses:
        raise GradientError(
            f"backward: nothing that {self._type} is made from requires a gradient",
            fix="set requires_grad on the parameters, and do not compute under no_grad()",
        )
    with _GradMode(enabled=create_graph):
        found = _cotangents([value], [v for _, v in uses], [cotangent])
        for tensor, total in _by_tensor(uses, found):
            _accumulate(tensor, total, create_graph)
    if not (retain_graph or create_graph):
        _let_go(self, seen)


def _cotangents(
    outputs: Sequence[Value], inputs: Sequence[Value], cotangents: Sequence[Value]
) -> list[Value | None]:
    whole = state.trace is None and not state.mapping
    return unrecorded(vjp_of_nodes, outputs, inputs, cotangents, whole)


def _cotangent(x: Tensor, value: Value, gradient: Tensor | None) -> Value:
    if x._spent and x._value is None:
        raise _let_go_error()
    if not x._requires_grad:
        raise GradientError(
            f"backward: this tensor {x._type} does not depend on one that requires a gradient",
            fix="set requires_grad on the parameters, and do not compute under no_grad()",
        )
    if gradient is None:
        if x.shape != ():
            raise GradientError(
                f"backward of a tensor {x._type} needs its gradient",
                fix="reduce it to one number, e.g. by mean() or sum(), or pass gradient",
            )
        return full_like(value, 1)
    if gradient._type != x._type:
        raise ShapeError(f"backward: gradient {gradient._type} of a tensor {x._type}")
    return graph_value(gradient)


def _uses(value: Value) -> tuple[list[tuple[TensorState, Value]], set[Value]]:
    """The tagged uses of `requires_grad` tensors that a value is made from, and all values seen on
    the way. Raises GradientError where the graph was let go."""
    uses: list[tuple[TensorState, Value]] = []
    seen: set[Value] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        node = v.node
        if node.op is DETACH:
            continue
        if node.op is TAG:
            assert isinstance(node.attrs, TagAttrs)
            tag = node.attrs.tag
            if tag.freed:
                raise _let_go_error()
            if tag.tensor is not None:
                tensor = tag.tensor()
                if tensor is not None and tensor._is_leaf:
                    uses.append((tensor, v))
                continue
        stack.extend(reversed(node.inputs))
    return uses, seen


def _let_go_error() -> GradientError:
    return GradientError(
        "backward: the graph was let go by an earlier backward(), or by rung.grad (value_and_grad, "
        "vjp …) with respect to a tensor that requires a gradient",
        fix="call that backward() with retain_graph=True, take the outer derivative by rung.grad "
        "too, or detach() the tensor",
    )


def _by_tensor(
    uses: Sequence[tuple[TensorState, Value]], gradients: Sequence[Value | None]
) -> Iterable[tuple[TensorState, Value]]:
    totals: dict[int, tuple[TensorState, Value]] = {}
    for (tensor, _), gradient in zip(uses, gradients, strict=True):
        if gradient is None:
            continue
        known = totals.get(id(tensor))
        total = gradient if known is None else add(known[1], gradient)
        totals[id(tensor)] = (tensor, total)
    return totals.values()


def _accumulate(tensor: Any, gradient: Value, keep_graph: bool) -> None:
    if not keep_graph:
        gradient = detached(gradient)
    known = tensor.grad
    if known is None:
        tensor.grad = new_tensor(gradient, requires_grad=keep_graph)
    elif keep_graph:
        tensor.grad = known + new_tensor(gradient, requires_grad=True)
    else:
        begin_write(known)
        write(known, add(raw_value(known), gradient))


def _let_go(loss: TensorState, seen: set[Value]) -> None:
    """Let the graph behind these values go once they are computed."""
    for tensor in (loss, *waiting()):
        if tensor._value in seen and not tensor._is_leaf:
            tensor._spent = True
            if tensor._buffer is not None:
                tensor._value = None


# ---- functions of functions


class Primals:
    """The tensors of some arguments, tagged for one derivative."""

    def __init__(self, name: str, args: tuple[Any, ...], argnums: int | Sequence[int]) -> None:
        self.single = isinstance(argnums, int)
        given = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        for n in given:
            if not -len(args) <= n < len(args):
                raise GradientError(
                    f"{name}: argument {n} of a call with {len(args)} positional arguments",
                    fix="argnums counts positional arguments from 0",
                )
        self.numbers = [n % len(args) for n in given]
        leaves, self.structure = tree.flatten(tuple(args[n] for n in self.numbers))
        self.tensors = [_primal(name, x) for x in leaves]
        self.followed = state.grad_enabled and any(t._is_leaf for t in self.tensors)
        self.tags = [Tag() for _ in self.tensors]
        pairs = zip(self.tensors, self.tags, strict=True)
        self.values = [tagged(_outer(t), tag) for t, tag in pairs]
        self.replaced = list(args)
        inner = [new_tensor(v, requires_grad=True) for v in self.values]
        for n, arg in zip(self.numbers, tree.unflatten(self.structure, inner), strict=True):
            self.replaced[n] = arg

    def tracked(self, *values: Value) -> bool:
        """Whether another derivative looks at `values`: a tag that is not ours is behind them. The
        function has run by now, so ours are none of those that others ask for."""
        for tag in self.tags:
            tag.over = True
        if not state.grad_enabled:
            return False
        seen, stack = set(), [v.node for v in values]
        while stack:
            node = stack.pop()
            if not node.watched or node in seen or node.op is DETACH:
                continue
            seen.add(node)
            attrs = node.attrs
            if isinstance(attrs, TagAttrs) and not attrs.tag.over:
                return True
            stack.extend([v.node for v in node.inputs])
        for node in seen:  # for good: a tag that is over stays so
            node.watched = False
        return False

    def gradients(self, found: Sequence[Value | None], tracked: bool) -> Any:
        """Gradients in the structure of the arguments; zeros where a derivative is zero."""
        filled = [
            full_like(v, 0) if g is None else g for g, v in zip(found, self.values, strict=True)
        ]
        trees = tree.unflatten(self.structure, [self.settled(g, tracked) for g in filled])
        return trees[0] if self.single else trees

    def settled(self, value: Value, tracked: bool) -> Tensor:
        """The tensor of what the derivative found, which another derivative sees through if
        `tracked`. `backward()` refuses what was found with respect to a tensor that it follows:
        its graph is let go."""
        if tracked:
            return new_tensor(value, requires_grad=True)
        if not self.followed or not value.dtype.is_float:
            return new_tensor(detached(value))
        found = new_tensor(tagged(detached(value), Tag(freed=True, over=True)), requires_grad=True)
        found._spent = True
        return found


def _primal(name: str, x: Any) -> Tensor:
    tensor = as_tensor(x)
    if not tensor.dtype.is_float:
        raise GradientError(
            f"{name}: an argument to differentiate is {tensor._type}",
            fix="give floats, or choose other arguments by argnums",
        )
    return tensor


def _outer(tensor: TensorState) -> Value:
    """The value to differentiate at; an outer derivative sees through it."""
    return raw_value(tensor) if tensor._is_leaf else graph_value(tensor)


def value_and_grad(
    function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Function:
    """A function that returns (result, gradient): the gradient of the scalar result of `function`
    with respect to the positional arguments `argnums`, trees of float tensors, in their structure.

    With `has_aux` the function returns (result, aux) and so does the first part. Another derivative
    of a function passes through what is returned; `backward()` does not: it raises GradientError
    where that was found with respect to a tensor that requires a gradient. Raises GradientError for
    a result that is not a float scalar."""

    def derived(*args: Any, **kwargs: Any) -> Any:
        primals = Primals("grad", args, argnums)
        with _GradMode(enabled=True):
            result = function(*primals.replaced, **kwargs)
        aux = None
        if has_aux:
            result, aux = result

        def settle(x: Tensor) -> Tensor:
            found = raw_value(x)
            follows = x._requires_grad
            return primals.settled(found, tracked) if follows else new_tensor(detached(found))

        value = _scalar(result)
        seed = [full_like(value, 1)]
        found = _cotangents([value], primals.values, seed)
        tracked = primals.tracked(value)
        gradients = primals.gradients(found, tracked)
        settled = settle(result)
        if not has_aux:
            return settled, gradients
        aux = tree.map(lambda x: settle(x) if isinstance(x, TensorState) else x, aux)
        return (settled, aux), gradients

    return derived


def _scalar(result: Any) -> Value:
    if not isinstance(result, TensorState):
        raise GradientError(f"grad: the function returns {type(result).__name__}, not a tensor")
    if result.shape != () or not result.dtype.is_float:
        raise GradientError(
            f"grad: the function returns {result._type}, not a float scalar",
            fix="reduce it to one number, e.g. by mean() or sum()",
        )
    return raw_value(result)


def grad(function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """A function that returns the gradient of `function` (or (gradient, aux)); see
    `value_and_grad`."""
    both = value_and_grad(function, argnums, has_aux)

    def derived(*args: Any, **kwargs: Any) -> Any:
        result, gradients = both(*args, **kwargs)
        return (gradients, result[1]) if has_aux else gradients

    return derived


def vjp(function: Function, *primals: Any) -> tuple[Any, Function]:
    """(result, pull_back): `pull_back(cotangent)`, for a cotangent in the structure of the result,
    gives a tuple with the gradient for each of `primals`."""
    given = Primals("vjp", primals, tuple(range(len(primals))))
    with _GradMode(enabled=True):
        result = function(*given.replaced)
    outputs, structure = tree.flatten(result)
    values = [raw_value(as_tensor(x)) for x in outputs]
    tracked = given.tracked(*values)

    def pull_back(cotangent: Any) -> Any:
        cotangents, theirs = tree.flatten(cotangent)
        if theirs != structure:
            raise GradientError(f"vjp: cotangent {theirs} for a result {structure}")
        seeds = [graph_value(as_tensor(c)) for c in cotangents]
        found = _cotangents(values, given.values, seeds)
        return given.gradients(found, tracked)

    return tree.unflatten(structure, [given.settled(v, tracked) for v in values]), pull_back


def jvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(result, tangent of the result) for `tangents` in the structure of `primals`."""
    given = Primals("jvp", tuple(primals), tuple(range(len(primals))))
    moving, structure = tree.flatten(tuple(tangents))
    if structure != given.structure:
        raise GradientError(f"jvp: tangents {structure} for primals {given.structure}")
    with _GradMode(enabled=True):
        result = function(*given.replaced)
    outputs, shape = tree.flatten(result)
    values = [raw_value(as_tensor(x)) for x in outputs]
    found = jvp_values(values, given.values, [graph_value(as_tensor(t)) for t in moving])
    tracked = given.tracked(*values)
    filled = [full_like(v, 0) if t is None else t for t, v in zip(found, values, strict=True)]
    return (
        tree.unflatten(shape, [given.settled(v, tracked) for v in values]),
        tree.unflatten(shape, [given.settled(t, tracked) for t in filled]),
    )
