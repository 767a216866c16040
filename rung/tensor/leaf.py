"""Where a lazy graph touches memory: buffers, the leaves that stand for them, and gradient tags.

Three ops exist only in pending graphs and are gone when a graph is compiled: `leaf` (a buffer, or a
place that a trace will fill), `tag` (the identity, made for one use of a tensor, so that a
derivative can be asked with respect to that use alone) and `detach` (the identity without a
derivative).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Literal
from weakref import ReferenceType, ref

import numpy as np

from rung.core.errors import GraphError
from rung.core.source import NOWHERE
from rung.ir.node import Node, Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Op, OwnAttrs
from rung.ir.subgraph import dependent
from rung.ir.types import Shape, TensorType
from rung.runtime.memory import Memory

if TYPE_CHECKING:
    from rung.core.dtype import DType
    from rung.tensor.state import TensorState

_types: dict[tuple[DType, Shape], TensorType] = {}


def tensor_type(dtype: DType, shape: Shape) -> TensorType:
    """The one `TensorType` object that tensors of this dtype and shape have: compare with `is`."""
    found = _types.get((dtype, shape))
    if found is None:
        found = _types[dtype, shape] = TensorType(dtype, shape)
    return found


class Buffer:
    """A dense row-major array in memory and its address.

    `owned`: rung allocated it, so it may be overwritten when nothing else refers to the buffer.
    `exposed`: who outside of rung may write to the memory: True for memory of the caller, a weak
    reference to what was handed out; None for nobody. What is computed reads such memory at once.
    `base`: a buffer of which this one is a part. Every holder (tensor, pending graph, view, array
    handed out) holds a reference to the object, so its reference count says who may overwrite it;
    `kept` is 1 when a program holds one as well, to use the buffer again.
    """

    __slots__ = (
        "__weakref__", "_array", "_leaf", "_memory", "base", "exposed", "kept", "owned", "pointer",
        "type",
    )  # fmt: skip

    def __init__(
        self,
        source: np.ndarray[Any, Any] | Memory,
        type: TensorType,
        owned: bool,
        base: Buffer | None = None,
    ) -> None:
        self._array: np.ndarray[Any, Any] | None = None
        if isinstance(source, Memory):
            self._memory = source
            self.pointer = source.address
        else:
            self._array = source
            self.pointer = source.__array_interface__["data"][0]
        self.type = type
        self.owned = owned
        self.base = base
        self.kept = 0
        self.exposed: ReferenceType[Export] | Literal[True] | None = None
        self._leaf: ReferenceType[Value] | None = None

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The content; made when it is first asked for, which most buffers never are."""
        if self._array is None:
            self._array = self._memory.array(self.type.shape, self.type.dtype.numpy)
        return self._array

    def leaf(self) -> Value:
        """The graph value that stands for the content of this buffer as it is now."""
        if self.exposed is not None and self.can_change():
            return leaf_value(copied_buffer(self))
        found = None if self._leaf is None else self._leaf()
        if found is None:
            found = leaf_value(self)
            self._leaf = ref(found)
        return found

    def part(self, offset: int, type: TensorType) -> Buffer:
        """`type.size` elements from element `offset` on, in the same memory."""
        whole = self.private()
        flat = whole.array.reshape(-1)[offset : offset + type.size]
        return Buffer(flat.reshape(type.shape), type, owned=False, base=whole)

    def can_change(self) -> bool:
        """Whether somebody outside may write to the memory."""
        exposed = self.exposed
        if exposed is None or exposed is True:
            return exposed is True
        if exposed() is None:
            self.exposed = None
        return self.exposed is not None

    def private(self) -> Buffer:
        """A buffer of this content that nobody outside writes to: itself, or a copy."""
        return copied_buffer(self) if self.exposed is not None and self.can_change() else self


