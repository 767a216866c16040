"""Compiled = reference: every case of every op, at every level from the graph to machine code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from op_cases import cases
from test_records import counts

from rung.core.settings import configure, settings
from rung.ir.node import Value, make_graph, parameter
from rung.ir.op import Array, Op
from rung.ops.table import RECORDS
from tests.levels import Mismatch, check_levels
from tests.random_graphs import JUMPS, KEEPS_EXACT, SIGNS_OF_ZERO, RandomGraph

EXACT = JUMPS | KEEPS_EXACT | SIGNS_OF_ZERO
"""Ops that have one right answer, or whose answer jumps with a rounding of an operand."""


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    """Compile here: the graphs are small, and the suite runs on all cores already."""
    before = settings()
    configure(cache=False, compile_jobs=1)
    yield
    configure(cache=before.cache, compile_jobs=before.compile_jobs)


def all_cases(op: Op) -> RandomGraph | None:
    """One graph of all the cases of an op, each with operands of its own; None without cases."""
    params: list[Value] = []
    operands: list[Array] = []
    results: list[Value] = []
    for case in cases(op):
        start = len(params)
        made = [parameter(start + i, f"x{start + i}", t) for i, t in enumerate(case.types)]
        params += made
        operands += case.operands
        results += op.build(made, case.attrs)
    if not results:
        return None
    exact = dict.fromkeys(params, op.name in EXACT)
    exact |= dict.fromkeys(results, op.host)
    return RandomGraph(0, make_graph(op.name, params, results), tuple(operands), exact, {})


def compiled_mismatches(op: Op) -> list[Mismatch]:
    """Where a level gives another result than the reference of `op`."""
    graph = all_cases(op)
    counts["compiled"] += len(cases(op))
    return [] if graph is None else check_levels(graph, kernels=False)


@pytest.mark.parametrize("op", RECORDS, ids=lambda op: op.name)
def test_compiled_equals_reference(op: Op) -> None:
    found = compiled_mismatches(op)
    assert not found, "\n".join(map(str, found))
