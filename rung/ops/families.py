"""Class helpers that fill the columns of an op record, so that a new op is one call.

    sin = unary("sin", np.sin, "Sine.", derivative=lambda x, y, dx: multiply(dx, cos(x)))

16-bit floats: an arithmetic op computes in f32 and rounds its result once. The loop forms say so
with explicit casts, so that no arithmetic on 16-bit floats reaches the code generators.

`add` stands here because the sum of the tangents of several operands needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import AxisError, DTypeError, ShapeError
from rung.ir.expr import Expr, Var, const, raw_call, read, var
from rung.ir.node import Value
from rung.ir.op import (
    Array,
    Attrs,
    AxesRule,
    BatchRule,
    Cost,
    CostRule,
    EagerKernel,
    EagerRule,
    Facts,
    JvpRule,
    LoopForm,
    Op,
    RefRule,
    Sample,
    SampleRule,
    TransposeRule,
    TypeRule,
    VjpRule,
    later,
)
from rung.ir.types import Shape, TensorType
from rung.ops.eager.elementwise import by_ufunc
from rung.ops.samples import edge_values, elementwise_samples

A = TypeVar("A", bound=Attrs)
Types = Sequence[TensorType]
Body = Callable[..., Expr]
Derivative = Callable[..., "Value | None"]

NUMBERS: Final = dt.INTEGERS + dt.FLOATS
SIGNED: Final = tuple(d for d in NUMBERS if d.kind != "u")
NO_FACTS: Final = Facts()
BOOLS: Final = (dt.bool_,)
_SETS: Final[dict[tuple[DType, ...], str]] = {
    dt.FLOATS: "floats",
    dt.INTEGERS: "integers",
    NUMBERS: "integers and floats",
    SIGNED: "signed integers and floats",
    BOOLS: "bool",
    dt.ALL: "every dtype",
}

# ---- checks used by type rules


def describe_dtypes(dtypes: tuple[DType, ...]) -> str:
    """`floats`, `integers`, … or the names."""
    return _SETS.get(dtypes) or ", ".join(d.name for d in dtypes)


def require_dtype(op: str, operand: str, type: TensorType, dtypes: tuple[DType, ...]) -> None:
    """Raise DTypeError unless the operand's dtype is one of `dtypes`."""
    if type.dtype not in dtypes:
        raise DTypeError(
            f"{op}: takes {describe_dtypes(dtypes)}, but {operand} is {type}",
            fix=f"cast {operand} first, e.g. cast({operand}, dtype={_example(dtypes)})",
        )


def _example(dtypes: tuple[DType, ...]) -> DType:
    return dt.float32 if dt.float32 in dtypes else dtypes[0]


def require_same_dtype(op: str, operands: Sequence[str], types: Types) -> None:
    """Raise DTypeError unless all dtypes are equal."""
    for name, type in zip(operands, types, strict=True):
        if type.dtype is not types[0].dtype:
            raise DTypeError(
                f"{op}: dtypes differ: {operands[0]} {types[0]} and {name} {type}",
                fix=f"cast one: the common dtype is {dt.promote(types[0].dtype, type.dtype)}",
            )


def require_same_shape(op: str, operands: Sequence[str], types: Types) -> None:
    """Raise ShapeError unless all shapes are equal."""
    for name, type in zip(operands, types, strict=True):
        if type.shape != types[0].shape:
            raise ShapeError(
                f"{op}: shapes differ: {operands[0]} {types[0]} and {name} {type}",
                fix=_broadcast_fix(operands[0], types[0].shape, name, type.shape),
            )


def _broadcast_fix(a: str, a_shape: Shape, b: str, b_shape: Shape) -> str:
    try:
        shape = np.broadcast_shapes(a_shape, b_shape)
    except ValueError:
        return f"the shapes cannot be broadcast together either; reshape {a} or {b}"
    return f"bring both to {list(shape)} with broadcast_to; broadcast_values({a}, {b}) does it"


