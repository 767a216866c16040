"""Derivatives: functions of functions, backward, no_grad, memory of graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import GradientError
from rung.core.settings import configure


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


def test_grad_of_trees_and_argnums() -> None:
    def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
        return ((x @ params["w"] + params["b"] - y) ** 2).sum()

    w, b = rung.tensor([[1.0], [2.0]]), rung.tensor([0.5])
    x, y = rung.tensor([[1.0, 1.0], [0.0, 2.0]]), rung.tensor([[3.0], [3.0]])
    error = np.array([[0.5], [1.5]])
    value, grads = rung.value_and_grad(loss)({"w": w, "b": b}, x, y)
    assert value.item() == pytest.approx(2.5)
    np.testing.assert_allclose(grads["w"].numpy(), x.numpy().T @ error * 2)
    np.testing.assert_allclose(grads["b"].numpy(), [4])
    gx, gy = rung.grad(loss, argnums=(1, 2))({"w": w, "b": b}, x, y)
    np.testing.assert_allclose(gx.numpy(), 2 * error @ w.numpy().T)
    np.testing.assert_allclose(gy.numpy(), -2 * error)


def test_has_aux_and_unused_arguments() -> None:
    (value, aux), g = rung.value_and_grad(lambda x, y: (x * 3, {"y": y, "n": 1}), (0, 1), True)(
        rung.tensor(2.0), rung.tensor(5.0)
    )
    assert (value.item(), aux["y"].item(), aux["n"]) == (6, 5, 1)
    assert [t.item() for t in g] == [3, 0]


def test_grad_is_for_the_argument_alone() -> None:
    x = rung.tensor(3.0)
    assert rung.grad(lambda y: x * y)(x).item() == 3


def test_higher_derivatives() -> None:
    f = rung.grad(rung.grad(rung.grad(lambda x: x**3 * x)))
    assert f(rung.tensor(2.0)).item() == pytest.approx(48)
    g = rung.grad(lambda x: x * rung.grad(lambda y: x * y * y)(x))
    assert g(rung.tensor(3.0)).item() == pytest.approx(3 * 2 * 9)


def test_vjp_and_jvp() -> None:
    x = rung.tensor([1.0, 2.0])
    out, pull_back = rung.vjp(lambda v: {"s": v.sin(), "p": v * v}, x)
    np.testing.assert_allclose(out["p"].numpy(), [1, 4])
    (g,) = pull_back({"s": rung.tensor([1.0, 0.0]), "p": rung.tensor([0.0, 1.0])})
    np.testing.assert_allclose(g.numpy(), [np.cos(1), 4], 1e-6)
    value, tangent = rung.jvp(lambda a, b: a * b, (x, x * 2), (rung.ones(2), rung.zeros(2)))
    np.testing.assert_allclose(value.numpy(), [2, 8])
    np.testing.assert_allclose(tangent.numpy(), [2, 4])
    second = rung.grad(lambda v: rung.jvp(lambda a: a**3, (v,), (rung.ones(()),))[1])
    assert second(rung.tensor(2.0)).item() == pytest.approx(12)


def test_backward_adds_up() -> None:
    p = rung.tensor([1.0, 2.0], requires_grad=True)
    q = rung.tensor([3.0, 4.0], requires_grad=True)
    (p * q).sum().backward()
    (p * 2).sum().backward()
    assert p.grad.tolist() == [5, 6]
    assert q.grad.tolist() == [1, 2]
    assert not p.grad.requires_grad
    p.grad = None
    (p * p).sum().backward()
    assert p.grad.tolist() == [2, 4]


def test_backward_after_a_look() -> None:
    p = rung.tensor([1.0, 2.0], requires_grad=True)
    h = p * 3
    assert h.tolist() == [3, 6]
    loss = (h * h).sum()
    assert loss.item() == 45
    loss.backward()
    assert p.grad.tolist() == [18, 36]


def test_backward_through_an_update_under_no_grad() -> None:
    p = rung.tensor(2.0, requires_grad=True)
    loss = p * p
    with rung.no_grad():
        p -= 1
    (loss + p * 5).backward()
    assert p.grad.item() == 4 + 5
    with rung.no_grad():
        p -= p.grad
    assert p.item() == -8
    assert p.requires_grad
    assert p.is_leaf


def test_what_is_followed() -> None:
    p = rung.tensor([1.0], requires_grad=True)
    x = rung.tensor([2.0])
    assert (p * x).requires_grad
    assert not (x * x).requires_grad
    assert not (p > 0).requires_grad
    assert not p.argmax().requires_grad
    assert not p.detach().requires_grad
    assert not (p * x).is_leaf
    with rung.no_grad():
        y = p * x
        assert not rung.is_grad_enabled()
        with rung.enable_grad():
            z = p * x
    assert not y.requires_grad
    assert z.requires_grad
    (y + z).sum().backward()
    assert p.grad.tolist() == [2]

    @rung.no_grad()
    def f() -> Any:
        return p * x

    assert not f().requires_grad


def test_detach_and_clone() -> None:
    p = rung.tensor([3.0], requires_grad=True)
    (p.detach() * p).sum().backward()
    assert p.grad.tolist() == [3]
    p.grad = None
    c = p.clone()
    c *= 2
    c.sum().backward()
    assert p.grad.tolist() == [2]
    assert p.tolist() == [3]


def test_updates_of_computed_tensors_are_followed() -> None:
    p = rung.tensor([1.0, 2.0, 3.0], requires_grad=True)
    h = p * 2
    h[1] = 10.0
    h += p
    h.sum().backward()
    assert p.grad.tolist() == [3, 1, 3]
    x = rung.zeros(3)
    x[0] = (p * p).sum()
    x.sum().backward()
    assert p.grad.tolist() == [5, 5, 9]


def test_create_graph() -> None:
    p = rung.tensor(2.0, requires_grad=True)
    (p**3).backward(create_graph=True)
    g = p.grad
    assert g.item() == 12
    p.grad = None
    g.backward()
    assert p.grad.item() == 12


def test_the_graph_is_let_go() -> None:
    p = rung.tensor([1.0], requires_grad=True)
    h = p * 2
    loss = h.sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert p.grad.tolist() == [4]
    assert loss.item() == 2
    with pytest.raises(GradientError, match="let go"):
        loss.backward()
    late = h * 3
    with pytest.raises(GradientError, match="let go"):
        late.sum().backward()


def test_the_old_parameters_are_not_kept_alive_by_the_loss() -> None:
    gc.collect()
    p = rung.tensor(np.ones(100, np.float32), requires_grad=True)
    old = weakref.ref(p._buffer)
    loss = (p * p).sum()
    loss.backward()
    with rung.no_grad():
        p -= 0.1 * p.grad
    p.grad = None
    loss.item()
    where = p._buffer.pointer
    assert old() is None or old().pointer == where


def test_leaves_cannot_be_updated_while_gradients_are_followed() -> None:
    p = rung.tensor([1.0], requires_grad=True)
    with pytest.raises(GradientError, match="updated in place"):
        p += 1
    with pytest.raises(GradientError, match="no_grad"):
        p[0] = 1
    p.assign([5.0])
    assert p.tolist() == [5]


def test_errors() -> None:
    with pytest.raises(GradientError, match="does not depend"):
        rung.ones(()).backward()
    with pytest.raises(GradientError, match="reduce it to one number"):
        (rung.ones(3).requires_grad_() * 2).backward()
    with pytest.raises(GradientError, match="only floats"):
        rung.arange(3).requires_grad_()
    with pytest.raises(GradientError, match=r"argument to differentiate is i64"):
        rung.grad(lambda x: x)(rung.tensor(3))
    with pytest.raises(GradientError, match="not a float scalar"):
        rung.grad(lambda x: x)(rung.ones(3))
    with pytest.raises(GradientError, match="argument 2 of a call with 1"):
        rung.grad(lambda x: x, argnums=2)(rung.ones(()))
    with pytest.raises(GradientError, match="float, not a tensor"):
        rung.grad(lambda x: 1.0)(rung.ones(()))


def test_gradient_of_a_loop_of_steps_is_one_step_of_graph() -> None:
    p = rung.tensor([1.0, 1.0], requires_grad=True)
    x = rung.tensor([1.0, -1.0])
    losses = []
    for _ in range(20):
        loss = ((p * x - 3) ** 2).sum()
        loss.backward()
        with rung.no_grad():
            p -= 0.1 * p.grad
        p.grad = None
        losses.append(loss)
    assert sum(t._buffer is not None for t in losses) >= 18
    assert losses[-1].item() < 1e-2


DERIVATIVES: dict[str, Callable[[Any, Any], Any]] = {
    "grad": lambda f, w: rung.grad(f)(w),
    "grad of a list": lambda f, w: rung.grad(lambda ws: f(ws[0]))([w])[0],
    "the value": lambda f, w: rung.value_and_grad(f)(w)[0],
    "vjp": lambda f, w: rung.vjp(f, w)[1](rung.tensor(1.0))[0],
    "jvp": lambda f, w: rung.jvp(f, (w,), (rung.ones(1),))[1],
    "linearize": lambda f, w: rung.linearize(f, w)[1](rung.ones(1)),
    "jacobian": lambda f, w: rung.jacobian(f)(w),
    "hessian": lambda f, w: rung.hessian(f)(w),
    "hvp": lambda f, w: rung.hvp(f, (w,), (rung.ones(1),))[1][0],
}


@pytest.mark.parametrize("look", (False, True))
@pytest.mark.parametrize("name", DERIVATIVES)
def test_backward_never_takes_a_derivative_of_a_function_for_a_constant(
    name: str, look: bool
) -> None:
    """As the inner step of meta-learning: a step along rung.grad, then backward()."""
    w = rung.tensor([2.0], requires_grad=True)
    found = DERIVATIVES[name](lambda w: (w**3).sum(), w)
    if look:
        found.numpy()
    with pytest.raises(GradientError, match="let go"):
        (w * found).sum().backward()
    (w * found.detach()).sum().backward()
    np.testing.assert_allclose(w.grad, found.numpy().reshape(1))
    with rung.no_grad():
        size = found.sum() * 1
    (w * size).sum().backward()
    np.testing.assert_allclose(w.grad, 2 * found.numpy().reshape(1))


def test_what_does_not_depend_on_the_arguments_of_a_derivative_is_a_constant() -> None:
    w = rung.tensor([2.0], requires_grad=True)
    x = rung.tensor([3.0])
    (_, aux), _ = rung.value_and_grad(lambda w: ((w * x).sum(), x * 2), has_aux=True)(w)
    (w * aux).sum().backward()
    assert w.grad is not None and w.grad.tolist() == [6.0]


def test_a_derivative_of_a_function_is_followed_by_one_outside_of_it() -> None:
    w = rung.tensor([2.0], requires_grad=True)
    step = lambda w: (w - 0.1 * rung.grad(lambda w: (w**3).sum())(w)).sum()  # noqa: E731
    np.testing.assert_allclose(rung.grad(step)(w), [1 - 0.6 * 2], rtol=1e-6)


def test_a_jitted_step_by_value_and_grad_has_a_program_of_its_own() -> None:
    w = rung.tensor([2.0], requires_grad=True)

    @rung.jit
    def step() -> Any:
        loss, gradient = rung.value_and_grad(lambda w: (w**2).sum())(w)
        with rung.no_grad():
            w.assign(w - 0.25 * gradient)
        return loss

    assert [step().item() for _ in range(3)] == [4.0, 1.0, 0.25]
    assert step.compile().runnable.graph.nodes
