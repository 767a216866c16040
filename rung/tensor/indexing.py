"""`x[index]` and `x[index] = y`, with the indices of NumPy.

Integers, slices (also with negative steps), None and Ellipsis move and cut; integer arrays and
tensors gather; bool masks select where they are known, and assign everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import NO, read_int
from rung.core.errors import IndexingError, ShapeError, TraceError
from rung.ir.node import Value
from rung.ir.types import Shape
from rung.ops import movement as m
from rung.ops.broadcast import broadcasted, reshaped
from rung.ops.creation import constant
from rung.ops.dynamic import dynamic_update_slice
from rung.ops.elementwise import where
from rung.ops.indexing import gather, scatter
from rung.ops.indexing import take as take_op
from rung.ops.shorthand import permuted
from rung.tensor.leaf import tensor_type
from rung.tensor.operate import (
    Operand,
    as_tensor,
    cast_to,
    is_scalar,
    scalar_value,
    sequence_array,
)
from rung.tensor.shapes import broadcast_to, concat, expand_dims
from rung.tensor.sorting import checked_index
from rung.tensor.state import (
    TensorState,
    apply,
    begin_write,
    buffer_of,
    graph_value,
    new_tensor,
    state,
    write,
)

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


@dataclass(frozen=True)
class _Cut:
    """start:stop:step of a dim, normalized: `step` is never 0 and the slice lies inside."""

    start: int
    stop: int
    step: int

    def __len__(self) -> int:
        return len(range(self.start, self.stop, self.step))

    def forward(self) -> tuple[int, int, int]:
        """The same elements in rising order, for the slice op."""
        n = len(self)
        if n == 0:
            return 0, 0, 1
        last = self.start + (n - 1) * self.step
        low = min(self.start, last)
        return low, max(self.start, last) + 1, abs(self.step)


_NEW = object()
Item = Any
"""An int (from the front), a `_Cut`, a tensor of positions, or `_NEW` (a new dim)."""


def _is_mask(item: object) -> bool:
    if isinstance(item, bool | np.bool_):
        return True
    return isinstance(item, TensorState | np.ndarray) and item.dtype in (dt.bool_, np.bool_)


def _expanded(x: Tensor, index: object) -> list[Item]:
    """The items of an index, as many as x has dims: Ellipsis and what is left out spelled out."""
    items = list(index) if isinstance(index, tuple) else [index]
    items = [sequence_array(i) if isinstance(i, list) else i for i in items]
    used = 0
    for item in items:
        if item is None or item is Ellipsis:
            continue
        used += getattr(item, "ndim", 0) if _is_mask(item) else 1
    if used > x.ndim:
        raise IndexingError(
            f"{used} indices for {x._type}", fix=f"give at most {x.ndim} indices"
        )
    dots = [at for at, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexingError("an index has more than one Ellipsis", fix="keep one")
    at = dots[0] if dots else len(items)
    items[at : at + len(dots)] = [slice(None)] * (x.ndim - used)
    return items


def _normalized(x: Tensor, index: object) -> list[Item]:
    """Items with positions counted from the front and masks as positions."""
    found: list[Item] = []
    dim = 0
    for item in _expanded(x, index):
        if item is None:
            found.append(_NEW)
        elif isinstance(item, slice):
            found.append(_cut(item, x.shape[dim], dim))
            dim += 1
        elif _is_mask(item):
            positions = _mask_positions(x, item, dim)
            found += positions
            dim += len(positions)
        elif isinstance(item, TensorState | np.ndarray) and item.ndim > 0:
            found.append(checked_index("index", item, x.shape[dim]))
            dim += 1
        else:
            found.append(_position(x, item, dim))
            dim += 1
    return found


def _without_single_masks(x: Tensor, index: object) -> tuple[Tensor, object]:
    """x and an index without bools of no dims. Such a one stands for a new dim, of which it takes
    the one element or none."""
    if not any(_is_single_mask(i) for i in (index if isinstance(index, tuple) else (index,))):
        return x, index
    items = _expanded(x, index)
    dim = 0
    for at, item in enumerate(items):
        if item is None:
            continue
        if _is_single_mask(item):
            hit = bool(buffer_of(as_tensor(item), "the number of true elements").array)
            x = expand_dims(x, dim)
            items[at] = np.zeros(1 if hit else 0, np.int64)
        dim += items[at].ndim if _is_mask(item) else 1
    return x, tuple(items)


def _is_single_mask(item: object) -> bool:
    return _is_mask(item) and getattr(item, "ndim", 0) == 0


def _cut(item: slice, length: int, dim: int) -> _Cut:
    if isinstance(item.step, int) and item.step == 0:
        raise IndexingError(f"the slice of dim {dim} has the step 0", fix="give another step")
    try:
        return _Cut(*item.indices(length))
    except TraceError:
        raise TraceError(
            f"the bounds of a slice of dim {dim} are not known while jit traces",
            fix="bounds must be Python numbers; for a moving start use take(x, start + arange(n))",
        ) from None
    except (TypeError, ValueError):
        raise IndexingError(
            f"slice {item.start}:{item.stop}:{item.step} of dim {dim} is not made of integers",
            fix="give integers",
        ) from None


def _position(x: Tensor, item: Any, dim: int) -> Item:
    if isinstance(item, TensorState):
        if item.dtype.is_integer:
            return checked_index("index", item, x.shape[dim])
        raise IndexingError(f"index is a tensor {item._type}", fix="index with integers or a mask")
    if isinstance(item, np.ndarray):
        item = item.item()
    position = read_int(item)
    if position is NO:
        raise IndexingError(
            f"index {item!r} is {type(item).__name__}",
            fix="index with integers, slices, None, Ellipsis, integer tensors or bool masks",
        )
    length = x.shape[dim]
    if not -length <= position < length:
        raise IndexingError(
            f"index {position} is out of range for dim {dim} of {x._type}",
            fix=f"indices go from {-length} to {length - 1}" if length else "the dim is empty",
        )
    return position % length


def _mask_positions(x: Tensor, mask: Any, dim: int) -> list[Item]:
    mask = as_tensor(mask)
    if mask.ndim == 0:
        raise IndexingError(
            "a bool without dims stands beside other indices, and something is assigned",
            fix="assign through it alone, or with where()",
        )
    if not _mask_fits(mask, x.shape[dim : dim + mask.ndim]):
        raise IndexingError(
            f"mask {mask._type} does not fit dims {dim} to {dim + mask.ndim - 1} of {x._type}",
            fix="a mask has the lengths of the dims that it stands for",
        )
    array = buffer_of(mask, "the number of true elements").array
    return [as_tensor(np.ascontiguousarray(a)) for a in np.nonzero(array)]


def _mask_fits(mask: Tensor, dims: Shape) -> bool:
    """Whether a mask has the lengths of the dims that it stands for, or none (nothing is true)."""
    fits = len(mask.shape) == len(dims)
    return fits and all(n in (0, d) for n, d in zip(mask.shape, dims, strict=True))


# ---- reading


def getitem(x: Tensor, index: object) -> Tensor:
    """`x[index]`. Raises IndexingError."""
    x, index = _without_single_masks(x, index)
    items = _normalized(x, index)
    view = _view(x, items)
    if view is not None:
        return view
    if not any(isinstance(i, TensorState) for i in items):
        shape = _basic_shape(items)
        cuts = _dim_items(items)
        key = ("slice", tuple(cuts), shape)
        return apply(lambda v: reshaped(_sliced(v, cuts), shape), x, key=key)
    return _gathered(x, items)


def _view(x: Tensor, items: Sequence[Item]) -> Tensor | None:
    """Whole rows of a computed tensor, in the same memory: no program is needed."""
    buffer = x._buffer
    if buffer is None or state.trace is not None or state.mapping or x._requires_grad:
        return None
    offset, stride, size = 0, x.size, 1
    cut = False
    for item, length in zip(items, x.shape, strict=False):
        if isinstance(item, _Cut):
            whole = item == _Cut(0, length, 1)
            if (cut and not whole) or item.step != 1:
                return None
            stride = stride // length if length else 0
            offset += item.start * stride
            cut = cut or len(item) != 1 or length == 1
            size *= len(item)
        elif isinstance(item, int) and not cut:
            stride = stride // length if length else 0
            offset += item * stride
        else:
            return None
    if len(items) != x.ndim or size == 0:
        return None
    shape = tuple(len(i) for i in items if isinstance(i, _Cut))
    return new_tensor(buffer=buffer.part(offset, tensor_type(x.dtype, shape)))


def _dim_items(items: Sequence[Item]) -> list[Item]:
    """The items that stand for a dim of the operand."""
    return [i for i in items if i is not _NEW]


def _basic_shape(items: Sequence[Item]) -> Shape:
    lengths = [1 if i is _NEW else len(i) for i in items if not isinstance(i, int)]
    return tuple(lengths)


def _sliced(v: Value, items: Sequence[Item]) -> Value:
    """v cut by ints and cuts, every dim kept; dims with positions are taken whole."""
    bounds = [_bounds(i, n) for i, n in zip(items, v.shape, strict=True)]
    if any(b != (0, n, 1) for b, n in zip(bounds, v.shape, strict=True)):
        starts, stops, steps = zip(*bounds, strict=True)
        v = m.slice_(v, starts=starts, stops=stops, steps=steps)
    back = tuple(d for d, i in enumerate(items) if isinstance(i, _Cut) and i.step < 0)
    return m.flip(v, dims=back) if back else v


def _bounds(item: Item, length: int) -> tuple[int, int, int]:
    if isinstance(item, _Cut):
        low, high, step = item.forward()
        whole = low == 0 and step == 1 and high == length
        return (0, length, 1) if whole else (low, high, step)
    if isinstance(item, int):
        return item, item + 1, 1
    return 0, length, 1


def _gathered(x: Tensor, items: Sequence[Item]) -> Tensor:
    """Integer positions along some dims; ints beside them count as positions, as in NumPy."""
    cuts = [i if isinstance(i, _Cut) else _Cut(0, n, 1) for i, n in _with_lengths(x, items)]
    picked = [
        (dim, as_tensor(np.asarray(i, np.int64)) if isinstance(i, int) else i)
        for dim, i in enumerate(_dim_items(items))
        if not isinstance(i, _Cut)
    ]
    dims = [dim for dim, _ in picked]
    positions = _together([p for _, p in picked])
    place = _result_place(items)
    shape = _gathered_shape(items, place, positions[0].shape)
    rank = positions[0].ndim
    if len(dims) == 1:
        dim = dims[0]

        def build_one(v: Value, at: Value) -> Value:
            taken = take_op(_sliced(v, cuts), at, dim=dim)
            order = _moved(len(taken.shape), dim, rank, _before(items, place))
            return reshaped(permuted(taken, order), shape)

        return apply(build_one, x, positions[0])
    index = concat([expand_dims(p, -1) for p in positions], -1)
    rest = [d for d in range(x.ndim) if d not in dims]

    def build(v: Value, at: Value) -> Value:
        moved = permuted(_sliced(v, cuts), (*dims, *rest))
        found = gather(moved, at, batch_dims=0)
        order = _moved(len(found.shape), 0, rank, _before(items, place))
        return reshaped(permuted(found, order), shape)

    return apply(build, x, index)


def _with_lengths(x: Tensor, items: Sequence[Item]) -> list[tuple[Item, int]]:
    return list(zip(_dim_items(items), x.shape, strict=True))


def _together(positions: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of positions in one dtype and one shape."""
    try:
        shape = np.broadcast_shapes(*[p.shape for p in positions])
    except ValueError:
        given = ", ".join(str(p._type) for p in positions)
        raise IndexingError(
            f"index: positions do not broadcast together: {given}",
            fix="give positions of one shape, or index one dim after the other",
        ) from None
    same = all(p.dtype is positions[0].dtype for p in positions)
    dtype = positions[0].dtype if same else dt.int64
    return [cast_to(broadcast_to(p, shape), dtype) for p in positions]


