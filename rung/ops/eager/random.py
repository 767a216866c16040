"""Threefry-2x32 on whole arrays, in place; for few blocks on Python's integers, which cost less
than the hundred calls."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np

from rung.ir.op import Array, Attrs
from rung.ir.types import Shape, TensorType
from rung.ops.eager.elementwise import Kernel

Types = Sequence[TensorType]
ROTATIONS: Final = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY: Final = 0x1BD11BDA
_WORD: Final = 0xFFFFFFFF
_FEW: Final = 6
_BLOCK: Final = 8192
_U32: Final = np.dtype(np.uint32)
_SHIFTS: Final = {n: np.array(n, _U32) for n in range(33)}
_NUMBERS: Final = [np.array(n, _U32) for n in range(6)]


def block(k0: int, k1: int, a: int, b: int) -> tuple[int, int]:
    """Both words of the block of a key and a counter."""
    keys = (k0, k1, k0 ^ k1 ^ PARITY)
    a, b = (a + k0) & _WORD, (b + k1) & _WORD
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            a = (a + b) & _WORD
            b = ((b << distance | b >> (32 - distance)) & _WORD) ^ a
        a = (a + keys[(group + 1) % 3]) & _WORD
        b = (b + keys[(group + 2) % 3] + group + 1) & _WORD
    return a, b


def mix(k0: Array, k1: Array, a: Array, b: Array, spare: Array) -> None:
    """The words of the blocks of keys and counters a, b (u32), in place."""
    keys = (k0, k1, np.asarray(k0 ^ k1 ^ np.array(PARITY, _U32)))
    a += k0
    b += k1
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            a += b
            np.left_shift(b, _SHIFTS[distance], out=spare)
            np.right_shift(b, _SHIFTS[32 - distance], out=b)
            b |= spare
            b ^= a
        a += keys[(group + 1) % 3]
        b += keys[(group + 2) % 3]
        b += _NUMBERS[group + 1]


def _ints(*arrays: Array) -> list[int]:
    return [int(a) for a in arrays]


def word(number: int) -> Any:
    """The rule of the first or second word of the blocks of given keys and counters."""

    def kernel(k0: Array, k1: Array, c0: Array, c1: Array) -> Array:
        a, b = c0.copy(), c1.copy()
        mix(k0, k1, a, b, np.empty_like(b))
        return b if number else a

    def scalar(*operands: Array) -> Array:
        return np.array(block(*_ints(*operands))[number], _U32)

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Kernel:
        return kernel if outs[0].shape else scalar

    return rule


def fold(data: TensorType) -> Kernel:
    """A new key for each number of `data`."""
    shape, count = (*data.shape, 2), prod(data.shape)

    def few(key: Array, data: Array) -> Array:
        k0, k1 = key.tolist()
        words = [block(k0, k1, 0, n) for n in data.reshape(-1).tolist()]
        return np.array(words, _U32).reshape(shape)

    def many(key: Array, data: Array) -> Array:
        b = data.reshape(-1).copy()
        a = np.zeros(count, _U32)
        mix(key[:1], key[1:], a, b, np.empty_like(b))
        found = np.empty((count, 2), _U32)
        found[:, 0], found[:, 1] = a, b
        return found.reshape(shape)

    return few if count <= _FEW else many


def bits(shape: Shape, words: str) -> Kernel:
    """Random numbers of `shape`: the words of the blocks whose counters are the positions."""
    count = prod(shape)

    def few(key: Array) -> Array:
        k0, k1 = key.tolist()
        made = [block(k0, k1, 0, n) for n in range(count)]
        picked = [a ^ b if words == "xor" else (a if words == "first" else b) for a, b in made]
        return np.array(picked, _U32).reshape(shape)

    def many(key: Array) -> Array:
        found = np.empty(count, _U32)
        size = min(count, _BLOCK)
        a, spare = np.empty(size, _U32), np.empty(size, _U32)
        k0, k1 = key[:1], key[1:]
        for begin in range(0, count, _BLOCK):
            n = min(begin + _BLOCK, count) - begin
            first, b = a[:n], found[begin : begin + n]
            first[...] = begin >> 32
            b[...] = np.arange(begin, begin + n, dtype=np.uint64)
            mix(k0, k1, first, b, spare[:n])
            if words == "first":
                b[...] = first
            elif words == "xor":
                b ^= first
        return found.reshape(shape)

    return few if count <= _FEW else many
