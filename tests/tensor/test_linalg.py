"""Decompositions on tensors: values of NumPy, gradients of torch and of differences, errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung import linalg
from rung.core.errors import DTypeError, GradientError, LinAlgError, RungError, ShapeError
from rung.core.settings import configure

HERE = Path(__file__).name
RNG = np.random.default_rng(3)
Array = np.ndarray[Any, Any]
Function = Callable[[rung.Tensor], Any]


def regular(*shape: int) -> Array:
    """Matrices with singular values far apart and far from 0."""
    x = RNG.standard_normal(shape)
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    s = 1.0 + 0.7 * np.arange(min(shape[-2:]))
    return np.asarray((u * s) @ vh)


def definite(*shape: int) -> Array:
    u, s, _ = np.linalg.svd(regular(*shape))
    return np.asarray((u * s[..., None, :]) @ np.swapaxes(u, -1, -2))


A, S = regular(4, 4), definite(4, 4)
TALL, WIDE, STACK = regular(5, 3), regular(3, 5), regular(2, 3, 4, 4)
B = RNG.standard_normal((4, 2))


@pytest.fixture(params=(True, False), ids=("interpreted", "compiled"))
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(interpret=request.param)
    yield
    configure(interpret=False)


# ---- values

VALUES: list[tuple[str, Array, Function, Callable[[Any], Any]]] = [
    ("cholesky", S, linalg.cholesky, np.linalg.cholesky),
    ("cholesky upper", S, lambda x: linalg.cholesky(x, upper=True),
     lambda x: np.linalg.cholesky(x).T),
    ("det", STACK, linalg.det, np.linalg.det),
    ("slogdet", STACK, linalg.slogdet, np.linalg.slogdet),
    ("inv", STACK, linalg.inv, np.linalg.inv),
    ("pinv", TALL, linalg.pinv, np.linalg.pinv),
    ("pinv with a cutoff", TALL, lambda x: linalg.pinv(x, rtol=0.5),
     lambda x: np.linalg.pinv(x, rtol=0.5)),
    ("pinv with cutoffs", STACK, lambda x: linalg.pinv(x, rtol=rung.asarray([[0.5], [0.1]])),
     lambda x: np.linalg.pinv(x, rtol=np.array([[0.5], [0.1]]))),
    ("qr", TALL, linalg.qr, np.linalg.qr),
    ("qr complete", TALL, lambda x: linalg.qr(x, mode="complete"),
     lambda x: np.linalg.qr(x, "complete")),
    ("qr wide", WIDE, linalg.qr, np.linalg.qr),
    ("eigh", S, linalg.eigh, np.linalg.eigh),
    ("eigvalsh", S, linalg.eigvalsh, np.linalg.eigvalsh),
    ("svd", WIDE, linalg.svd, np.linalg.svd),
    ("svd reduced", WIDE, lambda x: linalg.svd(x, full_matrices=False),
     lambda x: np.linalg.svd(x, full_matrices=False)),
    ("svdvals", STACK, linalg.svdvals, np.linalg.svdvals),
    ("matrix_rank", np.diag([3.0, 1e-9, 0.0, 1.0]), linalg.matrix_rank, np.linalg.matrix_rank),
    ("matrix_rank with a cutoff", S, lambda x: linalg.matrix_rank(x, rtol=0.5),
     lambda x: np.linalg.matrix_rank(x, rtol=0.5)),
    ("solve", STACK, lambda x: linalg.solve(x, rung.asarray(B)), lambda x: np.linalg.solve(x, B)),
    ("solve for a vector", STACK, lambda x: linalg.solve(x, rung.asarray(B[:, 0])),
     lambda x: np.linalg.solve(x, B[:, 0])),
    ("solve for many", A, lambda x: linalg.solve(x, rung.asarray(STACK)),
     lambda x: np.linalg.solve(x, STACK)),
    ("solve broadcast", STACK[:, :1], lambda x: linalg.solve(x, rung.asarray(STACK[:1, :])),
     lambda x: np.linalg.solve(x, STACK[:1, :])),
    *((f"matrix_power {n}", STACK, lambda x, n=n: linalg.matrix_power(x, n),
       lambda x, n=n: np.linalg.matrix_power(x, n)) for n in (0, 1, 2, 5, -1, -3)),
    *((f"matrix_norm {n}", STACK, lambda x, n=n: linalg.matrix_norm(x, ord=n),
       lambda x, n=n: np.linalg.matrix_norm(x, ord=n)) for n in (2, -2, "nuc", "fro", 1, np.inf)),
    ("matrix_norm keepdims", STACK, lambda x: linalg.matrix_norm(x, ord=2, keepdims=True),
     lambda x: np.linalg.matrix_norm(x, ord=2, keepdims=True)),
    *((f"cond {p}", A, lambda x, p=p: linalg.cond(x, p), lambda x, p=p: np.linalg.cond(x, p))
      for p in (None, 2, -2, 1, -1, np.inf, "fro")),
    *((f"norm {given}", TALL, lambda x, g=given: linalg.norm(x, **g),
       lambda x, g=given: np.linalg.norm(x, **g))
      for given in ({}, {"ord": 1}, {"ord": 2}, {"ord": "nuc"}, {"axis": 0}, {"axis": (1, 0)},
                    {"ord": 1, "axis": (1, 0)}, {"ord": 3, "axis": -1, "keepdims": True},
                    {"ord": -2, "axis": (0, 1), "keepdims": True})),
    ("lstsq", TALL, lambda x: linalg.lstsq(x, rung.asarray(np.arange(10.0).reshape(5, 2))),
     lambda x: np.linalg.lstsq(x, np.arange(10.0).reshape(5, 2), rcond=None)),
    ("lstsq for a vector", WIDE, lambda x: linalg.lstsq(x, rung.asarray(np.arange(3.0))),
     lambda x: np.linalg.lstsq(x, np.arange(3.0), rcond=None)),
    ("multi_dot", TALL, lambda x: linalg.multi_dot([x, x.T, x, B[:3, 0]]),
     lambda x: np.linalg.multi_dot([x, x.T, x, B[:3, 0]])),
    ("tensordot", STACK, lambda x: rung.tensordot(x, rung.asarray(B), axes=((-1,), (0,))),
     lambda x: np.tensordot(x, B, ((-1,), (0,)))),
]  # fmt: skip


def flat(result: Any) -> list[Array]:
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(p) for p in parts]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", VALUES, ids=lambda c: c[0])
def test_values_are_those_of_numpy(case: tuple[str, Array, Function, Callable[[Any], Any]]) -> None:
    _, x, ours, theirs = case
    wanted = flat(theirs(x))
    for run in (ours, rung.jit(ours)):
        found = flat(run(rung.asarray(x)))
        assert [f.shape for f in found] == [w.shape for w in wanted]
        for f, w in zip(found, wanted, strict=True):
            np.testing.assert_allclose(f, w, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("both_ways")
def test_triangles() -> None:
    torch = pytest.importorskip("torch")
    a, b = torch.tensor(STACK + 3 * np.eye(4)), torch.tensor(B)
    for upper in (False, True):
        for unit in (False, True):
            wanted = torch.linalg.solve_triangular(a, b, upper=upper, unitriangular=unit)
            found = linalg.solve_triangular(a.numpy(), B, upper=upper, unitriangular=unit)
            np.testing.assert_allclose(found, wanted, rtol=1e-9)
            given = torch.tensor(B.T.copy())
            wanted = torch.linalg.solve_triangular(
                a, given, upper=upper, left=False, unitriangular=unit
            )
            found = linalg.solve_triangular(
                a.numpy(), B.T, upper=upper, left=False, unitriangular=unit
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-9)
        factor = linalg.cholesky(S, upper=upper)
        found = linalg.cholesky_solve(B, factor, upper=upper)
        np.testing.assert_allclose(found, np.linalg.solve(S, B), rtol=1e-10)


def test_substitution_is_accurate_in_each_element() -> None:
    """What is left is as small as the rounding errors of its own row, however badly scaled the
    matrix is; a decomposition with exchanged rows would not reach that."""
    rng = np.random.default_rng(0)
    for upper in (False, True) * 20:
        scale = 10.0 ** rng.uniform(-6, 6, (2, 8))
        a = rng.standard_normal((8, 8)) * scale[0] * scale[1][:, None]
        b = rng.standard_normal((8, 1))
        t = np.triu(a) if upper else np.tril(a)
        x = linalg.solve_triangular(a, b, upper=upper).numpy()
        assert (np.abs(t @ x - b) <= 20 * 2.0**-53 * (np.abs(t) @ np.abs(x))).all()


def test_results_have_names() -> None:
    x = rung.asarray(S)
    assert linalg.eigh(x)._fields == ("eigenvalues", "eigenvectors")
    assert linalg.qr(x)._fields == ("Q", "R")
    assert linalg.slogdet(x)._fields == ("sign", "logabsdet")
    assert linalg.svd(x)._fields == ("U", "S", "Vh")
    assert isinstance(rung.jit(linalg.svd)(x), linalg.SVDResult)


def test_single_precision_stays() -> None:
    x = rung.asarray(S.astype(np.float32))
    for f in (linalg.cholesky, linalg.inv, linalg.det, linalg.svdvals, linalg.pinv, linalg.cond):
        assert f(x).dtype is rung.float32
        np.testing.assert_allclose(f(x), f(rung.asarray(S)), rtol=1e-4)
    assert linalg.solve(x, rung.asarray(B)).dtype is rung.float64
    assert linalg.matrix_rank(x).dtype is rung.int64


@pytest.mark.usefixtures("both_ways")
def test_nothing_to_decompose() -> None:
    none, empty = rung.zeros((0, 3, 3)), rung.zeros((0, 0))
    assert linalg.inv(none).shape == linalg.cholesky(none).shape == (0, 3, 3)
    assert linalg.det(none).shape == (0,) and linalg.det(empty).item() == 1
    assert linalg.svd(rung.zeros((0, 3))).Vh.tolist() == np.eye(3).tolist()
    assert linalg.solve(empty, rung.zeros((0, 2))).shape == (0, 2)
    assert linalg.matrix_rank(rung.zeros((2, 0, 3))).tolist() == [0, 0]
    assert linalg.pinv(rung.zeros((3, 0))).shape == (0, 3)
    assert rung.grad(lambda x: linalg.det(x).sum())(none).shape == (0, 3, 3)


# ---- derivatives


def signless(u: Any, s: Any, vh: Any) -> Any:
    """A number from singular vectors that does not depend on their signs."""
    return (u**2 * s * s).sum() + ((u[0] * vh[:, 1]) ** 2).sum() + (s**3).sum()


def spread_eigh(lib: Any, x: Any) -> Any:
    w, v = lib.eigh(x)
    return (v[0] ** 2 * w).sum() + (w**2).sum() + (v[1] ** 4).sum()


GRADIENTS: list[tuple[str, Array, Callable[[Any, Any, Any], Any]]] = [
    ("solve", A, lambda m, lib, x: (lib.solve(x, x[:, :2] ** 2) ** 2).sum()),
    ("solve for a vector", A, lambda m, lib, x: (lib.solve(x, x[:, 0] + 1) ** 2).sum()),
    ("inv", A, lambda m, lib, x: (lib.inv(x) ** 3).sum()),
    ("det", STACK, lambda m, lib, x: (lib.det(x) ** 2).sum()),
    ("slogdet", A, lambda m, lib, x: lib.slogdet(x)[1] ** 2),
    ("cholesky", S, lambda m, lib, x: (lib.cholesky(x) ** 3).sum()),
    ("qr", TALL, lambda m, lib, x: (lib.qr(x)[0] ** 3).sum() + (lib.qr(x)[1] ** 3).sum()),
    ("qr wide", WIDE, lambda m, lib, x: (lib.qr(x)[0] ** 3).sum() + (lib.qr(x)[1] ** 3).sum()),
    ("eigh", S, lambda m, lib, x: spread_eigh(lib, x)),
    ("eigvalsh", S, lambda m, lib, x: (lib.eigvalsh(x) ** 3).sum()),
    ("svd tall", TALL, lambda m, lib, x: signless(*lib.svd(x, full_matrices=False))),
    ("svd wide", WIDE, lambda m, lib, x: signless(*lib.svd(x, full_matrices=False))),
    ("svd square", A, lambda m, lib, x: signless(*lib.svd(x))),
    ("svdvals", STACK, lambda m, lib, x: (lib.svdvals(x) ** 3).sum()),
    ("pinv tall", TALL, lambda m, lib, x: (lib.pinv(x) ** 3).sum()),
    ("pinv wide", WIDE, lambda m, lib, x: (lib.pinv(x) ** 3).sum()),
    ("matrix_power", A, lambda m, lib, x: (lib.matrix_power(x, -3) ** 2).sum()),
    ("nuclear norm", TALL, lambda m, lib, x: lib.norm(x, ord="nuc") ** 2),
    ("cond", A, lambda m, lib, x: lib.cond(x)),
    ("multi_dot", A, lambda m, lib, x: (lib.multi_dot([x, x.T, x]) ** 2).sum()),
    ("einsum", STACK, lambda m, lib, x: (m.einsum("...ij,...kj,...ki->...", x, x, x) ** 2).sum()),
    ("diagonal by einsum", STACK, lambda m, lib, x: (m.einsum("abii->bi", x) ** 3).sum()),
]


def symmetric_like(name: str, gradient: Array) -> Array:
    """Of a function of a symmetric matrix only the symmetric part of a gradient has a meaning."""
    if name not in ("cholesky", "eigh", "eigvalsh"):
        return gradient
    return np.asarray((gradient + gradient.T) / 2)


@pytest.mark.parametrize("case", GRADIENTS, ids=lambda c: c[0])
def test_gradients_are_those_of_torch(case: tuple[str, Array, Any]) -> None:
    torch = pytest.importorskip("torch")
    name, x, loss = case
    given = torch.tensor(x, requires_grad=True)
    value = loss(torch, torch.linalg, given)
    value.backward()
    assert given.grad is not None
    wanted = symmetric_like(name, given.grad.numpy())
    mine = lambda v: loss(rung, linalg, v)  # noqa: E731
    assert mine(rung.asarray(x)).item() == pytest.approx(value.item(), rel=1e-9)
    for gradient in (rung.grad(mine), rung.jit(rung.grad(mine))):
        found = symmetric_like(name, gradient(rung.asarray(x)).numpy())
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)
    leaf = rung.tensor(x, requires_grad=True)
    mine(leaf).backward()
    found = symmetric_like(name, leaf.grad.numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", GRADIENTS, ids=lambda c: c[0])
def test_second_derivatives(case: tuple[str, Array, Any]) -> None:
    """The derivative of the gradient along a direction: forward over reverse = reverse over
    reverse = differences of gradients."""
    _, x, loss = case
    gradient = rung.grad(lambda v: loss(rung, linalg, v))
    d = np.random.default_rng(1).standard_normal(x.shape)
    direction = rung.asarray(d)
    _, forward = rung.jvp(gradient, (rung.asarray(x),), (direction,))
    reverse = rung.grad(lambda v: (gradient(v) * direction).sum())(rung.asarray(x))
    ends = [gradient(rung.asarray(x + h * d)).numpy() for h in (1e-5, -1e-5)]
    wanted = (ends[0] - ends[1]) / 2e-5
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(forward, wanted, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(reverse, forward, rtol=1e-7, atol=1e-9 * scale)


def test_single_precision_gradients() -> None:
    for name, x, loss in GRADIENTS:
        gradient = rung.grad(lambda v, loss=loss: loss(rung, linalg, v))
        found = gradient(rung.asarray(x.astype(np.float32)))
        assert found.dtype is rung.float32
        wanted = gradient(rung.asarray(x)).numpy()
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max(),
                                   err_msg=name)  # fmt: skip


def test_the_determinant_of_a_singular_matrix_has_a_derivative() -> None:
    x = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 5.0]])
    wanted = [[20, -4, -4], [-10, 2, 2], [0, 0, 0]]
    found = rung.grad(linalg.det)(rung.asarray(x))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_pinv_has_a_derivative_where_singular_values_are_equal() -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([np.eye(3), np.zeros((2, 3))])
    weight = RNG.standard_normal((3, 5))
    found = rung.grad(lambda v: (linalg.pinv(v) * weight).sum())(rung.asarray(x))
    given = torch.tensor(x, requires_grad=True)
    (torch.linalg.pinv(given) * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(found, given.grad.numpy(), atol=1e-12)


# ---- many examples, loops


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", GRADIENTS, ids=lambda c: c[0])
def test_vmap_is_one_at_a_time(case: tuple[str, Array, Any]) -> None:
    _, x, loss = case
    many = np.stack([x, 1.5 * x, 0.7 * x])
    gradient = rung.grad(lambda v: loss(rung, linalg, v))
    found = rung.vmap(gradient)(rung.asarray(many))
    for one, each in zip(many, found, strict=True):
        np.testing.assert_allclose(each, gradient(rung.asarray(one)), rtol=1e-9, atol=1e-10)


def test_one_matrix_for_many_right_sides_is_decomposed_once() -> None:
    a, b = rung.asarray(A), rung.asarray(STACK[0])
    text = rung.explain(lambda a, b: rung.vmap(lambda v: linalg.solve(a, v))(b), a, b)
    assert "f64[4,12]" in text.text("graph"), "the examples are columns"
    found = rung.vmap(lambda v: linalg.solve(a, v))(b)
    np.testing.assert_allclose(found, np.linalg.solve(A, STACK[0]), rtol=1e-12)
    found = rung.vmap(lambda v: linalg.solve(v, a))(b)
    np.testing.assert_allclose(found, np.linalg.solve(STACK[0], A), rtol=1e-12)


@pytest.mark.usefixtures("both_ways")
def test_in_a_scan_with_its_derivative() -> None:
    """Kalman-like updates p <- inv(inv(p) + x xᵀ), in NumPy, in a scan, and its gradient."""
    xs = RNG.standard_normal((5, 3))

    def final(start: rung.Tensor) -> rung.Tensor:
        def step(p: rung.Tensor, x: rung.Tensor) -> tuple[rung.Tensor, rung.Tensor]:
            p = linalg.inv(linalg.inv(p) + linalg.outer(x, x))
            return p, linalg.slogdet(p).logabsdet

        p, logs = rung.scan(step, start, rung.asarray(xs))
        return p.sum() + logs.sum()

    p, total = np.eye(3), 0.0
    for x in xs:
        p = np.linalg.inv(np.linalg.inv(p) + np.outer(x, x))
        total += np.linalg.slogdet(p)[1]
    start = rung.asarray(np.eye(3))
    assert final(start).item() == pytest.approx(p.sum() + total, rel=1e-12)
    d = RNG.standard_normal((3, 3))
    slope = (rung.jit(rung.grad(final))(start).numpy() * d).sum()
    ends = [final(rung.asarray(np.eye(3) + h * d)).item() for h in (1e-6, -1e-6)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.usefixtures("both_ways")
def test_in_a_while_loop() -> None:
    """Newton's method for a system of equations x² = target, each step with a solve."""
    target = np.array([4.0, 9.0, 2.0])

    @rung.jit
    def root(x: rung.Tensor) -> rung.Tensor:
        def step(x: rung.Tensor) -> rung.Tensor:
            return x - linalg.solve(2 * x * rung.eye(3, dtype=rung.float64), x * x - target)

        return rung.while_loop(lambda x: rung.max(rung.abs(x * x - target)) > 1e-13, step, x)

    found = root(rung.asarray(np.array([1.0, 1.0, 1.0])))
    np.testing.assert_allclose(found, np.sqrt(target), rtol=1e-12)


