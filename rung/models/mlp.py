"""A multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from rung import nn
from rung.tensor.tensor import Tensor


class MLP(nn.Module):
    """x[…, sizes[0]] -> [..., sizes[-1]]: linear maps with an activation between each two.

    `MLP([784, 512, 512, 10])`; the parameters are `layers.0.weight`, `layers.0.bias`, …"""

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[Any], Tensor] = nn.functional.relu,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o, bias) for i, o in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Any) -> Tensor:
        *inner, last = self.layers
        for layer in inner:
            x = self.dropout(self.activation(layer(x)))
        return last(x)  # type: ignore[no-any-return]
