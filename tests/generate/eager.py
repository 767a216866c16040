"""Random graphs op by op, by the kernels of NumPy, against the references."""

from __future__ import annotations

from tests.generate.graphs import graph_text_of
from tests.levels import Truth, check_eager
from tests.random_graphs import random_graph


def check(seed: int) -> list[str]:
    """What is wrong with graph `seed`, one line each."""
    drawn = random_graph(seed)
    return [str(m) for m in check_eager(drawn, Truth(drawn))]


def show(seed: int) -> str:
    """Graph `seed` with its inputs, and what is wrong with it."""
    return "\n".join([graph_text_of(random_graph(seed)), *check(seed)])
