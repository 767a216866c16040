"""Ops that move elements: identities go, neighbours become one. Every rule keeps each bit, unless
its docstring says otherwise."""

from __future__ import annotations

from typing import Final, cast

from rung.ir.node import Node, Value
from rung.ir.rule import Rule, structural
from rung.ops.broadcast import broadcast_to, reduce_sum, reshape, reshaped
from rung.ops.contraction import DotAttrs, dot_general
from rung.ops.creation import ConstantAttrs, full
from rung.ops.elementwise import negative
from rung.ops.families import ReduceAttrs, add
from rung.ops.indexing import scatter_add
from rung.ops.movement import (
    ConcatAttrs,
    FlipAttrs,
    PadAttrs,
    PermuteAttrs,
    SliceAttrs,
    concat,
    flip,
    pad,
    permute,
    slice_,
)
from rung.ops.reduction import reduce_all, reduce_any, reduce_max, reduce_min, reduce_prod
from rung.rules.constants import SPREADING, filled, is_filled

REDUCTIONS: Final = (reduce_sum, reduce_prod, reduce_max, reduce_min, reduce_any, reduce_all)


# ---- identities


@structural(reshape, broadcast_to)
def reshape_to_itself(node: Node) -> Value | None:
    """reshape(x: [2,3], [2,3])  →  x        broadcast_to(x: [2,3], [2,3])  →  x"""
    x = node.inputs[0]
    return x if x.type == node.types[0] else None


@structural(permute)
def permute_to_itself(node: Node) -> Value | None:
    """permute(x, [0,1,2])  →  x"""
    dims = cast(PermuteAttrs, node.attrs).dims
    return node.inputs[0] if dims == tuple(range(len(dims))) else None


@structural(slice_)
def slice_of_all(node: Node) -> Value | None:
    """x[0:n:1]  →  x"""
    x = node.inputs[0]
    return x if x.type == node.types[0] else None


@structural(pad)
def pad_with_nothing(node: Node) -> Value | None:
    """pad(x, low=[0], high=[0])  →  x"""
    attrs = cast(PadAttrs, node.attrs)
    return None if any((*attrs.low, *attrs.high, *attrs.interior)) else node.inputs[0]


@structural(flip)
def flip_of_one(node: Node) -> Value | None:
    """flip(x: [1,3], dims=[0])  →  x        (dims of one element go)"""
    x, dims = node.inputs[0], cast(FlipAttrs, node.attrs).dims
    real = tuple(d for d in dims if x.shape[d] > 1)
    if real == dims and dims:
        return None
    return flip(x, dims=real) if real else x


@structural(concat)
def concat_of_empty(node: Node) -> Value | None:
    """concat(x, y: [0], z)  →  concat(x, z)        concat(x)  →  x"""
    dim = cast(ConcatAttrs, node.attrs).dim
    parts = [v for v in node.inputs if v.shape[dim]] or [node.inputs[0]]
    if len(parts) == 1:
        return parts[0]
    return None if len(parts) == len(node.inputs) else concat(*parts, attrs=node.attrs)


@structural(*REDUCTIONS)
def reduce_nothing(node: Node) -> Value | None:
    """reduce(x: [2,1,3], dims=[1])  →  reshape(x, [2,3])        (dims of one element; the sum of
    -0.0 alone becomes -0.0)"""
    x, dims = node.inputs[0], cast(ReduceAttrs, node.attrs).dims
    if any(x.shape[d] != 1 for d in dims) or x.type.dtype is not node.types[0].dtype:
        return None
    return reshaped(x, node.types[0].shape)


# ---- neighbours


@structural(reshape)
def reshape_of_reshape(node: Node) -> Value | None:
    """reshape(reshape(x, a), b)  →  reshape(x, b)"""
    inner = node.inputs[0].node
    return reshape(inner.inputs[0], attrs=node.attrs) if inner.op is reshape else None


@structural(permute)
def permute_of_permute(node: Node) -> Value | None:
    """permute(permute(x, a), b)  →  permute(x, a∘b)"""
    inner = node.inputs[0].node
    if inner.op is not permute:
        return None
    first, second = cast(PermuteAttrs, inner.attrs).dims, cast(PermuteAttrs, node.attrs).dims
    return permute(inner.inputs[0], dims=tuple(first[d] for d in second))


