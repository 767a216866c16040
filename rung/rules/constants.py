"""Constants as the rules see them: values all of whose elements are one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rung.core.dtype import Scalar
from rung.ir.node import Value
from rung.ir.rule import Variable
from rung.ops.broadcast import broadcast_to, reshape
from rung.ops.creation import ConstantAttrs, constant, full
from rung.ops.movement import flip, permute, slice_

SPREADING = frozenset((broadcast_to, reshape, permute, slice_, flip))
"""Ops of one operand that keep a filled array filled."""


def filled(x: Value) -> ConstantAttrs | None:
    """The scalar of which every element of x is a copy, where that can be seen, or None."""
    node = x.node
    while node.op in SPREADING:
        node = node.inputs[0].node
    if node.op is constant:
        assert isinstance(node.attrs, ConstantAttrs)
        return node.attrs
    return None


def is_filled(x: Value, number: float, exact: bool = True) -> bool:
    """Whether every element of x is `number`; when `exact`, -0.0 and 0.0 differ for floats."""
    found = filled(x)
    if found is None or found.value != number or x.dtype.is_bool != isinstance(number, bool):
        return False
    return not exact or not x.dtype.is_float or found == ConstantAttrs(number, x.dtype)


def literal(number: Scalar, exact: bool = True) -> Any:
    """A pattern (to stand among the operands) that matches an array filled with `number`, of any
    shape and dtype of its kind."""
    return Variable(
        str(number),
        lambda x: is_filled(x, number, exact),
        lambda type: full(type.shape, number, type.dtype),
    )


def literal_where(name: str, test: Callable[[ConstantAttrs], bool], example: Scalar) -> Any:
    """A pattern that matches an array filled with a number for which `test` holds; `example` is
    such a number."""

    def holds(x: Value) -> bool:
        found = filled(x)
        return found is not None and test(found)

    return Variable(name, holds, lambda type: full(type.shape, example, type.dtype))
