"""Element-wise ops: arithmetic, comparison, logic, bits, selection and casts.

The functions of analysis (exp, sin, …) stand in `rung.ops.transcendental`. Conventions:

- Integers wrap around. Dividing an integer by zero gives 0 (quotient and remainder), as in NumPy;
  quotients are rounded down, so the remainder has the sign of the divisor.
- Where a function has a kink, the derivative is: 0 for abs at 0, half to each operand of maximum
  and minimum where they are equal (as in PyTorch and JAX), 0 for the piecewise constant ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType, Scalar, as_dtype
from rung.core.errors import DTypeError
from rung.ir.expr import raw_call, read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Facts, LoopForm, Op, Sample
from rung.ir.types import TensorType
from rung.ops.creation import full_like, zeros_like
from rung.ops.eager.elementwise import bitcast_kernel, cast_kernel, choose
from rung.ops.families import (
    NUMBERS,
    Types,
    add,
    axis_vars,
    binary,
    compare,
    is_narrow,
    logical,
    reads,
    require_dtype,
    require_same_dtype,
    require_same_shape,
    scalar,
    scalar_cast,
    structured,
    unary,
)
from rung.ops.samples import SHAPES, edge_values

Values = Sequence[Value]
Tangents = Sequence["Value | None"]


def scale(x: Value, factor: float) -> Value:
    """x times a number."""
    return multiply(x, full_like(x, factor))


def plus(x: Value, term: float) -> Value:
    """x plus a number."""
    return add(x, full_like(x, term))


def no_derivative(
    attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents
) -> tuple[Value | None, ...]:
    """Jvp of a piecewise constant op."""
    return (None,) * len(outputs)


# ---- arithmetic


def _subtract_jvp(
    attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents
) -> tuple[Value | None, ...]:
    dx, dy = tangents
    if dx is None or dy is None:
        return (dx if dy is None else negative(dy),)
    return (subtract(dx, dy),)


def _subtract_transpose(
    attrs: Attrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return ct if ct is None or operand == 0 else negative(ct)


subtract: Op = binary(
    "subtract",
    np.subtract,
    "x - y; integers wrap around.",
    dtypes=NUMBERS,
    linear=(0, 1),
    joint=True,
    jvp=_subtract_jvp,
    transpose=_subtract_transpose,
)


def _multiply_transpose(
    attrs: Attrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else multiply(ct, inputs[1 - operand])


multiply: Op = binary(
    "multiply",
    np.multiply,
    "x * y; integers wrap around.",
    dtypes=NUMBERS,
    linear=(0, 1),
    transpose=_multiply_transpose,
    facts=Facts(commutative=True, associative=True, identity=1.0, absorbing=0.0),
)


def _divide_transpose(
    attrs: Attrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else divide(ct, inputs[1])


divide: Op = binary(
    "divide",
    np.true_divide,
    "x / y.",
    derivatives=(
        lambda x, y, z, dx: divide(dx, y),
        lambda x, y, z, dy: negative(multiply(divide(dy, y), z)),
    ),
    linear=(0,),
    transpose=_divide_transpose,
    facts=Facts(domain=(0.5, 3.0)),
)

floor_divide: Op = binary(
    "floor_divide",
    np.floor_divide,
    "x / y rounded down. Integers: 0 where y is 0, the least integer where it overflows. Floats: "
    "(x - remainder(x, y)) / y to the nearest whole number; x / y where y is 0.",
    dtypes=NUMBERS,
    jvp=no_derivative,
    facts=Facts(domain=(0.5, 3.0)),
)

remainder: Op = binary(
    "remainder",
    np.remainder,
    "x - y floor(x / y): it has the sign of y. Integers: 0 where y is 0. Floats: C's fmod, plus y "
    "where the signs differ; a zero has the sign of y; NaN where y is 0 or x infinite.",
    dtypes=NUMBERS,
    derivatives=(
        lambda x, y, z, dx: dx,
        lambda x, y, z, dy: negative(multiply(dy, floor_divide(x, y))),
    ),
    flops=4,
    facts=Facts(domain=(0.5, 3.0)),
)


def _negative_transpose(
    attrs: Attrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else negative(ct)


negative: Op = unary(
    "negative",
    np.negative,
    "-x; integers wrap around.",
    dtypes=NUMBERS,
    linear=(0,),
    joint=True,
    transpose=_negative_transpose,
    facts=Facts(monotone=-1),
)

def _abs_slope(x: Value, y: Value, dx: Value) -> Value:
    return multiply(dx, sign(x))


absolute: Op = unary(
    "abs",
    np.abs,
    "|x|; the least integer stays. Derivative 0 at 0; that of its square is 2x all the same.",
    dtypes=NUMBERS,
    derivative=_abs_slope,
    vjp=lambda attrs, inputs, cotangents, wanted: cancelling_vjp(
        absolute(*inputs),
        inputs,
        cotangents,
        lambda x, rest: [multiply(rest, x)],
        lambda x, y, ct: [_abs_slope(x, y, ct)],
    ),
    facts=Facts(idempotent=True, kinks=(0.0,)),
)

sign: Op = unary(
    "sign",
    np.sign,
    "-1, +0 or 1; NaN stays.",
    dtypes=NUMBERS,
    jvp=no_derivative,
    facts=Facts(idempotent=True, monotone=1, kinks=(0.0,)),
)


# ---- rounding


def _rounding(name: str, function: Any, doc: str) -> Op:
    kinks = tuple(k / 2 for k in range(-8, 9))
    facts = Facts(idempotent=True, monotone=1, kinks=kinks)
    return unary(name, function, doc, jvp=no_derivative, facts=facts)


floor: Op = _rounding("floor", np.floor, "The largest whole number not above x.")
ceil: Op = _rounding("ceil", np.ceil, "The smallest whole number not below x.")
round_: Op = _rounding("round", np.rint, "The nearest whole number; halves go to the even one.")
trunc: Op = _rounding("trunc", np.trunc, "x without its fraction.")


# ---- extremes


def _share(wins: Any) -> Any:
    """Tangent t where this operand wins, half of it where both are equal."""

    def rule(x: Value, y: Value, z: Value, t: Value) -> Value:
        tie = where(equal(x, y), scale(t, 0.5), zeros_like(t))
        return where(wins(x, y), t, tie)

    return rule


maximum: Op = binary(
    "maximum",
    np.maximum,
    "The larger one; NaN if one is NaN; of zeros any. Equal ones share the derivative in half.",
    dtypes=NUMBERS,
    derivatives=(_share(lambda x, y: greater(x, y)), _share(lambda x, y: less(x, y))),
    facts=Facts(commutative=True, associative=True, idempotent=True, identity=-inf, absorbing=inf),
)

minimum: Op = binary(
    "minimum",
    np.minimum,
    "The smaller one; NaN if one is NaN; of zeros any. Equal ones share the derivative in half.",
    dtypes=NUMBERS,
    derivatives=(_share(lambda x, y: less(x, y)), _share(lambda x, y: greater(x, y))),
    facts=Facts(commutative=True, associative=True, idempotent=True, identity=inf, absorbing=-inf),
)


# ---- comparison

equal: Op = compare("equal", np.equal, "x == y; NaN equals nothing.", dtypes=dt.ALL,
                facts=Facts(commutative=True))  # fmt: skip
not_equal: Op = compare("not_equal", np.not_equal, "x != y; true for NaN.", dtypes=dt.ALL,
                    facts=Facts(commutative=True))  # fmt: skip
less: Op = compare("less", np.less, "x < y; false for NaN.")
less_equal: Op = compare("less_equal", np.less_equal, "x <= y; false for NaN.")
greater: Op = compare("greater", np.greater, "x > y; false for NaN.")
greater_equal: Op = compare("greater_equal", np.greater_equal, "x >= y; false for NaN.")


# ---- classification


def _classify(name: str, function: Any, doc: str) -> Op:
    return unary(name, function, doc, result=dt.bool_, blank={"jvp": "the result is bool"})


isnan: Op = _classify("isnan", np.isnan, "Whether x is NaN.")
isinf: Op = _classify("isinf", np.isinf, "Whether x is infinite.")
isfinite: Op = _classify("isfinite", np.isfinite, "Whether x is neither infinite nor NaN.")
signbit: Op = _classify("signbit", np.signbit, "Whether the sign bit of x is set (also of -0).")


copysign: Op = binary(
    "copysign",
    np.copysign,
    "|x| with the sign bit of y. No derivative by y.",
    derivatives=(
        lambda x, y, z, dx: where(equal(signbit(x), signbit(y)), dx, negative(dx)),
        lambda x, y, z, dy: None,
    ),
    facts=Facts(kinks=(0.0,)),
)


# ---- logic and bits

_LATTICE = Facts(commutative=True, associative=True, idempotent=True)
_AND = replace(_LATTICE, identity=1.0, absorbing=0.0)
_OR = replace(_LATTICE, identity=0.0, absorbing=1.0)
_XOR = Facts(commutative=True, associative=True, identity=0.0)
logical_and: Op = logical("logical_and", np.logical_and, "x and y.", facts=_AND)
logical_or: Op = logical("logical_or", np.logical_or, "x or y.", facts=_OR)
logical_xor: Op = logical("logical_xor", np.logical_xor, "Whether one of x and y is true.",
                      facts=_XOR)  # fmt: skip
logical_not: Op = logical("logical_not", np.logical_not, "not x.", arity=1)

_BITS: dict[str, Any] = {"dtypes": dt.INTEGERS, "blank": {"jvp": "operands are integers"}}
_SHIFT: dict[str, Any] = _BITS | {"facts": Facts(domain=(0.0, 9.0))}
bitwise_and: Op = binary("bitwise_and", np.bitwise_and, "x & y.",
                     facts=replace(_LATTICE, absorbing=0.0), **_BITS)  # fmt: skip
bitwise_or: Op = binary("bitwise_or", np.bitwise_or, "x | y.",
                    facts=replace(_LATTICE, identity=0.0), **_BITS)  # fmt: skip
bitwise_xor: Op = binary("bitwise_xor", np.bitwise_xor, "x ^ y.", facts=_XOR, **_BITS)
bitwise_invert: Op = unary("bitwise_invert", np.invert, "~x.", **_BITS)
left_shift: Op = binary(
    "left_shift",
    np.left_shift,
    "x << y; 0 where y is negative or at least the number of bits.",
    **_SHIFT,
)
right_shift: Op = binary(
    "right_shift",
    np.right_shift,
    "x >> y, keeping the sign; all sign bits where y is negative or at least the number of bits.",
    **_SHIFT,
)


# ---- where


def _where_type(attrs: Attrs, types: Types) -> tuple[TensorType, ...]:
    condition, x, y = types
    require_dtype("where", "condition", condition, (dt.bool_,))
    require_same_dtype("where", ("x", "y"), (x, y))
    require_same_shape("where", ("condition", "x", "y"), types)
    return (x,)


def _where_axes(attrs: Attrs, types: Types) -> LoopForm:
    axes = axis_vars(types[0].shape)
    return LoopForm(axes, (raw_call("where", tuple(reads(types, axes)), types[1].dtype),))


def _where_jvp(
    attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents
) -> tuple[Value | None, ...]:
    _, dx, dy = tangents
    given = dx if dx is not None else dy
    if given is None:
        return (None,)
    zero = zeros_like(given)
    return (where(inputs[0], zero if dx is None else dx, zero if dy is None else dy),)


def _where_transpose(
    attrs: Attrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None:
        return None
    zero = zeros_like(ct)
    return where(inputs[0], ct, zero) if operand == 1 else where(inputs[0], zero, ct)


def _where_samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((TensorType(dt.bool_, s), TensorType(d, s), TensorType(d, s)))
        for d in dt.ALL
        for s in SHAPES
    ]


where: Op = structured(
    "where",
    "elementwise",
    "x where the condition (bool) is true, else y.",
    arity=3,
    attrs=Attrs,
    type=_where_type,
    ref=lambda attrs, operands: (np.asarray(np.where(*operands)),),
    axes=_where_axes,
    linear=(1, 2),
    joint=True,
    jvp=_where_jvp,
    transpose=_where_transpose,
    emit="where",
    eager=choose,
    elementwise=True,
    samples=_where_samples,
)


# ---- cast, bitcast


@dataclass(frozen=True)
class DTypeAttrs(Attrs):
    """The dtype of the result."""

    dtype: DType

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", as_dtype(self.dtype))


def cast_array(x: Array, to: DType) -> Array:
    """The meaning of `cast` on arrays."""
    wide = x.astype(np.float32) if is_narrow(x.dtype) else x
    if to.is_bool:
        return np.asarray(wide != 0)
    if to.is_integer and wide.dtype.kind == "f":
        return _saturated(wide, to)
    with np.errstate(all="ignore"):
        return wide.astype(to.numpy)


def _saturated(x: Array, to: DType) -> Array:
    info = np.iinfo(to.numpy)
    low, high = float(info.min), float(info.max) + 1.0 if to.bits == 64 else float(info.max)
    whole = np.trunc(np.where(np.isnan(x), 0, x).astype(np.float64))
    over, under = whole >= high, whole <= low
    inside = np.where(over | under, 0, whole).astype(to.numpy)
    return np.where(over, info.max, np.where(under, info.min, inside)).astype(to.numpy)


def _cast_axes(attrs: DTypeAttrs, types: Types) -> LoopForm:
    axes = axis_vars(types[0].shape)
    return LoopForm(axes, (scalar_cast(read(0, axes, types[0].dtype), attrs.dtype),))


def _cast_jvp(
    attrs: DTypeAttrs, inputs: Values, outputs: Values, tangents: Tangents
) -> tuple[Value | None, ...]:
    (dx,) = tangents
    smooth = attrs.dtype.is_float and inputs[0].type.dtype.is_float
    return (cast(dx, attrs=attrs) if dx is not None and smooth else None,)


def _cast_transpose(
    attrs: DTypeAttrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None or not inputs[0].type.dtype.is_float:
        return None
    return cast(ct, dtype=inputs[0].type.dtype)


def _cast_samples(rng: np.random.Generator) -> list[Sample]:
    pairs = [(a, b) for a in dt.ALL for b in dt.ALL]
    drawn = [Sample((TensorType(a, (3, 7)),), DTypeAttrs(b)) for a, b in pairs]
    edges = [Sample((edge_values(a),), DTypeAttrs(b)) for a, b in pairs]
    shapes = [Sample((TensorType(dt.float32, s),), DTypeAttrs(dt.float64)) for s in SHAPES]
    return drawn + edges + shapes


cast: Op = structured(
    "cast",
    "elementwise",
    "x as `dtype`. Floats are rounded to nearest even; a float becomes an integer by dropping the "
    "fraction, is held at the ends of the range, and NaN is 0; integers wrap; bool is x != 0.",
    arity=1,
    attrs=DTypeAttrs,
    type=lambda attrs, types: (types[0].with_dtype(attrs.dtype),),
    ref=lambda attrs, operands: (cast_array(operands[0], attrs.dtype),),
    axes=_cast_axes,
    linear=(0,),
    joint=True,
    jvp=_cast_jvp,
    transpose=_cast_transpose,
    emit="cast",
    eager=lambda attrs, ins, outs: cast_kernel(ins[0].dtype, attrs.dtype, cast_array),
    elementwise=True,
    samples=_cast_samples,
)


def _bitcast_type(attrs: DTypeAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    require_dtype("bitcast", "x", x, NUMBERS)
    if x.dtype.bits != attrs.dtype.bits:
        raise DTypeError(
            f"bitcast: x {x} has {x.dtype.bits} bits an element, {attrs.dtype} has"
            f" {attrs.dtype.bits}",
            fix="give a dtype of the same width, or use cast to convert the values",
        )
    return (x.with_dtype(attrs.dtype),)


def _bitcast_axes(attrs: DTypeAttrs, types: Types) -> LoopForm:
    axes = axis_vars(types[0].shape)
    element = read(0, axes, types[0].dtype)
    if types[0].dtype is attrs.dtype:
        return LoopForm(axes, (element,))
    return LoopForm(axes, (scalar("bitcast", element, dtype=attrs.dtype),))


def _bitcast_samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((edge_values(a),), DTypeAttrs(b))
        for a in NUMBERS
        for b in NUMBERS
        if a.bits == b.bits
    ]


bitcast: Op = structured(
    "bitcast",
    "elementwise",
    "The same bits read as `dtype` of the same width.",
    arity=1,
    attrs=DTypeAttrs,
    type=_bitcast_type,
    ref=lambda attrs, operands: (operands[0].view(attrs.dtype.numpy),),
    axes=_bitcast_axes,
    jvp=no_derivative,
    dtypes=NUMBERS,
    emit="bitcast",
    eager=lambda attrs, ins, outs: bitcast_kernel(attrs.dtype),
    elementwise=True,
    samples=_bitcast_samples,
    blank={"transpose": "not linear"},
)


RECORDS = (
    add, subtract, multiply, divide, floor_divide, remainder, negative, absolute, sign,
    floor, ceil, round_, trunc, maximum, minimum,
    equal, not_equal, less, less_equal, greater, greater_equal,
    isnan, isinf, isfinite, signbit, copysign,
    logical_and, logical_or, logical_xor, logical_not,
    bitwise_and, bitwise_or, bitwise_xor, bitwise_invert, left_shift, right_shift,
    where, cast, bitcast,
)  # fmt: skip


# ---- functions


def cancelling_vjp(
    y: Value,
    inputs: Values,
    cotangents: Tangents,
    parts: Callable[..., Sequence[Value]],
    slopes: Callable[..., Sequence[Value]],
) -> Tangents:
    """The reverse rule of a function y of `inputs` whose slopes are some s / y, with a kink where y
    is 0, for all of them.

    Where the cotangent is a multiple of y, as that of y² is, y goes away: `parts(*inputs, ct / y)`
    holds at the kink too, and so do its derivatives. Else they are `slopes(*inputs, y, ct)`."""
    (ct,) = cotangents
    if ct is None:
        return [None] * len(inputs)
    rest = quotient(ct, y)
    return slopes(*inputs, y, ct) if rest is None else parts(*inputs, rest)


def quotient(v: Value, y: Value, depth: int = 7) -> Value | None:
    """v / y where v is a product with the factor y, or a sum of such; None if that is not seen.
    Elements keep their order in reshapes, of v as of y."""
    node, same = v.node, y.node
    if node.op is same.op and node.inputs == same.inputs and node.attrs == same.attrs:
        return full_like(v, 1)
    if not depth:
        return None
    if node.op in (multiply, divide):
        a, b = node.inputs
        rest = quotient(a, y, depth - 1)
        if rest is not None:
            return node.op(rest, b)
        rest = quotient(b, y, depth - 1) if node.op is multiply else None
        return None if rest is None else multiply(a, rest)
    each = node.op in (add, subtract, negative) or node.op.name == "reshape"
    if each or (node.op is cast and v.dtype.is_float):
        found = [quotient(u, y, depth - 1) for u in node.inputs]
        if all(u is not None for u in found):
            return node.op.build(found, node.attrs)[0]  # type: ignore[arg-type]
    return None


def clip(x: Value, low: Value | Scalar, high: Value | Scalar) -> Value:
    """`minimum(maximum(x, low), high)`; bounds are numbers or values of the type of x."""
    lower = low if isinstance(low, Value) else full_like(x, low)
    upper = high if isinstance(high, Value) else full_like(x, high)
    return minimum(maximum(x, lower), upper)
