"""Functions of functions beyond `grad`: `vmap`, `linearize`, Jacobians and Hessians.

    per_example = rung.vmap(rung.grad(loss), in_axes=(None, 0, 0))(weights, x, y)
    rung.hessian(f)(x)        # = jacfwd(jacrev(f))(x)

`vmap` runs the function once, for one example whose value nobody knows, and gives every node of
what it built one more axis. So any composition of these with each other, `grad` and `jit` holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.errors import AxisError, GradientError, RungError, ShapeError, TraceError
from rung.ir.node import Value
from rung.ir.types import Shape, TensorType
from rung.ops.batching import from_front, with_axis
from rung.ops.broadcast import broadcasted
from rung.ops.creation import full_like, iota
from rung.ops.elementwise import equal, multiply, where
from rung.ops.families import add
from rung.tensor import linear, tree
from rung.tensor.autograd import Primals, enable_grad, grad, jvp, vjp
from rung.tensor.creation import eye
from rung.tensor.leaf import Example, leaf_value
from rung.tensor.operate import as_tensor, one_axis
from rung.tensor.random import advanced, offset
from rung.tensor.shapes import moveaxis
from rung.tensor.state import (
    TensorState,
    check_gradients,
    graph_value,
    keeping_frames,
    mapping,
    new_tensor,
    raw_value,
    state,
    write,
)
from rung.transform.jvp import jvp_values
from rung.transform.vmap import batch_values

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Function = Callable[..., Any]
Axes = Any
"""An axis, None (not mapped), or a tree of these that begins as the arguments do."""


# ---- vmap


def vmap(
    function: Function,
    in_axes: Axes = 0,
    out_axes: Axes = 0,
    *,
    size: int | None = None,
    randomness: str = "different",
) -> Function:
    """A function that does for each example along an axis what `function` does for one.

    `in_axes`: the axis of each positional argument (for a tree of tensors: of all its tensors, or
    a tree of axes), None where every example gets the whole; Python numbers are never mapped.
    Named arguments are mapped along axis 0. `out_axes`: where the axis is put in the results.
    `size`: the number of examples, needed only where no argument is mapped.

    The function runs once. `randomness` says what generators give in it: "different", each example
    draws the numbers that it would draw in a Python loop over the examples, or "same", all draw
    those of the first. Raises AxisError and ShapeError for axes that do not fit, TraceError where
    the function looks at a value of an example, or where it depends on the example how many random
    numbers are drawn (give keys as an argument then)."""
    name = getattr(function, "__name__", type(function).__name__)
    if randomness not in ("different", "same"):
        raise RungError(
            f"vmap of {name}: randomness={randomness!r}", fix='give "different" or "same"'
        )

    @keeping_frames
    def mapped(*args: Any, **kwargs: Any) -> Any:
        given = _Examples(name, args, kwargs, in_axes, size, randomness == "different")
        with mapping(given.holder):
            given.enter()
            made = given.values(function(*given.args, **given.kwargs))
            drawn = given.drawn()
        for tensor, ended in drawn:
            write(tensor, ended)
        return given.collected(made, out_axes)

    mapped.__name__ = f"vmap_{name}"
    return mapped


class _Examples:
    """The arguments of a mapped function, for one example and for all."""

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        axes: Axes,
        size: int | None,
        separate: bool,
    ) -> None:
        self.name = name
        self.holder = Example(name, separate)
        leaves, structure = tree.flatten((args, kwargs))
        wanted = self._axes(args, kwargs, axes)
        mapped = [self._mapped(x, a) for x, a in zip(leaves, wanted, strict=True)]
        self.size = self._common_size(mapped, wanted, structure, size)
        self.all: dict[Value, Value] = {}
        self._given = leaves, mapped, structure
        self.values_of_all = [None if t is None else graph_value(t) for t in mapped]

    def enter(self) -> None:
        """Make the arguments for one example, within the function that runs on them."""
        leaves, mapped, structure = self._given
        inner = [
            x if t is None or v is None else self._one(t, v)
            for x, t, v in zip(leaves, mapped, self.values_of_all, strict=True)
        ]
        self.args, self.kwargs = tree.unflatten(structure, inner)

    def _axes(self, args: tuple[Any, ...], kwargs: dict[str, Any], axes: Axes) -> list[Any]:
        """The axis of each leaf of the arguments."""
        if isinstance(axes, list):
            axes = tuple(axes)
        if isinstance(axes, tuple) and len(axes) != len(args):
            raise AxisError(
                f"vmap of {self.name}: in_axes has {len(axes)} entries for {len(args)} positional "
                "arguments",
                fix="give one for each, or one number for all",
            )
        each = axes if isinstance(axes, tuple) else (axes,) * len(args)
        found: list[Any] = []
        for arg, axis in zip(args, each, strict=True):
            found += prefix_leaves(f"vmap of {self.name}: in_axes", axis, arg)
        return found + [0] * len(tree.leaves(kwargs))

    def _mapped(self, x: Any, axis: Any) -> Tensor | None:
        """The argument with its axis in front; None where it is not mapped."""
        if axis is None or not isinstance(x, TensorState | np.ndarray):
            return None
        tensor = as_tensor(x)
        front = one_axis(f"vmap of {self.name}", axis, tensor.ndim)
        return moveaxis(tensor, front, 0) if front else tensor

    def _common_size(
        self, mapped: list[Tensor | None], axes: list[Any], structure: tree.Structure, size: Any
    ) -> int:
        sizes = {
            path: t.shape[0]
            for path, t in zip(_argument_paths(structure), mapped, strict=True)
            if t is not None
        }
        if size is not None:
            sizes["size"] = size
        if not sizes:
            raise AxisError(
                f"vmap of {self.name}: no argument is mapped",
                fix="give an axis for at least one tensor in in_axes, or the number of examples "
                "as size",
            )
        if len(set(sizes.values())) > 1:
            given = ", ".join(f"{path} has {n}" for path, n in sizes.items())
            raise ShapeError(
                f"vmap of {self.name}: numbers of examples differ: {given}",
                fix="the mapped axes must have one length; None in in_axes leaves one whole",
            )
        return next(iter(sizes.values()))

    def _one(self, tensor: Tensor, value: Value) -> Tensor:
        """What stands for one example of a tensor."""
        example = leaf_value(self.holder, TensorType(tensor.dtype, tensor.shape[1:]))
        self.all[example] = value
        made = new_tensor(example, requires_grad=tensor._requires_grad and state.grad_enabled)
        made._weak = tensor._weak or (tensor._range and tensor.ndim == 1)
        return made

    def values(self, result: Any) -> tuple[Any, list[Tensor], list[Value]]:
        """The result for one example: as a tree, its tensors, and their values."""
        tensors = [as_tensor(x) for x in tree.leaves(result)]
        return result, tensors, [raw_value(t) for t in tensors]

    def drawn(self) -> list[tuple[Any, Value]]:
        """The counters of the generators that were drawn from, as they are after all examples:
        each example begins where the one before ends. Raises TraceError where an example does not
        always draw as much."""
        check_gradients(self.holder)
        found: list[tuple[Any, Value]] = []
        for place in self.holder.places.values():
            order = iota(shape=(self.size,), dim=0, dtype=place.start.dtype)
            first = broadcasted(place.outer, (self.size,))
            far = offset(place.value, place.start)
            if far is None and not self._differs(place.value):  # seeded anew
                later = broadcasted(place.value, (self.size,))
                self.all[place.start] = where(equal(order, full_like(order, 0)), first, later)
                found.append((place.tensor, place.value))
                continue
            if far is None:
                raise TraceError(
                    f"vmap of {self.name}: how many random numbers are drawn is not the same for "
                    "all examples",
                    fix="give each example a key (random.split), or draw as much on all paths",
                )
            self.all[place.start] = add(first, scaled(order, far))
            found.append((place.tensor, advanced(place.outer, far * self.size)))
        return found

    def _differs(self, value: Value) -> bool:
        """Whether a value depends on the example."""
        return any(holder is self.holder for holder in linear.linearize([value], {}).holders)

    def collected(self, made: tuple[Any, list[Tensor], list[Value]], axes: Axes) -> Any:
        """The results for all examples."""
        result, tensors, values = made
        structure = tree.flatten(result)[1]
        wanted = prefix_leaves(f"vmap of {self.name}: out_axes", axes, result)
        found = batch_values(values, self.all, self.size)
        return tree.unflatten(
            structure,
            [
                self._result(t, v, b, a)
                for t, v, b, a in zip(tensors, values, found, wanted, strict=True)
            ],
        )

    def _result(self, one: Tensor, value: Value, batched: Value | None, axis: Any) -> Tensor:
        if axis is None:
            if batched is not None:
                raise AxisError(
                    f"vmap of {self.name}: out_axes is None for a result that differs by example",
                    fix="give the axis along which the examples are put",
                )
            return new_tensor(value, requires_grad=one._requires_grad)
        wide = with_axis(value if batched is None else batched, batched is not None, self.size)
        place = one_axis(f"vmap of {self.name}: out_axes", axis, one.ndim + 1)
        return new_tensor(from_front(wide, place), requires_grad=one._requires_grad)


def scaled(value: Value, by: int) -> Value:
    """`value` times a whole number, in its dtype."""
    return multiply(value, full_like(value, by))


def prefix_leaves(what: str, prefix: Any, whole: Any) -> list[Any]:
    """For each leaf of `whole` the leaf of the tree `prefix` above it. Raises AxisError where
    `prefix` does not begin as `whole` does."""
    if prefix is None or isinstance(prefix, int):
        return [prefix] * len(tree.leaves(whole))
    children, kind = tree.children(prefix)
    theirs, other = tree.children(whole)
    if kind != other or len(children) != len(theirs):
        raise AxisError(
            f"{what} is {prefix!r} for {type(whole).__name__}",
            fix="give an axis, None, or a tree of these that begins as the value does",
        )
    found: list[Any] = []
    for a, b in zip(children, theirs, strict=True):
        found += prefix_leaves(what, a, b)
    return found


def _argument_paths(structure: tree.Structure) -> list[str]:
    positional, named = structure.children
    return [f"argument {p}" for p in (*tree.paths(positional), *tree.paths(named))]


# ---- linearize


def linearize(function: Function, *primals: Any) -> tuple[Any, Function]:
    """(result, push_forward): `push_forward(*tangents)` gives the tangent of the result, without
    running the function again."""
    given = Primals("linearize", primals, tuple(range(len(primals))))
    with enable_grad():
        result = function(*given.replaced)
    outputs, shape = tree.flatten(result)
    values = [raw_value(as_tensor(x)) for x in outputs]
    tracked = given.tracked(*values)

    def push_forward(*tangents: Any) -> Any:
        moving, structure = tree.flatten(tangents)
        if structure != given.structure:
            raise GradientError(f"linearize: tangents {structure} for primals {given.structure}")
        found = jvp_values(values, given.values, [graph_value(as_tensor(t)) for t in moving])
        filled = [full_like(v, 0) if t is None else t for t, v in zip(found, values, strict=True)]
        return tree.unflatten(shape, [given.settled(t, tracked) for t in filled])

    return tree.unflatten(shape, [given.settled(v, tracked) for v in values]), push_forward


# ---- Jacobians


def jacfwd(function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """A function that returns the Jacobian of `function` by forward derivatives, one for each
    element of the arguments `argnums`, all at once: for inputs few and results many.

    In place of each tensor of the result stands the tree of the arguments (a tuple for several
    `argnums`), with tensors of the dims of the result and then those of the input. With `has_aux`
    the function returns (result, aux), and this (Jacobian, aux)."""

    def derived(*args: Any, **kwargs: Any) -> Any:
        chosen = _Chosen("jacfwd", function, args, kwargs, argnums, has_aux)
        _, push_forward = linearize(chosen.flat, *chosen.leaves)
        columns: list[list[Tensor]] = []
        for k, leaf in enumerate(chosen.leaves):

            def column(direction: Any, k: int = k) -> Any:
                return push_forward(
                    *(direction if i == k else _zeros(x) for i, x in enumerate(chosen.leaves))
                )

            columns.append(vmap(column, out_axes=-1)(_basis(leaf)))
        results = [
            [
                column[r].reshape((*column[r].shape[:-1], *x.shape))
                for column, x in zip(columns, chosen.leaves, strict=True)
            ]
            for r in range(len(columns[0]))
        ]
        return chosen.arranged(results)

    return derived


def jacrev(function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """As `jacfwd`, by reverse derivatives, one for each element of the result: for inputs many and
    results few."""

    def derived(*args: Any, **kwargs: Any) -> Any:
        chosen = _Chosen("jacrev", function, args, kwargs, argnums, has_aux)
        outputs, pull_back = vjp(chosen.flat, *chosen.leaves)
        results: list[list[Tensor]] = []
        for r, output in enumerate(outputs):

            def row(direction: Any, r: int = r) -> Any:
                cotangents = [direction if i == r else _zeros(y) for i, y in enumerate(outputs)]
                return list(pull_back(cotangents))

            rows = vmap(row)(_basis(output))
            results.append([x.reshape((*output.shape, *x.shape[1:])) for x in rows])
        return chosen.arranged(results)

    return derived


def jacobian(
    function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Function:
    """The Jacobian of a function, by whichever of `jacfwd` and `jacrev` takes fewer derivatives."""

    def derived(*args: Any, **kwargs: Any) -> Any:
        chosen = _Chosen("jacobian", function, args, kwargs, argnums, has_aux)
        inputs = sum(x.size for x in chosen.leaves)
        way = jacfwd if inputs <= chosen.num_results() else jacrev
        return way(function, argnums, has_aux)(*args, **kwargs)

    return derived


def hessian(
    function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Function:
    """A function that returns the second derivatives: `jacfwd` of `jacrev`."""
    return jacfwd(jacrev(function, argnums, has_aux), argnums, has_aux)


def hvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(gradient, Hessian times `tangents`) of a scalar function at `primals`, both tuples in the
    structure of `primals`; the Hessian is never made."""
    numbers = tuple(range(len(primals)))
    return jvp(grad(function, argnums=numbers), tuple(primals), tuple(tangents))


