"""vmap of graphs: every op, any of its operands for many examples, against one at a time."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

from op_cases import Case, cases

from rung.ir.expr import Read, walk
from rung.ir.interpret import interpret
from rung.ir.node import make_graph
from rung.ir.op import Array, Op
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.ir.verify import verify
from rung.ops.parse import parse
from rung.ops.table import OPS, RECORDS
from rung.transform.vmap import vmap_graph

SIZE = 3
MOST_CASES = 40


def choices(case: Case) -> list[tuple[bool, ...]]:
    """Which operands have the axis: every choice for few operands, else each alone and all."""
    n = len(case.operands)
    if n <= 3:
        return [c for c in product((False, True), repeat=n) if any(c)]
    return [tuple(i == j for j in range(n)) for i in range(n)] + [(True,) * n]


def examples(op: Op, x: Array) -> list[Array]:
    """Different operands of the same kind of values: matrices stay as regular as they are."""
    if op.host:
        return [(x * (1 + k / 4)).astype(x.dtype) for k in range(SIZE)]
    return [np.roll(x.reshape(-1), k).reshape(x.shape) for k in range(SIZE)]


def check(case: Case, chosen: tuple[bool, ...]) -> None:
    pairs = list(zip(case.operands, chosen, strict=True))
    given = [examples(case.op, x) if has else [x] * SIZE for x, has in pairs]
    params, results = case.build()
    graph = make_graph(case.op.name, params, results)
    made = vmap_graph(graph, [i for i, has in enumerate(chosen) if has], SIZE)
    verify(made)
    args = [np.stack(xs) if has else xs[0] for xs, has in zip(given, chosen, strict=True)]
    found = interpret(made, args)
    expected = [case.ref([xs[k] for xs in given]) for k in range(SIZE)]
    for r, x in enumerate(found):
        want = np.stack([e[r] for e in expected])
        assert x.dtype == want.dtype and x.shape == want.shape, (case, chosen)
        wide = want.dtype.kind not in "biuf"
        a, b = (x.astype(np.float32), want.astype(np.float32)) if wide else (x, want)
        tolerance = 2e-2 if wide or want.dtype.itemsize < 4 else 1e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=f"{case} {chosen}")


@pytest.mark.parametrize(
    "op", [op for op in RECORDS if op.arity != 0 and op.samples], ids=lambda op: op.name
)
def test_every_op_with_one_more_axis(op: Op) -> None:
    found = [c for c in cases(op) if c.operands]
    step = max(len(found) // MOST_CASES, 1)
    for case in found[::step]:
        for chosen in choices(case):
            check(case, chosen)


SAME_OP = [op for op in RECORDS if op.axes and not op.batch and op.arity != 0]


@pytest.mark.parametrize("op", SAME_OP, ids=lambda op: op.name)
def test_the_added_axis_is_parallel_in_the_index_map(op: Op) -> None:
    """With `with_axis`, the loop form has the axis in front, and reads every operand along it."""
    for case in [c for c in cases(op) if c.operands][:MOST_CASES]:
        types = [TensorType(t.dtype, (SIZE, *t.shape)) for t in case.types]
        assert op.axes is not None
        before = op.axes(case.attrs, case.types)
        after = op.axes(case.attrs.with_axis(SIZE), types)
        assert [v.extent for v in after.axes] == [SIZE, *(v.extent for v in before.axes)]
        assert len(after.reduce) == len(before.reduce)
        first = after.axes[0]
        for e in walk(*after.bodies):
            if isinstance(e, Read) and op.name != "reshape":
                assert e.index[0] is first, (case, e)
        if after.write is not None:
            assert after.write[0] is first


def test_text_of_a_batched_graph_reads_back() -> None:
    case = next(c for c in cases(OPS["dot_general"]) if len(c.operands) == 2)
    params, results = case.build()
    made = vmap_graph(make_graph("dot", params, results), [0], SIZE)
    assert parse(graph_text(made)) is made
