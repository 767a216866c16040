"""Algebra of element-wise ops. Every rule keeps each bit of the result (of a NaN, that it is one),
unless its docstring says that it rounds once less."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from rung.core.dtype import DType
from rung.ir.node import Node, Value
from rung.ir.rule import Rule, rule, structural
from rung.ops.creation import ConstantAttrs, full_like, zeros_like
from rung.ops.elementwise import (
    DTypeAttrs,
    absolute,
    bitwise_and,
    bitwise_invert,
    bitwise_or,
    bitwise_xor,
    cast,
    divide,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    subtract,
    where,
)
from rung.ops.families import add
from rung.ops.transcendental import power, square
from rung.rules.constants import filled, is_filled, literal, literal_where

# ---- operands that do nothing, by the facts of the op


_FACTUAL: Final = (
    add, multiply, maximum, minimum, logical_and, logical_or, logical_xor,
    bitwise_and, bitwise_or, bitwise_xor,
)  # fmt: skip


def _holds(x: Value, fact: float | None) -> bool:
    """Whether x is filled with the number that a fact names (of add on floats: -0.0, for 0.0 + -0.0
    is 0.0)."""
    if fact is None:
        return False
    return is_filled(x, bool(fact) if x.dtype.is_bool else fact)


@structural(*_FACTUAL)
def identity_operand(node: Node) -> Value | None:
    """x * 1  →  x        max(x, -inf)  →  x        p and true  →  p        n + 0  →  n"""
    x, y = node.inputs
    identity = node.op.facts.identity
    if node.op is add and x.dtype.is_float:
        identity = -0.0
    if _holds(y, identity):
        return x
    return y if _holds(x, identity) else None


@structural(*_FACTUAL)
def absorbing_operand(node: Node) -> Value | None:
    """n * 0  →  0        p or true  →  true        (not for floats: NaN is not absorbed)"""
    x, y = node.inputs
    if x.dtype.is_float:
        return None
    if _holds(y, node.op.facts.absorbing):
        return y
    return x if _holds(x, node.op.facts.absorbing) else None


@structural(*_FACTUAL)
def equal_operands(node: Node) -> Value | None:
    """max(x, x)  →  x        p and p  →  p"""
    x, y = node.inputs
    return x if x is y and node.op.facts.idempotent else None


# ---- arithmetic

ZERO: Any = literal(0)
ONE: Any = literal(1)
MINUS_ONE: Any = literal(-1)
TWO: Any = literal(2)


def _is_number(x: Value) -> bool:
    return not x.dtype.is_bool


def _is_integer(x: Value) -> bool:
    return bool(x.dtype.is_integer)


@rule(lambda x: subtract(x, ZERO))
def subtract_zero(x: Value) -> Value:
    """x - 0  →  x"""
    return x


@rule(lambda x: subtract(x, x), where=_is_integer)
def subtract_itself(x: Value) -> Value:
    """n - n  →  0"""
    return zeros_like(x)


@rule(lambda x: subtract(ZERO, x), where=_is_integer)
def subtract_from_zero(x: Value) -> Value:
    """0 - n  →  -n"""
    return negative(x)


@rule(lambda x: divide(x, ONE))
def divide_by_one(x: Value) -> Value:
    """x / 1  →  x"""
    return x


def _has_exact_reciprocal(number: ConstantAttrs) -> bool:
    """Whether the constant and its reciprocal are powers of two that the dtype holds as normal."""
    value = float(number.value)
    if value == 0 or not math.isfinite(value) or abs(math.frexp(value)[0]) != 0.5:
        return False
    return (
        abs(value) != 1 and _is_normal(value, number.dtype) and _is_normal(1 / value, number.dtype)
    )


def _is_normal(value: float, dtype: DType) -> bool:
    smallest = {"f16": 2.0**-14, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}
    rounded = float(np.array(value, dtype.numpy))
    return rounded == value and smallest[dtype.name] <= abs(value)


POWER_OF_TWO: Any = literal_where("c", _has_exact_reciprocal, 8)


@rule(lambda x, c=POWER_OF_TWO: divide(x, c))
def divide_by_power_of_two(x: Value, c: Value) -> Value:
    """x / 2ᵏ  →  x * 2⁻ᵏ        (exact: both are rounded from the same number)"""
    number = filled(c)
    assert number is not None
    return multiply(x, full_like(x, 1 / number.value))


@rule(lambda x: negative(negative(x)))
def double_negative(x: Value) -> Value:
    """-(-x)  →  x"""
    return x


@rule(lambda x, y: add(x, negative(y)))
def add_negative(x: Value, y: Value) -> Value:
    """x + -y  →  x - y"""
    return subtract(x, y)


@rule(lambda x, y: subtract(x, negative(y)))
def subtract_negative(x: Value, y: Value) -> Value:
    """x - -y  →  x + y"""
    return add(x, y)


@rule(lambda x, y: multiply(negative(x), negative(y)))
def product_of_negatives(x: Value, y: Value) -> Value:
    """-x * -y  →  x * y"""
    return multiply(x, y)


@rule(lambda x: multiply(x, MINUS_ONE), where=_is_number)
def multiply_by_minus_one(x: Value) -> Value:
    """x * -1  →  -x"""
    return negative(x)


@rule(lambda x, y: multiply(negative(x), y))
def multiply_negative(x: Value, y: Value) -> Value:
    """-x * y  →  -(x * y)        (so that the sign reaches a sum, which takes it up)"""
    return negative(multiply(x, y))


@structural(divide)
def divide_negative(node: Node) -> Value | None:
    """-x / y  →  -(x / y)        x / -y  →  -(x / y)"""
    x, y = node.inputs
    if x.node.op is negative:
        return negative(divide(x.node.inputs[0], y))
    return negative(divide(x, y.node.inputs[0])) if y.node.op is negative else None


@structural(subtract)
def subtract_from_negative(node: Node) -> Value | None:
    """-x - y  →  -(x + y)"""
    x, y = node.inputs
    return negative(add(x.node.inputs[0], y)) if x.node.op is negative else None


@rule(lambda x: absolute(negative(x)), where=lambda x: x.dtype.kind != "u")
def absolute_of_negative(x: Value) -> Value:
    """|-x|  →  |x|"""
    return absolute(x)


@rule(lambda x: absolute(absolute(x)))
def absolute_of_absolute(x: Value) -> Value:
    """||x||  →  |x|"""
    return absolute(x)


@rule(lambda x: power(x, ONE))
def power_one(x: Value) -> Value:
    """x ** 1  →  x"""
    return x


@rule(lambda x: power(x, TWO))
def power_two(x: Value) -> Value:
    """x ** 2  →  x * x        (rounds once less)"""
    return square(x)


@rule(lambda x: power(x, MINUS_ONE), where=lambda x: x.dtype.is_float)
def power_minus_one(x: Value) -> Value:
    """x ** -1  →  1 / x        (rounds once less)"""
    return divide(full_like(x, 1), x)


# ---- logic and selection


@structural(logical_not, bitwise_invert)
def double_complement(node: Node) -> Value | None:
    """not not p  →  p        ~~n  →  n"""
    inner = node.inputs[0].node
    return inner.inputs[0] if inner.op is node.op else None


@rule(lambda p, x: where(p, x, x))
def where_same(p: Value, x: Value) -> Value:
    """where(p, x, x)  →  x"""
    return x


@structural(where)
def where_constant(node: Node) -> Value | None:
    """where(true, x, y)  →  x        where(false, x, y)  →  y"""
    condition, x, y = node.inputs
    known = filled(condition)
    return None if known is None else x if known.value else y


@rule(lambda p, x, y: where(logical_not(p), x, y))
def where_not(p: Value, x: Value, y: Value) -> Value:
    """where(not p, x, y)  →  where(p, y, x)"""
    return where(p, y, x)


# ---- casts


_MANTISSA: Final = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
_EXPONENT: Final = {"f16": 5, "bf16": 8, "f32": 8, "f64": 11}


def keeps_value(a: DType, b: DType) -> bool:
    """Whether every value of `a` is one of `b`."""
    if a is b or a.is_bool:
        return True
    if b.is_bool:
        return False
    if a.is_float:
        return (
            b.is_float
            and _MANTISSA[a.name] <= _MANTISSA[b.name]
            and _EXPONENT[a.name] <= _EXPONENT[b.name]
        )
    if b.is_float:
        return a.bits - (a.kind == "i") <= _MANTISSA[b.name]
    if a.kind == b.kind:
        return a.bits <= b.bits
    return a.kind == "u" and a.bits < b.bits


@structural(cast)
def cast_to_itself(node: Node) -> Value | None:
    """cast(x: f32, f32)  →  x"""
    x = node.inputs[0]
    return x if x.type == node.types[0] else None


@structural(cast)
def cast_of_cast(node: Node) -> Value | None:
    """cast(cast(x, a), b)  →  cast(x, b)        when a holds every value of x"""
    inner = node.inputs[0].node
    if inner.op is not cast:
        return None
    x, middle, last = inner.inputs[0], inner.types[0].dtype, node.types[0].dtype
    if not keeps_value(x.dtype, middle):
        return None
    if x.dtype.is_integer and middle.is_float and last.is_integer:
        if not keeps_value(x.dtype, last):
            return None  # integers wrap, floats are held at the ends
    elif x.dtype.is_integer and last.is_float and last.bits == 16 and x.dtype.bits > 16:
        return None  # one may go by way of f32, and round twice
    return x if x.dtype is last else cast(x, attrs=DTypeAttrs(last))


RULES: Final[tuple[Rule, ...]] = (
    identity_operand, absorbing_operand, equal_operands, subtract_zero, subtract_itself,
    subtract_from_zero, divide_by_one, divide_by_power_of_two, double_negative, add_negative,
    subtract_negative, product_of_negatives, multiply_by_minus_one, multiply_negative,
    divide_negative, subtract_from_negative, absolute_of_negative,
    absolute_of_absolute, power_one, power_two, power_minus_one, double_complement, where_same,
    where_constant, where_not, cast_to_itself, cast_of_cast,
)  # fmt: skip
