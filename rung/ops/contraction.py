"""Contractions: `dot_general`, and `matmul` and `tensordot` above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from math import prod

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import accumulator
from rung.core.errors import AxisError, ShapeError
from rung.ir.expr import both, compare, const, isub, raw_call, read, var
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, EagerKernel, LoopForm, Sample, later
from rung.ir.types import Shape, TensorType
from rung.ops.accurate import added_wide
from rung.ops.batching import to_front
from rung.ops.broadcast import reshaped
from rung.ops.eager import contraction as kernels
from rung.ops.families import (
    NUMBERS,
    is_narrow,
    require_dtype,
    require_same_dtype,
    scalar_cast,
    structured,
    widened,
)
from rung.ops.shorthand import permuted

LONG = 512
"""The longest sum that the reference leaves to NumPy."""
Dims = tuple[int, ...]
Place = tuple[int, int]
"""A dim of an operand: (operand, dim)."""
Difference = tuple[Place, Place, int]
"""(p, q, least): index along p - index along q >= least."""


@dataclass(frozen=True)
class DotAttrs(Attrs):
    """Dims that are paired up: `batch` ones stay, in this order, in front; `contract` ones are
    summed over. Lists of `a` and `b` pair by position.

    `domain` says which terms count: those for which every difference holds. The others are not
    computed, whatever the operands hold there. With q [T, D], k [S, D] and the domain
    `(((0, 0), (1, 0), T - S),)`, each query sees the keys up to its own position."""

    batch: tuple[Dims, Dims] = ((), ())
    contract: tuple[Dims, Dims] = ((), ())
    domain: tuple[Difference, ...] = ()

    def with_axis(self, size: int) -> Attrs:
        return DotAttrs(
            ((0, *later(self.batch[0])), (0, *later(self.batch[1]))),
            (later(self.contract[0]), later(self.contract[1])),
            self.placed(lambda p: (p[0], p[1] + 1)),
        )

    def placed(self, move: Callable[[Place], Place]) -> tuple[Difference, ...]:
        """The domain with its places moved."""
        return tuple((move(p), move(q), least) for p, q, least in self.domain)

    def axes(self, ranks: tuple[int, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The axis of each dim of the operands: `b0…` batch, `m0…` and `n0…` free, `k0…`
        contracted ones."""
        names: tuple[dict[int, str], dict[int, str]] = ({}, {})
        for side, letter in enumerate("mn"):
            for prefix, dims in (
                ("b", self.batch[side]),
                (letter, self.free(side, ranks[side])),
                ("k", self.contract[side]),
            ):
                names[side].update((d, f"{prefix}{i}") for i, d in enumerate(dims))
        left, right = (tuple(x[d] for d in range(n)) for x, n in zip(names, ranks, strict=True))
        return left, right

    def free(self, side: int, rank: int) -> Dims:
        """The dims of operand `side` (0 or 1) that are neither batch nor contracted, in order."""
        taken = (*self.batch[side], *self.contract[side])
        return tuple(d for d in range(rank) if d not in taken)


def _pick(shape: Shape, dims: Dims) -> Shape:
    return tuple(shape[d] for d in dims)


def _check_operands(name: str, a: TensorType, b: TensorType) -> None:
    require_dtype(name, "a", a, NUMBERS)
    require_dtype(name, "b", b, NUMBERS)
    require_same_dtype(name, ("a", "b"), (a, b))