@structural(permute)
def permute_of_ones(node: Node) -> Value | None:
    """permute(x: [1,5], [1,0])  →  reshape(x, [5,1])        (when only dims of one move)"""
    x = node.inputs[0]
    moved = [d for d in cast(PermuteAttrs, node.attrs).dims if x.shape[d] != 1]
    return reshape(x, shape=node.types[0].shape) if moved == sorted(moved) else None


@structural(broadcast_to)
def broadcast_of_broadcast(node: Node) -> Value | None:
    """broadcast_to(broadcast_to(x, a), b)  →  broadcast_to(x, b)"""
    inner = node.inputs[0].node
    return broadcast_to(inner.inputs[0], attrs=node.attrs) if inner.op is broadcast_to else None


@structural(broadcast_to)
def broadcast_of_leading_ones(node: Node) -> Value | None:
    """broadcast_to(reshape(x: [3], [1,3]), s)  →  broadcast_to(x, s)"""
    inner = node.inputs[0].node
    if inner.op is not reshape:
        return None
    before, after = inner.inputs[0].shape, inner.types[0].shape
    lead = len(after) - len(before)
    if lead < 0 or after != (1,) * lead + before:
        return None
    return broadcast_to(inner.inputs[0], attrs=node.attrs)


@structural(reshape)
def reshape_of_leading_broadcast(node: Node) -> Value | None:
    """reshape(broadcast_to(x: [3], [1,3]), s)  →  reshape(x, s)        (nothing is repeated)"""
    inner = node.inputs[0].node
    if inner.op is not broadcast_to or inner.inputs[0].type.size != inner.types[0].size:
        return None
    return reshape(inner.inputs[0], attrs=node.attrs) if inner.types[0].size else None


@structural(*sorted(SPREADING, key=lambda op: op.name))
def moved_constant(node: Node) -> Value | None:
    """permute(broadcast_to(c, a), …): [b]  →  broadcast_to(c, b)        (c a constant)"""
    x = node.inputs[0]
    number = filled(x)
    if number is None or not x.shape or _is_plain(node):
        return None
    return full(node.types[0].shape, number.value, x.dtype)


def _is_plain(node: Node) -> bool:
    return node.op is broadcast_to and node.inputs[0].shape == ()


@structural(slice_)
def slice_of_slice(node: Node) -> Value | None:
    """x[a:b:s][c:d:t]  →  x[a+c·s : … : s·t]"""
    inner = node.inputs[0].node
    if inner.op is not slice_:
        return None
    first, second = cast(SliceAttrs, inner.attrs), cast(SliceAttrs, node.attrs)
    shape = node.types[0].shape
    starts, stops, steps = [], [], []
    for d, count in enumerate(shape):
        start = first.starts[d] + second.starts[d] * first.steps[d]
        step = first.steps[d] * second.steps[d]
        starts.append(start if count else 0)
        stops.append(start + (count - 1) * step + 1 if count else 0)
        steps.append(step)
    attrs = SliceAttrs(tuple(starts), tuple(stops), tuple(steps))
    return slice_(inner.inputs[0], attrs=attrs)


@structural(slice_)
def slice_of_concat(node: Node) -> Value | None:
    """concat(x, y)[part of y]  →  y[part]"""
    inner = node.inputs[0].node
    if inner.op is not concat:
        return None
    attrs, dim = cast(SliceAttrs, node.attrs), cast(ConcatAttrs, inner.attrs).dim
    start, stop = attrs.starts[dim], attrs.stops[dim]
    begin = 0
    for part in inner.inputs:
        end = begin + part.shape[dim]
        if begin <= start <= stop <= end:
            starts = _with(attrs.starts, dim, start - begin)
            stops = _with(attrs.stops, dim, stop - begin)
            return slice_(part, starts=starts, stops=stops, steps=attrs.steps)
        begin = end
    return None


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


@structural(slice_)
def slice_of_pad(node: Node) -> Value | None:
    """pad(x, low, high)[inside x]  →  x[…]"""
    inner = node.inputs[0].node
    if inner.op is not pad:
        return None
    padding, attrs, x = cast(PadAttrs, inner.attrs), cast(SliceAttrs, node.attrs), inner.inputs[0]
    if any(padding.interior):
        return None
    starts = tuple(a - low for a, low in zip(attrs.starts, padding.low, strict=True))
    stops = tuple(b - low for b, low in zip(attrs.stops, padding.low, strict=True))
    inside = all(0 <= a <= b <= n for a, b, n in zip(starts, stops, x.shape, strict=True))
    return slice_(x, starts=starts, stops=stops, steps=attrs.steps) if inside else None