def require_dim(op: str, dim: int, type: TensorType, operand: str = "x") -> None:
    """Raise ShapeError unless 0 <= dim < rank."""
    if not 0 <= dim < type.rank:
        raise ShapeError(
            f"{op}: dim {dim} is out of range for {operand} {type}",
            fix=f"dims of {operand} go from 0 to {type.rank - 1}"
            if type.rank
            else f"{operand} is a scalar and has no dims",
        )


# ---- pieces of loop forms


def axis_vars(shape: Shape, letter: str = "i") -> tuple[Var, ...]:
    """One loop variable for each dim."""
    return tuple(var(f"{letter}{d}", n) for d, n in enumerate(shape))


def reads(types: Types, index: tuple[Expr, ...]) -> list[Expr]:
    """Operand k at `index`, for every operand."""
    return [read(k, index, t.dtype) for k, t in enumerate(types)]


def scalar(op: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """`op(*args)` with the dtype of the first argument unless given; for bodies of loop forms."""
    return raw_call(op, args, dtype or args[0].dtype)


def predicate(op: str, *args: Expr) -> Expr:
    """A scalar op whose result is bool."""
    return raw_call(op, args, dt.bool_)


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    """`where(condition, a, b)` on scalars."""
    return raw_call("where", (condition, a, b), a.dtype)


def scalar_cast(x: Expr, dtype: DType) -> Expr:
    """`x` as `dtype`; `x` itself if it is."""
    return x if x.dtype is dtype else raw_call("cast", (x,), dtype)


def number(value: float, like: Expr) -> Expr:
    """A constant of the dtype of `like`."""
    return const(value, like.dtype)


def widened(x: Expr) -> Expr:
    """`x` in the dtype in which arithmetic on it is done (f32 for 16-bit floats)."""
    return scalar_cast(x, dt.accumulator(x.dtype))


# ---- cost


def nbytes(*types: TensorType) -> int:
    """Bytes of all of them."""
    return sum(t.nbytes for t in types)


def cost_per_element(flops: int = 1) -> CostRule:
    """`flops` for each element of the results, every operand and result moved once."""

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Cost:
        return Cost(flops * outs[0].size, nbytes(*ins, *outs))

    return rule


# ---- element-wise families


def elementwise_ref(name: str, function: Callable[..., Any]) -> RefRule:
    """A reference that applies `function` without warnings; 16-bit floats by way of f32."""

    def ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
        narrow = next((a.dtype for a in operands if is_narrow(a.dtype)), None)
        wide = [a.astype(np.float32) if is_narrow(a.dtype) else a for a in operands]
        with np.errstate(all="ignore"):
            result = np.asarray(function(*wide))
            if narrow is not None and result.dtype == np.float32:
                result = result.astype(narrow)
        return (result,)

    return ref


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether a NumPy dtype is a 16-bit float."""
    return dtype == dt.float16.numpy or dtype == dt.bfloat16.numpy


def _elementwise_type(
    name: str, operands: tuple[str, ...], dtypes: tuple[DType, ...], result: DType | None
) -> TypeRule:
    def rule(attrs: Attrs, types: Types) -> tuple[TensorType, ...]:
        for operand, type in zip(operands, types, strict=True):
            require_dtype(name, operand, type, dtypes)
        require_same_dtype(name, operands, types)
        require_same_shape(name, operands, types)
        return (types[0] if result is None else types[0].with_dtype(result),)

    return rule


def _elementwise_axes(name: str, body: Body | None, result: DType | None) -> AxesRule:
    def rule(attrs: Attrs, types: Types) -> LoopForm:
        axes = axis_vars(types[0].shape)
        elements = reads(types, axes)
        if body is None:
            made = scalar(name, *map(widened, elements), dtype=result)
        else:
            made = body(*elements)
        return LoopForm(axes, (scalar_cast(made, result or types[0].dtype),))

    return rule


def elementwise(
    name: str,
    function: Callable[..., Any],
    doc: str,
    *,
    operands: tuple[str, ...],
    dtypes: tuple[DType, ...] = dt.FLOATS,
    result: DType | None = None,
    body: Body | None = None,
    flops: int = 1,
    facts: Facts = NO_FACTS,
    jvp: JvpRule | None = None,
    vjp: VjpRule | None = None,
    linear: tuple[int, ...] | range = (),
    joint: bool = False,
    transpose: TransposeRule | None = None,
    samples: SampleRule | None = None,
    eager: EagerRule | None = None,
    blank: Mapping[str, str] | None = None,
) -> Op:
    """An op on operands of equal shape and dtype whose element depends on their elements there.

    `function` is its NumPy meaning on arrays; `result` the dtype of the result where it is not that
    of the operands. The code generators know it by `name`, unless `body` composes the element of
    other scalar ops (16-bit floats as they are: use `widened` before arithmetic).
    """
    reasons = dict(blank or {})
    if not linear:
        reasons.setdefault("transpose", "not linear")
    if jvp is None and not linear:
        reasons.setdefault("jvp", "no derivative: piecewise constant, or not on floats")
    if eager is None and isinstance(function, np.ufunc):
        eager = by_ufunc(function)
    if body is not None:
        reasons.setdefault("emit", "made from its loop form, which composes other scalar ops")
    return Op(
        name=name,
        family="elementwise",
        arity=len(operands),
        type=_elementwise_type(name, operands, dtypes, result),
        ref=elementwise_ref(name, function),
        axes=_elementwise_axes(name, body, result),
        cost=cost_per_element(flops),
        doc=doc,
        linear=linear,
        joint=joint,
        jvp=jvp,
        vjp=vjp,
        transpose=transpose,
        facts=facts,
        emit=name if body is None else None,
        eager=eager,
        elementwise=True,
        samples=samples or elementwise_samples(len(operands), dtypes),
        dtypes=dtypes,
        blank=reasons,
    )


def unary(
    name: str,
    function: Callable[..., Any],
    doc: str,
    *,
    derivative: Derivative | None = None,
    operands: tuple[str, ...] = ("x",),
    **columns: Any,
) -> Op:
    """An element-wise op of one operand. `derivative(x, y, dx)` is the tangent of y; it must be
    linear in dx and is called with Values."""
    if derivative is not None:
        columns["jvp"] = _jvp_of(derivative)
    return elementwise(name, function, doc, operands=operands, **columns)


def binary(
    name: str,
    function: Callable[..., Any],
    doc: str,
    *,
    derivatives: tuple[Derivative, Derivative] | None = None,
    operands: tuple[str, ...] = ("x", "y"),
    **columns: Any,
) -> Op:
    """An element-wise op of two operands. `derivatives[k](x, y, z, t)` is the part of the tangent
    of z that the tangent t of operand k brings."""
    if derivatives is not None:
        columns["jvp"] = _jvp_of(*derivatives)
    return elementwise(name, function, doc, operands=operands, **columns)


def compare(name: str, function: Callable[..., Any], doc: str, **columns: Any) -> Op:
    """An element-wise comparison: two operands of one dtype to bool."""
    columns.setdefault("dtypes", NUMBERS)
    columns.setdefault("blank", {"jvp": "the result is bool"})
    return binary(name, function, doc, result=dt.bool_, **columns)


def logical(
    name: str, function: Callable[..., Any], doc: str, *, arity: int = 2, **columns: Any
) -> Op:
    """An element-wise op on bool."""
    columns.setdefault("blank", {"jvp": "operands are bool"})
    return elementwise(name, function, doc, operands=("x", "y")[:arity], dtypes=BOOLS, **columns)


def _jvp_of(*parts: Derivative) -> JvpRule:
    def rule(
        attrs: Attrs,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        tangents: Sequence[Value | None],
    ) -> tuple[Value | None, ...]:
        terms = [
            part(*inputs, outputs[0], t)
            for part, t in zip(parts, tangents, strict=True)
            if t is not None
        ]
        return (sum_of(terms),)

    return rule


def sum_of(terms: Sequence[Value | None]) -> Value | None:
    """The sum of tangents or cotangents, None standing for zero."""
    total: Value | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else add(total, term)
    return total


# ---- other families


def structured(
    name: str,
    family: str,
    doc: str,
    *,
    arity: int | None,
    attrs: type[A],
    type: Callable[[A, Types], tuple[TensorType, ...]],
    ref: Callable[[A, Sequence[Array]], tuple[Array, ...]],
    axes: Callable[[A, Types], LoopForm] | None,
    transpose: Callable[[A, Sequence[Value], Sequence[Value | None], int], Value | None]
    | None = None,
    jvp: Callable[
        [A, Sequence[Value], Sequence[Value], Sequence[Value | None]], tuple[Value | None, ...]
    ]
    | None = None,
    batch: Callable[[A, Sequence[Value], Sequence[bool], int], tuple[Value, ...]] | None = None,
    cost: Callable[[A, Types, Types], Cost] | None = None,
    decompose: Callable[[A, Sequence[Value]], Sequence[Value]] | None = None,
    eager: Callable[[A, Types, Types], EagerKernel | None] | None = None,
    dtypes: tuple[DType, ...] = dt.ALL,
    **columns: Any,
) -> Op:
    """An op with attributes of class `attrs`; the rules are written for that class. For everything
    that is not element-wise."""
    reasons = dict(columns.pop("blank", {}))
    if not columns.get("linear"):
        reasons.setdefault("transpose", "not linear")
    if columns.get("emit") is None and decompose is None:
        reasons.setdefault("emit", "made from its loop form")
    return Op(
        name=name,
        family=family,
        arity=arity,
        attrs=attrs,
        type=cast(TypeRule, type),
        ref=cast(RefRule, ref),
        axes=cast("AxesRule | None", axes),
        cost=cost_per_element(1) if cost is None else cast(CostRule, cost),
        doc=doc,
        transpose=cast("TransposeRule | None", transpose),
        jvp=cast("JvpRule | None", jvp),
        batch=cast("BatchRule | None", batch),
        eager=cast("EagerRule | None", eager),
        decompose=cast("Callable[[Attrs, Sequence[Value]], Sequence[Value]] | None", decompose),
        dtypes=dtypes,
        blank=reasons,
        **columns,
    )


@dataclass(frozen=True)
class ReduceAttrs(Attrs):
    """The reduced dims, rising; they leave the shape."""

    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        dims = (self.dims,) if isinstance(self.dims, int) else self.dims
        object.__setattr__(self, "dims", tuple(sorted(dims)))

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dims=later(self.dims))


def reduced_shape(shape: Shape, dims: tuple[int, ...]) -> Shape:
    """`shape` without `dims`."""
    return tuple(n for d, n in enumerate(shape) if d not in dims)


def check_reduce(op: str, dims: tuple[int, ...], type: TensorType) -> None:
    """Raise ShapeError for a dim out of range and AxisError for one given twice."""
    for dim in dims:
        require_dim(op, dim, type)
    if len(set(dims)) != len(dims):
        raise AxisError(f"{op}: dims {list(dims)} name a dim twice", fix="name each dim once")


def reduce_axes(shape: Shape, dims: tuple[int, ...]) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
    """All loop variables of the operand (in the order of its dims), and those that are reduced."""
    kept, gone = iter(range(len(shape))), iter(range(len(shape)))
    index = tuple(
        var(f"r{next(gone)}", n) if d in dims else var(f"i{next(kept)}", n)
        for d, n in enumerate(shape)
    )
    return index, tuple(index[d] for d in dims)


def reduction(
    name: str,
    combine: str,
    function: Callable[..., Any],
    doc: str,
    *,
    dtypes: tuple[DType, ...] = NUMBERS,
    nonempty: bool = False,
    **columns: Any,
) -> Op:
    """A reduction over `ReduceAttrs.dims` by the associative binary op `combine`.

    `function(array, axis=dims)` is its NumPy meaning. 16-bit floats are combined in f32 and rounded
    once. `nonempty`: there is no neutral element, so an empty reduction is a ShapeError.
    """

    def type_rule(attrs: ReduceAttrs, types: Types) -> tuple[TensorType, ...]:
        (x,) = types
        require_dtype(name, "x", x, dtypes)
        check_reduce(name, attrs.dims, x)
        shape = reduced_shape(x.shape, attrs.dims)
        if nonempty and any(x.shape[d] == 0 for d in attrs.dims):
            raise ShapeError(
                f"{name}: x {x} has no elements along dims {list(attrs.dims)}",
                fix="reduce over dims that are not empty; there is no neutral element",
            )
        return (x.with_shape(shape),)

    def ref(attrs: ReduceAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = operands
        wide = x.astype(np.float32) if is_narrow(x.dtype) else x
        with np.errstate(all="ignore"):
            return (np.asarray(function(wide, axis=attrs.dims)).astype(x.dtype),)

    def axes(attrs: ReduceAttrs, types: Types) -> LoopForm:
        index, gone = reduce_axes(types[0].shape, attrs.dims)
        kept = tuple(v for v in index if v not in gone)
        return LoopForm(kept, (widened(read(0, index, types[0].dtype)),), gone, combine)

    def cost(attrs: ReduceAttrs, ins: Types, outs: Types) -> Cost:
        return Cost(ins[0].size, nbytes(*ins, *outs))

    columns.setdefault("samples", reduction_samples(dtypes, nonempty))
    return structured(
        name, "reduction", doc, arity=1, attrs=ReduceAttrs, type=type_rule, ref=ref, axes=axes,
        cost=cost, dtypes=dtypes, **columns,
    )  # fmt: skip


def reduction_samples(dtypes: tuple[DType, ...], nonempty: bool = False) -> SampleRule:
    """Every dtype; no dim, inner, outer, middle and all dims, empty operands, edge values."""
    cases: list[tuple[Shape, tuple[int, ...]]] = [
        ((), ()), ((1,), (0,)), ((5,), (0,)), ((3, 7), (0,)), ((3, 7), (1,)), ((3, 7), (0, 1)),
        ((2, 3, 5), (1,)), ((2, 3, 5), (0, 2)), ((2, 3, 5), ()), ((0, 3), (1,)),
    ]  # fmt: skip
    if not nonempty:
        cases.append(((0, 3), (0,)))

    def rule(rng: np.random.Generator) -> list[Sample]:
        found: list[Sample] = []
        for dtype in dtypes:
            some = cases if dtype.bits >= 32 or dtype.is_bool else cases[4:8]
            found += [Sample((TensorType(dtype, s),), ReduceAttrs(d)) for s, d in some]
            pairs = np.stack(np.meshgrid(*[edge_values(dtype)] * 2), -1).reshape(-1, 2)
            found.append(Sample((pairs,), ReduceAttrs((1,))))
        return found

    return rule


def movement(name: str, doc: str, *, attrs: type[A], **columns: Any) -> Op:
    """An op of one operand that only moves elements: linear, no arithmetic, every dtype."""
    columns.setdefault("arity", 1)
    columns.setdefault("linear", (0,))
    columns.setdefault("joint", True)
    columns.setdefault("cost", moved)
    return structured(name, "movement", doc, attrs=attrs, **columns)


def moved(attrs: Attrs, ins: Types, outs: Types) -> Cost:
    """No arithmetic; what is written is read once."""
    return Cost(0, 2 * nbytes(*outs))


def creation(name: str, doc: str, *, attrs: type[A], **columns: Any) -> Op:
    """An op without operands."""
    blank = {"jvp": "has no operands", "transpose": "has no operands"} | columns.pop("blank", {})
    columns.setdefault("cost", lambda attrs, ins, outs: Cost(0, nbytes(*outs)))
    return structured(name, "creation", doc, arity=0, attrs=attrs, blank=blank, **columns)


def _pass_through(
    attrs: Attrs, inputs: Sequence[Value], cotangents: Sequence[Value | None], operand: int
) -> Value | None:
    return cotangents[0]


def _sum_tangents(
    attrs: Attrs,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    tangents: Sequence[Value | None],
) -> tuple[Value | None, ...]:
    return (sum_of(tangents),)


add: Op = binary(
    "add",
    np.add,
    "x + y; integers wrap around.",
    dtypes=NUMBERS,
    linear=(0, 1),
    joint=True,
    jvp=_sum_tangents,
    transpose=_pass_through,
    facts=Facts(commutative=True, associative=True, identity=0.0),
)
