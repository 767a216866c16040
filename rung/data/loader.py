"""Data sets and loaders: shuffled batches, made ahead by a thread, resumable at any batch.

A loader's place in the data is (seed, epoch, batch): the order of an epoch and what a transform
draws depend on these alone, so a loader put back into its place gives the same batches as one that
was never interrupted, whatever was made ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from rung.core.arguments import at_least, check_lengths, described
from rung.core.errors import (
    ArgumentError,
    CheckpointError,
    DomainError,
    IndexingError,
    RungError,
    ShapeError,
)
from rung.core.source import mistaken_source
from rung.tensor.creation import asarray
from rung.tensor.operate import sequence_array
from rung.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]
T = TypeVar("T")
Batch = tuple[Array, ...]
Transform = Callable[[Batch, np.random.Generator], Batch]
"""(arrays of a batch, generator for what it draws) -> arrays of the batch."""


@runtime_checkable
class Dataset(Protocol):
    """Anything with a length and examples by number; an example is a tuple of arrays or numbers.

    A data set that also has `batch(numbers) -> arrays` is asked for whole batches."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class TensorDataset:
    """Examples along the first dim of arrays (or tensors) of the same length, held in memory."""

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise RungError("TensorDataset: no arrays are given")
        self.arrays = tuple(a if type(a) is np.ndarray else np.asarray(asarray(a)) for a in arrays)
        if len({a.shape[:1] for a in self.arrays}) != 1 or not self.arrays[0].ndim:
            shapes = ", ".join(str(list(a.shape)) for a in self.arrays)
            raise ShapeError(f"TensorDataset: arrays {shapes}", fix="give equal first dims")

    def __len__(self) -> int:
        return int(self.arrays[0].shape[0])

    def __getitem__(self, index: Any) -> Batch:
        return tuple(_at(a, index) for a in self.arrays)

    def batch(self, numbers: Array) -> Batch:
        """The examples of these numbers."""
        return tuple(_at(a, numbers) for a in self.arrays)


def _at(array: Array, index: Any) -> Any:
    """array[index]. Raises IndexingError."""
    try:
        return array[index]
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        raise IndexingError(
            f"TensorDataset: {error}: index {described(index)} of {len(array)} examples",
            fix=f"give a slice, or numbers in range({-len(array)}, {len(array)})",
        ) from None


def gather(dataset: Any, numbers: Array) -> Batch:
    """The examples of these numbers, each part stacked along a new first dim."""
    if hasattr(dataset, "batch"):
        return tuple(dataset.batch(numbers))
    examples = [_example(dataset[int(i)]) for i in numbers]
    for i, example in zip(numbers, examples, strict=True):
        shapes, first = ([list(a.shape) for a in e] for e in (example, examples[0]))
        if shapes != first:
            raise ShapeError(
                f"the parts of example {i} have the shapes {shapes}, those of example "
                f"{numbers[0]} {first}",
                fix="bring all to one shape in the data set, or give it batch(numbers)",
            )
    return tuple(np.stack(part) for part in zip(*examples, strict=True))


def _example(given: Any) -> list[Array]:
    """Copies of the parts of an example: a data set may use its memory for the next one."""
    parts = given if isinstance(given, tuple | list) else (given,)
    return [np.array(x if isinstance(x, np.ndarray) else sequence_array(x)) for x in parts]