@pytest.mark.usefixtures("both_ways")
def test_in_a_branch() -> None:
    @rung.jit
    def f(x: rung.Tensor, flag: rung.Tensor) -> rung.Tensor:
        return rung.cond(flag, lambda: linalg.inv(x), lambda: linalg.pinv(x * 0))

    x = rung.asarray(A)
    np.testing.assert_allclose(f(x, rung.asarray(True)), np.linalg.inv(A), rtol=1e-12)
    assert not f(x, rung.asarray(False)).numpy().any()


# ---- errors

X, V = rung.asarray(A), rung.asarray(A[0])
SINGULAR = rung.asarray(np.ones((3, 3)))
NAN = rung.asarray(np.full((2, 2), np.nan))
TALL_X = rung.asarray(TALL)
WRONG: list[tuple[Callable[[], Any], type[RungError], str, str]] = [
    (lambda: linalg.inv(TALL_X), ShapeError, r"inv: x f64\[5,3\] is not square", "must be equal"),
    (lambda: linalg.det(V), ShapeError, r"det: x f64\[4\] is no matrix", "two dims or more"),
    (lambda: linalg.cholesky(rung.ones((2, 2), rung.int64)), DTypeError,
     r"cholesky: takes f32, f64, but x is i64\[2,2\]", "cast x first"),
    (lambda: linalg.eigh(rung.ones((2, 2), rung.bfloat16)), DTypeError,
     r"eigh: takes f32, f64, but x is bf16\[2,2\]", r"cast\(x, dtype=f32\)"),
    (lambda: linalg.pinv(rung.ones((2, 2), rung.float16)), DTypeError, "pinv: takes f32", "cast x"),
    (lambda: linalg.pinv(V), ShapeError, "pinv: x .* is no matrix", "two dims"),
    (lambda: linalg.pinv(rung.ones((2, 2), rung.int32)), DTypeError, "pinv: takes f32", "cast x"),
    (lambda: linalg.matrix_rank(rung.ones((2, 2), rung.int32)), DTypeError, "svdvals: takes", ""),
    (lambda: linalg.solve(X, rung.ones((3, 1))), ShapeError,
     r"solve: a f64\[4,4\] with b f64\[3,1\]", r"b must be \[4, columns\]"),
    (lambda: linalg.solve(V, X), ShapeError, "solve: ", "give matrices"),
    (lambda: linalg.solve(rung.ones((2, 3, 3)), rung.ones((3, 3, 1))), ShapeError,
     "do not broadcast", "equal or 1"),
    (lambda: linalg.qr(X, mode="r"), RungError, "qr: mode='r'", '"reduced" or "complete"'),
    (lambda: linalg.matrix_power(TALL_X, 2), ShapeError, "matrix_power: x .* is not square", ""),
    (lambda: linalg.matrix_power(X, 0.5), RungError, "matrix_power: n is 0.5", "int"),
    (lambda: linalg.matrix_norm(X, ord=3), RungError, "matrix_norm: ord=3", '"fro", "nuc"'),
    (lambda: linalg.norm(rung.ones((2, 2, 2)), ord=2), ShapeError, "norm: ord=2", "one axis, or"),
    (lambda: linalg.norm(V, ord="nuc"), RungError, "norm: ord='nuc' of vectors", "two axes"),
    (lambda: linalg.lstsq(X, rung.ones(3)), ShapeError, "lstsq: ", "as many rows"),
    (lambda: linalg.multi_dot([X]), ShapeError, "multi_dot: 1 operands", "two or more"),
    (lambda: linalg.multi_dot([X, TALL_X]), ShapeError, "inner dimensions differ", ""),
    (lambda: linalg.multi_dot([X, V, X]), ShapeError, "operand 1 is", "vectors at the ends"),
    (lambda: rung.grad(lambda x: linalg.qr(x, mode="complete")[0].sum())(TALL_X), GradientError,
     "no derivative by mode='complete'", "use mode='reduced'"),
    (lambda: rung.grad(lambda x: linalg.svd(x)[0].sum())(TALL_X), GradientError,
     "no derivative by full_matrices=True", "full_matrices=False, or svdvals"),
    # what is only known when it is computed
    (lambda: linalg.inv(SINGULAR).numpy(), LinAlgError, r"inv: x f64\[3,3\] is singular", "pinv"),
    (lambda: linalg.solve(SINGULAR, SINGULAR).numpy(), LinAlgError, "solve: .* singular", "pinv"),
    (lambda: linalg.solve_triangular(SINGULAR * 0, SINGULAR).numpy(), LinAlgError,
     "triangular_solve: .* is singular", "eye"),
    (lambda: linalg.cholesky(-X @ X.T).numpy(), LinAlgError, "not positive definite", "eye"),
    (lambda: linalg.svd(NAN).U.numpy(), LinAlgError, "svd: .* not finite", "NaN"),
    (lambda: linalg.pinv(NAN).numpy(), LinAlgError, "pinv: .* not finite", "NaN"),
    (lambda: rung.jit(linalg.inv)(SINGULAR), LinAlgError, "inv: .* is singular", "pinv"),
    (lambda: rung.grad(lambda x: linalg.slogdet(x)[1])(SINGULAR).numpy(), LinAlgError,
     "inv: .* is singular", "pinv"),
    (lambda: rung.vmap(linalg.inv)(rung.ones((2, 3, 3))).numpy(), LinAlgError,
     r"inv: x f32\[2,3,3\] is singular", "pinv"),
    (lambda: rung.scan(lambda c, x: (linalg.inv(c * x), c), SINGULAR, rung.ones(2))[0].numpy(),
     LinAlgError, "inv: .* is singular", "pinv"),
]  # fmt: skip


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("number", range(len(WRONG)))
def test_mistakes_are_typed_errors_on_their_line(number: int) -> None:
    call, error, message, fix = WRONG[number]
    with pytest.raises(error, match=message) as caught:
        call()
    assert f"at {HERE}:" in str(caught.value)
    first = call.__code__.co_firstlineno
    assert caught.value.source is not None
    assert first <= caught.value.source.line <= first + 1
    if fix:
        assert caught.value.fix is not None
        assert re.search(fix, caught.value.fix)


