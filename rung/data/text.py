"""Text as characters: a vocabulary, a corpus, random blocks of it, and one corpus that everybody
has: the source of Python's own standard library.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from rung.core.arguments import at_least, between, described, host_arrays
from rung.core.errors import ArgumentError, IndexingError, RungError
from rung.data.loader import Batch, Loader
from rung.tensor.checks import checked

Array = np.ndarray[Any, Any]

STDLIB_PACKAGES: Final = (
    "asyncio",
    "collections",
    "concurrent",
    "ctypes",
    "dbm",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "wsgiref",
    "xml",
    "xmlrpc",
    "zoneinfo",
)
"""Packages that every installation of the supported versions has; none of them machine-made."""


class Vocabulary:
    """Characters and their numbers. Built from a text: its characters in code-point order."""

    def __init__(self, characters: str) -> None:
        self.characters = "".join(sorted(set(characters)))
        self._numbers = {c: i for i, c in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def encode(self, text: str) -> Array:
        """The numbers (i64) of the characters. Raises IndexingError for one that is not known."""
        if not isinstance(text, str):
            raise ArgumentError(f"encode: text is {described(text)}", fix="give a str")
        try:
            return np.array([self._numbers[c] for c in text], np.int64)
        except KeyError as error:
            raise IndexingError(
                f"the character {error.args[0]!r} is not in the vocabulary",
                fix=f"use only {self.characters!r}",
            ) from None

    def decode(self, numbers: Any) -> str:
        """The text of numbers. Raises IndexingError for one that is not from 0 to len - 1."""
        last = len(self) - 1
        found = np.asarray(checked("decode: number", numbers, 0, last, unit="characters"))
        return "".join(self.characters[i] for i in found.reshape(-1))


@dataclass(frozen=True)
class Corpus:
    """A text as numbers: u8, u16 or u32 `train` and `val`, and the vocabulary."""

    vocabulary: Vocabulary
    train: Array
    val: Array


def make_corpus(text: str, val_part: float = 0.1, vocabulary: Vocabulary | None = None) -> Corpus:
    """The text as numbers, its last part kept apart for validation."""
    if not text:
        raise RungError("make_corpus: the text is empty")
    between("make_corpus", 0, 1, val_part=val_part)
    vocabulary = vocabulary or Vocabulary(text)
    kind = np.min_scalar_type(max(len(vocabulary) - 1, 0))
    numbers = vocabulary.encode(text).astype(kind)
    cut = round(len(numbers) * (1 - val_part))
    return Corpus(vocabulary, numbers[:cut], numbers[cut:])


def stdlib_text(
    packages: Sequence[str] = STDLIB_PACKAGES, limit: int | None = None, seed: int = 0
) -> str:
    """The source of Python's standard library: the .py files of some packages, without their tests,
    in an order that depends on `seed` alone, each after a line with its name; at most `limit`
    characters. Files with characters beyond ASCII are left out.

    Raises RungError when the sources are not installed."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        file
        for package in packages
        for file in (root / package).rglob("*.py")
        if not {"test", "tests", "__pycache__"} & set(file.relative_to(root).parts)
    )
    if not files:
        raise RungError(f"no Python source is found under {root}", fix="give a text file instead")
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(files))
    parts: list[str] = []
    length = 0
    for i in order:
        text = files[i].read_text(encoding="utf-8", errors="replace")
        if not text.isascii():
            continue
        name = files[i].relative_to(root).as_posix()
        parts.append(f"# {name}\n{text.expandtabs()}\n")
        length += len(parts[-1])
        if limit is not None and length >= limit:
            break
    return _printable("".join(parts)[:limit])


def _printable(text: str) -> str:
    """Without control characters other than the end of a line."""
    return "".join(c for c in text if c == "\n" or c.isprintable())


def read_text(path: str | Path) -> str:
    """A text file, or all .py, .txt and .md files below a directory, in the order of their names.

    Raises RungError when there is none or it is no UTF-8."""
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in (".py", ".txt", ".md"))
    try:
        text = "\n".join(f.read_text(encoding="utf-8") for f in files)
    except (OSError, UnicodeDecodeError) as error:
        raise RungError(f"{path} cannot be read as text: {error}") from None
    if not text:
        raise RungError(f"{path} holds no text", fix="give a file of UTF-8 text")
    return text


class RandomBlocks(Loader):
    """Batches of blocks at random places of a text, without end: inputs i64[B, T] and targets
    i64[B, T], which are the same moved by one.

    An epoch is as many batches as make up the text once."""

    def __init__(
        self, numbers: Array, block_size: int, batch_size: int, *, seed: int = 0, prefetch: int = 2
    ) -> None:
        super().__init__(seed, prefetch)
        at_least("RandomBlocks", 1, block_size=block_size, batch_size=batch_size)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise ArgumentError(
                f"RandomBlocks: numbers are {numbers.dtype}{list(numbers.shape)}",
                fix="give one row of integers",
            )
        if len(numbers) <= block_size:
            raise RungError(
                f"RandomBlocks: {len(numbers)} characters, blocks of {block_size}",
                fix="a longer text or a smaller block_size",
            )
        self.numbers = numbers
        self.block_size = block_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, len(self.numbers) // (self.block_size * self.batch_size))

    def make(self, epoch: int, position: int) -> Batch:
        last = len(self.numbers) - self.block_size
        with host_arrays("RandomBlocks"):
            starts = self.generator(epoch, position).integers(0, last, self.batch_size)
            places = starts[:, None] + np.arange(self.block_size + 1)
            drawn = self.numbers[places].astype(np.int64)
        return np.ascontiguousarray(drawn[:, :-1]), np.ascontiguousarray(drawn[:, 1:])
