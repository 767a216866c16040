"""Functions that users of torch and NumPy know: what `make opinfo` does not ask for, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import (
    AxisError,
    DTypeError,
    GradientError,
    IndexingError,
    RungError,
    ShapeError,
    TraceError,
)
from rung.core.settings import configure
from rung.tensor.in_place import InPlace

X = np.random.default_rng(0).standard_normal((4, 5))


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, tuple | list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
        return
    np.testing.assert_allclose(np.asarray(found), wanted, 1e-12, 1e-14)


NUMPY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "quantile": (lambda x: rung.quantile(x, 0.3, 1), lambda x: np.quantile(x, 0.3, 1)),
    "median": (lambda x: rung.median(x[:3], 0)[0], lambda x: np.median(x[:3], 0)),
    "gradient": (lambda x: rung.gradient(x, edge_order=2), lambda x: np.gradient(x, edge_order=2)),
    "trapezoid": (lambda x: rung.trapezoid(x, axis=0), lambda x: np.trapezoid(x, axis=0)),
    "cov": (rung.cov, np.cov),
    "corrcoef": (rung.corrcoef, np.corrcoef),
    "histogram": (lambda x: rung.histogram(x, 7), lambda x: np.histogram(x, 7)),
    "kron": (lambda x: rung.kron(x, x), lambda x: np.kron(x, x)),
    "inner": (lambda x: rung.inner(x, x), lambda x: np.inner(x, x)),
    "rot90": (lambda x: rung.rot90(x, 3), lambda x: np.rot90(x, 3)),
    "diag": (lambda x: rung.diag(x, 1), lambda x: np.diag(x, 1)),
    "diagflat": (lambda x: rung.diagflat(x, -1), lambda x: np.diagflat(x, -1)),
    "frexp": (rung.frexp, np.frexp),
    "sinc": (rung.sinc, np.sinc),
    "nan_to_num": (lambda x: rung.nan_to_num(x / 0), lambda x: np.nan_to_num(x / 0)),
    "fmod": (lambda x: rung.fmod(x, 0.3), lambda x: np.fmod(x, 0.3)),
    "logspace": (
        lambda x: rung.logspace(-2, 3, 6, 2, "f64"),
        lambda x: np.logspace(-2, 3, 6, base=2),
    ),
    "isin": (lambda x: rung.isin(x, x[0]), lambda x: np.isin(x, x[0])),
    "unique": (
        lambda x: rung.unique((x * 2).round(), return_counts=True),
        lambda x: np.unique(np.round(x * 2), return_counts=True),
    ),
    "kaiser": (
        lambda x: rung.windows.kaiser(9, beta=4.0, dtype="f64"),
        lambda x: np.kaiser(9, 4.0),
    ),
    "masked": (
        lambda x: rung.masked.var(x, 1, mask=x < 0.5),
        lambda x: np.ma.array(x, mask=x >= 0.5).var(1).filled(np.nan),
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("name", NUMPY)
def test_as_in_numpy(name: str) -> None:
    ours, theirs = NUMPY[name]
    same(ours(rung.asarray(X)), theirs(X))


def test_frexp_of_extremes() -> None:
    given = np.array([5e-324, 2.0**-1022, 1.7e308, -0.0, np.inf, 1.0])
    same(rung.frexp(rung.asarray(given)), np.frexp(given))


@pytest.mark.parametrize("how", ["sum", "prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
def test_scattered_reductions(how: str, include_self: bool) -> None:
    """One element after the other, and the derivative beside differences."""
    index = np.array([[0, 2, 2, 0, 2], [1, 1, 1, 1, 0]])
    start, updates = X[:2, :3].copy(), X[2:]
    combine = {"sum": np.sum, "prod": np.prod, "mean": np.mean, "amax": np.max, "amin": np.min}[how]
    wanted = start.copy()
    for row in range(2):
        for place in range(3):
            there = list(updates[row][index[row] == place])
            if there:
                wanted[row, place] = combine(there + [start[row, place]] * include_self)

    def reduce(x: Any, u: Any) -> Any:
        return rung.scatter_reduce(x, 1, rung.asarray(index), u, how, include_self)

    given = rung.asarray(start), rung.asarray(updates)
    same(reduce(*given), wanted)
    weights = rung.asarray(X[:2, 1:4].copy())
    slopes = rung.grad(lambda x, u: (reduce(x, u) * weights).sum(), argnums=(0, 1))(*given)
    for number, slope in enumerate(slopes):
        moved = np.ones(given[number].shape)
        pair = [g + (moved * 1e-6 if n == number else 0) for n, g in enumerate(given)]
        other = [g - (moved * 1e-6 if n == number else 0) for n, g in enumerate(given)]
        rise = ((reduce(*pair) - reduce(*other)) * weights).sum() / 2e-6
        np.testing.assert_allclose(slope.sum().item(), rise.item(), 1e-6, 1e-8)


def test_product_of_zeros_has_a_derivative() -> None:
    at = rung.asarray([0, 0, 1, 1])
    slope = rung.grad(lambda u: rung.scatter_reduce(rung.ones(2), 0, at, u, "prod").sum())
    assert slope(rung.asarray([0.0, 3.0, 0.0, 0.0])).tolist() == [3.0, 0.0, 0.0, 0.0]


def test_compiled_functions() -> None:
    """Those whose number of results is known run inside jit."""
    configure(interpret=False)
    x = rung.asarray(X.astype(np.float32))
    for function in (
        lambda x: rung.median(x, 1)[0],
        lambda x: rung.cummax(x, 1),
        lambda x: rung.bincount((x > 0).int().reshape(-1), length=3),
        lambda x: rung.index_add(x, 0, rung.asarray([3, 0]), x[:2]),
        lambda x: rung.renorm(x, 2.0, 0, 1.0),
    ):
        fast, slow = rung.jit(function)(x), function(x)
        pairs = zip(fast, slow, strict=True) if isinstance(fast, tuple) else [(fast, slow)]
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-6)


def test_numbers_of_results_that_depend_on_values() -> None:
    for function in (rung.argwhere, rung.unique, rung.unique_consecutive):
        with pytest.raises(TraceError):
            rung.jit(function)(rung.ones(3))
    with pytest.raises(TraceError):
        rung.jit(lambda x: rung.masked_select(x, x > 0))(rung.ones(3))


BAD: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (ShapeError, "kthvalue: k=0", lambda: rung.kthvalue(rung.ones(3), 0)),
    (ShapeError, "median: .* no elements", lambda: rung.median(rung.ones((2, 0)), 1)),
    (RungError, "interpolation='x'", lambda: rung.quantile(rung.ones(3), 0.5, interpolation="x")),
    (ShapeError, "quantile: q is", lambda: rung.quantile(rung.ones(3), rung.ones((1, 1)))),
    (RungError, "reduce='max'", lambda: rung.scatter_reduce(
        rung.ones(3), 0, rung.asarray([0]), rung.ones(1), "max")),
    (ShapeError, "src f32", lambda: rung.scatter(
        rung.ones(3), 0, rung.asarray([0, 1]), rung.ones(1))),
    (IndexingError, "scatter: index 3", lambda: rung.scatter(
        rung.ones(3), 0, rung.asarray([3]), rung.ones(1))),
    (ShapeError, "index_add: source", lambda: rung.index_add(
        rung.ones((3, 2)), 0, rung.asarray([1]), rung.ones((1, 3)))),
    (DTypeError, "bincount of", lambda: rung.bincount(rung.ones(3))),
    (RungError, "element -1 is out of range", lambda: rung.bincount(rung.asarray([-1]))),
    (RungError, "rounding_mode='up'", lambda: rung.ones(2).div(2, rounding_mode="up")),
    (DTypeError, "gcd of f32", lambda: rung.gcd(rung.ones(2), rung.ones(2))),
    (ShapeError, "mm: ", lambda: rung.mm(rung.ones(2), rung.ones((2, 2)))),
    (ShapeError, "bmm: ", lambda: rung.bmm(rung.ones((2, 2, 2)), rung.ones((3, 2, 2)))),
    (AxisError, "rot90: axes", lambda: rung.rot90(rung.ones((2, 2)), axes=(0, 0))),
    (ShapeError, "narrow: 3 slices", lambda: rung.narrow(rung.ones(4), 0, 2, 3)),
    (ShapeError, "hsplit: dim 1", lambda: rung.hsplit(rung.ones((2, 5)), 2)),
    (ShapeError, "as_strided", lambda: rung.as_strided(rung.ones(4), (2, 3), (2, 1))),
    (ShapeError, "cdist: ", lambda: rung.cdist(rung.ones((2, 3)), rung.ones((2, 4)))),
    (ShapeError, "masked: mask", lambda: rung.masked.sum(rung.ones(3), mask=rung.ones(2) > 0)),
    (RungError, "gaussian: std=0", lambda: rung.windows.gaussian(3, std=0)),
    (RungError, "histc: bins=0", lambda: rung.histc(rung.ones(3), 0)),
    (ShapeError, "searchsorted: x2", lambda: rung.searchsorted(rung.ones((2, 3)), rung.ones(3))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "text", "call"), BAD, ids=[text for _, text, _ in BAD])
def test_bad_input(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=text) as caught:
        call()
    assert "test_torch_names.py" in str(caught.value)


ROW, MASK = np.array([2, 0, 2]), X > 0
UPDATES: dict[str, tuple[Any, ...]] = {
    "add": (X,), "sub": (X,), "subtract": (X,), "mul": (X,), "multiply": (X,), "div": (X,),
    "divide": (X,), "pow": (2.0,), "remainder": (0.3,), "clip": (0.1, 0.5), "clamp": (0.1, 0.5),
    "clamp_min": (0.9,), "clamp_max": (0.2,), "lerp": (X, 0.25), "addcmul": (X, X),
    "addcdiv": (X, X), "index_add": (0, ROW, X[:3]), "index_copy": (0, ROW[:2], X[:2]),
    "index_fill": (1, ROW, 2.0), "index_put": ((ROW,), X[:3]),
    "index_reduce": (0, ROW, X[:3], "amax"), "masked_fill": (MASK, -1.0),
    "masked_scatter": (MASK, X), "put": (ROW[:2], X[0, :2]),
    "scatter": (0, ROW[:2, None], X[:2, :1]), "scatter_add": (1, ROW[None], X[:1, :3]),
    "scatter_reduce": (0, ROW[:, None], X[:3, :1], "sum"), "tril": (1,), "triu": (-1,),
    "round": (1,),
}  # fmt: skip
"""Further arguments of the functions that have some; all others are functions of one number."""
IN_PLACE = [n for n in vars(InPlace) if n.endswith("_") and not n.startswith("_")]


def given(x: Any) -> Any:
    """The same as tensors."""
    if isinstance(x, tuple):
        return tuple(map(given, x))
    return rung.array(x) if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("name", IN_PLACE)
def test_updates_in_place_are_the_functions(name: str) -> None:
    x = rung.array(X if name in ("abs_", "relu_") else abs(X) + 0.5)
    arguments = given(UPDATES.get(name.removesuffix("_"), ()))
    function = {"abs_": abs, "neg_": rung.negative}.get(name)
    wanted = function(x) if function else getattr(x, name.removesuffix("_"))(*arguments)
    wanted = np.asarray(wanted)
    assert not np.array_equal(wanted, x)
    y = x.clone()
    assert getattr(y, name)(*arguments) is y
    np.testing.assert_array_equal(y, wanted)
    w = x.clone().requires_grad_()
    with pytest.raises(GradientError, match="updated in place"):
        getattr(w, name)(*arguments)


def test_derivatives_pass_through_updates_in_place() -> None:
    w = rung.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = rung.zeros(3)
    y.index_add_(0, rung.tensor([0, 0, 2]), w * w, alpha=0.5)
    y.masked_fill_(rung.tensor([False, False, True]), 7.0).exp_()
    y.sum().backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad, [np.exp(2.5), 2 * np.exp(2.5), 0], rtol=1e-6)


@pytest.mark.parametrize("make", (rung.zeros, rung.ones, rung.empty))
def test_a_shape_may_be_given_as_several_numbers(make: Callable[..., Any]) -> None:
    for x in (make(2, 3), make((2, 3)), make([2, 3]), make(2, np.int64(3)), make(shape=(2, 3))):
        assert (x.shape, x.dtype) == ((2, 3), rung.float32)
    for x in (make(2, 3, dtype="i32"), make((2, 3), "i32"), make((2, 3), np.int32, "cpu")):
        assert (x.shape, x.dtype) == ((2, 3), rung.int32)
    assert make(1, 2, 3, 4).shape == (1, 2, 3, 4)
    assert make(()).shape == ()
    for wrong in ((2, -3), ((2, 3), 4), (2, 3, "i32"), (2, "cuda")):
        with pytest.raises(RungError):
            make(*wrong)
    with pytest.raises(RungError, match="no lengths"):
        make(2, "i32", dtype="i32")


def test_where_of_a_condition_alone() -> None:
    x = rung.array(X)
    same(rung.where(x > 0), np.where(X > 0))
    with pytest.raises(RungError, match="one of two"):
        rung.where(x > 0, x)
    with pytest.raises(TraceError):
        rung.jit(lambda x: rung.where(x > 0))(x)
