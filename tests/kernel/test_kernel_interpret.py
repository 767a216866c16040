"""The interpreter of kernels: values, masks, order, errors, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rung.core.errors import IndexingError, LoweringError, ShapeError
from rung.kernel.interpret import interpret
from rung.kernel.parse import parse_kernel

PARAMS = "x: input(f32[4, 6]), y: output(f32[24]), n: input(i64[4])"


def run(body: str, **options: bool) -> np.ndarray:
    """`y` after a run of the statements."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    kernel = parse_kernel(f"@kernel\ndef f({PARAMS}):\n{lines}")
    y = np.zeros(24, np.float32)
    interpret(kernel, [X, y, np.array([2, 0, 2, 5])], **options)
    return y


X = np.arange(24, dtype=np.float32).reshape(4, 6)
ZERO = np.zeros(24, np.float32)

CASES = {
    "row maximum": (
        """
for i in parallel(4):
    m: register(f32)
    m[()] = -inf
    for j in range(6):
        m[()] @= maximum(x[i, j])
    y[i] = m[()]
""",
        [5, 11, 17, 23],
    ),
    "recurrence": (
        """
y[0] = 1.0
for i in range(5):
    y[i + 1] = y[i]*2.0
""",
        [1, 2, 4, 8, 16, 32],
    ),
    "ragged": (
        """
for i0 in range(3):
    for i1 in range(minimum(4, 10 - 4*i0), at_most=4):
        y[4*i0 + i1] += 1.0
""",
        [1] * 10,
    ),
    "guards": (
        """
for i in range(4):
    store(y[i], load(x[i - 1, 0], guard=i >= 1) + 1.0, guard=i < 3)
""",
        [1, 1, 7],
    ),
    "conditions": (
        """
for i in range(4):
    if i%2 == 1:
        y[i] = x[i - 1, 1]
""",
        [0, 1, 0, 13],
    ),
    "scatter": (
        """
for i in range(4):
    y[n[i]] += x[i, 1]
for i in range(4):
    y[n[i] + 8] = x[i, 1]
""",
        [7, 0, 14, 0, 0, 19, 0, 0, 7, 0, 13, 0, 0, 19],
    ),
    "lanes": (
        """
for j in vector(6, lanes=8):
    y[0] += x[0, j]
    y[j + 1] = x[1, j]
""",
        [15, 6, 7, 8, 9, 10, 11],
    ),
    "sorts": (
        """
for i in range(6):
    y[i] = -1.0*cast[f32](i)
for r in range(2):
    opaque('sort', [y], [y], row=r, descending=0, extent=3, stride=1)
""",
        [-2, -1, 0, -5, -4, -3],
    ),
}


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_values(name: str, batch: bool) -> None:
    body, want = CASES[name]
    got = run(body, batch=batch)
    np.testing.assert_array_equal(got, np.r_[want, ZERO[len(want) :]].astype(np.float32))


def test_hostile_order_shows_a_race() -> None:
    body = "for i in parallel(4):\n    y[0] = cast[f32](i)"
    assert run(body)[0] == 3
    assert run(body, hostile=True)[0] == 0
    body = "for i in vector(4, lanes=4):\n    y[i + 1] = y[i] + 1.0"
    assert run(body)[:5].tolist() == [0, 1, 2, 3, 4]
    assert run(body, hostile=True)[:5].tolist() == [0, 1, 1, 1, 1]


def test_what_was_not_written_is_nan() -> None:
    assert np.isnan(run("m: register(f32[2])\ny[0] = m[1]")[0])


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("for i in range(4):\n    y[i + 21] = 1.0", "index 24 is outside of dim 0 of y"),
        ("for i in range(4):\n    y[0] += x[i - 1, 0]", "index -1 is outside of dim 0 of x"),
        ("for i in range(4):\n    y[i] = x[i, n[3] + 1]", "index 6 is outside of dim 1 of x"),
    ],
)
def test_indices_are_checked(body: str, message: str, batch: bool) -> None:
    with pytest.raises(IndexingError, match=message):
        run(body, batch=batch)


def test_arrays_must_fit() -> None:
    kernel = parse_kernel("@kernel\ndef f(x: input(f32[4])):\n    pass")
    with pytest.raises(ShapeError, match="f: x: input f32\\[4\\] is given float32\\(3,\\)"):
        interpret(kernel, [np.zeros(3, np.float32)])
    with pytest.raises(ShapeError, match="f: 0 arrays for 1 parameters"):
        interpret(kernel, [])


def test_unknown_ops() -> None:
    with pytest.raises(LoweringError, match="no meaning for the scalar op frobnicate"):
        run("y[0] = frobnicate(x[0, 0])")
    with pytest.raises(LoweringError, match="no meaning for the algorithm shuffle"):
        run("opaque('shuffle', [y], [y], row=0, extent=3)")


def test_a_hundred_thousand_iterations_take_less_than_a_second() -> None:
    kernel = parse_kernel(
        """
@kernel
def mm(a: input(f32[2304]), b: input(f32[2304]), c: output(f32[2304])):
    for i in range(48):
        for j in range(48):
            m: register(f32)
            m[()] = 0.0
            for k in range(48):
                m[()] += a[48*i + k]*b[48*k + j]
            c[48*i + j] = m[()]
"""
    )
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(2304).astype(np.float32) for _ in range(2))
    c = np.zeros(2304, np.float32)
    start = time.perf_counter()
    interpret(kernel, [a, b, c])
    assert time.perf_counter() - start < 1
    want = a.reshape(48, 48).astype(np.float64) @ b.reshape(48, 48)
    np.testing.assert_allclose(c.reshape(48, 48), want, rtol=1e-4, atol=1e-4)
