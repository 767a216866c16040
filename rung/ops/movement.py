"""Ops that only move elements: permute, slice, pad, flip, concat (reshape and broadcast_to stand in
`rung.ops.broadcast`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rung.core.dtype import DType, Scalar
from rung.core.errors import AxisError, ShapeError
from rung.ir.expr import (
    Expr,
    both,
    compare,
    const,
    iadd,
    ifloordiv,
    imod,
    imul,
    isub,
    raw_call,
    read,
)
from rung.ir.node import Value
from rung.ir.op import EVERY_OPERAND, Array, Attrs, LoopForm, Op, Sample, later
from rung.ir.types import Shape, TensorType
from rung.ops.broadcast import broadcast_to, reshape
from rung.ops.creation import ConstantAttrs
from rung.ops.eager import movement as moving
from rung.ops.families import (
    Types,
    axis_vars,
    moved,
    movement,
    require_dim,
    require_same_dtype,
    structured,
)
from rung.ops.samples import one_operand, over_dtypes

Cotangents = Sequence["Value | None"]


def _require_rank(op: str, field: str, given: int, x: TensorType) -> None:
    if given != x.rank:
        raise ShapeError(
            f"{op}: {field} has {given} entries, but x {x} has {x.rank} dims",
            fix=f"give one entry of {field} for each dim",
        )


# ---- permute


@dataclass(frozen=True)
class PermuteAttrs(Attrs):
    """Dim d of the result is dim `dims[d]` of the operand."""

    dims: tuple[int, ...]

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dims=(0, *later(self.dims)))


def _permute_type(attrs: PermuteAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    if sorted(attrs.dims) != list(range(x.rank)):
        raise AxisError(
            f"permute: dims {list(attrs.dims)} do not name each dim of x {x} once",
            fix=f"give an order of 0 … {x.rank - 1}" if x.rank else "give ()",
        )
    return (x.with_shape(tuple(x.shape[d] for d in attrs.dims)),)


def inverse_permutation(dims: tuple[int, ...]) -> tuple[int, ...]:
    """The order that undoes `dims`."""
    return tuple(dims.index(d) for d in range(len(dims)))


def _permute_axes(attrs: PermuteAttrs, types: Types) -> LoopForm:
    (out,) = _permute_type(attrs, types)
    axes = axis_vars(out.shape)
    index = tuple(axes[k] for k in inverse_permutation(attrs.dims))
    return LoopForm(axes, (read(0, index, out.dtype),))


def _permute_transpose(
    attrs: PermuteAttrs, inputs: Sequence[Value], cotangents: Cotangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else permute(ct, dims=inverse_permutation(attrs.dims))


_PERMUTES: tuple[tuple[Shape, tuple[int, ...]], ...] = (
    ((), ()), ((4,), (0,)), ((0, 3), (1, 0)), ((3, 7), (1, 0)), ((2, 3, 5), (2, 0, 1)),
    ((2, 3, 5), (0, 2, 1)), ((2, 3, 1, 4), (3, 1, 0, 2)),
)  # fmt: skip

permute: Op = movement(
    "permute",
    "Dims in another order: dim d of the result is dim `dims[d]` of x.",
    attrs=PermuteAttrs,
    type=_permute_type,
    ref=lambda attrs, operands: (np.array(np.transpose(operands[0], attrs.dims), order="C"),),
    axes=_permute_axes,
    eager=lambda attrs, ins, outs: moving.permute(attrs.dims),
    transpose=_permute_transpose,
    samples=over_dtypes([one_operand(s, PermuteAttrs(p)) for s, p in _PERMUTES]),
)


# ---- slice


@dataclass(frozen=True)
class SliceAttrs(Attrs):
    """For each dim: elements start, start + step, … below stop; 0 <= start <= stop <= length."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def with_axis(self, size: int) -> Attrs:
        return SliceAttrs((0, *self.starts), (size, *self.stops), (1, *self.steps))


