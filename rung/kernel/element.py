"""Elements of graph values as scalar expressions over memory.

A value is either in memory (a flat buffer) or *inlined*: its element is the body of its op's index
map with the operands' elements substituted. Reshapes of what is in memory are views of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from rung.core.errors import LoweringError
from rung.ir.expr import (
    Expr,
    Read,
    Var,
    both,
    const,
    from_terms,
    iadd,
    ifloordiv,
    imod,
    imul,
    linear_terms,
    postorder,
    raw_call,
    read,
    transform,
    var,
)  # fmt: skip
from rung.ir.node import Node, Value
from rung.ir.op import LoopForm
from rung.kernel.loop import Buffer, row_major


def linearize(index: tuple[Expr, ...], shape: tuple[int, ...]) -> Expr:
    """Row-major position of `index` in a dense array of `shape`."""
    total: Expr = const(0)
    for i, stride in zip(index, row_major(shape), strict=True):
        total = iadd(total, imul(i, stride))
    return total


def delinearize(position: Expr, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    """The index of `position` in a dense array of `shape`."""
    index = []
    for d, (n, stride) in enumerate(zip(shape, row_major(shape), strict=True)):
        quotient = ifloordiv(position, stride) if stride else const(0)
        leading = prod(shape[:d]) == 1
        index.append(quotient if leading or n == 0 else imod(quotient, n))
    return tuple(index)


def canonical(position: Expr) -> Expr:
    """`position` in canonical linear form."""
    terms, constant = linear_terms(position)
    return from_terms(terms, constant)


@dataclass(frozen=True, eq=False)
class Body:
    """A stored node with everything that is inlined into it: `exprs[r]` is the element of result r
    (or the contribution to it) over `axes` and `reduce`, reading flat buffers only. `start` is what
    a scatter starts from: a place in the result, and the element there."""

    node: Node
    form: LoopForm
    axes: tuple[Var, ...]
    reduce: tuple[Var, ...]
    exprs: tuple[Expr, ...]
    reads: tuple[Read, ...]
    write: tuple[Expr, ...] | None = None
    guard: Expr | None = None
    start: tuple[Var, Expr] | None = None


_Place = tuple[Value, tuple[Expr, ...], Expr | None]
"""A value, an index and a guard: one element."""


class Elements:
    """Element expressions of a graph's values, given which values are in memory."""

    def __init__(self) -> None:
        self._memory: dict[Value, Buffer] = {}
        self._owner: dict[Buffer, Value] = {}
        self._forms: dict[Node, LoopForm] = {}
        self._memo: dict[_Place, Expr] = {}

    def store(self, value: Value) -> Buffer:
        """Put `value` in memory as a flat buffer."""
        found = self._memory.get(value)
        if found is None:
            name = f"v{len(self._owner)}"
            found = Buffer(name, value.type.dtype, (value.type.size,), "temp")
            self._memory[value] = found
            self._owner[found] = value
        return found

    def alias(self, value: Value, of: Value) -> None:
        """`value` is a reshape of `of`, which is in memory."""
        self._memory[value] = self._memory[of]

    def memory(self, value: Value) -> Buffer | None:
        """The flat buffer of a value, or None when it is inlined."""
        return self._memory.get(value)

    def owner(self, buffer: Buffer) -> Value:
        """The value whose memory `buffer` is."""
        return self._owner[buffer]

    def owns(self, buffer: Buffer) -> bool:
        """Whether `buffer` is the memory of a value."""
        return buffer in self._owner

    def form(self, node: Node) -> LoopForm:
        """The node's loop form."""
        found = self._forms.get(node)
        if found is None:
            if node.op.axes is None:
                raise LoweringError(
                    f"{node.op.name}: has no loop form; decompose it first", source=node.source
                )
            found = node.op.axes(node.attrs, [v.type for v in node.inputs])
            self._forms[node] = found
        return found

    def element(self, value: Value, index: tuple[Expr, ...], guard: Expr | None = None) -> Expr:
        """The element of `value` at `index`; nothing is read where `guard` is false."""
        return self._complete(lambda missing: self._known((value, index, guard), missing))

    def inline(self, node: Node, e: Expr, bound: dict[Var, Expr]) -> Expr:
        """A body of `node` with loop variables bound and operand reads replaced by elements."""
        return self._complete(lambda missing: self._inlined(node, e, bound, None, missing))

    def _complete(self, attempt: Callable[[list[_Place]], Expr]) -> Expr:
        """What `attempt` gives once it names no element that is not known yet. These are made one
        after the other, those that they read first."""
        while True:
            missing: list[_Place] = []
            made = attempt(missing)
            if not missing:
                return made
            while missing:
                wanted = len(missing)
                place = missing[-1]
                found = place in self._memo or self._element(place, missing)
                if len(missing) == wanted:
                    if isinstance(found, Expr):
                        self._memo[place] = found
                    missing.pop()

    def _known(self, place: _Place, missing: list[_Place]) -> Expr:
        """An element that has been made; if it has not, `missing` says so and the result is not to
        be used."""
        found = self._memo.get(place)
        if found is None:
            missing.append(place)
            return const(0, place[0].type.dtype)
        return found

    def _element(self, place: _Place, missing: list[_Place]) -> Expr:
        value, index, guard = place
        buffer = self._memory.get(value)
        if buffer is not None:
            return read(buffer, (linearize(index, value.shape),), guard=guard)
        node = value.node
        form = self.form(node)
        if not form.bodies or form.reduce or form.scan or form.write or form.opaque:
            raise LoweringError(f"{node.op.name}: cannot be inlined", source=node.source)
        bound = dict(zip(form.axes, index, strict=True))
        body = self._inlined(node, form.bodies[value.index], bound, guard, missing)
        if guard is None or body is const(0, body.dtype):
            return body
        if isinstance(body, Read):  # reads under a guard are zero outside of it
            return body
        return raw_call("where", (guard, body, const(0, body.dtype)), body.dtype)

    def _inlined(
        self,
        node: Node,
        e: Expr,
        bound: dict[Var, Expr],
        guard: Expr | None,
        missing: list[_Place],
    ) -> Expr:
        def leaf(x: Expr) -> Expr | None:
            if isinstance(x, Var):
                return bound.get(x)
            if isinstance(x, Read) and isinstance(x.source, int):
                before = len(missing)
                index = tuple(transform(i, leaf) for i in x.index)
                inner = None if x.guard is None else transform(x.guard, leaf)
                if len(missing) > before:  # where it is read is not known yet
                    return const(0, x.dtype)
                place = (node.inputs[x.source], index, both(guard, inner))
                return self._known(place, missing)
            return None

        return transform(e, leaf)

    def body(self, node: Node, number: int) -> Body:
        """The body of a node that is stored, over fresh variables `a<number>_<axis>`."""
        form = self.form(node)
        axes = tuple(var(f"a{number}_{i}", v.extent) for i, v in enumerate(form.axes))
        reduce = tuple(var(f"k{number}_{i}", v.extent) for i, v in enumerate(form.reduce))
        bound: dict[Var, Expr] = dict(zip(form.axes, axes, strict=True))
        bound.update(zip(form.reduce, reduce, strict=True))
        exprs = tuple(self.inline(node, e, bound) for e in form.bodies)
        write = None
        if form.write is not None:
            write = tuple(self.inline(node, e, bound) for e in form.write)
        guard = None
        if form.guard is not None:
            guard = self.inline(node, form.guard, bound)
        start = self._start(node, form, number)
        roots = exprs + (write or ()) + ((guard,) if guard is not None else ())
        reads = buffer_reads(*roots, *((start[1],) if start is not None else ()))
        return Body(node, form, axes, reduce, exprs, reads, write, guard, start)

    def _start(self, node: Node, form: LoopForm, number: int) -> tuple[Var, Expr] | None:
        if form.init is None:
            return None
        value = node.inputs[form.init]
        place, buffer = var(f"p{number}", value.type.size), self._memory.get(value)
        if buffer is not None:
            return place, read(buffer, (place,))
        return place, self.element(value, delinearize(place, value.shape))


def buffer_reads(*roots: Expr) -> tuple[Read, ...]:
    """Every distinct read of a buffer, in a fixed order."""
    return tuple(e for e in postorder(*roots) if isinstance(e, Read))