@structural(pad)
def pad_of_pad(node: Node) -> Value | None:
    """pad(pad(x, a, b), c, d)  →  pad(x, a+c, b+d)        (equal values, nothing between or cut)"""
    inner = node.inputs[0].node
    if inner.op is not pad:
        return None
    first, second, dtype = (
        cast(PadAttrs, inner.attrs),
        cast(PadAttrs, node.attrs),
        node.types[0].dtype,
    )
    if ConstantAttrs(first.value, dtype) != ConstantAttrs(second.value, dtype):
        return None
    amounts = (*first.low, *first.high, *second.low, *second.high)
    if any(second.interior) or any(n < 0 for n in amounts):
        return None
    low = tuple(a + b for a, b in zip(first.low, second.low, strict=True))
    high = tuple(a + b for a, b in zip(first.high, second.high, strict=True))
    attrs = PadAttrs(low, high, first.interior, first.value)
    return pad(inner.inputs[0], attrs=attrs)


@structural(flip)
def flip_of_flip(node: Node) -> Value | None:
    """flip(flip(x, a), b)  →  flip(x, a ⊕ b)"""
    inner = node.inputs[0].node
    if inner.op is not flip:
        return None
    both = set(cast(FlipAttrs, inner.attrs).dims) ^ set(cast(FlipAttrs, node.attrs).dims)
    return flip(inner.inputs[0], dims=tuple(sorted(both)))


@structural(concat)
def concat_of_concat(node: Node) -> Value | None:
    """concat(concat(x, y), z)  →  concat(x, y, z)"""
    if not any(v.node.op is concat and v.node.attrs == node.attrs for v in node.inputs):
        return None
    parts: list[Value] = []
    for v in node.inputs:
        flat = v.node.op is concat and v.node.attrs == node.attrs
        parts.extend(v.node.inputs if flat else (v,))
    return concat(*parts, attrs=node.attrs)


@structural(reduce_max, reduce_min, reduce_any, reduce_all)
def reduce_of_reduce(node: Node) -> Value | None:
    """max(max(x, a), b)  →  max(x, a ∪ b)"""
    inner = node.inputs[0].node
    if inner.op is not node.op:
        return None
    first, second = cast(ReduceAttrs, inner.attrs).dims, cast(ReduceAttrs, node.attrs).dims
    x = inner.inputs[0]
    left = [d for d in range(len(x.shape)) if d not in first]
    return node.op(x, dims=tuple(sorted((*first, *(left[d] for d in second)))))


# ---- element-wise ops and movement


@structural(*sorted(SPREADING, key=lambda op: op.name), reduce_sum)
def moved_negative(node: Node) -> Value | None:
    """broadcast_to(-x)  →  -broadcast_to(x)        sum(-x)  →  -sum(x)        (the sign of a sum
    that is zero may change)"""
    inner = node.inputs[0].node
    if inner.op is not negative:
        return None
    return negative(node.op(inner.inputs[0], attrs=node.attrs))


@structural()
def spread_operands(node: Node) -> Value | None:
    """broadcast_to(x, s) * broadcast_to(y, s)  →  broadcast_to(x * y, s)        (x, y of one shape,
    or filled; signs go the other way, see `moved_negative`)"""
    if not node.op.elementwise or len(node.types) != 1 or node.op is negative:
        return None
    small: tuple[int, ...] | None = None
    for v in node.inputs:
        if filled(v) is None:
            if v.node.op is not broadcast_to or small not in (None, v.node.inputs[0].shape):
                return None
            small = v.node.inputs[0].shape
    if small is None:
        return None
    operands = [_unspread(v, small) for v in node.inputs]
    return broadcast_to(node.op(*operands, attrs=node.attrs), shape=node.types[0].shape)


def _unspread(v: Value, shape: tuple[int, ...]) -> Value:
    number = filled(v)
    return v.node.inputs[0] if number is None else full(shape, number.value, v.dtype)


