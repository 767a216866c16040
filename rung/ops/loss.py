"""Losses, as composites. 16-bit floats are computed in f32."""

from __future__ import annotations

from typing import Final

from rung.core import dtype as dt
from rung.core.errors import DTypeError, RungError, ShapeError
from rung.ir.node import Value
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.composite import Call, composite_with_jvp, composite_with_kernel
from rung.ops.eager import functions as kernels
from rung.ops.eager.elementwise import Kernel
from rung.ops.elementwise import (
    divide,
    equal,
    maximum,
    multiply,
    negative,
    plus,
    subtract,
    where,
)
from rung.ops.families import add
from rung.ops.shorthand import (
    along,
    as_type,
    averaged,
    counting,
    number,
    require_float,
    require_shape,
    times,
    wide,
)
from rung.ops.softmax import log_sum_exp
from rung.ops.transcendental import log, log1p


def _cross_entropy_rule(call: Call) -> Kernel | None:
    """For losses without weights of classes and smoothing."""
    if "class_weights" in call.names or call.number("label_smoothing"):
        return None
    (logits, targets), ignored = call.types, call.whole("ignore_index")
    skipped = ignored if dt.fits(ignored, targets.dtype) else None
    dim = 0 if logits.rank == 1 else 1
    return kernels.cross_entropy(logits, dim, skipped, str(call.static["reduction"]))


@composite_with_kernel(_cross_entropy_rule)
def cross_entropy(
    logits: Value,
    targets: Value,
    class_weights: Value | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Value:
    """-log(softmax(logits)[target]), in f32 for 16-bit logits.

    `logits` are [N, C, …] or [C], the integer `targets` [N, …] or []; C classes. `class_weights[C]`
    weigh each target's loss. Targets equal to `ignore_index` count nothing. `label_smoothing` puts
    that part of the target evenly over all classes. `reduction` is `mean` (over the weights of the
    targets that count; NaN if there are none), `sum` or `none`. A target that is no class picks no
    logit: its loss is the logsumexp.

    The target's logit is picked by comparison, not by a gather, so that forward and backward are
    one pass over each row and nothing is scattered."""
    dim = _check_cross_entropy(logits, targets, class_weights, label_smoothing, reduction)
    w = wide(logits)
    total = log_sum_exp(w, dim)
    hit = _is_target(targets, w, dim)
    zero = number(0, w)
    loss = subtract(total, reduce_sum(where(hit, w, zero), dims=(dim,)))
    weight = number(1, total)
    by_class = None if class_weights is None else along(wide(class_weights), dim, w.shape)
    if by_class is not None:
        weight = reduce_sum(where(hit, as_type(by_class, w.dtype), zero), dims=(dim,))
        loss = multiply(loss, weight)
    if label_smoothing:
        even = _even_loss(w, total, by_class, dim)
        loss = add(times(loss, 1 - label_smoothing), times(even, label_smoothing))
    if dt.fits(ignore_index, targets.dtype):
        ignored = equal(targets, number(ignore_index, targets))
        loss = where(ignored, number(0, loss), loss)
        weight = where(ignored, number(0, weight), weight)
    return _reduced(loss, weight, reduction)


def _check_cross_entropy(
    logits: Value, targets: Value, weights: Value | None, label_smoothing: float, reduction: str
) -> int:
    """The dim of the classes."""
    require_float("cross_entropy", "logits", logits)
    if not targets.dtype.is_integer:
        raise DTypeError(
            f"cross_entropy: targets {targets.type} are not integers",
            fix="give the class numbers as i64 or i32",
        )
    if logits.type.rank == 0:
        raise ShapeError(f"cross_entropy: logits {logits.type} have no classes", fix="give [N, C]")
    dim = 0 if logits.type.rank == 1 else 1
    expected = logits.shape[:dim] + logits.shape[dim + 1 :]
    if targets.shape != expected:
        raise ShapeError(
            f"cross_entropy: logits {logits.type} with targets {targets.type}",
            fix=f"targets must have shape {list(expected)}: logits without the classes (dim {dim})",
        )
    require_shape("cross_entropy", "class_weights", weights, (logits.shape[dim],))
    if not 0.0 <= label_smoothing <= 1.0:
        raise RungError(f"cross_entropy: label_smoothing={label_smoothing}", fix="from 0 to 1")
    if reduction not in ("mean", "sum", "none"):
        raise RungError(f"cross_entropy: reduction={reduction!r}", fix='"mean", "sum" or "none"')
    return dim


def _is_target(targets: Value, w: Value, dim: int) -> Value:
    """Where the class along `dim` is the target."""
    classes = counting(w.shape, dim, dt.int32)
    return equal(classes, spread(as_type(targets, dt.int32), (dim,), w.shape))


def _even_loss(w: Value, total: Value, by_class: Value | None, dim: int) -> Value:
    """The mean over classes of the (weighted) loss of each."""
    losses = subtract(spread(total, (dim,), w.shape), w)
    if by_class is not None:
        losses = multiply(losses, as_type(by_class, w.dtype))
    return averaged(losses, (dim,))


_LEAST_LOG: Final = -100.0
_LEAST_VARIANCE: Final = 1e-12


def _binary_jvp(p: Value, target: Value, loss: Value, dp: Value, dt: Value) -> Value:
    w, t = wide(p), wide(target)
    one = number(1, w)
    variance = maximum(multiply(w, subtract(one, w)), number(_LEAST_VARIANCE, w))
    by_p = multiply(wide(dp), divide(subtract(w, t), variance))
    yes, no = _held_logs(w)
    return as_type(add(by_p, multiply(wide(dt), subtract(no, yes))), p.dtype)


def _held_logs(w: Value) -> tuple[Value, Value]:
    """log(w) and log(1 - w), at least -100; the slope at the end is 0, not infinite."""
    zero, one, least = number(0, w), number(1, w), number(_LEAST_LOG, w)
    none, all_ = equal(w, zero), equal(w, one)
    yes = maximum(log(where(none, one, w)), least)
    no = maximum(log1p(negative(where(all_, zero, w))), least)
    return where(none, least, yes), where(all_, least, no)


@composite_with_jvp(_binary_jvp)
def binary_cross_entropy(p: Value, target: Value) -> Value:
    """-target log(p) - (1 - target) log(1 - p) of each probability; a logarithm counts as at least
    -100. The derivative by p is (p - target) / max(p (1 - p), 1e-12): finite at 0 and 1, as PyTorch
    has it."""
    require_float("binary_cross_entropy", "p", p)
    t = wide(target)
    yes, no = _held_logs(wide(p))
    loss = subtract(multiply(plus(t, -1.0), no), multiply(t, yes))
    return as_type(loss, p.dtype)


def _reduced(loss: Value, weight: Value, reduction: str) -> Value:
    if reduction == "none":
        return loss
    dims = tuple(range(loss.type.rank))
    total = reduce_sum(loss, dims=dims) if dims else loss
    if reduction == "sum":
        return total
    return divide(total, reduce_sum(weight, dims=dims) if dims else weight)
