"""Random graphs of up to 30 ops: graph interpreter = kernel interpreter = machine code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.settings import configure, settings
from rung.ir.node import make_graph
from rung.ops.table import OPS
from tests.levels import Truth, check_levels
from tests.random_graphs import MAX_OPS, NOT_DRAWN, random_graph
from tests.shrink import shrink

GRAPHS = 2000
CHUNK = 50


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    """Compile here: the graphs are small, and the suite runs on all cores already."""
    before = settings()
    configure(cache=False, compile_jobs=1)
    yield
    configure(cache=before.cache, compile_jobs=before.compile_jobs)


@pytest.mark.parametrize("first", range(0, GRAPHS, CHUNK))
def test_all_levels_agree(first: int) -> None:
    """Every level of `CHUNK` graphs, and that the text of each level reads back."""
    for seed in range(first, first + CHUNK):
        found = check_levels(random_graph(seed))
        again = f"python -m tests.fuzz graphs --seed {seed}"
        assert not found, "\n".join(map(str, found)) + f"\n{again}"


def test_every_op_is_drawn() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(GRAPHS):
        graph = random_graph(seed).graph
        nodes = graph.nodes
        assert len(nodes) <= MAX_OPS + 20 or graph.name == "loss_grad"
        drawn.update({n.op.name for n in nodes})
    assert OPS.keys() - drawn.keys() == NOT_DRAWN


def test_the_same_seed_gives_the_same_graph() -> None:
    a, b = random_graph(11), random_graph(11)
    assert a.graph is b.graph
    assert all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
               for x, y in zip(a.inputs, b.inputs, strict=True))  # fmt: skip


def test_a_wrong_result_is_found() -> None:
    """The comparison accepts the naive result; one that is off by 1 % in one element it finds, but
    in the few graphs in which rounding alone does as much."""
    found = missed = 0
    for seed in range(150):
        drawn = random_graph(seed)
        truth = Truth(drawn)
        assert truth.check("same", truth.naive) == []
        for k, v in enumerate(drawn.graph.outputs):
            if v.type.dtype is not dt.float32 or drawn.exact[v]:
                continue
            wrong = [np.array(a) for a in truth.naive]
            flat = wrong[k].reshape(-1)
            sizes = np.where(np.isfinite(flat), np.abs(flat), 0)
            if not sizes.any():
                continue
            flat[np.argmax(sizes)] *= 1.01
            off = truth.check("off", wrong)
            found, missed = found + bool(off), missed + (not off)
    assert found > 100
    assert missed < found // 10


def test_failing_graphs_become_small() -> None:
    """A failure that one op makes is brought down to that op."""
    seed = next(
        s for s in range(500) if any(n.op.name == "tanh" for n in random_graph(s).graph.nodes[8:])
    )
    small = shrink(random_graph(seed), lambda d: any(n.op.name == "tanh" for n in d.graph.nodes))
    ops = [n.op.name for n in small.graph.nodes if n.op.name != "parameter"]
    assert ops == ["tanh"]
    assert make_graph("random", small.graph.params, small.graph.outputs) is small.graph
