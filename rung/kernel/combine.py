"""Combiners of accumulations: the value that leaves the other operand as it is."""

from __future__ import annotations

from math import inf

import numpy as np

from rung.core.dtype import DType
from rung.core.errors import LoweringError
from rung.ir.expr import Const, const


def identity(combine: str, dtype: DType) -> Const:
    """The identity of a combiner as a constant of `dtype`. Raises LoweringError for an op that does
    not combine."""
    if combine in ("add", "bitwise_or", "bitwise_xor", "logical_or", "logical_xor"):
        return const(0, dtype)
    if combine in ("multiply", "logical_and"):
        return const(1, dtype)
    if combine == "bitwise_and":
        return const(-1 if dtype.kind == "i" else 2**dtype.bits - 1, dtype)
    if combine not in ("maximum", "minimum"):
        raise LoweringError(f"{combine} is not a combiner")
    low = combine == "maximum"
    if dtype.is_float:
        return const(-inf if low else inf, dtype)
    if dtype.is_bool:
        return const(not low, dtype)
    info = np.iinfo(dtype.numpy)
    return const(int(info.min if low else info.max), dtype)
