"""Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011).

A key is u32[2]. The two words of the block with counter n are element n's randomness, so every
element is computed by itself, on any thread or device, and a kernel can make its random numbers
where it needs them. A key is for one use: take new ones with `split` or `fold_in`. Bits, `split`
and `fold_in` are those of `jax.random` (partitionable Threefry) for the same key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import DTypeError, ShapeError
from rung.ir.expr import Expr, compare, const, ifloordiv, raw_call, read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Op, Sample
from rung.ir.types import Shape, TensorType
from rung.ops.batching import with_axis
from rung.ops.broadcast import broadcast_to, broadcasted, flat_index, reshape
from rung.ops.creation import array, full, full_like, iota
from rung.ops.eager import random as kernels
from rung.ops.eager.random import PARITY, ROTATIONS
from rung.ops.elementwise import (
    bitcast,
    bitwise_or,
    bitwise_xor,
    cast,
    left_shift,
    less,
    less_equal,
    minimum,
    multiply,
    plus,
    right_shift,
    scale,
    subtract,
)
from rung.ops.families import (
    Types,
    axis_vars,
    elementwise,
    nbytes,
    scalar_cast,
    select,
    structured,
)
from rung.ops.movement import concat, slice_
from rung.ops.transcendental import cos, log, sqrt

T = TypeVar("T")
Binary = Callable[[T, T], T]

_OPERATIONS: Final = 110
"""Integer operations in a block: 20 rounds of add, rotate (3) and xor, and the key schedule."""


def threefry_block(
    key: tuple[T, T],
    counter: tuple[T, T],
    add: Binary[T],
    xor: Binary[T],
    rotate: Callable[[T, int], T],
    number: Callable[[int], T],
) -> tuple[T, T]:
    """Both words of a block, for any representation of u32 with wrapping `add`, `xor`, `rotate` to
    the left and constants: arrays here, instructions in the code generators."""
    schedule = (*key, xor(xor(*key), number(PARITY)))
    a, b = add(counter[0], key[0]), add(counter[1], key[1])
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            a = add(a, b)
            b = xor(rotate(b, distance), a)
        a = add(a, schedule[(group + 1) % 3])
        b = add(add(b, schedule[(group + 2) % 3]), number(group + 1))
    return a, b


def _rotate(x: Array, distance: int) -> Array:
    return (x << np.uint32(distance)) | (x >> np.uint32(32 - distance))


def threefry_arrays(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """`threefry_block` on u32 arrays that broadcast together."""
    with np.errstate(over="ignore"):
        return threefry_block(
            key,
            counter,
            lambda a, b: np.asarray(a + b),
            lambda a, b: np.asarray(a ^ b),
            _rotate,
            lambda n: np.asarray(n, np.uint32),
        )


# ---- the scalar ops


def _word(number: int) -> Callable[..., Array]:
    return lambda k0, k1, c0, c1: threefry_arrays((k0, k1), (c0, c1))[number]


def _word_op(name: str, number: int, doc: str) -> Op:
    return elementwise(
        name,
        _word(number),
        doc,
        operands=("key 0", "key 1", "counter 0", "counter 1"),
        dtypes=(dt.uint32,),
        flops=_OPERATIONS,
        eager=kernels.word(number),
        samples=_word_samples,
        blank={"jvp": "operands are integers"},
    )


def _word_samples(rng: np.random.Generator) -> list[Sample]:
    words = rng.integers(0, 2**32, (4, 50), np.uint32)
    words[:, :2] = 0, 2**32 - 1
    return [Sample(tuple(words)), *(Sample((TensorType(dt.uint32, s),) * 4) for s in ((), (0, 3)))]


threefry_first: Op = _word_op(
    "threefry_first", 0, "The first word of the Threefry-2x32 block of key and counter."
)
threefry_second: Op = _word_op(
    "threefry_second", 1, "The second word of the Threefry-2x32 block of key and counter."
)


def _words(key: tuple[Expr, Expr], counter: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
    args = (*key, *counter)
    first = raw_call("threefry_first", args, dt.uint32)
    return first, raw_call("threefry_second", args, dt.uint32)


def _key_words() -> tuple[Expr, Expr]:
    return read(0, (const(0),), dt.uint32), read(0, (const(1),), dt.uint32)


def _require_key(op: str, key: TensorType) -> None:
    if key.dtype is not dt.uint32:
        raise DTypeError(f"{op}: key is {key}, not u32[2]", fix="make one with random.key(seed)")
    if key.shape != (2,):
        raise ShapeError(
            f"{op}: key is {key}, not u32[2]", fix="take one row of what split or fold_in gives"
        )


# ---- random_bits


@dataclass(frozen=True)
class RandomAttrs(Attrs):
    """Shape of the result; `words`: of each element's block the `first` word, the `second`, or both
    combined (`xor`)."""

    shape: Shape
    words: str = "xor"

    def __post_init__(self) -> None:
        if self.words not in ("xor", "first", "second"):
            raise ShapeError(
                f"random_bits: words {self.words!r} is unknown", fix="give xor, first or second"
            )


def _bits_type(attrs: RandomAttrs, types: Types) -> tuple[TensorType, ...]:
    _require_key("random_bits", types[0])
    return (TensorType(dt.uint32, attrs.shape),)


def _bits_ref(attrs: RandomAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (key,) = operands
    position = np.arange(math.prod(attrs.shape), dtype=np.uint64).reshape(attrs.shape)
    high, low = (position >> np.uint64(32)).astype(np.uint32), position.astype(np.uint32)
    first, second = threefry_arrays((key[0], key[1]), (high, low))
    return ({"first": first, "second": second, "xor": first ^ second}[attrs.words],)


def _bits_axes(attrs: RandomAttrs, types: Types) -> LoopForm:
    axes = axis_vars(attrs.shape)
    position = flat_index(axes, attrs.shape)
    high = scalar_cast(ifloordiv(position, 2**32), dt.uint32)
    first, second = _words(_key_words(), (high, scalar_cast(position, dt.uint32)))
    if attrs.words == "xor":
        return LoopForm(axes, (raw_call("bitwise_xor", (first, second), dt.uint32),))
    return LoopForm(axes, (first if attrs.words == "first" else second,))


def _key_sample(rng: np.random.Generator) -> Array:
    return rng.integers(0, 2**32, 2, np.uint32)


def _bits_samples(rng: np.random.Generator) -> list[Sample]:
    shapes: tuple[Shape, ...] = ((), (1,), (0, 3), (7,), (3, 5), (2, 3, 5))
    return [
        Sample((_key_sample(rng),), RandomAttrs(s, w))
        for s in shapes
        for w in ("xor", "first", "second")
    ]


def _bits_batch(
    attrs: RandomAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """The words of every key, at the same counters."""
    count = math.prod(attrs.shape)
    low = iota(shape=(size, count), dim=1, dtype=dt.uint32)
    first, second = _block_values(inputs[0], full_like(low, 0), low)
    found = {"first": first, "second": second, "xor": bitwise_xor(first, second)}[attrs.words]
    return (reshape(found, shape=(size, *attrs.shape)),)


def _block_values(keys: Value, high: Value, low: Value) -> tuple[Value, Value]:
    """Both words of the blocks of `keys` [axis, 2] at the counters [axis, n]."""
    shape = low.shape
    words = [
        slice_(keys, starts=(0, i), stops=(shape[0], i + 1), steps=(1, 1)) for i in range(2)
    ]
    operands = (*(broadcast_to(w, shape=shape) for w in words), high, low)
    return threefry_first(*operands), threefry_second(*operands)


random_bits: Op = structured(
    "random_bits",
    "random",
    "Random u32 of `shape` from key u32[2]; the counter of an element is its row-major position.",
    arity=1,
    attrs=RandomAttrs,
    type=_bits_type,
    ref=_bits_ref,
    axes=_bits_axes,
    eager=lambda attrs, ins, outs: kernels.bits(attrs.shape, attrs.words),
    cost=lambda attrs, ins, outs: Cost(_OPERATIONS * outs[0].size, nbytes(*ins, *outs)),
    dtypes=(dt.uint32,),
    batch=_bits_batch,
    samples=_bits_samples,
    blank={"jvp": "operands and results are integers"},
)


# ---- fold_in


def _fold_type(attrs: Attrs, types: Types) -> tuple[TensorType, ...]:
    key, data = types
    _require_key("fold_in", key)
    if data.dtype is not dt.uint32:
        raise DTypeError(f"fold_in: data {data} is not u32", fix="cast data to u32 first")
    return (TensorType(dt.uint32, (*data.shape, 2)),)


def _fold_ref(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    key, data = operands
    words = threefry_arrays((key[0], key[1]), (np.zeros_like(data), data))
    return (np.stack(words, axis=-1),)


def _fold_axes(attrs: Attrs, types: Types) -> LoopForm:
    axes = axis_vars((*types[1].shape, 2))
    data = read(1, axes[:-1], dt.uint32)
    first, second = _words(_key_words(), (const(0, dt.uint32), data))
    return LoopForm(axes, (select(compare("equal", axes[-1], 0), first, second),))


def _fold_samples(rng: np.random.Generator) -> list[Sample]:
    shapes: tuple[Shape, ...] = ((), (1,), (0, 3), (3, 5))
    return [Sample((_key_sample(rng), TensorType(dt.uint32, s))) for s in shapes]


def _fold_batch(
    attrs: Attrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """Numbers that have the axis, for one key, are but more numbers."""
    keys, data = inputs
    if not batched[0]:
        return (fold_in(keys, data),)
    shape = data.shape[1:] if batched[1] else data.shape
    low = reshape(with_axis(data, batched[1], size), shape=(size, math.prod(shape)))
    words = _block_values(keys, full_like(low, 0), low)
    stacked = [reshape(w, shape=(size, *shape, 1)) for w in words]
    return (concat(*stacked, dim=len(shape) + 1),)


fold_in: Op = structured(
    "fold_in",
    "random",
    "A new key for each number of `data` (u32, any shape): u32[*data.shape, 2].",
    arity=2,
    attrs=Attrs,
    type=_fold_type,
    ref=_fold_ref,
    axes=_fold_axes,
    eager=lambda attrs, ins, outs: kernels.fold(ins[1]),
    cost=lambda attrs, ins, outs: Cost(_OPERATIONS * ins[1].size, nbytes(*ins, *outs)),
    dtypes=(dt.uint32,),
    batch=_fold_batch,
    samples=_fold_samples,
    blank={"jvp": "operands and results are integers"},
)

RECORDS = (threefry_first, threefry_second, random_bits, fold_in)


# ---- functions


def key_words(seed: int) -> tuple[int, int]:
    """The words of the key of a seed (taken modulo 2^64)."""
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def key(seed: int) -> Value:
    """The key u32[2] of a seed, as a constant."""
    return array(np.array(key_words(seed), np.uint32))


def split(parent: Value, count: int) -> Value:
    """`count` new keys: u32[count, 2]. The parent is used up."""
    return fold_in(parent, iota(shape=(count,), dim=0, dtype=dt.uint32))


def _fraction(bits: Value, width: int) -> Value:
    """The upper `width` <= 24 bits as an f32 in [0, 1)."""
    upper = right_shift(bits, full_like(bits, 32 - width))
    return scale(cast(bitcast(upper, dtype=dt.int32), dtype=dt.float32), 2.0**-width)


def _double_fraction(first: Value, second: Value) -> Value:
    """53 bits of two words as an f64 in [0, 1)."""
    high = cast(right_shift(first, full_like(first, 5)), dtype=dt.int64)
    low = cast(right_shift(second, full_like(second, 6)), dtype=dt.int64)
    whole = bitwise_or(left_shift(high, full_like(high, 26)), low)
    return scale(cast(whole, dtype=dt.float64), 2.0**-53)


_MANTISSA: Final = {"f16": 11, "bf16": 8, "f32": 24}


def _require_float(name: str, dtype: DType) -> None:
    if not dtype.is_float:
        raise DTypeError(f"{name}: takes floats, not {dtype}", fix="draw f32 and cast the result")


def uniform(
    key: Value, shape: Shape, dtype: DType = dt.float32, low: float = 0.0, high: float = 1.0
) -> Value:
    """Evenly spread over [low, high): as many random bits as the mantissa has (53 in f64).

    Raises DTypeError unless `dtype` is a float."""
    _require_float("uniform", dtype)
    if dtype is dt.float64:
        first = random_bits(key, shape=shape, words="first")
        unit = _double_fraction(first, random_bits(key, shape=shape, words="second"))
    else:
        unit = _fraction(random_bits(key, shape=shape), _MANTISSA[dtype.name])
    if (low, high) == (0.0, 1.0):
        return unit if unit.dtype is dtype else cast(unit, dtype=dtype)
    found = plus(scale(unit, high - low), low)
    found = found if found.dtype is dtype else cast(found, dtype=dtype)
    return minimum(found, full_like(found, below(low, high, dtype)))


def below(low: float, high: float, dtype: DType) -> float:
    """The largest number of `dtype` below `high`, `low` if there is none from that on: sums and
    casts round, and would give `high` itself."""
    first, last = dtype.numpy.type(low), dtype.numpy.type(high)
    return float(max(first, np.nextafter(last, dtype.numpy.type(-math.inf))))


def normal(
    key: Value, shape: Shape, dtype: DType = dt.float32, mean: float = 0.0, deviation: float = 1.0
) -> Value:
    """Normally distributed, by Box and Muller's transform of the two words of each block; in f32
    (16-bit floats are rounded from it) it reaches out to 5.8 deviations, in f64 to 6.6.

    Raises DTypeError unless `dtype` is a float."""
    _require_float("normal", dtype)
    first = random_bits(key, shape=shape, words="first")
    second = random_bits(key, shape=shape, words="second")
    if dtype is dt.float64:
        radius_unit, angle_unit = (_word_fraction(w) for w in (first, second))
    else:
        radius_unit, angle_unit = (_fraction(w, 24) for w in (first, second))
    above_zero = subtract(full_like(radius_unit, 1), radius_unit)
    radius = sqrt(scale(log(above_zero), -2.0))
    value = multiply(radius, cos(scale(angle_unit, 2 * math.pi)))
    if deviation != 1.0:
        value = scale(value, deviation)
    if mean != 0.0:
        value = plus(value, mean)
    return value if value.dtype is dtype else cast(value, dtype=dtype)


def _word_fraction(bits: Value) -> Value:
    """All 32 bits as an f64 in [0, 1)."""
    return scale(cast(bits, dtype=dt.float64), 2.0**-32)


def bernoulli(key: Value, chance: float | Value, shape: Shape) -> Value:
    """bool of `shape`, true with probability `chance`: a number (to 32 bits) or an f32 value that
    broadcasts to `shape` (to 24 bits)."""
    if isinstance(chance, Value):
        return less(uniform(key, shape, chance.dtype), broadcasted(chance, shape))
    bits = random_bits(key, shape=shape)
    threshold = round(min(max(chance, 0.0), 1.0) * 2**32)
    if threshold == 0:
        return full(shape, False, dt.bool_)
    return less_equal(bits, full_like(bits, threshold - 1))