class Loader:
    """Base of the loaders. A class says how many batches an epoch has, and makes one from its place
    (epoch, batch). Iterating gives the batches from the place on to the end of the epoch."""

    def __init__(self, seed: int, prefetch: int) -> None:
        at_least(type(self).__name__, 0, seed=seed, prefetch=prefetch)
        self.seed = seed
        self.prefetch = prefetch
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        raise NotImplementedError

    def make(self, epoch: int, position: int) -> Batch:
        """The arrays of one batch. Called on another thread when batches are made ahead."""
        raise NotImplementedError

    def generator(self, epoch: int, position: int = -1) -> np.random.Generator:
        """The generator of an epoch, or of one batch of it."""
        name = type(self).__name__
        at_least(name, 0, epoch=epoch)
        at_least(name, -1, position=position)
        sequence = np.random.SeedSequence([self.seed, epoch, position + 1])
        return np.random.Generator(np.random.Philox(sequence))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        count = len(self)
        places = [(self.epoch, i) for i in range(self.position, count)]
        source = (self._tensors(self.make(*place)) for place in places)
        batches = ahead(source, self.prefetch) if self.prefetch else source
        for epoch, position in places:
            batch = next(batches)
            last = position + 1 == count
            self.epoch, self.position = (epoch + 1, 0) if last else (epoch, position + 1)
            yield batch

    def _tensors(self, batch: Any) -> tuple[Tensor, ...]:
        if not isinstance(batch, tuple | list):
            raise ArgumentError(
                f"{type(self).__name__}: a batch is {described(batch)}",
                fix="a transform, and batch(numbers) of a data set, give a tuple of arrays",
            )
        return tuple(asarray(a) for a in batch)

    def forever(self) -> Iterator[tuple[Tensor, ...]]:
        """Batches of one epoch after the other, without end."""
        if len(self) == 0:
            raise RungError(f"{type(self).__name__} has no batch", fix="a smaller batch_size")
        while True:
            yield from self

    def state_dict(self) -> dict[str, Any]:
        """The place of the next batch that has not been handed out."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Any) -> None:
        """Go on from a place. Iterators that are already under way are not moved."""
        names = ("seed", "epoch", "position")
        is_mapping = isinstance(state, Mapping) and set(state) == set(names)
        numbers = [state[n] for n in names] if is_mapping else []
        if not is_mapping or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise CheckpointError(f"{type(self).__name__}: {state!r:.80} is no place in the data")
        self.seed, self.epoch, self.position = numbers


class DataLoader(Loader):
    """Batches of `batch_size` examples of a data set, as tuples of tensors.

    `shuffle` draws an order for each epoch from `seed`; `drop_last` leaves out a smaller last
    batch; `transform` changes the arrays of a batch (augmentation); `prefetch` batches are made
    ahead by a thread (0: none)."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int = 0,
        drop_last: bool = False,
        transform: Transform | None = None,
        prefetch: int = 2,
    ) -> None:
        super().__init__(seed, prefetch)
        at_least("DataLoader", 1, batch_size=batch_size)
        if not isinstance(dataset, Dataset):
            raise ArgumentError(
                f"DataLoader: dataset is {described(dataset)}",
                fix="give an object with len(dataset) and dataset[i]",
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.transform = transform
        self._order: tuple[tuple[int, int], Array] | None = None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Array:
        """The numbers of the examples in the order of this epoch."""
        key = (self.seed, epoch)
        known = self._order
        if known is not None and known[0] == key:
            return known[1]
        count = len(self.dataset)
        found = self.generator(epoch).permutation(count) if self.shuffle else np.arange(count)
        self._order = (key, found)
        return found

    def make(self, epoch: int, position: int) -> Batch:
        start = position * self.batch_size
        arrays = gather(self.dataset, self.order(epoch)[start : start + self.batch_size])
        if self.transform is not None:
            arrays = self.transform(arrays, self.generator(epoch, position))
        return arrays


# ---- making ahead


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def ahead(source: Iterator[T], count: int) -> Iterator[T]:
    """The items of `source`, up to `count` of them made ahead by a thread. An error there is raised
    where its item would have come. The thread ends with the iterator."""
    made: queue.Queue[Any] = queue.Queue(count)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in source:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # handed over to the thread that waits for the item
            put(_Failed(error))

    thread = threading.Thread(target=work, name="rung-loader", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not _END:
            if isinstance(item, _Failed):
                if isinstance(item.error, RungError):  # the thread has no line of the user's
                    raise item.error.at(mistaken_source()) from item.error
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()


def split_indices(count: int, parts: Sequence[float], seed: int) -> list[Array]:
    """0 … count - 1 in a random order fixed by `seed`, cut into parts of these fractions."""
    if not abs(sum(parts) - 1) <= 1e-9 or min(parts) < 0:
        raise DomainError(
            f"split_indices: parts={tuple(parts)} do not add up to 1", fix="give fractions that do"
        )
    at_least("split_indices", 0, count=count, seed=seed)
    check_lengths("split_indices", (count,))
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    bounds = np.round(np.cumsum(parts)[:-1] * count).astype(int)
    return np.split(order, bounds)
