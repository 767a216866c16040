"""Sums of products by BLAS: operands are turned and flattened as views wherever these can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, Final

import numpy as np

from rung.ir.op import Array
from rung.ir.types import Shape, TensorType
from rung.ops.eager.blas import threaded
from rung.ops.eager.elementwise import Kernel, is_narrow
from rung.ops.eager.reduction import sum_last, sum_middle

Dims = tuple[int, ...]
Place = tuple[int, int]
Difference = tuple[Place, Place, int]
Factor = Callable[[Array], Array]

_LONG_DOT: Final = 4096
"""The products of longer vectors are added up in parts."""
_NARROW, _PART = 16, 256
_KEPT: Final = 1 << 18


def _dims(order: Dims, rank: int, shape: Shape, now: Shape) -> Factor | None:
    """An operand with its dims in `order`, as `shape`; None where it is that already."""
    turned = order != tuple(range(rank))
    if not turned:
        return None if shape == now else lambda x: x.reshape(shape)
    if shape == tuple(now[d] for d in order):
        return lambda x: x.transpose(order)
    return lambda x: x.transpose(order).reshape(shape)


def _joined(f: Factor | None, g: Factor | None, product: Callable[..., Any]) -> Kernel:
    """The product of both factors."""
    if f is None:
        return product if g is None else lambda a, b: product(a, g(b))
    return (lambda a, b: product(f(a), b)) if g is None else lambda a, b: product(f(a), g(b))


def _shaped(kernel: Kernel, made: Shape, shape: Shape) -> Kernel:
    """The kernel with its result in `shape`."""
    if made == shape:
        return kernel if shape else lambda a, b: np.asarray(kernel(a, b))
    return lambda a, b: kernel(a, b).reshape(shape)


def _vectors(a: Array, b: Array) -> Any:
    """The product of two vectors."""
    if len(a) <= _LONG_DOT:
        return np.dot(a, b)
    return sum_last((a * b).reshape(1, -1))[0]


def _in_parts(a: Array, b: Array) -> Array:
    """The product of a[m, k] and b[k, n] of which one is narrow, added up in parts, since BLAS adds
    up all of k one after the other then."""
    (m, k), n = a.shape, b.shape[1]
    count = k // _PART
    whole = count * _PART
    left = a[:, :whole].reshape(m, count, _PART).transpose(1, 0, 2)
    parts = np.matmul(left, b[:whole].reshape(count, _PART, n))
    total = sum_middle(parts.reshape(1, count, m * n)).reshape(m, n)
    return total if whole == k else total + np.dot(a[:, whole:], b[whole:])


def contract(
    types: Sequence[TensorType],
    result: TensorType,
    batch: tuple[Dims, Dims],
    contracted: tuple[Dims, Dims],
) -> Kernel | None:
    """Sums of the products over the `contracted` dims for each point of the `batch` dims."""
    a, b = types
    if is_narrow(a):
        return None
    free = tuple(
        tuple(d for d in range(t.rank) if d not in batch[s] and d not in contracted[s])
        for s, t in enumerate((a, b))
    )
    lead = tuple(a.shape[d] for d in batch[0])
    m, n = prod(a.shape[d] for d in free[0]), prod(b.shape[d] for d in free[1])
    k = prod(a.shape[d] for d in contracted[0])
    if not contracted[0] or not result.size or not k:
        return _outer(a, b, result, batch, free, k if contracted[0] else 1)
    if not batch[0] and a.dtype.is_float:
        return _flat(a, b, result, free, contracted, (m, k, n))
    left = _dims((*batch[0], *free[0], *contracted[0]), a.rank, (*lead, m, k), a.shape)
    right = _dims((*batch[1], *contracted[1], *free[1]), b.rank, (*lead, k, n), b.shape)
    product = threaded(np.matmul, prod(lead) * m * k * n)
    return _shaped(_joined(left, right, product), (*lead, m, n), result.shape)


def _flat(
    a: TensorType,
    b: TensorType,
    result: TensorType,
    free: tuple[Dims, ...],
    contracted: tuple[Dims, Dims],
    sizes: tuple[int, int, int],
) -> Kernel:
    """A product without batch dims: of matrices, or of a matrix and a vector."""
    m, k, n = sizes
    rows, columns = (m,) if free[0] else (), (n,) if free[1] else ()
    skinny = k > _LONG_DOT and min(m, n) <= _NARROW and bool(rows or columns)
    if skinny:
        rows, columns = (m,), (n,)
    left = _dims((*free[0], *contracted[0]), a.rank, (*rows, k), a.shape)
    right = _dims((*contracted[1], *free[1]), b.rank, (k, *columns), b.shape)
    product: Callable[..., Any] = _vectors
    if rows or columns:
        product = threaded(np.dot, m * k * n)
    if skinny:
        product = _in_parts
    return _shaped(_joined(left, right, product), (*rows, *columns), result.shape)


def _outer(
    a: TensorType,
    b: TensorType,
    result: TensorType,
    batch: tuple[Dims, Dims],
    free: tuple[Dims, ...],
    k: int,
) -> Kernel:
    """Products that are not added up; zeros where there are none."""
    shape, dtype = result.shape, result.dtype.numpy
    if not k or not result.size:
        return lambda a, b: np.zeros(shape, dtype)
    lead = tuple(a.shape[d] for d in batch[0])
    own = tuple(a.shape[d] for d in free[0])
    theirs = tuple(b.shape[d] for d in free[1])
    left = _dims((*batch[0], *free[0]), a.rank, (*lead, *own, *(1,) * len(theirs)), a.shape)
    right = _dims((*batch[1], *free[1]), b.rank, (*lead, *(1,) * len(own), *theirs), b.shape)
    return _shaped(_joined(left, right, np.multiply), shape, shape)


# ---- products of which only some terms count


def differs(rows: int, columns: int, least: int) -> Array:
    """Where row - column >= `least`, as bool that cannot be written to."""
    return (_kept_mask if rows * columns <= _KEPT else _mask_of)(rows, columns, least)


@lru_cache(maxsize=64)
def _kept_mask(rows: int, columns: int, least: int) -> Array:
    return _mask_of(rows, columns, least)


def _mask_of(rows: int, columns: int, least: int) -> Array:
    mask = np.greater_equal(np.subtract.outer(np.arange(rows), np.arange(columns)), least)
    mask.setflags(write=False)
    return mask


def within(
    types: Sequence[TensorType],
    result: TensorType,
    batch: tuple[Dims, Dims],
    contracted: tuple[Dims, Dims],
    domain: tuple[Difference, ...],
    exact: Callable[[Array, Array], Array],
) -> Kernel | None:
    """As `contract`, where only the terms of the domain count. `exact` is for operands that are not
    finite where terms do not count."""
    product = contract(types, result, batch, contracted)
    if product is None or not result.size:
        return product
    places = _result_places(types, batch, contracted)
    pairs = {(0, d): (1, e) for d, e in zip(*contracted, strict=True)}
    pairs.update({e: d for d, e in pairs.items()})
    masks: list[Callable[[Array], Array]] = []
    operands: list[tuple[int, Callable[[Array], Array]]] = []
    for p, q, least in domain:
        if p in places and q in places:
            masks.append(_mask(result.shape, places[p], places[q], least))
        else:
            side = q[0] if p in pairs else p[0]
            first, second = (d if d[0] == side else pairs.get(d, d) for d in (p, q))
            if first[0] != second[0]:
                return None
            operands.append((side, _mask(types[side].shape, first[1], second[1], least)))

    def kernel(a: Array, b: Array) -> Array:
        factors = [a, b]
        for side, mask in operands:
            factors[side] = mask(factors[side])
        found = product(*factors)
        if operands and not np.isfinite(np.add.reduce(found, axis=None)):
            return exact(a, b)
        for mask in masks:
            found = mask(found)
        return found

    return kernel


def _result_places(
    types: Sequence[TensorType], batch: tuple[Dims, Dims], contracted: tuple[Dims, Dims]
) -> dict[Place, int]:
    """Which dim of the result each dim of the operands is."""
    found: dict[Place, int] = {}
    for s in (0, 1):
        found.update({(s, d): i for i, d in enumerate(batch[s])})
    next_dim = len(batch[0])
    for s, t in enumerate(types):
        for d in range(t.rank):
            if d not in batch[s] and d not in contracted[s]:
                found[s, d] = next_dim
                next_dim += 1
    return found


def _mask(shape: Shape, p: int, q: int, least: int) -> Callable[[Array], Array]:
    """x of `shape` with 0 where index along p - index along q < least."""
    if p == q:
        return (lambda x: x) if least <= 0 else np.zeros_like
    wide = tuple(n if d in (p, q) else 1 for d, n in enumerate(shape))

    def kernel(x: Array) -> Array:
        mask = differs(shape[p], shape[q], least)
        found: Array = np.where((mask if p < q else mask.T).reshape(wide), x, x.dtype.type(0))
        return found

    return kernel