def _result_place(items: Sequence[Item]) -> int:
    """Where among the items the dims of the positions come to stand: at the first of them if they
    are neighbours, else in front."""
    at = [k for k, i in enumerate(items) if not isinstance(i, _Cut) and i is not _NEW]
    return at[0] if at[-1] - at[0] == len(at) - 1 else 0


def _before(items: Sequence[Item], place: int) -> int:
    """How many sliced dims stand before the dims of the positions."""
    return sum(isinstance(i, _Cut) for i in items[:place])


def _moved(rank: int, start: int, count: int, to: int) -> tuple[int, ...]:
    """The order that brings the dims start … start + count before the other dim number `to`."""
    block = list(range(start, start + count))
    others = [d for d in range(rank) if d not in block]
    return (*others[:to], *block, *others[to:])


def _gathered_shape(items: Sequence[Item], place: int, positions: Shape) -> Shape:
    def lengths(some: Sequence[Item]) -> Shape:
        return tuple(1 if i is _NEW else len(i) for i in some if i is _NEW or isinstance(i, _Cut))

    return (*lengths(items[:place]), *positions, *lengths(items[place:]))


# ---- writing


def setitem(x: Tensor, index: object, y: Operand) -> None:
    """`x[index] = y`: puts an updated value into x. Raises IndexingError, ShapeError."""
    begin_write(x)
    if _is_mask(index):
        mask = as_tensor(index)
        traced = state.trace is not None or state.mapping
        if mask.ndim == 0 or is_scalar(y) or as_tensor(y).ndim == 0 or traced:
            _write_masked(x, mask, y)
            return
    items = _normalized(x, index)
    if all(isinstance(i, int) or i is _NEW or (isinstance(i, _Cut) and i.step == 1) for i in items):
        _write_block(x, items, y)
    else:
        _write_scattered(x, items, y)


