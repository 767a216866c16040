"""Decompositions of matrices, the last two dims, which run on the host: LAPACK through NumPy.

Derivatives are those of the literature, written with other ops, so that they have derivatives
themselves: M. Giles, "Collected matrix derivative results" (2008); I. Murray, "Differentiation of
the Cholesky decomposition" (2016); S. Walter and L. Lehmann, "Algorithmic differentiation of linear
algebra functions" (2010); J. Townsend, "Differentiating the singular value decomposition" (2016);
G. Golub and V. Pereyra, "The differentiation of pseudo-inverses" (1973).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.core import dtype as dt
from rung.core.errors import GradientError, ShapeError
from rung.ir.node import Value, current_source
from rung.ir.op import Array, Attrs, Cost, Op
from rung.ir.types import TensorType
from rung.ops import lapack
from rung.ops.batching import all_with_axis
from rung.ops.broadcast import reshaped, spread
from rung.ops.contraction import matmul
from rung.ops.elementwise import divide, multiply, subtract, where
from rung.ops.families import Types, add, nbytes, require_dtype, require_same_dtype, structured
from rung.ops.matrix import (
    column_overlap,
    diagonal,
    identity,
    on_diagonal,
    over_columns,
    over_rows,
    overlap,
    symmetric,
    triangle,
    turned,
)
from rung.ops.matrix_samples import (
    definite,
    regular,
    symmetric_matrices,
    systems,
    triangular_systems,
    with_cutoff,
    with_rank,
)
from rung.ops.movement import concat, cut
from rung.ops.shorthand import number, permuted, times

Values = Sequence[Value]
Tangents = Sequence["Value | None"]
Made = tuple["Value | None", ...]
LAPACK_DTYPES = (dt.float32, dt.float64)


# ---- what all of them share


def _matrix(name: str, operand: str, x: TensorType, square: bool = True) -> None:
    """Raise DTypeError or ShapeError unless x holds matrices that LAPACK takes."""
    require_dtype(name, operand, x, LAPACK_DTYPES)
    if x.rank < 2:
        raise ShapeError(
            f"{name}: {operand} {x} is no matrix", fix="give two dims or more, [..., rows, columns]"
        )
    if square and x.shape[-1] != x.shape[-2]:
        raise ShapeError(
            f"{name}: {operand} {x} is not square", fix="the last two dims must be equal"
        )


def _square_type(name: str, results: Callable[[TensorType], Sequence[TensorType]]) -> Any:
    """The type rule of an op on one square matrix."""

    def rule(attrs: Attrs, types: Types) -> tuple[TensorType, ...]:
        _matrix(name, "x", types[0])
        return tuple(results(types[0]))

    return rule


def _cubic(factor: float) -> Any:
    """`factor` times m n min(m, n) operations for each matrix of the first operand."""

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Cost:
        x = ins[0]
        return Cost(int(factor * x.size * min(x.shape[-2:])), nbytes(*ins, *outs))

    return rule


def _on_host(
    name: str, doc: str, *, arity: int = 1, attrs: type[Attrs] = Attrs, flops: float, **columns: Any
) -> Op:
    """An op that the runtime calls on the host."""
    return structured(
        name,
        "linalg",
        doc,
        arity=arity,
        attrs=attrs,
        axes=None,
        host=True,
        cost=_cubic(flops),
        dtypes=LAPACK_DTYPES,
        blank={
            "axes": "LAPACK is called on whole matrices",
            "emit": "called by the runtime, between kernels",
        },
        **columns,
    )


def _one(function: Callable[[Array], Array]) -> Any:
    """The reference of an op with one operand and one result."""
    return lambda attrs, operands: (function(operands[0]),)


def _vector(x: TensorType) -> TensorType:
    """The shortest dim of a matrix as a vector: eigenvalues, singular values."""
    return x.with_shape((*x.shape[:-2], min(x.shape[-2:])))


def _scalar(x: TensorType) -> TensorType:
    return x.with_shape(x.shape[:-2])


def _over_matrix(x: Value, like: Value) -> Value:
    """A number for each matrix in all of its elements."""
    rank = like.type.rank
    return spread(x, (rank - 2, rank - 1), like.shape)


# ---- solve


def _check_system(name: str, types: Types) -> tuple[TensorType, ...]:
    a, b = types
    _matrix(name, "a", a)
    require_same_dtype(name, ("a", "b"), types)
    _matrix(name, "b", b, square=False)
    if a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(
            f"{name}: a {a} with b {b}",
            fix=f"b must be [{', '.join(map(str, (*a.shape[:-1], 'columns')))}]",
        )
    return (b,)


def _columns_batch(
    op: Op, attrs: Attrs, inputs: Values, batched: Sequence[bool], size: int
) -> tuple[Value, ...]:
    """Many right-hand sides of one matrix are more columns; else a matrix for each example."""
    if batched[0]:
        return op.build(all_with_axis(inputs, batched, size), attrs)
    a, b = inputs
    return (with_more_columns(lambda v: op(a, v, attrs=attrs), b, 1),)


def with_more_columns(solve_columns: Callable[[Value], Value], b: Value, first: int) -> Value:
    """`solve_columns` of matrices whose `first` first dims, which have the same left-hand sides,
    are laid beside each other: `[f…, …, n, k] -> […, n, f… k]`, and back."""
    rank = b.type.rank
    order = (*range(first, rank - 1), *range(first), rank - 1)
    moved = permuted(b, order)
    wide = reshaped(moved, (*moved.shape[: rank - first - 1], _size(moved, rank - first - 1)))
    back = tuple(order.index(d) for d in range(rank))
    return permuted(reshaped(solve_columns(wide), moved.shape), back)


def _size(x: Value, first: int) -> int:
    found = 1
    for n in x.shape[first:]:
        found *= n
    return found


def _solve_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """a ẋ = ḃ − ȧ x"""
    (a, _), (x,), (da, db) = inputs, outputs, tangents
    right = db if da is None else _minus(db, matmul(da, x))
    return (None if right is None else solve(a, right),)


def _minus(x: Value | None, y: Value) -> Value:
    return times(y, -1.0) if x is None else subtract(x, y)


def _solve_transpose(
    attrs: Attrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    return None if ct is None else solve(turned(inputs[0]), ct)


solve: Op = _on_host(
    "solve",
    "The x of a[..., n, n] x = b[..., n, k], by LU with pivots.",
    arity=2,
    type=lambda attrs, types: _check_system("solve", types),
    ref=lambda attrs, operands: (lapack.solve(*operands),),
    flops=2 / 3,
    linear=(1,),
    jvp=_solve_jvp,
    transpose=_solve_transpose,
    batch=lambda *given: _columns_batch(solve, *given),
    samples=systems,
)


@dataclass(frozen=True)
class TriangularAttrs(Attrs):
    """Which triangle of a counts; if it is transposed; if its diagonal is taken to be ones."""

    lower: bool = True
    transposed: bool = False
    unit: bool = False


def _triangular_ref(attrs: TriangularAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    a, b = operands
    return (lapack.triangular_solve(a, b, attrs.lower, attrs.transposed, attrs.unit),)


def _triangular_jvp(
    attrs: TriangularAttrs, inputs: Values, outputs: Values, tangents: Tangents
) -> Made:
    """t ẋ = ḃ − ṫ x"""
    (a, _), (x,), (da, right) = inputs, outputs, tangents
    if da is not None:
        inside = -1 if attrs.lower else 1
        dt_ = triangle(da, attrs.lower, inside if attrs.unit else 0)
        right = _minus(right, matmul(turned(dt_) if attrs.transposed else dt_, x))
    return (None if right is None else triangular_solve(a, right, attrs=attrs),)


def _triangular_transpose(
    attrs: TriangularAttrs, inputs: Values, cotangents: Tangents, operand: int
) -> Value | None:
    (ct,) = cotangents
    if ct is None:
        return None
    other = TriangularAttrs(attrs.lower, not attrs.transposed, attrs.unit)
    return triangular_solve(inputs[0], ct, attrs=other)


triangular_solve: Op = _on_host(
    "triangular_solve",
    "The x of t x = b[..., n, k], where t is a triangle of a[..., n, n] or its transpose.",
    arity=2,
    attrs=TriangularAttrs,
    type=lambda attrs, types: _check_system("triangular_solve", types),
    ref=_triangular_ref,
    flops=1,
    linear=(1,),
    jvp=_triangular_jvp,
    transpose=_triangular_transpose,
    batch=lambda *given: _columns_batch(triangular_solve, *given),
    samples=lambda rng: triangular_systems(rng, TriangularAttrs),
)


# ---- inverse and determinants


def _inv_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """−x⁻¹ ẋ x⁻¹"""
    (y,), (dx,) = outputs, tangents
    return (None if dx is None else times(matmul(matmul(y, dx), y), -1.0),)


inv = _on_host(
    "inv",
    "The inverse of x[..., n, n].",
    type=_square_type("inv", lambda x: (x,)),
    ref=_one(lapack.inv),
    flops=2,
    jvp=_inv_jvp,
    samples=regular,
)


def _det_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """trace(cof(x)ᵀ ẋ), which is there for singular x too"""
    (dx,) = tangents
    return (None if dx is None else overlap(cofactor(inputs[0]), dx),)


det = _on_host(
    "det",
    "The determinant of x[..., n, n], by LU with pivots.",
    type=_square_type("det", lambda x: (_scalar(x),)),
    ref=_one(lapack.det),
    flops=2 / 3,
    jvp=_det_jvp,
    samples=regular,
)


def _cofactor_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """trace(x⁻¹ ẋ) c − c (x⁻¹ ẋ)ᵀ, with c = det(x) x⁻ᵀ"""
    (x,), (c,), (dx,) = inputs, outputs, tangents
    if dx is None:
        return (None,)
    inverse = inv(x)
    trace = overlap(turned(inverse), dx)
    moved = turned(matmul(inverse, dx))
    return (subtract(multiply(_over_matrix(trace, c), c), matmul(c, moved)),)


cofactor = _on_host(
    "cofactor",
    "The derivative of the determinant by each element of x[..., n, n]: det(x) times the "
    "transposed inverse, but x may be singular.",
    type=_square_type("cofactor", lambda x: (x,)),
    ref=_one(lapack.cofactor),
    flops=22,
    jvp=_cofactor_jvp,
    samples=regular,
)


def _slogdet_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """trace(x⁻¹ ẋ)"""
    (dx,) = tangents
    return (None, None if dx is None else overlap(turned(inv(inputs[0])), dx))


slogdet = _on_host(
    "slogdet",
    "The sign and the logarithm of the magnitude of the determinant of x[..., n, n].",
    type=_square_type("slogdet", lambda x: (_scalar(x), _scalar(x))),
    ref=lambda attrs, operands: tuple(lapack.slogdet(operands[0])),
    flops=2 / 3,
    jvp=_slogdet_jvp,
    samples=regular,
)


# ---- Cholesky and QR


def _cholesky_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """L Φ(L⁻¹ ẋ L⁻ᵀ), where Φ keeps the lower triangle and half of the diagonal (Murray, eq. 8)"""
    (low,), (dx,) = outputs, tangents
    if dx is None:
        return (None,)
    half = triangular_solve(low, turned(triangular_solve(low, symmetric(dx))))
    kept = triangle(half, lower=True)
    on = on_diagonal(half.shape)
    return (matmul(low, where(on, times(kept, 0.5), kept)),)


cholesky = _on_host(
    "cholesky",
    "The lower triangle L of x[..., n, n] = L Lᵀ; the symmetric part of x counts.",
    type=_square_type("cholesky", lambda x: (x,)),
    ref=_one(lapack.cholesky),
    flops=1 / 3,
    jvp=_cholesky_jvp,
    samples=definite,
)


@dataclass(frozen=True)
class QrAttrs(Attrs):
    """`complete`: Q is square; else it has as many columns as the shorter dim."""

    complete: bool = False


def _qr_type(attrs: QrAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    _matrix("qr", "x", x, square=False)
    *lead, m, n = x.shape
    k = m if attrs.complete else min(m, n)
    return x.with_shape((*lead, m, k)), x.with_shape((*lead, k, n))


def _qr_jvp(attrs: QrAttrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """Of a wide matrix [a b], the square part a alone makes Q; the rest of R is Qᵀ b."""
    (x,), (q, r), (dx,) = inputs, outputs, tangents
    if dx is None:
        return (None, None)
    m, n = x.shape[-2:]
    if attrs.complete and m > n:
        raise GradientError(
            f"qr: {x.type} has no derivative by mode='complete': the columns of Q beyond those of "
            "x are arbitrary",
            fix="use mode='reduced'",
            source=current_source(),
        )
    if m >= n:
        return _tall_qr_jvp(q, r, dx)
    last = x.type.rank - 1
    dq, left = _tall_qr_jvp(q, cut(r, last, 0, m), cut(dx, last, 0, m))
    rest = add(
        matmul(turned(dq), cut(x, last, m, n)), matmul(turned(q), cut(dx, last, m, n))
    )  # fmt: skip
    return dq, concat(left, rest, dim=last)


def _tall_qr_jvp(q: Value, r: Value, dx: Value) -> tuple[Value, Value]:
    """Q̇ = Q (Ω − M) + ẋ R⁻¹ and Ṙ = (M − Ω) R, with M = Qᵀ ẋ R⁻¹ and the skew part
    Ω = low(M) − low(M)ᵀ (Walter and Lehmann, eq. 20)"""
    upper = TriangularAttrs(lower=False, transposed=True)
    right = turned(triangular_solve(r, turned(dx), attrs=upper))
    moved = matmul(turned(q), right)
    low = triangle(moved, lower=True, offset=-1)
    rest = subtract(moved, subtract(low, turned(low)))
    return subtract(right, matmul(q, rest)), matmul(rest, r)


qr = _on_host(
    "qr",
    "Q with orthonormal columns and the upper triangle R of x[..., m, n] = Q R.",
    attrs=QrAttrs,
    type=_qr_type,
    ref=lambda attrs, operands: tuple(lapack.qr(operands[0], attrs.complete)),
    flops=4,
    jvp=_qr_jvp,
    samples=lambda rng: with_rank(rng, [QrAttrs(False)], [QrAttrs(True)]),
)


# ---- eigenvalues


def _reciprocal_gaps(gaps: Value) -> Value:
    """1 / gaps, and 0 on the diagonal."""
    on = on_diagonal(gaps.shape)
    one = number(1, gaps)
    return where(on, number(0, gaps), divide(one, where(on, one, gaps)))


def _eigh_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """ẇ = diag(Vᵀ ẋ V), V̇ = V (F ∘ Vᵀ ẋ V), F_ij = 1 / (w_j − w_i) (Giles, 3.1)"""
    (w, v), (dx,) = outputs, tangents
    if dx is None:
        return (None, None)
    moved = matmul(symmetric(dx), v)
    gaps = subtract(over_rows(w, v.shape), over_columns(w, v.shape))
    turn = multiply(_reciprocal_gaps(gaps), matmul(turned(v), moved))
    return column_overlap(v, moved), matmul(v, turn)


eigh = _on_host(
    "eigh",
    "Eigenvalues, rising, and eigenvectors (columns) of x[..., n, n], whose symmetric part counts. "
    "Equal eigenvalues have eigenvectors without derivative: inf or NaN.",
    type=_square_type("eigh", lambda x: (_vector(x), x)),
    ref=lambda attrs, operands: tuple(lapack.eigh(operands[0])),
    flops=9,
    jvp=_eigh_jvp,
    samples=symmetric_matrices,
)


def _eigvalsh_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """diag(Vᵀ ẋ V)"""
    (dx,) = tangents
    if dx is None:
        return (None,)
    _, v = eigh.build(inputs)
    return (column_overlap(v, matmul(symmetric(dx), v)),)


eigvalsh = _on_host(
    "eigvalsh",
    "Eigenvalues, rising, of x[..., n, n], whose symmetric part counts.",
    type=_square_type("eigvalsh", lambda x: (_vector(x),)),
    ref=_one(lapack.eigvalsh),
    flops=4 / 3,
    jvp=_eigvalsh_jvp,
    samples=symmetric_matrices,
)


# ---- singular values


@dataclass(frozen=True)
class SvdAttrs(Attrs):
    """`full_matrices`: U and Vᵀ are square; else they have as many columns and rows as there are
    singular values."""

    full_matrices: bool = False


def _svd_type(attrs: SvdAttrs, types: Types) -> tuple[TensorType, ...]:
    (x,) = types
    _matrix("svd", "x", x, square=False)
    *lead, m, n = x.shape
    full = attrs.full_matrices
    k, rows, columns = min(m, n), m if full else min(m, n), n if full else min(m, n)
    return (
        x.with_shape((*lead, m, rows)),
        x.with_shape((*lead, k)),
        x.with_shape((*lead, columns, n)),
    )


def _svd_jvp(attrs: SvdAttrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """ṡ = diag(Uᵀ ẋ V); U̇ = U (F ∘ (P S + S Pᵀ)) + (1 − U Uᵀ) ẋ V S⁻¹ and V̇ likewise, with
    P = Uᵀ ẋ V and F_ij = 1 / (s_j² − s_i²) (Townsend, eqs. 11, 18, 19)"""
    (x,), (u, s, vh), (dx,) = inputs, outputs, tangents
    if dx is None:
        return (None, None, None)
    m, n = x.shape[-2:]
    if attrs.full_matrices and m != n:
        raise GradientError(
            f"svd: {x.type} has no derivative by full_matrices=True: the columns beyond the "
            "singular values are arbitrary",
            fix="use full_matrices=False, or svdvals",
            source=current_source(),
        )
    v = turned(vh)
    dxv = matmul(dx, v)
    p = matmul(turned(u), dxv)
    across, down = over_rows(s, p.shape), over_columns(s, p.shape)
    gaps = multiply(add(across, down), subtract(across, down))
    f = _reciprocal_gaps(gaps)
    ps, sp = multiply(p, across), multiply(down, p)
    du = matmul(u, multiply(f, add(ps, turned(ps))))
    dv = matmul(v, multiply(f, add(sp, turned(sp))))
    if m > n:
        du = add(du, _beyond(u, dxv, s))
    if n > m:
        dv = add(dv, _beyond(v, matmul(turned(dx), u), s))
    return du, diagonal(p), turned(dv)


def _beyond(u: Value, y: Value, s: Value) -> Value:
    """(1 − U Uᵀ) y S⁻¹"""
    rest = subtract(y, matmul(u, matmul(turned(u), y)))
    return divide(rest, over_rows(s, rest.shape))


svd = _on_host(
    "svd",
    "U, the singular values s (falling) and Vᵀ of x[..., m, n] = U diag(s) Vᵀ. Equal singular "
    "values have vectors without derivative: inf or NaN.",
    attrs=SvdAttrs,
    type=_svd_type,
    ref=lambda attrs, operands: tuple(lapack.svd(operands[0], attrs.full_matrices)),
    flops=20,
    jvp=_svd_jvp,
    samples=lambda rng: with_rank(rng, [SvdAttrs(False)], [SvdAttrs(True)]),
)


def _svdvals_type(attrs: Attrs, types: Types) -> tuple[TensorType, ...]:
    _matrix("svdvals", "x", types[0], square=False)
    return (_vector(types[0]),)


def _svdvals_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """diag(Uᵀ ẋ V)"""
    (dx,) = tangents
    if dx is None:
        return (None,)
    u, _, vh = svd.build(inputs, SvdAttrs())
    return (column_overlap(u, matmul(dx, turned(vh))),)


svdvals = _on_host(
    "svdvals",
    "The singular values of x[..., m, n], falling.",
    type=_svdvals_type,
    ref=_one(lapack.svdvals),
    flops=8 / 3,
    jvp=_svdvals_jvp,
    samples=lambda rng: with_rank(rng, [Attrs()]),
)


def _pinv_type(attrs: Attrs, types: Types) -> tuple[TensorType, ...]:
    x, rtol = types
    _matrix("pinv", "x", x, square=False)
    require_same_dtype("pinv", ("x", "rtol"), types)
    if rtol.shape != x.shape[:-2]:
        raise ShapeError(
            f"pinv: rtol {rtol} for x {x}", fix=f"rtol must have shape {list(x.shape[:-2])}"
        )
    return (x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-2])),)


def _pinv_jvp(attrs: Attrs, inputs: Values, outputs: Values, tangents: Tangents) -> Made:
    """−y ẋ y + y yᵀ ẋᵀ (1 − x y) + (1 − y x) ẋᵀ yᵀ y, where the rank stays (Golub and Pereyra,
    eq. 4.12)"""
    (x, _), (y,), (dx, _) = inputs, outputs, tangents
    if dx is None:
        return (None,)
    t, yt = turned(dx), turned(y)
    inner = matmul(matmul(y, dx), y)
    left = matmul(y, matmul(yt, matmul(t, _beside_identity(matmul(x, y)))))
    right = matmul(matmul(matmul(_beside_identity(matmul(y, x)), t), yt), y)
    return (subtract(add(left, right), inner),)


def _beside_identity(x: Value) -> Value:
    """1 − x"""
    return subtract(identity(x), x)


pinv = _on_host(
    "pinv",
    "The Moore-Penrose inverse of x[..., m, n]; singular values up to rtol[...] times the largest "
    "count as 0.",
    arity=2,
    type=_pinv_type,
    ref=lambda attrs, operands: (lapack.pinv(*operands),),
    flops=22,
    jvp=_pinv_jvp,
    samples=with_cutoff,
)

RECORDS = (
    solve, triangular_solve, inv, det, cofactor, slogdet, cholesky, qr, eigh, eigvalsh, svd,
    svdvals, pinv,
)  # fmt: skip
