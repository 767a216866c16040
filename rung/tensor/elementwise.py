"""The element-wise functions of the array API, and a few more that people know.

Operands are tensors, arrays or Python numbers; they are promoted as in NumPy 2 (a Python number
takes the dtype of the tensor beside it) and broadcast. Functions of analysis bring integers to f32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.dtype import DType
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
    def function(x: Operand, y: Operand, /) -> Tensor:
        return elementwise(op.name, op, (x, y), floats=floats)

    return _named(function, name or op.name, op.doc)


# ---- arithmetic

add = _binary(e.add)
subtract = _binary(e.subtract)
multiply = _binary(e.multiply)
divide = _binary(e.divide, floats=True)
floor_divide = _binary(e.floor_divide)
remainder = _binary(e.remainder)
negative = _unary(e.negative)
abs = _unary(e.absolute)
sign = _unary(e.sign)
maximum = _binary(e.maximum)
minimum = _binary(e.minimum)


def positive(x: Operand, /) -> Tensor:
    """+x."""
    return as_tensor(x)


def square(x: Operand, /) -> Tensor:
    """x * x."""
    return elementwise("square", lambda v: e.multiply(v, v), (x,))


def reciprocal(x: Operand, /) -> Tensor:
    """1 / x."""
    return divide(1, x)


def pow(x: Operand, y: Operand, /) -> Tensor:
    """x to the power y. Small whole numbers y are products; integers need y >= 0."""
    if isinstance(y, int | float) and not isinstance(y, bool) and isinstance(x, TensorState):
        short = _short_power(x, y)
        if short is not None:
            return short
    operands = operands_of((x, y))
    dtype = common_dtype(operands)
    return _power(operands, dtype)


def _power(operands: list[Operand], dtype: DType) -> Tensor:
    if dtype.is_float:
        return apply_together("power", t.power, operands, dtype)
    wide = apply_together("power", t.power, operands, dt.float64)
    return cast_to(wide, dtype)


def _short_power(x: TensorState, y: float) -> Tensor | None:
    if y == 2:
        return square(x)
    if y == 3:
        return elementwise("power", lambda v: e.multiply(e.multiply(v, v), v), (x,))
    if y == 1:
        return elementwise("power", lambda v: v, (x,), floats=isinstance(y, float))
    if not x.dtype.is_float:
        return None
    if y == 0.5:
        return sqrt(x)
    if y == -0.5:
        return rsqrt(x)
    return divide(1.0, x) if y == -1 else None


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
    def function(x: Operand, y: Operand, /) -> Tensor:
        operands = operands_of((x, y))
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


def _logic(op: Op) -> Callable[..., Tensor]:
    def function(*operands: Operand) -> Tensor:
        return apply_together(op.name, op, operands_of(operands), dt.bool_)

    return _named(function, op.name, op.doc + " Other dtypes count as true where not zero.")


logical_and = _logic(e.logical_and)
logical_or = _logic(e.logical_or)
logical_xor = _logic(e.logical_xor)
logical_not = _logic(e.logical_not)


def _bitwise(op: Op, logic: Op, name: str) -> Callable[..., Tensor]:
    def function(*given: Operand) -> Tensor:
        operands = operands_of(given)
        dtype = common_dtype(operands)
        return apply_together(name, logic if dtype.is_bool else op, operands, dtype)

    return _named(function, name, op.doc + " On bool: the logical function.")


bitwise_and = _bitwise(e.bitwise_and, e.logical_and, "bitwise_and")
bitwise_or = _bitwise(e.bitwise_or, e.logical_or, "bitwise_or")
bitwise_xor = _bitwise(e.bitwise_xor, e.logical_xor, "bitwise_xor")
bitwise_invert = _bitwise(e.bitwise_invert, e.logical_not, "bitwise_invert")
bitwise_left_shift = _binary(e.left_shift, "bitwise_left_shift")
bitwise_right_shift = _binary(e.right_shift, "bitwise_right_shift")


# ---- selection


def where(condition: Operand, x: Operand, y: Operand) -> Tensor:
    """x where the condition is true, else y; all three are broadcast."""
    chosen = cast_to(as_tensor(condition), dt.bool_)
    operands = operands_of((x, y))
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
    operands = operands_of((x, bound))
    return apply_together(name, op, operands, common_dtype(operands))
