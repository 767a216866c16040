"""Operands on which the generated tests run every op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.ir.op import Array, Attrs, Sample, SampleRule
from rung.ir.types import Shape, TensorType

MakeSample = Callable[[DType], Sample]

SHAPES: Final[tuple[Shape, ...]] = ((), (1,), (0, 3), (5,), (3, 7), (2, 3, 5))
"""Shapes that generated tests use: scalar, one element, empty, odd sizes."""


_FLOAT_EDGES: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, np.inf, -np.inf, np.nan)


def edge_values(dtype: DType) -> Array:
    """Values at which implementations go wrong: zeros, ones, halves, infinities, NaN, extremes."""
    if dtype.is_bool:
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        wanted = [0, 1, 2, 3, 7, -1, -2, -7, info.min, info.max]
        return np.array([v for v in wanted if dt.fits(v, dtype)], dtype.numpy)
    large = {"f16": 6e4, "bf16": 3e38, "f32": 3e38, "f64": 1e308}[dtype.name]
    tiny = {"f16": 1e-7, "bf16": 1e-38, "f32": 1e-40, "f64": 1e-310}[dtype.name]
    return np.array([*_FLOAT_EDGES, large, -large, tiny, -tiny], np.float64).astype(dtype.numpy)


def elementwise_samples(arity: int, dtypes: tuple[DType, ...]) -> SampleRule:
    """Every dtype with all of `SHAPES` (16-bit and 8-bit ones with two), and all combinations of
    edge values."""

    def rule(rng: np.random.Generator) -> list[Sample]:
        found: list[Sample] = []
        for dtype in dtypes:
            shapes = SHAPES if dtype.bits >= 32 or dtype.is_bool else SHAPES[-2:]
            found += [Sample((TensorType(dtype, s),) * arity) for s in shapes]
            grid = np.meshgrid(*[edge_values(dtype)] * arity, indexing="ij")
            found.append(Sample(tuple(np.ascontiguousarray(g).reshape(-1) for g in grid)))
        return found

    return rule


def one_operand(shape: Shape, attrs: Attrs) -> MakeSample:
    """The sample of one operand of `shape`, for a dtype to come."""

    def make(dtype: DType) -> Sample:
        return Sample((TensorType(dtype, shape),), attrs)

    return make


def over_dtypes(makers: Sequence[MakeSample], dtypes: tuple[DType, ...] = dt.ALL) -> SampleRule:
    """All the cases for f32, f64, i64 and bool; every third one for the other dtypes."""

    def rule(rng: np.random.Generator) -> list[Sample]:
        full = (dt.float32, dt.float64, dt.int64, dt.bool_)
        return [
            make(dtype)
            for k, dtype in enumerate(dtypes)
            for n, make in enumerate(makers)
            if dtype in full or (n + k) % 3 == 0
        ]

    return rule
