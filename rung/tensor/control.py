"""Loops and branches that are part of a graph: `scan`, `fori_loop`, `while_loop`, `cond`, `switch`,
`map` and `associative_scan`.

    final, outputs = rung.scan(lambda h, x: (rung.tanh(h @ w + x),) * 2, h0, xs)

The functions run once each, on tensors that stand for the values of any iteration; what they read
from outside is read by the loop. Compiled, the loop runs without Python between its iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import DTypeError, RungError, ShapeError, TraceError
from rung.ir.node import Graph, Node, Value, make_graph, parameter, provenance
from rung.ir.subgraph import between, dependent
from rung.ir.types import TensorType
from rung.ops import control
from rung.ops.control import ScanAttrs, SwitchAttrs, WhileAttrs
from rung.ops.gradient import stop_gradient
from rung.tensor import tree
from rung.tensor.leaf import DETACH, LEAF, TAG, Step, leaf_value, read_from_outside
from rung.tensor.operate import as_tensor, copied
from rung.tensor.shapes import concat
from rung.tensor.state import (
    TensorState,
    graph_value,
    mapping,
    new_tensor,
    raw_value,
    stand_in,
    state,
)

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Function = Callable[..., Any]


# ---- loops of known length


def scan(
    function: Function,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """`carry, y = function(carry, x)` for each x along the first axis of `xs`; the last carry, and
    all y along a new first axis.

    `init` and `xs` are trees of tensors; a carry keeps its shapes and dtypes. `xs` may be None,
    with `length` the number of iterations. `reverse`: from the last x to the first (y stay in the
    order of x). Raises ShapeError where lengths or carries differ, RungError where the results
    have not the structure (carry, y)."""
    name = f"scan of {_name(function)}"
    steps = _tensors(xs)
    count = _length(name, steps, xs, length)
    start = _tensors(init)
    body = _Body(name)
    carry = body.placeholders(start, init)
    each = body.placeholders([_slice(x) for x in steps], xs, steps)
    with mapping(body.holder):
        made = function(carry, each)
        if not isinstance(made, tuple) or len(made) != 2:
            raise RungError(f"{name}: the function gives {made!r:.60}, not (carry, y)")
        after = body.carried(made[0], start, init)
        shown, structure = tree.flatten(made[1])
        ys = [as_tensor(y) for y in shown]
        graph, outside = body.graph([*after, *ys])
    attrs = ScanAttrs(graph, count, len(outside), len(start), reverse)
    operands = [*outside, *_graph_values([*start, *steps])]
    results = body.tensors(control.scan.build(operands, attrs), [*after, *ys])
    final = _unflatten(init, results[: len(start)])
    return final, tree.unflatten(structure, results[len(start) :])


def fori_loop(lower: Any, upper: Any, function: Function, init: Any) -> Any:
    """`carry = function(i, carry)` for i (a scalar i32) from `lower` to before `upper`.

    With two Python ints the number of iterations is known, and the loop has a reverse derivative;
    otherwise it is a `while_loop`."""
    if isinstance(lower, int) and isinstance(upper, int):
        numbers = as_tensor(np.arange(lower, max(upper, lower), dtype=np.int32))
        return scan(lambda carry, i: (function(i, carry), None), init, numbers)[0]
    end = as_tensor(upper).astype(dt.int32)
    first = as_tensor(lower).astype(dt.int32)
    return while_loop(
        lambda pair: pair[0] < end,
        lambda pair: (pair[0] + 1, function(pair[0], pair[1])),
        (first, init),
    )[1]


def map(function: Function, *xs: Any) -> Any:
    """`function(x…)` for the slices of `xs` along their first axes, one after the other; the
    results along a new first axis. `vmap` does all at once and needs more memory."""
    return scan(lambda _, x: ((), function(*x)), (), xs)[1]


# ---- loops of unknown length


def while_loop(
    condition: Function, function: Function, init: Any, *, limit: int | None = None
) -> Any:
    """`carry = function(carry)` as long as `condition(carry)`, a scalar bool; the last carry.

    With `limit`, there are at most that many iterations, and the loop has a reverse derivative.
    A carry keeps its shapes and dtypes."""
    name = f"while_loop of {_name(function)}"
    if limit is not None and limit < 1:
        raise RungError(f"{name}: limit={limit}", fix="give 1 or more, or leave it out")
    start = _tensors(init)
    body = _Body(name)
    carry = body.placeholders(start, init)
    with mapping(body.holder):
        asked = as_tensor(condition(_own(carry)))
        if asked.shape != () or asked.dtype is not dt.bool_:
            raise DTypeError(
                f"{name}: the condition gives {asked.dtype}{list(asked.shape)}, not one bool",
                fix="compare, and reduce arrays with all or any",
            )
        after = body.carried(function(carry), start, init)
        whole, outside = body.graph([*after, asked])
    step = make_graph(whole.name, whole.params, whole.outputs[:-1])
    ask = make_graph(f"{whole.name}_condition", whole.params, whole.outputs[-1:])
    attrs = WhileAttrs(ask, step, len(outside), limit or 0)
    operands = [*outside, *_graph_values(start)]
    results = body.tensors(control.while_loop.build(operands, attrs), after)
    return _unflatten(init, results)


# ---- branches


def switch(index: Any, branches: Sequence[Function], *operands: Any) -> Any:
    """`branches[index](*operands)` for a scalar integer `index`, brought into range; the branches
    give trees of one structure, with the same shapes and dtypes."""
    if not branches:
        raise RungError("switch: there are no branches")
    number = as_tensor(index)
    if number.shape != () or not number.dtype.is_integer:
        raise DTypeError(
            f"switch: the index is {number.dtype}{list(number.shape)}, not a scalar integer"
        )
    number = number.clip(0, len(branches) - 1).astype(dt.int32)
    return branch(f"switch of {_name(branches[0])}", number, branches, operands)


def cond(condition: Any, true: Function, false: Function, *operands: Any) -> Any:
    """`true(*operands)` where the scalar bool `condition` holds, else `false(*operands)`; only that
    one is computed. Both give trees of one structure, with the same shapes and dtypes."""
    asked = as_tensor(condition)
    if asked.shape != () or asked.dtype is not dt.bool_:
        raise DTypeError(
            f"cond: the condition is {asked.dtype}{list(asked.shape)}, not a scalar bool",
            fix="compare, and reduce arrays with all or any",
        )
    return branch(f"cond of {_name(true)}", asked.astype(dt.int32), (false, true), operands)


def branch(
    name: str,
    index: Tensor,
    branches: Sequence[Function],
    operands: tuple[Any, ...],
    alike: Callable[[list[Any]], list[Any]] | None = None,
) -> Any:
    """`branches[index](*operands)` for an i32 in range. `alike` is given the results of all
    branches, and gives them with one structure and with the same types."""
    given = _tensors(operands)
    body = _Body(name)
    args = body.placeholders(given, operands)
    made: list[list[Tensor]] = []
    structure: tree.Structure | None = None
    with mapping(body.holder):
        results = [b(*_own(args)) for b in branches]
        for number, result in enumerate(results if alike is None else alike(results)):
            leaves, kind = tree.flatten(result)
            made.append([as_tensor(x) for x in leaves])
            if structure is None:
                structure = kind
            elif kind != structure:
                raise RungError(f"{name}: branch {number} gives {kind}, branch 0 {structure}")
            _same_types(name, number, made[0], made[-1])
        graph, outside = body.graph([t for leaves in made for t in leaves])
    count = len(made[0])
    graphs = tuple(
        make_graph(f"{graph.name}_{n}", graph.params, graph.outputs[n * count : (n + 1) * count])
        for n in range(len(branches))
    )
    values = [graph_value(index), *outside, *_graph_values(given)]
    found = control.switch.build(values, SwitchAttrs(graphs))
    each = [max(ts, key=lambda t: t._requires_grad) for ts in zip(*made, strict=True)]
    assert structure is not None
    return tree.unflatten(structure, body.tensors(found, each))


def _same_types(name: str, number: int, first: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(first, other, strict=True):
        if a._type != b._type:
            raise ShapeError(
                f"{name}: branch {number} gives {b._type} where branch 0 gives {a._type}",
                fix="all branches give the same shapes and dtypes",
            )


# ---- associative_scan


def associative_scan(function: Function, xs: Any, *, reverse: bool = False, axis: int = 0) -> Any:
    """All prefixes x0, function(x0, x1), function(that, x2), … along `axis` of the tensors of the
    tree `xs`, in a number of steps that grows with the logarithm of the length.

    `function(a, b)` must be associative, and work on many elements along `axis` at once."""
    leaves, structure = tree.flatten(xs)
    tensors = [as_tensor(x) for x in leaves]
    lengths = {t.shape[axis] for t in tensors}
    if len(lengths) != 1:
        raise ShapeError(f"associative_scan: lengths differ: {sorted(lengths)}")

    def combine(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        made = function(tree.unflatten(structure, a), tree.unflatten(structure, b))
        return [as_tensor(x) for x in tree.leaves(made)]

    if reverse:
        tensors = [t.flip(axis) for t in tensors]
    found = _prefixes(combine, tensors, axis)
    if reverse:
        found = [t.flip(axis) for t in found]
    return tree.unflatten(structure, found)


def _prefixes(combine: Function, xs: list[Tensor], axis: int) -> list[Tensor]:
    count = xs[0].shape[axis]
    if count < 2:
        return xs
    even, odd = [_part(x, axis, 0, 2) for x in xs], [_part(x, axis, 1, 2) for x in xs]
    pairs = combine([_part(x, axis, 0, 1, count // 2) for x in even], odd)
    odd = _prefixes(combine, pairs, axis)
    rest = [_part(x, axis, 1, 1) for x in even]
    before = [_part(x, axis, 0, 1, rest[0].shape[axis]) for x in odd]
    later = combine(before, rest) if rest[0].shape[axis] else rest
    first = [_part(x, axis, 0, 1, 1) for x in even]
    return [
        _interleaved(concat([f, n], axis=axis), o, axis)
        for f, n, o in zip(first, later, odd, strict=True)
    ]


def _part(x: Tensor, axis: int, start: int, step: int, stop: int | None = None) -> Tensor:
    place = axis % x.ndim
    return x[(slice(None),) * place + (slice(start, stop, step),)]


def _graph_values(tensors: Sequence[Tensor]) -> list[Value]:
    """The graph values of tensors."""
    return [graph_value(t) for t in tensors]


def _interleaved(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """even0, odd0, even1, odd1, …; there may be one more of the even ones."""
    place, count = axis % even.ndim, odd.shape[axis]
    wide = [t.unsqueeze(place + 1) for t in (_part(even, axis, 0, 1, count), odd)]
    pairs = concat(wide, axis=place + 1)
    shape = (*odd.shape[:place], 2 * count, *odd.shape[place + 1 :])
    return concat([pairs.reshape(shape), _part(even, axis, count, 1)], axis=axis)


# ---- bodies


class _Body:
    """The functions of one loop or branch, run on placeholders, and what they read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holder = Step(name)
        self.inputs: list[Value] = []

    def placeholders(
        self, like: Sequence[Tensor | TensorType], whole: Any, tensors: Sequence[Tensor] = ()
    ) -> Any:
        """The tree `whole` with something that stands for any iteration in place of its leaves."""
        made: list[Tensor] = []
        for number, t in enumerate(like):
            source = tensors[number] if isinstance(t, TensorType) else t
            type = t if isinstance(t, TensorType) else t._type
            value = leaf_value(self.holder, type)
            self.inputs.append(value)
            follow = source._requires_grad and state.grad_enabled
            made.append(stand_in(value, requires_grad=follow))
        return _unflatten(whole, made)

    def carried(self, made: Any, start: Sequence[Tensor], init: Any) -> list[Tensor]:
        """The carries after an iteration, checked against those before."""
        leaves, structure = tree.flatten(made)
        if structure != tree.flatten(init)[1]:
            raise RungError(
                f"{self.name}: the carry is {tree.flatten(init)[1]} before an iteration and "
                f"{structure} after it",
                fix="return a carry of the structure of init",
            )
        paths = tree.paths(structure)
        found: list[Tensor] = []
        for path, x, before in zip(paths, leaves, start, strict=True):
            after = x if isinstance(x, TensorState) else as_tensor(x, before.dtype)
            if after._type != before._type:
                raise ShapeError(
                    f"{self.name}: carry{path} is {before._type} before an iteration and "
                    f"{after._type} after it",
                    fix="a carry keeps its shape and dtype: cast init, or what is returned",
                )
            found.append(after)
        return found

    def graph(self, results: Sequence[Tensor]) -> tuple[Graph, list[Value]]:
        """The functions as a graph with the parameters (what is read from outside…,
        placeholders…), and the values from outside."""
        values = [raw_value(t) for t in results]
        nodes = between(values, self.inputs)
        outside = read_from_outside(nodes, dependent(nodes, self.inputs), values)
        given = [*outside, *self.inputs]
        names = [f"outer{i}" for i in range(len(outside))]
        names += [f"x{i}" for i in range(len(self.inputs))]
        params = [
            parameter(i, name, v.type) for i, (v, name) in enumerate(zip(given, names, strict=True))
        ]
        known = dict(zip(given, params, strict=True))
        for node in between(values, known):
            _rebuild(self.name, node, known)
        title = self.name.rpartition(" ")[2]
        return make_graph(title, params, [known[v] for v in values]), outside

    def tensors(self, values: Sequence[Value], like: Sequence[Tensor]) -> list[Tensor]:
        """The results as tensors, which follow gradients if those of an iteration do."""
        return [
            new_tensor(v, requires_grad=t._requires_grad) for v, t in zip(values, like, strict=True)
        ]


