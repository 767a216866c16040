"""Tensors against NumPy: operators, promotion, shapes, reductions, creation, interchange."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.dtype import ALL
from rung.core.errors import (
    AxisError,
    DeviceError,
    DTypeError,
    IndexingError,
    ShapeError,
)
from rung.core.settings import configure

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    """What is tested here is the front end; the interpreter is the meaning of a graph."""
    configure(interpret=True)
    yield
    configure(interpret=False)


def check(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected.astype(np.float64), tolerance, tolerance
    )


A = RNG.standard_normal((3, 4)).astype(np.float32)
B = RNG.standard_normal((4,)).astype(np.float32)
C = RNG.standard_normal((2, 3, 4)).astype(np.float32)
INTS = RNG.integers(-5, 6, (3, 4))

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "floor_divide": lambda x, y: x // y,
    "remainder": lambda x, y: x % y,
    "less": lambda x, y: x < y,
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "greater_equal": lambda x, y: x >= y,
}


@pytest.mark.parametrize("name", BINARY)
def test_operators(name: str) -> None:
    op = BINARY[name]
    a, b = rung.tensor(A), rung.tensor(B)
    check(op(a, b), op(A, B))
    check(op(a, 2.5), op(A, np.float32(2.5)))
    check(op(2.5, a), op(np.float32(2.5), A))
    check(op(A, b), op(A, B))
    if name != "divide":
        check(op(rung.tensor(INTS), 3), op(INTS, 3))


def test_integer_and_bool_operators() -> None:
    i = rung.tensor(INTS)
    check(i & 3, INTS & 3)
    check(i | 4, INTS | 4)
    check(i ^ i, INTS ^ INTS)
    check(~i, ~INTS)
    check(i << 2, INTS << 2)
    check(i >> 1, INTS >> 1)
    check((i > 0) & (i < 3), (INTS > 0) & (INTS < 3))
    check(~(i > 0), ~(INTS > 0))
    check(-i, -INTS)
    check(abs(i), abs(INTS))
    check(i**2, INTS**2)
    check(2 ** rung.tensor([0, 1, 5]), [1, 2, 32])
    check(rung.tensor(A) ** 3, A**3, 1e-5)
    check(rung.tensor([4.0, 9.0]) ** 0.5, [2, 3])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (rung.float32, 1, rung.float32),
        (rung.float32, 1.5, rung.float32),
        (rung.float16, 1.5, rung.float16),
        (rung.int32, 1, rung.int32),
        (rung.int32, 1.5, rung.float32),
        (rung.uint8, True, rung.uint8),
        (rung.bool, 1, rung.int64),
        (rung.float32, rung.float64, rung.float64),
        (rung.int8, rung.uint8, rung.int16),
        (rung.bfloat16, rung.float16, rung.float32),
        (rung.int64, rung.float32, rung.float64),
    ],
)
def test_promotion(a: rung.DType, b: Any, expected: rung.DType) -> None:
    x = rung.ones(3, a)
    y = rung.ones(3, b) if isinstance(b, rung.DType) else b
    assert (x + y if a is not rung.bool else x * y).dtype is expected
    assert rung.result_type(a, b) is expected


def test_division_of_integers_is_f32() -> None:
    assert (rung.ones(3, rung.int64) / 2).dtype is rung.float32
    assert rung.exp(rung.ones(3, rung.int32)).dtype is rung.float32
    assert rung.mean(rung.arange(3)).dtype is rung.float32


def test_numpy_scalars_are_weak() -> None:
    assert (rung.ones(3) * np.float64(0.5)).dtype is rung.float32
    assert (np.float64(0.5) * rung.ones(3)).dtype is rung.float32


INDICES: list[Any] = [
    0,
    -1,
    slice(1, 3),
    slice(None, None, -1),
    slice(5, None, -2),
    (slice(None), 1),
    (0, slice(None, 2), None),
    (..., -1),
    (None, ..., slice(1, None, 2)),
    (1, 2, 3),
    ([0, 1, 1],),
    np.array([[1, 0], [0, 1]]),
    (slice(None), np.array([2, 0])),
    (slice(None), slice(1, 3), np.array([[3, 0], [-1, 2]])),
    (0, slice(None), np.array([1, 2])),
    (np.array([0, 1]), slice(None), np.array([1, 2])),
    (slice(None), np.array([[0], [1]]), np.array([1, 2])),
    (np.array([0, 1]), None, 1),
    (slice(None), np.array([True, False, True])),
    np.array([[True, False, True], [False, True, True]]),
    (slice(None), slice(2, 0, -1), np.array([1, 2])),
    (Ellipsis, None),
    (slice(0, 0),),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("computed", [False, True])
def test_getitem(index: Any, computed: bool) -> None:
    x = rung.tensor(C) if computed else rung.tensor(C) * 1
    check(x[index], C[index])


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_setitem(index: Any) -> None:
    x, expected = rung.tensor(C), C.copy()
    x[index] = 7
    expected[index] = 7
    check(x, expected)
    part = RNG.standard_normal(C[index].shape).astype(np.float32)
    x[index] = part
    expected[index] = part
    check(x, expected)
    if part.ndim and part.shape[-1] > 1:
        x[index] = rung.tensor(part[..., :1])
        expected[index] = part[..., :1]
        check(x, expected)


def test_setitem_of_overlapping_values_and_updates_of_elements() -> None:
    x = rung.arange(5)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3]
    x[2] += 10
    assert x.tolist() == [0, 0, 11, 2, 3]
    x[x > 2] = -1
    assert x.tolist() == [0, 0, -1, 2, -1]


def test_tensor_index() -> None:
    x = rung.tensor(C)
    at = rung.tensor([1, -1, 0])
    check(x[at], C[[1, -1, 0]])
    check(x[:, at], C[:, [1, -1, 0]])
    check(x[at * 1, :, 2], C[[1, -1, 0], :, 2])


def test_rows_of_computed_tensors_are_views_that_updates_do_not_reach() -> None:
    x = rung.tensor(C)
    row = x[1]
    assert np.shares_memory(row.numpy(), x.numpy())
    x += 1
    check(row, C[1])
    check(x, C + 1)


UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sum": (lambda x: x.sum(), lambda x: x.sum()),
    "sum_axis": (lambda x: x.sum(1), lambda x: x.sum(1)),
    "sum_dims": (lambda x: x.sum(dim=(0, -1), keepdim=True), lambda x: x.sum((0, -1), keepdims=1)),
    "mean": (lambda x: x.mean(-1), lambda x: x.mean(-1)),
    "var": (lambda x: x.var(0, correction=1), lambda x: x.var(0, ddof=1)),
    "std": (lambda x: x.std((1, 2)), lambda x: x.std((1, 2))),
    "max": (lambda x: x.max(2), lambda x: x.max(2)),
    "min": (lambda x: x.min(), lambda x: x.min()),
    "prod": (lambda x: x.prod(0), lambda x: x.prod(0)),
    "argmax": (lambda x: x.argmax(-1), lambda x: x.argmax(-1)),
    "argmin": (lambda x: x.argmin(), lambda x: x.argmin()),
    "any": (lambda x: (x > 1).any(1), lambda x: (x > 1).any(1)),
    "all": (lambda x: (x > -1).all(), lambda x: (x > -1).all()),
    "cumsum": (lambda x: x.cumsum(1), lambda x: x.cumsum(1)),
    "cumprod": (lambda x: x.cumprod(dim=2), lambda x: x.cumprod(2)),
    "reshape": (lambda x: x.reshape(4, -1), lambda x: x.reshape(4, -1)),
    "view": (lambda x: x.view((6, 4)), lambda x: x.reshape(6, 4)),
    "flatten": (lambda x: x.flatten(1), lambda x: x.reshape(2, 12)),
    "T": (lambda x: x.T, lambda x: x.T),
    "mT": (lambda x: x.mT, lambda x: x.swapaxes(-1, -2)),
    "permute": (lambda x: x.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "transpose": (lambda x: x.transpose(0, 2), lambda x: x.swapaxes(0, 2)),
    "moveaxis": (lambda x: rung.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1)),
    "squeeze": (lambda x: x[:1].squeeze(0), lambda x: x[0]),
    "unsqueeze": (lambda x: x.unsqueeze(-1), lambda x: x[..., None]),
    "expand": (lambda x: x[:, :1].expand(2, 5, -1), lambda x: np.repeat(x[:, :1], 5, 1)),
    "flip": (lambda x: x.flip((0, 2)), lambda x: np.flip(x, (0, 2))),
    "roll": (lambda x: x.roll(1, 2), lambda x: np.roll(x, 1, 2)),
    "roll_flat": (lambda x: rung.roll(x, -5), lambda x: np.roll(x, -5)),
    "tile": (lambda x: x.tile(2, 1, 3), lambda x: np.tile(x, (2, 1, 3))),
    "repeat": (lambda x: x.repeat(3, 1), lambda x: np.repeat(x, 3, 1)),
    "pad": (
        lambda x: x.pad([(1, 0), (0, 2), (0, 0)], 3),
        lambda x: np.pad(x, [(1, 0), (0, 2), (0, 0)], constant_values=3),
    ),
    "tril": (lambda x: x.tril(-1), lambda x: np.tril(x, -1)),
    "triu": (lambda x: x.triu(1), lambda x: np.triu(x, 1)),
    "diagonal": (lambda x: x.diagonal(), lambda x: np.diagonal(x)),
    "sort": (lambda x: x.sort(1), lambda x: np.sort(x, 1)),
    "argsort": (lambda x: x.argsort(descending=True), lambda x: np.argsort(-x, -1, kind="stable")),
    "clip": (lambda x: x.clip(-0.5, 0.5), lambda x: np.clip(x, -0.5, 0.5)),
    "clamp": (lambda x: x.clamp(min=0), lambda x: np.maximum(x, 0)),
    "round": (lambda x: x.round(), lambda x: np.round(x)),
    "norm": (lambda x: x.norm(1), lambda x: np.linalg.norm(x, axis=1)),
    "logsumexp": (
        lambda x: x.logsumexp((0, 2)), lambda x: np.log(np.exp(x).sum((0, 2))),
    ),
    "where": (lambda x: rung.where(x > 0, x, 0.0), lambda x: np.where(x > 0, x, 0)),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1), lambda x: np.where(x > 0, -1, x)),
    "stack": (lambda x: rung.stack([x, x], 1), lambda x: np.stack([x, x], 1)),
    "concat": (lambda x: rung.concat([x, x], axis=-1), lambda x: np.concatenate([x, x], -1)),
    "unstack": (lambda x: rung.stack(x.unstack(2)), lambda x: np.moveaxis(x, 2, 0)),
    "split": (lambda x: x.split([1, 2], 1)[1], lambda x: x[:, 1:]),
    "chunk": (lambda x: x.chunk(3, 2)[1], lambda x: x[:, :, 2:4]),
    "take": (lambda x: rung.take(x, [3, 0], 2), lambda x: x[:, :, [3, 0]]),
    "count_nonzero": (lambda x: rung.count_nonzero(x > 0), lambda x: np.count_nonzero(x > 0)),
    "exp": (lambda x: x.exp(), np.exp),
    "sigmoid": (lambda x: x.sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    "sqrt": (lambda x: x.abs().sqrt(), lambda x: np.sqrt(abs(x))),
    "erf_tanh": (lambda x: x.tanh() + x.sin(), lambda x: np.tanh(x) + np.sin(x)),
    "softmax": (
        lambda x: x.softmax(1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_methods(name: str) -> None:
    ours, theirs = UNARY[name]
    check(ours(rung.tensor(C)), theirs(C.astype(np.float64)), 2e-6)


def test_topk_take_along_searchsorted() -> None:
    x = rung.tensor(C)
    values, positions = x.topk(2, dim=1)
    order = np.argsort(-C, 1, kind="stable")[:, :2]
    check(positions, order)
    check(values, np.take_along_axis(C, order, 1))
    check(x.take_along(positions, 1), np.take_along_axis(C, order, 1))
    check(x.gather(1, positions), np.take_along_axis(C, order, 1))
    line = np.array([1.0, 2, 3], np.float32)
    check(rung.searchsorted(line, [0.5, 2, 9]), np.searchsorted(line, [0.5, 2, 9]))
    check(rung.bincount(rung.tensor([1, 1, 3]), length=5), [0, 2, 0, 1, 0])


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((4,), (4,)), ((2, 3, 4), (4, 5)), ((4,), (2, 4, 3)),
                 ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (4,))],
)  # fmt: skip
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = RNG.standard_normal(a), RNG.standard_normal(b)
    check(rung.tensor(x) @ rung.tensor(y), x @ y, 1e-12)


def test_products() -> None:
    check(rung.tensordot(C, A, ([1, 2], [0, 1])), np.tensordot(C, A, ([1, 2], [0, 1])), 1e-5)
    check(rung.outer(B, B), np.outer(B, B))
    check(rung.vecdot(A, A), (A * A).sum(-1))


def test_creation() -> None:
    check(rung.zeros((2, 3)), np.zeros((2, 3)))
    check(rung.full((2,), 7), [7, 7])
    assert rung.full((2,), 7).dtype is rung.int64
    check(rung.arange(2, 11, 3), np.arange(2, 11, 3))
    check(rung.arange(0, 1, 0.25), np.arange(0, 1, 0.25))
    check(rung.arange(5, 0, -2), np.arange(5, 0, -2))
    check(rung.linspace(0, 1, 7), np.linspace(0, 1, 7))
    check(rung.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False))
    check(rung.eye(3, 4, 1), np.eye(3, 4, 1))
    for ours, theirs in zip(
        rung.meshgrid([1, 2, 3], [4, 5]), np.meshgrid([1, 2, 3], [4, 5]), strict=True
    ):
        check(ours, theirs)
    check(rung.one_hot([2, 0], 3), np.eye(3)[[2, 0]])
    check(rung.tensor([[1, 2], [3, 4.5]]), [[1, 2], [3, 4.5]])
    assert rung.tensor([1, 2]).dtype is rung.int64
    assert rung.tensor(1.5).dtype is rung.float32
    assert rung.tensor([True]).dtype is rung.bool
    check(rung.tensor([rung.ones(2), rung.zeros(2)]), [[1, 1], [0, 0]])


@pytest.mark.parametrize("dtype", ALL)
def test_numpy_roundtrip_without_copies(dtype: rung.DType) -> None:
    array = np.arange(6).astype(dtype.numpy).reshape(2, 3)
    x = rung.from_numpy(array)
    assert x.dtype is dtype
    assert np.shares_memory(x.numpy(), array)
    assert x.numpy().dtype == dtype.numpy
    np.testing.assert_array_equal(x.numpy(), array)
    assert not np.shares_memory(rung.tensor(array).numpy(), array)


def test_numpy_array_outlives_the_tensor_and_is_a_snapshot() -> None:
    x = rung.ones((300, 300)) * 3
    seen = x.numpy()
    x += 1
    x.realize()
    assert seen.sum() == 3 * 90000
    del x
    gc.collect()
    assert seen.sum() == 3 * 90000
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0] = 1


def test_arrays_that_are_not_dense_are_copied() -> None:
    check(rung.asarray(C.T), C.T)
    check(rung.asarray(C[:, ::2]), C[:, ::2])
    big = np.arange(4, dtype=">i4")
    check(rung.asarray(big), big)


def test_dlpack() -> None:
    x = rung.tensor(A) * 2
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.numpy())
    y = rung.from_dlpack(array)
    assert np.shares_memory(y.numpy(), x.numpy())
    with pytest.raises(rung.InterchangeError, match="bf16"):
        rung.ones(2, rung.bfloat16).__dlpack__()


def test_python_protocols() -> None:
    x = rung.tensor(A)
    assert len(x) == 3
    assert [row.shape for row in x] == [(4,)] * 3
    assert float(x[0, 0]) == pytest.approx(float(A[0, 0]))
    assert int(rung.tensor(3.7)) == 3
    assert [10, 20, 30][rung.tensor(1)] == 20
    assert bool(rung.tensor([2.0]))
    assert 2 in rung.tensor([1, 2])
    assert 5 not in rung.tensor([1, 2])
    assert f"{rung.tensor(1.5):.2f}" == "1.50"
    assert rung.tensor([1, 2]).tolist() == [1, 2]
    assert np.asarray(x).dtype == np.float32
    assert np.asarray(x, np.float64).dtype == np.float64
    assert {x: 1}[x] == 1
    assert (x == None) is False  # noqa: E711
    with pytest.raises(TypeError, match="unsupported operand"):
        x + "a"


def test_repr() -> None:
    assert repr(rung.tensor([1.0, 2.5])) == "Tensor([1. , 2.5], f32[2])"
    assert repr(rung.tensor(3)) == "Tensor(3, i64[])"
    text = "Tensor([[0, 1],\n        [2, 3]],\n       i64[2,2])"
    assert repr(rung.arange(4).reshape(2, 2)) == text


def test_updates_in_place() -> None:
    x = rung.tensor(A)
    same, old = x, x * 1
    x += 1
    x *= 2
    x -= B
    x /= 2
    assert same is x
    check(x, ((A + 1) * 2 - B) / 2)
    check(old, A)
    x.zero_()
    check(x, np.zeros_like(A))
    x.fill_(2).add_(1).mul_(2)
    check(x, np.full_like(A, 6))
    x.copy_(B)
    check(x, np.broadcast_to(B, A.shape))
    with pytest.raises(ShapeError, match="in place"):
        x += rung.ones((2, 3, 4))
    with pytest.raises(DTypeError, match="in place"):
        i = rung.arange(3)
        i += 1.5


def test_copies_and_pickles() -> None:
    x = rung.tensor(A, requires_grad=True)
    x.label = "kept"
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert y.requires_grad
        assert y.is_leaf
        with rung.no_grad():
            y += 1
        check(y, A + 1)
        check(x, A)
    assert copy.deepcopy([x, x])[0].label == "kept"
    pending = copy.deepcopy(rung.tensor(A) * 2)
    check(pending, A * 2)
    check(pickle.loads(pickle.dumps(rung.ones(2, rung.bfloat16))), [1, 1])


def test_casts() -> None:
    x = rung.tensor([1.7, -2.2])
    assert x.long().tolist() == [1, -2]
    assert x.to(rung.int8).dtype is rung.int8
    assert x.to("cpu") is x
    assert x.to(rung.ones(1, rung.float64)).dtype is rung.float64
    assert x.half().float().dtype is rung.float32
    assert x.bool().tolist() == [True, True]
    assert x.astype("float64").dtype is rung.float64


def test_dtype_questions() -> None:
    assert rung.isdtype(rung.float32, "real floating")
    assert rung.isdtype(rung.uint8, ("signed integer", "unsigned integer"))
    assert not rung.isdtype(rung.bool, "integral")
    assert rung.finfo(rung.float32).eps == np.finfo(np.float32).eps
    assert rung.finfo(rung.bfloat16).bits == 16
    assert rung.iinfo(rung.int8).min == -128
    assert rung.can_cast(rung.int8, rung.int16)
    assert not rung.can_cast(rung.float32, rung.int64)


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: rung.ones((2, 3)) + rung.ones((4,)), ShapeError, "add: shapes do not broadcast: f32"),
    (lambda: rung.ones((2, 3)) @ rung.ones((2, 3)), ShapeError, "did you mean b.T"),
    (lambda: rung.ones((2, 3)).reshape(7), ShapeError, "6 elements"),
    (lambda: rung.ones((2, 3)).reshape(-1, -1), ShapeError, "at most one -1"),
    (lambda: rung.ones((2, 3)).sum(2), AxisError, "sum: axis 2 is out of range for 2 dims"),
    (lambda: rung.ones((2, 3)).sum((0, 0)), AxisError, "twice"),
    (lambda: rung.ones((2, 3)).permute(0, 0), AxisError, "permute_dims"),
    (lambda: rung.ones((2, 3))[2], IndexingError, "index 2 is out of range for dim 0 of f32"),
    (lambda: rung.ones((2, 3))[0, 0, 0], IndexingError, "3 indices"),
    (lambda: rung.ones((2, 3))[1.5], IndexingError, "float"),
    (lambda: rung.ones((2, 3))["a"], IndexingError, "str"),
    (lambda: rung.ones((2, 3))[[0, 5]], IndexingError, "index 5 is out of range"),
    (lambda: rung.ones((2, 3))[rung.tensor([True])], IndexingError, "mask bool"),
    (lambda: rung.ones((2, 3)).squeeze(0), ShapeError, "has length 2"),
    (lambda: rung.ones((2, 3)).item(), ShapeError, "6 elements"),
    (lambda: bool(rung.ones((2, 3))), ShapeError, "ambiguous"),
    (lambda: rung.ones(3, rung.uint8) + 300, DTypeError, "300 does not fit u8"),
    (lambda: rung.ones(3, rung.uint8) + -1, DTypeError, "does not fit"),
    (lambda: rung.zeros(3, "complex64"), DTypeError, "unknown dtype"),
    (lambda: rung.zeros(3, device="cuda"), DeviceError, 'the only device is "cpu"'),
    (lambda: rung.ones(3).to("cuda:0"), DeviceError, "cuda:0"),
    (lambda: rung.tensor([[1, 2], [3]]), ShapeError, "different lengths"),
    (lambda: rung.stack([rung.ones(2), rung.ones(3)]), ShapeError, "shapes differ"),
    (lambda: rung.concat([rung.ones((2, 2)), rung.ones((3, 3))]), ShapeError, "concat"),
    (lambda: rung.ones((0, 3)).max(0), ShapeError, "no elements"),
    (lambda: len(rung.tensor(1.0)), ShapeError, "scalar"),
    (lambda: iter(rung.tensor(1.0)), ShapeError, "iterated"),
    (lambda: rung.tensor([True]) + rung.tensor([True]), DTypeError, "add"),
    (lambda: rung.topk(rung.ones(3), 4), ShapeError, "k=4"),
    (lambda: rung.arange(1, 2, 0), ShapeError, "step is zero"),
    (lambda: rung.take(rung.ones(3), [0.5]), DTypeError, "not integers"),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_name_the_line_and_the_mistake(case: int) -> None:
    function, kind, text = ERRORS[case]
    with pytest.raises(kind, match=text) as caught:
        function()
    assert f"at test_tensor.py:{function.__code__.co_firstlineno}" in str(caught.value)


def test_setitem_errors() -> None:
    x = rung.ones((2, 3))
    with pytest.raises(ShapeError, match=r"setitem: f32\[4\] does not fit"):
        x[0] = rung.ones(4)
    with pytest.raises(IndexingError, match="mask"):
        x[rung.tensor([True, False, True])] = 0


def test_no_settings_leak() -> None:
    assert rung.settings().interpret


def test_integers_that_need_64_bits_beside_small_ones():
    large = 2**63 + 1
    assert rung.asarray([0, large], dtype=rung.uint64).tolist() == [0, large]
    assert rung.asarray([[2**64 - 1, 5]]).tolist() == [[2**64 - 1, 5]]
    assert rung.asarray([-1, large]).dtype is rung.float32
    assert rung.asarray([1e300, 1], dtype=rung.float64).tolist() == [1e300, 1]


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(3), np.bool_(True), np.float16(2)])
def test_full_of_a_number_of_numpy_has_its_dtype(number: np.generic) -> None:
    found = rung.full((2,), number)
    np.testing.assert_array_equal(np.asarray(found), np.full((2,), number), strict=True)
