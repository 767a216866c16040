"""Losses as modules; `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rung.core.errors import RungError
from rung.nn.module import Module
from rung.tensor import functional as f
from rung.tensor import losses as g
from rung.tensor.alignment import ctc_loss
from rung.tensor.tensor import Tensor


class _Loss(Module):
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in self.reductions:
            given = ", ".join(f'"{name}"' for name in self.reductions)
            raise RungError(f"reduction={reduction!r}", fix=f"give one of {given}")
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class _Weighted(_Loss):
    weight: Tensor | None

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)


class CrossEntropyLoss(_Weighted):
    """-log(softmax(logits)[target]) for logits[N, C, …] and integer target[N, …], or probabilities
    target[N, C, …]."""

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: Any, target: Any) -> Tensor:
        return f.cross_entropy(
            logits, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(_Weighted):
    """-log_probabilities[target] for [N, C, …] and integer target[N, …], times weight[target]."""

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index

    def forward(self, log_probabilities: Any, target: Any) -> Tensor:
        return f.nll_loss(
            log_probabilities, target, self.weight, self.ignore_index, self.reduction
        )


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
        return f.huber_loss(x, target, self.reduction, self.delta)


class SmoothL1Loss(_Loss):
    """Half the squared difference over `beta` up to a difference of `beta`, linear beyond."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.smooth_l1_loss(x, target, self.reduction, self.beta)


class BCELoss(_Weighted):
    """-target log(x) - (1 - target) log(1 - x) for probabilities x."""

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.binary_cross_entropy(x, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_Weighted):
    """-target log(sigmoid(logits)) - (1 - target) log(1 - sigmoid(logits)); the first term is
    multiplied by `pos_weight`."""

    pos_weight: Tensor | None

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(weight, reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: Any, target: Any) -> Tensor:
        return f.binary_cross_entropy_with_logits(
            logits, target, self.weight, self.reduction, self.pos_weight
        )


class CTCLoss(_Loss):
    """-log of the probability of the target labels in any alignment with log_probs[T, N, C]; see
    `functional.ctc_loss`."""

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        super().__init__(reduction)
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(
        self, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any
    ) -> Tensor:
        return ctc_loss(
            log_probs, targets, input_lengths, target_lengths,
            self.blank, self.reduction, self.zero_infinity,
        )  # fmt: skip


class KLDivLoss(_Loss):
    """target (log(target) - x) for logarithms x of probabilities; `reduction` may be "batchmean"
    too."""

    reductions = (*_Loss.reductions, "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.kl_div(x, target, self.reduction, self.log_target)


class PoissonNLLLoss(_Loss):
    """exp(x) - target x, or x - target log(x + eps) without `log_input`; `full` adds Stirling's
    approximation of log(target!)."""

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.poisson_nll_loss(
            x, target, self.log_input, self.full, self.eps, self.reduction
        )


class GaussianNLLLoss(_Loss):
    """(log var + (x - target)² / var) / 2 with `var` at least eps; `full` adds log(2π) / 2."""

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.full = full
        self.eps = eps

    def forward(self, x: Any, target: Any, var: Any) -> Tensor:
        return g.gaussian_nll_loss(x, target, var, self.full, self.eps, self.reduction)


class SoftMarginLoss(_Loss):
    """log(1 + exp(-target x)) for targets of 1 and -1."""

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.soft_margin_loss(x, target, self.reduction)


class MultiLabelSoftMarginLoss(_Weighted):
    """Binary cross entropy of each of the C classes, averaged over them: x[N, C], target[N, C]."""

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.multilabel_soft_margin_loss(x, target, self.weight, self.reduction)


class MultiLabelMarginLoss(_Loss):
    """Σ max(0, 1 - x[t] + x[c]) / C over the classes t of the target and all others c; classes
    before the first negative number of target[N, C] count."""

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.multilabel_margin_loss(x, target, self.reduction)


class MultiMarginLoss(_Weighted):
    """Σ max(0, margin - x[target] + x[c])^p / C over the other classes c, times weight[target]."""

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean"
    ) -> None:
        super().__init__(weight, reduction)
        self.p = p
        self.margin = margin

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.multi_margin_loss(
            x, target, self.p, self.margin, self.weight, self.reduction
        )


class _MarginLoss(_Loss):
    default_margin: ClassVar[float] = 0.0

    def __init__(self, margin: float | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = self.default_margin if margin is None else margin


class CosineEmbeddingLoss(_MarginLoss):
    """1 - cos(x1, x2) where the target is 1, max(0, cos - margin) where it is -1."""

    def forward(self, x1: Any, x2: Any, target: Any) -> Tensor:
        return g.cosine_embedding_loss(x1, x2, target, self.margin, self.reduction)


class MarginRankingLoss(_MarginLoss):
    """max(0, -target (x1 - x2) + margin)."""

    def forward(self, x1: Any, x2: Any, target: Any) -> Tensor:
        return g.margin_ranking_loss(x1, x2, target, self.margin, self.reduction)


class HingeEmbeddingLoss(_MarginLoss):
    """x where the target is 1, max(0, margin - x) where it is -1; the margin is 1 unless given."""

    default_margin = 1.0

    def forward(self, x: Any, target: Any) -> Tensor:
        return g.hinge_embedding_loss(x, target, self.margin, self.reduction)


class TripletMarginLoss(_Loss):
    """max(0, |anchor - positive| - |anchor - negative| + margin), by p-norms."""

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Tensor:
        return g.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


class TripletMarginWithDistanceLoss(_Loss):
    """`TripletMarginLoss` by any distance of two tensors."""

    def __init__(
        self,
        *,
        distance_function: Callable[[Any, Any], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.distance_function = distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Tensor:
        return g.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
