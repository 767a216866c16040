"""Convolution over any number of dims.

Layouts are those of PyTorch: x[N, C, …], weight[O, C / groups, …]. As in all of deep learning, the
kernel is not reversed (it is a correlation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import FLOATS, accumulator
from rung.core.errors import ShapeError
from rung.ir.expr import Expr, iadd, ifloordiv, imul, raw_call, read, var
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Sample
from rung.ir.types import Shape, TensorType
from rung.ops.accurate import added_wide
from rung.ops.batching import from_front, to_front, with_axis
from rung.ops.broadcast import reshape, reshaped
from rung.ops.eager import convolution as kernels
from rung.ops.families import (
    Types,
    add,
    axis_vars,
    is_narrow,
    nbytes,
    require_dtype,
    require_same_dtype,
    structured,
    widened,
)
from rung.ops.movement import flip
from rung.ops.shorthand import along, permuted, require_shape
from rung.ops.window import (
    Pairs,
    Window,
    check_windows,
    each,
    pairs,
    places_of,
    window_elements,
    windows_of,
)

Values = Sequence[Value]
Cotangents = Sequence["Value | None"]


@dataclass(frozen=True)
class ConvAttrs(Attrs):
    """One entry for each spatial dim (see `Window`), and the number of groups of channels."""

    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    base_dilation: tuple[int, ...]
    groups: int = 1

    def windows(self, sizes: Shape) -> tuple[Window, ...]:
        return windows_of(
            "conv", sizes, self.strides, self.padding, self.dilation, self.base_dilation
        )


def _attrs(windows: Sequence[Window], groups: int) -> ConvAttrs:
    return ConvAttrs(
        tuple(w.stride for w in windows),
        tuple(w.padding for w in windows),
        tuple(w.dilation for w in windows),
        tuple(w.base_dilation for w in windows),
        groups,
    )


def _conv_type(attrs: ConvAttrs, types: Types) -> tuple[TensorType, ...]:
    x, weight = types
    require_dtype("conv", "x", x, FLOATS)
    require_same_dtype("conv", ("x", "weight"), types)
    if x.rank != weight.rank or x.rank < 2:
        raise ShapeError(
            f"conv: x {x} with weight {weight}", fix="x is [N, C, …], weight [O, C / groups, …]"
        )
    groups = attrs.groups
    if groups < 1 or x.shape[1] % groups or weight.shape[0] % groups:
        raise ShapeError(
            f"conv: {groups} groups with x {x} and weight {weight}",
            fix="groups must divide the channels of x and the outputs of weight",
        )
    if weight.shape[1] * groups != x.shape[1]:
        raise ShapeError(
            f"conv: x {x} has {x.shape[1]} channels, weight {weight} is for "
            f"{weight.shape[1] * groups}",
            fix=f"weight must be [outputs, {x.shape[1] // groups}, …]",
        )
    places = check_windows("conv", "x", x, attrs.windows(weight.shape[2:]))
    return (x.with_shape((x.shape[0], weight.shape[0], *places)),)


def _conv_ref(attrs: ConvAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, weight = operands
    wide = np.float32 if is_narrow(x.dtype) else x.dtype
    groups, (n, channels), outputs = attrs.groups, x.shape[:2], weight.shape[0]
    grouped = x.astype(wide).reshape(n, groups, channels // groups, *x.shape[2:])
    kernel = weight.astype(wide).reshape(groups, outputs // groups, *weight.shape[1:])
    windows = attrs.windows(weight.shape[2:])

    def added(grouped: Array, kernel: Array) -> Array:
        total: Array | None = None
        for offset, seen in window_elements(grouped, windows, 0):
            part = np.einsum("ngc...,goc->ngo...", seen, kernel[(slice(None),) * 3 + offset])
            total = part if total is None else total + part
        assert total is not None
        return total

    total = added_wide(added, grouped, kernel)
    return (total.reshape(n, outputs, *total.shape[3:]).astype(x.dtype),)


def _conv_axes(attrs: ConvAttrs, types: Types) -> LoopForm:
    x, weight = types
    (result,) = _conv_type(attrs, types)
    windows = attrs.windows(weight.shape[2:])
    axes = axis_vars(result.shape)
    channel = var("c", weight.shape[1])
    offsets = axis_vars(weight.shape[2:], "k")
    group = ifloordiv(axes[1], max(weight.shape[0] // attrs.groups, 1))
    index: list[Expr] = [axes[0], iadd(imul(group, weight.shape[1]), channel)]
    place, guard = places_of(windows, axes[2:], offsets, x.shape[2:])
    element = widened(read(0, (*index, *place), x.dtype, guard))
    factor = widened(read(1, (axes[1], channel, *offsets), weight.dtype))
    body = raw_call("multiply", (element, factor), accumulator(x.dtype))
    return LoopForm(axes, (body,), (channel, *offsets), "add")


def _conv_transpose(
    attrs: ConvAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    (ct,) = cts
    if ct is None:
        return None
    x, weight = inputs
    gradient = _input_gradient if operand == 0 else _weight_gradient
    return gradient(attrs, x, weight, ct)


def _input_gradient(attrs: ConvAttrs, x: Value, weight: Value, ct: Value) -> Value:
    """conv of ct, dilated by the strides, with the reversed kernel whose inputs and outputs are
    swapped within each group."""
    windows = attrs.windows(weight.shape[2:])
    back = [w.adjoint(n) for w, n in zip(windows, x.shape[2:], strict=True)]
    return conv(ct, _swap_channels(weight, attrs.groups), attrs=_attrs(back, attrs.groups))


def _swap_channels(weight: Value, groups: int) -> Value:
    """[G·o, c, …] as [G·c, o, …], reversed along the spatial dims."""
    outputs, channels, *sizes = weight.shape
    spatial = tuple(range(2, weight.type.rank))
    weight = flip(weight, dims=spatial) if spatial else weight
    if groups == 1:
        return permuted(weight, (1, 0, *spatial))
    grouped = reshaped(weight, (groups, outputs // groups, channels, *sizes))
    swapped = permuted(grouped, (0, 2, 1, *range(3, grouped.type.rank)))
    return reshaped(swapped, (groups * channels, outputs // groups, *sizes))


def _weight_gradient(attrs: ConvAttrs, x: Value, weight: Value, ct: Value) -> Value:
    """conv with ct as the kernel, the batch as its channels and the channels as its batch:
    x[N, G·c, …] as [c, G·N, …], ct[N, O, …] as [O, N, …], giving [c, O, …]."""
    n, channels = x.shape[:2]
    groups = attrs.groups
    windows = attrs.windows(weight.shape[2:])
    kernel = [w.swapped(size) for w, size in zip(windows, x.shape[2:], strict=True)]
    spatial = tuple(range(2, x.type.rank))
    if groups == 1:
        images = permuted(x, (1, 0, *spatial))
    else:
        split = reshaped(x, (n, groups, channels // groups, *x.shape[2:]))
        images = permuted(split, (2, 1, 0, *(d + 1 for d in spatial)))
        images = reshaped(images, (channels // groups, groups * n, *x.shape[2:]))
    sums = conv(images, permuted(ct, (1, 0, *spatial)), attrs=_attrs(kernel, groups))
    return permuted(sums, (1, 0, *spatial))


def _conv_cost(attrs: ConvAttrs, ins: Types, outs: Types) -> Cost:
    return Cost(2 * outs[0].size * prod(ins[1].shape[1:]), nbytes(*ins, *outs))


def _conv_samples(rng: np.random.Generator) -> list[Sample]:
    one, two = (1,), (1, 1)
    flat = ((0, 0),)
    cases: list[tuple[Shape, Shape, ConvAttrs]] = [
        ((2, 3, 8), (4, 3, 3), ConvAttrs(one, flat, one, one)),
        ((2, 4, 9), (6, 2, 3), ConvAttrs((2,), ((1, 2),), (2,), one, 2)),
        ((1, 2, 5), (2, 2, 2), ConvAttrs((2,), ((-1, 0),), one, (3,))),
        ((2, 3, 6, 5), (4, 3, 3, 2), ConvAttrs(two, ((0, 0), (0, 0)), two, two)),
        ((2, 3, 7, 6), (4, 3, 3, 3), ConvAttrs((2, 1), ((1, 1), (1, 0)), two, two)),
        ((1, 4, 6, 6), (4, 1, 3, 3), ConvAttrs(two, ((1, 1), (1, 1)), two, two, 4)),
        ((2, 4, 5, 6), (6, 2, 2, 2), ConvAttrs((2, 3), ((2, 1), (0, 3)), (1, 2), (2, 1), 2)),
        ((2, 3, 4, 4), (5, 3, 1, 1), ConvAttrs(two, ((0, 0), (0, 0)), two, two)),
        ((2, 2, 3, 3), (2, 2, 3, 3), ConvAttrs((5, 5), ((4, 4), (0, 0)), two, two)),
        ((0, 2, 4), (3, 2, 2), ConvAttrs(one, flat, one, one)),
        ((3, 2), (4, 2), ConvAttrs((), (), (), ())),
        ((1, 1, 3, 4, 3), (2, 1, 2, 2, 2), ConvAttrs((1,) * 3, ((0, 1),) * 3, (1,) * 3, (1,) * 3)),
    ]  # fmt: skip
    found = [
        Sample((TensorType(d, x), TensorType(d, w)), attrs)
        for d in (dt.float32, dt.float64)
        for x, w, attrs in cases
    ]
    x, w, attrs = cases[1]
    narrow = (dt.float16, dt.bfloat16)
    return found + [Sample((TensorType(d, x), TensorType(d, w)), attrs) for d in narrow]


def _conv_batch(
    attrs: ConvAttrs, inputs: Values, batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """The axis joins the images where these alone have it, else the channels as groups."""
    x, weight = inputs
    if not batched[1]:
        images, channels, *lengths = x.shape[1:]
        joined = reshape(x, shape=(size * images, channels, *lengths))
        result = conv(joined, weight, attrs=attrs)
        return (reshape(result, shape=(size, images, *result.shape[1:])),)
    outputs, *rest = weight.shape[1:]
    weights = reshape(weight, shape=(size * outputs, *rest))
    if attrs.groups == 1 and not batched[0]:
        result = conv(x, weights, attrs=attrs)
    else:
        images, channels, *lengths = x.shape[1:] if batched[0] else x.shape
        stacked = from_front(with_axis(x, batched[0], size), 1)
        joined = reshape(stacked, shape=(images, size * channels, *lengths))
        result = conv(joined, weights, attrs=replace(attrs, groups=size * attrs.groups))
    apart = reshape(result, shape=(result.shape[0], size, outputs, *result.shape[2:]))
    return (to_front(apart, 1),)


conv = structured(
    "conv",
    "convolution",
    "Convolution of x[N, C, …] with weight[O, C / groups, …]: N, O and one result for each place "
    "of the window; 16-bit floats are summed in f32.",
    arity=2,
    attrs=ConvAttrs,
    type=_conv_type,
    ref=_conv_ref,
    axes=_conv_axes,
    cost=_conv_cost,
    eager=lambda attrs, ins, outs: kernels.conv(
        ins, outs[0], attrs.windows(ins[1].shape[2:]), attrs.groups
    ),
    linear=(0, 1),
    transpose=_conv_transpose,
    batch=_conv_batch,
    samples=_conv_samples,
    dtypes=FLOATS,
)

RECORDS = (conv,)


# ---- functions


def convolve(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Pairs | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """`conv` of x[N, C, …] with weight[O, C / groups, …], plus bias[O].

    `padding` is a number, one a dim, pairs (before, after), or "same" (stride 1: results as many as
    elements) or "valid". Raises ShapeError or DTypeError."""
    spatial = max(weight.type.rank - 2, 0)
    spread = each(dilation, spatial, "dilation")
    if isinstance(padding, str):
        padding = _named_padding(padding, weight.shape[2:], each(stride, spatial, "stride"), spread)
    else:
        around = pairs(padding, spatial)
        require_no_padding_below("conv", [n for pair in around for n in pair])
    attrs = ConvAttrs(
        each(stride, spatial, "stride"), pairs(padding, spatial), spread, (1,) * spatial, groups
    )
    return _with_bias("conv", conv(x, weight, attrs=attrs), bias)


def require_no_padding_below(op: str, padding: Sequence[int]) -> None:
    """Raise ShapeError for padding of less than 0."""
    if min(padding, default=0) < 0:
        raise ShapeError(f"{op}: padding {tuple(padding)}", fix="give 0 or more")


def _named_padding(name: str, sizes: Shape, strides: Shape, dilation: Shape) -> Pairs:
    if name == "valid":
        return ((0, 0),) * len(sizes)
    if name != "same" or any(s != 1 for s in strides):
        raise ShapeError(
            f"conv: padding={name!r} with strides {strides}",
            fix='numbers, "valid", or, for stride 1, "same"',
        )
    spans = [(k - 1) * d for k, d in zip(sizes, dilation, strict=True)]
    return tuple((n // 2, n - n // 2) for n in spans)


def _with_bias(op: str, y: Value, bias: Value | None) -> Value:
    if bias is None:
        return y
    require_shape(op, "bias", bias, (y.shape[1],))
    return add(y, along(bias, 1, y.shape))


def convolve_transposed(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """The transpose of `convolve` with respect to its input: x[N, C, …] with
    weight[C, O / groups, …] gives [N, O, …], the dims being
    (n - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1 long."""
    spatial = max(weight.type.rank - 2, 0)
    moves, cut = each(stride, spatial, "stride"), each(padding, spatial, "padding")
    spread, more = (
        each(dilation, spatial, "dilation"),
        each(output_padding, spatial, "output_padding"),
    )
    if groups < 1 or weight.type.rank < 2 or weight.shape[0] % groups:
        raise ShapeError(
            f"conv_transposed: {groups} groups with weight {weight.type}",
            fix="groups must divide the first dim of weight",
        )
    require_no_padding_below("conv_transposed", cut)
    if any(not 0 <= m < max(s, d) for m, s, d in zip(more, moves, spread, strict=True)):
        raise ShapeError(
            f"conv_transposed: output_padding {more} with stride {moves} and dilation {spread}",
            fix="from 0 to less than the stride or the dilation",
        )
    spans = [(k - 1) * d for k, d in zip(weight.shape[2:], spread, strict=True)]
    around = tuple((s - p, s - p + m) for s, p, m in zip(spans, cut, more, strict=True))
    attrs = ConvAttrs((1,) * spatial, around, spread, moves, groups)
    return _with_bias("conv_transposed", conv(x, _swap_channels(weight, groups), attrs=attrs), bias)