class _Chosen:
    """The arguments to differentiate by, as a list of tensors, and the function of these."""

    def __init__(
        self,
        name: str,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: int | Sequence[int],
        has_aux: bool,
    ) -> None:
        given = Primals(name, args, argnums)
        self.single = given.single
        self.structure = given.structure
        self.leaves: list[Tensor] = given.tensors
        self.has_aux = has_aux
        self._numbers = given.numbers
        self._call = (function, args, kwargs)
        self._outputs: tree.Structure | None = None
        self._aux: Any = None

    def flat(self, *leaves: Tensor) -> list[Tensor]:
        """The tensors of the result, from those of the arguments."""
        function, args, kwargs = self._call
        replaced = list(args)
        for n, arg in zip(self._numbers, tree.unflatten(self.structure, leaves), strict=True):
            replaced[n] = arg
        result = function(*replaced, **kwargs)
        if self.has_aux:
            result, self._aux = result
        outputs, self._outputs = tree.flatten(result)
        tensors = [as_tensor(x) for x in outputs]
        for t in tensors:
            if not t.dtype.is_float:
                raise GradientError(
                    f"a Jacobian of a function that returns {t._type}",
                    fix="return floats, or what is no function of the input as aux (has_aux)",
                )
        return tensors

    def num_results(self) -> int:
        """The number of elements of the result."""
        return sum(t.size for t in self.flat(*self.leaves))

    def arranged(self, results: list[list[Tensor]]) -> Any:
        """The blocks, a list for each tensor of the result, as trees."""
        assert self._outputs is not None
        trees = [tree.unflatten(self.structure, row) for row in results]
        found = tree.unflatten(self._outputs, [t[0] if self.single else t for t in trees])
        return (found, self._aux) if self.has_aux else found


def _zeros(x: Tensor) -> Tensor:
    return new_tensor(full_like(raw_value(x), 0))


def _basis(x: Tensor) -> Tensor:
    """A tensor of the shape of x for each element of x, which is one there and zero elsewhere."""
    shape: Shape = (x.size, *x.shape)
    return eye(x.size, dtype=x.dtype).reshape(shape)
