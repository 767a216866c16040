"""Our functions with the arguments of torch: renamed and reordered, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rung
from rung.nn import functional as F
from tests.oracle.convert import Unsupported

Function = Callable[..., Any]


def axis_of(dim: Any) -> Any:
    """torch's `dim` for reductions, where () and [] mean all."""
    return None if dim is None or (isinstance(dim, tuple | list) and not dim) else dim


def along(function: Function) -> Function:
    """(x, dim, …) where 0-d tensors count as vectors of one element."""

    def call(x: Any, dim: int = -1, *args: Any, **options: Any) -> Any:
        if x.ndim:
            return function(x, *args, axis=dim, **options)
        found = function(x.reshape(1), *args, axis=dim, **options)
        if isinstance(found, tuple):
            return tuple(t.reshape(()) for t in found)
        return found.reshape(())

    return call


def in_dtype(function: Function) -> Function:
    """(…, dtype): of the input in that dtype."""

    def call(x: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
        return function(x if dtype is None else x.astype(dtype), *args, **options)

    return call


def swapped(function: Function) -> Function:
    """(y, x) for (x, y)."""
    return lambda x, y, **options: function(y, x, **options)


def extreme(reduction: Function, argument: Function) -> Function:
    """torch.max and torch.min: (values, positions) along a dim, or of all elements."""

    def call(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return reduction(x)
        positions = along(argument)(x, dim, keepdims=True) if x.ndim else argument(x)
        if x.ndim == 0:
            return x, positions
        values = rung.take_along_axis(x, positions, dim)
        if keepdim:
            return values, positions
        return values.squeeze(dim), positions.squeeze(dim)

    return call


def unbiased(function: Function) -> Function:
    """(x, dim, unbiased, keepdim) and (x, unbiased) and (x, dim, correction=…, keepdim=…)."""

    def call(x: Any, *args: Any, **options: Any) -> Any:
        given = list(args)
        correction: Any = options.pop("correction", None)
        bias = options.pop("unbiased", None)
        if given and isinstance(given[0], bool):
            bias = given.pop(0)
        dim = given.pop(0) if given else options.pop("dim", None)
        if given:
            bias = given.pop(0)
        keepdim = given.pop(0) if given else options.pop("keepdim", False)
        if correction is None:
            correction = 1 if bias is None else int(bias)
        return function(x, axis=axis_of(dim), correction=correction, keepdims=keepdim, **options)

    return call


def masked_unbiased(function: Function) -> Function:
    """torch.masked.var and std: (x, dim, unbiased, …)."""

    def call(x: Any, dim: Any = None, unbiased: bool | None = None, **options: Any) -> Any:
        correction = options.pop("correction", None)
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        axis = None if x.ndim == 0 else axis_of(dim)
        return function(x, axis, correction=correction, **_keepdims(options))

    return call


def _keepdims(options: dict[str, Any]) -> dict[str, Any]:
    return {"keepdims" if k == "keepdim" else k: v for k, v in options.items()}


def norm(x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """torch.norm without singular values."""
    given = x if dtype is None else x.astype(dtype)
    order = 2.0 if p in ("fro", None) else p
    axis = None if x.ndim == 0 else axis_of(dim)
    return rung.linalg.vector_norm(given, axis=axis, keepdims=keepdim, ord=order)


def vector_norm(
    x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    given = x if dtype is None else x.astype(dtype)
    axis = None if x.ndim == 0 else axis_of(dim)
    return rung.linalg.vector_norm(given, axis=axis, keepdims=keepdim, ord=ord)


def repeat(x: Any, *sizes: Any) -> Any:
    """Tensor.repeat: tile with leading dims."""
    return rung.tile(x, sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)


def squeeze(x: Any, dim: Any = None) -> Any:
    """torch leaves dims that are not of length one."""
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    single = tuple(d for d in dims if x.ndim and x.shape[d] == 1)
    return rung.squeeze(x, single) if single else rung.reshape(x, x.shape)


def unsqueeze(x: Any, dim: int) -> Any:
    return rung.expand_dims(x, dim)


def split(x: Any, sizes: Any, dim: int = 0) -> Any:
    return rung.split(x, sizes, axis=dim)


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Any:
    order = along(rung.argsort)(x, dim, descending=descending)
    return along(rung.sort)(x, dim, descending=descending), order


def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if x.ndim == 0:
        return tuple(t.reshape(()) for t in rung.topk(x.reshape(1), k, dim, largest))
    return rung.topk(x, k, dim, largest)


def searchsorted(
    sorted_sequence: Any, values: Any, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Any = None,
) -> Any:  # fmt: skip
    return rung.searchsorted(
        sorted_sequence, values, side=side or ("right" if right else "left"), sorter=sorter
    )


def bucketize(x: Any, boundaries: Any, out_int32: bool = False, right: bool = False) -> Any:
    return rung.bucketize(x, boundaries, right)


def bcewl(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    return F.binary_cross_entropy_with_logits(x, target, weight, reduction, pos_weight)


def meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    return rung.meshgrid(*given, indexing=indexing)


def batch_norm(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    mean, variance = (None if t is None else t.clone() for t in (running_mean, running_var))
    return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)


def number(x: Any) -> Any:
    """A number given as a tensor."""
    return x.item() if isinstance(x, rung.Tensor) else x


def linspace(start: Any, end: Any, steps: int, *, dtype: Any = None) -> Any:
    return rung.linspace(number(start), number(end), steps, dtype=dtype)


def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None) -> Any:
    return rung.logspace(number(start), number(end), steps, base=base, dtype=dtype)


def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None) -> Any:
    return rung.arange(start, end, step, dtype=dtype)


def eye(n: int, m: int | None = None, *, dtype: Any = None) -> Any:
    return rung.eye(n, m, dtype=dtype)


def like(function: Function) -> Function:
    """Tensor.new_…: a shape and perhaps a value, in the dtype of the tensor."""

    def call(x: Any, shape: Any, *args: Any, dtype: Any = None) -> Any:
        return function(shape, *args, dtype=x.dtype if dtype is None else dtype)

    return call


def quantile(function: Function) -> Function:
    """(x, q, dim, keepdim, interpolation=…)"""

    def call(
        x: Any, q: Any, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear"
    ) -> Any:
        return function(x, q, dim, keepdim, interpolation)

    return call


def gradient(
    x: Any, *, spacing: Any = 1.0, dim: Any = None, edge_order: int = 1
) -> Any:
    return rung.gradient(x, 1.0 if spacing is None else spacing, dim, edge_order)


def trapezoid(function: Function) -> Function:
    """(y, x, dx=…, dim=…)"""

    def call(y: Any, x: Any = None, *, dx: Any = 1.0, dim: int = -1) -> Any:
        return function(y, x, dx, dim)

    return call


def histogram(
    x: Any, bins: Any, *, range: Any = None, weight: Any = None, density: bool = False
) -> Any:
    return rung.histogram(x, bins, range, weight, density)


def unique(
    x: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    return rung.unique(x, sorted, return_inverse, return_counts, dim)


def unique_consecutive(
    x: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    return rung.unique_consecutive(x, return_inverse, return_counts, dim)


def getitem(x: Any, index: Any) -> Any:
    return x[index]


def interpolate(x: Any, *args: Any, antialias: bool = False, **options: Any) -> Any:
    return F.interpolate(x, *args, **options)


def upsample(mode: str) -> Function:
    """The older names of `interpolate`."""

    def call(x: Any, size: Any = None, scale_factor: Any = None) -> Any:
        return F.interpolate(x, size, scale_factor, mode, True if mode == "bilinear" else None)

    return call


def constant_pad(x: Any, pad: Any, value: float = 0) -> Any:
    return F.pad(x, pad, "constant", value)


def full(shape: Any, value: Any, *, dtype: Any = None) -> Any:
    return rung.full(shape, value, dtype=dtype)


def tensordot(x: Any, y: Any, dims: Any = 2) -> Any:
    return rung.tensordot(x, y, axes=dims)


def polygamma(x: Any, n: int) -> Any:
    return rung.polygamma(n, x)


def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    return rung.diff(x, axis=dim, n=n, prepend=prepend, append=append)


def full_of(function: Function) -> Function:
    """The shape as one argument or as many."""

    def call(*shape: Any, dtype: Any = None) -> Any:
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return function(tuple(sizes), dtype=dtype)

    return call


def isin(x: Any, values: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    return rung.isin(x, values, invert)


def nonzero(x: Any, *, as_tuple: bool = False) -> Any:
    if as_tuple:
        return rung.nonzero(x if x.ndim else x.reshape(1))
    return rung.argwhere(x)


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None, **options: Any) -> Any:
    return rung.repeat(x, repeats, axis=dim)


def roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    return rung.roll(x, shifts, axis=dims if dims != () else None)


def scalar_tensor(value: Any, *, dtype: Any = None) -> Any:
    return rung.asarray(value, dtype=dtype)


def slice_of(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x[(*(slice(None),) * (dim % x.ndim), slice(start, end, step))]


def matrix_norm(
    x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, dtype: Any = None
) -> Any:
    given = x if dtype is None else x.astype(dtype)
    moved = rung.moveaxis(given, dim, (-2, -1))
    found = rung.linalg.matrix_norm(moved, keepdims=keepdim, ord=ord)
    return rung.moveaxis(found, (-2, -1), dim) if keepdim else found


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    rank = max(x.ndim, y.ndim)
    return rung.linalg.vecdot(x, y, axis=dim if dim < 0 else dim - rank)


def masked(function: Function) -> Function:
    """(x, dim, keepdim=…, dtype=…, mask=…)"""

    def call(x: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        axis = None if x.ndim == 0 else axis_of(dim)
        return function(x, axis, keepdims=keepdim, **options)

    return call


def masked_norm(
    x: Any, ord: Any = 2.0, dim: Any = None, keepdim: bool = False, **options: Any
) -> Any:
    axis = None if x.ndim == 0 else axis_of(dim)
    return rung.masked.norm(x, ord, axis, keepdims=keepdim, **options)


def on_copy(function: Function) -> Function:
    """A function that changes its argument, of a copy."""
    return lambda x, *args, **options: function(x.clone(), *args, **options)


def flattened_scalar(function: Function) -> Function:
    """A function of tensors with dims, which torch also takes 0-d tensors for: as vectors."""

    def call(x: Any, *args: Any, **options: Any) -> Any:
        if x.ndim:
            return function(x, *args, **options)
        args = tuple(t.reshape(1) if _is_scalar(t) else t for t in args)
        options = {k: t.reshape(1) if _is_scalar(t) else t for k, t in options.items()}
        found = function(x.reshape(1), *args, **options)
        if isinstance(found, tuple):
            return tuple(t.reshape(()) for t in found)
        return found.reshape(())

    return call


def _is_scalar(x: Any) -> bool:
    return isinstance(x, rung.Tensor) and x.ndim == 0


def at_least_one(function: Function, place: int) -> Function:
    """`flattened_scalar` where the result has the shape of argument `place`."""

    def call(*args: Any) -> Any:
        shape = args[place].shape
        made = [t.reshape(1) if _is_scalar(t) else t for t in args]
        return function(*made).reshape(shape)

    return call


def reducing(function: Function) -> Function:
    """(x, dim, keepdim, …)"""

    def call(x: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        axis = axis_of(dim)
        if x.ndim == 0 and axis is not None:
            axis = None
        return function(x, axis=axis, keepdims=keepdim, **options)

    return call


def argument(function: Function) -> Function:
    """torch.argmax and torch.argmin."""
    return reducing(function)


def cumulative(function: Function) -> Function:
    """(x, dim, dtype)"""

    def call(x: Any, dim: int, *, dtype: Any = None) -> Any:
        return flattened_scalar(function)(x, axis=dim, dtype=dtype)

    return call


def masked_along(function: Function) -> Function:
    """torch.masked.cumsum and the like."""
    return lambda x, dim, **options: flattened_scalar(function)(x, dim, **options)


def masked_argument(function: Function) -> Function:
    """torch gives the positions in the dtype of the input."""

    def call(x: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        axis = None if x.ndim == 0 else dim
        return function(x, axis, keepdims=keepdim, **options).astype(x.dtype)

    return call


def masked_median(x: Any, dim: int = -1, keepdim: bool = False, **options: Any) -> Any:
    return flattened_scalar(rung.masked.median)(x, dim, keepdims=keepdim, **options)


def masked_normalize(x: Any, ord: Any, dim: int, **options: Any) -> Any:
    return flattened_scalar(rung.masked.normalize)(x, ord, dim, **options)


def cross(x: Any, y: Any, dim: int | None = None) -> Any:
    """Without `dim` the first one of length 3."""
    at = x.shape.index(3) if dim is None else dim
    return rung.linalg.cross(x, y, axis=at if at < 0 else at - x.ndim)


def of_list(function: Function) -> Function:
    """f(*tensors) also for f(tensors)."""

    def call(*given: Any) -> Any:
        single = len(given) == 1 and isinstance(given[0], list | tuple)
        return function(*(given[0] if single else given))

    return call


def fill(x: Any, value: Any) -> Any:
    return rung.full_like(x, value)


def flip(x: Any, dims: Any) -> Any:
    return rung.flip(x, axis=dims)


def diag(x: Any, diagonal: int = 0) -> Any:
    return rung.diag(x, diagonal)


def diagflat(x: Any, offset: int = 0) -> Any:
    return rung.diagflat(x, offset)


def where(x: Any, condition: Any, other: Any) -> Any:
    return rung.where(condition, x, other)


def to(x: Any, *args: Any, **options: Any) -> Any:
    """The dtype among the arguments."""
    given = [t for t in (*args, *options.values()) if isinstance(t, rung.DType | rung.Tensor)]
    return x.to(given[0]) if given else x


def triplet(anchor: Any, positive: Any, negative: Any, **options: Any) -> Any:
    """The distance is a function: ours of the same name for torch's."""
    distance = options.pop("distance_function", None)
    named = {"PairwiseDistance": F.pairwise_distance}
    name = getattr(distance, "__name__", type(distance).__name__)
    ours = None if distance is None else named.get(name) or getattr(F, name)
    return F.triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=ours, **options
    )


def attention(query: Any, key: Any, value: Any, **options: Any) -> Any:
    if options.get("dropout_p"):
        raise Unsupported("draws from a generator, which is another one here")
    return F.scaled_dot_product_attention(query, key, value, **options)


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return rung.flatten(x, start_dim, end_dim)


def linalg_cross(x: Any, y: Any, *, dim: int = -1) -> Any:
    return rung.linalg.cross(x, y, axis=dim if dim < 0 else dim - x.ndim)


def one_hot(x: Any, num_classes: int = -1) -> Any:
    return F.one_hot(x, num_classes, dtype=rung.int64)


def embedding(function: Function) -> Function:
    """The weight comes first in torch's table."""

    def call(weight: Any, x: Any, *args: Any, **options: Any) -> Any:
        if options.pop("max_norm", None) is not None:
            raise Unsupported("max_norm changes the weight in place")
        if options.pop("scale_grad_by_freq", False):
            raise Unsupported("gradients scaled by frequency do not exist here")
        options.pop("norm_type", None)
        options.pop("sparse", None)
        return function(x, weight, *args, **options)

    return call


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    return rung.swapaxes(x, dim0, dim1) if x.ndim else x
