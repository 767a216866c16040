"""A made-up op is one call; the conventions and error texts of the families."""

from __future__ import annotations

import numpy as np
import pytest
from loop_eval import evaluate
from op_cases import cases

from rung.core import dtype as dt
from rung.core.errors import DTypeError, GraphError, RungError, ShapeError
from rung.ir.interpret import interpret
from rung.ir.node import Value, make_graph, parameter
from rung.ir.types import TensorType
from rung.ops.broadcast import broadcast_to, broadcast_values, reduce_sum, reshape, spread
from rung.ops.creation import ArrayAttrs, ConstantAttrs, array, array_data, constant, full
from rung.ops.elementwise import (
    absolute,
    cast,
    clip,
    divide,
    floor_divide,
    maximum,
    minimum,
    multiply,
    remainder,
    scale,
    where,
)
from rung.ops.families import add, scalar, unary
from rung.ops.movement import concat, pad, permute, slice_
from rung.ops.reduction import ReduceAttrs, reduce_max, reduce_prod
from rung.ops.transcendental import exp, power
from rung.transform.grad import vjp_values
from rung.transform.jvp import jvp_values


def param(shape: tuple[int, ...], dtype: dt.DType = dt.float32, index: int = 0) -> Value:
    return parameter(index, f"x{index}", TensorType(dtype, shape))


def run(outputs: Value | None, *args: np.ndarray) -> np.ndarray:
    params = [param(a.shape, dt.as_dtype(a.dtype), i) for i, a in enumerate(args)]
    assert outputs is not None
    return interpret(make_graph("test", params, [outputs]), args)[0]


def gradient(function, *args: np.ndarray) -> list[np.ndarray]:
    """Gradients of the sum of `function` at float arrays."""
    params = [param(a.shape, dt.as_dtype(a.dtype), i) for i, a in enumerate(args)]
    result = function(*params)
    found = vjp_values([result], params, [full(result.shape, 1.0, result.dtype)])
    return interpret(make_graph("test", params, found), args)


def test_a_made_up_op_is_one_call():
    cubed = unary(
        "cubed",
        lambda x: x * x * x,
        "x³.",
        derivative=lambda x, y, dx: multiply(dx, scale(multiply(x, x), 3.0)),
        body=lambda x: scalar("multiply", scalar("multiply", x, x), x),
    )
    x = np.array([1.5, -2.0])
    assert run(cubed(param((2,), dt.float64)), x).tolist() == [3.375, -8.0]
    assert gradient(cubed, x)[0].tolist() == [6.75, 12.0]
    case = next(c for c in cases(cubed) if c.types == [TensorType(dt.float64, (3, 7))])
    form = cubed.axes(case.attrs, case.types)
    assert np.array_equal(evaluate(form, case.operands, case.types)[0], case.ref()[0])


# ---- conventions


def test_integer_division_rounds_down_and_zero_gives_zero():
    x, y = np.array([7, -7, 7, -7, 5, -128], np.int8), np.array([2, 2, -2, -2, 0, -1], np.int8)
    a, b = param((6,), dt.int8), param((6,), dt.int8, 1)
    assert run(floor_divide(a, b), x, y).tolist() == [3, -4, -4, 3, 0, -128]
    assert run(remainder(a, b), x, y).tolist() == [1, 1, -1, -1, 0, 0]


def test_integer_power_of_negative_exponents():
    x, y = np.array([2, -1, -1, 1, 0, 3, -3]), np.array([-1, -3, -2, -5, -1, 4, 3])
    a, b = param((7,), dt.int64), param((7,), dt.int64, 1)
    assert run(power(a, b), x, y).tolist() == [0, -1, 1, 1, 0, 81, -27]


def test_cast_holds_at_the_ends_and_wraps_integers():
    x = np.array([3.9, -3.9, 300.0, -300.0, np.nan, np.inf], np.float32)
    assert run(cast(param((6,)), dtype="i8"), x).tolist() == [3, -3, 127, -128, 0, 127]
    assert run(cast(param((6,)), dtype="u8"), x).tolist() == [3, 0, 255, 0, 0, 255]
    big = np.array([1e30, -1e30])
    assert run(cast(param((2,), dt.float64), dtype="i64"), big).tolist() == [2**63 - 1, -(2**63)]
    assert run(cast(param((1,), dt.int64), dtype="u8"), np.array([-1])).tolist() == [255]


