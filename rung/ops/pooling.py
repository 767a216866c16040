"""Reductions over sliding windows, and the pooling of PyTorch above them.

The derivative of a windowed maximum goes to its first largest element. For that `window_argmax`
says where it is, `window_take` reads there, and `window_put`, its transpose, adds up for each
element the windows whose maximum it is: a sum over few windows for each element, not a scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import ShapeError
from rung.ir.expr import Expr, Var, const, read
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Sample, SampleRule
from rung.ir.types import Shape, TensorType
from rung.ops.accurate import added_wide
from rung.ops.broadcast import broadcasted, flat_index, unflat_index
from rung.ops.composite import composite
from rung.ops.creation import full
from rung.ops.eager import pooling as kernels
from rung.ops.elementwise import divide
from rung.ops.families import (
    NUMBERS,
    Types,
    axis_vars,
    is_narrow,
    nbytes,
    predicate,
    require_dtype,
    scalar_cast,
    select,
    structured,
    widened,
)
from rung.ops.indexing import clamped
from rung.ops.shorthand import as_type, require_float, times, wide
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
class WindowAttrs(Attrs):
    """Windows over the last dims (see `Window`), one entry for each."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    base_dilation: tuple[int, ...]

    def windows(self) -> tuple[Window, ...]:
        return windows_of(
            "window", self.sizes, self.strides, self.padding, self.dilation, self.base_dilation
        )


def _lengths(attrs: WindowAttrs, shape: Shape) -> Shape:
    """The dims that the windows slide over."""
    return shape[len(shape) - len(attrs.sizes) :]


def _attrs(windows: Sequence[Window]) -> WindowAttrs:
    return WindowAttrs(
        tuple(w.size for w in windows),
        tuple(w.stride for w in windows),
        tuple(w.padding for w in windows),
        tuple(w.dilation for w in windows),
        tuple(w.base_dilation for w in windows),
    )


def _result(op: str, attrs: WindowAttrs, x: TensorType) -> TensorType:
    """One element for each place of the window. Raises ShapeError where it does not fit."""
    places = check_windows(op, "x", x, attrs.windows())
    return x.with_shape(x.shape[: x.rank - len(places)] + places)


def _loop(attrs: WindowAttrs, result: Shape) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
    """Loop variables of the results, and of the elements of a window."""
    return axis_vars(result), axis_vars(attrs.sizes, "k")


def _element(
    attrs: WindowAttrs, x: TensorType, axes: Sequence[Expr], offsets: Sequence[Expr]
) -> tuple[tuple[Expr, ...], Expr | None]:
    """Index into x of element `offsets` of the window at `axes`, and when there is one."""
    lead = x.rank - len(attrs.sizes)
    place, guard = places_of(attrs.windows(), axes[lead:], offsets, _lengths(attrs, x.shape))
    return (*axes[:lead], *place), guard


def _or_else(guard: Expr | None, x: Expr, fill: float) -> Expr:
    return x if guard is None else select(guard, x, const(fill, x.dtype))


def _window_cost(attrs: WindowAttrs, ins: Types, outs: Types) -> Cost:
    return Cost(outs[0].size * prod(attrs.sizes), nbytes(*ins, *outs))


def lowest(dtype: DType) -> float:
    """What a maximum begins with: -inf, or the least integer."""
    return -inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


_CASES: tuple[tuple[Shape, WindowAttrs], ...] = (
    ((6,), WindowAttrs((2,), (2,), ((0, 0),), (1,), (1,))),
    ((2, 7), WindowAttrs((3,), (2,), ((1, 1),), (1,), (1,))),
    ((2, 9), WindowAttrs((3,), (1,), ((2, 0),), (2,), (1,))),
    ((1, 2, 6, 7), WindowAttrs((2, 3), (2, 1), ((0, 1), (1, 0)), (1, 2), (1, 1))),
    ((2, 5, 4), WindowAttrs((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))),
    ((3, 4), WindowAttrs((4,), (1,), ((0, 0),), (1,), (1,))),
    ((0, 4), WindowAttrs((2,), (1,), ((0, 0),), (1,), (1,))),
)
_DILATED = ((2, 4), WindowAttrs((3,), (1,), ((2, -1),), (1,), (2,)))


