"""Element-wise functions that users of PyTorch and NumPy know, made of those of the array API.

Operands are tensors, arrays or Python numbers; they are promoted and broadcast as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.arguments import at_least, between
from rung.core.errors import DTypeError, RungError
from rung.ops.elementwise import bitcast
from rung.tensor import elementwise as e
from rung.tensor.dtypes import finfo
from rung.tensor.functional import floats
from rung.tensor.operate import Operand, as_tensor, cast_to, common_dtype, operands_of
from rung.tensor.precision import rounded_once, times
from rung.tensor.reductions import all as all_true
from rung.tensor.state import TensorState, apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _together(*given: Operand) -> tuple[list[Operand], dt.DType]:
    operands = operands_of(given)
    return operands, common_dtype(operands)


def _as(x: Operand, dtype: dt.DType) -> Tensor:
    """x as a tensor of `dtype`."""
    return cast_to(x, dtype) if isinstance(x, TensorState) else as_tensor(x, dtype)  # type: ignore[arg-type]


def _number(name: str, x: Operand) -> Tensor:
    x = as_tensor(x)
    if x.dtype.is_bool:
        raise DTypeError(f"{name} of {x._type}", fix="cast to a numeric dtype")
    return x


# ---- sums, differences, quotients


@rounded_once
def add(x: Operand, y: Operand, alpha: float = 1) -> Tensor:
    """x + alpha y; bool counts as "or" where alpha is 1."""
    operands, dtype = _together(x, y)
    if dtype.is_bool:
        return e.logical_or(operands[0], e.logical_and(operands[1], bool(alpha)))
    return e.add(x, times(y, alpha))


@rounded_once
def subtract(x: Operand, y: Operand, alpha: float = 1) -> Tensor:
    """x - alpha y."""
    return e.subtract(x, times(y, alpha))


def divide(x: Operand, y: Operand, rounding_mode: str | None = None) -> Tensor:
    """x / y; "floor" rounds down and "trunc" towards zero, which keeps integers integers."""
    if rounding_mode is None:
        return e.divide(x, y)
    if rounding_mode == "floor":
        return e.floor_divide(x, y)
    if rounding_mode != "trunc":
        raise RungError(
            f"div: rounding_mode={rounding_mode!r}", fix='give None, "floor" or "trunc"'
        )
    operands, dtype = _together(x, y)
    if dtype.is_float:
        return e.trunc(e.divide(x, y))
    return _integer_quotient(*[_as(o, dtype) for o in operands])


def _integer_quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y towards zero."""
    down = e.floor_divide(x, y)
    rest = e.subtract(x, e.multiply(down, y))
    below = e.logical_and(down < 0, rest != 0)
    return e.add(down, cast_to(below, down.dtype))


def fmod(x: Operand, y: Operand) -> Tensor:
    """What remains of x after whole y are taken away; it has the sign of x. By an integer zero: 0.

    >>> import rung
    >>> rung.fmod(rung.asarray([-3.0, 3.0]), 2).tolist()
    [-1.0, 1.0]
    """
    operands, dtype = _together(x, y)
    a, b = (_as(o, dtype) for o in operands)
    if not dtype.is_float:
        rest = e.remainder(a, b)
        other = e.logical_and(rest != 0, (rest < 0) != (a < 0))
        return e.subtract(rest, e.where(other, b, 0))
    rest = e.remainder(a, e.where(e.signbit(a) == e.signbit(b), b, -b))
    return e.copysign(rest, a)


@rounded_once
def lerp(start: Operand, end: Operand, weight: Operand) -> Tensor:
    """start + weight (end - start), reckoned from the nearer end, so that weight 1 gives `end`."""
    away = e.subtract(end, start)
    weight = weight if isinstance(weight, bool | int | float) else as_tensor(weight)
    near = e.abs(weight) < 0.5 if isinstance(weight, TensorState) else abs(weight) < 0.5
    from_start = e.add(start, e.multiply(weight, away))
    from_end = e.subtract(end, e.multiply(away, e.subtract(as_tensor(1.0, away.dtype), weight)))
    if isinstance(near, bool):
        return from_start if near else from_end
    return e.where(near, from_start, from_end)


@rounded_once
def addcmul(x: Operand, y: Operand, z: Operand, value: float = 1) -> Tensor:
    """x + value y z."""
    return add(x, e.multiply(y, z), value)


@rounded_once
def addcdiv(x: Operand, y: Operand, z: Operand, value: float = 1) -> Tensor:
    """x + value y / z."""
    return add(x, e.divide(y, z), value)