class Export:
    """Memory of a buffer for NumPy. Arrays made from it hold it, so the buffer lives as long as
    they do and is not overwritten meanwhile."""

    __slots__ = ("__array_interface__", "__weakref__", "buffer")

    def __init__(self, buffer: Buffer, writable: bool) -> None:
        self.buffer = buffer
        size = buffer.type.dtype.itemsize
        kind = buffer.type.dtype.kind
        self.__array_interface__ = {
            "version": 3,
            "shape": buffer.type.shape,
            "typestr": f"<u{size}" if kind in "fb" else f"<{kind}{size}",
            "data": (buffer.pointer, not writable),
        }
        if writable and buffer.exposed is None:
            buffer.exposed = ref(self)

    def array(self) -> np.ndarray[Any, Any]:
        """The content as an array of the same memory."""
        array = np.asarray(self)
        wanted = self.buffer.type.dtype.numpy
        return array if array.dtype == wanted else array.view(wanted)


def new_buffer(type: TensorType) -> Buffer:
    """An uninitialized buffer that rung owns."""
    return Buffer(Memory(type.nbytes), type, owned=True)


def copied_buffer(source: Buffer) -> Buffer:
    """A buffer of our own with the same content."""
    buffer = new_buffer(source.type)
    np.copyto(buffer.array, source.array)
    return buffer


def others(buffers: list[Buffer], index: int) -> int:
    """How many references there are to `buffers[index]` beside that of the list itself and of a
    program that keeps it."""
    return getrefcount(buffers[index]) - LISTED - buffers[index].kept


_sample = [object()]
LISTED = getrefcount(_sample[0])
"""What `getrefcount(items[0])` gives for an object that only `items` refers to."""


