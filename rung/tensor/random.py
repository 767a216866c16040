"""Random numbers: a seeded generator, or explicit keys.

A key is a u32[2] tensor for one use; `split` makes new ones. A `Generator` holds a key and counts
its draws; the count is a tensor, so jit reads it anew and writes it back at each call.

    rung.manual_seed(0)
    x = rung.random.normal((3, 4))                 # from the global generator
    y = rung.random.normal((3, 4), key=rung.random.key(7))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import numpy as np
from ml_dtypes import finfo

from rung.core import dtype as dt
from rung.core.arguments import NO, at_least, between, check_lengths, check_parts, read_int
from rung.core.dtype import DType
from rung.core.errors import ArgumentError, CheckpointError, DomainError, DTypeError, ShapeError
from rung.ir.node import Value
from rung.ir.types import Shape
from rung.ops import random as r
from rung.ops.creation import ConstantAttrs, constant, full
from rung.ops.elementwise import bitcast, cast, multiply, remainder
from rung.ops.families import add
from rung.ops.sorting import argsort
from rung.tensor.operate import Operand, as_tensor, from_data
from rung.tensor.shapes import as_lengths, unstack
from rung.tensor.sorting import held_take
from rung.tensor.state import TensorState, apply, new_tensor, raw_value, write

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def key(seed: int) -> Tensor:
    """The key u32[2] of a seed."""
    return from_data(np.array(r.key_words(seed), np.uint32), dt.uint32, copy=True)


def split(parent: Tensor, count: int = 2) -> tuple[Tensor, ...]:
    """`count` new keys from a key, which is used up."""
    check_parts("split", 0, count=count)
    return unstack(apply(lambda k: r.split(k, count), parent))


def fold_in(parent: Tensor, data: Operand) -> Tensor:
    """A new key from a key and a number."""
    if isinstance(data, int):
        return apply(lambda k: r.fold_in(k, constant(value=data, dtype=dt.uint32)), parent)
    return apply(lambda k, d: r.fold_in(k, cast(d, dtype=dt.uint32)), parent, as_tensor(data))


class Generator:
    """A sequence of keys from a seed. `state` holds [key word, key word, draws] as u32 tensors."""

    def __init__(self, seed: int = 0) -> None:
        self._key = key(seed)
        self._draws = from_data(np.zeros((), np.uint32), dt.uint32, copy=True)
        self._last: ReferenceType[Value] | None = None
        self._base: ReferenceType[Value] | None = None
        self._ahead = 0

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have: the state, without what draws were counted from."""
        return {**vars(self), "_last": None, "_base": None, "_ahead": 0}

    def manual_seed(self, seed: int) -> Generator:
        """Start the sequence of `seed`."""
        self._key.assign(key(seed))
        self._draws.assign(0)
        return self

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors that hold the state, to be saved with a model."""
        return {"key": self._key, "draws": self._draws}

    def set_state(self, saved: Mapping[str, Operand]) -> None:
        """Go on from a saved state. Raises CheckpointError for what is none."""
        if set(saved) != {"key", "draws"}:
            raise CheckpointError(
                f"set_state: saved has {sorted(map(str, saved))}", fix="give the `state` of another"
            )
        self._key.assign(saved["key"])
        self._draws.assign(saved["draws"])

    def next_key(self) -> Tensor:
        """A new key. Several draws before anything is computed count from one base, so they do not
        wait for each other."""
        self._draws._draws = True
        now = raw_value(self._draws)
        base = None if self._base is None else self._base()
        if base is None or self._last is None or self._last() is not now:
            base, self._ahead = now, 0
        self._ahead += 1
        following = add(base, constant(value=self._ahead, dtype=dt.uint32))
        drawn = new_tensor(now)
        write(self._draws, following)
        self._base, self._last = ref(base), ref(following)
        return apply(r.fold_in, self._key, drawn)


def offset(value: Value, start: Value) -> int | None:
    """How much an integer scalar `value` is more than `start`, if that is a constant."""
    total = 0
    while value is not start:
        if value.node.op is not add or value.shape or not value.dtype.is_integer:
            return None
        a, b = (v.node.attrs for v in value.node.inputs)
        if isinstance(b, ConstantAttrs):
            value, total = value.node.inputs[0], total + int(b.value)
        elif isinstance(a, ConstantAttrs):
            value, total = value.node.inputs[1], total + int(a.value)
        else:
            return None
    return total


def advanced(value: Value, by: int) -> Value:
    """`value` plus a constant, in its own dtype: too large numbers wrap around."""
    wrapped = np.asarray(by % 2**64, np.uint64).astype(value.dtype.numpy).item()
    return add(value, constant(value=wrapped, dtype=value.dtype))


_global: list[Generator] = []


def start() -> None:
    """Make the global generator; called once when the tensor class exists."""
    _global.append(Generator(0))


def default_generator() -> Generator:
    """The global generator."""
    return _global[0]


def manual_seed(seed: int) -> Generator:
    """Seed the global generator."""
    return _global[0].manual_seed(seed)


Source = Generator | TensorState | None


def draw_key(key: Source) -> Tensor:
    """A key: the one given, the next of the generator given, or of the global one."""
    if isinstance(key, TensorState):
        if key.shape != (2,) or not key.dtype.is_integer:
            raise ArgumentError(
                f"key is {key._type}", fix="give a rung.Generator or random.key(seed)"
            )
        return key  # type: ignore[return-value]
    return (_global[0] if key is None else key).next_key()


def _draw(build: Callable[[Value], Value], key: Source) -> Tensor:
    return apply(build, draw_key(key))


def _float_dtype(name: str, dtype: object) -> DType:
    kind = dt.float32 if dtype is None else dt.as_dtype(dtype)
    if not kind.is_float:
        raise DTypeError(f"{name}: dtype {kind} is not a float", fix="give a float dtype")
    return kind


def check_span(name: str, low: float, high: float, dtype: DType) -> None:
    """Raise DomainError unless numbers of `dtype` lie from low to high."""
    if not dtype.is_float:
        raise DTypeError(f"{name}: dtype {dtype} is not a float", fix="give a float dtype")
    low, high, most = float(low), float(high), float(finfo(dtype.numpy).max)
    if not low <= high or not (-most <= low and high <= most and high - low <= most):
        raise DomainError(
            f"{name}: from {low} to {high} in {dtype}",
            fix="give low <= high, no further apart than the dtype reaches",
        )


def uniform(
    shape: int | Sequence[int] = (),
    low: float = 0.0,
    high: float = 1.0,
    dtype: object = None,
    key: Source = None,
) -> Tensor:
    """Numbers evenly spread over [low, high)."""
    dims, kind = as_lengths("uniform", shape), _float_dtype("uniform", dtype)
    check_span("uniform", low, high, kind)
    return _draw(lambda k: r.uniform(k, dims, kind, low, high), key)


def normal(
    shape: int | Sequence[int] = (),
    mean: float = 0.0,
    std: float = 1.0,
    dtype: object = None,
    key: Source = None,
) -> Tensor:
    """Normally distributed numbers."""
    dims, kind = as_lengths("normal", shape), _float_dtype("normal", dtype)
    at_least("normal", 0, std=std)
    return _draw(lambda k: r.normal(k, dims, kind, mean, std), key)


def rand(*shape: int, dtype: object = None, key: Source = None) -> Tensor:
    """Numbers evenly spread over [0, 1), of shape `shape`."""
    return uniform(shape, dtype=dtype, key=key)


def randn(*shape: int, dtype: object = None, key: Source = None) -> Tensor:
    """Standard normal numbers of shape `shape`."""
    return normal(shape, dtype=dtype, key=key)


def bits(shape: int | Sequence[int] = (), key: Source = None) -> Tensor:
    """Random u32."""
    dims = as_lengths("bits", shape)
    return _draw(lambda k: r.random_bits(k, shape=dims), key)


def randint(
    low: int,
    high: int,
    shape: int | Sequence[int] = (),
    dtype: object = None,
    key: Source = None,
) -> Tensor:
    """Whole numbers from low to high - 1, from 64 random bits each (the bias is below 2^-31 for
    ranges up to 2^32). i64 unless given."""
    dims = as_lengths("randint", shape)
    kind = dt.int64 if dtype is None else dt.as_dtype(dtype)
    if high <= low:
        raise ShapeError(f"randint: no number from {low} to {high - 1}", fix="give high > low")
    for bound in (low, high - 1):
        if not _is_held(bound, kind):
            raise DomainError(f"randint: {bound} is no {kind}", fix="give another dtype")

    def build(k: Value) -> Value:
        wide = _random_u64(k, dims)
        span = high - low
        offset = wide if span >> 64 else remainder(wide, full(dims, span, dt.uint64))
        signed = bitcast(offset, dtype=dt.int64)
        return cast(add(signed, full(dims, wrapped(low), dt.int64)), dtype=kind)

    return _draw(build, key)


def _is_held(value: int, dtype: DType) -> bool:
    """Whether a dtype has the integer `value`."""
    if dtype.is_float:
        return abs(value) <= 1 << finfo(dtype.numpy).nmant + 1
    return value in (0, 1) if dtype.is_bool else dt.fits(value, dtype)


def wrapped(n: int) -> int:
    """The i64 that equals n in its lowest 64 bits."""
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def _random_u64(k: Value, shape: Shape) -> Value:
    first = cast(r.random_bits(k, shape=shape, words="first"), dtype=dt.uint64)
    second = cast(r.random_bits(k, shape=shape, words="second"), dtype=dt.uint64)
    return add(multiply(first, full(shape, 2**32, dt.uint64)), second)


def bernoulli(
    chance: Operand = 0.5, shape: int | Sequence[int] | None = None, key: Source = None
) -> Tensor:
    """True with probability `chance`: a number, or a tensor of probabilities. Those of a tensor
    are held within [0, 1] (NaN: never true), as they may be computed later; raises DomainError for
    a number, an array or a list outside of it."""
    if not isinstance(chance, TensorState):
        between("bernoulli", 0, 1, chance=_worst(chance))
    if isinstance(chance, bool | int | float):
        dims = as_lengths("bernoulli", () if shape is None else shape)
        return _draw(lambda k: r.bernoulli(k, float(chance), dims), key)
    given = as_tensor(chance)
    dims = given.shape if shape is None else as_lengths("bernoulli", shape)
    return apply(lambda k, c: r.bernoulli(k, c, dims), draw_key(key), given)


def _count(name: str, x: int | Operand) -> int:
    """How many elements a number or the rows of a tensor are."""
    count = read_int(x)
    if count is NO:
        given = as_tensor(x)
        if not given.ndim:
            raise ShapeError(f"{name}: {given._type} has no rows", fix="give a number or rows")
        return given.shape[0]
    if count < 0:
        raise DomainError(f"{name}: of {count} elements", fix="give 0 or more")
    check_lengths(name, (count,))
    return int(count)


def _worst(chance: Operand) -> float:
    """The number of an array that is furthest from being a probability."""
    values = as_array(chance)
    return float(values.flat[np.argmax(np.abs(values - 0.5))]) if values.size else 0.5


def as_array(x: Operand) -> np.ndarray[Any, Any]:
    """Numbers that are no tensor, in f64."""
    return np.asarray(as_tensor(x)).astype(np.float64)


def permutation(x: int | Operand, key: Source = None) -> Tensor:
    """0 … x - 1 in random order (i64), or the rows of a tensor in random order."""
    count = _count("permutation", x)

    def build(k: Value) -> Value:
        return argsort(_random_u64(k, (count,)), dim=0)

    order = _draw(build, key)
    return order if read_int(x) is not NO else held_take(as_tensor(x), order, 0)


randperm = permutation


def choice(
    x: int | Operand,
    shape: int | Sequence[int] = (),
    replace: bool = True,
    key: Source = None,
) -> Tensor:
    """Elements (rows) of x, or of 0 … x - 1, drawn at random."""
    dims = as_lengths("choice", shape)
    count = _count("choice", x)
    if replace:
        positions = randint(0, count, dims, key=key)
    else:
        size = int(np.prod(dims, dtype=np.int64))
        if size > count:
            raise ShapeError(f"choice: {size} of {count} elements without replacement")
        positions = permutation(count, key=key)[:size].reshape(dims)
    return positions if read_int(x) is not NO else held_take(as_tensor(x), positions, 0)


def categorical(logits: Operand, key: Source = None) -> Tensor:
    """Positions (i64) along the last dim, drawn with probabilities softmax(logits)."""
    scores = as_tensor(logits)

    def build(k: Value) -> Value:
        return r.uniform(k, scores.shape, dt.float32, 1e-20, 1.0)

    gumbel = -(-_draw(build, key).log()).log()
    return (scores.astype(dt.float32) + gumbel).argmax(-1)