@structural(add)
def sum_of_pads(node: Node) -> Value | None:
    """pad(x, [0], [2]) + pad(y, [3], [0])  →  concat(x, y)        (neighbours along one dim; -0.0
    there becomes 0.0 no more)"""
    first, second = (v.node for v in node.inputs)
    if first.op is not pad or second.op is not pad:
        return None
    a, b = cast(PadAttrs, first.attrs), cast(PadAttrs, second.attrs)
    shape = node.types[0].shape
    if any((*a.interior, *b.interior)) or a.value != 0 or b.value != 0:
        return None
    differing = [d for d in range(len(shape)) if (a.low[d], a.high[d]) != (b.low[d], b.high[d])]
    if len(differing) != 1:
        return None
    (dim,) = differing
    if a.low[dim] > b.low[dim]:
        first, second, a, b = second, first, b, a
    if min(a.low[dim], b.high[dim]) < 0 or a.high[dim] + b.low[dim] != shape[dim]:
        return None
    whole = concat(first.inputs[0], second.inputs[0], dim=dim)
    return pad(whole, low=a.low, high=_with(a.high, dim, b.high[dim]))


@structural(add)
def add_scattered(node: Node) -> Value | None:
    """scatter_add(x, j, v) + scatter_add(0, i, u)  →  scatter_add(scatter_add(x, j, v), i, u)

    Adds in another order. Anything else than a scatter is better added to the sums of the updates
    than before them: in the epilogue of what makes it, and with smaller rounding errors."""
    for v, x in (node.inputs, node.inputs[::-1]):
        inner = v.node
        if x.node.op is not scatter_add:
            continue
        if inner.op is scatter_add and is_filled(inner.inputs[0], 0, exact=False):
            return scatter_add(x, *inner.inputs[1:], attrs=inner.attrs)
    return None


# ---- products


@structural(permute)
def permute_of_product(node: Node) -> Value | None:
    """permute(dot(a, b): [batch, m, n])  →  dot(b, a): [batch, n, m]"""
    inner = node.inputs[0].node
    if inner.op is not dot_general:
        return None
    attrs, (a, b) = cast(DotAttrs, inner.attrs), inner.inputs
    num_batch, m = len(attrs.batch[0]), len(attrs.free(0, len(a.shape)))
    rank = len(node.types[0].shape)
    swapped = (*range(num_batch), *range(num_batch + m, rank), *range(num_batch, num_batch + m))
    if cast(PermuteAttrs, node.attrs).dims != swapped:
        return None
    domain = attrs.placed(lambda p: (1 - p[0], p[1]))
    swapped_attrs = DotAttrs(attrs.batch[::-1], attrs.contract[::-1], domain)
    return dot_general(b, a, attrs=swapped_attrs)


@structural(dot_general)
def product_of_permuted(node: Node) -> Value | None:
    """dot(permute(a), b)  →  dot(a, b)        (when the order of a's free dims stays)"""
    attrs = cast(DotAttrs, node.attrs)
    for side, v in enumerate(node.inputs):
        if v.node.op is not permute:
            continue
        dims = cast(PermuteAttrs, v.node.attrs).dims
        free = [dims[d] for d in attrs.free(side, len(v.shape))]
        if free == sorted(free):
            return _from_inside(node, side, dims)
    return None


def _from_inside(node: Node, side: int, dims: tuple[int, ...]) -> Value:
    """The product that reads the operand of the permute on `side`."""
    attrs = cast(DotAttrs, node.attrs)
    batch, contract, inputs = list(attrs.batch), list(attrs.contract), list(node.inputs)
    batch[side] = tuple(dims[d] for d in batch[side])
    contract[side] = tuple(dims[d] for d in contract[side])
    inputs[side] = inputs[side].node.inputs[0]
    domain = attrs.placed(lambda p: (side, dims[p[1]]) if p[0] == side else p)
    pair = DotAttrs((batch[0], batch[1]), (contract[0], contract[1]), domain)
    return dot_general(*inputs, attrs=pair)


RULES: Final[tuple[Rule, ...]] = (
    reshape_to_itself, permute_to_itself, slice_of_all, pad_with_nothing, flip_of_one,
    concat_of_empty, reduce_nothing, moved_constant, reshape_of_reshape, permute_of_permute,
    permute_of_ones, broadcast_of_broadcast, broadcast_of_leading_ones,
    reshape_of_leading_broadcast, slice_of_slice, slice_of_concat, slice_of_pad, pad_of_pad,
    flip_of_flip, concat_of_concat, reduce_of_reduce, moved_negative, spread_operands,
    sum_of_pads, add_scattered, permute_of_product, product_of_permuted,
)  # fmt: skip
