"""Special functions to the accuracy that their docstrings state, against 50 digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import pytest

import rung
from rung import special
from rung.core.errors import RungError
from rung.core.settings import configure

POINTS = np.array([-30.2, -9.3, -3.7, -1.2, -0.5, -1e-3, 1e-9, 0.2, 0.49, 0.5, 0.9, 1.4617, 2.5,
                   7.99, 8.01, 9.5, 19.0, 26.0])  # fmt: skip
SHARES = np.array([1e-300, 1e-30, 1e-9, 0.02, 0.3, 0.5, 0.77, 0.999999])
INNER = np.array([-0.999999, -0.9, -0.3, -1e-9, 1e-300, 0.2, 0.7, 0.99])


def _ndtr(x: Any) -> Any:
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def _log_ndtr(x: Any) -> Any:
    return mpmath.log1p(-_ndtr(-x)) if x > 0 else mpmath.log(_ndtr(x))


def _ndtri(p: Any) -> Any:
    start = mpmath.mpf(float(special.ndtri(rung.asarray(float(p), dtype="f64"))))
    return mpmath.findroot(lambda x: mpmath.log(_ndtr(x)) - mpmath.log(p), start)


CASES: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any], float, float]] = {
    "erfc": (mpmath.erfc, POINTS, 1e-13, 1e-320),
    "erfcx": (lambda x: mpmath.exp(x * x) * mpmath.erfc(x), POINTS[1:], 1e-13, 0.0),
    "erfinv": (mpmath.erfinv, INNER, 1e-12, 0.0),
    "ndtr": (_ndtr, POINTS, 1e-12, 0.0),
    "log_ndtr": (_log_ndtr, POINTS, 1e-12, 0.0),
    "ndtri": (_ndtri, SHARES, 1e-12, 1e-16),
    "gammaln": (lambda x: mpmath.log(abs(mpmath.gamma(x))), POINTS, 1e-13, 1e-13),
    "digamma": (mpmath.digamma, POINTS, 1e-13, 2e-13),
    "i0": (lambda x: mpmath.besseli(0, x), POINTS, 1e-13, 0.0),
    "i0e": (lambda x: mpmath.exp(-abs(x)) * mpmath.besseli(0, x), POINTS, 1e-14, 0.0),
    "i1": (lambda x: mpmath.besseli(1, x), POINTS, 1e-13, 0.0),
    "i1e": (lambda x: mpmath.exp(-abs(x)) * mpmath.besseli(1, x), POINTS, 1e-14, 0.0),
    "entr": (lambda x: -x * mpmath.log(x), SHARES, 1e-13, 0.0),
}


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


def exact(function: Callable[[Any], Any], points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with mpmath.workdps(50):
        return np.array([float(mpmath.re(function(mpmath.mpf(float(x))))) for x in points])


@pytest.mark.parametrize("name", CASES)
def test_accuracy(name: str) -> None:
    function, points, relative, absolute = CASES[name]
    found = getattr(special, name)(rung.asarray(points)).numpy()
    np.testing.assert_allclose(found, exact(function, points), relative, absolute)


@pytest.mark.parametrize("name", CASES)
def test_f32_is_rounded_once(name: str) -> None:
    function, points, *_ = CASES[name]
    given = points[np.abs(points) > 1e-30].astype(np.float32)
    found = getattr(special, name)(rung.asarray(given)).numpy()
    wanted = exact(function, given.astype(np.float64))
    assert found.dtype == np.float32
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(found, wanted.astype(np.float32), 3e-7, 1e-40)


@pytest.mark.parametrize("n", range(4))
def test_polygamma(n: int) -> None:
    points = np.array([-8.3, -2.5, -0.7, 0.3, 1.0, 4.5, 30.0])
    found = special.polygamma(n, rung.asarray(points)).numpy()
    np.testing.assert_allclose(found, exact(lambda x: mpmath.psi(n, x), points), 1e-11)


def test_zeta() -> None:
    orders, places = np.array([1.5, 2.0, 3.0, 10.0]), np.array([0.3, 1.0, -2.5, 40.0])
    found = special.zeta(rung.asarray(orders[1:]), rung.asarray(places[1:])).numpy()
    with mpmath.workdps(50):
        pairs = zip(orders[1:], places[1:], strict=True)
        wanted = [float(mpmath.re(mpmath.zeta(float(s), float(q)))) for s, q in pairs]
    np.testing.assert_allclose(found, wanted, 1e-12)
    special_ones = special.zeta(rung.asarray([1.0, 0.5, 2.0]), rung.asarray([1.0, 1.0, -1.0]))
    np.testing.assert_array_equal(special_ones.numpy(), [np.inf, np.nan, np.inf])


def test_edges() -> None:
    x = rung.asarray(np.array([-np.inf, -1.0, 0.0, 1.0, np.inf, np.nan]))
    known = {
        "gammaln": [np.inf, np.inf, np.inf, 0.0, np.inf, np.nan],
        "erfc": [2.0, 1.8427007929497148, 1.0, 0.15729920705028513, 0.0, np.nan],
        "erfinv": [np.nan, -np.inf, 0.0, np.inf, np.nan, np.nan],
        "ndtri": [np.nan, np.nan, -np.inf, np.inf, np.nan, np.nan],
        "entr": [-np.inf, -np.inf, 0.0, 0.0, -np.inf, np.nan],
    }
    for name, wanted in known.items():
        np.testing.assert_allclose(getattr(special, name)(x).numpy(), wanted, 1e-14, err_msg=name)
    assert special.digamma(rung.asarray([0.0])).item() == -np.inf
    assert np.isnan(special.digamma(rung.asarray([-1.0])).item())


@pytest.mark.parametrize("name", [*CASES, "sinc", "expit", "multigammaln"])
def test_derivatives_are_differences(name: str) -> None:
    at, step = np.array([0.3, 0.6]), 1e-5
    function = getattr(special, name)
    if name == "multigammaln":
        at, function = at + 2, lambda x: special.multigammaln(x, 3)
    slope = rung.vmap(rung.grad(function))
    high, low = (function(rung.asarray(at + h)).numpy() for h in (step, -step))
    np.testing.assert_allclose(slope(rung.asarray(at)).numpy(), (high - low) / (2 * step), 1e-7)
    high, low = (slope(rung.asarray(at + h)).numpy() for h in (step, -step))
    twice = rung.vmap(rung.grad(rung.grad(function)))(rung.asarray(at)).numpy()
    np.testing.assert_allclose(twice, (high - low) / (2 * step), 1e-6)


def test_bad_input() -> None:
    with pytest.raises(RungError, match="polygamma: n=-1"):
        special.polygamma(-1, rung.ones(2))
    with pytest.raises(RungError, match="multigammaln: p=0"):
        special.multigammaln(rung.ones(2), 0)
