"""Constant folding: what depends on constants alone is computed here, by `ref`."""

from __future__ import annotations

from typing import Final

import numpy as np

from rung.core.errors import RungError
from rung.ir.interpret import evaluate
from rung.ir.node import Node, Value
from rung.ir.rule import Rule, structural
from rung.ops.creation import ArrayAttrs, array, array_constant, full
from rung.ops.families import ReduceAttrs
from rung.ops.reduction import reduce_all, reduce_any, reduce_max, reduce_min
from rung.rules.constants import filled

FOLD_LIMIT: Final = 64
"""Greatest number of elements of a folded array."""


@structural()
def fold_filled(node: Node) -> Value | None:
    """exp(full(s, 0))  →  full(s, 1)        (element-wise ops on filled arrays)"""
    if not node.op.elementwise or not node.inputs or not node.types[0].size:
        return None
    scalars = []
    for v in node.inputs:
        number = filled(v)
        if number is None:
            return None
        scalars.append(np.array(number.value, number.dtype.numpy))
    result = node.op.ref(node.attrs, scalars)[0]
    return full(node.types[0].shape, np.asarray(result).item(), node.types[0].dtype)


@structural(reduce_max, reduce_min, reduce_any, reduce_all)
def fold_reduced(node: Node) -> Value | None:
    """max(full([3], c))  →  c"""
    x, attrs = node.inputs[0], node.attrs
    assert isinstance(attrs, ReduceAttrs)
    number = filled(x)
    if number is None or not all(x.shape[d] for d in attrs.dims):
        return None
    return full(node.types[0].shape, number.value, x.dtype)


@structural()
def fold_small(node: Node) -> Value | None:
    """take([1, 2, 3], 2)  →  3        (up to 64 elements in and out)"""
    if not node.inputs or len(node.types) != 1 or node.types[0].size > FOLD_LIMIT:
        return None
    if not all(_is_known(v) for v in node.inputs):
        return None
    if all(filled(v) for v in node.inputs) and filled(node.results[0]):
        return None
    try:
        return array(evaluate(node, [_content(v) for v in node.inputs])[0])
    except RungError:
        return None


def _is_known(v: Value) -> bool:
    if v.type.size > FOLD_LIMIT:
        return False
    return v.node.op is array_constant or filled(v) is not None


def _content(v: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    attrs = v.node.attrs
    if isinstance(attrs, ArrayAttrs):
        return attrs.data.array
    number = filled(v)
    assert number is not None
    return np.full(v.shape, number.value, number.dtype.numpy)


RULES: Final[tuple[Rule, ...]] = (fold_filled, fold_reduced, fold_small)
