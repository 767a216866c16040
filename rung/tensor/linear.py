"""Pending graphs written down as a list: what the program cache compares and programs are built of.

Values get numbers in the order in which a walk from the outputs meets them, so two graphs of the
same structure give equal keys, whatever buffers and source lines they have. The values of
scalar constants stand apart from the key, so that one that changes from call to call (a learning
rate, a position) can be made an input instead of a new program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.core.dtype import Scalar
from rung.core.source import Source
from rung.ir.node import Graph, Node, Value, make_graph, make_node, parameter, provenance
from rung.ir.op import Attrs, Op
from rung.ir.types import TensorType
from rung.ops.broadcast import broadcast_to
from rung.ops.control import HOLDERS
from rung.ops.creation import ConstantAttrs, constant
from rung.tensor.leaf import LEAF, Buffer, LeafAttrs, Placeholder
from rung.tensor.ruled import TRANSPARENT, behind, without_rules


class Key:
    """The structure of a pending graph, with its hash."""

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._hash == other._hash and self.parts == other.parts


Step = tuple[Op, Attrs, tuple[int, ...], Source, int, tuple[TensorType, ...]]
"""op, attributes, numbers of its operands, source, number of its first result, their types."""
_CONSTANT = "constant"


_EMPTY = Key(())


class Linear:
    """A pending graph as a list. Numbers name values: inputs and steps share one numbering.

    - `steps`: the nodes, operands before users;
    - `inputs`: (number, type) of each buffer or placeholder, and `holders` those; `placeholders`:
      whether some of them are;
    - `constants`: the values of the scalar constants, and `constant_steps` where they stand;
    - `outputs`: numbers; `key`: everything but holders, sources and constants;
    - `numbers`: those of all values, where that was asked for.
    """

    __slots__ = (
        "constant_steps", "constants", "holders", "inputs", "key", "numbers", "outputs",
        "placeholders", "steps",
    )  # fmt: skip

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.inputs: list[tuple[int, TensorType]] = []
        self.holders: list[Buffer | Placeholder] = []
        self.placeholders = False
        self.constants: list[Scalar] = []
        self.constant_steps: list[int] = []
        self.outputs: list[int] = []
        self.key = _EMPTY
        self.numbers: dict[Value, int] | None = None


    def bare(self) -> Linear:
        """The same without what it was walked for: buffers, and the key."""
        found = Linear()
        found.steps, found.inputs, found.outputs = self.steps, self.inputs, self.outputs
        found.constants, found.constant_steps = self.constants, self.constant_steps
        return found


def linearize(
    values: Sequence[Value], realized: Mapping[int, Buffer], numbered: bool = False
) -> Linear:
    """The graph of `values`. One whose `id` is in `realized` is an input: its buffer is known.
    `numbered`: with the numbers of all values, which are held with them."""
    found = Linear()
    walk = _Walk(found, realized)
    walk.run(values)
    if numbered:
        found.numbers = walk.numbers
    return found


class _Walk:
    """One walk over a pending graph, which fills a `Linear`."""

    __slots__ = ("key", "linear", "numbers", "of_holder", "realized", "total")

    def __init__(self, linear: Linear, realized: Mapping[int, Buffer]) -> None:
        self.linear = linear
        self.realized = realized
        self.numbers: dict[Value, int] = {}
        self.of_holder: dict[Buffer | Placeholder, int] = {}
        self.key: list[Any] = []
        self.total = 0

    def run(self, values: Sequence[Value]) -> None:
        numbers = self.numbers
        for value in values:
            if value not in numbers:
                self._visit(value)
        outputs = [numbers[v] for v in values]
        self.linear.outputs = outputs
        self.linear.key = Key((*self.key, tuple(outputs)))

    def _visit(self, value: Value) -> None:
        numbers, realized = self.numbers, self.realized
        stack = [value]
        while stack:
            top = stack[-1]
            if top in numbers:
                stack.pop()
                continue
            node = top.node
            op = node.op
            if op is LEAF or (realized and id(top) in realized):
                self._input(top)
                stack.pop()
                continue
            through = op in TRANSPARENT
            needed = (behind(top),) if through else node.inputs
            depth = len(stack)
            for v in reversed(needed):
                if v not in numbers:
                    made_by = v.node.op
                    if made_by is LEAF:
                        self._input(v)
                    elif made_by not in _MAYBE_NUMBERS or not _is_number(v):
                        stack.append(v)
            if len(stack) > depth:
                continue
            stack.pop()
            if through:
                behind_it = needed[0]
                number = numbers.get(behind_it)
                numbers[top] = self._number(behind_it) if number is None else number
            else:
                self._step(node)

    def _input(self, value: Value) -> None:
        holder = self.realized.get(id(value))
        if holder is None:
            attrs = value.node.attrs
            assert isinstance(attrs, LeafAttrs)
            holder = attrs.holder  # type: ignore[assignment]
        assert holder is not None
        number = self.of_holder.get(holder)
        if number is None:
            number = self.of_holder[holder] = self.total
            self.total += 1
            self.linear.inputs.append((number, value.type))
            self.linear.holders.append(holder)
            if type(holder) is not Buffer:
                self.linear.placeholders = True
            self.key.append(value.type)
        self.numbers[value] = number

    def _number(self, value: Value) -> int:
        """The number of an operand that is a number (a constant, perhaps repeated). It gets steps
        of its own for each use: whether two uses have equal values must not change the
        structure."""
        node = value.node
        if node.op is not broadcast_to:
            return self._append(node, ())
        return self._append(node, (self._append(node.inputs[0].node, ()),))

    def _step(self, node: Node) -> None:
        numbers, operands = self.numbers, []
        for v in node.inputs:
            number = numbers.get(v)
            operands.append(self._number(v) if number is None else number)
        number = self._append(node, tuple(operands))
        for result in node.results:
            numbers[result] = number
            number += 1

    def _append(self, node: Node, operands: tuple[int, ...]) -> int:
        """Add a step; the number of its first result."""
        linear, op, attrs, types = self.linear, node.op, node.attrs, node.types
        if op is constant:
            linear.constants.append(attrs.value)  # type: ignore[attr-defined]
            linear.constant_steps.append(len(linear.steps))
            self.key.append((constant, attrs.dtype))  # type: ignore[attr-defined]
        else:
            if op in HOLDERS:
                attrs = without_rules(attrs)
            self.key.append((op, attrs, operands))
        number = self.total
        linear.steps.append((op, attrs, operands, node.source, number, types))
        self.total += len(types)
        return number


_MAYBE_NUMBERS = frozenset((constant, broadcast_to))


def _is_number(value: Value) -> bool:
    """Whether a value is a scalar constant, or one repeated."""
    node = value.node
    if node.op is broadcast_to:
        node = node.inputs[0].node
    return node.op is constant


def build_graph(linear: Linear, lifted: Sequence[bool], name: str) -> Graph:
    """The graph over parameters: one for each input, then one for each constant that is lifted."""
    values: dict[int, Value] = {}
    params: list[Value] = []
    for number, type in linear.inputs:
        values[number] = parameter(len(params), f"x{len(params)}", type)
        params.append(values[number])
    scalars: dict[int, Value] = {}
    for at, lift in zip(linear.constant_steps, lifted, strict=True):
        if lift:
            attrs = linear.steps[at][1]
            assert isinstance(attrs, ConstantAttrs)
            type = TensorType(attrs.dtype, ())
            scalars[at] = parameter(len(params), f"x{len(params)}", type)
            params.append(scalars[at])
    for at, step in enumerate(linear.steps):
        if at in scalars:
            values[step[4]] = scalars[at]
        else:
            _build_step(step, values, _program_source(step, values))
    return make_graph(name, params, [values[n] for n in linear.outputs])


def _program_source(step: Step, values: Mapping[int, Value]) -> Source:
    """Where a node of a program comes from. A node that needs no input says so: else it would be
    the very node of the pending graph, and the program would keep that and its buffer alive."""
    _, _, operands, source, _, _ = step
    vias = [values[n].node.source.via for n in operands]
    return source.with_via(_CONSTANT) if all(v.endswith(_CONSTANT) for v in vias) else source


def rebuild(linear: Linear, leaves: Sequence[Value]) -> list[Value]:
    """The outputs as pending values again, over one leaf for each input."""
    values = {n: leaf for (n, _), leaf in zip(linear.inputs, leaves, strict=True)}
    for step in linear.steps:
        _build_step(step, values, step[3])
    return [values[n] for n in linear.outputs]


def _build_step(step: Step, values: dict[int, Value], source: Source) -> None:
    op, attrs, operands, _, first, _ = step
    with provenance(source):
        results = make_node(op, tuple([values[n] for n in operands]), attrs)
    values.update(enumerate(results, first))