class Placeholder:
    """What a trace puts in the place of a tensor that each call provides."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


class Place:
    """A tensor from outside within a function that runs for many values: what stands there for the
    value that it has when the function begins, its value now, and that outside."""

    __slots__ = ("followed", "looked", "outer", "spent", "start", "tensor", "value", "written")

    def __init__(self, tensor: TensorState, start: Value, outer: Value) -> None:
        self.tensor = tensor
        self.start = self.value = start
        self.outer = outer
        self.followed = tensor._requires_grad
        self.spent = tensor._spent
        self.written = self.looked = False

    def rewind(self) -> None:
        """Give the place the value at the beginning, and the tensor what it has outside."""
        self.value = self.start
        if self.written:
            self.tensor._requires_grad, self.tensor._spent = self.followed, self.spent
            self.tensor._tag = None


class Example(Placeholder):
    """What `vmap` puts in the place of a tensor for one example; `live` while the function runs,
    within `level` such functions, itself counted. `separate`: random generators have a place of
    their own for each example."""

    __slots__ = ("follow", "grads", "level", "live", "outer", "places", "separate")

    def __init__(self, what: str, separate: bool = False) -> None:
        super().__init__(what)
        self.live = True
        self.level = 0
        self.separate = separate
        self.follow = True
        self.places: dict[int, Place] = {}
        self.grads: dict[int, tuple[Any, Any]] = {}
        self.outer: dict[int, Value] = {}

    def keeps(self, tensor: TensorState) -> bool:
        """Whether a tensor from outside has a place here, so that it may be updated."""
        return self.separate and tensor._draws

    def written(self) -> list[Place]:
        """The tensors from outside that the function updates."""
        return [p for p in self.places.values() if p.written]

    def close(self) -> None:
        """The function has run, or has failed: tensors from outside are what they were."""
        self.live = False
        for place in self.places.values():
            place.rewind()
            if not place.written:
                self.outer[id(place.start.node.attrs)] = place.outer
        self.places.clear()
        for tensor, grad in self.grads.values():
            tensor._grad = grad
        self.grads.clear()


class Step(Example):
    """What a loop or branch of a graph puts in the place of a tensor of any iteration."""

    __slots__ = ()

    def keeps(self, tensor: TensorState) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class LeafAttrs(OwnAttrs):
    """The buffer or placeholder that a leaf stands for; unique, so compared by identity."""

    holder: Buffer | Placeholder


def _no_value(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    raise GraphError("leaf: stands for a buffer and has no value in a graph")


NOT_COMPILED = {
    "jvp": "a leaf",
    "transpose": "a leaf",
    "emit": "never reaches a compiled graph",
    "samples": "never reaches a compiled graph",
}

LEAF = Op(
    name="leaf",
    family="creation",
    arity=0,
    type=lambda attrs, _: (attrs.holder.type,),  # type: ignore[attr-defined]
    ref=_no_value,
    axes=lambda attrs, _: LoopForm(()),
    cost=lambda attrs, ins, outs: Cost(0, 0),
    doc="The content of a buffer, in a pending graph.",
    attrs=LeafAttrs,
    blank=NOT_COMPILED,
)


class Tag:
    """One use of a tensor under differentiation; `tensor` is set for a `requires_grad` leaf.
    `freed`: the graph behind it was let go, and `backward()` refuses to pass. `over`: the function
    that was to be differentiated has run, so no other derivative is asked with respect to it."""

    __slots__ = ("freed", "over", "tensor")

    def __init__(
        self, tensor: TensorState | None = None, freed: bool = False, over: bool = False
    ) -> None:
        self.tensor = None if tensor is None else ref(tensor)
        self.freed = freed
        self.over = over


@dataclass(frozen=True, eq=False)
class TagAttrs(OwnAttrs):
    """The use that a tag marks; unique, so compared by identity."""

    tag: Tag


def identity_op(name: str, doc: str, attrs: type[Attrs], **columns: Any) -> Op:
    """An op that is its operand, and is gone when a graph is compiled."""
    return Op(
        name=name,
        family="elementwise",
        arity=1,
        type=lambda attrs, types: (types[0],),
        ref=lambda attrs, operands: (operands[0],),
        axes=None,
        cost=lambda attrs, ins, outs: Cost(0, 0),
        doc=doc,
        attrs=attrs,
        elementwise=True,
        blank={**NOT_COMPILED, "axes": "never reaches a compiled graph"},
        **columns,
    )


PASSED_ON: dict[str, Any] = {
    "linear": (0,),
    "joint": True,
    "jvp": lambda attrs, inputs, outputs, tangents: (tangents[0],),
    "transpose": lambda attrs, inputs, cotangents, operand: cotangents[0],
}
"""Columns of an identity that derivatives pass through."""


def _batch_tag(
    attrs: Attrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value]:
    """What a derivative gave for one example is let go for all; other tags have done their work,
    and what stands for one example has a graph outside."""
    assert isinstance(attrs, TagAttrs)
    tag = attrs.tag
    return (tagged(inputs[0], tag) if tag.freed and tag.over else inputs[0],)


TAG = identity_op(
    "tag",
    "The identity, for one use of a tensor under differentiation.",
    TagAttrs,
    **PASSED_ON,
    batch=_batch_tag,
)
DETACH = identity_op(
    "detach",
    "The identity, without a derivative.",
    Attrs,
    jvp=lambda attrs, inputs, outputs, tangents: (None,),
)


def read_from_outside(
    nodes: Sequence[Node], inner: Collection[Value], results: Sequence[Value] = ()
) -> list[Value]:
    """What is not of `inner` but read by its makers, which are among `nodes` (operands before
    users), or is one of `results`; without plain constants, which need nothing from memory."""
    from_memory = dependent(nodes, [r for n in nodes if n.op is LEAF for r in n.results])
    read = [*results, *(v for n in nodes if any(r in inner for r in n.results) for v in n.inputs)]
    return [v for v in dict.fromkeys(read) if v not in inner and v in from_memory]


def leaf_value(holder: Buffer | Placeholder, type: TensorType | None = None) -> Value:
    """A new leaf; `type` is given for a placeholder."""
    if type is None:
        assert isinstance(holder, Buffer)
        type = holder.type
    return Node(LEAF, (), LeafAttrs(holder), NOWHERE, (type,)).results[0]


def tagged(value: Value, tag: Tag) -> Value:
    """`value`, marked as the use `tag`."""
    return Node(TAG, (value,), TagAttrs(tag), NOWHERE, (value.type,)).results[0]


def detached(value: Value) -> Value:
    """`value` without a derivative; `value` itself where that is so already."""
    if value.node.op is DETACH or not value.type.dtype.is_float:
        return value
    attrs = value.node.attrs
    if isinstance(attrs, LeafAttrs) and not isinstance(attrs.holder, Example):
        return value  # what stands for one of many values may have a derivative outside
    return Node(DETACH, (value,), Attrs(), NOWHERE, (value.type,)).results[0]
