"""Gathers, scatters, dynamic slices, running products and sorts beside the generated tests."""

from __future__ import annotations

import numpy as np
import pytest
from function_cases import assert_gradients, gradients, run, typed

from rung.core import dtype as dt
from rung.core.errors import AxisError, DTypeError, ShapeError
from rung.ops.cumulative import cumulative_prod, cumulative_sum
from rung.ops.dynamic import dynamic_slice, dynamic_update_slice
from rung.ops.elementwise import multiply
from rung.ops.indexing import added_at, gather, scatter, scatter_add, take, take_along
from rung.ops.sorting import argsort, sort, top_k
from rung.transform.grad import vjp_values

RNG = np.random.default_rng(0)


def test_positions_out_of_range_are_brought_in():
    x = np.arange(5.0)
    assert run(lambda a, i: take(a, i, dim=0), x, np.array([-3, 2, 9])).tolist() == [0, 2, 4]
    written = run(scatter_plain, x, np.array([[7]]), np.array([10.0]))
    assert written.tolist() == [0, 1, 2, 3, 10]


def test_positions_that_are_no_i64():
    x, most = np.arange(5.0), np.array(2**64 - 1, np.uint64)
    for value in (most, np.array(2**63, np.uint64)):
        assert run(lambda a, i: take(a, i, dim=0), x, value) == 4
        assert run(lambda a, i: gather(a, i), x, value[None]) == 4
        sliced = run(lambda a, i: dynamic_slice(a, i, dims=(0,), sizes=(2,)), x, value)
        assert sliced.tolist() == [3, 4]


def scatter_plain(x, index, updates):
    return scatter(x, index, updates, batch_dims=0)


def test_rows_of_an_embedding_collect_their_gradients():
    weight, index = RNG.standard_normal((5, 3)), np.array([[1, 4], [1, 1]])
    cotangent = RNG.standard_normal((2, 2, 3))
    (found,) = gradients(lambda w, i: take(w, i, dim=0), [weight, index], [0], cotangent)
    expected = np.zeros((5, 3))
    for row, ct in zip(index.reshape(-1), cotangent.reshape(-1, 3), strict=True):
        expected[row] += ct
    np.testing.assert_allclose(found, expected)


def test_gradients_of_16_bit_embeddings_are_summed_in_f32():
    weight, index = np.zeros((2, 1), dt.bfloat16.numpy), np.zeros(1000, np.int32)
    cotangent = np.ones((1000, 1), dt.bfloat16.numpy)
    (found,) = gradients(lambda w, i: take(w, i, dim=0), [weight, index], [0], cotangent)
    assert found[0, 0] == 1000  # summed in bf16 it would stay at 256


def test_the_last_of_several_updates_stays_and_alone_has_a_gradient():
    x, index = RNG.standard_normal((4, 2)), np.array([[1], [3], [1]])
    updates = RNG.standard_normal((3, 2))
    result = run(scatter_plain, x, index, updates)
    np.testing.assert_array_equal(result, [x[0], updates[2], x[2], updates[1]])
    cotangent = RNG.standard_normal((4, 2))
    of_x, of_updates = gradients(scatter_plain, [x, index, updates], [0, 2], cotangent)
    zero = [0.0, 0.0]
    np.testing.assert_array_equal(of_x, [cotangent[0], zero, cotangent[2], zero])
    np.testing.assert_array_equal(of_updates, [zero, cotangent[3], cotangent[1]])


def test_index_put_along_several_dims():
    x = np.zeros((3, 4, 2))
    index = np.array([[0, 1], [2, 3], [0, 1]])
    result = run(lambda a, i, u: scatter_add(a, i, u, batch_dims=0), x, index, np.ones((3, 2)))
    assert result[0, 1].tolist() == [2, 2]
    assert result[2, 3].tolist() == [1, 1]
    assert result.sum() == 6


@pytest.mark.parametrize(
    "function, arrays",
    [
        (lambda x, i: take(x, i, dim=1), ((3, 4), np.array([0, 3, 3]))),
        (lambda x, i: take_along(x, i, dim=0), ((3, 2), np.array([[0, 2], [0, 0]]))),
        (lambda x, i: gather(x, i, batch_dims=1), ((2, 3, 2), np.array([[[0], [2]], [[1], [1]]]))),
        (lambda u, i: added_at((4,), i, u), ((3,), np.array([[1], [1], [0]]))),
        (lambda x, i: dynamic_slice(x, i, dims=(1,), sizes=(2,)), ((2, 5), np.array(9))),
    ],
)
def test_gradients(function, arrays):
    shape, index = arrays
    assert_gradients(function, RNG.standard_normal(shape), index)


def test_gradients_of_a_dynamic_update():
    x, update = RNG.standard_normal((4, 3)), RNG.standard_normal((2, 3))
    assert_gradients(
        lambda a, u, i: dynamic_update_slice(a, u, i, dims=(0,)), x, update, np.array(1)
    )


