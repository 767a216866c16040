"""Affine maps, look-up tables, and modules that only move things."""

from __future__ import annotations

import math
from typing import Any

from rung.core.errors import ShapeError
from rung.nn import init
from rung.nn.module import Module, Parameter
from rung.tensor import functional as f
from rung.tensor.creation import empty
from rung.tensor.tensor import Tensor


def torch_init_(weight: Tensor, bias: Tensor | None) -> None:
    """PyTorch's default for linear maps and convolutions: both evenly spread within
    ±1 / sqrt(fan_in)."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(max(init.calculate_fan(weight)[0], 1))
        init.uniform_(bias, -bound, bound)


class Linear(Module):
    """x[…, I] -> x weightᵀ + bias, [..., O]; weight[O, I], bias[O]."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: object = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(empty((out_features, in_features), dtype))
        self.bias = Parameter(empty(out_features, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        torch_init_(self.weight, self.bias)

    def forward(self, x: Any) -> Tensor:
        return f.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Integer positions x[…] -> the rows of weight[V, D] there, [..., D]."""

    def __init__(self, num_embeddings: int, embedding_dim: int, dtype: object = None) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.weight = Parameter(empty((num_embeddings, embedding_dim), dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.normal_(self.weight)

    def forward(self, x: Any) -> Tensor:
        return f.embedding(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Identity(Module):
    """x -> x. Takes and ignores any arguments."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """The dims from `start_dim` to `end_dim` as one: [N, …] -> [N, F]."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Dim `dim` as several, of the lengths `sizes`."""

    def __init__(self, dim: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.sizes = tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        if math.prod(self.sizes) != x.shape[self.dim]:
            raise ShapeError(f"Unflatten: dim {self.dim} of {x._type} into {self.sizes}")
        return x.unflatten(self.dim, self.sizes)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, sizes={self.sizes}"
