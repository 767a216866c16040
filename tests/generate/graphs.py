"""Random graphs through every level: graph = naive kernels = scheduled kernels = machine code."""

from __future__ import annotations

import traceback

import numpy as np

from rung.ir.text import graph_text
from tests.levels import check_levels
from tests.random_graphs import RandomGraph, random_graph
from tests.shrink import shrink


def check(seed: int) -> list[str]:
    """What is wrong with graph `seed`, one line each."""
    return failures(random_graph(seed))


def show(seed: int) -> str:
    """Graph `seed` with its inputs, made as small as it goes if it fails."""
    drawn = random_graph(seed)
    found = failures(drawn)
    if found:
        kind = kind_of(found[0])
        drawn = shrink(drawn, lambda d: any(kind_of(f) == kind for f in failures(d)))
    return "\n".join([graph_text_of(drawn), *(failures(drawn) if found else ())])


def graph_text_of(drawn: RandomGraph) -> str:
    """The graph with its inputs."""
    with np.printoptions(threshold=60, linewidth=100):
        inputs = [f"x{i} = {a!r}" for i, a in enumerate(drawn.inputs)]
    return "\n".join(
        [
            graph_text(drawn.graph, data=False),
            *inputs,
            f"exact: {[drawn.exact.get(v, False) for v in drawn.graph.outputs]}",
            f"aliases: {drawn.aliases}",
        ]
    )


def failures(drawn: RandomGraph) -> list[str]:
    """What is wrong with one graph, one line each."""
    try:
        return [str(m) for m in check_levels(drawn)]
    except Exception as e:
        place = traceback.extract_tb(e.__traceback__)[-1]
        message = str(e).partition("\n")[0]
        return [f"{type(e).__name__}: {message} ({place.filename}:{place.lineno})"]


def kind_of(failure: str) -> str:
    """The part of a failure that stays the same when the graph gets smaller."""
    return failure.split(":")[0]
