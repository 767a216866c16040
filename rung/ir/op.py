"""The op record: everything that the system knows about an op, in one place.

A record is also the function that builds a node: `multiply(x, y)` with two graph values.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rung.core.dtype import ALL, DType
from rung.ir.expr import Expr, Var
from rung.ir.types import TensorType

if TYPE_CHECKING:
    from rung.ir.node import Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Attrs:
    """Base of the attributes of an op: a frozen dataclass of hashable fields."""

    def with_axis(self, size: int) -> Attrs:
        """The attributes of the same op with one more parallel axis, of `size`, as the first dim of
        every operand and result: dims that are counted from the front move on by one."""
        return self


class OwnAttrs(Attrs):
    """Base of attributes that are equal to themselves alone."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


NO_ATTRS = Attrs()


def later(dims: Sequence[int]) -> tuple[int, ...]:
    """Dims that are counted from the front, when one more stands before them."""
    return tuple(d + 1 for d in dims)


@dataclass(frozen=True)
class LoopForm:
    """The index map and body of an op: how each result element is made.

    For every point of `axes` (parallel; result dim d is axis d) and of `reduce` (combined by
    `combine`), `bodies[r]` is the contribution to result r. A `Read` in a body names an operand by
    number, so its index says how the dims of that operand map to the axes (a data-dependent index
    contains a `Read` itself). Without `reduce`, the body is the element. The combining is done in
    the dtype of the body (f32 for 16-bit floats), and then cast to that of the result.

    `scan`: the axis (one of `axes`) along which elements are combined cumulatively.
    `write`: for scatters: the iteration space is `axes` and the element goes to result index
    `write`, combined by `combine` (None = overwrite, later wins) into a copy of operand `init`.
    `opaque`: axes along which elements depend on each other in a way not expressed here (sort);
    the body is then absent.
    `guard`: only points where it holds are written or combined.
    """

    axes: tuple[Var, ...]
    bodies: tuple[Expr, ...] = ()
    reduce: tuple[Var, ...] = ()
    combine: str | None = None
    scan: Var | None = None
    write: tuple[Expr, ...] | None = None
    init: int | None = None
    opaque: tuple[Var, ...] = ()
    guard: Expr | None = None


@dataclass(frozen=True)
class Facts:
    """Algebraic facts about an element-wise op or a combiner. `identity` and `absorbing` are scalar
    values; `domain` is the interval on which tests draw inputs; `kinks` are points without a
    derivative."""

    commutative: bool = False
    associative: bool = False
    idempotent: bool = False
    identity: float | None = None
    absorbing: float | None = None
    monotone: int = 0
    domain: tuple[float, float] = (-3.0, 3.0)
    kinks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cost:
    """Floating-point (or integer) operations and bytes moved by one execution."""

    flops: int
    bytes: int


TypeRule = Callable[[Attrs, Sequence[TensorType]], tuple[TensorType, ...]]
RefRule = Callable[[Attrs, Sequence[Array]], tuple[Array, ...]]
JvpRule = Callable[
    [Attrs, Sequence["Value"], Sequence["Value"], Sequence["Value | None"]],
    "tuple[Value | None, ...]",
]
"""(attrs, inputs, outputs, input tangents or None for zero) -> output tangents (None = zero)."""
TransposeRule = Callable[
    [Attrs, Sequence["Value"], Sequence["Value | None"], int], "Value | None"
]
"""(attrs, inputs, output cotangents (None = zero), operand) -> cotangent of that operand."""
VjpRule = Callable[
    [Attrs, Sequence["Value"], Sequence["Value | None"], Sequence[int]], "Sequence[Value | None]"
]
"""(attrs, inputs, output cotangents, operands wanted) -> a cotangent for each of those."""
BatchRule = Callable[[Attrs, Sequence["Value"], Sequence[bool], int], "tuple[Value, ...]"]
"""(attrs, inputs, which have one more first dim, its size) -> results with that first dim."""
AxesRule = Callable[[Attrs, Sequence[TensorType]], LoopForm]
CostRule = Callable[[Attrs, Sequence[TensorType], Sequence[TensorType]], Cost]
EagerKernel = Callable[..., "Array | tuple[Array, ...]"]
EagerRule = Callable[[Attrs, Sequence[TensorType], Sequence[TensorType]], "EagerKernel | None"]
"""(attrs, operand types, result types) -> a function of the operand arrays, or None."""
SampleRule = Callable[[np.random.Generator], Sequence["Sample"]]


