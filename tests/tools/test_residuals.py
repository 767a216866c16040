"""`inspect_residuals`: what lies in memory between the passes, and whose line made it."""

from __future__ import annotations

import numpy as np
import pytest

import rung
from rung.core.errors import GradientError

RNG = np.random.default_rng(0)
X = rung.asarray(RNG.standard_normal((32, 16)).astype(np.float32))
W = [rung.asarray(RNG.standard_normal((16, 16)).astype(np.float32)) for _ in range(3)]


def layer(x, w):
    return rung.exp(rung.sin(x @ w)) * rung.tanh(x)


def loss(x, ws, wrap=lambda f: f):
    for w in ws:
        x = wrap(layer)(x, w)
    return (x**2).sum()


def test_what_a_product_chain_keeps():
    found = rung.inspect_residuals(lambda x, v, w: ((x @ v) @ w).sum(), X, W[0], W[1])
    assert [(str(r.type), r.op) for r in found] == [("f32[32,16]", "dot_general")]
    assert found.nbytes == 32 * 16 * 4
    assert sorted(map(str, found.inputs)) == ["f32[16,16]", "f32[16,16]", "f32[32,16]"]
    assert all(r.source.file == __file__ for r in found)


def test_checkpoint_keeps_what_is_between_the_layers():
    plain = rung.inspect_residuals(loss, X, W)
    again = rung.inspect_residuals(lambda x, ws: loss(x, ws, rung.checkpoint), X, W)
    assert again.nbytes < plain.nbytes
    assert [str(r.type) for r in again] == ["f32[32,16]"] * len(W)


def test_it_fits_into_the_memory_of_the_program():
    found = rung.inspect_residuals(loss, X, W)
    step = rung.jit(rung.grad(loss, argnums=(0, 1))).compile(X, W)
    assert 0 < found.nbytes <= step.runnable.program.arena_bytes


def test_loops_keep_what_they_stack():
    def steps(x, w):
        return rung.scan(lambda c, _: (rung.tanh(c @ w), None), x, length=7)[0].sum()

    found = rung.inspect_residuals(steps, X, W[0])
    assert {r.op for r in found} == {"scan"} and found.nbytes % (7 * X.nbytes) == 0


def test_parameters_of_modules():
    model = rung.nn.Sequential(rung.nn.Linear(16, 8), rung.nn.Tanh(), rung.nn.Linear(8, 1))
    found = rung.inspect_residuals(lambda x: model(x).mean(), X)
    assert "f32[32,8]" in {str(r.type) for r in found}
    assert all(p.grad is None for p in model.parameters())


def test_text():
    text = str(rung.inspect_residuals(lambda x, v, w: ((x @ v) @ w).sum(), X, W[0], W[1]))
    first, value, last = text.splitlines()
    assert first == "<lambda> keeps 1 value, 2,048 bytes, for its backward pass"
    assert value.split()[:3] == ["2,048", "f32[32,16]", "dot_general"]
    assert "test_residuals.py" in value
    assert last == "and reads 3 inputs of 4,096 bytes"


def test_errors():
    with pytest.raises(GradientError, match="gives no float tensors"):
        rung.inspect_residuals(lambda x: x > 0, X)
