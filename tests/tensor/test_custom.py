"""custom_jvp, custom_vjp, stop_gradient: every derivative asks the rules, in any composition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import GradientError, ShapeError
from rung.core.settings import configure


@pytest.fixture(autouse=True, params=["interpreted", "compiled"])
def executor(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(interpret=request.param == "interpreted")
    yield
    configure(interpret=False)


@rung.custom_jvp
def log1pexp(x: Any) -> Any:
    return rung.log(1 + rung.exp(x))


@log1pexp.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return log1pexp(x), dx * rung.sigmoid(x)


def make_clipped() -> Any:
    """The identity, whose cotangent is kept in [-1, 1]."""

    @rung.custom_vjp
    def clipped(x: Any, scale: float) -> Any:
        return x * scale

    clipped.defvjp(
        lambda x, scale: (x * scale, {"scale": scale, "x": x}),
        lambda kept, ct: (rung.clip(ct * kept["scale"], -1, 1) + 0 * kept["x"], None),
    )
    return clipped


X = np.array([-2.0, 0.5, 800.0])
SIGMOID = np.array([1 / (1 + np.exp(2)), 1 / (1 + np.exp(-0.5)), 1.0])


def test_a_forward_rule_in_both_directions() -> None:
    x = rung.asarray(X)
    value, tangent = rung.jvp(log1pexp, (x,), (rung.ones(3, rung.float64),))
    np.testing.assert_allclose(tangent.numpy(), SIGMOID)
    np.testing.assert_allclose(value.numpy()[:2], np.log1p(np.exp(X[:2])))
    got = rung.grad(lambda x: log1pexp(x).sum())(x)
    np.testing.assert_allclose(got.numpy(), SIGMOID)  # the body alone gives NaN at 800
    assert np.isnan(rung.grad(lambda x: rung.log(1 + rung.exp(x)).sum())(x).numpy()[2])


def test_a_forward_rule_is_differentiated_again() -> None:
    second = rung.grad(rung.grad(log1pexp))(rung.asarray(X[1]))
    assert float(second) == pytest.approx(SIGMOID[1] * (1 - SIGMOID[1]))


def test_a_forward_rule_under_vmap_jit_and_backward() -> None:
    x = rung.asarray(X)
    for f in (
        rung.vmap(rung.grad(log1pexp)),
        rung.grad(lambda x: rung.vmap(log1pexp)(x).sum()),
        rung.jit(rung.grad(lambda x: rung.vmap(rung.vmap(log1pexp))(x[None]).sum())),
        rung.grad(lambda x: rung.jit(log1pexp)(x).sum()),
    ):
        np.testing.assert_allclose(f(x).numpy(), SIGMOID)
    w = rung.asarray(X.copy()).requires_grad_()
    log1pexp(w).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), SIGMOID)


def test_a_reverse_rule_in_any_composition() -> None:
    clipped = make_clipped()
    x, big = rung.asarray(X), np.array([-5.0, 0.25, 5.0])
    expected = np.clip(2 * big, -1, 1)

    def f(x: Any) -> Any:
        return (clipped(x, 2.0) * rung.asarray(big)).sum()

    assert np.array_equal(rung.grad(f)(x).numpy(), expected)
    assert np.array_equal(rung.jit(rung.grad(f))(x).numpy(), expected)
    both = rung.vmap(rung.grad(f))(rung.stack((x, 2 * x)))
    assert np.array_equal(both.numpy(), np.stack((expected, expected)))
    outside = rung.grad(lambda xs: rung.vmap(f)(xs).sum())(rung.stack((x, 2 * x)))
    assert np.array_equal(outside.numpy(), np.stack((expected, expected)))
    w = rung.asarray(X.copy()).requires_grad_()
    f(w).backward()
    assert np.array_equal(w.grad.numpy(), expected)
    with rung.no_grad():
        assert np.array_equal(clipped(w, 2.0).numpy(), 2 * X)


def test_trees_and_several_results() -> None:
    @rung.custom_vjp
    def f(p: Any, x: Any) -> Any:
        return {"y": p["w"] * x, "n": p["b"].sum()}

    f.defvjp(
        lambda p, x: (f.function(p, x), (p["w"], x)),
        lambda kept, ct: ({"w": 10 * ct["y"] * kept[1], "b": None}, ct["y"] * kept[0] + ct["n"]),
    )
    p = {"w": rung.asarray(X), "b": rung.ones(2, rung.float64)}
    gp, gx = rung.grad(lambda p, x: f(p, x)["y"].sum(), (0, 1))(p, rung.asarray(X))
    np.testing.assert_allclose(gp["w"].numpy(), 10 * X)
    assert gp["b"].numpy().tolist() == [0, 0]
    np.testing.assert_allclose(gx.numpy(), X)


def test_stop_gradient_of_trees() -> None:
    g = rung.grad(lambda x: (x * rung.stop_gradient({"a": x, "n": 2})["a"]).sum())(rung.asarray(X))
    np.testing.assert_allclose(g.numpy(), X)


def test_errors() -> None:
    x = rung.asarray(X)
    clipped = make_clipped()
    with pytest.raises(GradientError, match="reverse derivative alone"):
        rung.jvp(lambda x: clipped(x, 1.0), (x,), (x,))
    with pytest.raises(GradientError, match="no derivative rule yet"):
        rung.custom_jvp(lambda x: x)(x)
    few = rung.custom_vjp(lambda x, y: x * y)
    few.defvjp(lambda x, y: (x * y, None), lambda _, ct: (ct,))
    with pytest.raises(GradientError, match="1 values for 2 arguments"):
        rung.grad(lambda x: few(x, x).sum())(x)
    wide = rung.custom_vjp(lambda x: x)
    wide.defvjp(lambda x: (x, None), lambda _, ct: (ct.sum(),))
    with pytest.raises(ShapeError, match=r"cotangent f64\[\] for f64\[3\]"):
        rung.grad(lambda x: wide(x).sum())(x)
    other = rung.custom_jvp(lambda x: x)
    other.defjvp(lambda p, t: (p[0], (t[0], t[0])))
    with pytest.raises(GradientError, match="tangents"):
        rung.jvp(other, (x,), (x,))


def test_rules_of_one_line_stay_apart() -> None:
    """Two functions that compute the same on one line, each with a rule of its own."""
    functions = []
    for slope in (1.0, 2.0, 3.0):
        f = rung.custom_jvp(lambda x: x * 5)
        f.defjvp(lambda primals, tangents, slope=slope: (primals[0] * 5, tangents[0] * slope))
        functions.append(f)
    x = rung.ones(2)

    def total(x: Any) -> Any:
        found = [f(x) for f in functions]
        return (found[0] + found[1] * 10 + found[2] * 100).sum()

    np.testing.assert_array_equal(rung.grad(total)(x).numpy(), [321, 321])