@pytest.mark.parametrize("zeros", [[], [0], [3], [1, 4], [0, 1, 2], [5]], ids=str)
def test_derivative_of_running_products_beside_zeros(zeros):
    x = RNG.uniform(0.5, 2, (2, 6))
    x[0, zeros] = 0
    assert_gradients(lambda a: cumulative_prod(a, dim=1), x)
    second = gradient_of_products
    assert_gradients(second, x, RNG.standard_normal((2, 6)))


def gradient_of_products(x, cotangent):
    """The reverse derivative of cumulative_prod as a function, to differentiate it again."""
    return vjp_values([cumulative_prod(x, dim=1)], [x], [cotangent])[0]


def test_running_sums_of_16_bit_floats_are_in_f32():
    x = np.ones(1000, dt.bfloat16.numpy)
    assert run(lambda a: cumulative_sum(a, dim=0), x)[-1] == 1000


@pytest.mark.parametrize("descending", [False, True])
def test_sorts_are_stable(descending):
    x = np.array([2, 1, 2, 0, 1, 2])
    order = run(lambda a: argsort(a, dim=0, descending=descending), x)
    expected = sorted(range(6), key=lambda i: ((-x[i] if descending else x[i]), i))
    assert order.tolist() == expected


def test_nan_is_the_greatest():
    x = np.array([1.0, np.nan, -np.inf, np.inf])
    assert run(lambda a: argsort(a, dim=0), x).tolist() == [2, 0, 3, 1]
    assert run(lambda a: argsort(a, dim=0, descending=True), x).tolist() == [1, 3, 0, 2]
    assert np.isnan(run(lambda a: top_k(a, k=1, dim=0), x)[0])


def test_gradients_of_sorted_values():
    x = RNG.standard_normal((3, 5))
    assert_gradients(lambda a: sort(a, dim=1), x)
    assert_gradients(lambda a: sort(multiply(a, a), dim=0, descending=True), x)
    assert_gradients(lambda a: top_k(a, k=2, dim=1), x)
    assert_gradients(lambda a: top_k(a, k=2, dim=0, largest=False), x)


X = (dt.float32, (3, 4))


@pytest.mark.parametrize(
    "error, function, types, message",
    [
        (DTypeError, lambda x, i: take(x, i, dim=0), (X, (dt.float32, (2,))),
         "take: takes integers, but index is f32[2]"),
        (ShapeError, lambda x, i: take(x, i, dim=2), (X, (dt.int32, (2,))),
         "take: dim 2 is out of range for x f32[3,4]"),
        (ShapeError, lambda x, i: take(x, i, dim=0), ((dt.float32, (0, 4)), (dt.int32, (2,))),
         "take: x f32[0,4] has no elements along dim 0, so no index is valid"),
        (ShapeError, lambda x, i: take_along(x, i, dim=0), (X, (dt.int32, (2, 3))),
         "take_along: x f32[3,4] and index i32[2,3] differ in another dim than 0"),
        (ShapeError, lambda x, i: gather(x, i, batch_dims=0), (X, (dt.int32, (2, 3))),
         "gather: index i32[2,3] addresses 3 dims, but x f32[3,4] has 2 of them"),
        (AxisError, lambda x, i: gather(x, i, batch_dims=2), (X, (dt.int32, (2, 3))),
         "gather: batch_dims=2 with x f32[3,4] and index i32[2,3]"),
        (ShapeError, scatter_plain, (X, (dt.int32, (2, 1)), (dt.float32, (2, 3))),
         "scatter: updates f32[2,3] for x f32[3,4] and index i32[2,1]"),
        (ShapeError, lambda x, i: dynamic_slice(x, i, dims=(0,), sizes=(4,)), (X, (dt.int32, ())),
         "dynamic_slice: size 4 along dim 0 of x f32[3,4]"),
        (ShapeError, lambda x, i: dynamic_slice(x, i, dims=(0,), sizes=(1,)), (X, (dt.int32, (1,))),
         "dynamic_slice: start of dim 0 is i32[1]"),
        (ShapeError, lambda x, u, i: dynamic_update_slice(x, u, i, dims=(0,)),
         (X, (dt.float32, (2, 3)), (dt.int32, ())),
         "dynamic_update_slice: update f32[2,3] does not fit in x f32[3,4] along dims [0]"),
        (ShapeError, lambda x: top_k(x, k=5, dim=1), (X,), "top_k: k=5 along dim 1 of x f32[3,4]"),
        (ShapeError, lambda x: cumulative_sum(x, dim=2), (X,),
         "cumulative_sum: dim 2 is out of range for x f32[3,4]"),
    ],
)  # fmt: skip
def test_errors(error, function, types, message):
    with pytest.raises(error) as caught:
        typed(function, *types)
    assert caught.value.message == message
