"""Random programs: all rules together end, keep the value, and leave nothing to do."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value, make_graph, parameter
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.ir.verify import merged, primitive, verify
from rung.ops.activation import relu, sigmoid
from rung.ops.broadcast import broadcast_to, reduce_sum, reshape
from rung.ops.contraction import matmul
from rung.ops.creation import full
from rung.ops.elementwise import (
    absolute,
    cast,
    divide,
    less,
    maximum,
    minimum,
    multiply,
    negative,
    subtract,
    where,
)
from rung.ops.families import add
from rung.ops.movement import concat, flip, pad, permute, slice_
from rung.ops.parse import parse
from rung.ops.reduction import reduce_max
from rung.ops.softmax import softmax
from rung.rules.pipeline import PIPELINE
from rung.rules.simplify import simplify
from rung.transform.grad import grad_graph

N = 4
NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 8.0, 3.0)


def _filled(rng: random.Random, dtype: dt.DType) -> Value:
    return full((N, N), rng.choice(NUMBERS), dtype)


def _moved(x: Value, rng: random.Random) -> Value:
    cut = rng.randint(0, N)
    ways: list[Callable[[], Value]] = [
        lambda: permute(x, dims=(1, 0)),
        lambda: flip(x, dims=rng.choice([(0,), (1,), (0, 1)])),
        lambda: reshape(reshape(x, shape=(N * N,)), shape=(N, N)),
        lambda: slice_(pad(x, low=(1, 0), high=(0, 2)), starts=(1, cut // 2),
                       stops=(N + 1, cut // 2 + N), steps=(1, 1)),
        lambda: concat(slice_(x, starts=(0, 0), stops=(N, cut), steps=(1, 1)),
                       slice_(x, starts=(0, cut), stops=(N, N), steps=(1, 1)), dim=1),
        lambda: broadcast_to(reshape(reduce_sum(x, dims=(1,)), shape=(N, 1)), shape=(N, N)),
        lambda: broadcast_to(reduce_max(x, dims=(0,)), shape=(N, N)),
        lambda: add(pad(slice_(x, starts=(0, 0), stops=(N, 1), steps=(1, 1)), low=(0, 0),
                        high=(0, N - 1)),
                    pad(slice_(x, starts=(0, 1), stops=(N, N), steps=(1, 1)), low=(0, 1),
                        high=(0, 0))),
    ]  # fmt: skip
    return rng.choice(ways)()


def program(seed: int, num_ops: int, smooth: bool = False) -> Graph:
    rng = random.Random(seed)
    params = [parameter(i, f"x{i}", TensorType(dt.float64, (N, N))) for i in range(2)]
    values: list[Value] = list(params)
    binary = [add, subtract, multiply, divide, matmul]
    if not smooth:
        binary += [maximum, minimum, lambda a, b: where(less(a, b), b, a)]
    unary = [negative, sigmoid, softmax, relu if not smooth else sigmoid, absolute,
             lambda v: cast(cast(v, dtype=dt.float64), dtype=dt.float64)]  # fmt: skip
    for _ in range(num_ops):
        a = rng.choice(values[-4:] if rng.random() < 0.7 else values)
        b = _filled(rng, dt.float64) if rng.random() < 0.35 else rng.choice(values)
        kind = rng.random()
        if kind < 0.45:
            values.append(rng.choice(binary)(*((a, b) if rng.random() < 0.7 else (b, a))))
        elif kind < 0.65:
            values.append(rng.choice(unary)(a))
        else:
            values.append(_moved(a, rng))
    return make_graph("random", params, [values[-1], rng.choice(values)])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    scale = np.nanmax(np.abs(np.where(np.isfinite(a), a, 0)), initial=1)
    return np.allclose(a, b, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)


@pytest.mark.parametrize("seed", range(150))
def test_rules_keep_the_value_of_random_programs(seed: int) -> None:
    graph = program(seed, 5 + seed % 25)
    final, _ = run_passes(graph, PIPELINE)
    verify(final, [primitive, merged])
    args = [np.random.default_rng(seed + k).normal(size=(N, N)) for k in range(2)]
    with np.errstate(all="ignore"):
        for a, b in zip(interpret(graph, args), interpret(final, args), strict=True):
            assert same(a, b), f"program({seed}, {5 + seed % 25})\n{graph_text(graph)}"
    settled = simplify(final)
    assert simplify(settled) is settled
    assert parse(graph_text(final)) is final


@pytest.mark.parametrize("seed", range(40))
def test_rules_end_on_derivatives_of_random_programs(seed: int) -> None:
    graph = program(seed + 1000, 4 + seed % 10, smooth=True)
    loss = make_graph("loss", graph.params, [reduce_sum(graph.outputs[0], dims=(0, 1))])
    gradient = grad_graph(loss, [0, 1])
    final, _ = run_passes(gradient, PIPELINE)
    args = [np.random.default_rng(seed + k).uniform(0.5, 1.5, size=(N, N)) for k in range(2)]
    with np.errstate(all="ignore"):
        for a, b in zip(interpret(gradient, args), interpret(final, args), strict=True):
            assert same(a, b), f"program({seed + 1000})\n{graph_text(gradient)}"
    assert parse(graph_text(gradient)) is gradient