def test_numpy_s_error_is_a_base() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        linalg.inv(SINGULAR).numpy()
    with pytest.raises(ValueError, match="singular"):
        linalg.inv(SINGULAR).numpy()


@pytest.mark.usefixtures("both_ways")
def test_the_line_is_that_of_the_mistake_though_the_program_is_an_old_one() -> None:
    """Programs are shared by all graphs of one structure; errors are not."""
    fine = linalg.inv(rung.asarray(np.eye(3))) * 2
    assert fine.numpy()[0, 0] == 2
    late = linalg.inv(SINGULAR) * 2
    line = test_the_line_is_that_of_the_mistake_though_the_program_is_an_old_one.__code__
    with pytest.raises(LinAlgError) as caught:
        late.numpy()
    assert caught.value.source is not None
    assert caught.value.source.line == line.co_firstlineno + 5
    step = rung.jit(lambda x: linalg.inv(x) * 2)
    with pytest.raises(LinAlgError) as caught:
        step(SINGULAR)
    assert "step = rung.jit(lambda x" in str(caught.value)


def test_a_failure_leaves_the_other_tensors_alone() -> None:
    bad, good = linalg.inv(SINGULAR), rung.ones(3) + 1
    assert good.sum().item() == 6
    with pytest.raises(LinAlgError):
        bad.numpy()
    with pytest.raises(LinAlgError):
        bad.numpy()
    same = rung.einsum("ij", SINGULAR)  # a tensor that is there, while another one fails
    assert same.tolist() == np.ones((3, 3)).tolist()
    del bad
    assert (good + 1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("ord", [2, 1, 3, 0.5, float("inf")])
def test_the_norm_of_zeros_has_the_derivative_zero(ord):
    x = rung.zeros(4)
    found = rung.grad(lambda x: linalg.vector_norm(x, ord=ord))(x)
    assert found.tolist() == [0.0] * 4
    assert rung.grad(lambda x: rung.linalg.norm(x))(x).tolist() == [0.0] * 4


def test_matrices_without_elements_have_the_norm_zero():
    for shape in ((0, 2), (2, 0)):
        for ord in (1, 2, float("inf"), "fro", "nuc"):
            assert linalg.matrix_norm(rung.ones(shape), ord=ord).item() == 0
