"""Functions under `jit` that come with many sizes: few compilations, the results of each size."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import IndexingError
from rung.core.settings import configure, settings
from rung.nn import functional as F
from rung.tensor.programs import clear_programs, num_compiled
from rung.tensor.state import buffer_of

SIZES = (3, 1, 7, 2, 16, 33, 50, 64, 17, 128)
MOST_COMPILED = 3
RNG = np.random.default_rng(3)


def floats(*shape: int) -> rung.Tensor:
    return rung.asarray(RNG.standard_normal(shape).astype(np.float32))


def positions(most: int, *shape: int) -> rung.Tensor:
    return rung.asarray(RNG.integers(0, most, shape))


W1, W2, W3 = floats(24, 40), floats(40, 10), floats(24, 24)
FILTER = floats(8, 3, 3, 3)


def classify(x: rung.Tensor, y: rung.Tensor) -> Any:
    def loss(a: rung.Tensor, b: rung.Tensor) -> rung.Tensor:
        return F.cross_entropy(F.relu(x @ a) @ b, y)

    return (loss(W1, W2), *rung.grad(loss, (0, 1))(W1, W2))


def attend(x: rung.Tensor) -> rung.Tensor:
    b, n, d = x.shape
    heads = rung.permute_dims(rung.reshape(x @ W3, (b, n, 3, 8)), (0, 2, 1, 3))
    found = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    return rung.reshape(rung.permute_dims(found, (0, 2, 1, 3)), (b, n, d))


def attend_back(x: rung.Tensor) -> rung.Tensor:
    return rung.grad(lambda x: (attend(F.layer_norm(x, (24,))) ** 2).mean())(x)


def convolve(x: rung.Tensor) -> Any:
    def loss(w: rung.Tensor) -> rung.Tensor:
        return (F.max_pool2d(F.relu(F.conv2d(x, w, padding=1)), 2) ** 2).mean()

    return rung.value_and_grad(loss)(FILTER)


def pass_messages(x: rung.Tensor, source: rung.Tensor, target: rung.Tensor) -> rung.Tensor:
    return F.relu(rung.index_add(rung.zeros_like(x), 0, target, (x @ W3)[source]))


def grow(x: rung.Tensor) -> Any:
    return x.mean(), x.std(), rung.concat([x, x[-1:]], axis=0) * 2, rung.max(x, axis=0)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[int], Sequence[rung.Tensor]]]] = {
    "batch": (classify, lambda n: (floats(n, 24), positions(10, n))),
    "length": (attend, lambda n: (floats(2, n, 24),)),
    "length_back": (attend_back, lambda n: (floats(2, n, 24),)),
    "images": (convolve, lambda n: (floats(n, 3, 8, 8),)),
    "graph": (
        pass_messages,
        lambda n: (floats(n, 24), positions(n, 3 * n + 5), positions(n, 3 * n + 5)),
    ),
    "list": (grow, lambda n: (floats(n, 5),)),
    "batch_and_length": (attend, lambda n: (floats(n % 7 + 2, n + 1, 24),)),
}


def as_arrays(found: Any) -> list[np.ndarray[Any, Any]]:
    return [x.numpy() for x in (found if isinstance(found, tuple | list) else [found])]


def agree(found: Any, wanted: Any, n: int) -> None:
    for a, b in zip(as_arrays(found), as_arrays(wanted), strict=True):
        assert a.shape == b.shape, n
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * scale, err_msg=f"size {n}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_cost_no_compilation(name: str) -> None:
    function, arguments = FUNCTIONS[name]
    clear_programs()
    jitted, static, compiled = rung.jit(function), rung.jit(function, dynamic=False), 0
    for n in SIZES:
        given = arguments(n)
        before = num_compiled()
        found = jitted(*given)
        compiled += num_compiled() - before
        if n in SIZES[:4] or n == SIZES[-1]:
            agree(found, static(*given), n)
    assert compiled <= MOST_COMPILED


def test_state_is_updated_at_every_size() -> None:
    clear_programs()
    ours, theirs = rung.asarray(np.zeros(24, np.float32)), np.zeros(24)

    @rung.jit
    def step(x: rung.Tensor) -> rung.Tensor:
        ours.assign(ours * 0.9 + x.sum(0) * (1 / x.shape[0]))
        return ours.sum()

    before = num_compiled()
    for n in SIZES:
        x = floats(n, 24)
        step(x)
        theirs = theirs * 0.9 + x.numpy().sum(0) / n
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-4)
    assert num_compiled() - before <= MOST_COMPILED + 1


def test_errors_name_the_range_of_the_size() -> None:
    clear_programs()
    pick = rung.jit(lambda x, i: rung.take(x, i, axis=0) * 2)
    for n in (4, 6, 9):
        pick(floats(n, 3), positions(n, 5))
    with pytest.raises(IndexingError, match="index 12 is out of range for 12 elements"):
        pick(floats(12, 3), rung.asarray(np.array([0, 12, 3, 1, 2])))


def test_dynamic_can_be_switched_off() -> None:
    clear_programs()
    twice = rung.jit(lambda x: x * 2 + 1, dynamic=False)
    before = num_compiled()
    for n in (3, 4, 5, 6):
        twice(floats(n, 3))
    assert num_compiled() - before == 4


def test_what_cannot_be_generic_says_why() -> None:
    clear_programs()
    ordered = rung.jit(lambda x: rung.sort(x * 2, axis=0))
    for n in (3, 4, 5):
        x = floats(n, 4)
        agree(ordered(x), rung.asarray(np.sort(x.numpy() * 2, axis=0)), n)
    assert any("rows whose length depends on the size" in text for text in rung.recompiles())


def test_another_structure_of_numbers_is_not_taken_for_a_size() -> None:
    """Numbers that do not follow from the sizes make another program, with its own results."""
    clear_programs()

    def window(x: rung.Tensor, start: int) -> rung.Tensor:
        return x[start : start + 4].sum(0)

    jitted = rung.jit(window)
    for n, start in ((8, 0), (12, 1), (20, 2), (30, 7), (9, 3), (40, 11)):
        x = floats(n, 5)
        agree(jitted(x, start), rung.asarray(x.numpy()[start : start + 4].sum(0)), n)


def test_what_is_kept_of_a_graph_holds_no_buffer() -> None:
    clear_programs()
    before = settings().tier
    configure(tier="fused")
    try:
        for n in (3, 4, 5):
            x = floats(n, 3)
            memory = weakref.ref(buffer_of(x).array)
            (x * 2 + 1).numpy()
            del x
            gc.collect()
            assert memory() is None
    finally:
        configure(tier=before)
