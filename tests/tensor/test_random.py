"""Random numbers: seeds, keys, distributions, state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import rung
from rung.core.errors import DTypeError, ShapeError
from rung.core.settings import configure
from rung.tensor import random


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    rung.manual_seed(0)
    yield
    configure(interpret=False)


def test_seeds_repeat() -> None:
    first = [rung.rand(3).numpy(), rung.randn(3).numpy()]
    rung.manual_seed(0)
    again = [rung.rand(3), rung.randn(3)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    rung.manual_seed(1)
    assert rung.rand(3).tolist() != first[0].tolist()


def test_draws_differ_whether_or_not_they_are_computed_between() -> None:
    lazy = [rung.rand(2) for _ in range(5)]
    found = [t.tolist() for t in lazy]
    rung.manual_seed(0)
    eager = [rung.rand(2).tolist() for _ in range(5)]
    assert found == eager
    assert len({tuple(x) for x in found}) == 5


def test_distributions() -> None:
    u = rung.random.uniform((4000,), 2, 5).numpy()
    assert 2 <= u.min() < 2.01 < 4.99 < u.max() < 5
    n = rung.random.normal((4000,), 1, 3).numpy()
    assert abs(n.mean() - 1) < 0.2
    assert abs(n.std() - 3) < 0.15
    i = rung.randint(-2, 3, (2000,))
    assert i.dtype is rung.int64
    assert sorted(set(i.tolist())) == [-2, -1, 0, 1, 2]
    b = rung.random.bernoulli(0.25, (4000,))
    assert b.dtype is rung.bool
    assert abs(b.numpy().mean() - 0.25) < 0.03
    p = rung.random.bernoulli(rung.tensor([0.0, 1.0]))
    assert p.tolist() == [False, True]
    c = rung.random.categorical(rung.tensor([[0.0, 100.0]] * 50))
    assert set(c.tolist()) == {1}
    assert rung.randn(2, 3, dtype=rung.float64).dtype is rung.float64


def test_permutation_and_choice() -> None:
    assert sorted(rung.randperm(50).tolist()) == list(range(50))
    assert rung.randperm(50).tolist() != list(range(50))
    rows = random.permutation(rung.arange(10).reshape(5, 2))
    assert sorted(rows.tolist()) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert len(set(random.choice(20, (20,), replace=False).tolist())) == 20
    assert set(random.choice(rung.tensor([7.0]), (3,)).tolist()) == {7.0}
    with pytest.raises(ShapeError, match="3 of 2"):
        random.choice(2, (3,), replace=False)


def test_keys() -> None:
    key = random.key(7)
    a = random.normal((3,), key=key)
    assert a.tolist() == random.normal((3,), key=random.key(7)).tolist()
    one, two = random.split(key)
    assert random.bits((2,), one).tolist() != random.bits((2,), two).tolist()
    assert random.fold_in(key, 3).tolist() == random.fold_in(key, rung.tensor(3)).tolist()


def test_generators_and_saved_state() -> None:
    g = rung.Generator(5)
    random.uniform((2,), key=g)
    saved = {name: t.numpy() for name, t in g.state.items()}
    first = random.uniform((2,), key=g).tolist()
    g.set_state(saved)
    assert random.uniform((2,), key=g).tolist() == first


def test_errors() -> None:
    with pytest.raises(DTypeError, match="not a float"):
        random.uniform((2,), dtype=rung.int32)
    with pytest.raises(ShapeError, match="no number"):
        rung.randint(3, 3)
