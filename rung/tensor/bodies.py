"""What loops and branches of a graph are made of: functions that run once, on tensors that stand
for the values of any iteration, and what they read and update outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rung.core import dtype as dt
from rung.core.errors import RungError, ShapeError, TraceError
from rung.ir.node import Graph, Node, Value, make_graph, parameter, provenance
from rung.ir.subgraph import between, dependent, moved_values
from rung.ir.types import TensorType
from rung.ops.gradient import stop_gradient
from rung.tensor import tree
from rung.tensor.leaf import DETACH, LEAF, TAG, Place, Step, leaf_value, read_from_outside
from rung.tensor.operate import cast_weak, common_dtype, weakly
from rung.tensor.state import check_gradients, keeping_frames, new_tensor, state

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

T = TypeVar("T")


class Again(Exception):
    """A loop must be traced again, from these tensors in these dtypes, weak or not: a Python
    number before it has another one."""

    def __init__(self, start: list[tuple[Tensor, dt.DType, bool]]) -> None:
        self.start = start


@keeping_frames
def settled(init: Any, run: Callable[[list[Tensor]], T]) -> T:
    """`run(start)` with the carries before the first iteration. A Python number is weak, and takes
    the dtype that the body gives it: then the loop is traced again."""
    start = [weakly(x) for x in tree.leaves(init)]
    before = state.weak_used
    for _ in range(2 * len(start) + 2):
        state.weak_used = False
        try:
            return run(start)
        except Again as again:
            start = [
                t if t.dtype is dtype and t._weak is weak else cast_weak(t, dtype, weak)
                for t, dtype, weak in again.start
            ]
        finally:
            state.weak_used = state.weak_used or before
    raise RungError("the dtypes of the carries change with each iteration", fix="cast init")


class Body:
    """The functions of one loop or branch, run on placeholders, what they read, and which tensors
    from outside they update."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holder = Step(name)
        self.inputs: list[Value] = []
        self.followed: set[Value] = set()

    def placeholders(
        self, like: Sequence[Tensor | TensorType], whole: Any, tensors: Sequence[Tensor] = ()
    ) -> Any:
        """The tree `whole` with something that stands for any iteration in place of its leaves."""
        made: list[Tensor] = []
        for number, t in enumerate(like):
            sliced = isinstance(t, TensorType)
            source = tensors[number] if sliced else t
            value = leaf_value(self.holder, t if sliced else t._type)
            self.inputs.append(value)
            follow = source._requires_grad and state.grad_enabled
            if follow:
                self.followed.add(value)
            made.append(new_tensor(value, requires_grad=follow))
            made[-1]._weak = source._range and len(source.shape) == 1 if sliced else source._weak
        return unflatten(whole, made)

    def carried(self, made: Any, start: Sequence[Tensor], init: Any) -> list[Tensor]:
        """The carries after an iteration, checked against those before. Raises Again where a
        number before the loop has another dtype."""
        leaves, structure = tree.flatten(made)
        if structure != tree.flatten(init)[1]:
            raise RungError(
                f"{self.name}: the carry is {tree.flatten(init)[1]} before an iteration and "
                f"{structure} after it",
                fix="return a carry of the structure of init",
            )
        paths = tree.paths(structure)
        first = [(t, t.dtype, t._weak) for t in start]
        found: list[Tensor] = []
        for number, (path, x, before) in enumerate(zip(paths, leaves, start, strict=True)):
            after = weakly(x)
            if after._weak and dt.weak_beside(after.dtype, before.dtype) is before.dtype:
                after = cast_weak(after, before.dtype)
            if before._weak and (after._type != before._type or not after._weak):
                first[number] = self._number(before, after)
            elif after._type != before._type:
                raise ShapeError(
                    f"{self.name}: carry{path} is {before._type} before an iteration and "
                    f"{after._type} after it",
                    fix="a carry keeps its shape and dtype: cast init, or what is returned",
                )
            found.append(after)
        if any((d, w) != (t.dtype, t._weak) for t, d, w in first):
            raise Again(first)
        return found

    def _number(self, before: Tensor, after: Tensor) -> tuple[Tensor, dt.DType, bool]:
        """A Python number before the loop, with the dtype that it has after an iteration; as it is
        where that makes no difference."""
        if after._type == before._type and not state.weak_used:
            return before, before.dtype, True
        if after.shape or dt.weak_beside(before.dtype, after.dtype) is not after.dtype:
            raise ShapeError(
                f"{self.name}: a carry is a Python number ({before.dtype}) before an iteration "
                f"and {after._type} after it",
                fix="give it its final shape and dtype before the loop",
            )
        return before, after.dtype, after._weak

    def rewind(self) -> None:
        """Give tensors from outside what they have before the body."""
        for place in self.holder.places.values():
            place.rewind()

    def states(self) -> list[Place]:
        """The tensors from outside that the body updates."""
        check_gradients(self.holder)
        return self.holder.written()

    def graph(
        self,
        values: Sequence[Value],
        inputs: Sequence[Value],
        carries: int,
        always: bool = False,
    ) -> tuple[Graph, list[Value], list[bool]]:
        """`values` as a graph with the parameters (what is read from outside…, inputs…), the
        values from outside, and which of `values` derivatives follow. The first `carries` of the
        inputs and of the values are what is carried. What does not depend on the inputs is computed
        outside, but for checks, unless the body is `always` performed."""
        nodes = between(values, inputs)
        own = inputs if always else [*inputs, *state.checks]
        outside = read_from_outside(nodes, dependent(nodes, own), values)
        given = [*outside, *inputs]
        names = [f"outer{i}" for i in range(len(outside))]
        names += [f"x{i}" for i in range(len(inputs))]
        params = [
            parameter(i, name, v.type) for i, (v, name) in enumerate(zip(given, names, strict=True))
        ]
        known = dict(zip(given, params, strict=True))
        for node in between(values, known):
            _rebuild(self.name, node, known)
        title = self.name.rpartition(" ")[2]
        graph = make_graph(title, params, [known[v] for v in values])
        followed = self._followed(nodes, values, inputs, carries)
        return graph, moved_values(outside, self.read(nodes)), followed

    def read(self, nodes: Sequence[Node]) -> dict[Value, Value]:
        """What stands for tensors that the body only reads, and their values outside; a use that
        is marked in the body is marked outside too."""
        found = {p.start: p.outer for p in self.holder.places.values() if not p.written}
        for node in nodes:
            if node.op is TAG and node.inputs[0] in found:
                found[node.results[0]] = found[node.inputs[0]]
        return found

    def _followed(
        self, nodes: Sequence[Node], values: Sequence[Value], inputs: Sequence[Value], carries: int
    ) -> list[bool]:
        """Which of `values` depend on what derivatives follow, over any number of iterations."""
        if not self.holder.follow:
            return [False] * len(values)
        found = self.followed | {p.start for p in self.holder.places.values() if p.followed}
        while True:
            for node in nodes:
                if node.op is not DETACH and any(v in found for v in node.inputs):
                    found.update(r for r in node.results if r.dtype.is_float)
            pairs = zip(inputs[:carries], values, strict=False)
            more = {i for i, v in pairs if v in found} - found
            if not more:
                return [v in found for v in values]
            found |= more


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


