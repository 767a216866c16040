"""Programs generic in sizes: every level against the references, at sizes around every edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.ir.expr import sized_value
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value, make_graph, parameter
from rung.ir.passes import run_passes
from rung.ir.types import TensorType
from rung.kernel.generalise import NotGeneral
from rung.kernel.interpret import interpret as interpret_kernel
from rung.kernel.loop import Kernel
from rung.kernel.parse import parse_kernel
from rung.kernel.text import kernel_text
from rung.ops.broadcast import broadcast_to, reduce_sum, reshape
from rung.ops.contraction import matmul
from rung.ops.elementwise import multiply
from rung.ops.families import add
from rung.ops.indexing import gather, scatter_add
from rung.ops.movement import concat, cut, permute
from rung.ops.reduction import reduce_max
from rung.ops.softmax import softmax
from rung.ops.transcendental import exp
from rung.rules.pipeline import PIPELINE
from rung.runtime.sized import SizedProgram, SizedRun, high_for

Shapes = Callable[..., list[tuple[int, ...]]]
EDGES = (2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 127, 129, 200)
"""Around multiples of tiles, of vectors and of blocks of tiles."""

MOST_INTERPRETED = 300
"""The product of sizes at which kernels are interpreted, at most."""


@dataclass(frozen=True)
class Case:
    """A function of float operands, and of positions below `places`, at shapes that depend on the
    sizes."""

    function: Callable[..., Value | list[Value]]
    shapes: Shapes
    num_sizes: int = 1
    positions: Callable[..., list[tuple[int, ...]]] = lambda *sizes: []
    places: Callable[..., int] = lambda *sizes: 2

    def graph(self, sizes: Sequence[int]) -> Graph:
        types = [TensorType(dt.float32, s) for s in self.shapes(*sizes)]
        types += [TensorType(dt.int64, s) for s in self.positions(*sizes)]
        params = [parameter(i, f"x{i}", t) for i, t in enumerate(types)]
        made = self.function(*params)
        return make_graph("case", params, made if isinstance(made, list) else [made])

    def operands(self, sizes: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        rng = np.random.default_rng(sum(sizes))
        floats = [rng.standard_normal(s).astype(np.float32) for s in self.shapes(*sizes)]
        most = self.places(*sizes)
        return [*floats, *(rng.integers(0, most, s) for s in self.positions(*sizes))]


def lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def turned(x: Value) -> Value:
    return permute(x, dims=(1, 0))


def mean_of_rows(x: Value) -> Value:
    total = reduce_sum(x, dims=(1,))
    return multiply(total, total)


def cross_entropy(x: Value, w: Value) -> Value:
    return softmax(matmul(x, w), dim=1)


def attention(q: Value, k: Value, v: Value) -> Value:
    scores = softmax(matmul(q, permute(k, dims=(0, 2, 1))), dim=2)
    return matmul(scores, v)


CASES = {
    "map": Case(lambda x: multiply(exp(x), x), lambda n: [(n, 64)]),
    "map_of_one_dim": Case(lambda x: multiply(exp(x), x), lambda n: [(n,)]),
    "rows": Case(mean_of_rows, lambda n: [(n, 64)]),
    "rows_of_n": Case(mean_of_rows, lambda n: [(7, n)]),
    "columns": Case(lambda x: reduce_sum(multiply(x, x), dims=(0,)), lambda n: [(n, 64)]),
    "columns_of_n": Case(lambda x: reduce_sum(multiply(x, x), dims=(0,)), lambda n: [(40, n)]),
    "whole": Case(lambda x: reduce_sum(multiply(x, x), dims=(0, 1)), lambda n: [(n, 64)]),
    "maximum": Case(lambda x: reduce_max(x, dims=(1,)), lambda n: [(n, 33)]),
    "softmax_rows": Case(lambda x: softmax(x, dim=1), lambda n: [(n, 50)]),
    "softmax_of_n": Case(lambda x: softmax(x, dim=1), lambda n: [(9, n)]),
    "matmul_rows": Case(lambda x, w: exp(matmul(x, w)), lambda n: [(n, 64), (64, 100)]),
    "matmul_few_columns": Case(lambda x, w: matmul(x, w), lambda n: [(n, 64), (64, 10)]),
    "matmul_terms": Case(lambda x, w: matmul(turned(x), w), lambda n: [(n, 40), (n, 50)]),
    "matmul_columns": Case(lambda x, w: matmul(x, w), lambda n: [(30, 64), (64, n)]),
    "matmul_square": Case(lambda x, w: matmul(x, turned(w)), lambda n: [(n, 40), (n, 40)]),
    "matmul_turned": Case(lambda x, w: matmul(x, turned(w)), lambda n: [(n, 64), (30, 64)]),
    "classifier": Case(cross_entropy, lambda n: [(n, 64), (64, 10)]),
    "attention": Case(attention, lambda n: [(3, n, 16)] * 3),
    "two_sizes": Case(
        lambda x, y: add(x, broadcast_to(y, shape=x.shape)), lambda n, m: [(n, m, 6), (m, 6)], 2
    ),
    "batch_and_length": Case(attention, lambda b, n: [(b, n, 16)] * 3, 2),
    "concat": Case(lambda x, y: concat(x, y, dim=1), lambda n: [(5, n), (5, 3)]),
    "cut": Case(lambda x: cut(x, 1, 1, x.shape[1] - 1), lambda n: [(5, n + 1)]),
    "reshape": Case(lambda x: reshape(turned(x), shape=(x.type.size,)), lambda n: [(n, 12)]),
    "gather": Case(
        lambda x, i: gather(x, reshape(i, shape=(*i.shape, 1))),
        lambda n, e: [(n, 24)],
        2,
        lambda n, e: [(e,)],
        lambda n, e: n,
    ),
    "scatter": Case(
        lambda x, u, i: scatter_add(x, reshape(i, shape=(*i.shape, 1)), u),
        lambda n, e: [(n, 24), (e, 24)],
        2,
        lambda n, e: [(e,)],
        lambda n, e: n,
    ),
}


def sizes_of(case: Case) -> list[tuple[int, ...]]:
    if case.num_sizes == 1:
        return [(n,) for n in EDGES]
    return [(n, m) for n, m in zip(EDGES[::2], EDGES[::-2], strict=True)]


def build(case: Case) -> SizedProgram:
    return SizedProgram(case.graph, case.num_sizes, high_for(200), {}, lowered)


def run(program: SizedRun, operands: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    outputs = [np.full(t.shape, 77, t.dtype.numpy) for t in program.output_types]
    program.run([x.ctypes.data for x in operands], [y.ctypes.data for y in outputs])
    return outputs


def agree(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], where: object) -> None:
    assert found.shape == wanted.shape, where
    error = np.abs(found - wanted).max(initial=0)
    assert error <= 1e-5 * max(np.abs(wanted).max(initial=0), 1) + 1e-5, (where, error)


@pytest.mark.parametrize("name", CASES)
def test_machine_code_agrees_with_the_references(name: str) -> None:
    case = CASES[name]
    program = build(case)
    for sizes in sizes_of(case):
        operands = case.operands(sizes)
        wanted = interpret(case.graph(sizes), operands)
        for found, right in zip(run(program.at(sizes), operands), wanted, strict=True):
            agree(found, right, sizes)


@pytest.mark.parametrize("name", CASES)
def test_naive_and_scheduled_kernels_print_parse_and_agree(name: str) -> None:
    case = CASES[name]
    for kernel in dict.fromkeys(build(case).kernels):
        for level in (kernel.naive, kernel.scheduled):
            assert parse_kernel(kernel_text(level)) is level
        few = [s for s in sizes_of(case) if prod(s) <= MOST_INTERPRETED]
        for sizes in few[::4]:
            _agree_as_kernels(kernel.naive, kernel.scheduled, case, sizes)


def _agree_as_kernels(naive: Kernel, scheduled: Kernel, case: Case, sizes: tuple[int, ...]) -> None:
    values = {f"n{i}": n for i, n in enumerate(sizes)}
    scope = {n: values[n.name] for n in naive.sizes}
    rng = np.random.default_rng(1)
    own = list(scope.values())
    arrays = []
    for b in naive.params:
        shape = b.shape if b.elements is None else (sized_value(b.elements, scope),)
        if b.dtype.is_float:
            arrays.append(rng.standard_normal(shape).astype(b.dtype.numpy))
        else:
            arrays.append(rng.integers(0, case.places(*sizes), shape).astype(b.dtype.numpy))
    added = [np.zeros(b.shape, b.dtype.numpy) for b in scheduled.params[len(naive.params) :]]
    first, second = [x.copy() for x in arrays], [x.copy() for x in arrays]
    interpret_kernel(naive, first, sizes=own)
    interpret_kernel(scheduled, [*second, *added], sizes=own, hostile=True)
    for x, y in zip(first, second, strict=True):
        agree(np.asarray(y, np.float64), np.asarray(x, np.float64), (naive.name, sizes))


def test_a_program_that_differs_says_why() -> None:
    halves = Case(lambda x: cut(x, 0, 0, x.shape[0] // 2), lambda n: [(n, 4)])
    with pytest.raises(NotGeneral, match="no polynomial of the sizes"):
        build(halves)


def test_sizes_beyond_the_limits_are_refused() -> None:
    program = build(CASES["map"])
    for sizes in ((1,), (program.high + 1,), (2, 3)):
        with pytest.raises(ValueError, match="2 to"):
            program.at(sizes)


def test_a_kernel_that_depends_on_no_size_is_the_static_one() -> None:
    program = build(Case(lambda x, w: [exp(w), exp(x)], lambda n: [(n, 4), (8, 4)]))
    assert sorted(bool(k.naive.sizes) for k in program.kernels) == [False, True]