def _dot_type(attrs: DotAttrs, ins: Sequence[TensorType]) -> tuple[TensorType, ...]:
    a, b = ins
    _check_operands("dot_general", a, b)
    for side, (label, t) in enumerate((("a", a), ("b", b))):
        dims = (*attrs.batch[side], *attrs.contract[side])
        if len(set(dims)) != len(dims) or not all(0 <= d < t.rank for d in dims):
            raise AxisError(f"dot_general: dims {dims} of {label} {t} repeat or are out of range")
    for label, (left, right) in (("batch", attrs.batch), ("contracted", attrs.contract)):
        if len(left) != len(right):
            raise AxisError(f"dot_general: {label} dims {left} of a pair with {right} of b")
        if _pick(a.shape, left) != _pick(b.shape, right):
            raise ShapeError(
                f"dot_general: {label} dims differ: a {a} dims {left} with b {b} dims {right}",
                fix="paired dims must have equal sizes",
            )
    for p, q, _ in attrs.domain:
        for side, d in (p, q):
            if side not in (0, 1) or not 0 <= d < ins[side].rank:
                raise AxisError(f"dot_general: domain {attrs.domain}: no dim {d} of operand {side}")
    shape = (
        *_pick(a.shape, attrs.batch[0]),
        *_pick(a.shape, attrs.free(0, a.rank)),
        *_pick(b.shape, attrs.free(1, b.rank)),
    )
    return (TensorType(a.dtype, shape),)


def _canonical(attrs: DotAttrs, side: int, x: Array, last: bool) -> Array:
    """`x` as [batch…, free, contract] (or [batch…, contract, free])."""
    free, contract = attrs.free(side, x.ndim), attrs.contract[side]
    batch_shape = _pick(x.shape, attrs.batch[side])
    order = (*attrs.batch[side], *free, *contract) if last else (
        *attrs.batch[side], *contract, *free)  # fmt: skip
    sizes = (prod(_pick(x.shape, free)), prod(_pick(x.shape, contract)))
    return x.transpose(order).reshape(*batch_shape, *(sizes if last else sizes[::-1]))


