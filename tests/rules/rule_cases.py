"""Programs on which each structural rule must fire, by the name of the rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.ir.node import Value, parameter
from rung.ir.types import TensorType
from rung.ops.activation import relu
from rung.ops.broadcast import broadcast_to, reduce_sum, reshape
from rung.ops.contraction import dot_general
from rung.ops.creation import array, full
from rung.ops.elementwise import (
    bitwise_and,
    bitwise_invert,
    bitwise_or,
    bitwise_xor,
    cast,
    divide,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    subtract,
    where,
)
from rung.ops.families import add
from rung.ops.gradient import stop_gradient
from rung.ops.indexing import column, scatter_add
from rung.ops.movement import concat, flip, pad, permute, slice_
from rung.ops.reduction import reduce_all, reduce_any, reduce_max, reduce_min, reduce_prod
from rung.ops.transcendental import exp

Case = Callable[[], Value]
NUMERIC = (dt.float16, dt.bfloat16, dt.float32, dt.float64, dt.int8, dt.int32, dt.uint8, dt.uint64)


PLACES = column(array(np.array([1, 3, 1])))


def x(*shape: int, dtype: DType = dt.float32, index: int = 0) -> Value:
    """Parameter `index` of the program."""
    return parameter(index, f"x{index}", TensorType(dtype, shape))


def y(*shape: int, dtype: DType = dt.float32) -> Value:
    return x(*shape, dtype=dtype, index=1)


def identities() -> list[Case]:
    cases: list[Case] = []
    for d in NUMERIC:
        zero = -0.0 if d.is_float else 0
        cases += [
            lambda d=d, zero=zero: add(x(4, dtype=d), full((4,), zero, d)),
            lambda d=d: multiply(full((4,), 1, d), x(4, dtype=d)),
        ]
        if d.is_float:
            cases.append(lambda d=d: maximum(x(4, dtype=d), full((4,), -np.inf, d)))
            cases.append(lambda d=d: minimum(x(4, dtype=d), full((4,), np.inf, d)))
        else:
            cases.append(lambda d=d: bitwise_or(x(4, dtype=d), full((4,), 0, d)))
            cases.append(lambda d=d: bitwise_xor(full((4,), 0, d), x(4, dtype=d)))
    for op, number in ((logical_and, True), (logical_or, False), (logical_xor, False)):
        cases.append(
            lambda op=op, number=number: op(x(4, dtype=dt.bool_), full((4,), number, dt.bool_))
        )
    return cases


def absorbed() -> list[Case]:
    cases: list[Case] = [
        lambda op=op, n=n: op(x(4, dtype=dt.bool_), full((4,), n, dt.bool_))
        for op, n in ((logical_and, False), (logical_or, True))
    ]
    for d in (dt.int8, dt.uint8, dt.int64):
        cases.append(lambda d=d: multiply(full((4,), 0, d), x(4, dtype=d)))
        cases.append(lambda d=d: bitwise_and(x(4, dtype=d), full((4,), 0, d)))
    return cases


def twice() -> list[Case]:
    ops = [(maximum, dt.float32), (minimum, dt.int8), (logical_or, dt.bool_)]
    return [lambda op=op, d=d: op(x(4, dtype=d), x(4, dtype=d)) for op, d in ops]


def casts() -> list[Case]:
    """Every chain of three dtypes whose first step keeps the value, as far as the rule takes it."""
    from rung.rules.algebra import keeps_value

    def wraps(a: DType, b: DType, c: DType) -> bool:
        if not a.is_integer:
            return False
        if b.is_float and c.is_integer:
            return not keeps_value(a, c)
        return c.is_float and c.bits == 16 and a.bits > 16

    return [
        lambda a=a, b=b, c=c: cast(cast(x(dtype=a), dtype=b), dtype=c)
        for a in dt.ALL
        for b in dt.ALL
        for c in dt.ALL
        if keeps_value(a, b) and not wraps(a, b, c)
    ]


def products() -> list[Case]:
    def case(p: tuple[int, ...], q: tuple[int, ...], batch: object, contract: object) -> Case:
        shapes = (2, 3, 4), (2, 4, 5)
        a_shape = tuple(shapes[0][p.index(d)] for d in range(3))
        b_shape = tuple(shapes[1][q.index(d)] for d in range(3))
        return lambda: dot_general(
            permute(x(*a_shape), dims=p), permute(y(*b_shape), dims=q), batch=batch,
            contract=contract,
        )  # fmt: skip

    batched = (((0,), (0,)), ((2,), (1,)))
    return [
        case((0, 2, 1), (0, 2, 1), *batched),
        case((2, 0, 1), (1, 2, 0), *batched),
        lambda: dot_general(permute(x(3, 4), dims=(1, 0)), y(3, 5), contract=((1,), (0,))),
        lambda: dot_general(x(3, 4), permute(y(5, 4), dims=(1, 0)), contract=((1,), (0,))),
        lambda: dot_general(
            x(3, 4), permute(y(5, 4), dims=(1, 0)), contract=((1,), (0,)),
            domain=(((1, 1), (0, 0), 1), ((0, 1), (1, 1), -2)),
        ),
    ]  # fmt: skip


def swapped() -> list[Case]:
    return [
        lambda: permute(dot_general(x(3, 4), y(4, 5), contract=((1,), (0,))), dims=(1, 0)),
        lambda: permute(
            dot_general(x(2, 3, 4), y(2, 5, 6, 4), batch=((0,), (0,)), contract=((2,), (3,))),
            dims=(0, 2, 3, 1),
        ),
        lambda: permute(dot_general(x(3, 4), y(4), contract=((1,), (0,))), dims=(0,)),
        lambda: permute(
            dot_general(x(3, 4), y(4, 5), contract=((1,), (0,)), domain=(((0, 0), (1, 1), -1),)),
            dims=(1, 0),
        ),
    ]


CASES: dict[str, list[Case]] = {
    "identity_operand": identities(),
    "absorbing_operand": absorbed(),
    "equal_operands": twice(),
    "double_complement": [
        lambda: logical_not(logical_not(x(4, dtype=dt.bool_))),
        lambda: bitwise_invert(bitwise_invert(x(4, dtype=dt.int16))),
    ],
    "where_constant": [
        lambda: where(full((3,), True, dt.bool_), x(3), y(3)),
        lambda: where(full((3,), False, dt.bool_), x(3), y(3)),
    ],
    "cast_to_itself": [lambda d=d: cast(x(4, dtype=d), dtype=d) for d in dt.ALL],
    "cast_of_cast": casts(),
    "reshape_to_itself": [
        lambda: reshape(x(2, 3), shape=(2, 3)),
        lambda: broadcast_to(x(2, 3), shape=(2, 3)),
    ],
    "permute_to_itself": [lambda: permute(x(2, 3), dims=(0, 1)), lambda: permute(x(), dims=())],
    "slice_of_all": [
        lambda: slice_(x(2, 1, 0), starts=(0, 0, 0), stops=(2, 1, 0), steps=(1, 3, 2)),
    ],
    "pad_with_nothing": [lambda: pad(x(2, 3), low=(0, 0), high=(0, 0), value=7)],
    "flip_of_one": [lambda: flip(x(1, 3), dims=(0, 1)), lambda: flip(x(1, 3), dims=(0,)),
                    lambda: flip(x(2), dims=())],
    "concat_of_empty": [
        lambda: concat(x(2, 0), y(2, 3), x(2, 0), dim=1),
        lambda: concat(x(2), dim=0),
        lambda: concat(x(0), x(0), dim=0),
        lambda: concat(x(2), y(0), x(2), dim=0),
    ],
    "reduce_nothing": [
        lambda op=op, dims=dims, d=d: op(x(2, 1, 3), dims=dims)
        for op in (reduce_sum, reduce_prod, reduce_max, reduce_min)
        for dims in ((), (1,))
        for d in (dt.float32, dt.int32)
    ] + [lambda op=op: op(x(2, 1, dtype=dt.bool_), dims=(1,)) for op in (reduce_any, reduce_all)],
    "moved_constant": [
        lambda: reshape(full((2, 3), 1.5, dt.float32), shape=(6,)),
        lambda: permute(full((2, 3), -0.0, dt.float32), dims=(1, 0)),
        lambda: slice_(full((5,), 2, dt.int8), starts=(1,), stops=(4,), steps=(2,)),
        lambda: flip(full((5,), True, dt.bool_), dims=(0,)),
        lambda: broadcast_to(reshape(full((3,), np.nan, dt.float32), shape=(3, 1)), shape=(3, 4)),
    ],
    "reshape_of_reshape": [lambda: reshape(reshape(x(2, 6), shape=(3, 4)), shape=(12,))],
    "permute_of_permute": [
        lambda: permute(permute(x(2, 3, 4), dims=(2, 0, 1)), dims=(1, 0, 2)),
        lambda: permute(permute(x(2, 3, 4), dims=(2, 0, 1)), dims=(1, 2, 0)),
    ],
    "permute_of_ones": [lambda: permute(x(1, 5), dims=(1, 0)),
                        lambda: permute(x(2, 1, 3, 1), dims=(1, 0, 3, 2))],
    "broadcast_of_broadcast": [
        lambda: broadcast_to(broadcast_to(x(3, 1), shape=(2, 3, 1)), shape=(4, 2, 3, 5)),
    ],
    "broadcast_of_leading_ones": [
        lambda: broadcast_to(reshape(x(3), shape=(1, 1, 3)), shape=(4, 2, 3)),
        lambda: broadcast_to(reshape(x(), shape=(1,)), shape=(4,)),
    ],
    "reshape_of_leading_broadcast": [
        lambda: reshape(broadcast_to(x(2, 3), shape=(1, 2, 3)), shape=(6,)),
    ],
    "slice_of_slice": [
        lambda: slice_(slice_(x(20), starts=(3,), stops=(19,), steps=(2,)),
                       starts=(1,), stops=(7,), steps=(3,)),
        lambda: slice_(slice_(x(20), starts=(3,), stops=(19,), steps=(2,)),
                       starts=(8,), stops=(8,), steps=(1,)),
    ],
    "slice_of_concat": [
        lambda a=a, b=b: slice_(concat(x(2, 3), y(2, 4), x(2, 3), dim=1),
                                starts=(0, a), stops=(2, b), steps=(1, 2))
        for a, b in ((0, 3), (3, 7), (4, 6), (8, 10), (3, 3))
    ],
    "slice_of_pad": [
        lambda: slice_(pad(x(4, 5), low=(1, -1), high=(2, 3)),
                       starts=(1, 0), stops=(5, 4), steps=(1, 2)),
    ],
    "pad_of_pad": [
        lambda: pad(pad(x(3), low=(1,), high=(2,), interior=(1,), value=2.0), low=(0,), high=(3,),
                    value=2),
    ],
    "flip_of_flip": [lambda: flip(flip(x(2, 3, 4), dims=(0, 1)), dims=(1, 2)),
                     lambda: flip(flip(x(2, 3), dims=(0,)), dims=(0,))],
    "concat_of_concat": [lambda: concat(concat(x(2), y(3), dim=0), x(2), dim=0)],
    "reduce_of_reduce": [
        lambda op=op: op(op(x(2, 3, 4), dims=(1,)), dims=(0, 1)) for op in (reduce_max, reduce_min)
    ] + [
        lambda op=op: op(op(x(2, 3, 4, dtype=dt.bool_), dims=(0,)), dims=(1,))
        for op in (reduce_any, reduce_all)
    ],
    "divide_negative": [lambda: divide(negative(x(4)), y(4)), lambda: divide(x(4), negative(y(4)))],
    "subtract_from_negative": [lambda d=d: subtract(negative(x(4, dtype=d)), y(4, dtype=d))
                               for d in (dt.float32, dt.int8, dt.bfloat16)],
    "moved_negative": [
        lambda: broadcast_to(negative(x(3, 1)), shape=(2, 3, 4)),
        lambda: reshape(negative(x(6, dtype=dt.int8)), shape=(2, 3)),
        lambda: permute(negative(x(2, 3)), dims=(1, 0)),
        lambda: reduce_sum(negative(x(5, 40)), dims=(1,)),
    ],
    "spread_operands": [
        lambda: multiply(broadcast_to(x(3, 1), shape=(3, 4)), broadcast_to(y(3, 1), shape=(3, 4))),
        lambda: add(full((2, 3), 1.5, dt.float32), broadcast_to(x(3), shape=(2, 3))),
        lambda: cast(broadcast_to(x(), shape=(2, 3)), dtype=dt.int8),
    ],
    "sum_of_pads": [
        lambda: add(pad(x(2, 3), low=(0, 0), high=(0, 4)), pad(y(2, 4), low=(0, 3), high=(0, 0))),
        lambda: add(pad(x(2), low=(4,), high=(1,)), pad(y(3), low=(1,), high=(3,))),
        lambda: add(pad(x(2, 2), low=(1, 4), high=(1, 1)), pad(y(2, 3), low=(1, 1), high=(1, 3))),
    ],
    "add_scattered": [
        lambda: add(
            scatter_add(x(5), PLACES, y(3)), scatter_add(full((5,), 0, dt.float32), PLACES, y(3))
        ),
        lambda: add(
            scatter_add(full((5,), -0.0, dt.float32), PLACES, y(3)), scatter_add(x(5), PLACES, y(3))
        ),
    ],
    "permute_of_product": swapped(),
    "product_of_permuted": products(),
    "fold_filled": [
        lambda: exp(full((2, 3), 0.5, dt.float32)),
        lambda: add(full((2,), 250, dt.uint8), full((2,), 10, dt.uint8)),
        lambda: where(full((2,), True, dt.bool_), full((2,), 1, dt.int8), full((2,), 2, dt.int8)),
        lambda: cast(full((2, 2), 3.7, dt.bfloat16), dtype=dt.int32),
        lambda: multiply(full((), np.nan, dt.float64), full((), np.inf, dt.float64)),
    ],
    "fold_reduced": [lambda: reduce_max(full((2, 3), 4.5, dt.float32), dims=(1,)),
                     lambda: reduce_all(full((2, 3), False, dt.bool_), dims=(0,))],
    "fold_small": [
        lambda: reduce_sum(array(np.arange(6.0).reshape(2, 3)), dims=(1,)),
        lambda: add(array(np.arange(5)), full((5,), 3, dt.int64)),
        lambda: concat(array(np.arange(3)), array(np.arange(2)), dim=0),
    ],
    "decompose_op": [lambda: relu(x(3, 4)), lambda: relu(relu(x(3, 4)))],
    "drop_stop_gradient": [lambda: stop_gradient(x(3))],
}  # fmt: skip