def _rebuild(name: str, node: Node, known: dict[Value, Value]) -> None:
    """A node on the values of a body; what only pending graphs have becomes what it means."""
    if node.op is LEAF:
        raise TraceError(f"{name}: a tensor of another loop or trace is used in it")
    inputs = [known[v] for v in node.inputs]
    made: Sequence[Value]
    if node.op is TAG:
        made = inputs
    elif node.op is DETACH:
        made = (stop_gradient(inputs[0]),)
    else:
        with provenance(node.source):
            made = node.op.build(inputs, node.attrs)
    known.update((r, v) for r, v in zip(node.results, made, strict=True) if r not in known)


# ---- trees


def _name(function: Function) -> str:
    found = getattr(function, "__name__", type(function).__name__)
    return "function" if found == "<lambda>" else found


def _tensors(whole: Any) -> list[Tensor]:
    return [as_tensor(x) for x in tree.leaves(whole)]


def _own(whole: Any) -> Any:
    """The tree with tensors of its own, which a function may update in place."""
    return tree.map(copied, whole)


def _unflatten(like: Any, leaves: Sequence[Tensor]) -> Any:
    return tree.unflatten(tree.flatten(like)[1], leaves)


def _slice(x: Tensor) -> TensorType:
    return TensorType(x.dtype, x.shape[1:])


def _length(name: str, steps: Sequence[Tensor], xs: Any, length: int | None) -> int:
    paths = tree.paths(tree.flatten(xs)[1])
    for path, x in zip(paths, steps, strict=True):
        if not x.shape:
            raise ShapeError(f"{name}: xs{path} is a scalar; its first axis is scanned over")
    sizes = {f"xs{path}": x.shape[0] for path, x in zip(paths, steps, strict=True)}
    if length is not None:
        sizes["length"] = length
    if not sizes:
        raise RungError(f"{name}: the number of iterations is not known", fix="give xs or length")
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{what} has {n}" for what, n in sizes.items())
        raise ShapeError(f"{name}: lengths differ: {given}")
    return next(iter(sizes.values()))