def test_narrow_floats_are_computed_in_f32_and_rounded_once():
    x = np.array([1.0, 3.0], np.float16)
    y = np.array([3.0, 1e-4], np.float16)
    a, b = param((2,), dt.float16), param((2,), dt.float16, 1)
    expected = (x.astype(np.float32) / y.astype(np.float32)).astype(np.float16)
    assert np.array_equal(run(divide(a, b), x, y), expected)


def test_sums_of_narrow_floats_are_accumulated_in_f32():
    x = np.ones(4096, np.float16)
    assert run(reduce_sum(param((4096,), dt.float16), dims=(0,)), x) == 4096


def test_derivatives_at_kinks():
    x, y = np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.0, 0.0])
    for op in (maximum, minimum):
        gx, gy = gradient(op, x, y)
        assert gx[[0, 2]].tolist() == gy[[0, 2]].tolist() == [0.5, 0.5]
    assert gradient(absolute, np.array([-2.0, 0.0, 3.0]))[0].tolist() == [-1, 0, 1]
    (g,) = gradient(lambda v: reduce_max(v, dims=(0,)), np.array([3.0, 1.0, 3.0]))
    assert g.tolist() == [0.5, 0, 0.5]
    (g,) = gradient(lambda v: clip(v, -1.0, 1.0), np.array([-2.0, -1.0, 0.0, 5.0]))
    assert g.tolist() == [0, 0.5, 1, 0]


def test_product_with_zeros_has_exact_derivatives_of_second_order():
    x = np.array([2.0, 0.0, 5.0, 0.0, 3.0])
    v = param((5,), dt.float64)
    t, s = param((5,), dt.float64, 1), param((5,), dt.float64, 2)
    y = reduce_prod(v, dims=(0,))
    (first,) = jvp_values([y], [v], [t])
    (second,) = jvp_values([first], [v], [s])
    rng = np.random.default_rng(0)
    dt_, ds = rng.standard_normal((2, 5))
    made = interpret(make_graph("test", [v, t, s], [first, second]), [x, dt_, ds])
    others = [[np.prod(np.delete(x, [i, j])) if i != j else 0 for j in range(5)] for i in range(5)]
    assert made[0] == 0
    np.testing.assert_allclose(made[1], dt_ @ np.array(others) @ ds, rtol=1e-12)


def test_second_derivatives_of_composed_functions():
    x = np.array([0.3, 0.7, 1.9])
    v, t = param((3,), dt.float64), param((3,), dt.float64, 1)
    y = exp(multiply(v, v))
    (first,) = jvp_values([y], [v], [t])
    (gradient_of_tangent,) = vjp_values([first], [v], [full((3,), 1.0, dt.float64)])
    ones = np.ones(3)
    made = interpret(make_graph("test", [v, t], [gradient_of_tangent]), [x, ones])[0]
    np.testing.assert_allclose(made, (2 + 4 * x * x) * np.exp(x * x), rtol=1e-13)


# ---- attributes


def test_constants_compare_by_bits():
    assert ConstantAttrs(0.0, dt.float32) != ConstantAttrs(-0.0, dt.float32)
    assert ConstantAttrs(float("nan"), dt.float32) == ConstantAttrs(float("nan"), dt.float32)
    assert ConstantAttrs(0.1, dt.float32).value == float(np.float32(0.1))
    assert ConstantAttrs(1, dt.float32) == ConstantAttrs(True, dt.float32)
    assert ConstantAttrs(1, dt.float32) != ConstantAttrs(1, dt.int32)


def test_array_constants_are_interned_copies():
    source = np.arange(6.0).reshape(2, 3)
    data = array_data(source)
    assert array_data(source.copy()) is data and array_data(data.digest) is data
    assert array_data(source.reshape(3, 2)) is not data
    assert ArrayAttrs(data) == ArrayAttrs(array_data(source))
    source[0, 0] = 9
    assert data.array[0, 0] == 0 and not data.array.flags.writeable
    assert array(3.0, dt.float32).node.op is constant
    with pytest.raises(GraphError, match="no array with digest"):
        array_data("00")


def test_reduce_dims_are_sorted_and_may_be_one_number():
    assert ReduceAttrs((2, 0)) == ReduceAttrs((0, 2))
    assert ReduceAttrs(1) == ReduceAttrs((1,))


