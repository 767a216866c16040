"""vmap, linearize, Jacobians, Hessians: against loops over examples and finite differences, in any
order, with trees and modules; and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import AxisError, GradientError, ShapeError, TraceError
from rung.core.settings import configure

rng = np.random.default_rng(0)
X = rng.normal(size=(5, 4))
W = rng.normal(size=(4, 3))


@pytest.fixture(autouse=True, params=["interpreted", "compiled"])
def executor(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(interpret=request.param == "interpreted")
    yield
    configure(interpret=False)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-9, atol=1e-9)


def energy(x: Any) -> Any:
    return (rung.sin(x) ** 3 * rung.exp(0.1 * x.sum())).sum()


def loss(w: Any, x: Any) -> Any:
    return (rung.tanh(x @ w) ** 2).sum()


# ---- vmap


@pytest.mark.parametrize("in_axis", [0, 1, -1])
@pytest.mark.parametrize("out_axis", [0, 1, -1])
def test_axes(in_axis: int, out_axis: int) -> None:
    def f(x: Any) -> Any:
        return rung.cumulative_sum(x * x[::-1], axis=0)

    found = rung.vmap(f, in_axes=in_axis, out_axes=out_axis)(rung.asarray(X))
    rows = np.moveaxis(X, in_axis, 0)
    near(found, np.stack([np.cumsum(r * r[::-1]) for r in rows], axis=out_axis))


def test_an_argument_that_is_whole_and_one_that_is_a_number() -> None:
    found = rung.vmap(lambda w, x, k: k * (x @ w), in_axes=(None, 0, None))(
        rung.asarray(W), rung.asarray(X), 2.0
    )
    near(found, 2 * X @ W)


def test_trees_of_arguments_axes_and_results() -> None:
    given = {"a": rung.asarray(X), "b": [rung.asarray(X.T), rung.asarray(W)]}
    axes = {"a": 0, "b": [1, None]}
    found = rung.vmap(lambda t: {"y": t["a"] * t["b"][0], "z": (t["b"][1].sum(),)}, (axes,))(given)
    near(found["y"], X * X)
    near(found["z"][0], np.full(5, W.sum()))


def test_named_arguments_are_mapped_along_their_first_axis() -> None:
    near(
        rung.vmap(lambda x, *, y: x - y)(rung.asarray(X), y=rung.asarray(X[::-1].copy())),
        X - X[::-1],
    )


def test_a_result_that_is_the_same_for_all() -> None:
    w = rung.asarray(W)
    both = rung.vmap(lambda x: (x.sum(), w * 2), out_axes=(0, None))(rung.asarray(X))
    near(both[0], X.sum(1))
    near(both[1], 2 * W)
    near(rung.vmap(lambda x: w.sum())(rung.asarray(X)), np.full(5, W.sum()))


def test_examples_in_examples() -> None:
    outer = rung.vmap(rung.vmap(lambda a, b: a * b.sum(), (0, None)), (None, 0))
    near(outer(rung.asarray(X[:, 0]), rung.asarray(W)), W.sum(1)[:, None] * X[:, 0])


def test_no_argument_is_mapped_but_the_number_is_given() -> None:
    assert rung.vmap(lambda x: x + 1, in_axes=None, size=3)(rung.ones(2)).shape == (3, 2)


def test_positions_that_differ_by_example() -> None:
    rows = np.array([[0, 2], [3, 3], [1, 0]])
    found = rung.vmap(lambda i: rung.asarray(W)[i])(rung.asarray(rows))
    near(found, W[rows])
    picked = rung.vmap(lambda x, i: rung.take(x, i, axis=0))(
        rung.asarray(X[:3]), rung.asarray(rows)
    )
    near(picked, np.stack([X[k][rows[k]] for k in range(3)]))


def test_updates_in_place_of_what_is_made_inside() -> None:
    def f(x: Any) -> Any:
        made = x * 1.0
        for k in range(3):
            made[k] += made[k + 1]
        return made

    expected = []
    for row in X:
        made = row.copy()
        for k in range(3):
            made[k] += made[k + 1]
        expected.append(made)
    near(rung.vmap(f)(rung.asarray(X)), np.stack(expected))


def test_a_composite_and_a_convolution() -> None:
    images = rng.normal(size=(3, 2, 1, 6, 6))
    kernels = rng.normal(size=(3, 4, 1, 3, 3))

    def f(x: Any, k: Any) -> Any:
        return rung.softmax(nn.functional.conv2d(x, k).reshape(2, -1), axis=-1)

    for axes in ((0, None), (None, 0), (0, 0)):
        args = [a if axis == 0 else a[0] for a, axis in zip((images, kernels), axes, strict=True)]
        one = [
            np.array(
                f(
                    *[
                        rung.asarray(a[k] if axis == 0 else a)
                        for a, axis in zip(args, axes, strict=True)
                    ]
                )
            )
            for k in range(3)
        ]
        near(rung.vmap(f, axes)(*map(rung.asarray, args)), np.stack(one))


def test_random_numbers_differ_by_example_as_keys_do() -> None:
    rung.manual_seed(0)
    rows = np.array(rung.stack([rung.rand(4) for _ in range(3)]))
    rung.manual_seed(0)
    assert np.array_equal(rung.vmap(lambda x: x + rung.rand(4))(rung.zeros((3, 4))), rows)
    keys = rung.stack(rung.random.split(rung.random.key(0), 3))
    drawn = np.array(rung.vmap(lambda k: rung.random.uniform((4,), key=k))(keys))
    apart = [np.array(rung.random.uniform((4,), key=keys[i])) for i in range(3)]
    assert np.array_equal(drawn, np.stack(apart))


# ---- with derivatives and jit


def test_gradients_by_example() -> None:
    found = rung.vmap(rung.grad(loss), in_axes=(None, 0))(rung.asarray(W), rung.asarray(X))
    single = [np.array(rung.grad(loss)(rung.asarray(W), rung.asarray(x))) for x in X]
    near(found, np.stack(single))


def test_the_gradient_of_a_map_is_that_of_the_sum() -> None:
    def f(w: Any) -> Any:
        return rung.vmap(loss, (None, 0))(w, rung.asarray(X)).sum()

    near(rung.grad(f)(rung.asarray(W)), rung.grad(loss)(rung.asarray(W), rung.asarray(X)))


def test_backward_passes_through_a_map() -> None:
    w = rung.asarray(W.copy()).requires_grad_()
    x = rung.asarray(X.copy()).requires_grad_()
    rung.vmap(loss, (None, 0))(w, x).sum().backward()
    near(w.grad, rung.grad(loss)(rung.asarray(W), rung.asarray(X)))
    near(x.grad, rung.grad(loss, argnums=1)(rung.asarray(W), rung.asarray(X)))


def test_modules_by_example() -> None:
    rung.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = rung.asarray(X.astype(np.float32)), rung.ones((5, 2))

    def f(m, x, y) -> Any:
        return ((m(x) - y) ** 2).mean()

    found = rung.vmap(rung.grad(f), in_axes=(None, 0, 0))(model, x, y)
    single = rung.grad(f)(model, x[2], y[2])
    names = dict(found.named_parameters())
    assert len(names) == 4
    for name, p in single.named_parameters():
        np.testing.assert_allclose(np.array(names[name])[2], np.array(p), rtol=1e-5, atol=1e-6)


def test_jit_inside_and_outside() -> None:
    calls = []

    @rung.jit
    def f(x: Any) -> Any:
        calls.append(1)
        return energy(x)

    x = rung.asarray(X)
    expected = [np.array(energy(rung.asarray(r))) for r in X]
    near(f(x[0]), expected[0])
    near(rung.vmap(f)(x), expected)
    outside = rung.jit(rung.vmap(rung.grad(f)))
    for _ in range(2):
        near(outside(x), [np.array(rung.grad(energy)(rung.asarray(r))) for r in X])


# ---- linearize, Jacobians


def numeric(f: Callable[[Any], Any], x: Any, h: float = 1e-6) -> Any:
    columns = []
    for k in range(x.size):
        step = np.zeros(x.size)
        step[k] = h
        step = step.reshape(x.shape)
        up, down = (np.array(f(rung.asarray(x + s))) for s in (step, -step))
        columns.append((up - down) / (2 * h))
    return np.stack(columns, -1).reshape(*columns[0].shape, *x.shape)


def heads(x: Any) -> Any:
    return rung.sin(x[:2]) * x.sum()


JACOBIANS = [rung.jacfwd, rung.jacrev, rung.jacobian]


@pytest.mark.parametrize("jacobian", JACOBIANS, ids=["forward", "reverse", "either"])
def test_jacobians(jacobian: Callable[..., Any]) -> None:
    found = jacobian(heads)(rung.asarray(X))
    assert found.shape == (2, 4, 5, 4)
    np.testing.assert_allclose(np.array(found), numeric(heads, X), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("jacobian", JACOBIANS, ids=["forward", "reverse", "either"])
def test_jacobians_of_trees(jacobian: Callable[..., Any]) -> None:
    def f(p: Any, x: Any) -> Any:
        return {"y": p["w"] @ x, "s": (p["b"] * x).sum()}

    p = {"w": rung.asarray(X), "b": rung.asarray(W[:, 0].copy())}
    found, aux = jacobian(lambda p, x: (f(p, x), "kept"), has_aux=True)(
        p, rung.asarray(W[:, 1].copy())
    )
    assert aux == "kept"
    assert found["y"]["w"].shape == (5, 5, 4) and found["y"]["b"].shape == (5, 4)
    near(found["y"]["b"], np.zeros((5, 4)))
    near(found["s"]["b"], W[:, 1])
    both = jacobian(f, argnums=(0, 1))(p, rung.asarray(W[:, 1].copy()))
    near(both["y"][1], X)


def test_hessian_and_its_products() -> None:
    x, v = rung.asarray(X[0]), rung.asarray(X[1])
    h = np.array(rung.hessian(energy)(x))
    np.testing.assert_allclose(h, numeric(rung.grad(energy), X[0]), rtol=1e-5, atol=1e-6)
    near(h, h.T)
    gradient, product = rung.hvp(energy, (x,), (v,))
    near(gradient[0], rung.grad(energy)(x))
    near(product[0], h @ X[1])
    near(rung.jacrev(rung.jacfwd(energy))(x), h)
    near(rung.vmap(rung.hessian(energy))(rung.asarray(X))[0], h)


def test_linearize_is_linear_in_the_tangents() -> None:
    value, push = rung.linearize(heads, rung.asarray(X))
    near(value, heads(rung.asarray(X)))
    a, b = rng.normal(size=(2, *X.shape))
    near(
        push(rung.asarray(a + 2 * b)),
        np.array(push(rung.asarray(a))) + 2 * np.array(push(rung.asarray(b))),
    )
    near(push(rung.asarray(a)), rung.jvp(heads, (rung.asarray(X),), (rung.asarray(a),))[1])


# ---- errors


@dataclass
class Wrong:
    """A call and what its error says."""

    call: Callable[[], Any]
    error: type[Exception]
    says: str


ones = rung.ones((3, 2))
WRONG = {
    "sizes differ": Wrong(
        lambda: rung.vmap(lambda a, b: a + b)(ones, rung.ones((4, 2))),
        ShapeError, r"argument \[0\] has 3, argument \[1\] has 4",
    ),
    "no axis": Wrong(
        lambda: rung.vmap(lambda a: a, in_axes=2)(ones), AxisError, "axis 2 is out of range",
    ),
    "nothing mapped": Wrong(
        lambda: rung.vmap(lambda a: a, in_axes=None)(ones), AxisError, "no argument is mapped",
    ),
    "too few axes": Wrong(
        lambda: rung.vmap(lambda a, b: a, in_axes=(0,))(ones, ones), AxisError, "1 entries for 2",
    ),
    "another tree": Wrong(
        lambda: rung.vmap(lambda a: a["x"], in_axes=({"y": 0},))({"x": ones}), AxisError, "in_axes",
    ),
    "differs, but is said to be whole": Wrong(
        lambda: rung.vmap(lambda a: a, out_axes=None)(ones), AxisError, "differs by example",
    ),
    "a look at an example": Wrong(
        lambda: rung.vmap(lambda a: a if a.sum() > 0 else -a)(ones), TraceError, "not known",
    ),
    "a Jacobian of integers": Wrong(
        lambda: rung.jacfwd(lambda a: rung.argmax(a))(ones), GradientError, "returns i64",
    ),
    "by integers": Wrong(
        lambda: rung.jacrev(lambda a: a * 1.0)(rung.arange(3)), GradientError, "differentiate is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    wrong = WRONG[name]
    with pytest.raises(wrong.error, match=wrong.says) as found:
        wrong.call()
    assert "test_transforms.py" in str(found.value), "it names the user's line"
    assert "fix:" in str(found.value)


def test_an_example_that_gets_out_is_named() -> None:
    kept: list[Any] = []
    rung.vmap(lambda a: kept.append(a * 2) or a)(ones)
    assert repr(kept[0]) == "Tensor(f32[2], one example)"
    with pytest.raises(TraceError, match="used outside of it"):
        kept[0].numpy()


@pytest.mark.parametrize(
    "second",
    [
        lambda f: rung.hessian(f),
        lambda f: rung.grad(lambda x: rung.grad(f)(x).sum()),
        lambda f: rung.jacrev(rung.jacfwd(f)),
        lambda f: lambda x: rung.hvp(f, (x,), (x,))[1][0],
        lambda f: rung.jacfwd(rung.jacfwd(f)),
    ],
)
def test_derivatives_of_derivatives_are_compiled(second):
    """What an inner derivative followed does not make the result one that a gradient follows."""
    x = rung.asarray(np.arange(1.0, 4.0))
    derived = second(lambda x: (rung.sin(x) * x).sum())
    assert not derived(x).requires_grad
    compiled = rung.jit(derived)
    np.testing.assert_allclose(compiled(x).numpy(), derived(x).numpy(), rtol=1e-12)
    compiled.compile(x)  # raises where the function runs at every call
