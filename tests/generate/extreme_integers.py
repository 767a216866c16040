"""Functions of integers at the ends of their dtypes, beside NumPy's: both wrap around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

import rung

Array = np.ndarray[Any, Any]
DTYPES: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SHAPE: Final = (4, 12)


@dataclass(frozen=True)
class Integers:
    """A function of x[4, 12] and y[4, 12], ours and NumPy's. `second`: how y is drawn, or a Python
    number is given for it: "any", "shift" (0 to more than the bits) or "small" (0 to 9)."""

    name: str
    ours: Callable[[Any, Any], Any]
    numpys: Callable[[Array, Array], Any]
    second: str = "any"


def _quotient(x: Array, y: Array) -> Array:
    """Towards zero; 0 for a divisor 0."""
    down = np.floor_divide(x, y)
    return down + ((down < 0) & (np.remainder(x, y) != 0)).astype(x.dtype)


INTEGERS: Final = (
    Integers("add", lambda x, y: x + y, np.add),
    Integers("subtract", lambda x, y: x - y, np.subtract),
    Integers("multiply", lambda x, y: x * y, np.multiply),
    Integers("floor_divide", lambda x, y: x // y, np.floor_divide),
    Integers("remainder", lambda x, y: x % y, np.remainder),
    Integers("fmod", rung.fmod, np.fmod),
    Integers("divide trunc", lambda x, y: x.div(y, rounding_mode="trunc"), _quotient),
    Integers("pow", lambda x, y: x**y, np.power, "small"),
    Integers("left_shift", lambda x, y: x << y, np.left_shift, "shift"),
    Integers("right_shift", lambda x, y: x >> y, np.right_shift, "shift"),
    Integers("and", lambda x, y: x & y, np.bitwise_and),
    Integers("or", lambda x, y: x | y, np.bitwise_or),
    Integers("xor", lambda x, y: x ^ y, np.bitwise_xor),
    Integers("invert", lambda x, y: ~x, lambda x, y: ~x),
    Integers("negative", lambda x, y: -x, lambda x, y: np.negative(x)),
    Integers("abs", lambda x, y: abs(x), lambda x, y: np.abs(x)),
    Integers("sign", lambda x, y: rung.sign(x), lambda x, y: np.sign(x)),
    Integers("square", lambda x, y: x**2, lambda x, y: x * x),
    Integers("maximum", rung.maximum, np.maximum),
    Integers("minimum", rung.minimum, np.minimum),
    Integers("less", lambda x, y: x < y, np.less),
    Integers("equal", lambda x, y: x == y, np.equal),
    Integers("where", lambda x, y: rung.where(x > y, x, y), lambda x, y: np.where(x > y, x, y)),
    Integers("gcd", rung.gcd, np.gcd),
    Integers("sum", lambda x, y: x.sum(-1), lambda x, y: x.sum(-1)),
    Integers("prod", lambda x, y: x.prod(-1), lambda x, y: x.prod(-1)),
    Integers("cumulative_sum", lambda x, y: rung.cumulative_sum(x, axis=-1),
             lambda x, y: x.cumsum(-1)),
    Integers("max", lambda x, y: x.max(-1), lambda x, y: x.max(-1)),
    Integers("min", lambda x, y: x.min(0), lambda x, y: x.min(0)),
    Integers("argmax", lambda x, y: x.argmax(-1), lambda x, y: x.argmax(-1)),
    Integers("sort", lambda x, y: rung.sort(x, axis=-1), lambda x, y: np.sort(x, -1)),
    Integers("diff", lambda x, y: rung.diff(x), lambda x, y: np.diff(x)),
    Integers("count_nonzero", lambda x, y: rung.count_nonzero(x, axis=-1),
             lambda x, y: np.count_nonzero(x, -1)),
    Integers("to f64", lambda x, y: x.astype("f64"), lambda x, y: x.astype(np.float64)),
    Integers("to f32", lambda x, y: x.astype("f32"), lambda x, y: x.astype(np.float32)),
    Integers("to i32", lambda x, y: x.astype("i32"), lambda x, y: x.astype(np.int32)),
    Integers("to u64", lambda x, y: x.astype("u64"), lambda x, y: x.astype(np.uint64)),
)  # fmt: skip


def operands(f: Integers, dtype: str, rng: np.random.Generator) -> tuple[Array, Any]:
    """x, and an array or a Python number for y."""
    info = np.iinfo(dtype)
    x, y = _drawn(info, rng), _drawn(info, rng)
    if f.second == "shift":
        y = rng.integers(0, info.bits + 3, SHAPE).astype(dtype)
    elif f.second == "small":
        y = rng.integers(0, 10, SHAPE).astype(dtype)
    if rng.random() < 0.3:  # a number that the compiler knows
        return x, int(rng.choice(y.reshape(-1)))
    return x, y


def _drawn(info: Any, rng: np.random.Generator) -> Array:
    """Numbers at the ends, around 0, and of all sizes."""
    low, high = int(info.min), int(info.max)
    ends = np.array([low, low + 1, high - 1, high, high // 2 + 1, 0, 1, 2, 3], info.dtype)
    some = rng.integers(low, high, SHAPE, info.dtype, endpoint=True)
    some = some >> rng.integers(0, info.bits, SHAPE).astype(info.dtype)
    near = rng.integers(max(low, -9), 10, SHAPE).astype(info.dtype)
    kind = rng.integers(0, 3, SHAPE)
    return np.choose(kind, (rng.choice(ends, SHAPE), some, near)).astype(info.dtype)


def check_integers(f: Integers, dtype: str, rng: np.random.Generator) -> list[str]:
    """What is wrong with a function on operands that `rng` draws."""
    x, y = operands(f, dtype, rng)
    other = y if isinstance(y, int) else rung.asarray(y)
    found = np.asarray(f.ours(rung.asarray(x), other))
    second = np.full(SHAPE, y, dtype) if isinstance(y, int) else y
    with np.errstate(all="ignore"):
        wanted = np.asarray(f.numpys(x, second))
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return [f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}"]
    bad = np.argwhere(found != wanted)
    if not bad.size:
        return []
    at = tuple(bad[0])
    return [f"{len(bad)} wrong, first at {list(map(int, at))}: {found[at]!r}, not {wanted[at]!r}"]


def show_integers(f: Integers, dtype: str, rng: np.random.Generator) -> str:
    """The operands of a case."""
    x, y = operands(f, dtype, rng)
    return f"x = {x.tolist()}\ny = {y if isinstance(y, int) else y.tolist()}"
