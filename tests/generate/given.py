"""Arguments that each call makes anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import rung
from rung import nn


class Make:
    """An argument that each call makes anew."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def t(*shape: int, dtype: str = "f32") -> Make:
    """A tensor of a shape, the same each time."""
    rng = np.random.default_rng(len(shape))
    if dtype in ("i64", "u8", "i32"):
        array = rng.integers(0, 2, shape).astype({"i64": int, "u8": "u1", "i32": "i4"}[dtype])
    elif dtype == "bool":
        array = rng.random(shape) < 0.5
    else:
        array = (rng.random(shape) + 0.1).astype("f4" if dtype == "f32" else "f8")
    return Make(lambda: rung.array(array))


def several(*parts: Make) -> Make:
    """A list of such tensors."""
    return Make(lambda: [p.make() for p in parts])


def square(x: Any) -> Any:
    """For those that take a function."""
    return (x * x).sum()


def pair(x: Any, y: Any) -> Any:
    """For those that take a function of two arguments."""
    return x + y, x * 1


def parameters() -> list[Any]:
    """With gradients."""
    found = [nn.Parameter(np.ones((2, 3), np.float32)) for _ in range(2)]
    for p in found:
        p.grad = rung.ones((2, 3))
    return found
