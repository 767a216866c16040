"""Generation with a character GPT: each token from all before it, or with a cache of keys and
values that grows by concatenation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.common import Array, chosen, initial_weights, no_jit, torch_weights

VOCABULARY = 65
PROMPT = 16


@dataclass(frozen=True)
class Size:
    """Features of a token, heads, layers, most tokens."""

    width: int = 256
    heads: int = 8
    layers: int = 6
    context: int = 512


FULL = Size()
TINY = Size(width=16, heads=2, layers=2, context=32)


def steps(
    n: int, *, system: str, jit: bool = False, cache: bool = False, size: Size = FULL
) -> Iterator[float]:
    """The logarithm of the probability of each of `n` tokens drawn, with or without a cache."""
    no_jit("char_gpt", jit)
    return chosen(system, rung_steps, torch_steps)(n, cache, size)


def prompt() -> Array:
    """The tokens i64[1, PROMPT] with which the text begins."""
    return np.random.default_rng(1).integers(0, VOCABULARY, (1, PROMPT))


def rung_steps(n: int, cache: bool, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn
    from rung.nn import functional as f

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.norm1 = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def forward(self, x, past):
            b, t, d = x.shape
            q, k, v = self.qkv(self.norm1(x)).split(d, dim=-1)
            q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
            if past is not None:
                k = rung.cat([past[0], k], dim=2)
                v = rung.cat([past[1], v], dim=2)
            y = f.scaled_dot_product_attention(q, k, v, is_causal=past is None)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
            return x + self.mlp(self.norm2(x)), (k, v)

    class GPT(nn.Module):
        def __init__(self, width, heads, layers, context):
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Embedding(context, width)
            self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, tokens, past=None):
            start = past[0][0].shape[2] if past else 0
            x = self.tokens(tokens) + self.positions(rung.arange(start, start + tokens.shape[1]))
            present = []
            for i, block in enumerate(self.blocks):
                x, kept = block(x, past[i] if past else None)
                present.append(kept)
            return self.head(self.norm(x)), present

    model = GPT(size.width, size.heads, size.layers, size.context)
    model.load_state_dict(initial_weights(model))
    model.eval()

    def generate(n):
        rng = np.random.default_rng(2)
        tokens, past = rung.asarray(prompt()), None
        new = tokens
        for _ in range(n):
            with rung.no_grad():
                logits, past = model(new, past) if cache else model(tokens)
                probs = f.softmax(logits[0, -1], dim=-1).numpy()
            drawn = min(int(np.cumsum(probs).searchsorted(rng.random())), VOCABULARY - 1)
            new = rung.tensor([[drawn]])
            tokens = rung.cat([tokens, new], dim=1)
            yield float(np.log(probs[drawn]))

    return generate(n)


def torch_steps(n: int, cache: bool, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.norm1 = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def forward(self, x, past):
            b, t, d = x.shape
            q, k, v = self.qkv(self.norm1(x)).split(d, dim=-1)
            q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
            if past is not None:
                k = torch.cat([past[0], k], dim=2)
                v = torch.cat([past[1], v], dim=2)
            y = f.scaled_dot_product_attention(q, k, v, is_causal=past is None)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
            return x + self.mlp(self.norm2(x)), (k, v)

    class GPT(nn.Module):
        def __init__(self, width, heads, layers, context):
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Embedding(context, width)
            self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, tokens, past=None):
            start = past[0][0].shape[2] if past else 0
            x = self.tokens(tokens) + self.positions(torch.arange(start, start + tokens.shape[1]))
            present = []
            for i, block in enumerate(self.blocks):
                x, kept = block(x, past[i] if past else None)
                present.append(kept)
            return self.head(self.norm(x)), present

    model = GPT(size.width, size.heads, size.layers, size.context)
    model.load_state_dict(torch_weights(model))
    model.eval()

    def generate(n):
        rng = np.random.default_rng(2)
        tokens, past = torch.from_numpy(prompt()), None
        new = tokens
        for _ in range(n):
            with torch.no_grad():
                logits, past = model(new, past) if cache else model(tokens)
                probs = f.softmax(logits[0, -1], dim=-1).numpy()
            drawn = min(int(np.cumsum(probs).searchsorted(rng.random())), VOCABULARY - 1)
            new = torch.tensor([[drawn]])
            tokens = torch.cat([tokens, new], dim=1)
            yield float(np.log(probs[drawn]))

    return generate(n)
