"""Functions of neural networks: activations, norms, losses, attention, convolution, pooling.

Signatures follow `torch.nn.functional`. Shapes: N batch, C channels, T and S positions, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import above, between
from rung.core.errors import ArgumentError, RungError, ShapeError
from rung.ir.node import Value
from rung.ops import activation as a
from rung.ops import attention as _attention
from rung.ops import linear as _linear
from rung.ops import loss as _loss
from rung.ops import normalization as n
from rung.ops import pooling as _pooling
from rung.ops import softmax as s
from rung.ops.convolution import convolve, convolve_transposed
from rung.ops.dropout import dropout as _dropout
from rung.tensor import elementwise as e
from rung.tensor import reductions
from rung.tensor.checks import check_labels, check_target, checked, table_row
from rung.tensor.composed import one_node
from rung.tensor.creation import one_hot as one_hot
from rung.tensor.linalg import vector_norm
from rung.tensor.operate import Operand, as_tensor, cast_to, one_axis, torch_names
from rung.tensor.precision import rounded_once
from rung.tensor.random import Source, draw_key
from rung.tensor.shapes import broadcast_shapes, broadcast_to
from rung.tensor.sorting import checked_index, held_along, held_take
from rung.tensor.state import TensorState, apply, apply_many

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Shape = Sequence[int]


def floats(x: Operand) -> Tensor:
    """x as a tensor of floats: f32 where it is none."""
    x = as_tensor(x)
    return x if x.dtype.is_float else cast_to(x, dt.float32)


def _alike(*operands: Operand | None, needed: Sequence[str] = ("x",)) -> list[Tensor | None]:
    """The operands that are given, in their common float dtype. The first ones, whose names are
    `needed`, must be."""
    for name, x in zip(needed, operands, strict=False):
        if x is None:
            raise ArgumentError(f"{name} is None", fix="give a tensor")
    tensors = [None if x is None else floats(x) for x in operands]
    dtypes = [t.dtype for t in tensors if t is not None]
    common = dtypes[0]
    for d in dtypes[1:]:
        common = dt.promote(common, d)
    return [None if t is None else cast_to(t, common) for t in tensors]


def _call(build: Callable[..., Any], *operands: Tensor | None, many: bool = False) -> Any:
    """`build` of the values of the operands, None where one is left out."""
    given = [x for x in operands if x is not None]

    def with_gaps(*values: Value) -> Any:
        following = iter(values)
        return build(*[None if x is None else next(following) for x in operands])

    return apply_many(with_gaps, *given) if many else apply(with_gaps, *given)


# ---- activations


def relu(x: Operand) -> Tensor:
    """x where it is positive, else 0."""
    return apply(a.relu, as_tensor(x))


def leaky_relu(x: Operand, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, else negative_slope * x."""
    return apply(lambda v: a.leaky_relu(v, slope=negative_slope), floats(x))


