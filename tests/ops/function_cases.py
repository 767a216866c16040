"""Running functions of graph values on arrays, and checking their derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from op_cases import type_of

from rung.core.dtype import DType
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value, make_graph, parameter
from rung.ir.op import Array
from rung.ir.types import TensorType
from rung.transform.grad import vjp_graph

Function = Callable[..., Value | tuple[Value, ...]]


def graph_of(function: Function, types: Sequence[TensorType]) -> Graph:
    """The graph of `function` over parameters of `types`."""
    params = [parameter(i, f"x{i}", t) for i, t in enumerate(types)]
    results = function(*params)
    return make_graph("f", params, (results,) if isinstance(results, Value) else results)


def run(function: Function, *arrays: Array) -> Array:
    """The (first) result of `function` on arrays."""
    return interpret(graph_of(function, [type_of(a) for a in arrays]), arrays)[0]


def typed(function: Function, *types: tuple[DType, tuple[int, ...]]) -> TensorType:
    """The type of the (first) result; raises what the function raises."""
    return graph_of(function, [TensorType(d, s) for d, s in types]).outputs[0].type


def gradients(
    function: Function, arrays: Sequence[Array], wrt: Sequence[int], cotangent: Array
) -> list[Array]:
    """Reverse derivatives of the first result with respect to the arrays `wrt`."""
    graph = graph_of(function, [type_of(a) for a in arrays])
    first = make_graph("first", graph.params, graph.outputs[:1])
    return interpret(vjp_graph(first, wrt), [*arrays, cotangent])[1:]


def assert_gradients(
    function: Function, *arrays: Array, wrt: Sequence[int] | None = None, step: float = 1e-6
) -> None:
    """The reverse derivatives are those that central differences give, for each element (f64)."""
    chosen = [i for i, a in enumerate(arrays) if a.dtype == np.float64] if wrt is None else wrt
    rng = np.random.default_rng(7)
    cotangent = rng.standard_normal(run(function, *arrays).shape)
    found = gradients(function, arrays, chosen, cotangent)
    for i, gradient in zip(chosen, found, strict=True):
        numeric = np.zeros_like(arrays[i])
        for at in np.ndindex(arrays[i].shape):
            ends = []
            for move in (step, -step):
                moved = [a.copy() for a in arrays]
                moved[i][at] += move
                ends.append(float((run(function, *moved) * cotangent).sum()))
            numeric[at] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7, err_msg=f"operand {i}")


def ulps_apart(result: Array, exact: Array) -> float:
    """The largest distance between a 16- or 32-bit float array and f64 values, in units in the last
    place of `result`'s dtype at those values."""
    digits = {"float16": 10, "bfloat16": 7, "float32": 23}[result.dtype.name]
    spacing = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-14))) - digits)
    return float((np.abs(result.astype(np.float64) - exact) / spacing).max())