def _update(x: Tensor, y: Operand, shape: Shape) -> Tensor:
    """y as a tensor of the dtype of x and of `shape`."""
    if is_scalar(y):
        scalar = y.item() if isinstance(y, np.generic) else y
        dtype = x.dtype
        return new_tensor(broadcasted(scalar_value("setitem", scalar, dtype), shape))
    update = cast_to(as_tensor(y), x.dtype)
    spare = update.ndim - len(shape)
    if spare > 0 and all(n == 1 for n in update.shape[:spare]):
        update = apply(lambda v: reshaped(v, v.shape[spare:]), update)
    try:
        fits = np.broadcast_shapes(update.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"setitem: {update._type} does not fit the place of shape {list(shape)} in {x._type}",
            fix="the right side must broadcast to the shape of the indexed part",
        )
    return broadcast_to(update, shape)


def _put(x: Tensor, value: Value, *others: Tensor) -> None:
    tracked = state.grad_enabled and any(t._requires_grad for t in (x, *others))
    write(x, value, requires_grad=tracked)


def _write_masked(x: Tensor, mask: Tensor, y: Operand) -> None:
    if not _mask_fits(mask, x.shape[: mask.ndim]):
        raise IndexingError(
            f"mask {mask._type} does not fit {x._type}",
            fix="a mask has the lengths of the first dims of the tensor",
        )
    if 0 in mask.shape:
        return
    update = _update(x, y, x.shape)
    spread = mask.shape + (1,) * (x.ndim - mask.ndim)
    chosen = broadcasted(reshaped(graph_value(mask), spread), x.shape)
    _put(x, where(chosen, graph_value(update), graph_value(x)), update)


