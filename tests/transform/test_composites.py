"""Derivatives of the composites: reverse against forward, and forward against differences."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
from test_derivatives import check, param

from rung.core import dtype as dt
from rung.ir.node import Value, make_graph, topological_order
from rung.ops import activation, loss, normalization
from rung.ops import attention as attention_module
from rung.ops import linear as linear_module
from rung.ops import softmax as softmax_op
from rung.ops.activation import gelu, mish, relu, sigmoid, silu, softplus
from rung.ops.attention import attention
from rung.ops.linear import embedding, linear
from rung.ops.loss import binary_cross_entropy, cross_entropy
from rung.ops.normalization import (
    batch_norm,
    batch_norm_inference,
    group_norm,
    layer_norm,
    rms_norm,
)
from rung.ops.softmax import log_softmax, logsumexp, softmax
from rung.ops.transcendental import exp

Program = Callable[[], Value | tuple[Value, ...]]


def integers(index: int, shape: tuple[int, ...]) -> Value:
    return param(index, shape, dt.int32)


PROGRAMS: dict[str, Program] = {
    "relu": lambda: relu(param(0)),
    "silu": lambda: silu(param(0)),
    "mish": lambda: mish(param(0)),
    "softplus": lambda: softplus(param(0)),
    "gelu": lambda: gelu(param(0)),
    "gelu_tanh": lambda: gelu(param(0), approximate="tanh"),
    "softmax": lambda: softmax(param(0), dim=0),
    "log_softmax": lambda: log_softmax(param(0)),
    "logsumexp": lambda: logsumexp(param(0)),
    "layer_norm": lambda: layer_norm(param(0, (4, 5)), param(1, (5,)), param(2, (5,))),
    "rms_norm": lambda: rms_norm(param(0, (4, 5)), param(1, (5,))),
    "batch_norm": lambda: batch_norm(param(0, (4, 3, 2)), param(1, (3,)), param(2, (3,))),
    "group_norm": lambda: group_norm(param(0, (2, 4, 3)), param(1, (4,)), num_groups=2),
    "linear": lambda: linear(param(0, (4, 3)), param(1, (5, 3)), param(2, (5,))),
    "embedding": lambda: embedding(param(0, (5, 3)), integers(1, (2, 4))),
    "cross_entropy": lambda: cross_entropy(param(0, (4, 5)), integers(1, (4,))),
    "attention": lambda: attention(param(0, (2, 2, 3, 4)), param(1, (2, 2, 3, 4)),
                                   param(2, (2, 2, 3, 5)), causal=True),
    "grouped_attention": lambda: attention(param(0, (1, 4, 3, 4)), param(1, (1, 2, 5, 4)),
                                           param(2, (1, 2, 5, 2)), param(3, (3, 5))),
}  # fmt: skip

SQUARE, ROW = (4, 4), (3,)
REPEATED: dict[str, Program] = {
    "linear": lambda: linear(param(0, SQUARE), param(0, SQUARE)),
    "linear_weight_bias": lambda: linear(param(0, ROW), param(1, (3, 3)), param(0, ROW)),
    "layer_norm": lambda: layer_norm(param(0, (4, 3)), param(1, ROW), param(1, ROW)),
    "layer_norm_of_a_row": lambda: layer_norm(*(param(0, ROW),) * 3),
    "rms_norm": lambda: rms_norm(param(0, ROW), param(0, ROW)),
    "batch_norm": lambda: batch_norm(param(0, (4, 3)), param(1, ROW), param(1, ROW)),
    "batch_norm_inference": lambda: batch_norm_inference(
        param(0, (4, 3)), *(positive(param(1, ROW)),) * 4),
    "group_norm": lambda: group_norm(
        param(0, (2, 4)), param(1, (4,)), param(1, (4,)), num_groups=2),
    "cross_entropy": lambda: cross_entropy(param(0, ROW), integers(1, ()), param(0, ROW)),
    "binary_cross_entropy": lambda: binary_cross_entropy(*(sigmoid(param(0)),) * 2),
    "attention": lambda: attention(*(param(0, (2, 2, 3, 4)),) * 3),
    "attention_mask": lambda: attention(*(param(0, (1, 3, 3)),) * 4),
}  # fmt: skip
"""Each composite of several float operands, with one value at several places."""


def positive(x: Value) -> Value:
    return exp(x)


def programs(names: dict[str, Program]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("program", names.values(), ids=names)


@programs({**PROGRAMS, **{f"repeated_{name}": made for name, made in REPEATED.items()}})
def test_gradients(program: Program) -> None:
    check_program(program)


def test_every_composite_of_several_float_operands_has_repeated_ones() -> None:
    found = {
        name
        for module in (activation, attention_module, linear_module, loss, normalization, softmax_op)
        for name, function in vars(module).items()
        if hasattr(function, "__wrapped__") and several_floats(function)
    }
    assert found == {n for n in REPEATED if n in found}, found - set(REPEATED)
    assert len(found) >= 8


def several_floats(function: Callable[..., object]) -> bool:
    kinds = [p.kind for n, p in inspect.signature(function).parameters.items() if n != "index"]
    return kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) > 1


def check_program(program: Program) -> None:
    result = program()
    outputs = result if isinstance(result, tuple) else (result,)
    leaves = [n.results[0] for n in topological_order(outputs) if n.op.name == "parameter"]
    params = sorted(leaves, key=lambda v: v.node.attrs.index)
    rng = np.random.default_rng(3)
    args = [
        rng.normal(size=p.shape) if p.dtype.is_float else rng.integers(0, 3, p.shape, np.int32)
        for p in params
    ]
    wrt = [i for i, p in enumerate(params) if p.dtype.is_float]
    check(make_graph("program", params, outputs), args, wrt)
