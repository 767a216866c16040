"""One tensor as several operands of a function: under every way to a derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.settings import configure
from rung.nn import functional as F

Function = Callable[..., Any]
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


@rung.custom_vjp
def scaled_product(x: Any, y: Any) -> Any:
    return x * y


scaled_product.defvjp(
    lambda x, y: (x * y, (x, y)), lambda kept, ct: (3 * ct * kept[1], 5 * ct * kept[0])
)


@rung.custom_jvp
def ratio(x: Any, y: Any) -> Any:
    return x / y


@ratio.defjvp
def _ratio_rule(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return ratio(x, y), 2 * dx / y - 7 * dy * x


def looped(x: Any, y: Any) -> Any:
    carry, kept = rung.scan(lambda c, _: (c * x + F.linear(y, y), c), x, length=3)
    return carry + kept.sum(0)


CASES: dict[str, tuple[Function, int]] = {
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), 3),
    "linear": (F.linear, 2),
    "layer_norm": (lambda w, b: F.layer_norm(w, 3, w[0], b[0]), 2),
    "checkpoint": (rung.checkpoint(lambda x, y: F.linear(x, y).sin()), 2),
    "custom_vjp": (scaled_product, 2),
    "custom_jvp": (ratio, 2),
    "scan": (looped, 2),
    "cond": (lambda x, y: rung.cond(x.sum() > 0, F.linear, lambda a, b: a * b, x, y), 2),
    "while_loop": (
        lambda x, y: rung.while_loop(
            lambda c: c.sum() < 1e3, lambda c: F.linear(c, x) + y, y, limit=4
        ),
        2,
    ),
}


def operands(count: int) -> list[Any]:
    """Equal tensors that are not the same."""
    x = RNG.uniform(0.5, 1.5, (3, 3))
    if count == 3:
        x = RNG.uniform(0.5, 1.5, (2, 3, 4))
    return [rung.tensor(x.copy()) for _ in range(count)]


def near(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_a_repeated_operand_add_up(name: str) -> None:
    function, count = CASES[name]
    apart = operands(count)
    one = apart[0]
    together = lambda x: (function(*(x,) * count) ** 2).sum()  # noqa: E731
    numbers = tuple(range(count))
    wanted = sum(rung.grad(lambda *x: (function(*x) ** 2).sum(), argnums=numbers)(*apart))
    near(rung.grad(together)(one), wanted)
    near(rung.vjp(together, one)[1](rung.tensor(1.0, dtype="f64"))[0], wanted)
    near(rung.jit(rung.grad(together))(one), wanted)
    leaf = rung.tensor(one.numpy(), requires_grad=True)
    together(leaf).backward()
    near(leaf.grad, wanted)
    both = rung.stack([one, 2 * one])
    near(rung.vmap(rung.grad(together))(both)[0], wanted)


@pytest.mark.parametrize("name", [n for n in CASES if "custom" not in n])
def test_second_derivatives_of_a_repeated_operand(name: str) -> None:
    """Forward over reverse is the difference of gradients."""
    function, count = CASES[name]
    (one, *_) = operands(count)
    gradient = rung.grad(lambda x: function(*(x,) * count).sin().sum())
    direction = rung.tensor(RNG.standard_normal(one.shape))
    _, found = rung.jvp(gradient, (one,), (direction,))
    h = 1e-5
    wanted = (gradient(one + h * direction) - gradient(one - h * direction)) / (2 * h)
    size = float(np.abs(wanted.numpy()).max()) + 1
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6 * size)