# ---- shapes


def test_broadcast_values_and_spread():
    a, b = param((3, 1)), param((4,), index=1)
    assert [v.shape for v in broadcast_values(a, b)] == [(3, 4), (3, 4)]
    x = np.arange(3.0, dtype=np.float32)
    assert run(spread(param((3,)), (0, 2), (2, 3, 4)), x)[1, :, 2].tolist() == [0, 1, 2]


ERRORS = [
    (lambda: add(param((2, 3)), param((3,), index=1)), ShapeError,
     "add: shapes differ: x f32[2,3] and y f32[3]",
     "bring both to [2, 3] with broadcast_to; broadcast_values(x, y) does it"),
    (lambda: add(param((2, 3)), param((4,), index=1)), ShapeError,
     "add: shapes differ: x f32[2,3] and y f32[4]",
     "the shapes cannot be broadcast together either; reshape x or y"),
    (lambda: multiply(param((2,)), param((2,), dt.int32, 1)), DTypeError,
     "multiply: dtypes differ: x f32[2] and y i32[2]",
     "cast one: the common dtype is f64"),
    (lambda: exp(param((2,), dt.int32)), DTypeError,
     "exp: takes floats, but x is i32[2]",
     "cast x first, e.g. cast(x, dtype=f32)"),
    (lambda: where(param((2,)), param((2,)), param((2,))), DTypeError,
     "where: takes bool, but condition is f32[2]",
     "cast condition first, e.g. cast(condition, dtype=bool)"),
    (lambda: reduce_sum(param((2, 3)), dims=(2,)), ShapeError,
     "reduce_sum: dim 2 is out of range for x f32[2,3]",
     "dims of x go from 0 to 1"),
    (lambda: reduce_max(param((0, 3)), dims=(0,)), ShapeError,
     "reduce_max: x f32[0,3] has no elements along dims [0]",
     "reduce over dims that are not empty; there is no neutral element"),
    (lambda: reshape(param((2, 3)), shape=(4,)), ShapeError,
     "reshape: x f32[2,3] has 6 elements, shape [4] does not",
     "give a shape of 6 elements"),
    (lambda: broadcast_to(param((2, 3)), shape=(3, 3)), ShapeError,
     "broadcast_to: x f32[2,3] cannot be broadcast to [3, 3]",
     "aligned at the last dim, each dim of x must be 1 or equal; reshape x first"),
    (lambda: permute(param((2, 3)), dims=(0, 0)), ShapeError,
     "permute: dims [0, 0] do not name each dim of x f32[2,3] once",
     "give an order of 0 … 1"),
    (lambda: slice_(param((4,)), starts=(1,), stops=(5,), steps=(1,)), ShapeError,
     "slice: 1:5:1 does not fit dim 0 of x f32[4]",
     "need 0 <= start <= stop <= 4 and step >= 1 (flip for a negative step)"),
    (lambda: pad(param((4,)), low=(-3,), high=(-2,)), ShapeError,
     "pad: low -3, high -2, interior 0 do not fit dim 0 of x f32[4]",
     "interior must be >= 0, and no more can be cut off than is there"),
    (lambda: pad(param((4,), dt.uint8), low=(1,), high=(0,), value=300), DTypeError,
     "constant: 300 does not fit u8",
     "give a wider dtype, e.g. i64"),
    (lambda: concat(param((2, 3)), param((2, 4), index=1), dim=0), ShapeError,
     "concat: operand 0 f32[2,3] and operand 1 f32[2,4] differ outside dim 0",
     "all lengths but that of dim 0 must be equal"),
    (lambda: constant(value=1.5, dtype=dt.int32), DTypeError,
     "constant: 1.5 is not an integer, but the dtype is i32",
     "give an integer or a float dtype"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "message", "fix"), ERRORS, ids=[e[2] for e in ERRORS])
def test_error_text(make, kind: type[RungError], message: str, fix: str):
    with pytest.raises(kind) as caught:
        make()
    assert caught.value.message == message
    assert caught.value.fix == fix


def test_attributes_of_another_op_are_refused():
    with pytest.raises(GraphError, match="reduce_sum: attributes are Attrs, not ReduceAttrs"):
        reduce_sum(param((2,)))
