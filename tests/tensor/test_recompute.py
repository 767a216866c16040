"""`checkpoint`: the same numbers, computed once more."""

from __future__ import annotations

import numpy as np
import pytest

import rung
from rung.core.errors import RungError
from rung.ir.subgraph import between
from rung.ops.contraction import dot_general
from rung.ops.control import after
from rung.ops.transcendental import tanh
from rung.tensor.state import raw_value

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal((64, 64)) / 8 for _ in range(4)]
X = RNG.standard_normal((256, 64))
POLICIES = [
    "nothing", "products", "everything", rung.save_names("gelu"), rung.save_within(200_000)
]  # fmt: skip


def block(x, w):
    inner = rung.checkpoint_name(rung.tanh(x * 0.5), "inner")
    hidden = rung.nn.functional.gelu(x @ w) + inner * 2
    return hidden + x * rung.sigmoid(hidden)


def loss(weights, x, policy=None):
    step = block if policy is None else rung.checkpoint(block, policy=policy)
    for w in weights:
        x = step(x, w)
    return (x**2).mean()


def arguments():
    return [rung.asarray(w) for w in WEIGHTS], rung.asarray(X)


@pytest.mark.parametrize("policy", POLICIES, ids=range(len(POLICIES)))
@pytest.mark.parametrize("wrap", [lambda f: f, rung.jit], ids=["lazy", "jit"])
def test_the_same_bits(policy, wrap):
    both = [
        wrap(rung.value_and_grad(lambda ws, x, p=p: loss(ws, x, p), argnums=(0, 1)))
        for p in (None, policy)
    ]
    (value, grads), (other, others) = (f(*arguments()) for f in both)
    assert value.item() == other.item()
    for a, b in zip([*grads[0], grads[1]], [*others[0], others[1]], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)


def behind_gradients(policy):
    """All nodes behind the gradients of the weights and of x."""
    weights, x = arguments()
    grads = rung.grad(lambda ws, x: loss(ws, x, policy), argnums=(0, 1))(weights, x)
    return between([raw_value(g) for g in [*grads[0], grads[1]]], [])


def count(nodes, what):
    """How many nodes are of an op, or composites of a name."""
    return sum(n.op is what or getattr(n.attrs, "name", "") == what for n in nodes)


def test_it_waits_for_the_cotangents():
    assert count(behind_gradients(None), after) == 0
    assert count(behind_gradients("nothing"), after) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("nothing", []),
        ("products", [dot_general]),
        (rung.save_names("gelu"), ["gelu"]),
        (rung.save_names("inner"), [tanh]),
        (rung.save_within(WEIGHTS[0].shape[0] * X.shape[0] * 8), [dot_general]),
        ("everything", [dot_general, tanh, "gelu"]),
    ],
    ids=["nothing", "products", "composite", "name", "bytes", "everything"],
)
def test_what_is_computed_once_more(policy, kept):
    plain, nodes = behind_gradients(None), behind_gradients(policy)
    for what in (dot_general, tanh, "gelu"):
        again = count(nodes, what) - count(plain, what)
        assert (again == 0) == (what in kept), (what, again)


def test_less_memory():
    def arena(policy):
        step = rung.jit(rung.grad(lambda ws, x: loss(ws, x, policy)))
        found = step.compile(*arguments())
        return found.runnable.program.arena_bytes

    assert arena("nothing") < 0.8 * arena(None)


def test_parameters_from_outside_and_modules():
    layer = rung.nn.Sequential(rung.nn.Linear(8, 8), rung.nn.GELU(), rung.nn.Linear(8, 8))
    x = rung.asarray(RNG.standard_normal((4, 8)).astype(np.float32))
    found = []
    for call in (layer, rung.checkpoint(layer)):
        layer.zero_grad()
        call(x).sum().backward()
        found.append([p.grad.numpy() for p in layer.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_dropout_is_the_same_again():
    key = rung.random.key(3)
    drop = lambda x: rung.functional.dropout(x, 0.5, key=key) * rung.exp(x)  # noqa: E731
    x = rung.asarray(X)
    plain, again = (rung.grad(lambda x, f=f: f(x).sum())(x) for f in (drop, rung.checkpoint(drop)))
    np.testing.assert_array_equal(plain.numpy(), again.numpy())


def test_other_transforms_see_through():
    f = rung.checkpoint(lambda x: rung.sin(x) * x)
    x = rung.asarray(X[0])
    plain = lambda x: rung.sin(x) * x  # noqa: E731
    for transform in (
        lambda g: rung.jvp(g, (x,), (rung.ones_like(x),))[1],
        lambda g: rung.vmap(rung.grad(g))(x),
        lambda g: rung.grad(lambda x: rung.grad(lambda y: g(y).sum())(x).sum())(x),
        lambda g: rung.grad(lambda x: rung.vmap(g)(x).sum())(x),
    ):
        np.testing.assert_allclose(transform(f).numpy(), transform(plain).numpy(), rtol=1e-12)


def test_unknown_policy():
    with pytest.raises(RungError, match="unknown policy 'some'"):
        rung.checkpoint(block, policy="some")
