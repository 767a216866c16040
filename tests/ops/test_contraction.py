"""matmul, tensordot and dot_general beside the generated tests."""

from __future__ import annotations

import numpy as np
import pytest
from function_cases import assert_gradients, run, typed, ulps_apart

from rung.core import dtype as dt
from rung.core.errors import AxisError, DTypeError, ShapeError
from rung.ops.contraction import dot_general, matmul, tensordot

SHAPES = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((6, 1, 2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (6, 1, 3, 4)), ((6, 5, 2, 3), (3,)), ((3,), (6, 5, 3, 2)), ((0, 3), (3, 2)),
    ((7, 1, 5, 2, 3), (6, 1, 3, 4)), ((2, 0), (0, 2)),
]  # fmt: skip


@pytest.mark.parametrize("a_shape, b_shape", SHAPES)
def test_matmul_is_that_of_numpy(a_shape, b_shape):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(a_shape), rng.standard_normal(b_shape)
    np.testing.assert_allclose(run(matmul, a, b), np.matmul(a, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a_shape, b_shape", [s for s in SHAPES if max(map(len, s)) <= 3])
def test_matmul_gradients(a_shape, b_shape):
    rng = np.random.default_rng(1)
    assert_gradients(matmul, rng.standard_normal(a_shape), rng.standard_normal(b_shape))


def test_tensordot():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 2, 5))
    found = run(lambda x, y: tensordot(x, y, ([0, -1], [1, 0])), a, b)
    np.testing.assert_allclose(found, np.tensordot(a, b, ([0, 2], [1, 0])), rtol=1e-12)
    found = run(lambda x, y: tensordot(x, y, 1), a, b)
    np.testing.assert_allclose(found, np.tensordot(a, b, 1), rtol=1e-12)
    found = run(lambda x, y: tensordot(x, y, 0), a, b)
    np.testing.assert_allclose(found, np.tensordot(a, b, 0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [dt.float16, dt.bfloat16], ids=str)
def test_sums_of_16_bit_floats_are_rounded_once(dtype):
    rng = np.random.default_rng(3)
    a, b = (rng.uniform(0, 1, (4, 300)).astype(dtype.numpy) for _ in "ab")
    found = run(lambda x, y: dot_general(x, y, contract=((1,), (1,))), a, b)
    assert ulps_apart(found, a.astype(np.float64) @ b.astype(np.float64).T) <= 0.51


@pytest.mark.parametrize(
    "a, b, message, fix",
    [
        (
            (8, 64), (32, 16),
            "matmul: inner dimensions differ: a f32[8,64] @ b f32[32,16]", "b needs 64 rows",
        ),
        (
            (8, 64), (16, 64),
            "matmul: inner dimensions differ: a f32[8,64] @ b f32[16,64]",
            "b needs 64 rows; did you mean b.T?",
        ),
        (
            (8, 64), (8, 3),
            "matmul: inner dimensions differ: a f32[8,64] @ b f32[8,3]",
            "b needs 64 rows; did you mean a.T @ b?",
        ),
        (
            (2, 8, 64), (2, 16, 64),
            "matmul: inner dimensions differ: a f32[2,8,64] @ b f32[2,16,64]",
            "b needs 64 rows; did you mean b.mT?",
        ),
        (
            (8, 64), (3,),
            "matmul: inner dimensions differ: a f32[8,64] @ b f32[3]", "b needs 64 elements",
        ),
        ((), (3,), "matmul: a f32[] has no dims", "use multiply for a scalar"),
        (
            (5, 2, 3), (4, 3, 2),
            "matmul: leading dimensions do not broadcast: a f32[5,2,3] @ b f32[4,3,2]",
            "leading dims must be equal or 1",
        ),
    ],
)  # fmt: skip
def test_matmul_errors(a, b, message, fix):
    with pytest.raises(ShapeError) as caught:
        typed(matmul, (dt.float32, a), (dt.float32, b))
    assert (caught.value.message, caught.value.fix) == (message, fix)
    assert "_cases.py" in caught.value.source.file


def test_dtypes_must_be_equal_numbers():
    with pytest.raises(DTypeError, match=r"matmul: dtypes differ: a f32\[2\] and b f64\[2\]"):
        typed(matmul, (dt.float32, (2,)), (dt.float64, (2,)))
    with pytest.raises(DTypeError, match="matmul: takes integers and floats, but a is bool"):
        typed(matmul, (dt.bool_, (2,)), (dt.bool_, (2,)))


def test_terms_outside_of_the_domain_do_not_count():
    a, b = np.ones((3, 4)), np.ones((4, 5))
    a[0, 3], b[3, 0] = np.nan, np.inf
    found = run(
        lambda x, y: dot_general(
            x, y, contract=((1,), (0,)), domain=(((0, 0), (0, 1), 0), ((1, 1), (0, 0), -1))
        ), a, b,
    )  # fmt: skip
    want = np.array([[1, 1, 1, 1, 1], [2, 2, 2, 2, 2], [0, 3, 3, 3, 3]])
    np.testing.assert_array_equal(found, want)
    with pytest.raises(AxisError, match=r"domain .*: no dim 2 of operand 1"):
        typed(
            lambda a, b: dot_general(a, b, domain=(((0, 0), (1, 2), 0),)),
            (dt.float32, (2, 3)), (dt.float32, (2, 3)),
        )  # fmt: skip


def test_dims_that_do_not_pair():
    pair = (dt.float32, (2, 3)), (dt.float32, (2, 3))
    with pytest.raises(AxisError, match="repeat or are out of range"):
        typed(lambda a, b: dot_general(a, b, contract=((0, 0), (0, 0))), *pair)
    with pytest.raises(AxisError, match="repeat or are out of range"):
        typed(lambda a, b: dot_general(a, b, contract=((2,), (0,))), *pair)
    with pytest.raises(ShapeError, match="contracted dims differ"):
        typed(lambda a, b: dot_general(a, b, contract=((0,), (1,))), *pair)
    with pytest.raises(AxisError, match="tensordot: dim 2 is out of range"):
        typed(lambda a, b: tensordot(a, b, ([2], [0])), *pair)
