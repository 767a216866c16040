"""GPT: a decoder-only transformer in the layout and with the names of GPT-2 (Radford et al., 2019).

model = GPT(CHAR)                                  # characters, about 1 M parameters
loss = model.loss(tokens, targets)                 # i64[B, T], i64[B, T] -> f32[]
model = GPT.from_gpt2("gpt2/model.safetensors")    # published weights, by name
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from rung import nn
from rung.core.arguments import at_least, between, check_parts
from rung.core.errors import CheckpointError, RungError, ShapeError
from rung.nn import functional as f
from rung.tensor import elementwise as e
from rung.tensor import random
from rung.tensor.autograd import no_grad
from rung.tensor.checkpoint import checkpoint
from rung.tensor.checks import checked
from rung.tensor.creation import arange, asarray
from rung.tensor.jit import jit
from rung.tensor.sorting import take, topk
from rung.tensor.tensor import Tensor


@dataclass(frozen=True)
class GPTConfig:
    """Sizes: `block_size` positions, `vocab_size` tokens, `n_layer` blocks of `n_head` heads and
    `n_embd` features. `tie_weights`: the output map is the table of token embeddings."""

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    tie_weights: bool = True
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        at_least("GPTConfig", 1, block_size=self.block_size, n_head=self.n_head)
        at_least("GPTConfig", 0, n_layer=self.n_layer, n_embd=self.n_embd)
        at_least("GPTConfig", 1, vocab_size=self.vocab_size)
        between("GPTConfig", 0, 1, dropout=self.dropout)


GPT2: Final = GPTConfig()
"""GPT-2 small: 124 million parameters."""
CHAR_10M: Final = GPTConfig(256, 65, 6, 6, 384, bias=False)
"""nanoGPT's model for characters: 10.7 million parameters."""
CHAR: Final = GPTConfig(128, 96, 5, 4, 128, bias=False)
"""For the demo: one million parameters."""


