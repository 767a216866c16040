"""Data sets and loaders."""

from rung.data.digits import Digits, jitter, load_digits
from rung.data.loader import (
    DataLoader,
    Dataset,
    Loader,
    TensorDataset,
    split_indices,
)
from rung.data.text import (
    Corpus,
    RandomBlocks,
    Vocabulary,
    make_corpus,
    read_text,
    stdlib_text,
)

__all__ = [
    "Corpus",
    "DataLoader",
    "Dataset",
    "Digits",
    "Loader",
    "RandomBlocks",
    "TensorDataset",
    "Vocabulary",
    "jitter",
    "load_digits",
    "make_corpus",
    "read_text",
    "split_indices",
    "stdlib_text",
]
