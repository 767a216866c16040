"""The losses of `torch.nn.functional` beside cross entropy: names, arguments and defaults are
those.

`reduction` is "mean", "sum" or "none". N examples, C classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rung.core.arguments import above, at_least
from rung.core.errors import RungError, ShapeError
from rung.ops.loss import binary_cross_entropy as _binary
from rung.tensor import elementwise as e
from rung.tensor import reductions as r
from rung.tensor.checks import check_labels, check_target, checked
from rung.tensor.composed import one_node
from rung.tensor.creation import arange
from rung.tensor.functional import floats, logsigmoid, reduced, softplus
from rung.tensor.linalg import vector_norm
from rung.tensor.operate import Operand, apply_together, as_tensor, common_dtype
from rung.tensor.precision import rounded_once
from rung.tensor.shapes import broadcast_arrays, expand_dims, reshape
from rung.tensor.sorting import held_along, held_take

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _weighted(loss: Tensor, weight: Operand | None) -> Tensor:
    return loss if weight is None else loss * as_tensor(weight)


# ---- distances


def p_norm(x: Operand, p: float = 2.0, axis: int = -1, keepdims: bool = False) -> Tensor:
    """(Σ |x|^p)^(1/p) along `axis`; the largest and smallest |x| for p = inf and -inf,
    how many are not 0 for p = 0."""
    return vector_norm(floats(x), axis, keepdims, ord=p)


@one_node
@rounded_once
def pairwise_distance(
    x1: Operand, x2: Operand, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dim."""
    return p_norm(floats(x1) - floats(x2) + eps, p, -1, keepdim)