def _write_block(x: Tensor, items: Sequence[Item], y: Operand) -> None:
    """One dense block: its corner is given by constants, which may change from call to call
    without a new program."""
    update = _update(x, y, _basic_shape(items))
    kept = _dim_items(items)
    sizes = tuple(1 if isinstance(i, int) else len(i) for i in kept)
    if prod(sizes) == 0:
        return
    value = reshaped(graph_value(update), sizes)
    dims = tuple(d for d, n in enumerate(sizes) if n != x.shape[d])
    if dims:
        corner = [kept[d] if isinstance(kept[d], int) else kept[d].start for d in dims]
        starts = [constant(value=c, dtype=dt.int64) for c in corner]
        value = dynamic_update_slice(graph_value(x), value, *starts, dims=dims)
    _put(x, value, update)


def _write_scattered(x: Tensor, items: Sequence[Item], y: Operand) -> None:
    """Any other place: the positions of its elements along each dim that is not whole."""
    whole = [isinstance(i, _Cut) and i == _Cut(0, n, 1) for i, n in _with_lengths(x, items)]
    picked = [not isinstance(i, _Cut) for i in _dim_items(items)]
    place = _result_place(items) if any(picked) else 0
    region = _Region(items, place)
    update = _update(x, y, region.result_shape)
    dims = [d for d, w in enumerate(whole) if not w]
    rest = [d for d, w in enumerate(whole) if w]
    index = concat([expand_dims(p, -1) for p in _together(region.positions(dims))], -1)
    order = (*dims, *rest)
    value = permuted(graph_value(x), order)
    many = index.shape[:-1]
    moved = permuted(reshaped(graph_value(update), region.kept_shape), region.order(dims, rest))
    updates = reshaped(moved, (*many, *[x.shape[d] for d in rest]))
    done = scatter(value, graph_value(index), updates, batch_dims=0)
    back = tuple(order.index(d) for d in range(x.ndim))
    _put(x, permuted(done, back), update)


