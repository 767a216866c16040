"""Convolution and pooling against loops in plain Python, derivatives against differences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from function_cases import assert_gradients, gradients, run, typed, ulps_apart

from rung.core import dtype as dt
from rung.core.errors import DTypeError, ShapeError
from rung.ops.convolution import convolve, convolve_transposed
from rung.ops.elementwise import multiply
from rung.ops.pooling import avg_pool, max_pool
from rung.transform.grad import vjp_values

RNG = np.random.default_rng(0)


def slide(x, weight, stride, padding, dilation, groups):
    """Convolution over two dims, one product at a time."""
    n, _, *lengths = x.shape
    outputs, per_group, *sizes = weight.shape
    places = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, s, p, d in zip(lengths, sizes, stride, padding, dilation, strict=True)
    ]
    y = np.zeros((n, outputs, *places))
    for b, o, i, j in np.ndindex(*y.shape):
        first = o // (outputs // groups) * per_group
        for c, u, v in product(range(per_group), range(sizes[0]), range(sizes[1])):
            row = i * stride[0] + u * dilation[0] - padding[0]
            column = j * stride[1] + v * dilation[1] - padding[1]
            if 0 <= row < lengths[0] and 0 <= column < lengths[1]:
                y[b, o, i, j] += x[b, first + c, row, column] * weight[o, c, u, v]
    return y


CONVOLUTIONS = [
    ((1, 1), (0, 0), (1, 1), 1),
    ((2, 2), (1, 1), (1, 1), 1),
    ((1, 1), (2, 2), (2, 2), 1),
    ((3, 1), (1, 2), (2, 1), 2),
    ((2, 1), (1, 0), (1, 2), 4),
]


@pytest.mark.parametrize("stride, padding, dilation, groups", CONVOLUTIONS)
def test_convolution(stride, padding, dilation, groups):
    x, weight = RNG.standard_normal((2, 4, 6, 5)), RNG.standard_normal((4, 4 // groups, 3, 2))
    bias = RNG.standard_normal(4)
    function = lambda *a: convolve(  # noqa: E731
        *a, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    expected = slide(x, weight, stride, padding, dilation, groups) + bias[:, None, None]
    np.testing.assert_allclose(run(function, x, weight, bias), expected, rtol=1e-11, atol=1e-12)
    assert_gradients(function, x[:1, :, :5, :4], weight, bias)


def test_one_dim_is_that_of_numpy():
    x, weight = RNG.standard_normal(20), RNG.standard_normal(4)
    found = run(convolve, x[None, None], weight[None, None])[0, 0]
    np.testing.assert_allclose(found, np.correlate(x, weight, "valid"), rtol=1e-12)
    same = run(lambda a, b: convolve(a, b, padding="same"), x[None, None], weight[None, None, :3])
    np.testing.assert_allclose(same[0, 0], np.correlate(x, weight[:3], "same"), rtol=1e-12)


def test_padding_may_differ_at_both_ends():
    x, weight = np.arange(1.0, 4).reshape(1, 1, 3), np.ones((1, 1, 2))
    found = run(lambda a, b: convolve(a, b, padding=((2, 0),)), x, weight)
    assert found[0, 0].tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("stride, padding, extra, dilation, groups", [
    (1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 2, 1, 2, 2), (2, 0, 0, 1, 4),
])  # fmt: skip
def test_the_transposed_convolution_is_the_input_gradient(stride, padding, extra, dilation, groups):
    ct = RNG.standard_normal((2, 4, 4, 3))
    weight = RNG.standard_normal((4, 8 // groups, 3, 3))
    found = run(
        lambda a, b: convolve_transposed(
            a, b, stride=stride, padding=padding, output_padding=extra, dilation=dilation,
            groups=groups,
        ),
        ct, weight,
    )  # fmt: skip
    forward = lambda x, w: convolve(  # noqa: E731
        x, w, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    (expected,) = gradients(forward, [np.zeros(found.shape), weight], [0], ct)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_bf16_is_summed_in_f32():
    x = RNG.uniform(0, 1, (1, 64, 5, 5)).astype(dt.bfloat16.numpy)
    weight = RNG.uniform(0, 1, (2, 64, 3, 3)).astype(dt.bfloat16.numpy)
    wide = (a.astype(np.float64) for a in (x, weight))
    exact = slide(*wide, (1, 1), (0, 0), (1, 1), 1)
    assert ulps_apart(run(convolve, x, weight), exact) <= 0.51


@pytest.mark.parametrize(
    "shapes, static, message",
    [
        (((2, 3, 8, 8), (4, 2, 3, 3)), {},
         "conv: x f32[2,3,8,8] has 3 channels, weight f32[4,2,3,3] is for 2"),
        (((2, 4, 8), (4, 4, 3)), {"groups": 3},
         "conv: 3 groups with x f32[2,4,8] and weight f32[4,4,3]"),
        (((2, 4, 8), (4, 4, 3, 3)), {}, "conv: x f32[2,4,8] with weight f32[4,4,3,3]"),
        (((2, 4, 3), (4, 4, 3)), {"dilation": 2},
         "conv: a window of 3 (dilation 2) does not fit in dim 2 of x f32[2,4,3] with padding "
         "(0, 0)"),
        (((2, 4, 8), (4, 4, 3)), {"padding": "same", "stride": 2},
         "conv: padding='same' with strides (2,)"),
        (((2, 4, 8), (4, 4, 3), (3,)), {}, "conv: bias is f32[3]"),
        (((2, 4, 8, 8), (4, 4, 3, 3)), {"stride": (2, 2, 2)},
         "stride=(2, 2, 2) for 2 dims"),
    ],
)  # fmt: skip
def test_convolution_errors(shapes, static, message):
    with pytest.raises(ShapeError) as caught:
        typed(lambda *a: convolve(*a, **static), *((dt.float32, s) for s in shapes))
    assert caught.value.message == message


def test_convolution_of_integers_is_refused():
    with pytest.raises(DTypeError, match="conv: takes floats, but x is i32"):
        typed(convolve, (dt.int32, (1, 1, 4)), (dt.int32, (1, 1, 2)))


# ---- pooling


def windows(x, size, stride, padding, dilation):
    """For each place, the elements of its window that there are, row-major, with positions."""
    lengths = x.shape[2:]
    places = [
        (n + 2 * p - dilation * (k - 1) - 1) // s + 1
        for n, k, s, p in zip(lengths, size, stride, padding, strict=True)
    ]
    for i, j in np.ndindex(*places):
        rows = (i * stride[0] + u * dilation - padding[0] for u in range(size[0]))
        columns = [j * stride[1] + v * dilation - padding[1] for v in range(size[1])]
        yield (
            (i, j),
            [(r, c) for r in rows for c in columns if 0 <= r < lengths[0] and 0 <= c < lengths[1]],
        )


POOLS = [
    ((2, 2), (2, 2), (0, 0), 1), ((3, 3), (2, 2), (1, 1), 1), ((3, 2), (1, 2), (1, 0), 2),
    ((2, 3), (3, 1), (0, 1), 1),
]  # fmt: skip


@pytest.mark.parametrize("size, stride, padding, dilation", POOLS)
@pytest.mark.parametrize("tied", [False, True])
def test_max_pool_and_its_gradient_to_the_first_maximum(size, stride, padding, dilation, tied):
    shape = (2, 2, 6, 7)
    x = RNG.integers(0, 3, shape).astype(float) if tied else RNG.standard_normal(shape)
    pool = lambda v: max_pool(  # noqa: E731
        v, size, stride=stride, padding=padding, dilation=dilation
    )
    found = run(pool, x)
    cotangent = RNG.standard_normal(found.shape)
    slope = np.zeros_like(x)
    for place, elements in windows(x, size, stride, padding, dilation):
        for lead in np.ndindex(2, 2):
            top = max(x[(*lead, *e)] for e in elements)
            assert found[(*lead, *place)] == top
            first = next(e for e in elements if x[(*lead, *e)] == top)
            slope[(*lead, *first)] += cotangent[(*lead, *place)]
    (gradient,) = gradients(pool, [x], [0], cotangent)
    np.testing.assert_allclose(gradient, slope, rtol=1e-13)


@pytest.mark.parametrize("size, stride, padding, dilation", [p for p in POOLS if p[3] == 1])
@pytest.mark.parametrize("count_pad", [False, True])
def test_avg_pool(size, stride, padding, dilation, count_pad):
    x = RNG.standard_normal((1, 2, 6, 7))
    pool = lambda v: avg_pool(  # noqa: E731
        v, size=size, stride=stride, padding=padding, count_include_pad=count_pad
    )
    found = run(pool, x)
    for place, elements in windows(x, size, stride, padding, dilation):
        total = sum(x[0, :, r, c] for r, c in elements)
        count = size[0] * size[1] if count_pad else len(elements)
        np.testing.assert_allclose(found[(0, slice(None), *place)], total / count, rtol=1e-12)
    assert_gradients(pool, x[:, :1, :4, :5])


def test_ceil_mode_adds_a_window_over_the_end():
    x = np.arange(5.0).reshape(1, 1, 5)
    assert run(lambda v: max_pool(v, 2), x)[0, 0].tolist() == [1, 3]
    assert run(lambda v: max_pool(v, 2, ceil_mode=True), x)[0, 0].tolist() == [1, 3, 4]
    padded = run(lambda v: max_pool(v, 2, stride=4, padding=1, ceil_mode=True), x)
    assert padded[0, 0].tolist() == [0, 4]  # one more window would lie in the padding


def test_nan_passes_through_max_pool():
    x = np.array([[[1.0, np.nan, 2.0, 3.0]]])
    found = run(lambda v: max_pool(v, 2), x)[0, 0]
    assert np.isnan(found[0])
    assert found[1] == 3


def test_second_derivatives_of_max_pool_and_convolution():
    x, weight = RNG.standard_normal((1, 1, 4, 4)), RNG.standard_normal((2, 1, 2, 2))

    def slope(v, w, ct):
        y = convolve(max_pool(multiply(v, v), 2, stride=1), w, stride=2, padding=1)
        return vjp_values([multiply(y, y)], [v], [ct])[0]

    assert_gradients(slope, x, weight, RNG.standard_normal((1, 2, 2, 2)))


@pytest.mark.parametrize(
    "function, shape, message",
    [
        (lambda x: max_pool(x, 2), (2, 3), "max_pool: x f32[2,3] has no dims to pool"),
        (lambda x: max_pool(x, 5), (1, 1, 4),
         "window_max: a window of 5 (dilation 1) does not fit in dim 2 of x f32[1,1,4] with "
         "padding (0, 0)"),
        (lambda x: max_pool(x, 2, padding=2), (1, 1, 4),
         "window_max: with padding (2, 2) a window of 2 (dilation 1) holds no element of "
         "x f32[1,1,4]"),
        (lambda x: avg_pool(x, size=2, stride=0), (1, 1, 4),
         "window_sum: a window of 2 with stride 0 and dilation 1"),
    ],
)  # fmt: skip
def test_pooling_errors(function, shape, message):
    with pytest.raises(ShapeError) as caught:
        typed(function, (dt.float32, shape))
    assert caught.value.message == message