@one_node
@rounded_once
def cosine_similarity(x1: Operand, x2: Operand, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Σ x1 x2 / (max(|x1|, eps) max(|x2|, eps)) along `dim`; the other dims broadcast."""
    at_least("cosine_similarity", 0, eps=eps)
    a, b = broadcast_arrays(floats(x1), floats(x2))
    first, second = (x / e.maximum(r.norm(x, dim, keepdims=True), eps) for x in (a, b))
    return r.sum(first * second, dim)


# ---- losses of a number


@one_node
@rounded_once
def smooth_l1_loss(
    x: Operand, target: Operand, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """Half the squared difference over `beta` up to a difference of `beta`, linear beyond."""
    if beta < 0:
        raise RungError(f"smooth_l1_loss: beta={beta}", fix="give a number of at least 0")
    check_target("smooth_l1_loss", x, target)
    away = floats(e.subtract(x, target))
    if beta == 0:
        return reduced(e.abs(away), reduction)
    inner = e.clip(away, -beta, beta)
    return reduced(inner * (away - inner * 0.5) / beta, reduction)


@one_node
@rounded_once
def poisson_nll_loss(
    x: Operand,
    target: Operand,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """exp(x) - target x, or x - target log(x + eps) without `log_input`; `full` adds Stirling's
    approximation of log(target!) where the target is above 1."""
    check_target("poisson_nll_loss", x, target)
    x, t = floats(x), floats(target)
    loss = e.exp(x) - t * x if log_input else x - t * e.log(x + eps)
    if full:
        safe = e.maximum(t, 1.0)
        stirling = safe * e.log(safe) - safe + 0.5 * e.log(2 * math.pi * safe)
        loss = loss + e.where(t > 1, stirling, 0.0)
    return reduced(loss, reduction)


@rounded_once
def gaussian_nll_loss(
    x: Operand,
    target: Operand,
    var: Operand,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log var + (x - target)² / var) / 2, `var` at least eps; `full` adds log(2π) / 2. `var` has
    the shape of x, or no last dim, or a last dim of length 1."""
    check_target("gaussian_nll_loss", x, target)
    x, t, variance = floats(x), floats(target), floats(var)
    if variance.shape == x.shape[:-1] and variance.shape != x.shape:
        variance = expand_dims(variance, -1)
    if variance.shape not in (x.shape, (*x.shape[:-1], 1), ()):
        raise ShapeError(
            f"gaussian_nll_loss: var {variance._type} for x {x._type}",
            fix="var has the shape of x, or a last dim of length 1",
        )
    variance = variance + (e.maximum(variance, eps) - variance).detach()
    away = x - t
    loss = 0.5 * e.log(variance) + 0.5 * away / variance * away
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


# ---- losses of probabilities


@rounded_once
def binary_cross_entropy(
    x: Operand, target: Operand, weight: Operand | None = None, reduction: str = "mean"
) -> Tensor:
    """-target log(x) - (1 - target) log(1 - x) for probabilities x; a logarithm counts as at least
    -100. The derivative is finite at 0 and 1."""
    check_target("binary_cross_entropy", x, target)
    operands = (floats(x), as_tensor(target))
    loss = apply_together("binary_cross_entropy", _binary, operands, common_dtype(operands))
    return reduced(_weighted(loss, weight), reduction)


@one_node
@rounded_once
def kl_div(
    x: Operand, target: Operand, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target (log(target) - x) for logarithms x of probabilities, the target given as logarithms
    too with `log_target`. `reduction` may be "batchmean": the sum over the length of dim 0."""
    check_target("kl_div", x, target)
    x, t = floats(x), floats(target)
    if log_target:
        loss = e.exp(t) * (t - x)
    else:
        none = t == 0
        loss = e.where(none, 0.0, t * e.log(e.where(none, 1.0, t))) - t * x
    if reduction == "batchmean":
        return r.sum(loss) / (x.shape[0] if x.ndim else 1)
    return reduced(loss, reduction)


@one_node
@rounded_once
def soft_margin_loss(x: Operand, target: Operand, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-target x)) for targets of 1 and -1."""
    check_target("soft_margin_loss", x, target)
    return reduced(softplus(-as_tensor(target) * floats(x)), reduction)


@rounded_once
def multilabel_soft_margin_loss(
    x: Operand, target: Operand, weight: Operand | None = None, reduction: str = "mean"
) -> Tensor:
    """Binary cross entropy of each of the C classes, averaged over them: x[N, C], target[N, C] of
    0 and 1."""
    check_target("multilabel_soft_margin_loss", x, target)
    x, t = floats(x), as_tensor(target)
    loss = -(t * logsigmoid(x) + (1 - t) * logsigmoid(-x))
    return reduced(r.mean(_weighted(loss, weight), -1), reduction)


# ---- losses of margins


def _positive(x: Tensor) -> Tensor:
    return e.maximum(x, 0.0)


@rounded_once
def cosine_embedding_loss(
    x1: Operand, x2: Operand, target: Operand, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cos(x1, x2) where the target is 1, max(0, cos - margin) where it is -1; x1[N, D] and
    x2[N, D] with target[N], or [D] with []."""
    a, b, t = floats(x1), floats(x2), as_tensor(target)
    if a.ndim != t.ndim + 1 or b.ndim != t.ndim + 1:
        raise ShapeError(
            f"cosine_embedding_loss: target {t._type} for {a._type} and {b._type}",
            fix="the target has the shape of x1 without the last dim",
        )
    first, second = (x / e.hypot(r.norm(x, -1, keepdims=True), 1e-6) for x in (a, b))
    cosine = r.sum(first * second, -1)
    alike, apart = t == 1, t == -1
    loss = e.where(alike, 1 - cosine, 0.0) + e.where(apart, _positive(cosine - margin), 0.0)
    return reduced(loss, reduction)


@rounded_once
def margin_ranking_loss(
    x1: Operand, x2: Operand, target: Operand, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(0, -target (x1 - x2) + margin): a target of 1 wants x1 larger, one of -1 smaller."""
    check_target("margin_ranking_loss", x1, x2)
    away = floats(x1) - as_tensor(x2)
    return reduced(_positive(margin - as_tensor(target) * away), reduction)


@rounded_once
def hinge_embedding_loss(
    x: Operand, target: Operand, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1."""
    check_target("hinge_embedding_loss", x, target)
    x, t = floats(x), as_tensor(target)
    loss = e.where(t != 1, _positive(margin - x), 0.0) + e.where(t != -1, x, 0.0)
    return reduced(loss, reduction)


@rounded_once
def triplet_margin_loss(
    anchor: Operand,
    positive: Operand,
    negative: Operand,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """max(0, |anchor - positive| - |anchor - negative| + margin) by p-norms along the last dim;
    with `swap` the nearer of anchor and positive to the negative counts."""

    above("triplet_margin_loss", 0, margin=margin)

    def distance(x: Operand, y: Operand) -> Tensor:
        return pairwise_distance(x, y, p, eps)

    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=distance,
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


@rounded_once
def triplet_margin_with_distance_loss(
    anchor: Operand,
    positive: Operand,
    negative: Operand,
    *,
    distance_function: Callable[[Any, Any], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` by any distance of two tensors."""
    above("triplet_margin_with_distance_loss", 0, margin=margin)
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = e.minimum(far, distance(positive, negative))
    return reduced(_positive(margin + near - far), reduction)


@rounded_once
def multi_margin_loss(
    x: Operand,
    target: Operand,
    p: int = 1,
    margin: float = 1.0,
    weight: Operand | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Σ max(0, margin - x[target] + x[c])^p / C over the other classes c, times weight[target]:
    x[N, C] with integer target[N], or [C] with []."""
    if p not in (1, 2):
        raise RungError(f"multi_margin_loss: p={p}", fix="give 1 or 2")
    x, t = floats(x), as_tensor(target)
    x = reshape(x, (1,)) if x.ndim == 0 else x
    t = reshape(t, ()) if x.ndim == 1 and t.size == 1 else t
    check_labels("multi_margin_loss", x, x.ndim - 1, t, weight)
    t = checked("multi_margin_loss: label", t, 0, x.shape[-1] - 1, unit="classes", given=target)
    at = expand_dims(t, -1)
    chosen = held_along(x, at, -1)
    excess = _positive(margin - chosen + x)
    excess = excess if p == 1 else e.square(excess)
    if weight is not None:
        excess = excess * expand_dims(held_take(as_tensor(weight), t, 0), -1)
    others = arange(x.shape[-1]) != at
    return reduced(r.sum(e.where(others, excess, 0.0), -1) / x.shape[-1], reduction)


@rounded_once
def multilabel_margin_loss(x: Operand, target: Operand, reduction: str = "mean") -> Tensor:
    """Σ max(0, 1 - x[t] + x[c]) / C over the classes t of the target and all other classes c.

    x[N, C] with integer target[N, C] (or both [C]), of which the classes before the first negative
    number count."""
    x, t = floats(x), as_tensor(target)
    if x.ndim == 0:
        x, t = reshape(x, (1,)), reshape(t, (1,))
    if t.shape != x.shape:
        raise ShapeError(
            f"multilabel_margin_loss: x {x._type} with labels {t._type}",
            fix="labels have the shape of x",
        )
    what = "multilabel_margin_loss: label"
    t = checked(what, t, -1, x.shape[-1] - 1, unit="classes", given=target)
    counts = r.cumulative_sum((t < 0).astype("i32"), -1) == 0
    chosen = held_along(x, e.maximum(t, 0), -1)
    hits = (expand_dims(t, -1) == arange(x.shape[-1])) & expand_dims(counts, -1)
    others = ~r.any(hits, -2, keepdims=True) & expand_dims(counts, -1)
    excess = _positive(1 - expand_dims(chosen, -1) + expand_dims(x, -2))
    total = r.sum(e.where(others, excess, 0.0), (-2, -1))
    return reduced(total / x.shape[-1], reduction)