class _Region:
    """The place that an index with positions or steps names.

    Its elements have the axes (dims of the positions, once; then each cut dim). `kept_shape` is the
    shape of the right side without new dims."""

    def __init__(self, items: Sequence[Item], place: int) -> None:
        self.items = _dim_items(items)
        self.picked = [d for d, i in enumerate(self.items) if not isinstance(i, _Cut)]
        tensors = [
            as_tensor(np.asarray(i, np.int64)) if isinstance(i, int) else i
            for i in self.items
            if not isinstance(i, _Cut)
        ]
        self.tensors = _together(tensors) if tensors else []
        self.block: Shape = self.tensors[0].shape if tensors else ()
        self.before = _before(items, place)
        self.cut_dims = [d for d, i in enumerate(self.items) if isinstance(i, _Cut)]
        lengths = [len(self.items[d]) for d in self.cut_dims]
        self.kept_shape = (*lengths[: self.before], *self.block, *lengths[self.before :])
        shape = _gathered_shape(items, place, self.block)
        self.result_shape = shape

    def positions(self, dims: Sequence[int]) -> list[Tensor]:
        """For each of `dims`, its positions over (dims of the positions, cut dims among `dims`)."""
        cut = [d for d in self.cut_dims if d in dims]
        found: list[Tensor] = []
        for d in dims:
            item = self.items[d]
            if isinstance(item, _Cut):
                steps = np.arange(item.start, item.stop, item.step, np.int64)
                shape = [1] * len(self.block) + [len(item) if c == d else 1 for c in cut]
                found.append(as_tensor(steps.reshape(shape)))
            else:
                at = self.tensors[self.picked.index(d)]
                ones = (1,) * len(cut)
                found.append(apply(lambda v, ones=ones: reshaped(v, v.shape + ones), at))
        return found

    def order(self, dims: Sequence[int], rest: Sequence[int]) -> tuple[int, ...]:
        """The order of dims that brings the right side to (positions, cut dims, whole dims)."""
        rank = len(self.block)
        block = range(self.before, self.before + rank)
        at = {
            d: k if k < self.before else k + rank for k, d in enumerate(self.cut_dims)
        }
        cut = [at[d] for d in self.cut_dims if d in dims]
        return (*block, *cut, *[at[d] for d in rest])
