"""The element-wise functions of the array API, and a few more that people know.

Operands are tensors, arrays or Python numbers; they are promoted as in NumPy 2 (a Python number
takes the dtype of the tensor beside it) and broadcast. Functions of analysis bring integers to f32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.errors import DTypeError
from rung.ir.node import Value
from rung.ir.op import Op
from rung.ops import elementwise as e
from rung.ops import transcendental as t
from rung.ops.broadcast import broadcasted
from rung.ops.creation import full
from rung.tensor.operate import (
    Operand,
    apply_together,
    as_tensor,
    cast_to,
    cast_value,
    common_dtype,
    common_shape,
    elementwise,
    operands_of,
    scalar_value,
)
from rung.tensor.state import TensorState, apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Unary = Callable[[Operand], "Tensor"]
Binary = Callable[[Operand, Operand], "Tensor"]


def _named(function: Callable[..., Tensor], name: str, doc: str) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _unary(op: Op, name: str = "", floats: bool = False) -> Unary:
    def function(x: Operand, /) -> Tensor:
        return elementwise(op.name, op, (x,), floats=floats)

    return _named(function, name or op.name, op.doc)


def _binary(op: Op, name: str = "", floats: bool = False) -> Binary:
    def function(x1: Operand, x2: Operand, /) -> Tensor:
        return elementwise(op.name, op, (x1, x2), floats=floats)

    return _named(function, name or op.name, op.doc)


# ---- arithmetic

add = _binary(e.add)
subtract = _binary(e.subtract)
multiply = _binary(e.multiply)
divide = _binary(e.divide, floats=True)
remainder = _binary(e.remainder)
negative = _unary(e.negative)
abs = _unary(e.absolute)
sign = _unary(e.sign)
maximum = _binary(e.maximum)
minimum = _binary(e.minimum)


def floor_divide(x1: Operand, x2: Operand, /) -> Tensor:
    """x1 / x2 rounded down. Integers: 0 where x2 is 0, the least integer where it overflows.
    Floats: (x1 - remainder) / x2 to the nearest whole number; with an infinity, as the array API
    has it, the quotient itself rounded down (1 // -inf is -0)."""
    operands = operands_of((x1, x2))
    dtype = common_dtype(operands)
    build = _floor_of_floats if dtype.is_float else e.floor_divide
    return apply_together("floor_divide", build, operands, dtype)


def _floor_of_floats(x: Value, y: Value) -> Value:
    infinite = e.logical_or(e.isinf(x), e.isinf(y))
    return e.where(infinite, e.floor(e.divide(x, y)), e.floor_divide(x, y))


def positive(x: Operand, /) -> Tensor:
    """+x."""
    return as_tensor(x)


def _of_number(name: str, x: Operand) -> Tensor:
    x = as_tensor(x)
    if x.dtype.is_bool:
        raise DTypeError(f"{name} of {x._type}", fix="cast to a numeric dtype")
    return x


def conj(x: Operand, /) -> Tensor:
    """The complex conjugate: x itself, since all numbers are real. Raises DTypeError for bool."""
    return _of_number("conj", x)


def real(x: Operand, /) -> Tensor:
    """The real part: x itself, since all numbers are real. Raises DTypeError for bool."""
    return _of_number("real", x)


def imag(x: Operand, /) -> Tensor:
    """The imaginary part: zero, since all numbers are real. Raises DTypeError for bool."""
    return apply(lambda v: full(v.shape, 0, v.type.dtype), _of_number("imag", x))


def square(x: Operand, /) -> Tensor:
    """x * x."""
    return elementwise("square", lambda v: e.multiply(v, v), (x,))


def reciprocal(x: Operand, /) -> Tensor:
    """1 / x."""
    return divide(1, x)


def pow(x1: Operand, x2: Operand, /) -> Tensor:
    """x1 to the power x2. Small whole numbers x2 are products. Integers are exact; below 1 in
    magnitude (a negative x2) they are rounded towards zero, where they overflow they wrap around
    for some and are undefined for others."""
    if isinstance(x2, int | float) and not isinstance(x2, bool) and isinstance(x1, TensorState):
        short = _short_power(x1, x2)
        if short is not None:
            return short
    operands = operands_of((x1, x2))
    dtype = common_dtype(operands)
    return apply_together("pow", t.power if dtype.is_float else _integer_power, operands, dtype)


def _integer_power(x: Value, y: Value) -> Value:
    """The product of the squares x, x², x⁴, … that the bits of y name. A y of as many bits as the
    dtype has, or more, can do without overflow only for x of -1, 0 and 1, so its parity says all.
    """
    dtype = x.type.dtype
    if dtype.is_bool:
        raise DTypeError("pow of bool", fix="cast one operand to an integer dtype")

    def number(n: int) -> Value:
        return full(x.shape, n, dtype)

    one, parity = number(1), e.bitwise_and(y, number(1))
    if dtype.kind == "i":
        below = e.less(y, number(0))
        unit = e.equal(e.absolute(x), one)
        x = e.where(e.logical_and(below, e.logical_not(unit)), number(0), x)
        y = e.where(below, e.add(number(2), parity), y)
    y = e.minimum(y, e.add(number(dtype.bits), parity))
    found, square = one, x
    for bit in range(dtype.bits.bit_length()):
        named = e.not_equal(e.bitwise_and(y, number(1 << bit)), number(0))
        found = e.where(named, e.multiply(found, square), found)
        square = e.multiply(square, square)
    return found


def _short_power(x: TensorState, y: float) -> Tensor | None:
    if y == 2:
        return square(x)
    if y == 3:
        return elementwise("power", lambda v: e.multiply(e.multiply(v, v), v), (x,))
    if y == 1:
        return elementwise("power", lambda v: v, (x,), floats=isinstance(y, float))
    if x.dtype.is_integer and isinstance(y, int) and y > 0:
        return elementwise("pow", lambda v: _whole_power(v, y), (x,))
    if not x.dtype.is_float:
        return None
    if y == 0.5:
        return sqrt(x)
    if y == -0.5:
        return rsqrt(x)
    return divide(1.0, x) if y == -1 else None


def _whole_power(x: Value, n: int) -> Value:
    """The product of n > 0 factors x, by squares."""
    found = None
    while n:
        if n & 1:
            found = x if found is None else e.multiply(found, x)
        n >>= 1
        if n:
            x = e.multiply(x, x)
    assert found is not None
    return found


# ---- rounding


def _rounding(op: Op) -> Unary:
    def function(x: Operand, /) -> Tensor:
        x = as_tensor(x)
        return apply(op, x) if x.dtype.is_float else x

    return _named(function, op.name, op.doc + " Integers stay.")


floor = _rounding(e.floor)
ceil = _rounding(e.ceil)
round = _rounding(e.round_)
trunc = _rounding(e.trunc)


# ---- functions of analysis

sqrt = _unary(t.sqrt, floats=True)
rsqrt = _unary(t.rsqrt, floats=True)
exp = _unary(t.exp, floats=True)
exp2 = _unary(t.exp2, floats=True)
expm1 = _unary(t.expm1, floats=True)
log = _unary(t.log, floats=True)
log1p = _unary(t.log1p, floats=True)
log2 = _unary(t.log2, floats=True)
log10 = _unary(t.log10, floats=True)
sin = _unary(t.sin, floats=True)
cos = _unary(t.cos, floats=True)
tan = _unary(t.tan, floats=True)
asin = _unary(t.asin, floats=True)
acos = _unary(t.acos, floats=True)
atan = _unary(t.atan, floats=True)
sinh = _unary(t.sinh, floats=True)
cosh = _unary(t.cosh, floats=True)
tanh = _unary(t.tanh, floats=True)
asinh = _unary(t.asinh, floats=True)
acosh = _unary(t.acosh, floats=True)
atanh = _unary(t.atanh, floats=True)
erf = _unary(t.erf, floats=True)
atan2 = _binary(t.atan2, floats=True)
hypot = _binary(t.hypot, floats=True)
logaddexp = _binary(t.logaddexp, floats=True)
copysign = _binary(e.copysign, floats=True)
nextafter = _binary(t.nextafter, floats=True)


# ---- comparison


def _comparison(op: Op) -> Binary:
    def function(x1: Operand, x2: Operand, /) -> Tensor:
        operands = operands_of((x1, x2))
        dtype = common_dtype(operands)
        return apply_together(op.name, op, operands, dt.uint8 if dtype.is_bool else dtype)

    return _named(function, op.name, op.doc)


equal = _comparison(e.equal)
not_equal = _comparison(e.not_equal)
less = _comparison(e.less)
less_equal = _comparison(e.less_equal)
greater = _comparison(e.greater)
greater_equal = _comparison(e.greater_equal)


def _classification(op: Op, integers: bool) -> Unary:
    def function(x: Operand, /) -> Tensor:
        x = as_tensor(x)
        if x.dtype.is_float:
            return apply(op, x)
        return apply(lambda v: full(v.shape, integers, dt.bool_), x)

    return _named(function, op.name, op.doc)


isnan = _classification(e.isnan, integers=False)
isinf = _classification(e.isinf, integers=False)
isfinite = _classification(e.isfinite, integers=True)
signbit = _unary(e.signbit, floats=True)


# ---- logic and bits


_TRUTH = " Other dtypes count as true where not zero."


def _logic(op: Op) -> Binary:
    def function(x1: Operand, x2: Operand, /) -> Tensor:
        return apply_together(op.name, op, operands_of((x1, x2)), dt.bool_)

    return _named(function, op.name, op.doc + _TRUTH)


logical_and = _logic(e.logical_and)
logical_or = _logic(e.logical_or)
logical_xor = _logic(e.logical_xor)


def logical_not(x: Operand, /) -> Tensor:
    """not x. Other dtypes count as true where not zero."""
    return apply_together("logical_not", e.logical_not, operands_of((x,)), dt.bool_)


def _bitwise(op: Op, logic: Op, name: str) -> Binary:
    def function(x1: Operand, x2: Operand, /) -> Tensor:
        operands = operands_of((x1, x2))
        dtype = common_dtype(operands)
        return apply_together(name, logic if dtype.is_bool else op, operands, dtype)

    return _named(function, name, op.doc + " On bool: the logical function.")


bitwise_and = _bitwise(e.bitwise_and, e.logical_and, "bitwise_and")
bitwise_or = _bitwise(e.bitwise_or, e.logical_or, "bitwise_or")
bitwise_xor = _bitwise(e.bitwise_xor, e.logical_xor, "bitwise_xor")
bitwise_left_shift = _binary(e.left_shift, "bitwise_left_shift")
bitwise_right_shift = _binary(e.right_shift, "bitwise_right_shift")


def bitwise_invert(x: Operand, /) -> Tensor:
    """~x. On bool: not x."""
    x = as_tensor(x)
    return apply(e.logical_not if x.dtype.is_bool else e.bitwise_invert, x)


# ---- selection


def where(condition: Operand, x1: Operand, x2: Operand, /) -> Tensor:
    """x1 where the condition is true, else x2; all three are broadcast."""
    chosen = cast_to(as_tensor(condition), dt.bool_)
    operands = operands_of((x1, x2))
    dtype = common_dtype(operands)
    tensors = [chosen, *(o for o in operands if isinstance(o, TensorState))]
    shape = common_shape("where", tensors)

    def build(c: Value, *values: Value) -> Value:
        given = iter(values)
        branches = [
            broadcasted(cast_value(next(given), dtype), shape)
            if isinstance(o, TensorState)
            else scalar_value("where", o, dtype, shape)
            for o in operands
        ]
        return e.where(broadcasted(c, shape), *branches)

    return apply(build, *tensors)


def clip(x: Operand, /, min: Operand = None, max: Operand = None) -> Tensor:
    """x held between min and max (None: no bound), in the dtype of x."""
    x = as_tensor(x)
    if min is not None:
        x = _bounded("clip", e.maximum, x, min)
    if max is not None:
        x = _bounded("clip", e.minimum, x, max)
    return x


def _bounded(name: str, op: Op, x: Tensor, bound: Operand) -> Tensor:
    if isinstance(bound, TensorState) and x.dtype.is_float and not bound.dtype.is_float:
        bound = cast_to(bound, x.dtype)  # type: ignore[arg-type]
    operands = operands_of((x, bound))
    return apply_together(name, op, operands, common_dtype(operands))
