"""The element-wise functions of the array API, and a few more that people know.

Operands are tensors, arrays or Python numbers; they are promoted as in NumPy 2 (a Python number
takes the dtype of the tensor beside it) and broadcast. Functions of analysis bring integers to f32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.dtype import Scalar
from rung.core.errors import DTypeError
from rung.ir.node import Value
from rung.ir.op import Op
from rung.ops import elementwise as e
from rung.ops import transcendental as t
from rung.ops.broadcast import broadcasted
from rung.ops.creation import full
from rung.ops.shorthand import as_type, wide
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
    """x1 to the power x2. Small whole numbers x2 are products. Integers wrap around; below 1 in
    magnitude (a negative x2) they are rounded towards zero. Raises DTypeError for bool."""
    operands = operands_of((x1, x2))
    dtype = common_dtype(operands)
    if dtype.is_bool:
        raise DTypeError("pow of bool", fix="cast one operand to an integer dtype")
    if isinstance(x1, TensorState) and not isinstance(operands[1], TensorState):
        short = _short_power(operands[1], dtype)
        if short is not None:
            return apply_together("pow", short, operands[:1], dtype)
    return apply_together("pow", t.power, operands, dtype)


def _short_power(y: Scalar, dtype: dt.DType) -> Callable[[Value], Value] | None:
    """x to the power y for values of `dtype` by a few simple operations, where that is possible."""
    if y in (1, 2, 3) or (dtype.is_integer and y > 0):
        return lambda v: as_type(_whole_power(wide(v), int(y)), dtype)
    if not dtype.is_float:
        return None
    shorts = {0.5: t.sqrt, -0.5: t.rsqrt, -1: lambda v: e.divide(full(v.shape, 1, dtype), v)}
    return shorts.get(y)


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
    """x held between min and max (None: no bound), in the dtype of x. The derivative by x is 1 at
    bounds that are numbers."""
    x = as_tensor(x)
    if min is not None:
        x = _bounded("clip", e.maximum, e.less, x, min)
    if max is not None:
        x = _bounded("clip", e.minimum, e.greater, x, max)
    return x


def _bounded(name: str, op: Op, beyond: Op, x: Tensor, bound: Operand) -> Tensor:
    if isinstance(bound, int | float) and x.dtype.is_float and bound == bound:
        limit = float(bound)

        def held(v: Value) -> Value:
            number = full(v.shape, limit, v.type.dtype)
            return e.where(beyond(v, number), number, v)

        return elementwise(name, held, (x,))
    if isinstance(bound, TensorState) and x.dtype.is_float and not bound.dtype.is_float:
        bound = cast_to(bound, x.dtype)  # type: ignore[arg-type]
    operands = operands_of((x, bound))
    return apply_together(name, op, operands, common_dtype(operands))
