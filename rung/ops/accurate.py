"""Sums of the references: NumPy adds in pairs along the last dim only, and one by one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rung.ir.op import Array

_WIDER: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.float64),
    np.dtype(np.float64): np.dtype(np.longdouble),
}


def added_wide(function: Callable[..., Array], *operands: Array) -> Array:
    """`function(*operands)`, sums of what is in the operands of one dtype, computed in the next
    wider one and rounded once. Where the sums leave the range of their own dtype on the way, they
    do so here."""
    dtype = operands[0].dtype
    wider = _WIDER.get(dtype)
    if wider is None:
        return function(*operands)
    with np.errstate(all="ignore"):
        total = function(*(x.astype(wider) for x in operands)).astype(dtype)
        size = sum(float(np.max(np.abs(x), initial=0.0)) * x.size for x in operands)
        if not size < np.finfo(dtype).max:
            own = function(*operands)
            total = np.where(np.isfinite(own), total, own)
    return np.asarray(total)
