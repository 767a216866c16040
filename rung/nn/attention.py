"""Multi-head attention, with PyTorch's arguments and parameter names."""

from __future__ import annotations

from typing import Any

from rung.core.errors import RungError, ShapeError
from rung.nn import init
from rung.nn.linear import Linear
from rung.nn.module import Module, Parameter
from rung.tensor import functional as f
from rung.tensor.creation import empty, zeros
from rung.tensor.operate import as_tensor
from rung.tensor.shapes import concat
from rung.tensor.tensor import Tensor


class MultiheadAttention(Module):
    """Attention of `num_heads` heads (Vaswani et al., 2017): query [T, N, D], key and value
    [S, N, D] -> [T, N, D], or all [N, T, D] with `batch_first`, or [T, D] without a batch.

    Masks are as in PyTorch: `attn_mask` [T, S] or [N * heads, T, S] and `key_padding_mask` [N, S]
    are true where a query may *not* look, or float and added. Returns (output, None), or with
    `need_weights` the weights in place of None, averaged over the heads with
    `average_attn_weights`. Keys have `kdim` and values `vdim` features; `add_bias_kv` adds one key
    and value that are learned, `add_zero_attn` one of zeros."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
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
        self.add_zero_attn = add_zero_attn
        self.batch_first = batch_first
        self.joint = (kdim or embed_dim, vdim or embed_dim) == (embed_dim, embed_dim)
        if self.joint:
            self.in_proj_weight = Parameter(empty((3 * embed_dim, embed_dim), dtype))
        else:
            self.q_proj_weight = Parameter(empty((embed_dim, embed_dim), dtype))
            self.k_proj_weight = Parameter(empty((embed_dim, kdim or embed_dim), dtype))
            self.v_proj_weight = Parameter(empty((embed_dim, vdim or embed_dim), dtype))
        self.in_proj_bias = Parameter(empty(3 * embed_dim, dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        self.bias_k = Parameter(empty((1, 1, embed_dim), dtype)) if add_bias_kv else None
        self.bias_v = Parameter(empty((1, 1, embed_dim), dtype)) if add_bias_kv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        self.out_proj.reset_parameters()
        for weight in self._weights_in():
            init.xavier_uniform_(weight)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        if self.bias_k is not None and self.bias_v is not None:
            init.xavier_normal_(self.bias_k)
            init.xavier_normal_(self.bias_v)

    def _weights_in(self) -> list[Parameter]:
        if self.joint:
            return [self.in_proj_weight]
        return [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        key_padding_mask: Any = None,
        need_weights: bool = False,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        key = query if key is None else key
        value = key if value is None else value
        if need_weights and self.dropout and self.training:
            raise RungError("MultiheadAttention: need_weights with dropout", fix="use eval()")
        q, k, v = self._projected(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        k, v, mask = self._with_more_keys(k, v, mask)
        rate = self.dropout if self.dropout and self.training else 0.0
        heads = f.attention(q, k, v, mask, causal=is_causal, dropout=rate)
        joined = heads.permute(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], self.embed_dim)
        out = self.out_proj(joined)
        weights = self._weights(q, k, mask, is_causal) if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.ndim == 2:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.permute(1, 0, 2)), weights

    def _projected(self, query: Any, key: Any, value: Any) -> list[Tensor]:
        """q, k and v as [N, heads, T, D / heads]."""
        size, found = self.embed_dim, []
        if self.joint and query is key and key is value:
            joint = f.linear(query, self.in_proj_weight, self.in_proj_bias)
            return [self._split(x) for x in joint.split(size, -1)]
        for i, x in enumerate((query, key, value)):
            rows = slice(i * size, (i + 1) * size)
            weight = self.in_proj_weight[rows] if self.joint else self._weights_in()[i]
            bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
            found.append(self._split(f.linear(x, weight, bias)))
        return found

    def _split(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            x = x.expand_dims(0)
        elif not self.batch_first:
            x = x.permute(1, 0, 2)
        heads = x.reshape(*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads)
        return heads.permute(0, 2, 1, 3)

    def _with_more_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with the learned one and that of zeros behind them, seen by all."""
        parts: list[tuple[Tensor, Tensor]] = [(k, v)]
        shape = (k.shape[0], self.num_heads, 1, k.shape[3])
        if self.bias_k is not None and self.bias_v is not None:
            one = (1, self.num_heads, 1, k.shape[3])
            learned = (self.bias_k.reshape(one), self.bias_v.reshape(one))
            parts.append((learned[0].expand(*shape), learned[1].expand(*shape)))
        if self.add_zero_attn:
            parts.append((zeros(shape, k.dtype), zeros(shape, v.dtype)))
        more = len(parts) - 1
        if not more:
            return k, v, mask
        if mask is not None:
            mask = mask.pad([(0, 0)] * (mask.ndim - 1) + [(0, more)], mask.dtype.is_bool)
        return concat([a for a, _ in parts], 2), concat([b for _, b in parts], 2), mask

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
        """The weights of every head, [N, heads, T, S]."""
        scores = (q @ k.mT) * (q.shape[-1] ** -0.5)
        floor = float("-inf")
        if mask is not None:
            scores = scores.where(mask, floor) if mask.dtype.is_bool else scores + mask
        if causal:
            shape = (q.shape[2], k.shape[2])
            seen = as_tensor(_lower_triangle(shape))
            scores = scores.where(seen, floor)
        return f.softmax(scores, -1)

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
