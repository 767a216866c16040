"""Updates in place of tensors that are read by each other's updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rung

CASES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "transposed": lambda a, b: (a + b.T, b + a.T),
    "sums of rows": lambda a, b: (a + b.sum(1, keepdims=True), b + a.sum(1, keepdims=True)),
    "sums of columns": lambda a, b: (a + b.sum(0, keepdims=True), b + a.sum(0, keepdims=True)),
    "products": lambda a, b: (a + b @ b, b + a @ a),
    "exchange": lambda a, b: (b + 0, a + 0),
}


@pytest.mark.parametrize("size", [3, 40])
@pytest.mark.parametrize("case", CASES)
def test_each_is_read_before_it_is_overwritten(case: str, size: int) -> None:
    function = CASES[case]
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, (size, size)).astype(np.float64) for _ in range(2)]
    a, b = (rung.array(x) for x in arrays)
    new_a, new_b = function(a, b)
    a.assign(new_a)
    b.assign(new_b)
    del new_a, new_b
    for found, wanted in zip((a, b), function(*arrays), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_scalar_that_is_updated_beside_its_use() -> None:
    step, x = rung.array(0), rung.array([1.0, 2.0, 3.0])
    for i in range(1, 4):
        now = step + 1
        x.assign(x + now)
        step.assign(now)
        del now
        assert int(step) == i
    assert np.asarray(x).tolist() == [7.0, 8.0, 9.0]


def test_a_replaced_gradient_gives_its_memory_to_the_next_one() -> None:
    w = rung.tensor(np.ones(4096, np.float32), requires_grad=True)

    @rung.jit
    def step(x: rung.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    def gradient(factor: float) -> tuple[int, np.ndarray]:
        step(rung.full((4096,), factor))
        assert w.grad is not None and w.grad._buffer is not None
        return w.grad._buffer.pointer, np.array(w.grad)

    gradient(1.0)
    first, _ = gradient(2.0)
    again, values = gradient(3.0)
    assert again == first
    np.testing.assert_array_equal(values, 3.0)
    held = w.grad
    other, values = gradient(4.0)
    assert other != again and held is not None
    np.testing.assert_array_equal(np.array(held), 3.0)
    np.testing.assert_array_equal(values, 4.0)
