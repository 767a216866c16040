"""Multi-head attention, with PyTorch's arguments and parameter names."""

from __future__ import annotations

from typing import Any

from rung.core.errors import RungError, ShapeError
from rung.nn import init
from rung.nn.linear import Linear
from rung.nn.module import Module, Parameter
from rung.tensor import functional as f
from rung.tensor.creation import empty
from rung.tensor.operate import as_tensor
from rung.tensor.tensor import Tensor


class MultiheadAttention(Module):
    """Attention of `num_heads` heads (Vaswani et al., 2017): query [N, T, D], key and value
    [N, S, D] -> [N, T, D], or all [T, N, D] unless `batch_first`.

    Masks are as in PyTorch: `attn_mask` [T, S] or [N * heads, T, S] and `key_padding_mask` [N, S]
    are true where a query may *not* look, or float and added. Returns (output, None), or the
    weights averaged over the heads in place of None with `need_weights`."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ShapeError(
                f"MultiheadAttention: {embed_dim} features in {num_heads} heads",
                fix="the number of heads must divide the features",
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.in_proj_weight = Parameter(empty((3 * embed_dim, embed_dim), dtype))
        self.in_proj_bias = Parameter(empty(3 * embed_dim, dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.xavier_uniform_(self.in_proj_weight)
        self.out_proj.reset_parameters()
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        key_padding_mask: Any = None,
        attn_mask: Any = None,
        need_weights: bool = False,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = self._projected(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        if need_weights and self.dropout and self.training:
            raise RungError("MultiheadAttention: need_weights with dropout", fix="use eval()")
        rate = self.dropout if self.dropout and self.training else 0.0
        heads = f.attention(q, k, v, mask, causal=is_causal, dropout=rate)
        joined = heads.permute(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], self.embed_dim)
        out = self.out_proj(joined)
        weights = self._weights(q, k, mask, is_causal) if need_weights else None
        return (out if self.batch_first else out.permute(1, 0, 2)), weights

    def _projected(self, query: Any, key: Any, value: Any) -> list[Tensor]:
        """q, k and v as [N, heads, T, D / heads]."""
        size, found = self.embed_dim, []
        if query is key and key is value:
            joint = f.linear(query, self.in_proj_weight, self.in_proj_bias)
            parts = list(joint.split(size, -1))
        else:
            parts = []
            for i, x in enumerate((query, key, value)):
                rows = slice(i * size, (i + 1) * size)
                bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
                parts.append(f.linear(x, self.in_proj_weight[rows], bias))
        for x in parts:
            if not self.batch_first:
                x = x.permute(1, 0, 2)
            split = x.reshape(*x.shape[:2], self.num_heads, size // self.num_heads)
            found.append(split.permute(0, 2, 1, 3))
        return found

    def _mask(self, q: Tensor, k: Tensor, padding: Any, mask: Any) -> Tensor | None:
        """Both masks as one that broadcasts to [N, heads, T, S]: true = may look, or added."""
        found = None
        if mask is not None:
            found = _seen(mask)
            if found.ndim == 3:
                found = found.reshape(q.shape[0], self.num_heads, q.shape[2], k.shape[2])
        if padding is not None:
            seen = _seen(padding).reshape(q.shape[0], 1, 1, k.shape[2])
            found = seen if found is None else _both(found, seen)
        return found

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        scores = (q @ k.mT) * (q.shape[-1] ** -0.5)
        floor = float("-inf")
        if mask is not None:
            scores = scores.where(mask, floor) if mask.dtype.is_bool else scores + mask
        if causal:
            shape = (q.shape[2], k.shape[2])
            seen = as_tensor(_lower_triangle(shape))
            scores = scores.where(seen, floor)
        return f.softmax(scores, -1).mean(1)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}"


def _lower_triangle(shape: tuple[int, int]) -> Any:
    rows, columns = shape
    return [[j <= i + columns - rows for j in range(columns)] for i in range(rows)]


def _seen(mask: Any) -> Tensor:
    """PyTorch's "true = hidden" turned round; float masks as they are."""
    mask = as_tensor(mask)
    return ~mask if mask.dtype.is_bool else mask


def _both(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype.is_bool and b.dtype.is_bool:
        return a & b
    return _added(a) + _added(b)


def _added(mask: Tensor) -> Tensor:
    if not mask.dtype.is_bool:
        return mask
    nothing = as_tensor(0.0)
    return nothing.where(mask, float("-inf"))
