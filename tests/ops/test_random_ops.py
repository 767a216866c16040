"""Threefry against its published vectors and JAX; distributions against their moments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.errors import DTypeError, ShapeError
from rung.ir.interpret import interpret
from rung.ir.node import Value, make_graph, parameter
from rung.ir.types import TensorType
from rung.ops.creation import full
from rung.ops.random import (
    bernoulli,
    fold_in,
    key,
    key_words,
    normal,
    random_bits,
    split,
    threefry_arrays,
    uniform,
)

N = 200_000
FULL = 2**32 - 1
JAX_BITS = [2098992034, 2919706841, 2646866425, 2409546199, 1935504149, 2516274904]


def run(*outputs: Value) -> list[np.ndarray]:
    return interpret(make_graph("test", [], outputs), [])


VECTORS = [  # from the known-answer file of Random123: key, counter, block
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((FULL, FULL), (FULL, FULL), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("words", "counter", "block"), VECTORS)
def test_published_vectors(words, counter, block):
    arrays = [np.array(v, np.uint32) for v in (*words, *counter)]
    assert tuple(map(int, threefry_arrays(tuple(arrays[:2]), tuple(arrays[2:])))) == block


def test_bits_and_keys_of_jax():
    """Taken from jax.random with key 42: bits of shape (2, 3), split into 2."""
    (bits, keys) = run(random_bits(key(42), shape=(2, 3)), split(key(42), 2))
    assert bits.reshape(-1).tolist() == JAX_BITS
    assert keys.tolist() == [[1832780943, 270669613], [64467757, 2916123636]]


def test_the_element_does_not_depend_on_the_shape():
    (flat, square) = run(random_bits(key(1), shape=(12,)), random_bits(key(1), shape=(3, 4)))
    assert flat.tolist() == square.reshape(-1).tolist()


def test_words_differ_and_combine():
    made = run(*(random_bits(key(5), shape=(9,), words=w) for w in ("first", "second", "xor")))
    assert np.array_equal(made[0] ^ made[1], made[2]) and not np.array_equal(made[0], made[1])


def test_seeds_take_64_bits():
    assert key_words(2**32 + 7) == (1, 7)
    assert key_words(-1) == (FULL, FULL)


@pytest.mark.parametrize("dtype", dt.FLOATS, ids=str)
def test_uniform(dtype: dt.DType):
    (x,) = run(uniform(key(3), (N,), dtype))
    x = x.astype(np.float64)
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 5 * math.sqrt(1 / 12 / N) + 2.0**-9
    counts = np.bincount((x * 64).astype(int), minlength=64)
    chi = ((counts - N / 64) ** 2 / (N / 64)).sum()
    assert chi < 63 + 6 * math.sqrt(2 * 63)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / math.sqrt(N)


def test_uniform_bounds():
    (x,) = run(uniform(key(3), (N,), dt.float32, -2.0, 6.0))
    assert -2 <= x.min() < -1.99 and 5.99 < x.max() <= 6


def test_every_bit_is_set_half_of_the_time():
    (bits,) = run(random_bits(key(11), shape=(N,)))
    rates = [(bits >> np.uint32(b) & np.uint32(1)).mean() for b in range(32)]
    assert np.abs(np.array(rates) - 0.5).max() < 5 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("dtype", dt.FLOATS, ids=str)
def test_normal(dtype: dt.DType):
    (x,) = run(normal(key(7), (N,), dtype))
    x = x.astype(np.float64)
    assert np.isfinite(x).all()
    assert abs(x.mean()) < 5 / math.sqrt(N)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / N) + 1e-3
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / N)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / N) + 1e-2
    assert abs((np.abs(x) < 1).mean() - 0.682689) < 5 * math.sqrt(0.22 / N) + 2e-3
    (y,) = run(normal(key(7), (N,), dt.float64, mean=3.0, deviation=2.0))
    assert abs(y.mean() - 3) < 10 / math.sqrt(N) and abs(y.std() - 2) < 0.02


def test_bernoulli():
    (a, never, always) = run(*(bernoulli(key(2), p, (N,)) for p in (0.3, 0.0, 1.0)))
    assert abs(a.mean() - 0.3) < 5 * math.sqrt(0.21 / N)
    assert not never.any() and always.all()
    (b,) = run(bernoulli(key(2), full((), 0.3, dt.float32), (N,)))
    assert abs(b.mean() - 0.3) < 5 * math.sqrt(0.21 / N)


def test_streams_of_split_keys_are_unrelated():
    (keys,) = run(split(key(9), 3))
    parent = parameter(0, "key", TensorType(dt.uint32, (2,)))
    graph = make_graph("test", [parent], [uniform(parent, (N,))])
    streams = np.stack([interpret(graph, [k])[0] for k in keys])
    correlation = np.corrcoef(streams) - np.eye(3)
    assert np.abs(correlation).max() < 5 / math.sqrt(N)


def test_bad_keys_and_dtypes():
    with pytest.raises(ShapeError, match=r"random_bits: key is u32\[3,2\], not u32\[2\]"):
        random_bits(split(key(0), 3), shape=(2,))
    with pytest.raises(DTypeError, match=r"fold_in: data f32\[\] is not u32"):
        fold_in(key(0), full((), 1.0, dt.float32))
    with pytest.raises(DTypeError, match="normal: takes floats, not i32"):
        normal(key(0), (2,), dt.int32)
    with pytest.raises(ShapeError, match="words 'third' is unknown"):
        random_bits(key(0), shape=(2,), words="third")