# ---- results


def as_weak(results: list[Tensor], start: Sequence[Tensor]) -> list[Tensor]:
    """The carries after a loop: what stands for a Python number all the time does so afterwards."""
    for t, before in zip(results, start, strict=False):
        t._weak = before._weak
    return results[: len(start)]


def as_results(values: Sequence[Value], followed: Sequence[bool]) -> list[Tensor]:
    """Results of a loop as tensors."""
    return [new_tensor(v, requires_grad=f) for v, f in zip(values, followed, strict=False)]


class Alike:
    """The results of branches: tensors of equal types, and the structure that all have."""

    def __init__(self, name: str, results: Sequence[Any]) -> None:
        flat = [tree.flatten(r) for r in results]
        self.structure = flat[0][1]
        for number, (_, kind) in enumerate(flat):
            if kind != self.structure:
                raise RungError(f"{name}: branch {number} gives {kind}, branch 0 {self.structure}")
        self.tensors = [[weakly(x) for x in leaves] for leaves, _ in flat]
        for n in range(self.structure.num_leaves):
            dtype = common_dtype([leaves[n] for leaves in self.tensors])
            for leaves in self.tensors:
                if leaves[n]._weak:
                    leaves[n] = cast_weak(leaves[n], dtype)
        for number, leaves in enumerate(self.tensors):
            _same_types(name, number, self.tensors[0], leaves)
        self._weak = [all(t._weak for t in ts) for ts in zip(*self.tensors, strict=True)]

    def tree(self, results: Sequence[Tensor]) -> Any:
        """The results of the branch that is taken."""
        for t, weak in zip(results, self._weak, strict=True):
            t._weak = weak
        return tree.unflatten(self.structure, results)


def _same_types(name: str, number: int, first: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(first, other, strict=True):
        if a._type != b._type:
            raise ShapeError(
                f"{name}: branch {number} gives {b._type} where branch 0 gives {a._type}",
                fix="all branches give the same shapes and dtypes",
            )


def unflatten(like: Any, leaves: Sequence[Tensor]) -> Any:
    """A tree of the structure of `like` with other leaves."""
    return tree.unflatten(tree.flatten(like)[1], leaves)