def _window_samples(dtypes: Sequence[DType], dilated: bool) -> SampleRule:
    cases = (*_CASES, _DILATED) if dilated else _CASES

    def rule(rng: np.random.Generator) -> list[Sample]:
        return [
            Sample((TensorType(d, shape),), attrs)
            for d in dtypes
            for shape, attrs in (cases if d in (dt.float32, dt.float64, dt.int32) else cases[1:4])
        ]

    return rule


# ---- window_sum


def _sum_type(attrs: WindowAttrs, types: Types) -> tuple[TensorType, ...]:
    require_dtype("window_sum", "x", types[0], NUMBERS)
    return (_result("window_sum", attrs, types[0]),)


def _sum_ref(attrs: WindowAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    wider = x.astype(np.float32) if is_narrow(x.dtype) else x


    def added(a: Array) -> Array:
        parts = [part for _, part in window_elements(a, attrs.windows(), 0)]
        return np.asarray(sum(parts, np.zeros_like(parts[0])))

    return (added_wide(added, wider).astype(x.dtype),)


def _sum_axes(attrs: WindowAttrs, types: Types) -> LoopForm:
    (x,) = types
    axes, offsets = _loop(attrs, _result("window_sum", attrs, x).shape)
    index, guard = _element(attrs, x, axes, offsets)
    return LoopForm(axes, (widened(read(0, index, x.dtype, guard)),), offsets, "add")


def _sum_transpose(
    attrs: WindowAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    """Each element was in the windows that hold it: sum over those."""
    (ct,), lengths = cts, _lengths(attrs, inputs[0].shape)
    if ct is None:
        return None
    back = [w.adjoint(n) for w, n in zip(attrs.windows(), lengths, strict=True)]
    return window_sum(ct, attrs=_attrs(back))


window_sum = structured(
    "window_sum",
    "pooling",
    "The sum of each window of elements of the last dims; padding counts as 0.",
    arity=1,
    attrs=WindowAttrs,
    type=_sum_type,
    ref=_sum_ref,
    eager=lambda attrs, ins, outs: kernels.reduced(np.add, ins[0], outs[0], attrs.windows(), 0),
    axes=_sum_axes,
    cost=_window_cost,
    linear=(0,),
    joint=True,
    transpose=_sum_transpose,
    samples=_window_samples(NUMBERS, dilated=True),
    dtypes=NUMBERS,
)


# ---- window_max


def _max_type(attrs: WindowAttrs, types: Types) -> tuple[TensorType, ...]:
    require_dtype("window_max", "x", types[0], NUMBERS)
    _check_plain("window_max", attrs, types[0])
    return (_result("window_max", attrs, types[0]),)


def _check_plain(op: str, attrs: WindowAttrs, x: TensorType) -> None:
    """So that each window holds an element, and each element is at a place of its own."""
    check_windows(op, "x", x, attrs.windows())
    if any(b != 1 for b in attrs.base_dilation):
        raise ShapeError(f"{op}: base_dilation {attrs.base_dilation}", fix="must be 1 here")
    for w, length in zip(attrs.windows(), _lengths(attrs, x.shape), strict=True):
        first = np.arange(w.num_places(length)) * w.stride - w.padding[0]
        places = first[:, None] + np.arange(w.size) * w.dilation
        if not ((places >= 0) & (places < length)).any(axis=1).all():
            raise ShapeError(
                f"{op}: with padding {w.padding} a window of {w.size} (dilation {w.dilation}) "
                f"holds no element of x {x}",
                fix="less padding: at most half of the window",
            )


def _max_ref(attrs: WindowAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    wider = x.astype(np.float32) if is_narrow(x.dtype) else x
    fill = lowest(dt.as_dtype(x.dtype))
    parts = [part for _, part in window_elements(wider, attrs.windows(), fill)]
    return (np.maximum.reduce(parts).astype(x.dtype),)


def _max_axes(attrs: WindowAttrs, types: Types) -> LoopForm:
    (x,) = types
    axes, offsets = _loop(attrs, _result("window_max", attrs, x).shape)
    index, guard = _element(attrs, x, axes, offsets)
    element = widened(read(0, index, x.dtype, guard))
    return LoopForm(axes, (_or_else(guard, element, lowest(x.dtype)),), offsets, "maximum")


def _max_jvp(
    attrs: WindowAttrs, inputs: Values, outputs: Values, tangents: Cotangents
) -> tuple[Value | None, ...]:
    (dx,) = tangents
    if dx is None:
        return (None,)
    return (window_take(dx, window_argmax(inputs[0], outputs[0], attrs=attrs), attrs=attrs),)


window_max = structured(
    "window_max",
    "pooling",
    "The maximum of each window of elements of the last dims; NaN if one is NaN; padding is "
    "left out.",
    arity=1,
    attrs=WindowAttrs,
    type=_max_type,
    ref=_max_ref,
    eager=lambda attrs, ins, outs: kernels.reduced(
        np.maximum, ins[0], outs[0], attrs.windows(), lowest(ins[0].dtype)
    ),
    axes=_max_axes,
    cost=_window_cost,
    jvp=_max_jvp,
    samples=_window_samples(NUMBERS, dilated=False),
    dtypes=NUMBERS,
)


# ---- window_argmax


def _argmax_type(attrs: WindowAttrs, types: Types) -> tuple[TensorType, ...]:
    x, top = types
    require_dtype("window_argmax", "x", x, NUMBERS)
    _check_plain("window_argmax", attrs, x)
    result = _result("window_argmax", attrs, x)
    if top != result:
        raise ShapeError(
            f"window_argmax: top is {top}", fix=f"top must be {result}, the window_max"
        )
    return (result.with_dtype(dt.int32),)


def _argmax_ref(attrs: WindowAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, top = operands
    lengths = _lengths(attrs, x.shape)
    flat = np.arange(prod(lengths)).reshape(lengths)
    flat = np.broadcast_to(flat, x.shape).astype(np.int64)
    windows = attrs.windows()
    none = np.iinfo(np.int32).max
    first = np.full(top.shape, none, np.int64)
    positions = window_elements(flat, windows, none)
    fill = lowest(dt.as_dtype(x.dtype))
    for (_, element), (_, position) in zip(
        window_elements(x, windows, fill), positions, strict=True
    ):
        hit = (element == top) | (element != element)
        first = np.minimum(first, np.where(hit, position, none))
    return (first.astype(np.int32),)


def _argmax_axes(attrs: WindowAttrs, types: Types) -> LoopForm:
    x, top = types
    axes, offsets = _loop(attrs, top.shape)
    index, guard = _element(attrs, x, axes, offsets)
    element = widened(read(0, index, x.dtype, guard))
    hit = predicate("equal", element, widened(read(1, axes, top.dtype)))
    if x.dtype.is_float:
        hit = predicate("logical_or", hit, predicate("not_equal", element, element))
    if guard is not None:
        hit = predicate("logical_and", guard, hit)
    lead = x.rank - len(attrs.sizes)
    position = scalar_cast(flat_index(index[lead:], _lengths(attrs, x.shape)), dt.int32)
    body = select(hit, position, const(np.iinfo(np.int32).max, dt.int32))
    return LoopForm(axes, (body,), offsets, "minimum")


def _tied_cases(rng: np.random.Generator, dtype: DType) -> list[tuple[Array, Array, WindowAttrs]]:
    """Arrays of few distinct values, and their windowed maxima."""
    found = []
    for shape, attrs in _CASES:
        x = rng.integers(0, 4, shape).astype(dtype.numpy)
        found.append((x, _max_ref(attrs, [x])[0], attrs))
    return found


def _argmax_samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((x, top), attrs)
        for d in NUMBERS
        for x, top, attrs in _tied_cases(rng, d)[slice(None) if d is dt.float32 else slice(1, 4)]
    ]


def _position_cases(
    rng: np.random.Generator, dtypes: Sequence[DType]
) -> list[tuple[DType, Shape, Array, WindowAttrs]]:
    """dtype, shape of what the windows slide over, positions in the windows, and the windows."""
    return [
        (d, x.shape, _argmax_ref(attrs, [x, top])[0], attrs)
        for k, d in enumerate(dtypes)
        for n, (x, top, attrs) in enumerate(_tied_cases(rng, dt.int32))
        if d in (dt.float32, dt.float64) or (n + k) % 3 == 0
    ]


window_argmax = structured(
    "window_argmax",
    "pooling",
    "Where the maximum `top` of each window of x is first: the row-major position (i32) in the "
    "dims that the windows slide over.",
    arity=2,
    attrs=WindowAttrs,
    type=_argmax_type,
    ref=_argmax_ref,
    eager=lambda attrs, ins, outs: kernels.position_of_top(
        ins[0], outs[0], attrs.windows(), lowest(ins[0].dtype)
    ),
    axes=_argmax_axes,
    cost=_window_cost,
    samples=_argmax_samples,
    dtypes=NUMBERS,
    blank={"jvp": "the result is a position"},
)


# ---- window_take and window_put


def _place_type(op: str, attrs: WindowAttrs, x: TensorType, position: TensorType) -> TensorType:
    """The type of the results for elements x."""
    require_dtype(op, "position", position, (dt.int32,))
    _check_plain(op, attrs, x)
    result = _result(op, attrs, x)
    if position.shape != result.shape:
        raise ShapeError(f"{op}: position is {position}", fix=f"must be {list(result.shape)}")
    return result


def _take_ref(attrs: WindowAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, position = operands
    lead = x.shape[: x.ndim - len(attrs.sizes)]
    n = prod(_lengths(attrs, x.shape))
    flat = (
        position.reshape(*lead, prod(position.shape[len(lead) :])).clip(0, n - 1).astype(np.int64)
    )
    return (np.take_along_axis(x.reshape(*lead, n), flat, -1).reshape(position.shape),)


def _take_axes(attrs: WindowAttrs, types: Types) -> LoopForm:
    x, position = types
    axes = axis_vars(position.shape)
    lengths = _lengths(attrs, x.shape)
    flat = clamped(read(1, axes, position.dtype), prod(lengths))
    place = unflat_index(flat, lengths)
    return LoopForm(axes, (read(0, (*axes[: x.rank - len(lengths)], *place), x.dtype),))


def _take_transpose(
    attrs: WindowAttrs, inputs: Values, cts: Cotangents, operand: int
) -> Value | None:
    (ct,), (x, position) = cts, inputs
    if ct is None:
        return None
    return window_put(ct, position, lengths=_lengths(attrs, x.shape), **vars(attrs))


def _take_samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((TensorType(d, shape), position), attrs)
        for d, shape, position, attrs in _position_cases(rng, dt.ALL)
    ]


window_take = structured(
    "window_take",
    "pooling",
    "For each window the element of x at `position` (row-major in the dims that the windows slide "
    "over), which must be in that window.",
    arity=2,
    attrs=WindowAttrs,
    type=lambda attrs, types: (_place_type("window_take", attrs, *types),),
    ref=_take_ref,
    eager=lambda attrs, ins, outs: kernels.taken(ins, len(attrs.sizes)),
    axes=_take_axes,
    cost=lambda attrs, ins, outs: Cost(0, 2 * nbytes(*outs) + nbytes(ins[1])),
    linear=(0,),
    joint=True,
    transpose=_take_transpose,
    samples=_take_samples,
)


@dataclass(frozen=True)
class PutAttrs(WindowAttrs):
    """The windows, and the `lengths` of the dims that they slide over."""

    lengths: Shape = ()


def _put_type(attrs: PutAttrs, types: Types) -> tuple[TensorType, ...]:
    values, position = types
    require_dtype("window_put", "values", values, NUMBERS)
    x = values.with_shape(values.shape[: values.rank - len(attrs.sizes)] + attrs.lengths)
    result = _place_type("window_put", attrs, x, position)
    if values != result:
        raise ShapeError(f"window_put: values are {values}", fix=f"must be {result}")
    return (x,)


def _put_ref(attrs: PutAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    values, position = operands
    lead = values.shape[: values.ndim - len(attrs.sizes)]
    n = prod(attrs.lengths)
    rows = np.arange(prod(lead))[:, None]
    flat = position.reshape(prod(lead), prod(position.shape[len(lead) :])).clip(0, n - 1)

    def added(values: Array) -> Array:
        total = np.zeros((prod(lead), n), values.dtype)
        np.add.at(total, (rows, flat), values)
        return total

    wide = np.float32 if is_narrow(values.dtype) else values.dtype
    total = added_wide(added, values.reshape(flat.shape).astype(wide))
    return (total.reshape(*lead, *attrs.lengths).astype(values.dtype),)


def _put_axes(attrs: PutAttrs, types: Types) -> LoopForm:
    """For each element all windows that hold it; those count whose position it is."""
    values, position = types
    lead = values.rank - len(attrs.sizes)
    axes = axis_vars(values.shape[:lead] + attrs.lengths)
    offsets = axis_vars(attrs.sizes, "k")
    back = [w.adjoint(n) for w, n in zip(attrs.windows(), attrs.lengths, strict=True)]
    place, guard = places_of(back, axes[lead:], offsets, values.shape[lead:])
    index = (*axes[:lead], *place)
    here = scalar_cast(flat_index(axes[lead:], attrs.lengths), dt.int32)
    hit = predicate("equal", read(1, index, position.dtype, guard), here)
    value = widened(read(0, index, values.dtype, guard))
    return LoopForm(axes, (select(hit, value, const(0, value.dtype)),), offsets, "add")


def _put_transpose(attrs: PutAttrs, inputs: Values, cts: Cotangents, operand: int) -> Value | None:
    (ct,), (_, position) = cts, inputs
    if ct is None:
        return None
    fields = {name: field for name, field in vars(attrs).items() if name != "lengths"}
    return window_take(ct, position, **fields)


def _put_samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample(
            (TensorType(d, position.shape), position),
            PutAttrs(**vars(attrs), lengths=_lengths(attrs, shape)),
        )
        for d, shape, position, attrs in _position_cases(rng, NUMBERS)
    ]


window_put = structured(
    "window_put",
    "pooling",
    "Zeros with the value of each window added at its `position`, which must be in that window.",
    arity=2,
    attrs=PutAttrs,
    type=_put_type,
    ref=_put_ref,
    eager=lambda attrs, ins, outs: kernels.put(ins[0], outs[0], attrs.windows()),
    axes=_put_axes,
    cost=lambda attrs, ins, outs: Cost(outs[0].size * prod(attrs.sizes), nbytes(*ins, *outs)),
    linear=(0,),
    joint=True,
    transpose=_put_transpose,
    samples=_put_samples,
    dtypes=NUMBERS,
)

RECORDS = (window_sum, window_max, window_argmax, window_take, window_put)


# ---- functions


def _pool_attrs(
    op: str,
    x: Value,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int] | Pairs,
    dilation: int | Sequence[int],
    ceil_mode: bool = False,
) -> WindowAttrs:
    num_dims = x.type.rank - 2
    if num_dims < 1:
        raise ShapeError(f"{op}: x {x.type} has no dims to pool", fix="x is [N, C, …]")
    sizes = each(size, num_dims, "size")
    attrs = WindowAttrs(
        sizes,
        sizes if stride is None else each(stride, num_dims, "stride"),
        pairs(padding, num_dims),
        each(dilation, num_dims, "dilation"),
        (1,) * num_dims,
    )
    if not ceil_mode:
        return attrs
    around = (_ceil(w, n) for w, n in zip(attrs.windows(), x.shape[2:], strict=True))
    return replace(attrs, padding=tuple(around))


def _ceil(w: Window, length: int) -> tuple[int, int]:
    """Padding for one more window at the end, if that would begin before the padding there."""
    low, high = w.padding
    left_over = (length + low + high - 1 - w.span) % w.stride
    start = w.num_places(length) * w.stride - low
    return (low, high + w.stride - left_over) if left_over and start < length else (low, high)


def max_pool(
    x: Value,
    size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | Pairs = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Value:
    """Maxima of windows over the dims of x[N, C, …] after the channels. `stride` is `size` unless
    given; numbers stand for every dim. `ceil_mode` adds a last window that reaches over the end.
    The derivative goes to the first maximum of each window."""
    return window_max(
        x, attrs=_pool_attrs("max_pool", x, size, stride, padding, dilation, ceil_mode)
    )


@composite
def avg_pool(
    x: Value,
    *,
    size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] | Pairs = 0,
    count_include_pad: bool = True,
) -> Value:
    """Means of windows over the dims of x[N, C, …] after the channels. `stride` is `size` unless
    given; numbers stand for every dim. Without `count_include_pad` padding does not count."""
    require_float("avg_pool", "x", x)
    attrs = _pool_attrs("avg_pool", x, size, stride, padding, 1)
    w = wide(x)
    total = window_sum(w, attrs=attrs)
    if count_include_pad or not any(map(any, attrs.padding)):
        return as_type(times(total, 1.0 / prod(attrs.sizes)), x.dtype)
    count = window_sum(full(x.shape[2:], 1, w.dtype), attrs=attrs)
    return as_type(divide(total, broadcasted(count, total.shape)), x.dtype)
