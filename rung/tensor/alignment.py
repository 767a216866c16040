"""Connectionist temporal classification: labels without their places in time.

Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification: labelling
unsegmented sequence data with recurrent neural networks", 2006.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.errors import DTypeError, ShapeError
from rung.tensor import elementwise as e
from rung.tensor.checks import checked
from rung.tensor.control import scan
from rung.tensor.creation import arange, full, full_like
from rung.tensor.functional import reduced
from rung.tensor.operate import Operand, as_tensor
from rung.tensor.precision import rounded_once
from rung.tensor.reductions import cumulative_sum
from rung.tensor.shapes import concat, expand_dims, stack
from rung.tensor.sorting import held_along, take, take_along_axis

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

_NEVER = -1e30
"""The logarithm that stands for probability 0: finite, so that its derivative is."""


@rounded_once
def ctc_loss(
    log_probs: Operand,
    targets: Operand,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of all alignments of `targets` with `log_probs`.

    `log_probs` floats [T, N, C] (logarithms of probabilities over C classes, at T times), or [T, C]
    for one sequence; integer `targets` [N, S] (padded) or all of them one after the other [sum of
    lengths]; lengths are integers [N], at most T and S. "mean" divides each loss by the length of
    its target. A target that no alignment gives has loss inf, or 0 with `zero_infinity`. Raises
    ShapeError and DTypeError for operands that do not fit."""
    x, labels = as_tensor(log_probs), as_tensor(targets)
    single = x.ndim == 2
    if single:
        x = expand_dims(x, axis=1)
    times = as_tensor(input_lengths).reshape(-1)
    sizes = as_tensor(target_lengths).reshape(-1)
    _check(x, labels, times, sizes, blank)
    if labels.ndim == 1 and not single:
        labels = _padded(labels, sizes, _longest(target_lengths, labels.shape[0]))
    losses = _losses(x, labels.reshape(x.shape[1], -1), times, sizes, blank)
    possible = losses < -_NEVER / 2
    losses = e.where(possible, losses, 0.0 if zero_infinity else float("inf"))
    if reduction == "mean":
        losses = losses / e.maximum(sizes, 1).astype(x.dtype)
    return reduced(losses[0] if single else losses, reduction)


def _losses(x: Tensor, labels: Tensor, times: Tensor, sizes: Tensor, blank: int) -> Tensor:
    """The losses [N], by the forward recursion over labels with a blank before, between and behind
    them: a[t, s] is the log of the probability of all that ends at s at time t."""
    batch, count = labels.shape
    times = checked("ctc_loss: input length", times, 0, x.shape[0], unit="")
    sizes = checked("ctc_loss: target length", sizes, 0, count, unit="")
    labels = e.where(arange(count) < expand_dims(sizes, -1), labels, blank).astype(labels.dtype)
    labels = checked("ctc_loss: label", labels, 0, x.shape[2] - 1, unit="classes")
    pairs = stack([full_like(labels, blank), labels], axis=2).reshape(batch, 2 * count)
    states = concat([pairs, full((batch, 1), blank, dtype=labels.dtype)], axis=1)
    scores = take_along_axis(x, expand_dims(states, axis=0).expand(x.shape[0], -1, -1), axis=2)
    place = arange(states.shape[1])
    may_skip = (place >= 2) & (states != blank) & (states != _shifted(states, 2, blank))
    start = e.where((place < 2) & (place <= 2 * sizes.reshape(-1, 1)), scores[0], _NEVER)

    def step(a: Tensor, given: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        score, time = given
        one, two = (_shifted(a, k, _NEVER) for k in (1, 2))
        two = e.where(may_skip, two, _NEVER)
        most = e.maximum(e.maximum(a, one), two)
        total = e.exp(a - most) + e.exp(one - most) + e.exp(two - most)
        after = e.maximum(most + e.log(total) + score, _NEVER)
        return e.where(time < times.reshape(-1, 1), after, a), None

    steps = arange(1, x.shape[0])
    last, _ = scan(step, start, (scores[1:], steps))
    ends = stack([2 * sizes, e.maximum(2 * sizes - 1, 0)], axis=1)
    final = held_along(last, ends, 1)
    label = e.where(sizes > 0, final[:, 1], _NEVER)
    return -e.logaddexp(final[:, 0], label)


def _shifted(x: Tensor, by: int, fill: float) -> Tensor:
    """x[N, L] moved on along L, `fill` where nothing comes from."""
    if x.shape[1] <= by:
        return full_like(x, fill)
    return concat([full_like(x[:, :by], fill), x[:, :-by]], axis=1)


def _padded(labels: Tensor, sizes: Tensor, longest: int) -> Tensor:
    """[N, longest] of labels that stand one after the other."""
    first = cumulative_sum(sizes) - sizes
    place = e.clip(first.reshape(-1, 1) + arange(longest), 0, max(labels.shape[0] - 1, 0))
    if not labels.shape[0]:
        return labels.reshape(1, 0).expand(sizes.shape[0], 0)
    return take(labels, place.reshape(-1)).reshape(sizes.shape[0], longest)


def _longest(lengths: Any, total: int) -> int:
    """The longest target where that is known without computing anything."""
    if isinstance(lengths, tuple | list | np.ndarray):
        return int(np.max(lengths, initial=0))
    return total


def _check(x: Tensor, labels: Tensor, times: Tensor, sizes: Tensor, blank: int) -> None:
    if not x.dtype.is_float or not all(t.dtype.is_integer for t in (labels, times, sizes)):
        raise DTypeError(
            f"ctc_loss: log_probs are {x.dtype.name}, targets {labels.dtype.name}, lengths "
            f"{times.dtype.name} and {sizes.dtype.name}",
            fix="log_probs are floats, the others integers",
        )
    if x.ndim != 3 or not x.shape[0]:
        raise ShapeError(
            f"ctc_loss: log_probs are {list(x.shape)}", fix="[T, N, C] with T > 0, or [T, C]"
        )
    n = x.shape[1]
    if times.shape[0] != n or sizes.shape[0] != n or (labels.ndim == 2 and labels.shape[0] != n):
        raise ShapeError(
            f"ctc_loss: {n} sequences with targets {list(labels.shape)}, {times.shape[0]} input "
            f"lengths and {sizes.shape[0]} target lengths",
            fix="give one of each for a sequence",
        )
    if not 0 <= blank < x.shape[2]:
        raise ShapeError(f"ctc_loss: blank {blank} of {x.shape[2]} classes")
