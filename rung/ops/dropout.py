"""Dropout, as a composite."""

from __future__ import annotations

from rung.core.errors import RungError
from rung.ir.node import Value
from rung.ops.composite import composite
from rung.ops.elementwise import greater_equal, where
from rung.ops.random import random_bits
from rung.ops.shorthand import number, require_float, times


@composite
def dropout(x: Value, key: Value, *, rate: float = 0.5) -> Value:
    """x with each element 0 with probability `rate` (in steps of 2^-32), else divided by 1 - rate
    (Srivastava et al., 2014). `key` is a random key, u32[2]."""
    require_float("dropout", "x", x)
    return dropped(x, key, rate)


def dropped(x: Value, key: Value, rate: float) -> Value:
    """`dropout` without a name. Raises RungError for a rate outside of [0, 1]."""
    if not 0.0 <= rate <= 1.0:
        raise RungError(f"dropout: rate={rate}", fix="a rate from 0 to 1")
    if rate == 0.0:
        return x
    threshold = round(rate * 2**32)
    if threshold >= 2**32:
        return number(0, x)
    bits = random_bits(key, shape=x.shape)
    keep = greater_equal(bits, number(threshold, bits))
    return where(keep, times(x, 1.0 / (1.0 - rate)), number(0, x))
