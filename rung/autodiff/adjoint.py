"""What the text of a derivative calls beside the functions of rung (see `rung.grad_source`).

`d` is always the cotangent of a result, and what comes back that of an operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.core.errors import GradientError
from rung.tensor import creation, elementwise, linalg, reductions, shapes, tree
from rung.tensor.operate import as_tensor
from rung.tensor.state import TensorState

Axis = int | Sequence[int] | None


def seed(result: Any) -> Any:
    """The cotangent of the result itself: one. Raises GradientError where that is no number."""
    tensor = as_tensor(result)
    if tensor.shape != () or not tensor.dtype.is_float:
        raise GradientError(
            f"the function returns {tensor._type}, not a float scalar",
            fix="reduce it to one number, e.g. by mean() or sum()",
        )
    return creation.ones_like(tensor)


def zeros_like(x: Any) -> Any:
    """Zero for each number or tensor of a tree."""
    return tree.map(creation.zeros_like, x)


def plus(a: Any, b: Any) -> Any:
    """The sum of two cotangents, which may be trees."""
    return tree.map(elementwise.add, a, b)


def unbroadcast(d: Any, like: Any) -> Any:
    """`d` summed over the dims along which `like` was repeated, in its dtype."""
    d, like = as_tensor(d), as_tensor(like)
    if d.ndim > like.ndim:
        d = reductions.sum(d, axis=tuple(range(d.ndim - like.ndim)))
    repeated = tuple(i for i, n in enumerate(like.shape) if n == 1 and d.shape[i : i + 1] != (1,))
    if repeated and d.ndim == like.ndim:
        d = reductions.sum(d, axis=repeated, keepdims=True)
    if d.shape != like.shape:
        d = shapes.broadcast_to(d, like.shape)
    return d.astype(like.dtype) if like.dtype.is_float else d


def spread(d: Any, like: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """`d`, a result of reducing `like` over `axis`, repeated to its shape."""
    d = as_tensor(d)
    if not keepdims:
        axes = range(like.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
        dropped = {a % like.ndim for a in axes}
        d = d.reshape(tuple(1 if i in dropped else n for i, n in enumerate(like.shape)))
    return shapes.broadcast_to(d, like.shape)


def share(d: Any, x: Any, y: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Of the largest or smallest element: to those of x that are y, in equal parts."""
    hit = elementwise.equal(x, spread(y, x, axis, keepdims)).astype(x.dtype)
    return spread(d, x, axis, keepdims) * hit / reductions.sum(hit, axis=axis, keepdims=True)


def inside(d: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    """Of clip: to the elements within the bounds, half to those on one."""
    for bound, sign in ((low, 1), (high, -1)):
        if bound is not None:
            away = elementwise.sign(x - bound) * sign
            d = d * (0.5 + 0.5 * away)
    return d


def left_factor(d: Any, a: Any, b: Any) -> Any:
    """Of a @ b to a: `d @ b.mT`, for vectors and repeated matrices as well."""
    wide, _, other = _matrices(d, a, b)
    return unbroadcast(wide @ other.mT, _row(a)).reshape(a.shape)


def right_factor(d: Any, a: Any, b: Any) -> Any:
    """Of a @ b to b: `a.mT @ d`, for vectors and repeated matrices as well."""
    wide, other, _ = _matrices(d, a, b)
    return unbroadcast(other.mT @ wide, _column(b)).reshape(b.shape)


def _row(a: Any) -> Any:
    return a if a.ndim > 1 else a.reshape(1, -1)


def _column(b: Any) -> Any:
    return b if b.ndim > 1 else b.reshape(-1, 1)


def _matrices(d: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    x, y = _row(a), _column(b)
    shape = (*linalg.matmul(x, y).shape[:-2], x.shape[-2], y.shape[-1])
    return as_tensor(d).reshape(shape), x, y


def unpermuted(d: Any, axes: Sequence[int]) -> Any:
    """Of permute_dims: the dims where they were."""
    count = len(axes)
    return shapes.permute_dims(d, sorted(range(count), key=lambda i: axes[i] % count))


def split_like(d: Any, parts: Sequence[Any], axis: int | None = 0) -> list[Any]:
    """Of concat: a piece for each part."""
    if axis is None:
        pieces = shapes.split(d, [p.size for p in parts])
        return [piece.reshape(p.shape) for piece, p in zip(pieces, parts, strict=True)]
    return list(shapes.split(d, [p.shape[axis] for p in parts], axis))


def add_at(total: Any, index: Any, d: Any) -> Any:
    """`total` with `d` added at an index or key."""
    if isinstance(total, TensorState):
        total = as_tensor(total)
        if not _repeats(index):
            return set_at(total, index, total[index] + d)
        return total + _scattered(total, index, d)
    return set_at(total, index, plus(total[index], d))


def _repeats(index: Any) -> bool:
    """Whether an index may name an element twice: one with tensors or lists in it."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(not isinstance(p, int | slice | type(None) | type(...)) for p in parts)


def _scattered(total: Any, index: Any, d: Any) -> Any:
    """`d` at the places of an index, summed where one comes twice."""
    places = creation.arange(total.size).reshape(total.shape)[index].reshape(-1)
    values = shapes.broadcast_to(d, total[index].shape).reshape(-1)
    hits = creation.one_hot(places, total.size).astype(total.dtype)
    return (values @ hits).reshape(total.shape)


def set_at(x: Any, index: Any, value: Any) -> Any:
    """`x` with another value at an index or key; x itself stays."""
    if isinstance(x, TensorState):
        new = as_tensor(x).clone()
        new[index] = value
        return new
    if isinstance(x, dict):
        return {**x, index: value}
    items = list(x)
    items[index] = value
    return items if isinstance(x, list) else type(x)(items)
