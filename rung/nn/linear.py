"""Affine maps, look-up tables, and modules that only move things."""

from __future__ import annotations

import math
from typing import Any

from rung.core.errors import ShapeError
from rung.nn import init
from rung.nn.module import Module, Parameter
from rung.tensor import functional as f
from rung.tensor.bags import embedding_bag
from rung.tensor.checks import table_row
from rung.tensor.creation import arange, empty
from rung.tensor.operate import one_axis
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


class Bilinear(Module):
    """x1[…, I], x2[…, J] -> x1 weight[o] x2 + bias[o] for each o, [..., O]; weight[O, I, J]."""

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = Parameter(empty((out_features, in1_features, in2_features), dtype))
        self.bias = Parameter(empty(out_features, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, evenly spread within ±1 / sqrt(in1_features)."""
        bound = 1 / math.sqrt(max(self.in1_features, 1))
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def forward(self, x1: Any, x2: Any) -> Tensor:
        return f.bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in1_features}, {self.in2_features}, {self.out_features}"


class Embedding(Module):
    """Integer positions x[…] -> the rows of weight[V, D] there, [..., D]. The row `padding_idx`
    begins as zeros and gets no gradient."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = table_row(type(self).__name__, padding_idx, num_embeddings)
        self.weight = Parameter(empty((num_embeddings, embedding_dim), dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        _init_table_(self.weight, self.padding_idx)

    def forward(self, x: Any) -> Tensor:
        return f.embedding(x, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def _init_table_(weight: Tensor, padding_idx: int | None) -> None:
    init.normal_(weight)
    if padding_idx is not None:
        rows = arange(weight.shape[0]).expand_dims(-1)
        weight.assign(weight.detach().masked_fill(rows == padding_idx, 0.0))


class EmbeddingBag(Module):
    """Sums, means or maxima ("sum", "mean", "max") of rows of weight[V, D] over bags of positions.

    x[N, K] is N bags; or x[M] holds all bags one after the other, which begin at `offsets`[N]
    (with `include_last_offset` the last of those is the end). The row `padding_idx` is left out."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.mode = mode
        self.include_last_offset = include_last_offset
        self.padding_idx = table_row(type(self).__name__, padding_idx, num_embeddings)
        self.weight = Parameter(empty((num_embeddings, embedding_dim), dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        _init_table_(self.weight, self.padding_idx)

    def forward(self, x: Any, offsets: Any = None, per_sample_weights: Any = None) -> Tensor:
        return embedding_bag(
            x,
            self.weight,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}"


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
    """Dim `dim` as several, of the lengths `unflattened_size`."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.sizes = tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        dim = one_axis("Unflatten", self.dim, x.ndim)
        if -1 not in self.sizes and math.prod(self.sizes) != x.shape[dim]:
            raise ShapeError(f"Unflatten: dim {self.dim} of {x._type} into {self.sizes}")
        return x.unflatten(self.dim, self.sizes)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, sizes={self.sizes}"