def _dot_ref(attrs: DotAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    a, b = operands
    shape = (
        *_pick(a.shape, attrs.batch[0]),
        *_pick(a.shape, attrs.free(0, a.ndim)),
        *_pick(b.shape, attrs.free(1, b.ndim)),
    )
    wide = np.float32 if is_narrow(a.dtype) else a.dtype
    left = _canonical(attrs, 0, a.astype(wide, copy=False), last=True)
    right = _canonical(attrs, 1, b.astype(wide, copy=False), last=False)
    with np.errstate(all="ignore"):
        if attrs.domain:
            product = _product_within(attrs, operands, left, right)
        elif not attrs.contract[0]:  # no sum, which would begin with +0 and lose the sign of -0
            product = np.multiply(left, right)
        else:
            product = _product(left, right)
    return (product.reshape(shape).astype(a.dtype, copy=False),)


def _product(left: Array, right: Array) -> Array:
    """`left @ right` of which long sums are added up in f64, those of f64 in halves."""
    inner = left.shape[-1]
    if inner <= LONG:
        return np.asarray(np.matmul(left, right))
    if left.dtype == np.float32:
        return added_wide(np.matmul, left, right)
    half = inner // 2
    first = _product(left[..., :half], right[..., :half, :])
    return np.asarray(first + _product(left[..., half:], right[..., half:, :]))


def _product_within(attrs: DotAttrs, operands: Sequence[Array], left: Array, right: Array) -> Array:
    """The product of canonical factors [batch…, m, k] and [batch…, k, n] where only the terms of
    the domain count, whatever the others are."""
    in_left, in_right, in_product = _domain_masks(attrs, operands)
    zero = np.zeros((), left.dtype)
    if not attrs.contract[0]:
        counts = in_left & in_right & in_product
        return np.where(counts, np.multiply(left, right), zero)
    if np.all(np.isfinite(left)) and np.all(np.isfinite(right)):
        product = _product(np.where(in_left, left, zero), np.where(in_right, right, zero))
        return np.where(in_product, product, zero)
    in_left, in_right = np.broadcast_to(in_left, left.shape), np.broadcast_to(in_right, right.shape)
    product = np.zeros((*left.shape[:-1], right.shape[-1]), left.dtype)
    with np.errstate(all="ignore"):
        for i in range(left.shape[-1]):
            term = left[..., :, i, None] * right[..., None, i, :]
            counts = in_left[..., :, i, None] & in_right[..., None, i, :]
            product += np.where(counts, term, zero)
    return np.where(in_product, product, zero)


def _domain_masks(attrs: DotAttrs, operands: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Which elements of [batch…, m, k], [batch…, k, n] and [batch…, m, n] count: each difference is
    between two axes that one of these has."""
    names = attrs.axes((operands[0].ndim, operands[1].ndim))
    sizes = dict(zip(chain(*names), chain(*(x.shape for x in operands)), strict=True))
    masks = [np.ones((), bool) for _ in range(3)]
    for (s, d), (t, e), least in attrs.domain:
        p, q = names[s][d], names[t][e]
        which = next((side for side in (0, 1) if {p, q} <= set(names[side])), 2)
        first, second = ("mk", "kn", "mn")[which]
        groups = [_axes_of(letter, sizes) for letter in ("b", first, second)]
        order = [*chain(*groups)]
        index = np.indices([sizes[x] for x in order], sparse=True)
        difference = index[order.index(p)] - index[order.index(q)]
        counts = np.broadcast_to(difference >= least, [sizes[x] for x in order])
        batch = [sizes[x] for x in groups[0]]
        flat = [prod(sizes[x] for x in group) for group in groups[1:]]
        masks[which] = masks[which] & counts.reshape(*batch, *flat)
    return masks[0], masks[1], masks[2]


def _axes_of(letter: str, names: Iterable[str]) -> list[str]:
    """The axes of a kind, in order."""
    return sorted((x for x in names if x[0] == letter), key=lambda x: int(x[1:]))


def _dot_axes(attrs: DotAttrs, ins: Sequence[TensorType]) -> LoopForm:
    a, b = ins
    names = attrs.axes((a.rank, b.rank))
    extents = dict(zip(chain(*names), (*a.shape, *b.shape), strict=True))
    axis = {name: var(name, extent) for name, extent in extents.items()}
    reads = [
        widened(read(side, tuple(axis[n] for n in names[side]), t.dtype))
        for side, t in enumerate(ins)
    ]
    body = raw_call("multiply", tuple(reads), accumulator(a.dtype))
    guards = [
        compare("greater_equal", isub(axis[names[s][d]], axis[names[t][e]]), least)
        for (s, d), (t, e), least in attrs.domain
    ]
    guard = reduce(both, guards, None)
    result = tuple(axis[x] for letter in "bmn" for x in _axes_of(letter, axis))
    summed = tuple(axis[x] for x in _axes_of("k", axis))
    if not summed:
        element = scalar_cast(body, a.dtype)
        if guard is not None:
            element = raw_call("where", (guard, element, const(0, a.dtype)), a.dtype)
        return LoopForm(result, (element,))
    return LoopForm(result, (body,), summed, "add", guard=guard)


def _dot_transpose(
    attrs: DotAttrs, inputs: Sequence[Value], cotangents: Sequence[Value | None], operand: int
) -> Value | None:
    """ct[batch, m, n] with b[batch, k, n] gives a[batch, m, k]; then its dims go back in place."""
    ct = cotangents[0]
    if ct is None:
        return None
    other = 1 - operand
    mine, theirs = inputs[operand].type, inputs[other].type
    own_free, other_free = attrs.free(operand, mine.rank), attrs.free(other, theirs.rank)
    num_batch = len(attrs.batch[0])
    first_free = num_batch + (0 if other == 0 else len(own_free))
    ct_dims = tuple(range(first_free, first_free + len(other_free)))
    batch = tuple(range(num_batch))
    # the order of the contracted dims in the result is that of `other`
    by_position = sorted(range(len(attrs.contract[other])), key=lambda i: attrs.contract[other][i])
    contracted = tuple(attrs.contract[operand][i] for i in by_position)
    ct_first = (*attrs.batch[operand], *own_free, *contracted)
    other_first = (*attrs.batch[operand], *contracted, *own_free)
    if other_first == tuple(range(mine.rank)):  # comes out in place: [k, m] @ [m, n]
        domain = _transposed_domain(attrs, inputs, other, 0)
        dot = DotAttrs((attrs.batch[other], batch), (other_free, ct_dims), domain)
        return dot_general(inputs[other], ct, attrs=dot)
    domain = _transposed_domain(attrs, inputs, other, 1)
    dot = DotAttrs((batch, attrs.batch[other]), (ct_dims, other_free), domain)
    result = dot_general(ct, inputs[other], attrs=dot)
    return permuted(result, tuple(ct_first.index(d) for d in range(mine.rank)))


def _transposed_domain(
    attrs: DotAttrs, inputs: Sequence[Value], other: int, at: int
) -> tuple[Difference, ...]:
    """The domain of a product of the operand `other`, now operand `at`, with the cotangent."""
    names = attrs.axes((inputs[0].type.rank, inputs[1].type.rank))
    of_ct = [x for letter in "bmn" for x in _axes_of(letter, {*names[0], *names[1]})]

    def move(p: Place) -> Place:
        name = names[p[0]][p[1]]
        if name in names[other]:
            return at, names[other].index(name)
        return 1 - at, of_ct.index(name)

    return attrs.placed(move)


def _dot_cost(attrs: DotAttrs, ins: Sequence[TensorType], outs: Sequence[TensorType]) -> Cost:
    depth = prod(_pick(ins[0].shape, attrs.contract[0]))
    part = prod(_part_that_counts(d, ins) for d in attrs.domain)
    return Cost(int(2 * outs[0].size * depth * part), sum(t.nbytes for t in (*ins, *outs)))


def _part_that_counts(difference: Difference, ins: Sequence[TensorType]) -> float:
    """The part of the pairs of indices for which a difference holds."""
    (s, d), (t, e), least = difference
    p, q = ins[s].shape[d], ins[t].shape[e]
    counts = np.clip(np.arange(p) - least + 1, 0, q).sum()
    return float(counts) / max(p * q, 1)


def _dot_samples(rng: np.random.Generator) -> Sequence[Sample]:
    cases: list[tuple[Shape, Shape, DotAttrs]] = [
        ((3, 4), (4, 5), DotAttrs(contract=((1,), (0,)))),
        ((4,), (4,), DotAttrs(contract=((0,), (0,)))),
        ((3,), (2,), DotAttrs()),
        ((2, 3, 4), (2, 5, 4), DotAttrs(((0,), (0,)), ((2,), (2,)))),
        ((3, 2, 4), (4, 5, 2), DotAttrs(((1,), (2,)), ((2,), (0,)))),
        ((2, 3, 4, 5), (5, 6, 3), DotAttrs(contract=((3, 1), (0, 2)))),
        ((2, 2, 3), (2, 2), DotAttrs(((0, 1), (1, 0)), ((), ()))),
        ((3, 0), (0, 2), DotAttrs(contract=((1,), (0,)))),
        ((0, 3), (3, 2), DotAttrs(contract=((1,), (0,)))),
        ((17, 33), (33, 19), DotAttrs(contract=((1,), (0,)))),
        ((9, 4), (7, 4), DotAttrs(contract=((1,), (1,)), domain=(((0, 0), (1, 0), -2),))),
        ((2, 40, 40), (2, 40, 5), DotAttrs(
            ((0,), (0,)), ((2,), (1,)), domain=(((0, 1), (0, 2), 0),))),
        ((40, 3), (40, 21), DotAttrs(contract=((0,), (0,)), domain=(((1, 0), (1, 1), 1),))),
        ((40, 3), (40, 21), DotAttrs(contract=((0,), (0,)), domain=(((1, 1), (0, 0), -9),))),
        ((20, 20), (20, 6), DotAttrs(
            contract=((1,), (0,)), domain=(((0, 0), (0, 1), -1), ((1, 0), (0, 0), -4)))),
        ((3,), (2,), DotAttrs(domain=(((1, 0), (0, 0), 0),))),
    ]  # fmt: skip
    from_cases = [
        Sample((TensorType(float_, a), TensorType(float_, b)), attrs)
        for float_ in (dt.float32, dt.float64)
        for a, b, attrs in cases
    ]
    first = cases[0]
    others = [Sample((TensorType(d, first[0]), TensorType(d, first[1])), first[2]) for d in NUMBERS]
    return from_cases + others


def _dot_batch(
    attrs: DotAttrs, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """A batch dim where both operands have the axis, a free dim where one has it."""
    if all(batched):
        return (dot_general(*inputs, attrs=attrs.with_axis(size)),)
    side = batched.index(True)
    new = DotAttrs(
        _moved_on(attrs.batch, side),
        _moved_on(attrs.contract, side),
        attrs.placed(lambda p: (side, p[1] + 1) if p[0] == side else p),
    )
    before = len(new.free(0, inputs[0].type.rank)) if side else 0
    return (to_front(dot_general(*inputs, attrs=new), len(attrs.batch[0]) + before),)


def _moved_on(pair: tuple[Dims, Dims], side: int) -> tuple[Dims, Dims]:
    """The dims of both operands when that of `side` has one more in front."""
    return (later(pair[0]), pair[1]) if side == 0 else (pair[0], later(pair[1]))


def _dot_eager(
    attrs: DotAttrs, ins: Sequence[TensorType], outs: Sequence[TensorType]
) -> EagerKernel | None:
    if not attrs.domain:
        return kernels.contract(ins, outs[0], attrs.batch, attrs.contract)
    exact = partial(_dot_exact, attrs)
    return kernels.within(ins, outs[0], attrs.batch, attrs.contract, attrs.domain, exact)


def _dot_exact(attrs: DotAttrs, a: Array, b: Array) -> Array:
    return _dot_ref(attrs, (a, b))[0]


dot_general = structured(
    "dot_general",
    "contraction",
    "Sums of products over the `contract` dims of a and b, for each point of the `batch` dims. The "
    "result has the dims batch, free of a, free of b; 16-bit floats are summed in f32.",
    arity=2,
    attrs=DotAttrs,
    type=_dot_type,
    ref=_dot_ref,
    axes=_dot_axes,
    cost=_dot_cost,
    eager=_dot_eager,
    linear=(0, 1),
    transpose=_dot_transpose,
    batch=_dot_batch,
    samples=_dot_samples,
    dtypes=NUMBERS,
)


def matmul(a: Value, b: Value) -> Value:
    """The matrix product of the last two dims, `[…, m, k] @ […, k, n] -> […, m, n]`; leading dims
    are broadcast; a 1-d operand is a row (left) or a column (right) that leaves no dim behind.

    Raises ShapeError where the inner dimensions differ, a leading dim does not broadcast or an
    operand has no dims, DTypeError where the dtypes differ."""
    _check_matmul(a.type, b.type)
    if a.type.rank == 1 or b.type.rank <= 2:
        inner = 0 if b.type.rank == 1 else b.type.rank - 2
        return dot_general(a, b, contract=((a.type.rank - 1,), (inner,)))
    if a.type.rank == 2:  # [m, k] @ [batch…, k, n] comes out as [m, batch…, n]
        product = dot_general(a, b, contract=((1,), (b.type.rank - 2,)))
        order = (*range(1, b.type.rank - 1), 0, b.type.rank - 1)
        return permuted(product, order)
    return _batched_matmul(a, b)


def _batched_matmul(a: Value, b: Value) -> Value:
    """Leading dims of size 1 on one side are left out of the batch there: nothing is copied."""
    rank = max(a.type.rank, b.type.rank) - 2
    lead_a = (1,) * (rank + 2 - a.type.rank) + a.shape[:-2]
    lead_b = (1,) * (rank + 2 - b.type.rank) + b.shape[:-2]
    shared = [i for i in range(rank) if lead_a[i] == lead_b[i]]
    only_a = [i for i in range(rank) if lead_a[i] != lead_b[i] and lead_b[i] == 1]
    only_b = [i for i in range(rank) if lead_a[i] != lead_b[i] and lead_a[i] == 1]
    a = reshaped(a, (*(lead_a[i] for i in range(rank) if i not in only_b), *a.shape[-2:]))
    b = reshaped(b, (*(lead_b[i] for i in range(rank) if i not in only_a), *b.shape[-2:]))
    dims_a = [i for i in range(rank) if i not in only_b]
    dims_b = [i for i in range(rank) if i not in only_a]
    batch = (tuple(map(dims_a.index, shared)), tuple(map(dims_b.index, shared)))
    product = dot_general(a, b, batch=batch, contract=((len(dims_a) + 1,), (len(dims_b),)))
    # dims now: shared, only a, m, only b, n
    now = [*shared, *only_a, rank, *only_b, rank + 1]
    return permuted(product, tuple(now.index(d) for d in range(rank + 2)))


def _check_matmul(a: TensorType, b: TensorType) -> None:
    for label, t in (("a", a), ("b", b)):
        if t.rank == 0:
            raise ShapeError(f"matmul: {label} {t} has no dims", fix="use multiply for a scalar")
    _check_operands("matmul", a, b)
    inner_a, inner_b = a.shape[-1], b.shape[0 if b.rank == 1 else -2]
    if inner_a != inner_b:
        size = f"{inner_a} element{'s' * (inner_a != 1)}" if b.rank == 1 else f"{inner_a} rows"
        fix = f"b needs {size}"
        if b.rank >= 2 and b.shape[-1] == inner_a:
            fix += "; did you mean b.T?" if b.rank == 2 else "; did you mean b.mT?"
        elif a.rank >= 2 and a.shape[-2] == inner_b:
            fix += "; did you mean a.T @ b?" if a.rank == 2 else "; did you mean a.mT @ b?"
        raise ShapeError(f"matmul: inner dimensions differ: a {a} @ b {b}", fix=fix)
    pairs = zip(reversed(a.shape[:-2]), reversed(b.shape[:-2]), strict=False)
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        raise ShapeError(
            f"matmul: leading dimensions do not broadcast: a {a} @ b {b}",
            fix="leading dims must be equal or 1",
        )


def tensordot(a: Value, b: Value, dims: int | tuple[Sequence[int], Sequence[int]] = 2) -> Value:
    """Sum over `dims`: the last `dims` of `a` with the first of `b`, or lists of paired dims
    (negative ones count from the end). Result dims: the others of `a`, then of `b`.

    Raises ShapeError, AxisError or DTypeError."""
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.type.rank, b.type.rank):
            raise AxisError(f"tensordot: dims={dims} with a {a.type} and b {b.type}")
        left: Sequence[int] = range(a.type.rank - dims, a.type.rank)
        right: Sequence[int] = range(dims)
    else:
        if len(dims) != 2:
            raise AxisError(f"tensordot: dims={dims}", fix="give a number, or two lists of dims")
        left, right = dims
    pairs = (_normal(left, a.type, "a"), _normal(right, b.type, "b"))
    return dot_general(a, b, contract=pairs)


def _normal(dims: Sequence[int], t: TensorType, label: str) -> Dims:
    for d in dims:
        if not -t.rank <= d < t.rank:
            raise AxisError(f"tensordot: dim {d} is out of range for {label} {t}")
    return tuple(d % t.rank for d in dims)


RECORDS = (dot_general,)