def _slice_type(attrs: SliceAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    for field in ("starts", "stops", "steps"):
        _require_rank("slice", field, len(getattr(attrs, field)), x)
    shape = []
    for d, (n, start, stop, step) in enumerate(
        zip(x.shape, attrs.starts, attrs.stops, attrs.steps, strict=True)
    ):
        if not 0 <= start <= stop <= n or step < 1:
            raise ShapeError(
                f"slice: {start}:{stop}:{step} does not fit dim {d} of x {x}",
                fix=f"need 0 <= start <= stop <= {n} and step >= 1 (flip for a negative step)",
            )
        shape.append(-(-(stop - start) // step))
    return (x.with_shape(tuple(shape)),)


def _slice_ref(attrs: SliceAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    cut = tuple(map(slice, attrs.starts, attrs.stops, attrs.steps))
    return (np.array(operands[0][cut]),)


def _slice_axes(attrs: SliceAttrs, types: Types) -> LoopForm:
    (out,) = _slice_type(attrs, types)
    axes = axis_vars(out.shape)
    index = tuple(
        iadd(imul(i, step), start)
        for i, start, step in zip(axes, attrs.starts, attrs.steps, strict=True)
    )
    return LoopForm(axes, (read(0, index, out.dtype),))


def _slice_transpose(
    attrs: SliceAttrs, inputs: Sequence[Value], cotangents: Cotangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None:
        return None
    interior = tuple(s - 1 for s in attrs.steps)
    spans = [dilated_length(n, gap) for n, gap in zip(ct.shape, interior, strict=True)]
    high = tuple(
        n - start - span
        for n, start, span in zip(inputs[0].shape, attrs.starts, spans, strict=True)
    )
    return pad(ct, low=attrs.starts, high=high, interior=interior)


_SLICES: tuple[tuple[Shape, SliceAttrs], ...] = (
    ((), SliceAttrs((), (), ())),
    ((5,), SliceAttrs((1,), (4,), (1,))),
    ((5,), SliceAttrs((5,), (5,), (1,))),
    ((7,), SliceAttrs((0,), (7,), (3,))),
    ((8,), SliceAttrs((1,), (8,), (3,))),
    ((3, 7), SliceAttrs((1, 2), (3, 7), (1, 2))),
    ((0, 3), SliceAttrs((0, 1), (0, 3), (2, 2))),
    ((4, 6, 5), SliceAttrs((0, 5, 1), (4, 6, 4), (2, 1, 1))),
)

slice_: Op = movement(
    "slice",
    "The elements start, start + step, … below stop along each dim.",
    attrs=SliceAttrs,
    type=_slice_type,
    ref=_slice_ref,
    axes=_slice_axes,
    eager=lambda attrs, ins, outs: moving.cut(attrs.starts, attrs.stops, attrs.steps),
    transpose=_slice_transpose,
    samples=over_dtypes([one_operand(s, a) for s, a in _SLICES]),
)


# ---- pad


@dataclass(frozen=True)
class PadAttrs(Attrs):
    """For each dim: `low` elements before, `high` after (negative: cut off) and `interior` between
    neighbours; `value` fills them."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    interior: tuple[int, ...] = ()
    value: Scalar = 0

    def __post_init__(self) -> None:
        if not self.interior:
            object.__setattr__(self, "interior", (0,) * len(self.low))

    def with_axis(self, size: int) -> Attrs:
        return PadAttrs((0, *self.low), (0, *self.high), (0, *self.interior), self.value)

    def _key(self) -> tuple[object, ...]:
        value = self.value.hex() if isinstance(self.value, float) else self.value
        return (self.low, self.high, self.interior, type(self.value), value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PadAttrs) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def dilated_length(length: int, interior: int) -> int:
    """Length of a dim after `interior` elements are put between its neighbours."""
    return max(length + (length - 1) * interior, 0)


def _pad_type(attrs: PadAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    for field in ("low", "high", "interior"):
        _require_rank("pad", field, len(getattr(attrs, field)), x)
    shape = []
    for d, (n, low, high, gap) in enumerate(
        zip(x.shape, attrs.low, attrs.high, attrs.interior, strict=True)
    ):
        length = low + dilated_length(n, gap) + high
        if gap < 0 or length < 0:
            raise ShapeError(
                f"pad: low {low}, high {high}, interior {gap} do not fit dim {d} of x {x}",
                fix="interior must be >= 0, and no more can be cut off than is there",
            )
        shape.append(length)
    ConstantAttrs(attrs.value, x.dtype)
    return (x.with_shape(tuple(shape)),)


def _pad_ref(attrs: PadAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    (x,) = operands
    spans = [dilated_length(n, gap) for n, gap in zip(x.shape, attrs.interior, strict=True)]
    around = [(max(low, 0), max(high, 0)) for low, high in zip(attrs.low, attrs.high, strict=True)]
    whole = np.full([a + n + b for n, (a, b) in zip(spans, around, strict=True)], attrs.value)
    whole = whole.astype(x.dtype)
    inner = tuple(
        slice(a, a + n, gap + 1)
        for n, (a, _), gap in zip(spans, around, attrs.interior, strict=True)
    )
    whole[inner] = x
    cut = tuple(
        slice(max(-low, 0), n - max(-high, 0))
        for n, low, high in zip(whole.shape, attrs.low, attrs.high, strict=True)
    )
    return (np.array(whole[cut]),)


def _pad_axes(attrs: PadAttrs, types: Types) -> LoopForm:
    (x,) = types
    (out,) = _pad_type(attrs, types)
    axes = axis_vars(out.shape)
    index: list[Expr] = []
    inside: Expr | None = None
    for i, n, low, gap in zip(axes, x.shape, attrs.low, attrs.interior, strict=True):
        at = isub(i, low)
        inside = both(inside, compare("greater_equal", at, 0))
        inside = both(inside, compare("less", at, dilated_length(n, gap)))
        if gap:
            inside = both(inside, compare("equal", imod(at, gap + 1), 0))
        index.append(ifloordiv(at, gap + 1))
    body = read(0, tuple(index), x.dtype, inside)
    fill = ConstantAttrs(attrs.value, x.dtype)
    if inside is not None and fill != ConstantAttrs(0, x.dtype):
        body = raw_call("where", (inside, body, const(fill.value, x.dtype)), x.dtype)
    return LoopForm(axes, (body,))


def _pad_jvp(
    attrs: PadAttrs, inputs: Sequence[Value], outputs: Sequence[Value], tangents: Cotangents
) -> tuple[Value | None, ...]:
    (dx,) = tangents
    if dx is None:
        return (None,)
    return (pad(dx, low=attrs.low, high=attrs.high, interior=attrs.interior),)


def _pad_transpose(
    attrs: PadAttrs, inputs: Sequence[Value], cotangents: Cotangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None:
        return None
    low, high = tuple(-n for n in attrs.low), tuple(-n for n in attrs.high)
    whole = pad(ct, low=low, high=high) if any(low) or any(high) else ct
    if not any(attrs.interior):
        return whole
    steps = tuple(gap + 1 for gap in attrs.interior)
    return slice_(whole, starts=(0,) * len(steps), stops=whole.shape, steps=steps)


_PADS: tuple[tuple[Shape, PadAttrs], ...] = (
    ((), PadAttrs((), ())),
    ((3,), PadAttrs((1,), (2,))),
    ((3,), PadAttrs((1,), (2,), (1,), 1)),
    ((5,), PadAttrs((-1,), (-2,))),
    ((5,), PadAttrs((-1,), (3,), (2,))),
    ((4,), PadAttrs((2,), (-3,), (1,))),
    ((0, 3), PadAttrs((1, 0), (1, 0), (2, 0), 1)),
    ((3, 4), PadAttrs((1, 0), (0, 2), (0, 1))),
    ((2, 3, 4), PadAttrs((0, 1, 0), (0, 1, 0), (0, 0, 3), 1)),
)

pad: Op = movement(
    "pad",
    "x with `value` around it (or cut off, where negative) and between its elements.",
    attrs=PadAttrs,
    type=_pad_type,
    ref=_pad_ref,
    axes=_pad_axes,
    eager=lambda attrs, ins, outs: moving.pad(ins[0], outs[0], **vars(attrs)),
    jvp=_pad_jvp,
    transpose=_pad_transpose,
    samples=over_dtypes([one_operand(s, a) for s, a in _PADS]),
)


# ---- flip


@dataclass(frozen=True)
class FlipAttrs(Attrs):
    """The dims that are reversed."""

    dims: tuple[int, ...]

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dims=later(self.dims))


def _flip_type(attrs: FlipAttrs, types: Types) -> tuple[TensorType, ...]:
    for dim in attrs.dims:
        require_dim("flip", dim, types[0])
    if len(set(attrs.dims)) != len(attrs.dims):
        raise AxisError(f"flip: dims {list(attrs.dims)} name a dim twice", fix="name it once")
    return (types[0],)


def _flip_axes(attrs: FlipAttrs, types: Types) -> LoopForm:
    (x,) = types
    axes = axis_vars(x.shape)
    index = tuple(
        isub(const(x.shape[d] - 1), i) if d in attrs.dims else i for d, i in enumerate(axes)
    )
    return LoopForm(axes, (read(0, index, x.dtype),))


def _flip_transpose(
    attrs: FlipAttrs, inputs: Sequence[Value], cotangents: Cotangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else flip(ct, attrs=attrs)


_FLIPS: tuple[tuple[Shape, tuple[int, ...]], ...] = (
    ((), ()), ((5,), (0,)), ((0, 3), (0, 1)), ((3, 7), (1,)), ((2, 3, 5), (0, 2)), ((4,), ()),
)  # fmt: skip

flip: Op = movement(
    "flip",
    "The order of the elements reversed along `dims`.",
    attrs=FlipAttrs,
    type=_flip_type,
    ref=lambda attrs, operands: (np.array(np.flip(operands[0], attrs.dims)),),
    axes=_flip_axes,
    eager=lambda attrs, ins, outs: moving.flip(ins[0].rank, attrs.dims),
    transpose=_flip_transpose,
    samples=over_dtypes([one_operand(s, FlipAttrs(a)) for s, a in _FLIPS]),
)


# ---- concat


@dataclass(frozen=True)
class ConcatAttrs(Attrs):
    """The dim along which the operands stand one after the other."""

    dim: int

    def with_axis(self, size: int) -> Attrs:
        return replace(self, dim=self.dim + 1)


def _concat_type(attrs: ConcatAttrs, types: Types) -> tuple[TensorType, ...]:
    if not types:
        raise ShapeError("concat: needs at least one operand", fix="give the arrays to join")
    names = [f"operand {k}" for k in range(len(types))]
    require_same_dtype("concat", names, types)
    require_dim("concat", attrs.dim, types[0], names[0])
    for name, type in zip(names, types, strict=True):
        rest = [t.shape[: attrs.dim] + t.shape[attrs.dim + 1 :] for t in (types[0], type)]
        if type.rank != types[0].rank or rest[0] != rest[1]:
            raise ShapeError(
                f"concat: operand 0 {types[0]} and {name} {type} differ outside dim {attrs.dim}",
                fix=f"all lengths but that of dim {attrs.dim} must be equal",
            )
    length = sum(t.shape[attrs.dim] for t in types)
    shape = (*types[0].shape[: attrs.dim], length, *types[0].shape[attrs.dim + 1 :])
    return (types[0].with_shape(shape),)


def _concat_axes(attrs: ConcatAttrs, types: Types) -> LoopForm:
    (out,) = _concat_type(attrs, types)
    axes = axis_vars(out.shape)
    along = axes[attrs.dim]
    offsets = np.cumsum([0, *(t.shape[attrs.dim] for t in types)]).tolist()
    body: Expr | None = None
    for k in reversed(range(len(types))):
        begin, end = offsets[k], offsets[k + 1]
        if begin == end and len(types) > 1 and not (k == 0 and body is None):
            continue
        index = (*axes[: attrs.dim], isub(along, begin), *axes[attrs.dim + 1 :])
        inside = both(compare("greater_equal", along, begin), compare("less", along, end))
        element = read(k, index, out.dtype, inside)
        if body is None:
            body = element
        else:
            before_end = compare("less", along, end)
            body = raw_call("where", (before_end, element, body), out.dtype)
    assert body is not None
    return LoopForm(axes, (body,))


def _concat_transpose(
    attrs: ConcatAttrs, inputs: Sequence[Value], cotangents: Cotangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None:
        return None
    begin = sum(v.shape[attrs.dim] for v in inputs[:operand])
    shape = inputs[operand].shape
    starts = tuple(begin if d == attrs.dim else 0 for d in range(len(shape)))
    stops = tuple(a + n for a, n in zip(starts, shape, strict=True))
    return slice_(ct, starts=starts, stops=stops, steps=(1,) * len(shape))


def _concat_sample(dtype: DType, dim: int, *shapes: Shape) -> Sample:
    return Sample(tuple(TensorType(dtype, s) for s in shapes), ConcatAttrs(dim))


concat: Op = structured(
    "concat",
    "movement",
    "The operands one after the other along `dim`; their other lengths are equal.",
    arity=None,
    attrs=ConcatAttrs,
    type=_concat_type,
    ref=lambda attrs, operands: (np.concatenate(operands, attrs.dim),),
    axes=_concat_axes,
    eager=lambda attrs, ins, outs: moving.concat(attrs.dim),
    linear=EVERY_OPERAND,
    joint=True,
    transpose=_concat_transpose,
    cost=moved,
    samples=over_dtypes(
        [
            lambda d: _concat_sample(d, 0, (3,)),
            lambda d: _concat_sample(d, 0, (3,), (2,)),
            lambda d: _concat_sample(d, 0, (0, 3), (2, 3), (0, 3)),
            lambda d: _concat_sample(d, 0, (0,), (0,)),
            lambda d: _concat_sample(d, 1, (2, 3), (2, 1), (2, 4)),
            lambda d: _concat_sample(d, 1, (2, 3, 2), (2, 1, 2)),
        ]
    ),
)

RECORDS = (reshape, broadcast_to, permute, slice_, pad, flip, concat)


# ---- functions


def cut(x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """`x[start:stop:step]` along one dim."""
    starts = tuple(start if d == dim else 0 for d in range(len(x.shape)))
    stops = tuple(stop if d == dim else n for d, n in enumerate(x.shape))
    steps = tuple(step if d == dim else 1 for d in range(len(x.shape)))
    return slice_(x, starts=starts, stops=stops, steps=steps)


def move_last(x: Value, dims: tuple[int, ...]) -> Value:
    """`x` with `dims` moved behind the others, in the order given."""
    order = (*(d for d in range(len(x.shape)) if d not in dims), *dims)
    return x if order == tuple(range(len(order))) else permute(x, dims=order)
