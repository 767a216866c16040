"""The type of a graph value: dtype and static shape, written `f32[64,784]`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from rung.core.dtype import DType, as_dtype

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorType:
    """dtype and shape of a value."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return self.size * self.dtype.itemsize

    @cached_property
    def _hash(self) -> int:
        return hash((self.dtype.name, self.shape))

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)


def array_type(array: np.ndarray[Any, Any]) -> TensorType:
    """The type of a NumPy array. Raises DTypeError for a dtype that rung does not have."""
    return TensorType(as_dtype(array.dtype), array.shape)
