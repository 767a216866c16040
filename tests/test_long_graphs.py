"""Nothing depends on how long a chain of operations is: neither whether it works, nor how the time
that it takes grows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice

import numpy as np
import pytest

import rung
from rung.core.settings import configure
from rung.ir.expr import (
    Call,
    Expr,
    bounds,
    const,
    free_variables,
    linear_terms,
    order_key,
    raw_call,
    read,
    reads_data,
    substitute,
    var,
    walk,
)
from rung.ir.parse import parse_graph
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.kernel.fuse import fuse
from rung.kernel.group import MOST_DEEP, MOST_OPERATIONS
from rung.kernel.loop import Buffer, stmt_exprs, walk_stmts
from rung.kernel.parse import parse_kernel
from rung.kernel.plan import make_plan
from rung.kernel.text import expr_text, kernel_text
from rung.ops.table import OPS
from rung.rules.pipeline import PIPELINE
from rung.tools.explanation import explain
from tests.long_graphs import CONTEXTS, SHAPES, Function, array, chain, traced, vector

LONG = 10_000
PAIRS = [
    *[(shape, "lazy") for shape in SHAPES],
    *zip(islice(cycle(SHAPES), 3 * len(CONTEXTS)), cycle(CONTEXTS), strict=False),
]
"""Each shape and each context several times."""


@pytest.fixture
def interpreted() -> Iterator[None]:
    """Graphs are run by NumPy."""
    configure(interpret=True)
    yield
    configure(interpret=False)


@contextmanager
def little_stack(frames: int) -> Iterator[None]:
    """Python's stack has room for so many frames more than are on it."""
    here, before = 0, sys.getrecursionlimit()
    frame = sys._getframe()
    while frame is not None:
        here, frame = here + 1, frame.f_back  # type: ignore[assignment]
    sys.setrecursionlimit(here + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(("shape", "context"), sorted(set(PAIRS)))
def test_long_graphs_have_the_values_of_their_operations(shape: str, context: str) -> None:
    """Compiled, as NumPy has them one by one."""
    f: Function = lambda x: SHAPES[shape](x, 240)  # noqa: E731
    found = CONTEXTS[context](f)
    configure(interpret=True)
    try:
        wanted = CONTEXTS[context](f)
    finally:
        configure(interpret=False)
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.usefixtures("interpreted")
def test_ten_thousand_operations_everywhere(context: str) -> None:
    """The graph alone, in every place where a graph can stand."""
    found = CONTEXTS[context](lambda x: chain(x, LONG // 2 if "grad" in context else LONG))
    assert np.isfinite(found).all()


def test_thousands_of_operations_compiled() -> None:
    """In `jit`, in machine code."""
    x = vector()
    found = array(rung.jit(lambda x: chain(x, LONG // 8))(x))
    wanted = np.asarray(x)
    for i in range(LONG // 8):
        wanted = np.sin(wanted) if i % 3 else wanted * np.float32(1.25) + np.float32(0.25)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def calls(f: Callable[[], object]) -> int:
    """How many Python functions are called."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        f()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_of_the_compiler_grows_with_the_graph(shape: str) -> None:
    """From the graph as it was traced to kernels in memory: twice the length, twice the work."""

    def work(n: int) -> int:
        graph = traced(lambda x: SHAPES[shape](x, n))
        return calls(lambda: make_plan(run_passes(graph, PIPELINE)[0], {}))

    configure(interpret=True)
    try:
        assert work(800) < 2.4 * work(400)
    finally:
        configure(interpret=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("interpreted")
def test_the_stack_is_not_used(shape: str) -> None:
    """A long graph is planned, printed and read with no more of Python's stack than a short one."""
    graph = traced(lambda x: SHAPES[shape](x, 600))
    with little_stack(110):
        lowered = run_passes(graph, PIPELINE)[0]
        assert parse_graph(graph_text(lowered), OPS) is lowered
        plan = make_plan(lowered, {})
        texts = [kernel_text(call.kernel) for call in plan.calls]
    assert all(
        parse_kernel(t) is c.kernel for t, c in islice(zip(texts, plan.calls, strict=True), 8)
    )


def depth(e: Expr) -> int:
    """Operations one within the other."""
    found: dict[Expr, int] = {}
    stack = [e]
    while stack:
        x = stack[-1]
        missing = [c for c in x.children() if c not in found]
        if missing:
            stack.extend(missing)
            continue
        found[stack.pop()] = isinstance(x, Call) + max((found[c] for c in x.children()), default=0)
    return found[e]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("interpreted")
def test_kernels_stay_small(shape: str) -> None:
    """However long the graph is, the expressions and kernels that are made of it are not."""
    graph = run_passes(traced(lambda x: SHAPES[shape](x, 2500)), PIPELINE)[0]
    for call in fuse(graph).calls:
        exprs = [e for s in walk_stmts(call.kernel.body) for e in stmt_exprs(s)]
        assert max(map(depth, exprs)) <= 3 * MOST_DEEP
        assert sum(isinstance(e, Call) for e in walk(*exprs)) <= 2 * MOST_OPERATIONS


def test_deep_expressions() -> None:
    """What looks at an expression does not care how deep it is."""
    x = var("x", 4)
    buffer = Buffer("b", rung.int64, (4,), "input")
    e: Expr = raw_call("minimum", (x, read(buffer, (x,))), rung.int64)
    for i in range(LONG):
        e = raw_call("maximum" if i % 2 else "add", (e, const(i % 3)), rung.int64)
    with little_stack(40):
        assert bounds(e) is not None
        assert free_variables(e) == {x}
        assert reads_data(e)
        assert linear_terms(e)[1] >= 0
        assert len(order_key(e)) <= 160
        assert substitute(e, {x: const(1)}) is not e
        assert len(repr(e)) > LONG
        assert len(expr_text(e)) > LONG


@pytest.mark.usefixtures("interpreted")
def test_explain_of_a_long_graph() -> None:
    """The report names every level of a long chain."""
    text = explain(lambda x: chain(x, 600), vector()).text()
    assert "sin" in text


def test_deep_modules() -> None:
    """Module trees of any depth have a state, modes, parameters and a text."""
    inner = rung.nn.Linear(2, 2)
    module: rung.nn.Module = inner
    for _ in range(1200):
        module = rung.nn.Sequential(module)
    state = module.state_dict()
    assert len(state) == 2
    module.load_state_dict({name: value + 1 for name, value in state.items()})
    assert len(list(module.parameters())) == 2
    seen: list[rung.nn.Module] = []
    module.eval().apply(seen.append)
    assert seen[0] is inner
    assert seen[-1] is module
    assert not inner.training
    assert repr(module).count("Sequential") == 1200