@dataclass(frozen=True)
class Sample:
    """One test case of an op: operand arrays (NumPy) or types to draw from the domain; attrs."""

    operands: tuple[Array | TensorType, ...]
    attrs: Attrs = NO_ATTRS


EVERY_OPERAND: Final = range(2**31)
"""`linear` of an op that takes any number of operands."""


@dataclass(frozen=True, eq=False)
class Op:
    """An op. Identity is the object; `name` is its one spelling everywhere.

    - `type`, `ref`, `cost`: never blank; `axes` only with a reason.
    - `linear`: operands in which the op is linear. `joint`: linear in all of them together (add,
      concat, movement, sum); otherwise in each with the others fixed (multiply, matmul). Ask
      `k in op.linear`: it is `EVERY_OPERAND` for an op of any number of operands. For a
      linear op `jvp` is derived from this (`rung.transform.jvp`) and `transpose` is given.
    - `jvp`: for a nonlinear op, or a linear one that has a better rule than the derived one.
      Neither `linear` nor `jvp` = not differentiable (integers, bool); `blank` then says why, as
      for every other blank cell.
    - `vjp`: a reverse rule that stands alone, of a user's function, or goes before what `jvp`
      and `transpose` would give: (attrs, inputs, cotangents, wanted) -> cotangents of `wanted`.
    - `emit`: name under which the code generators know the scalar op (element-wise ops and
      combiners), or None: it is made from its loop form, or must be decomposed by `decompose`.
    - `decompose`: (attrs, inputs) -> values, for ops that are always rewritten into others.
    - `batch`: how a parallel axis is added, where that is not the same op with
      `attrs.with_axis` on operands that all have the axis.
    - `host`: the op has no code of ours: the runtime calls `ref` on the buffers, between compiled
      graphs. Such a `ref` may raise a RungError, which gets the user's line; it depends on its
      operands alone, does not change them, and must not compute with rung itself.
    - `eager`: how NumPy's own kernels compute the op at once, without compiling anything: a
      function of arrays (of any strides, not to be changed) that gives an array for one result, a
      tuple for several; what it gives may be a view of an operand. For types that it gives None
      for, and where it is left out, `ref` is called, or the body of `decompose` is run.
    - `elementwise`: every axis parallel, all operands and results of one shape.
    - `samples`: shapes and attributes for generated tests beyond what the family provides.
    - `dtypes`: what the first operand may be (for an op without operands, the result).
    """

    name: str
    family: str
    arity: int | None
    type: TypeRule
    ref: RefRule
    axes: AxesRule | None
    cost: CostRule
    doc: str
    attrs: builtins.type[Attrs] = Attrs
    linear: tuple[int, ...] | range = ()
    joint: bool = False
    jvp: JvpRule | None = None
    transpose: TransposeRule | None = None
    facts: Facts = Facts()
    emit: str | None = None
    decompose: Callable[[Attrs, Sequence[Value]], Sequence[Value]] | None = None
    vjp: VjpRule | None = None
    batch: BatchRule | None = None
    host: bool = False
    eager: EagerRule | None = None
    elementwise: bool = False
    samples: SampleRule | None = None
    dtypes: tuple[DType, ...] = ALL
    blank: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __call__(self, *inputs: Value, attrs: Attrs = NO_ATTRS, **fields: Any) -> Value:
        """Build a node of this op and return its (first) value. Attributes may be given as a record
        or by field name. Raises the typed errors of the `type` rule."""
        return self.build(inputs, self.attrs(**fields) if fields else attrs)[0]

    def build(self, inputs: Sequence[Value], attrs: Attrs = NO_ATTRS) -> tuple[Value, ...]:
        """Build a node and return all its values."""
        return build_node(self, tuple(inputs), attrs)


def build_node(op: Op, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    """Type-check and intern a node (bound to `rung.ir.node.make_node` when that is imported)."""
    return _maker[0](op, inputs, attrs)


_maker: list[Callable[[Op, tuple[Value, ...], Attrs], tuple[Value, ...]]] = []
