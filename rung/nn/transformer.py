"""The encoder and decoder of "Attention is all you need" (Vaswani et al., 2017), with PyTorch's
arguments and parameter names.

Shapes are [T, N, D] (source S long, target T), or [N, T, D] with `batch_first`, or [T, D] without a
batch. Masks are as in `MultiheadAttention`: true where a query may *not* look, or float and added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from rung.core.arguments import check_parts
from rung.core.errors import RungError
from rung.nn import init
from rung.nn.attention import MultiheadAttention
from rung.nn.containers import ModuleList
from rung.nn.dropout import Dropout
from rung.nn.linear import Linear
from rung.nn.module import Module
from rung.nn.normalization import LayerNorm
from rung.tensor import functional as f
from rung.tensor.creation import full
from rung.tensor.shapes import triu
from rung.tensor.tensor import Tensor

Activation = str | Callable[[Any], Tensor]
_ACTIVATIONS: Final[dict[str, Callable[[Any], Tensor]]] = {"relu": f.relu, "gelu": f.gelu}


def _activation(given: Activation) -> Callable[[Any], Tensor]:
    if callable(given):
        return given
    if given not in _ACTIVATIONS:
        raise RungError(f"activation={given!r}", fix='give "relu", "gelu" or a function')
    return _ACTIVATIONS[given]


class _Layer(Module):
    """What both layers have: attention to itself, two linear maps, norms before or after."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()

        def attention() -> MultiheadAttention:
            return MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
            )

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.self_attn = attention()
        if self.looks_at_memory:
            self.multihead_attn = attention()
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype)
        for i in range(1, 4 if self.looks_at_memory else 3):
            self.add_module(f"norm{i}", norm())
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.norm_first = norm_first
        self.activation = _activation(activation)

    looks_at_memory = False

    def _around(self, number: int, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """x plus a part of it, with the norm and the dropout of this number."""
        norm, dropout = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + dropout(part(norm(x)))  # type: ignore[no-any-return]
        return norm(x + dropout(part(x)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.dropout(self.activation(self.linear1(x)))
        return self.linear2(inner)  # type: ignore[no-any-return]


class TransformerEncoderLayer(_Layer):
    """Attention of src[S, N, D] to itself, then two linear maps: [S, N, D]."""

    def forward(
        self,
        src: Any,
        src_mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(  # type: ignore[no-any-return]
                x, x, x, src_key_padding_mask, attn_mask=src_mask, is_causal=is_causal
            )[0]

        return self._around(2, self._feed_forward, self._around(1, attend, src))


class TransformerDecoderLayer(_Layer):
    """Attention of tgt[T, N, D] to itself, then to memory[S, N, D], then two linear maps."""

    looks_at_memory = True

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(  # type: ignore[no-any-return]
                x, x, x, tgt_key_padding_mask, attn_mask=tgt_mask, is_causal=tgt_is_causal
            )[0]

        def look(x: Tensor) -> Tensor:
            return self.multihead_attn(  # type: ignore[no-any-return]
                x,
                memory,
                memory,
                memory_key_padding_mask,
                attn_mask=memory_mask,
                is_causal=memory_is_causal,
            )[0]

        x = self._around(2, look, self._around(1, attend, tgt))
        return self._around(3, self._feed_forward, x)


class _Stack(Module):
    """Copies of a layer one after the other, then a norm. All begin with the same values, as in
    PyTorch."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        check_parts(type(self).__name__, 0, num_layers=num_layers)
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def _finished(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)  # type: ignore[no-any-return]


class TransformerEncoder(_Stack):
    """`num_layers` copies of an encoder layer, then `norm`."""

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Any,
        mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return self._finished(src)


class TransformerDecoder(_Stack):
    """`num_layers` copies of a decoder layer, then `norm`."""

    def __init__(
        self, decoder_layer: Module, num_layers: int, norm: Module | None = None
    ) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                bool(tgt_is_causal),
                memory_is_causal,
            )
        return self._finished(tgt)


class Transformer(Module):
    """An encoder of src[S, N, D] and a decoder of tgt[T, N, D] that looks at what it gives."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        options: Any = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, dtype,
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*options), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*options), num_decoder_layers, norm()
        )
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values for all matrices."""
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(  # type: ignore[no-any-return]
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            tgt_is_causal,
            memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, dtype: object = None) -> Tensor:
        """A float mask [sz, sz] by which position i sees positions up to i: -inf above the
        diagonal."""
        return triu(full((sz, sz), float("-inf"), "f32" if dtype is None else dtype), 1)