def nan_to_num(
    x: Operand, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """x with `nan` for NaN, and numbers for the infinities: the largest and least finite ones."""
    x = as_tensor(x)
    if not x.dtype.is_float:
        return x
    largest = float(finfo(x.dtype).max)
    x = e.where(e.isnan(x), nan, x)
    x = e.where(x == math.inf, largest if posinf is None else posinf, x)
    return e.where(x == -math.inf, -largest if neginf is None else neginf, x)


# ---- powers, exponents, angles


def float_power(x: Operand, y: Operand) -> Tensor:
    """x to the power y, in f64."""
    return e.pow(as_tensor(x).astype(dt.float64), _double(y))


def _double(x: Operand) -> Operand:
    return float(x) if isinstance(x, bool | int | float) else as_tensor(x).astype(dt.float64)


@rounded_once
def ldexp(x: Operand, exponent: Operand) -> Tensor:
    """x times 2 to the power `exponent`."""
    return e.multiply(floats(x), e.exp2(exponent))


def frexp(x: Operand) -> tuple[Tensor, Tensor]:
    """(m, n) with x = m 2ⁿ, 0.5 <= |m| < 1 and n i32; (x, 0) for 0, infinities and NaN.

    >>> import rung
    >>> mantissa, exponent = rung.frexp(rung.asarray([6.0, -0.25]))
    >>> mantissa.tolist(), exponent.tolist()
    ([0.75, -0.5], [3, -1])
    """
    x = as_tensor(x)
    if not x.dtype.is_float:
        raise DTypeError(f"frexp of {x._type}", fix="cast to a float dtype")
    wide = cast_to(x, dt.float64)
    odd = (wide == 0) | ~e.isfinite(wide)
    tiny = e.abs(wide) < 2.0**-1000
    bits = _bits(e.where(tiny, wide * 2.0**100, wide))
    power = e.bitwise_and(e.bitwise_right_shift(bits, 52), 0x7FF) - 1022
    power = e.where(odd, 0, e.where(tiny, power - 100, power))
    half = e.bitwise_right_shift(power, 1)
    mantissa = wide * _power_of_two(-half) * _power_of_two(half - power)
    return cast_to(mantissa, x.dtype), cast_to(power, dt.int32)


def _bits(x: Tensor) -> Tensor:
    """The bits of f64 as i64."""
    return apply(lambda v: bitcast(v, dtype=dt.int64), x)


def _power_of_two(n: Tensor) -> Tensor:
    """2ⁿ in f64 for n of magnitude below 1000."""
    bits = e.bitwise_left_shift(n + 1023, 52)
    return apply(lambda v: bitcast(v, dtype=dt.float64), bits)


@rounded_once
def xlogy(x: Operand, y: Operand) -> Tensor:
    """x log(y), 0 where x is 0 and y is not NaN."""
    return _times_log(x, y, e.log)


@rounded_once
def xlog1py(x: Operand, y: Operand) -> Tensor:
    """x log(1 + y), 0 where x is 0 and y is not NaN."""
    return _times_log(x, y, e.log1p)


def _times_log(x: Operand, y: Operand, log: Callable[[Operand], Tensor]) -> Tensor:
    operands, dtype = _together(x, y)
    dtype = dtype if dtype.is_float else dt.float32
    a, b = (_as(o, dtype) for o in operands)
    infinite = e.logical_not(e.isfinite(log(b)))
    nothing = e.logical_and(e.logical_and(a == 0, infinite), e.logical_not(e.isnan(b)))
    return e.where(nothing, 0.0, e.multiply(a, log(e.where(nothing, 1.0, b))))


@rounded_once
def logaddexp2(x: Operand, y: Operand) -> Tensor:
    """log2(2ˣ + 2ʸ) without overflow between."""
    scale = math.log(2.0)
    return e.logaddexp(e.multiply(floats(x), scale), e.multiply(y, scale)) * (1 / scale)


@rounded_once
def logit(x: Operand, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), of x held within [eps, 1 - eps] if `eps` is given."""
    x = floats(x)
    if eps is not None:
        x = e.clip(x, eps, 1 - eps)
    return e.log(e.divide(x, 1 - x))


@rounded_once
def deg2rad(x: Operand) -> Tensor:
    """Degrees as radians."""
    return floats(x) * (math.pi / 180)


@rounded_once
def rad2deg(x: Operand) -> Tensor:
    """Radians as degrees."""
    return floats(x) * (180 / math.pi)


@rounded_once
def sinc(x: Operand) -> Tensor:
    """sin(pi x) / (pi x), 1 at 0."""
    x = floats(x)
    near = e.abs(x) < 0.15
    away = e.where(near, 1.0, x)
    whole = e.round(away)  # so that the sine is right beside its zeros
    sign = 1 - 2 * e.remainder(whole, 2.0)
    square = e.square(e.where(near, x * math.pi, 0.0))
    series = 1.0
    for k in range(6, 0, -1):  # 1 - y² / 6 (1 - y² / 20 (1 - …)), y = pi x
        series = 1 - square * (1 / (2 * k * (2 * k + 1))) * series
    return e.where(near, series, sign * e.sin((away - whole) * math.pi) / (away * math.pi))


def angle(x: Operand) -> Tensor:
    """The angle of x as a complex number: pi where it is negative, else 0; NaN stays."""
    x = floats(x)
    return e.where(e.isnan(x), x, e.where(x < 0, math.pi, 0.0).astype(x.dtype))


def frac(x: Operand) -> Tensor:
    """x without its whole part, with the sign of x."""
    x = as_tensor(x)
    return e.subtract(x, e.trunc(x))


def heaviside(x: Operand, values: Operand) -> Tensor:
    """0 where x is negative, `values` where it is 0, 1 where it is positive; NaN stays."""
    operands, dtype = _together(x, values)
    if dtype.is_bool:
        a, b = operands
        return e.logical_or(a, b)
    a, b = (_as(o, dtype) for o in operands)
    step = cast_to(a > 0, dtype)
    found = e.where(a == 0, b, step)
    return e.where(e.isnan(a), a, found) if dtype.is_float else found


@rounded_once
def round_to(x: Operand, decimals: int = 0) -> Tensor:
    """x rounded to so many decimals (negative: to tens, hundreds …); halves go to the even one."""
    x = as_tensor(x)
    if decimals == 0 or (not x.dtype.is_float and decimals > 0):
        return e.round(x)
    between("round", -300, 300, decimals=decimals)
    factor = 10.0 ** abs(decimals)
    if decimals > 0:
        return e.round(x * factor) / factor
    found = e.round(cast_to(x, x.dtype if x.dtype.is_float else dt.float64) / factor) * factor
    return cast_to(found, x.dtype)


# ---- extremes that leave NaN out


def fmax(x: Operand, y: Operand) -> Tensor:
    """The larger one; the other one where one is NaN."""
    return _without_nan(x, y, e.maximum)


def fmin(x: Operand, y: Operand) -> Tensor:
    """The smaller one; the other one where one is NaN."""
    return _without_nan(x, y, e.minimum)


def _without_nan(x: Operand, y: Operand, choose: Callable[..., Tensor]) -> Tensor:
    operands, dtype = _together(x, y)
    if not dtype.is_float:
        return choose(x, y)
    a, b = (_as(o, dtype) for o in operands)
    return e.where(e.isnan(a), b, e.where(e.isnan(b), a, choose(a, b)))


# ---- integers


def gcd(x: Operand, y: Operand) -> Tensor:
    """The greatest common divisor of integers, not negative; gcd(0, 0) is 0."""
    operands, dtype = _together(x, y)
    if not dtype.is_integer:
        raise DTypeError(f"gcd of {dtype}", fix="give integers")
    a, b = (e.abs(_as(o, dtype)) for o in operands)
    for _ in range(_steps_of_euclid(dtype)):
        a, b = e.where(b == 0, a, b), e.where(b == 0, b, e.remainder(a, b))
    return e.abs(a)  # the least integer stayed negative


def _steps_of_euclid(dtype: dt.DType) -> int:
    """Euclid's algorithm takes longest on neighbours in Fibonacci's series: 1.44 steps a bit."""
    return math.ceil(1.4405 * dtype.bits) + 1


def lcm(x: Operand, y: Operand) -> Tensor:
    """The least common multiple of integers, not negative; 0 where one is 0."""
    operands, dtype = _together(x, y)
    a, b = (_as(o, dtype) for o in operands)
    shared = gcd(a, b)
    return e.abs(e.multiply(e.floor_divide(a, e.where(shared == 0, 1, shared)), b))


# ---- predicates


def isposinf(x: Operand) -> Tensor:
    """Whether x is +inf."""
    return e.equal(x, math.inf) if as_tensor(x).dtype.is_float else e.isinf(x)


def isneginf(x: Operand) -> Tensor:
    """Whether x is -inf."""
    return e.equal(x, -math.inf) if as_tensor(x).dtype.is_float else e.isinf(x)


def isreal(x: Operand) -> Tensor:
    """Whether x is a real number: true, since all are."""
    return e.isfinite(x) | True


@rounded_once
def isclose(
    x: Operand, y: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether |x - y| <= atol + rtol |y|, or both are the same infinity (or NaN, if equal_nan)."""
    at_least("isclose", 0, rtol=rtol, atol=atol)
    operands, dtype = _together(x, y)
    same = e.equal(*operands)
    if not dtype.is_float:
        if rtol == 0 and atol == 0:
            return same
        dtype = dt.float64
    a, b = (_as(o, dtype) for o in operands)
    near = e.isfinite(b) & (e.abs(a - b) <= atol + rtol * e.abs(b))
    found = same | near
    return found | (e.isnan(a) & e.isnan(b)) if equal_nan else found


def allclose(
    x: Operand, y: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether all elements are close, see `isclose`."""
    return bool(all_true(isclose(x, y, rtol, atol, equal_nan)))


def array_equal(x: Operand, y: Operand) -> bool:
    """Whether x and y have one shape and equal elements."""
    a, b = as_tensor(x), as_tensor(y)
    return a.shape == b.shape and bool(all_true(e.equal(a, b)))


def clamp_min(x: Operand, min: Operand) -> Tensor:
    """x, at least `min`."""
    return e.maximum(_number("clamp_min", x), min)


def clamp_max(x: Operand, max: Operand) -> Tensor:
    """x, at most `max`."""
    return e.minimum(_number("clamp_max", x), max)
