"""Losses as modules; `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from typing import Any

from rung.core.errors import RungError
from rung.nn.module import Module
from rung.tensor import functional as f
from rung.tensor.tensor import Tensor


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise RungError(f"reduction={reduction!r}", fix='give "mean", "sum" or "none"')
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """-log(softmax(logits)[target]) for logits[N, C, …] and integer target[N, …]."""

    weight: Tensor | None

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: Any, target: Any) -> Tensor:
        return f.cross_entropy(
            logits, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(_Loss):
    """-log_probabilities[target] for [N, C] and integer target[N]."""

    def forward(self, log_probabilities: Any, target: Any) -> Tensor:
        return f.nll_loss(log_probabilities, target, self.reduction)


class MSELoss(_Loss):
    """Squared difference."""

    def forward(self, x: Any, target: Any) -> Tensor:
        return f.mse_loss(x, target, self.reduction)


class L1Loss(_Loss):
    """Absolute difference."""

    def forward(self, x: Any, target: Any) -> Tensor:
        return f.l1_loss(x, target, self.reduction)


class HuberLoss(_Loss):
    """Half the squared difference up to `delta`, linear beyond."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, x: Any, target: Any) -> Tensor:
        return f.huber_loss(x, target, self.delta, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """-target log(sigmoid(logits)) - (1 - target) log(1 - sigmoid(logits))."""

    def forward(self, logits: Any, target: Any) -> Tensor:
        return f.binary_cross_entropy_with_logits(logits, target, self.reduction)