class CausalSelfAttention(nn.Module):
    """x[B, T, D] -> [B, T, D]; each position looks at itself and those before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        size = config.n_embd
        if size % config.n_head:
            raise ShapeError(f"GPT: {size} features in {config.n_head} heads")
        self.c_attn = nn.Linear(size, 3 * size, config.bias)
        self.c_proj = nn.Linear(size, size, config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head = config.n_head
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            part.reshape(b, t, self.n_head, d // self.n_head).permute(0, 2, 1, 3)
            for part in self.c_attn(x).split(d, -1)
        )
        rate = self.dropout if self.dropout and self.training else 0.0
        y = f.attention(q, k, v, causal=True, dropout=rate)
        y = y.permute(0, 2, 1, 3).reshape(b, t, d)
        return self.resid_dropout(self.c_proj(y))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """x[…, D] -> [..., D] through 4 D features."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = f.gelu(self.c_fc(x), approximate="tanh")
        return self.dropout(self.c_proj(y))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then the feed-forward part, each on normalized features beside a shortcut."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Tokens i64[B, T] -> features [B, T, D] after the last norm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        check_parts("GPT", 0, n_layer=config.n_layer)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.checkpoint_blocks = config.checkpoint_blocks

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.drop(self.wte(tokens) + self.wpe(arange(tokens.shape[1])))
        for block in self.h:
            x = (checkpoint(block) if self.checkpoint_blocks else block)(x)
        return self.ln_f(x)  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Tokens i64[B, T] -> logits [B, T, V]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.transformer.wte.weight
        self._init_weights()

    def _init_weights(self) -> None:
        """Normal, 0.02; what is added to the shortcuts is smaller, the more of them there are."""
        small = 0.02 / math.sqrt(2 * max(self.config.n_layer, 1))
        for name, p in self.named_parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, std=small if name.endswith("c_proj.weight") else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor) -> Tensor:
        self._check(tokens.shape)
        return self.lm_head(self.transformer(tokens))  # type: ignore[no-any-return]

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of targets i64[B, T]; -100 is left out."""
        logits = self(tokens)
        return f.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] > self.config.block_size:
            raise ShapeError(
                f"GPT: tokens are {list(shape)}",
                fix=f"give [batch, positions], at most {self.config.block_size} positions",
            )

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: matrices decay, vectors (biases, norms) do not."""
        named = list(self.named_parameters())
        return [
            {"params": [n for n in named if n[1].ndim >= 2], "weight_decay": weight_decay},
            {"params": [n for n in named if n[1].ndim < 2], "weight_decay": 0.0},
        ]

    # ---- generating

    def generate(
        self,
        tokens: Any,
        num_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: random.Source = None,
    ) -> list[int]:
        """`num_tokens` tokens that follow the given ones, each drawn from
        softmax(logits / temperature) over the `top_k` most likely (all unless given); temperature 0
        takes the likeliest. Beyond `block_size` the oldest are forgotten."""
        check_parts("generate", 0, num_tokens=num_tokens)
        return list(self.stream(tokens, num_tokens, temperature, top_k, generator))

    def stream(
        self,
        tokens: Any,
        num_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: random.Source = None,
    ) -> Iterator[int]:
        """The tokens of `generate`, one by one as they are drawn."""
        at_least("generate", 0, num_tokens=num_tokens, temperature=float(temperature))
        at_least("generate", 1, top_k=top_k)
        most = self.config.vocab_size - 1
        given = asarray(tokens)
        if not given.size:
            raise RungError("generate: 0 tokens", fix="give at least one")
        read = checked("generate: token", given, 0, most, unit="tokens", given=tokens)
        known = read.reshape(-1).tolist()
        return self._continued(known, num_tokens, float(temperature), top_k, generator)

    def _continued(
        self,
        known: list[int],
        num_tokens: int,
        temperature: float,
        top_k: int | None,
        generator: random.Source,
    ) -> Iterator[int]:
        size = self.config.block_size
        step = jit(self._draw, name="generate")
        for _ in range(num_tokens):
            recent = known[-size:]
            window = np.zeros((1, size), np.int64)
            window[0, : len(recent)] = recent
            was_training = self.training
            self.eval()
            with no_grad():
                last = asarray(np.array(len(recent) - 1))
                drawn = step(asarray(window), last, temperature, top_k, generator)
            self.train(was_training)
            known.append(int(drawn))
            yield known[-1]

    def _draw(
        self,
        window: Tensor,
        last: Tensor,
        temperature: float,
        top_k: int | None,
        generator: random.Source,
    ) -> Tensor:
        """The token after position `last` of window i64[1, T]."""
        features = take(self.transformer(window)[0], last, 0)
        logits = self.lm_head(features.expand_dims(0)).astype("f32")
        if temperature == 0:
            return logits.argmax(-1)
        if top_k is not None and top_k < logits.shape[-1]:
            least = topk(logits, top_k)[0][:, -1:]
            logits = e.where(logits < least, float("-inf"), logits)
        return random.categorical(logits / temperature, key=generator)

    # ---- published weights

    @classmethod
    def from_gpt2(cls, path: str | Path, config: GPTConfig | None = None) -> GPT:
        """The model with the weights of a published GPT-2 file in safetensors layout; the sizes are
        read from it (64 features a head) unless `config` is given. Raises CheckpointError."""
        arrays, _ = nn.read_safetensors(path)
        weights = rename_gpt2(arrays)
        model = cls(config or _sizes(weights))
        model.load_state_dict(weights)
        return model


_BUFFERS: Final = (".attn.bias", ".attn.masked_bias")
_TURNED: Final = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def rename_gpt2(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Published GPT-2 arrays under the names of `GPT`: with the `transformer.` in front, without
    causal masks, and the matrices that are [inputs, outputs] there turned round."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if name.endswith(_BUFFERS):
            continue
        if not name.startswith(("transformer.", "lm_head.")):
            name = f"transformer.{name}"
        found[name] = array.T if name.endswith(_TURNED) else array
    return found


def _sizes(weights: Mapping[str, Any]) -> GPTConfig:
    try:
        vocab_size, n_embd = weights["transformer.wte.weight"].shape
        block_size = weights["transformer.wpe.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"the file is no GPT-2: it has no {error.args[0]}") from None
    n_layer = sum(name.endswith(".ln_1.weight") for name in weights)
    return GPTConfig(block_size, vocab_size, n_layer, n_embd // 64, n_embd)
