"""Loops and branches that are part of a graph: `scan`, `fori_loop`, `while_loop`, `cond`, `switch`,
`map` and `associative_scan`.

    final, outputs = rung.scan(lambda h, x: (rung.tanh(h @ w + x),) * 2, h0, xs)

The functions run once each, on tensors that stand for the values of any iteration; what they read
from outside is read by the loop. Compiled, the loop runs without Python between its iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rung.core import dtype as dt
from rung.core.arguments import NO, described, host_arrays, read_int
from rung.core.errors import ArgumentError, DomainError, DTypeError, RungError, ShapeError
from rung.ir.node import Value, make_graph
from rung.ir.op import Attrs, Op
from rung.ir.subgraph import between, moved_values
from rung.ir.types import TensorType
from rung.ops import control
from rung.ops.check import holds_check
from rung.ops.control import ScanAttrs, SwitchAttrs, WhileAttrs
from rung.tensor import tree
from rung.tensor.bodies import Alike, Body, as_results, as_weak, settled, unflatten
from rung.tensor.creation import arange
from rung.tensor.operate import as_tensor, cast_weak, copied, one_axis, weakly
from rung.tensor.random import advanced, offset
from rung.tensor.shapes import concat
from rung.tensor.state import (
    TensorState,
    graph_value,
    keeping_frames,
    mapping,
    note_checks,
    raw_value,
    write,
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

    def run(start: list[Tensor]) -> tuple[Any, Any]:
        body = Body(name)
        with mapping(body.holder):
            carry = body.placeholders(start, init)
            each = body.placeholders([_slice(x) for x in steps], xs, steps)
            made = function(carry, each)
            if not isinstance(made, tuple) or len(made) != 2:
                raise RungError(f"{name}: the function gives {made!r:.60}, not (carry, y)")
            after = body.carried(made[0], start, init)
            shown, structure = tree.flatten(made[1])
            states = body.states()
            kept = len(start) + len(states)
            values = [raw_value(t) for t in (*after, *(as_tensor(y) for y in shown))]
            values[len(start) : len(start)] = [p.value for p in states]
            inputs = [*body.inputs[: len(start)], *(p.start for p in states)]
            graph, outside, followed = body.graph(
                values, [*inputs, *body.inputs[len(start) :]], kept, always=count > 0
            )
            moved = [offset(p.value, p.start) for p in states]
        attrs = ScanAttrs(graph, count, len(outside), kept, reverse)
        operands = [*outside, *_graph_values(start), *(p.outer for p in states)]
        found = _built(control.scan, [*operands, *_graph_values(steps)], attrs)
        for n, (place, far) in enumerate(zip(states, moved, strict=True), len(start)):
            ended = found[n] if far is None else advanced(place.outer, far * count)
            write(place.tensor, ended, requires_grad=followed[n])
        results = as_results(found, followed)
        final = unflatten(init, as_weak(results, start))
        return final, tree.unflatten(structure, results[kept:])

    return settled(init, run)


def fori_loop(lower: Any, upper: Any, function: Function, init: Any) -> Any:
    """`carry = function(i, carry)` for i from `lower` to before `upper`: a scalar i64 that is weak,
    as the integers of Python's `range` are, so that `x + i` has the dtype of x.

    With two Python ints the number of iterations is known, and the loop has a reverse derivative;
    otherwise it is a `while_loop`."""
    lower, upper = _bound("lower", lower), _bound("upper", upper)
    if isinstance(lower, int) and isinstance(upper, int):
        with host_arrays("fori_loop"):
            numbers = arange(lower, max(upper, lower), dtype=dt.int64)
        numbers._range = True
        return scan(lambda carry, i: (function(i, carry), None), init, numbers)[0]
    end = as_tensor(upper).astype(dt.int64)
    first = cast_weak(as_tensor(lower), dt.int64)
    return while_loop(
        lambda pair: pair[0] < end,
        lambda pair: (pair[0] + 1, function(pair[0], pair[1])),
        (first, init),
    )[1]


def _bound(name: str, bound: Any) -> Any:
    """An int or a scalar tensor of integers. Raises ArgumentError, or DomainError beyond i64."""
    number = bound if isinstance(bound, TensorState) else read_int(bound)
    if isinstance(number, TensorState):
        number = number if number.shape == () and number.dtype.is_integer else NO
    if number is NO:
        raise ArgumentError(
            f"fori_loop: {name} is {described(bound)}", fix="give a whole number or a scalar tensor"
        )
    if isinstance(number, int) and not dt.fits(number, dt.int64):
        raise DomainError(f"fori_loop: {name}={number}", fix="the counter is an i64")
    return number


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

    def run(start: list[Tensor]) -> Any:
        body = Body(name)
        with mapping(body.holder):
            carry = body.placeholders(start, init)
            asked = as_tensor(condition(_own(carry)))
            if asked.shape != () or asked.dtype is not dt.bool_:
                raise DTypeError(
                    f"{name}: the condition gives {asked.dtype}{list(asked.shape)}, not one bool",
                    fix="compare, and reduce arrays with all or any",
                )
            go_on = raw_value(asked)
            again = {p.start: p.value for p in body.states()}
            after = [raw_value(t) for t in body.carried(function(carry), start, init)]
            states = body.states()
            values = [*after, *(p.value for p in states), go_on]
            inputs = [*body.inputs, *(p.start for p in states)]
            whole, outside, followed = body.graph(values, inputs, len(inputs))
            known = body.read(between(again.values(), ()))
        step = make_graph(whole.name, whole.params, whole.outputs[:-1])
        ask = make_graph(f"{whole.name}_condition", whole.params, whole.outputs[-1:])
        attrs = WhileAttrs(ask, step, len(outside), limit or 0)
        operands = [*outside, *_graph_values(start), *(p.outer for p in states)]
        found = _built(control.while_loop, operands, attrs)
        # the condition is asked once more than the body is performed
        known |= dict(zip(inputs, found, strict=True))
        for place, follow in zip(states, followed[len(start) :], strict=False):
            ended = moved_values([again.get(place.start, place.start)], known)[0]
            write(place.tensor, ended, requires_grad=follow)
        return unflatten(init, as_weak(as_results(found, followed), start))

    return settled(init, run)


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


@keeping_frames
def branch(
    name: str,
    index: Tensor,
    branches: Sequence[Function],
    operands: tuple[Any, ...],
    alike: Callable[[list[Any]], list[Any]] | None = None,
    idle: Callable[[], None] = lambda: None,
) -> Any:
    """`branches[index](*operands)` for an i32 in range. `alike` is given the results of all
    branches, and gives them with one structure and with the same types; `idle` is called where the
    branches then have no result and no effect."""
    given = [weakly(x) for x in tree.leaves(operands)]
    body = Body(name)
    with mapping(body.holder):
        args = body.placeholders(given, operands)
        results: list[Any] = []
        changed: list[dict[int, Value]] = []
        for function in branches:
            results.append(function(*_own(args)))
            changed.append({id(p.tensor): p.value for p in body.states()})
            body.rewind()
        made = Alike(name, results if alike is None else alike(results))
        states = body.states()
        values = [
            [
                *(new[id(t)] if id(t) in new else raw_value(t) for t in leaves),
                *(new.get(id(p.tensor), p.start) for p in states),
            ]
            for leaves, new in zip(made.tensors, changed, strict=True)
        ]
        inputs = [*body.inputs, *(p.start for p in states)]
        whole, outside, followed = body.graph([v for some in values for v in some], inputs, 0)
        num_results = len(made.tensors[0])
        moved = [
            {offset(some[n], p.start) for some in values} for n, p in enumerate(states, num_results)
        ]
    count = len(values[0])
    if alike is not None and not count:
        idle()
        return made.tree([])
    graphs = tuple(
        make_graph(f"{whole.name}_{n}", whole.params, whole.outputs[n * count : (n + 1) * count])
        for n in range(len(branches))
    )
    operand_values = [*outside, *_graph_values(given), *(p.outer for p in states)]
    found = _built(control.switch, [graph_value(index), *operand_values], SwitchAttrs(graphs))
    follow = [any(followed[k::count]) for k in range(count)]
    for n, (place, far) in enumerate(zip(states, moved, strict=True), num_results):
        known = next(iter(far)) if len(far) == 1 else None
        ended = found[n] if known is None else advanced(place.outer, known)
        write(place.tensor, ended, requires_grad=follow[n])
    return made.tree(as_results(found[:num_results], follow))


# ---- associative_scan


def associative_scan(function: Function, xs: Any, *, reverse: bool = False, axis: int = 0) -> Any:
    """All prefixes x0, function(x0, x1), function(that, x2), … along `axis` of the tensors of the
    tree `xs`, in a number of steps that grows with the logarithm of the length.

    `function(a, b)` must be associative, and work on many elements along `axis` at once."""
    leaves, structure = tree.flatten(xs)
    tensors = [as_tensor(x) for x in leaves]
    lengths = {t.shape[one_axis("associative_scan", axis, t.ndim)] for t in tensors}
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


# ---- trees


def _built(op: Op, operands: Sequence[Value], attrs: Attrs) -> tuple[Value, ...]:
    """The results of a loop or branch."""
    found = op.build(operands, attrs)
    if found and holds_check(found[0].node):
        note_checks(found)
    return found


def _name(function: Function) -> str:
    found = getattr(function, "__name__", type(function).__name__)
    return "function" if found == "<lambda>" else found


def _tensors(whole: Any) -> list[Tensor]:
    return [as_tensor(x) for x in tree.leaves(whole)]


def _own(whole: Any) -> Any:
    """The tree with tensors of its own, which a function may update in place."""
    return tree.map(copied, whole)


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
