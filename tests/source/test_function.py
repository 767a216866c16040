"""`rung.function`: programs with control flow on tensors, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest

import rung
from rung import tree
from tests.source import control_programs as p

RNG = np.random.default_rng(11)
F64 = rung.float64


def tensor(x, dtype=F64):
    return rung.asarray(np.asarray(x), dtype=dtype)


MATRIX = (lambda m: m @ m.T)(RNG.standard_normal((4, 4)))
ROWS = RNG.standard_normal((6, 3))
PROGRAMS = [
    (p.collatz, [(tensor(n, rung.int64),) for n in (1, 6, 27)]),
    (p.newton, [(tensor(2.0),), (tensor(9.0), 1e-3)]),
    (p.bisection, [(tensor(0.0), tensor(4.0), tensor(t)) for t in (3.0, 10.0, 10.5)]),
    (p.gcd, [tuple(tensor(n, rung.int64) for n in pair) for pair in ((84, 36), (17, 5), (3, 0))]),
    (p.power_iteration, [(tensor(MATRIX), tensor(np.ones(4)))]),
    (p.line_search, [
        (tensor([-1.2, 1.0]), tensor([215.6, 88.0]), tensor(-54000.0)),
        (tensor([1.0, 1.0]), tensor([1.0, 1.0]), tensor(-1.0)),
    ]),
    (p.adaptive_ode, [(tensor(1.0), tensor(2.0), tensor(t)) for t in (1e-3, 1e-1)]),
    (p.greedy_decoding, [
        (tensor(RNG.standard_normal((7, 7))), tensor(s, rung.int64), tensor(e, rung.int64))
        for s, e in ((0, 3), (5, 2), (1, 0))
    ]),
    (p.beam_step, [
        (tensor([-1.0, -2.0, -3.0]), tensor(RNG.standard_normal((3, 5))), 3, tensor(2, rung.int64)),
        (tensor([-1e9] * 3), tensor(RNG.standard_normal((3, 5))), 3, tensor(2, rung.int64)),
    ]),
    (p.first_above, [(tensor(ROWS), tensor(limit)) for limit in (-9.0, 1.0, 99.0)]),
    (p.clipped_sum, [(tensor(ROWS * scale),) for scale in (0.3, 3.0)]),
    (p.halvings, [(tensor(5.0), tensor(3, rung.int64)), (tensor(0.5), tensor(0, rung.int64))]),
]  # fmt: skip


def compare(found, want, rtol=1e-12):
    a, b = tree.leaves(found), tree.leaves(want)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("program, calls", PROGRAMS, ids=[p.__name__ for p, _ in PROGRAMS])
def test_programs_equal_plain_python(program, calls):
    f = rung.function(program)
    compiled = rung.jit(f)
    for args in calls:
        want = program(*args)
        compare(f(*args), want)
        compare(compiled(*args), want)


def test_python_values_stay_python():
    assert rung.function(p.collatz)(27) == 111
    assert rung.function(p.gcd)(84, 36) == 12
    assert rung.function(p.halvings)(5.0, 3) == p.halvings(5.0, 3)


@pytest.mark.parametrize("name", ["collatz", "newton", "first_above"])
def test_golden_text(name, golden):
    golden(f"function_{name}.txt", rung.function(getattr(p, name)).text)


# ---- derivatives


def differences(function, x, step=1e-6):
    x = np.asarray(x, dtype=np.float64)
    found = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        h = np.zeros(x.shape)
        h[place] = step
        up, down = (float(function(tensor(x + s * h))) for s in (1, -1))
        found[place] = (up - down) / (2 * step)
    return found


@pytest.mark.parametrize(
    "function, x",
    [
        (rung.function(p.newton, max_iterations=60), 3.0),
        (rung.function(p.clipped_sum), ROWS),
        (lambda m: rung.function(p.first_above)(m, tensor(1.0))[0].prod(), ROWS),
        (lambda y: rung.function(p.adaptive_ode, max_iterations=60)(
            y, tensor(2.0), tensor(1e-2))[0], 1.3),
        (lambda m: rung.function(p.power_iteration, max_iterations=200)(
            m + m.T, tensor(np.ones(4)))[0], MATRIX),
        (lambda t: rung.function(p.greedy_decoding)(
            t, tensor(1, rung.int64), tensor(3, rung.int64))[1], RNG.standard_normal((4, 4))),
        (lambda x: rung.function(p.halvings)(x, tensor(3, rung.int64)) * x, 5.3),
    ],
)  # fmt: skip
def test_derivatives(function, x):
    want = differences(function, x)
    np.testing.assert_allclose(rung.grad(function)(tensor(x)).numpy(), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        rung.jit(rung.grad(function))(tensor(x)).numpy(), want, rtol=1e-5, atol=1e-6
    )
    direction = RNG.standard_normal(np.shape(x))
    _, moved = rung.jvp(function, (tensor(x),), (tensor(direction),))
    np.testing.assert_allclose(moved.item(), (want * direction).sum(), rtol=1e-5, atol=1e-6)


def test_backward():
    weight = rung.asarray(2.0, dtype=F64).requires_grad_()
    rung.function(p.newton, max_iterations=60)(weight).backward()
    assert weight.grad.item() == pytest.approx(0.5 / 2**0.5)


def test_vmap():
    found = rung.vmap(rung.function(p.collatz))(tensor([1, 6, 27], rung.int64))
    assert found.tolist() == [0, 8, 111]
    a = tensor([2.0, 9.0, 0.5])
    root = rung.function(p.newton, max_iterations=60)
    np.testing.assert_allclose(rung.vmap(root)(a).numpy(), np.sqrt(a.numpy()))
    slope = rung.jit(rung.vmap(rung.grad(root)))(a)
    np.testing.assert_allclose(slope.numpy(), 0.5 / np.sqrt(a.numpy()))
