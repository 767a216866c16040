"""Loaders: order, batches, making ahead, resuming."""

from __future__ import annotations

import threading
from itertools import chain
from typing import Any

import numpy as np
import pytest

from rung import data
from rung.core.errors import CheckpointError, RungError, ShapeError
from rung.data.loader import ahead


def dataset(count: int = 10) -> data.TensorDataset:
    return data.TensorDataset(np.arange(count, dtype=np.float32)[:, None], np.arange(count))


def labels(loader: data.DataLoader) -> list[list[int]]:
    return [np.asarray(y).tolist() for _, y in loader]


def test_batches_in_order() -> None:
    loader = data.DataLoader(dataset(), 4)
    assert len(loader) == 3
    assert labels(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    x, y = next(iter(loader))
    assert (x.shape, x.dtype.name, y.dtype.name) == ((4, 1), "f32", "i64")
    assert len(data.DataLoader(dataset(), 4, drop_last=True)) == 2
    assert len(labels(data.DataLoader(dataset(8), 4))) == 2


def test_shuffling_is_seeded_and_differs_by_epoch() -> None:
    a, b = (data.DataLoader(dataset(), 3, shuffle=True, seed=7) for _ in range(2))
    first = labels(a)
    second = labels(a)
    assert first != second
    assert labels(b) == first
    for epoch in (first, second):
        assert sorted(chain(*epoch)) == list(range(10))
    assert labels(data.DataLoader(dataset(), 3, shuffle=True, seed=8)) != first


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_resume_anywhere(prefetch: int) -> None:
    def noise(batch: Any, rng: np.random.Generator) -> Any:
        return (batch[0] + rng.random(batch[0].shape), batch[1])

    def make() -> data.DataLoader:
        return data.DataLoader(
            dataset(), 3, shuffle=True, seed=1, transform=noise, prefetch=prefetch
        )

    whole = make().forever()
    wanted = [[np.asarray(part) for part in next(whole)] for _ in range(10)]
    whole.close()
    for stop in (0, 1, 3, 4, 6):
        first, second = make(), make()
        source = first.forever()
        for _ in range(stop):
            next(source)
        second.load_state_dict(first.state_dict())
        source.close()
        rest = second.forever()
        for i in range(stop, 10):
            for found, part in zip(next(rest), wanted[i], strict=True):
                np.testing.assert_array_equal(found, part)
        rest.close()


def test_a_place_that_is_none() -> None:
    with pytest.raises(CheckpointError, match="is no place in the data"):
        data.DataLoader(dataset()).load_state_dict({"epoch": 1})


def test_threads_end() -> None:
    before = threading.active_count()
    for i, _ in enumerate(data.DataLoader(dataset(100), 1, prefetch=2)):
        if i == 3:
            break
    source = data.DataLoader(dataset(100), 1, prefetch=2).forever()
    next(source)
    source.close()
    list(data.DataLoader(dataset(5), 1))
    assert threading.active_count() == before


def test_errors_cross_the_thread() -> None:
    def fail(batch: Any, rng: np.random.Generator) -> Any:
        if 4 in batch[1]:
            raise ValueError("bad example")
        return batch

    loader = data.DataLoader(dataset(), 2, transform=fail, prefetch=3)
    found = []
    with pytest.raises(ValueError, match="bad example"):
        for _, y in loader:
            found.append(np.asarray(y).tolist())
    assert found == [[0, 1], [2, 3]]


def test_ahead_is_bounded() -> None:
    made: list[int] = []

    def source() -> Any:
        for i in range(100):
            made.append(i)
            yield i

    items = ahead(source(), 3)
    assert next(items) == 0
    items.close()
    assert len(made) <= 6


def test_a_dataset_of_examples() -> None:
    class Squares:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return np.full(2, index, np.float32), index * index

    x, y = next(iter(data.DataLoader(Squares(), 3)))
    np.testing.assert_array_equal(x, [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(y, [0, 1, 4])


def test_mistakes() -> None:
    with pytest.raises(ShapeError, match="equal first dims"):
        data.TensorDataset(np.zeros(3), np.zeros(4))
    with pytest.raises(RungError, match="no arrays"):
        data.TensorDataset()
    with pytest.raises(RungError, match="batch_size=0"):
        data.DataLoader(dataset(), 0)
    with pytest.raises(RungError, match="prefetch=-1"):
        data.DataLoader(dataset(), 1, prefetch=-1)
    with pytest.raises(RungError, match="has no batch"):
        next(data.DataLoader(dataset(3), 4, drop_last=True).forever())
    with pytest.raises(RungError, match="do not add up"):
        data.split_indices(10, (0.5, 0.6), 0)


def test_split() -> None:
    parts = data.split_indices(10, (0.7, 0.3), 0)
    assert [len(p) for p in parts] == [7, 3]
    assert sorted(np.concatenate(parts)) == list(range(10))
