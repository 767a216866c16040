"""Rules that change results beyond rounding in rare places (zeros' signs, infinities, NaN, ranges)
or change rounding much. Never applied unless asked for."""

from __future__ import annotations

from typing import Any, Final

from rung.ir.node import Value
from rung.ir.passes import Pass, rewriting
from rung.ir.rule import RuleSet, rule
from rung.ops.creation import full_like, zeros_like
from rung.ops.elementwise import divide, multiply, negative, subtract
from rung.ops.families import add
from rung.ops.transcendental import exp, log, rsqrt, sqrt
from rung.rules.constants import filled, literal, literal_where

ZERO: Any = literal(0, exact=False)
FIRST: Any = literal_where("a", lambda number: True, 3)
SECOND: Any = literal_where("b", lambda number: True, 5)


def _is_float(x: Value, *_: Value) -> bool:
    return bool(x.dtype.is_float)


@rule(lambda x: add(x, ZERO))
def add_zero(x: Value) -> Value:
    """x + 0  →  x        (-0.0 stays -0.0)"""
    return x


@rule(lambda x: multiply(x, ZERO), where=_is_float)
def multiply_by_zero(x: Value) -> Value:
    """x * 0  →  0        (also for infinities and NaN)"""
    return zeros_like(x)


@rule(lambda x: subtract(x, x), where=_is_float)
def float_minus_itself(x: Value) -> Value:
    """x - x  →  0        (also for infinities and NaN)"""
    return zeros_like(x)


@rule(lambda x: subtract(ZERO, x), where=_is_float)
def float_from_zero(x: Value) -> Value:
    """0 - x  →  -x        (0 - 0 becomes -0.0)"""
    return negative(x)


@rule(lambda x, a=FIRST, b=SECOND: multiply(multiply(x, a), b))
def scale_of_scale(x: Value, a: Value, b: Value) -> Value:
    """x * a * b  →  x * (a * b)        (a, b constants)"""
    return multiply(x, multiply(a, b))


@rule(lambda x, a=FIRST, b=SECOND: add(add(x, a), b))
def sum_of_sum(x: Value, a: Value, b: Value) -> Value:
    """x + a + b  →  x + (a + b)        (a, b constants)"""
    return add(x, add(a, b))


@rule(lambda x, c=FIRST: divide(x, c))
def divide_by_constant(x: Value, c: Value) -> Value | None:
    """x / c  →  x * (1 / c)        (c a constant other than 0)"""
    number = filled(c)
    assert number is not None
    return multiply(x, full_like(x, 1 / number.value)) if number.value else None


@rule(lambda x, y: divide(x, sqrt(y)))
def divide_by_root(x: Value, y: Value) -> Value:
    """x / sqrt(y)  →  x * rsqrt(y)"""
    return multiply(x, rsqrt(y))


@rule(lambda x: log(exp(x)))
def log_of_exp(x: Value) -> Value:
    """log(exp(x))  →  x        (also where exp overflows)"""
    return x


@rule(lambda x: exp(log(x)))
def exp_of_log(x: Value) -> Value:
    """exp(log(x))  →  x        (also for negative x)"""
    return x


FAST_MATH: Final = RuleSet(
    "fast_math",
    (
        add_zero, multiply_by_zero, float_minus_itself, float_from_zero, scale_of_scale,
        sum_of_sum, divide_by_constant, divide_by_root, log_of_exp, exp_of_log,
    ),
)  # fmt: skip

fast_math: Final[Pass] = rewriting("fast_math", FAST_MATH)
