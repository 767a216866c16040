"""Normalizations, as composites. 16-bit floats are computed in f32 and rounded once."""

from __future__ import annotations

from rung.core import dtype as dt
from rung.core.errors import ShapeError
from rung.ir.node import Value
from rung.ops.broadcast import broadcasted, reshaped, spread
from rung.ops.composite import composite_with_kernel
from rung.ops.eager import functions as kernels
from rung.ops.elementwise import multiply, plus, subtract
from rung.ops.families import add
from rung.ops.norm import normalized
from rung.ops.shorthand import along, as_type, averaged, require_float, require_shape, wide
from rung.ops.transcendental import rsqrt, square


def _last_dims(op: str, x: Value, num_dims: int, *vectors: Value | None) -> tuple[int, ...]:
    """The last `num_dims` dims, after a check that scale and shift have their shape."""
    require_float(op, "x", x)
    rank = x.type.rank
    if not 1 <= num_dims <= rank:
        raise ShapeError(f"{op}: num_dims={num_dims} with x {x.type}", fix=f"from 1 to {rank}")
    for label, v in zip(("weight", "bias"), vectors, strict=False):
        require_shape(op, label, v, x.shape[rank - num_dims :])
    return tuple(range(rank - num_dims, rank))


def _scaled(y: Value, weight: Value | None, bias: Value | None) -> Value:
    """y * weight + bias over the last dims."""
    if weight is not None:
        y = multiply(y, broadcasted(wide(weight), y.shape))
    if bias is not None:
        y = add(y, broadcasted(wide(bias), y.shape))
    return y


def _standardized(
    x: Value, dims: tuple[int, ...], eps: float
) -> tuple[Value, Value, Value]:
    """x without its mean and over its deviation along `dims`, and that mean and variance."""
    w = wide(x)
    mean = averaged(w, dims)
    centred = subtract(w, spread(mean, dims, w.shape))
    variance = averaged(square(centred), dims)
    return _normalized(centred, x, dims, eps), mean, variance


def _normalized(w: Value, x: Value, dims: tuple[int, ...], eps: float) -> Value:
    """w, of the size of x, over the root of its mean square."""
    return normalized(w, dims=dims, eps=eps, overflows=x.dtype is not dt.float16)


@composite_with_kernel(
    lambda call: kernels.layer_norm(
        call.types[0], call.whole("num_dims"), call.number("eps"), call.names, call.exact
    )
)
def layer_norm(
    x: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    num_dims: int = 1,
    eps: float = 1e-5,
) -> Value:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last `num_dims` dims, the shape of
    weight and bias (Ba, Kiros and Hinton, 2016)."""
    dims = _last_dims("layer_norm", x, num_dims, weight, bias)
    y, _, _ = _standardized(x, dims, eps)
    return as_type(_scaled(y, weight, bias), x.dtype)


@composite_with_kernel(
    lambda call: kernels.normalized(
        call.types[0],
        tuple(range(call.types[0].rank))[-call.whole("num_dims") :],
        call.number("eps"),
        call.exact,
        "weight" in call.names,
    )
)
def rms_norm(
    x: Value, weight: Value | None = None, *, num_dims: int = 1, eps: float = 1e-6
) -> Value:
    """x / sqrt(mean(x²) + eps) * weight over the last `num_dims` dims (Zhang, Sennrich, 2019)."""
    dims = _last_dims("rms_norm", x, num_dims, weight)
    return as_type(_scaled(_normalized(wide(x), x, dims, eps), weight, None), x.dtype)


def _channels(op: str, x: Value, **vectors: Value | None) -> int:
    """The number of channels (dim 1), after a check that each vector has as many elements."""
    require_float(op, "x", x)
    if x.type.rank < 2:
        raise ShapeError(f"{op}: x {x.type} has no channels", fix="dims are batch, channels, …")
    for label, v in vectors.items():
        require_shape(op, label, v, (x.shape[1],))
    return x.shape[1]


def _per_channel(y: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        y = multiply(y, along(wide(weight), 1, y.shape))
    if bias is not None:
        y = add(y, along(wide(bias), 1, y.shape))
    return y


@composite_with_kernel(
    lambda call: kernels.batch_norm(
        call.types[0], call.number("eps"), call.names, call.exact
    )
)
def batch_norm(
    x: Value, weight: Value | None = None, bias: Value | None = None, *, eps: float = 1e-5
) -> tuple[Value, ...]:
    """x[N, C, …] standardized for each channel over all other dims, times weight[C], plus bias[C];
    then the mean and the (biased) variance of the channels, in f32 for 16-bit floats.

    Ioffe and Szegedy, 2015. Raises ShapeError when there is but one element a channel."""
    channels = _channels("batch_norm", x, weight=weight, bias=bias)
    if channels and x.type.size // channels < 2:
        raise ShapeError(
            f"batch_norm: x {x.type} has one value a channel, which has no variance",
            fix="a larger batch, or the running statistics: batch_norm_inference",
        )
    dims = tuple(d for d in range(x.type.rank) if d != 1)
    y, mean, variance = _standardized(x, dims, eps)
    return as_type(_per_channel(y, weight, bias), x.dtype), mean, variance


@composite_with_kernel(
    lambda call: kernels.batch_norm_inference(
        call.types[0], call.number("eps"), call.names
    )
)
def batch_norm_inference(
    x: Value,
    mean: Value,
    variance: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    eps: float = 1e-5,
) -> Value:
    """x[N, C, …] standardized by the given mean[C] and variance[C], times weight, plus bias: one
    multiplication and one addition for each element."""
    _channels("batch_norm", x, mean=mean, variance=variance, weight=weight, bias=bias)
    scale = rsqrt(plus(wide(variance), eps))
    if weight is not None:
        scale = multiply(scale, wide(weight))
    shift = multiply(wide(mean), scale)
    w = wide(x)
    y = subtract(multiply(w, along(scale, 1, w.shape)), along(shift, 1, w.shape))
    return as_type(_per_channel(y, None, bias), x.dtype)


@composite_with_kernel(
    lambda call: kernels.group_norm(
        call.types[0], call.whole("num_groups"), call.number("eps"), call.names, call.exact
    )
)
def group_norm(
    x: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> Value:
    """x[N, C, …] standardized within each of `num_groups` groups of channels, times weight[C], plus
    bias[C] (Wu and He, 2018)."""
    channels = _channels("group_norm", x, weight=weight, bias=bias)
    if num_groups < 1 or channels % num_groups:
        raise ShapeError(
            f"group_norm: {channels} channels of x {x.type} in {num_groups} groups",
            fix="the number of groups must divide the channels",
        )
    grouped = (x.shape[0], num_groups, channels // num_groups, *x.shape[2:])
    w = reshaped(x, grouped)
    y, _, _ = _standardized(w, tuple(range(2, w.type.rank)), eps)
    return as_type(_per_channel(reshaped(y, x.shape), weight, bias), x.dtype)