def elu(x: Operand, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    return apply(lambda v: a.elu(v, alpha=alpha), floats(x))


def sigmoid(x: Operand) -> Tensor:
    """1 / (1 + exp(-x))."""
    return apply(a.sigmoid, floats(x))


def logsigmoid(x: Operand) -> Tensor:
    """log(sigmoid(x))."""
    return apply(a.log_sigmoid, floats(x))


@rounded_once
def softplus(x: Operand, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above `threshold`, if that is less
    than 20 (above 20 the two agree to 1e-10)."""
    x = floats(x)
    found = apply(lambda v: a.softplus(v, beta=float(beta)), x)
    return found if threshold >= 20 else e.where(x * beta > threshold, x, found)


def silu(x: Operand) -> Tensor:
    """x * sigmoid(x)."""
    return apply(a.silu, floats(x))


def mish(x: Operand) -> Tensor:
    """x * tanh(softplus(x))."""
    return apply(a.mish, floats(x))


def gelu(x: Operand, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x; `approximate="tanh"`: GPT-2's form."""
    return apply(lambda v: a.gelu(v, approximate=approximate), floats(x))


def hardsigmoid(x: Operand) -> Tensor:
    """x / 6 + 1/2 held within [0, 1]."""
    return apply(a.hard_sigmoid, floats(x))


def hardswish(x: Operand) -> Tensor:
    """x * hardsigmoid(x)."""
    return apply(a.hard_swish, floats(x))


def tanh(x: Operand) -> Tensor:
    """Hyperbolic tangent."""
    return e.tanh(x)


@rounded_once
def glu(x: Operand, axis: int = -1) -> Tensor:
    """The first half of x along `axis` times the sigmoid of the second."""
    x = floats(x)
    dim = one_axis("glu", axis, x.ndim)
    if x.shape[dim] % 2 or not x.shape[dim]:
        raise ShapeError(f"glu: dim {dim} of x {x._type} has no halves", fix="an even length")
    first, second = x.chunk(2, dim)
    return first * sigmoid(second)


@torch_names
def softmax(x: Operand, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`."""
    x = floats(x)
    if x.ndim == 0:
        return softmax(x.reshape(1), axis).reshape(())
    dim = one_axis("softmax", axis, x.ndim)
    return apply(lambda v: s.softmax(v, dim=dim), x)


@torch_names
def log_softmax(x: Operand, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`."""
    x = floats(x)
    if x.ndim == 0:
        return log_softmax(x.reshape(1), axis).reshape(())
    dim = one_axis("log_softmax", axis, x.ndim)
    if not x.size:
        return x
    return apply(lambda v: s.log_softmax(v, dim=dim), x)


# ---- affine maps, look-ups, norms


def linear(x: Operand, weight: Operand, bias: Operand | None = None) -> Tensor:
    """x[…, I] times the transposed weight[O, I], plus bias[O]."""
    return _call(_linear.linear, *_alike(x, weight, bias, needed=("x", "weight")))


@rounded_once
def bilinear(x1: Operand, x2: Operand, weight: Operand, bias: Operand | None = None) -> Tensor:
    """Σ x1[…, i] weight[o, i, j] x2[…, j] plus bias[o], […, O]."""
    a, b, w, shift = _alike(x1, x2, weight, bias, needed=("x1", "x2", "weight"))
    assert a is not None and b is not None and w is not None
    fits = a.ndim and b.ndim and a.shape[:-1] == b.shape[:-1]
    if not fits or w.ndim != 3 or w.shape[1:] != (a.shape[-1], b.shape[-1]):
        raise ShapeError(
            f"bilinear: x1 {a._type}, x2 {b._type} with weight {w._type}",
            fix="x1 is […, I], x2 […, J], weight [O, I, J]",
        )
    outputs, first, second = w.shape
    pairs = a.expand_dims(-1) * b.expand_dims(-2)
    flat = pairs.reshape(*a.shape[:-1], first * second)
    return linear(flat, w.reshape(outputs, first * second), shift)


def embedding(x: Operand, weight: Operand, padding_idx: int | None = None) -> Tensor:
    """The rows of weight[V, D] at the positions x[…]; no gradient goes to row `padding_idx`."""
    table = as_tensor(weight)
    index = checked_index("embedding", x, table.shape[0] if table.ndim else 0)
    rows = apply(_linear.embedding, table, index)
    row = table_row("embedding", padding_idx, table.shape[0])
    if row is None:
        return rows
    return e.where((index == row).expand_dims(-1), rows.detach(), rows)


def _num_dims(name: str, x: Tensor, normalized_shape: int | Shape) -> int:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(
            f"{name}: normalized_shape {list(shape)} is not the end of {x._type}",
            fix="give the lengths of the last dims",
        )
    return len(shape)


def layer_norm(
    x: Operand,
    normalized_shape: int | Shape,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dims `normalized_shape`."""
    given = _alike(x, weight, bias)
    dims = _num_dims("layer_norm", given[0], normalized_shape)  # type: ignore[arg-type]
    return _call(lambda *v: n.layer_norm(*v, num_dims=dims, eps=eps), *given)


def rms_norm(
    x: Operand, normalized_shape: int | Shape, weight: Operand | None = None, eps: float = 1e-6
) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dims `normalized_shape`."""
    given = _alike(x, weight)
    dims = _num_dims("rms_norm", given[0], normalized_shape)  # type: ignore[arg-type]
    return _call(lambda *v: n.rms_norm(*v, num_dims=dims, eps=eps), *given)


def group_norm(
    x: Operand,
    num_groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x[N, C, …] standardized within groups of channels, times weight[C], plus bias[C]."""
    return _call(
        lambda *v: n.group_norm(*v, num_groups=num_groups, eps=eps), *_alike(x, weight, bias)
    )


def batch_norm(
    x: Operand,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """x[N, C, …] standardized for each channel, times weight[C], plus bias[C].

    In training by the statistics of x, which are mixed into the running ones (the variance
    unbiased, as in PyTorch) with weight `momentum`; else by the running ones."""
    if not training and running_mean is not None and running_var is not None:
        given = _alike(x, running_mean, running_var, weight, bias)
        return _call(lambda *v: n.batch_norm_inference(*v, eps=eps), *given)
    if momentum is None and (running_mean is not None or running_var is not None):
        raise ArgumentError("batch_norm: momentum is None", fix="give a number")
    data, scale, shift = _alike(x, weight, bias)
    assert data is not None
    y, mean, variance = _call(
        lambda *v: n.batch_norm(*v, eps=eps), data, scale, shift, many=True
    )
    count = data.size // max(data.shape[1], 1)
    if momentum is not None and running_mean is not None:
        running_mean.assign(running_mean * (1 - momentum) + mean.detach() * momentum)
    if momentum is not None and running_var is not None:
        unbiased = variance.detach() * (count / max(count - 1, 1))
        running_var.assign(running_var * (1 - momentum) + unbiased * momentum)
    return y


def instance_norm(
    x: Operand,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """x[N, C, …] standardized for each channel of each example, times weight[C], plus bias[C]; by
    the running statistics unless `use_input_stats`, else the means of the examples' are mixed into
    them with weight `momentum`."""
    x = floats(x)
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    if x.ndim < 2:
        raise ShapeError(f"instance_norm: x is {x._type}", fix="x must be [N, C, …]")
    axes = tuple(range(2, x.ndim))
    if running_mean is not None:
        mean = reductions.mean(reductions.mean(x.detach(), axes), 0)
        running_mean.assign(running_mean + (mean - running_mean) * momentum)
    if running_var is not None:
        variance = reductions.mean(reductions.var(x.detach(), axes, correction=1), 0)
        running_var.assign(running_var + (variance - running_var) * momentum)
    return group_norm(x, x.shape[1], weight, bias, eps)


@rounded_once
def normalize(x: Operand, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x divided by its p-norm along `dim` (at least eps)."""
    x = floats(x)
    return x / e.maximum(vector_norm(x, dim, keepdims=True, ord=p), eps)


def dropout(x: Operand, p: float = 0.5, training: bool = True, key: Source = None) -> Tensor:
    """x with each element 0 with probability p, else divided by 1 - p; x when not training."""
    x = floats(x)
    if not 0 <= p <= 1:
        raise RungError(f"dropout: p={p}", fix="give a probability from 0 to 1")
    if not training or p == 0:
        return x
    return apply(lambda v, k: _dropout(v, k, rate=float(p)), x, draw_key(key))


# ---- attention


def attention(
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    key: Source = None,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v for q[…, heads, T, D], k[…, kv_heads, S, D] and
    v[…, kv_heads, S, E].

    heads must be a multiple of kv_heads. `mask` broadcasts to […, heads, T, S]: bool (true = may
    look) or float (added). With `causal`, query i sees the keys up to i + S - T; the others are not
    computed, so that NaN in them does not matter. `scale` is 1/sqrt(D) unless given. A query
    without a key gives 0."""
    query, keys, values = _alike(q, k, v, needed=("q", "k", "v"))
    bias = None if mask is None else as_tensor(mask)
    drawn = draw_key(key) if dropout > 0 else None
    return _call(
        lambda *x: _attention.attention(
            *x, causal=causal, scale=scale, dropout=float(dropout)
        ),
        query, keys, values, bias, drawn,
    )  # fmt: skip


def scaled_dot_product_attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
) -> Tensor:
    """`attention` under PyTorch's name and with its arguments; with `is_causal` query i sees the
    keys up to i, also where there are more or fewer keys than queries."""
    x, others = as_tensor(query), as_tensor(key)
    if x.ndim != others.ndim:
        lead = broadcast_shapes(x.shape[:-2], others.shape[:-2])
        query, key, value = (
            broadcast_to(t, (*lead, *t.shape[-2:])) for t in map(as_tensor, (query, key, value))
        )
    if is_causal and x.shape[-2] != others.shape[-2]:
        attn_mask, is_causal = _lower_triangle(x.shape[-2], others.shape[-2]), False
    return attention(
        query, key, value, attn_mask, causal=is_causal, scale=scale, dropout=dropout_p
    )


def _lower_triangle(rows: int, columns: int) -> Tensor:
    return e.less_equal(as_tensor(np.arange(columns)), as_tensor(np.arange(rows)[:, None]))


# ---- losses


def cross_entropy(
    logits: Operand,
    target: Operand,
    weight: Operand | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log(softmax(logits)[target]) for logits[N, C, …] (or [C]) and integer target[N, …], or
    -Σ target log(softmax(logits)) over the classes for probabilities, target[N, C, …]."""
    between("cross_entropy", 0, 1, label_smoothing=label_smoothing)
    given, labels = floats(logits), as_tensor(target)
    if labels.dtype.is_float and labels.shape == given.shape and given.ndim:
        return _cross_entropy_of_probabilities(given, labels, weight, reduction, label_smoothing)
    labels = _labels("cross_entropy", target, given, ignore_index)
    scale = None if weight is None else cast_to(floats(weight), dt.accumulator(given.dtype))
    return _call(
        lambda *v: _loss.cross_entropy(
            *v,
            ignore_index=ignore_index,
            label_smoothing=float(label_smoothing),
            reduction=reduction,
        ),
        given, labels, scale,
    )  # fmt: skip


@rounded_once
def _cross_entropy_of_probabilities(
    logits: Tensor, target: Tensor, weight: Operand | None, reduction: str, smoothing: float
) -> Tensor:
    dim = min(1, logits.ndim - 1)
    count = logits.shape[dim]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / max(count, 1)
    terms = -target * log_softmax(logits, dim)
    if weight is not None:
        terms = terms * as_tensor(weight).reshape(count, *(1,) * (logits.ndim - dim - 1))
    return reduced(reductions.sum(terms, dim), reduction)


def _labels(name: str, target: Operand, logits: Tensor, ignored: int) -> Tensor:
    """Numbers of classes, or `ignored`. Raises IndexingError."""
    labels = as_tensor(target)
    if not labels.dtype.is_integer or not logits.ndim:
        return labels
    count = logits.shape[min(1, logits.ndim - 1)]
    what = f"{name}: label"
    return checked(what, labels, 0, count - 1, unit="classes", ignored=ignored, given=target)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The mean or sum of a loss, or itself. Raises RungError for another `reduction`."""
    if reduction == "mean":
        return reductions.mean(loss)
    if reduction == "sum":
        return reductions.sum(loss)
    if reduction != "none":
        raise RungError(f"reduction={reduction!r}", fix='give "mean", "sum" or "none"')
    return loss


@rounded_once
def nll_loss(
    log_probabilities: Operand,
    target: Operand,
    weight: Operand | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-log_probabilities[target] for [N, C, …] (or [C]) and integer target[N, …], times
    weight[target]; targets equal to `ignore_index` count nothing."""
    x = floats(log_probabilities)
    labels = _labels("nll_loss", target, x, ignore_index)
    check_labels("nll_loss", x, min(1, x.ndim - 1), labels, weight)
    dim = min(1, x.ndim - 1)
    counts = labels != ignore_index
    at = e.where(counts, labels, 0)
    picked = e.where(counts, held_along(x, at.expand_dims(dim), dim).squeeze(dim), 0.0)
    factor = counts.astype(x.dtype)
    if weight is not None:
        factor = held_take(as_tensor(weight), at, 0) * counts
    loss = -picked * factor
    if reduction == "mean":
        return reductions.sum(loss) / reductions.sum(factor)
    return reduced(loss, reduction)


@one_node
@rounded_once
def mse_loss(x: Operand, target: Operand, reduction: str = "mean") -> Tensor:
    """Squared difference."""
    check_target("mse_loss", x, target)
    return reduced(e.square(e.subtract(x, target)), reduction)


@one_node
@rounded_once
def l1_loss(x: Operand, target: Operand, reduction: str = "mean") -> Tensor:
    """Absolute difference."""
    check_target("l1_loss", x, target)
    return reduced(e.abs(e.subtract(x, target)), reduction)


@one_node
@rounded_once
def huber_loss(x: Operand, target: Operand, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Half the squared difference up to `delta`, linear beyond."""
    above("huber_loss", 0, delta=delta)
    check_target("huber_loss", x, target)
    away = floats(e.subtract(x, target))
    inner = e.clip(away, -delta, delta)
    return reduced(inner * (away - inner * 0.5), reduction)


@one_node
@rounded_once
def binary_cross_entropy_with_logits(
    logits: Operand,
    target: Operand,
    weight: Operand | None = None,
    reduction: str = "mean",
    pos_weight: Operand | None = None,
) -> Tensor:
    """-target log(sigmoid(logits)) - (1 - target) log(1 - sigmoid(logits)), times `weight`; the
    first term is multiplied by `pos_weight`."""
    check_target("binary_cross_entropy_with_logits", logits, target)
    x, t = floats(logits), as_tensor(target)
    if pos_weight is None:
        loss = softplus(x) - x * t
    else:
        loss = (1 - t) * x + (1 + (as_tensor(pos_weight) - 1) * t) * softplus(-x)
    return reduced(loss if weight is None else loss * as_tensor(weight), reduction)


# ---- convolution and pooling


def _conv(rank: int, x: Operand, weight: Operand, bias: Operand | None, **options: Any) -> Tensor:
    data, kernel, shift = _alike(x, weight, bias, needed=("x", "weight"))
    assert data is not None and kernel is not None
    single = data.ndim == rank + 1
    if single:
        data = data.expand_dims(0)
    if data.ndim != rank + 2:
        raise ShapeError(
            f"conv{rank}d: x is {data._type}", fix=f"x must be [N, C, {', '.join('DHW'[-rank:])}]"
        )
    y = _call(lambda *v: convolve(*v, **options), data, kernel, shift)
    return y.squeeze(0) if single else y


def _options(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def conv1d(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of x[N, C, T] with weight[O, C / groups, K], plus bias[O]."""
    return _conv(1, x, weight, bias, **_options(stride, padding, dilation, groups))


def conv2d(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of x[N, C, H, W] with weight[O, C / groups, K, L], plus bias[O]."""
    return _conv(2, x, weight, bias, **_options(stride, padding, dilation, groups))


def conv3d(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of x[N, C, D, H, W] with weight[O, C / groups, J, K, L], plus bias[O]."""
    return _conv(3, x, weight, bias, **_options(stride, padding, dilation, groups))


def conv_transpose2d(
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    output_padding: int | Shape = 0,
    groups: int = 1,
    dilation: int | Shape = 1,
) -> Tensor:
    """The transpose of `conv2d`: x[N, C, H, W] with weight[C, O / groups, K, L], plus bias[O]; also
    of 1 and 3 dims after the channels, and of one example without a batch."""
    options = _options(stride, padding, dilation, groups) | {"output_padding": output_padding}
    data, kernel, shift = _alike(x, weight, bias, needed=("x", "weight"))
    assert data is not None and kernel is not None
    single = data.ndim == kernel.ndim - 1
    if single:
        data = data.expand_dims(0)
    y = _call(lambda *v: convolve_transposed(*v, **options), data, kernel, shift)
    return y.squeeze(0) if single else y


conv_transpose1d = conv_transpose3d = conv_transpose2d


def max_pool2d(
    x: Operand,
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    dilation: int | Shape = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Maxima of windows over the dims of x[N, C, …] after the channels."""
    return apply(
        lambda v: _pooling.max_pool(
            v, kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        ),
        as_tensor(x),
    )


max_pool1d = max_pool2d


def global_avg_pool(x: Operand) -> Tensor:
    """The mean over all dims of x[N, C, …] after the channels: [N, C]."""
    x = floats(x)
    return reductions.mean(x, tuple(range(2, x.ndim)))


def is_tensor(x: object) -> bool:
    """Whether x is a tensor."""
    return isinstance(x, TensorState)
