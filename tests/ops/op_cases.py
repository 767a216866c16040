"""Concrete operands for every op, drawn from the samples of its record."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.core.dtype import as_dtype
from rung.ir.node import Value, parameter
from rung.ir.op import Array, Attrs, Op
from rung.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Case:
    """An op, its operands and attributes; `drawn` if no operand was given as an array of floats."""

    op: Op
    operands: tuple[Array, ...]
    attrs: Attrs
    drawn: bool

    @property
    def types(self) -> list[TensorType]:
        return [type_of(a) for a in self.operands]

    def __repr__(self) -> str:
        return f"{self.op.name}({', '.join(map(repr, self.types))}; {self.attrs})"

    def build(self) -> tuple[list[Value], tuple[Value, ...]]:
        """Parameters for the operands, and the results of the op on them."""
        params = [parameter(i, f"x{i}", t) for i, t in enumerate(self.types)]
        return params, self.op.build(params, self.attrs)

    def ref(self, operands: Sequence[Array] | None = None) -> tuple[Array, ...]:
        """The reference on these or on other operands."""
        return self.op.ref(self.attrs, self.operands if operands is None else operands)


def type_of(array: Array) -> TensorType:
    """dtype and shape of an array."""
    return TensorType(as_dtype(array.dtype), array.shape)


def rng_of(op: Op) -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(zlib.crc32(op.name.encode()))


def cases(op: Op) -> list[Case]:
    """All the cases of an op."""
    if op.samples is None:
        return []
    rng = rng_of(op)
    found = []
    for sample in op.samples(rng):
        operands = tuple(
            draw(rng, o, op) if isinstance(o, TensorType) else o for o in sample.operands
        )
        given = (o for o in sample.operands if not isinstance(o, TensorType))
        drawn = all(o.dtype.kind in "biu" for o in given)
        found.append(Case(op, operands, sample.attrs, drawn))
    return found


def draw(rng: np.random.Generator, type: TensorType, op: Op) -> Array:
    """Values in the domain of the op, away from its kinks."""
    low, high = op.facts.domain
    if type.dtype.is_bool:
        return rng.integers(0, 2, type.shape).astype(bool)
    if type.dtype.is_integer:
        floor = 0 if type.dtype.kind == "u" else int(low)
        return rng.integers(floor, max(int(high), floor) + 1, type.shape).astype(type.dtype.numpy)
    values = rng.uniform(low, high, type.shape)
    for kink in op.facts.kinks:
        values = np.where(np.abs(values - kink) < 0.01, kink + 0.02, values)
    return values.astype(type.dtype.numpy)
