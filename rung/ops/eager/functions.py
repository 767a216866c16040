"""Functions of rows as whole kernels: softmax and its relatives, normalizations, activations.

What has an exponential is computed in f64, block by block, and rounded once, which is right for
values of any size. Normalizations are computed as their bodies are; `exact` is the reference, for
rows whose sum of squares is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array, EagerKernel
from rung.ir.types import Shape, TensorType
from rung.ops.eager.blas import threaded
from rung.ops.eager.contraction import differs
from rung.ops.eager.elementwise import SMALL, Kernel
from rung.ops.eager.reduction import float_sum, ones
from rung.ops.eager.special import BLOCK, in_blocks, normal_into

_F64: Final = dt.float64.numpy
_AT_ONCE: Final = 8192
"""So many elements stay in the cache without blocks."""
_LEAST: Final = 1e-280
"""A sum of exponentials below this has lost terms: the maximum of the row is too far away."""
Types = Sequence[TensorType]
Exact = Callable[..., tuple[Array, ...]]


# ---- rows of exponentials


def _exponentials(x: Array, out: Array, finite_top: bool = False) -> tuple[Array, Any]:
    """exp(x - top) of rows x into `out` (f64), its sums [rows, 1], and top. One top serves for all
    rows of f32, unless they are too far apart. A top that is not finite can be made 0."""
    top: Any = x.max()
    np.subtract(x, top, out=out, dtype=_F64)
    np.exp(out, out=out)
    total = out.dot(ones(x.shape[1])).reshape(-1, 1)
    if x.itemsize == 4 and total.min() > _LEAST:
        return total, top
    top = x.max(1, keepdims=True)
    if finite_top:
        top = np.where(np.isfinite(top), top, top.dtype.type(0))
    np.subtract(x, top, out=out, dtype=_F64)
    np.exp(out, out=out)
    return out.dot(ones(x.shape[1])).reshape(-1, 1), top


def _softmax(x: Array, out: Array, work: Array) -> None:
    total, _ = _exponentials(x, work)
    work *= np.reciprocal(total)
    out[...] = work


def _masked_softmax(x: Array, out: Array, work: Array) -> None:
    """Rows of only -inf give 0."""
    total, top = _exponentials(x, work)
    work *= np.reciprocal(total)
    out[...] = work
    if np.ndim(top):
        out[(top == -np.inf).reshape(-1)] = 0


def _log_softmax(x: Array, out: Array, work: Array) -> None:
    total, top = _exponentials(x, work)
    np.subtract(x, top, out=work, dtype=_F64)
    np.subtract(work, np.log(total), out=out)


def _logsumexp(x: Array, out: Array, work: Array) -> None:
    total, top = _exponentials(x, work, finite_top=True)
    np.add(np.log(total), top, out=out)


def _few_softmax(w: Array, top: Array, dim: int) -> Array:
    w -= top
    np.exp(w, out=w)
    w /= np.add.reduce(w, dim, keepdims=True)
    return w


def _few_masked_softmax(w: Array, top: Array, dim: int) -> Array:
    found = _few_softmax(w, top, dim)
    np.copyto(found, 0, where=top == -np.inf)
    return found


def _few_log_softmax(w: Array, top: Array, dim: int) -> Array:
    w -= top
    w -= np.log(np.add.reduce(np.exp(w), dim, keepdims=True))
    return w


def _few_logsumexp(w: Array, top: Array, dim: int) -> Array:
    top = np.where(np.isfinite(top), top, 0.0)
    w -= top
    np.exp(w, out=w)
    total = np.log(np.add.reduce(w, dim, keepdims=True))
    total += top
    return total.reshape(w.shape[:dim] + w.shape[dim + 1 :])


def _by_rows(
    rows: Array, width: int, dtype: np.dtype[Any], body: Callable[[Array, Array, Array], None]
) -> Array:
    """A new array [rows, width] made by `body(out, rows, buffer)` of blocks of rows."""
    count, n = rows.shape
    step = max(BLOCK // n, 1)
    out: Array = np.empty((count, width), dtype)
    work = np.empty((min(step, count), n), _F64)
    for begin in range(0, count, step):
        end = min(begin + step, count)
        body(rows[begin:end], out[begin:end], work[: end - begin])
    return out


def _along(
    x: TensorType,
    dim: int,
    few: Callable[[Array, Array, int], Array],
    body: Callable[[Array, Array, Array], None],
    keeps: bool = True,
) -> Kernel | None:
    """The kernel of a function of the rows along `dim`; `keeps` its elements, or gives one. Of few
    elements, the whole is computed by `few`."""
    if x.dtype.bits < 32 or not x.size:
        return None
    n, dtype = x.shape[dim], x.dtype.numpy
    if x.size <= SMALL:

        def whole(x: Array) -> Array:
            wide = x.astype(_F64)
            return few(wide, np.maximum.reduce(wide, dim, keepdims=True), dim).astype(dtype)

        return whole
    order = (*range(dim), *range(dim + 1, x.rank), dim)
    back = (*range(dim), x.rank - 1, *range(dim, x.rank - 1))
    rest = x.shape[:dim] + x.shape[dim + 1 :]
    matrix, last = (x.size // n, n), dim == x.rank - 1

    def kernel(x: Array) -> Array:
        rows = (x if last else x.transpose(order)).reshape(matrix)
        out = _by_rows(rows, n if keeps else 1, dtype, body)
        if not keeps:
            return out.reshape(rest)
        return out.reshape(x.shape) if last else out.reshape(*rest, n).transpose(back)

    return kernel


def softmax(x: TensorType, dim: int) -> Kernel | None:
    """exp(x) / sum(exp(x)) along `dim`."""
    return _along(x, dim, _few_softmax, _softmax)


def masked_softmax(x: TensorType, dim: int) -> Kernel | None:
    """softmax of rows of which elements, or all, may be -inf."""
    return _along(x, dim, _few_masked_softmax, _masked_softmax)


def log_softmax(x: TensorType, dim: int) -> Kernel | None:
    """log(softmax(x)) along `dim`."""
    return _along(x, dim, _few_log_softmax, _log_softmax)


def logsumexp(x: TensorType, dim: int) -> Kernel | None:
    """log(sum(exp(x))) over `dim`."""
    return _along(x, dim, _few_logsumexp, _logsumexp, keeps=False)


def cross_entropy(
    logits: TensorType, dim: int, ignored: int | None, reduction: str
) -> Kernel | None:
    """-log(softmax(logits)[target]), without weights of classes or smoothing. A target that is no
    class picks nothing."""
    if logits.dtype.bits < 32 or not logits.size:
        return None
    n, dtype = logits.shape[dim], logits.dtype.numpy
    order = (*range(dim), *range(dim + 1, logits.rank), dim)
    rest = logits.shape[:dim] + logits.shape[dim + 1 :]
    count = prod(rest)
    rows_of = np.arange(count) if count <= 4096 else None

    def kernel(x: Array, target: Array) -> Array:
        rows, flat = x.transpose(order).reshape(count, n), target.reshape(-1)
        is_class = (flat >= 0) & (flat < n)
        places = np.arange(count) if rows_of is None else rows_of
        picked = np.where(is_class, rows[places, np.where(is_class, flat, 0)], dtype.type(0))
        loss = _by_rows(rows, 1, _F64, _logsumexp).reshape(count)
        loss -= picked
        counted = float(count)
        if ignored is not None:
            skipped = flat == ignored
            loss[skipped] = 0
            counted -= np.count_nonzero(skipped)
        if reduction == "none":
            return loss.astype(dtype).reshape(rest)
        total = loss.sum()
        return np.array(total if reduction == "sum" else total / np.float64(counted), dtype)

    return kernel


# ---- normalizations


def _mean(shape: Shape, dims: tuple[int, ...], dtype: np.dtype[Any]) -> Kernel:
    """The mean over `dims`, which stay as dims of one element."""
    kept = tuple(1 if d in dims else n for d, n in enumerate(shape))
    total = float_sum(shape, dims, tuple(n for d, n in enumerate(shape) if d not in dims))
    count = np.array(prod(shape[d] for d in dims), dtype)
    return lambda x: (total(x) / count).reshape(kept)


class Normalization:
    """x over the root of its mean square along `dims`; x, f32 or f64, has elements."""

    def __init__(self, x: TensorType, dims: tuple[int, ...], eps: float) -> None:
        dtype = x.dtype.numpy
        self.mean = _mean(x.shape, dims, dtype)
        self.eps = np.array(eps, dtype)
        self.kept = tuple(n for d, n in enumerate(x.shape) if d not in dims)

    def root(self, x: Array) -> Array | None:
        """1 / sqrt(mean(x²) + eps); None where squares overflow."""
        return self.inverse(self.mean(x * x))

    def inverse(self, square: Array) -> Array | None:
        """The inverse root of a mean of squares."""
        if not np.maximum.reduce(square, axis=None) < np.inf:
            return None
        return np.asarray(np.reciprocal(np.sqrt(square + self.eps)))


def _fits(x: TensorType) -> bool:
    return x.dtype.bits >= 32 and x.size > 0


def inverse_root(x: TensorType, dims: tuple[int, ...], eps: float, exact: Exact) -> Kernel | None:
    """1 / sqrt(mean(x²) + eps) over `dims`, which go."""
    if not _fits(x):
        return None
    norm = Normalization(x, dims, eps)

    def kernel(x: Array) -> Array:
        root = norm.root(x)
        return exact(x)[0] if root is None else root.reshape(norm.kept)

    return kernel


def normalized(
    x: TensorType, dims: tuple[int, ...], eps: float, exact: Exact, weighted: bool = False
) -> Kernel | None:
    """x / sqrt(mean(x²) + eps) over `dims`, times weight if that is given."""
    if not _fits(x):
        return None
    norm = Normalization(x, dims, eps)

    def kernel(x: Array, *weight: Array) -> Array:
        root = norm.root(x)
        if root is None:
            return exact(x, *weight)[0]
        y = x * root
        if weighted:
            y *= weight[0]
        return y

    if x.size > BLOCK and dims == tuple(range(x.rank - len(dims), x.rank)) and dims[0] > 0:
        return _some_rows_at_a_time(x, dims, lambda part, own: normalized(
            part, (1,), eps, own, weighted), exact)  # fmt: skip
    return kernel


class _Overflow(Exception):
    """Raised for rows that only the reference can compute."""


def _refuse(*operands: Array) -> tuple[Array, ...]:
    raise _Overflow


def _some_rows_at_a_time(
    x: TensorType,
    dims: tuple[int, ...],
    kernel_of: Callable[[TensorType, Exact], Kernel | None],
    exact: Exact,
) -> Kernel:
    """The kernel of a function of the rows along the last `dims`, some at a time, so that what is
    between stays in the cache. Vectors are along the rows."""
    shape, n = x.shape, prod(x.shape[d] for d in dims)
    rows, step = x.size // n, max(BLOCK // n, 1)
    full, last = (kernel_of(x.with_shape((k, n)), _refuse) for k in (step, rows % step or step))
    assert full is not None and last is not None

    def kernel(x: Array, *vectors: Array) -> Array:
        flat = x.reshape(rows, n)
        found = np.empty((rows, n), x.dtype)
        own = [v.reshape(n) for v in vectors]
        try:
            for begin in range(0, rows, step):
                part = flat[begin : begin + step]
                found[begin : begin + step] = (full if len(part) == step else last)(part, *own)
        except _Overflow:
            return exact(x, *vectors)[0]
        return found.reshape(shape)

    return kernel


def layer_norm(
    x: TensorType, num_dims: int, eps: float, named: Sequence[str], exact: Exact
) -> Kernel | None:
    """x standardized over its last dims; `named` says whether weight and bias are given."""
    if not _fits(x):
        return None
    if x.size > BLOCK and num_dims < x.rank:
        dims = tuple(range(x.rank - num_dims, x.rank))
        return _some_rows_at_a_time(
            x, dims, lambda part, own: layer_norm(part, 1, eps, named, own), exact
        )
    norm = Normalization(x, tuple(range(x.rank - num_dims, x.rank)), eps)
    scale, shift = "weight" in named, "bias" in named

    def kernel(x: Array, *vectors: Array) -> Array:
        y = x - norm.mean(x)
        root = norm.root(y)
        if root is None:
            return exact(x, *vectors)[0]
        y *= root
        if scale:
            y *= vectors[0]
        if shift:
            y += vectors[-1]
        return y

    return kernel


def batch_norm(
    x: TensorType, eps: float, named: Sequence[str], exact: Exact
) -> EagerKernel | None:
    """x standardized for each channel, and the mean and the variance of the channels."""
    if not _fits(x):
        return None
    norm = Normalization(x, tuple(d for d in range(x.rank) if d != 1), eps)
    along = (-1, *(1,) * (x.rank - 2))
    scale, shift = "weight" in named, "bias" in named

    def kernel(x: Array, *vectors: Array) -> tuple[Array, ...]:
        mean = norm.mean(x)
        y = x - mean
        square = norm.mean(y * y)
        root = norm.inverse(square)
        if root is None:
            return exact(x, *vectors)
        y *= root * vectors[0].reshape(along) if scale else root
        if shift:
            y += vectors[-1].reshape(along)
        return y, mean.reshape(norm.kept), square.reshape(norm.kept)

    return kernel


def batch_norm_inference(x: TensorType, eps: float, named: Sequence[str]) -> Kernel | None:
    """x standardized by mean and variance that are given."""
    if not _fits(x):
        return None
    along, small = (-1, *(1,) * (x.rank - 2)), np.array(eps, x.dtype.numpy)
    scaled, shifted = "weight" in named, "bias" in named

    def kernel(x: Array, mean: Array, variance: Array, *vectors: Array) -> Array:
        scale = np.reciprocal(np.sqrt(variance + small))
        if scaled:
            scale = scale * vectors[0]
        y: Array = x * scale.reshape(along)
        y -= (mean * scale).reshape(along)
        if shifted:
            y += vectors[-1].reshape(along)
        return y

    return kernel


def group_norm(
    x: TensorType, groups: int, eps: float, named: Sequence[str], exact: Exact
) -> Kernel | None:
    """x standardized within groups of channels."""
    if not _fits(x):
        return None
    grouped = (x.shape[0] * groups, x.size // (x.shape[0] * groups))
    norm = Normalization(x.with_shape(grouped), (1,), eps)
    shape, along = x.shape, (-1, *(1,) * (x.rank - 2))
    scale, shift = "weight" in named, "bias" in named

    def kernel(x: Array, *vectors: Array) -> Array:
        rows = x.reshape(grouped)
        y = rows - norm.mean(rows)
        root = norm.root(y)
        if root is None:
            return exact(x, *vectors)[0]
        y *= root
        y = y.reshape(shape)
        if scale:
            y *= vectors[0].reshape(along)
        if shift:
            y += vectors[-1].reshape(along)
        return y

    return kernel


# ---- activations


def _negative_exponential(x: Array, work: Array) -> None:
    """1 + exp(-x) into `work`."""
    np.negative(x, out=work)
    np.exp(work, out=work)
    work += 1.0


def _sigmoid(out: Array, x: Array, buffers: Array) -> None:
    _negative_exponential(x, buffers[0])
    np.reciprocal(buffers[0], out=out)


def _silu(out: Array, x: Array, buffers: Array) -> None:
    _negative_exponential(x, buffers[0])
    np.divide(x, buffers[0], out=out)


def _gelu(out: Array, x: Array, buffers: Array) -> None:
    normal_into(out, x, buffers)
    out *= x


def _few_sigmoid(x: Array) -> Array:
    w = x.astype(_F64)
    _negative_exponential(w, w)
    np.reciprocal(w, out=w)
    return w.astype(x.dtype)


def _few_silu(x: Array) -> Array:
    w = x.astype(_F64)
    _negative_exponential(w, w)
    np.divide(x, w, out=w)
    return w.astype(x.dtype)


def sigmoid(x: TensorType) -> Kernel | None:
    """1 / (1 + exp(-x))."""
    if not _fits(x):
        return None
    return _few_sigmoid if x.size <= _AT_ONCE else lambda x: in_blocks(x, _F64, 1, _sigmoid)


def silu(x: TensorType) -> Kernel | None:
    """x * sigmoid(x)."""
    if not _fits(x):
        return None
    return _few_silu if x.size <= _AT_ONCE else lambda x: in_blocks(x, _F64, 1, _silu)


def gelu(x: TensorType) -> Kernel | None:
    """x times the normal distribution function."""
    if x.dtype is not dt.float32 or not x.size:
        return None
    dtype = x.dtype.numpy
    return lambda x: in_blocks(x, dtype, 2, _gelu)


def relu(x: TensorType) -> Kernel | None:
    """The larger one of x and 0."""
    if x.dtype.bits == 16 and x.dtype.is_float:
        return None
    first = next((d for d in range(x.rank) if prod(x.shape[d:]) <= BLOCK), x.rank)
    shape = x.shape[first:] if x.size > SMALL else ()
    zeros = np.zeros(shape, x.dtype.numpy)  # NumPy takes longer with one zero than with many
    if not x.shape:
        return lambda x: np.asarray(np.maximum(x, zeros))
    return lambda x: np.maximum(x, zeros)


def leaky_relu(x: TensorType, slope: float) -> Kernel | None:
    """x, or slope * x where that is larger: for slopes within (0, 1)."""
    if not (_fits(x) and 0 < slope < 1):
        return None
    factor = np.array(slope, x.dtype.numpy)

    def kernel(x: Array) -> Array:
        y = np.asarray(x * factor)
        np.maximum(x, y, out=y)
        return y

    return kernel


# ---- products


def linear(x: TensorType, weight: TensorType, result: TensorType, biased: bool) -> Kernel | None:
    """x times the transposed weight, plus bias."""
    if x.dtype.bits < 32 or not x.dtype.is_float or not result.size or not x.size:
        return None
    rows, shape = (x.size // x.shape[-1], x.shape[-1]), result.shape
    product = threaded(np.dot, x.size * weight.shape[0])

    def kernel(x: Array, weight: Array, *bias: Array) -> Array:
        y: Array = product(x.reshape(rows), weight.T)
        if biased:
            y += bias[0]
        return y.reshape(shape)

    if x.rank != 1:
        return kernel
    if not biased:
        return lambda x, weight: np.dot(weight, x)
    return lambda x, weight, bias: np.dot(weight, x) + bias


def attention(
    types: Types, named: Sequence[str], causal: bool, scale: float, exact: Exact
) -> Kernel | None:
    """softmax(q kᵀ scale + mask) v, without dropout."""
    q, k, v = types[:3]
    if not (_fits(q) and _fits(k) and _fits(v)):
        return None
    *batch, heads, num_q, depth = q.shape
    kv_heads, num_k = k.shape[-3:-1]
    laid = (*batch, kv_heads, heads // kv_heads * num_q, depth)
    full, result = (*batch, heads, num_q, num_k), (*q.shape[:-1], v.shape[-1])
    product = (*laid[:-1], num_k)
    rows = (prod(product[:-1]), num_k)
    factor, infinite = np.array(scale, q.dtype.numpy), -np.inf
    masked = "mask" in named
    body = _masked_softmax if masked or (causal and num_q > num_k) else _softmax
    plain = not causal or num_q == 1

    def kernel(q: Array, k: Array, v: Array, *mask: Array) -> Array:
        scores = np.matmul(q.reshape(laid), k.swapaxes(-1, -2)).reshape(full)
        scores *= factor
        if masked:
            if mask[0].dtype.kind == "b":
                np.copyto(scores, infinite, where=~mask[0])
            else:
                scores += mask[0]
        if not plain:
            hidden = ~differs(num_q, num_k, num_q - num_k)
            np.copyto(scores, infinite, where=hidden)
        weights = _by_rows(scores.reshape(rows), num_k, scores.dtype, body)
        found: Array = np.matmul(weights.reshape(product), v).reshape(result)
        if causal and not np.isfinite(np.add.reduce(found, axis=None)):
            return exact(q, k, v, *mask)[0]
        return found

    return kernel
