"""Loops, vectors, masks, addresses and reductions: compiled kernels against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kernels import Compiled, call, kernel, loop, vector

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import LoweringError
from rung.ir.expr import (
    Expr,
    Var,
    both,
    compare,
    const,
    iadd,
    ifloordiv,
    imod,
    imul,
    isub,
    read,
    var,
)
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Opaque,
    Prefetch,
    Stmt,
    Store,
)

f32 = dt.float32
FLOAT_BUFFERS = (dt.float16, dt.bfloat16, dt.float32, dt.float64)


def given(shape: tuple[int, ...], dtype: DType = f32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.is_bool:
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(-50, 50, shape).astype(dtype.numpy)


def buffers(*shapes: tuple[str, tuple[int, ...]], dtype: DType = f32) -> list[Buffer]:
    """Input buffers, the last one an output."""
    roles = ["input"] * (len(shapes) - 1) + ["output"]
    return [Buffer(n, dtype, s, r) for (n, s), r in zip(shapes, roles, strict=True)]


def tail(axis: Var, count: int, lanes: int, *body: Stmt) -> For:
    """A vector loop of `lanes` of which the first `count` are on."""
    return For(axis, const(count), Block(body), "vector", lanes)


def number(value: float, dtype: DType = f32) -> Expr:
    return const(value, dtype)


def map_kernel(
    n: int, index: Callable[[Expr], Expr], size: int, lanes: int, dtype: DType
) -> Compiled:
    """y[i] = x[index(i)] for n elements, x of `size`, in vectors with a masked end."""
    x, y = buffers(("x", (size,)), ("y", (n,)), dtype=dtype)
    o, v = var("o", n // lanes), var("v", lanes)
    whole = iadd(imul(o, lanes), v)
    stmts: list[Stmt] = [loop(o, vector(v, Store(y, (whole,), read(x, (index(whole),)))))]
    if n % lanes:
        t = var("t", n % lanes)
        last = iadd(t, n - n % lanes)
        stmts.append(tail(t, n % lanes, lanes, Store(y, (last,), read(x, (index(last),)))))
    return Compiled(kernel([x, y], *stmts))


INDEX_MAPS: dict[str, tuple[Callable[[Expr], Expr], Callable[[np.ndarray], np.ndarray]]] = {
    "unit": (lambda i: i, lambda i: i),
    "shifted": (lambda i: iadd(i, 3), lambda i: i + 3),
    "reversed": (lambda i: isub(const(99), i), lambda i: 99 - i),
    "step2": (lambda i: iadd(imul(i, 2), 1), lambda i: 2 * i + 1),
    "step_minus3": (lambda i: isub(const(330), imul(i, 3)), lambda i: 330 - 3 * i),
    "step40": (lambda i: imul(i, 40), lambda i: 40 * i),
    "repeated": (lambda i: ifloordiv(i, 4), lambda i: i // 4),
    "repeated3": (lambda i: ifloordiv(i, 3), lambda i: i // 3),
    "cyclic": (lambda i: imod(i, 5), lambda i: i % 5),
    "cyclic_aligned": (lambda i: imod(i, 16), lambda i: i % 16),
    "transposed": (
        lambda i: iadd(imul(imod(i, 10), 10), ifloordiv(i, 10)),
        lambda i: i % 10 * 10 + i // 10,
    ),
}


@pytest.mark.parametrize("name", INDEX_MAPS)
@pytest.mark.parametrize("lanes", [2, 8, 16])
def test_index_maps(name: str, lanes: int) -> None:
    index, expected = INDEX_MAPS[name]
    for dtype in (dt.float32, dt.int8, dt.bool_, dt.float64):
        n = 100 - 3
        places = expected(np.arange(n))
        x = given((int(places.max()) + 1,), dtype)
        y = np.zeros(n, dtype.numpy)
        map_kernel(n, index, len(x), lanes, dtype)(x, y)
        np.testing.assert_array_equal(y, x[places])


@pytest.mark.parametrize("name", ["reversed", "step2", "step40", "transposed"])
def test_index_maps_of_stores(name: str) -> None:
    index, expected = INDEX_MAPS[name]
    n, lanes = 97, 16
    places = expected(np.arange(n))
    size = int(places.max()) + 1
    x, y = buffers(("x", (n,)), ("y", (size,)))
    o, v, t = var("o", n // lanes), var("v", lanes), var("t", n % lanes)
    i, last = iadd(imul(o, lanes), v), iadd(t, n - n % lanes)
    code = Compiled(
        kernel(
            [x, y],
            loop(o, vector(v, Store(y, (index(i),), read(x, (i,))))),
            tail(t, n % lanes, lanes, Store(y, (index(last),), read(x, (last,)))),
        )
    )
    a, b = given((n,)), np.full(size, 7, np.float32)
    code(a, b)
    want = np.full(size, 7, np.float32)
    want[places] = a
    np.testing.assert_array_equal(b, want)


@pytest.mark.parametrize("dtype", [dt.float32, dt.int16], ids=str)
def test_gather_by_data_with_guard(dtype: DType) -> None:
    """Indices outside are never dereferenced and give zero."""
    n, size = 45, 20
    x, y = Buffer("x", dtype, (size, 3), "input"), Buffer("y", dtype, (n, 3), "output")
    at = Buffer("at", dt.int32, (n,), "input")
    i, v, c = var("i", n), var("v", n), var("c", 3)

    def element(row: Expr, column: Expr) -> Expr:
        found = call("cast", read(at, (row,)), dtype=dt.int64)
        guard = both(compare("less", found, const(size)), compare("greater_equal", found, const(0)))
        return read(x, (found, column), guard=guard)

    by_rows = loop(i, loop(c, Store(y, (i, c), element(i, c))))
    by_lanes = loop(c, For(v, const(n), Block((Store(y, (v, c), element(v, c)),)), "vector", 48))
    values = given((size, 3), dtype)
    rows = np.random.default_rng(1).integers(-5, size + 5, n).astype(np.int32)
    rows[:3] = (2**31 - 1, -(2**31), 10**6)
    inside = (rows >= 0) & (rows < size)
    want = np.where(inside[:, None], values[np.where(inside, rows, 0)], 0).astype(dtype.numpy)
    for phase in (by_rows, by_lanes):
        out = np.full((n, 3), 9, dtype.numpy)
        Compiled(kernel([x, at, y], phase))(values, rows, out)
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("lanes", [1, 8])
def test_padding_guards(lanes: int) -> None:
    """out[i, j] = x[i - 2, j - 3] padded with zeros; the array sits at the edge of its page."""
    h, w = 6, 16
    x, y = buffers(("x", (h, w)), ("y", (h + 4, w + 8)))
    i, o, v = var("i", h + 4), var("o", (w + 8) // 8), var("v", 8)
    j = iadd(imul(o, 8), v)
    row, column = iadd(i, -2), iadd(j, -3)
    inside = None
    for e, n in ((row, h), (column, w)):
        inside = both(inside, compare("greater_equal", e, 0))
        inside = both(inside, compare("less", e, n))
    body = Store(y, (i, j), read(x, (row, column), guard=inside))
    inner = loop(v, body) if lanes == 1 else vector(v, body)
    a, b = given((h, w)), np.full((h + 4, w + 8), 5, np.float32)
    Compiled(kernel([x, y], loop(i, loop(o, inner), kind="parallel")))(a, b, parts=3)
    np.testing.assert_array_equal(b, np.pad(a, ((2, 2), (3, 5))))


def test_guarded_store_and_if() -> None:
    """Guards with a part for the row and a part for the lane, as store guard and as If."""
    n, lanes = 9, 16
    x, y = buffers(("x", (n, lanes)), ("y", (n, lanes)))
    i, v = var("i", n), var("v", lanes)
    guard = both(compare("less", v, i), compare("less", i, 7))
    assert guard is not None
    store = Store(y, (i, v), call("add", read(x, (i, v)), number(1)), guard)
    plain = Store(y, (i, v), call("add", read(x, (i, v)), number(1)))
    a = given((n, lanes))
    rows, columns = np.indices((n, lanes))
    want = np.where((columns < rows) & (rows < 7), a + 1, 3)
    for body in (store, If(guard, Block((plain,)))):
        for inner in (vector(v, body), loop(v, body), loop(v, body, kind="unroll")):
            b = np.full((n, lanes), 3, np.float32)
            Compiled(kernel([x, y], loop(i, inner)))(a, b)
            np.testing.assert_array_equal(b, want)


def test_lanes_with_data_dependent_mask() -> None:
    """Values loaded under one mask are not used under another."""
    n = 32
    x, y = buffers(("x", (n,)), ("y", (2, n)))
    v = var("v", n)
    value = read(x, (v,))
    positive = call("greater", value, number(0), dtype=dt.bool_)
    zero, one = const(0), const(1)
    body = (
        Store(y, (zero, v), call("multiply", value, number(2)), positive),
        Store(y, (one, v), call("multiply", value, number(3))),
    )
    a, b = given((n,)), np.zeros((2, n), np.float32)
    Compiled(kernel([x, y], vector(v, *body)))(a, b)
    np.testing.assert_array_equal(b, [np.where(a > 0, 2 * a, 0), 3 * a])


@pytest.mark.parametrize("dtype", [d for d in dt.ALL if not d.is_bool], ids=str)
@pytest.mark.parametrize("combine", ["add", "maximum", "minimum", "multiply"])
def test_reductions_over_lanes(dtype: DType, combine: str) -> None:
    """Row reductions with vectors in a loop, and with a masked end."""
    n, columns, lanes = 3, 21, 8
    x = Buffer("x", dtype, (n, columns), "input")
    y = Buffer("y", dtype, (n,), "output")
    i, o, v, t = var("i", n), var("o", 2), var("v", lanes), var("t", 5)
    numpy_op = getattr(np, combine)
    rng = np.random.default_rng(2)
    a = rng.integers(-2 if dtype.kind != "u" else 0, 3, (n, columns)).astype(dtype.numpy)
    start = read(x, (i, const(0)))
    rest = iadd(iadd(imul(o, lanes), v), 0)
    body = (
        Store(y, (i,), start),
        loop(o, vector(v, Accumulate(y, (i,), combine, read(x, (i, rest))))),
        tail(t, 5, lanes, Accumulate(y, (i,), combine, read(x, (i, iadd(t, 16))))),
    )
    b = np.zeros(n, dtype.numpy)
    Compiled(kernel([x, y], loop(i, *body)))(a, b)
    wide = a if dtype.is_integer else a.astype(np.float64)
    want = [numpy_op(numpy_op.reduce(row), row[0]) for row in wide]
    np.testing.assert_array_equal(b.astype(wide.dtype), np.array(want, wide.dtype))


def test_logical_reductions() -> None:
    x = Buffer("x", dt.bool_, (4, 13), "input")
    y = Buffer("y", dt.bool_, (2, 4), "output")
    i, v = var("i", 4), var("v", 13)
    value = read(x, (i, v))
    body = (
        Store(y, (const(0), i), const(True, dt.bool_)),
        Store(y, (const(1), i), const(False, dt.bool_)),
        For(v, const(13), Block((
            Accumulate(y, (const(0), i), "logical_and", value),
            Accumulate(y, (const(1), i), "logical_or", value),
        )), "vector", 16),
    )  # fmt: skip
    a = given((4, 13), dt.bool_)
    a[1], a[2] = True, False
    b = np.zeros((2, 4), bool)
    Compiled(kernel([x, y], loop(i, *body)))(a, b)
    np.testing.assert_array_equal(b, [a.all(1), a.any(1)])


@pytest.mark.parametrize("combine", ["maximum", "minimum"])
def test_extremes_keep_nan(combine: str) -> None:
    x, y = buffers(("x", (3, 16)), ("y", (3,)))
    i, v = var("i", 3), var("v", 16)
    a, b = given((3, 16)), np.zeros(3, np.float32)
    a[0, 5] = a[1, 0] = np.nan
    body = (
        Store(y, (i,), read(x, (i, const(0)))),
        vector(v, Accumulate(y, (i,), combine, read(x, (i, v)))),
    )
    Compiled(kernel([x, y], loop(i, *body)))(a, b)
    np.testing.assert_array_equal(b, getattr(np, combine).reduce(a, axis=1))


def softmax_kernel(rows: int, n: int, lanes: int) -> Compiled:
    """Three passes over a row, partial results in vector registers."""
    x, y = buffers(("x", (rows, n)), ("y", (rows, n)))
    i, j, v = var("i", rows), var("j", n // lanes), var("v", lanes)
    m, s = Buffer("m", f32, (lanes,), "register"), Buffer("s", f32, (lanes,), "register")
    top, total = Buffer("top", f32, (), "register"), Buffer("total", f32, (), "register")
    column = iadd(imul(j, lanes), v)
    e = call("exp", call("subtract", read(x, (i, column)), read(top, ())))
    body = (
        Alloc(m), Alloc(s), Alloc(top), Alloc(total),
        vector(v, Store(m, (v,), number(-np.inf)), Store(s, (v,), number(0))),
        loop(j, vector(v, Accumulate(m, (v,), "maximum", read(x, (i, column))))),
        Store(top, (), number(-np.inf)),
        vector(v, Accumulate(top, (), "maximum", read(m, (v,)))),
        loop(j, vector(v,
            Store(y, (i, column), e),
            Accumulate(s, (v,), "add", read(y, (i, column))))),
        Store(total, (), number(0)),
        vector(v, Accumulate(total, (), "add", read(s, (v,)))),
        Store(total, (), call("divide", number(1), read(total, ()))),
        loop(j, vector(v, Accumulate(y, (i, column), "multiply", read(total, ())))),
    )  # fmt: skip
    return Compiled(kernel([x, y], loop(i, *body, kind="parallel"), name="softmax"))


def test_softmax_rows() -> None:
    a = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32) * 5
    b = np.zeros_like(a)
    softmax_kernel(5, 96, 16)(a, b, parts=2)
    e = np.exp(a.astype(np.float64) - a.max(1, keepdims=True))
    np.testing.assert_allclose(b, e / e.sum(1, keepdims=True), rtol=2e-6)


def test_private_registers_of_lanes() -> None:
    """A register allocated inside a vector loop is each lane's own: column sums."""
    x, y = buffers(("x", (7, 16)), ("y", (16,)))
    v, k = var("v", 16), var("k", 7)
    acc = Buffer("acc", f32, (2,), "register")
    body = (
        Alloc(acc),
        Store(acc, (const(1),), number(0)),
        loop(k, Accumulate(acc, (const(1),), "add", read(x, (k, v)))),
        Store(y, (v,), read(acc, (const(1),))),
    )
    a, b = given((7, 16)), np.zeros(16, np.float32)
    Compiled(kernel([x, y], vector(v, *body)))(a, b)
    np.testing.assert_array_equal(b, a.sum(0))


def test_scratch_between_loops() -> None:
    """Two scratch buffers, one read transposed, one per lane."""
    x, y = buffers(("x", (4, 24, 8)), ("y", (4, 8, 24)))
    i, j, k, v, w = var("i", 4), var("j", 24), var("k", 8), var("v", 8), var("w", 24)
    one = Buffer("one", f32, (24, 8), "scratch")
    two = Buffer("two", f32, (3,), "scratch")
    body = (
        Alloc(one),
        loop(j, vector(v, Store(one, (j, v), call("multiply", read(x, (i, j, v)), number(2))))),
        loop(k, vector(w, Alloc(two), Store(two, (const(2),), read(one, (w, k))),
             Store(y, (i, k, w), read(two, (const(2),))))),
    )  # fmt: skip
    a, b = given((4, 24, 8)), np.zeros((4, 8, 24), np.float32)
    Compiled(kernel([x, y], loop(i, *body, kind="parallel")))(a, b, parts=3)
    np.testing.assert_array_equal(b, 2 * a.transpose(0, 2, 1))


def test_values_are_read_again_after_a_store() -> None:
    """x = x + 1 twice, in place, then a loop that changes what was read before it."""
    x = Buffer("x", f32, (20,), "inout")
    y = Buffer("y", f32, (1,), "inout")
    v, k = var("v", 20), var("k", 5)
    plus_one = Store(x, (v,), call("add", read(x, (v,)), number(1)))
    zero = (const(0),)
    body = (
        tail(v, 20, 32, plus_one, plus_one),
        Store(y, zero, call("add", read(y, zero), number(1))),
        loop(k, Store(y, zero, call("add", read(y, zero), read(y, zero)))),
        Store(y, zero, call("add", read(y, zero), number(1))),
    )
    one = var("one", 1)
    a, b = given((20,)), np.array([2], np.float32)
    want = a + 2
    Compiled(kernel([x, y], loop(one, *body)))(a, b)
    np.testing.assert_array_equal(a, want)
    assert b[0] == 3 * 32 + 1


@pytest.mark.parametrize("dtype", FLOAT_BUFFERS, ids=str)
def test_matmul_accumulates_wide(dtype: DType) -> None:
    """c = a @ b with f32 (f64) accumulators in registers and narrow operands."""
    m, n, k = 6, 32, 40
    wide = dt.accumulator(dtype)
    a, b = Buffer("a", dtype, (m, k), "input"), Buffer("b", dtype, (k, n), "input")
    c = Buffer("c", dtype, (m, n), "output")
    acc = Buffer("acc", wide, (m, n), "register")
    i, j, v, kk = var("i", m), var("j", n // 16), var("v", 16), var("kk", k)
    column = iadd(imul(j, 16), v)

    def widen(e: Expr) -> Expr:
        return e if dtype is wide else call("cast", e, dtype=wide)

    product = call("multiply", widen(read(a, (i, kk))), widen(read(b, (kk, column))))
    result = read(acc, (i, column))
    result = result if dtype is wide else call("cast", result, dtype=dtype)

    def tile(stmt: Stmt) -> Stmt:
        return loop(i, loop(j, vector(v, stmt), kind="unroll"), kind="unroll")

    stmts = (
        Alloc(acc),
        tile(Store(acc, (i, column), const(0, wide))),
        loop(kk, tile(Accumulate(acc, (i, column), "add", product))),
        tile(Store(c, (i, column), result)),
    )
    one = var("one", 1)
    x, y, z = given((m, k), dtype), given((k, n), dtype, 1), np.zeros((m, n), dtype.numpy)
    Compiled(kernel([a, b, c], loop(one, *stmts)))(x, y, z)
    want = (x.astype(np.float64) @ y.astype(np.float64)).astype(wide.numpy).astype(dtype.numpy)
    np.testing.assert_array_equal(z, want)


def test_ragged_extent_prefetch_and_iota() -> None:
    """A triangular loop, a prefetch, and the lane number as a value."""
    n = 12
    x, y = buffers(("x", (n, n)), ("y", (n, 16)))
    i, j, v = var("i", n), var("j", n), var("v", 16)
    body = (
        Prefetch(x, (i, const(0))),
        vector(v, Store(y, (i, v), call("cast", iadd(v, i), dtype=f32))),
        For(j, iadd(i, 1), Block((Accumulate(y, (i, const(0)), "add", read(x, (i, j))),))),
    )
    a, b = given((n, n)), np.zeros((n, 16), np.float32)
    Compiled(kernel([x, y], loop(i, *body)))(a, b)
    want = np.add.outer(np.arange(n), np.arange(16)).astype(np.float32)
    want[:, 0] += np.tril(a).sum(1)
    np.testing.assert_array_equal(b, want)


@pytest.mark.parametrize("extent", [0, 1, 2, 33, 200])
@pytest.mark.parametrize("dtype", [dt.float32, dt.float16, dt.int8, dt.uint64, dt.bool_], ids=str)
def test_sorts(extent: int, dtype: DType) -> None:
    """Stable, NaN last (first when falling), along a strided dim."""
    stride, outer = 3, 2
    shape = (outer, extent, stride)
    k = min(extent, 5)
    a = given(shape, dtype) // 8 if not dtype.is_bool else given(shape, dtype)
    a = a.astype(dtype.numpy)
    if dtype.is_float and extent > 5:
        a[0, 3:5] = np.nan
        a[1, 2], a[1, 4], a[1, 5] = -np.inf, 0.0, -0.0
    x = Buffer("x", dtype, shape, "input")
    r = var("r", outer * stride)
    for falling in (0, 1):
        outs = [
            Buffer("s", dtype, shape, "output"),
            Buffer("p", dt.int64, shape, "output"),
            Buffer("t", dtype, (outer, k, stride), "output"),
            Buffer("q", dt.int64, (outer, k, stride), "output"),
        ]
        base = (("extent", extent), ("stride", stride))
        direction = (("descending", falling),)
        code = Compiled(kernel([x, *outs], loop(r,
            Opaque("sort", (outs[0],), (x,), r, base + direction),
            Opaque("argsort", (outs[1],), (x,), r, base + direction),
            Opaque("top_k", (outs[2], outs[3]), (x,), r, (*base, ("k", k), ("largest", falling))),
            kind="parallel")))  # fmt: skip
        made = [np.zeros(b.shape, b.dtype.numpy) for b in outs]
        code(a, *made, parts=4)
        wide = a.astype(np.float64) if dtype.is_float else a
        order = np.argsort(wide, axis=1, kind="stable")
        if falling:
            back = np.argsort(np.flip(wide, 1), axis=1, kind="stable")
            order = extent - 1 - np.flip(back, 1)
        values = np.take_along_axis(a, order, 1)
        np.testing.assert_array_equal(made[1], order)
        assert made[0].tobytes() == values.tobytes()
        np.testing.assert_array_equal(made[3], order[:, :k])
        assert made[2].tobytes() == values[:, :k].tobytes()


def test_long_chains() -> None:
    """Two thousand ops one after the other, each value used twice."""
    x = Buffer("x", dt.int64, (16,), "input")
    y = Buffer("y", dt.int64, (16,), "output")
    v = var("v", 16)
    value = read(x, (v,))
    a = given((16,), dt.int64)
    want = a.copy()
    for _ in range(1000):
        value = call("bitwise_xor", call("add", value, value), const(5))
        want = (want + want) ^ 5
    b = np.zeros(16, np.int64)
    Compiled(kernel([x, y], vector(v, Store(y, (v,), value))))(a, b)
    np.testing.assert_array_equal(b, want)


def test_errors() -> None:
    x, y = buffers(("x", (16,)), ("y", (16,)))
    v, w = var("v", 16), var("w", 16)
    store = Store(y, (v,), read(x, (v,)))
    with pytest.raises(LoweringError, match="vector loop v inside vector loop w"):
        Compiled(kernel([x, y], vector(w, vector(v, store))))
    with pytest.raises(LoweringError, match="v is used outside its loop"):
        Compiled(kernel([x, y], loop(w, store)))
    with pytest.raises(LoweringError, match="neither parameter nor allocated"):
        Compiled(kernel([y], vector(v, store)))
    with pytest.raises(LoweringError, match="f64 value stored into y: output f32"):
        Compiled(kernel([x, y], vector(v, Store(y, (v,), const(1.0, dt.float64)))))
    with pytest.raises(LoweringError, match="no code for the algorithm shuffle"):
        Compiled(kernel([x, y], loop(w, Opaque("shuffle", (y,), (x,), w, ()))))


@pytest.mark.parametrize(("width", "dtype"), [(16, dt.float32), (4, dt.bool_), (8, dt.float64)])
def test_transpose_in_registers(width: int, dtype: DType) -> None:
    """Rows are stored into registers, columns are read; a changed row changes the columns."""
    n = 2 * width
    x = Buffer("x", dtype, (width, n), "input")
    y = Buffer("y", dtype, (n, width), "output")
    z = Buffer("z", dtype, (n, width), "output")
    tile = Buffer("tile", dtype, (width, n), "register")
    r, c, h, v = var("r", width), var("c", n), var("h", 2), var("v", width)
    column = iadd(imul(h, width), v)
    fill = Store(tile, (r, column), read(x, (r, column)))
    body = (
        Alloc(tile),
        loop(r, loop(h, vector(v, fill), kind="unroll"), kind="unroll"),
        loop(c, vector(v, Store(y, (c, v), read(tile, (v, c)))), kind="unroll"),
        vector(v, Store(tile, (const(1), v), read(tile, (const(0), v)))),
        loop(c, vector(v, Store(z, (c, v), read(tile, (v, c)))), kind="unroll"),
    )
    a, b, changed = given((width, n), dtype), np.zeros((n, width), dtype.numpy), None
    changed = np.zeros_like(b)
    Compiled(kernel([x, y, z], *[loop(var("one", 1), *body)]))(a, b, changed)
    np.testing.assert_array_equal(b, a.T)
    want = a.T.copy()
    want[:width, 1] = want[:width, 0]
    np.testing.assert_array_equal(changed, want)


def turned_kernel(rows: int, columns: int, step: int, dtype: DType) -> Compiled:
    """y[step*j + i] = x[columns*i + j] for a tile of rows i and columns j, in registers."""
    x, y = buffers(("x", (rows * columns,)), ("y", (step * columns,)), dtype=dtype)
    i, j = var("i", rows), var("j", columns)
    value = read(x, (iadd(imul(i, columns), j),))
    store = Store(y, (iadd(imul(j, step), i),), value)
    return Compiled(kernel([x, y], For(j, const(columns), Block((vector(i, store),)), "unroll")))


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.int16, dt.bool_, dt.bfloat16])
@pytest.mark.parametrize("size", [(8, 16, 8), (16, 16, 48), (4, 16, 9), (2, 2, 2), (16, 8, 16)])
def test_rows_become_columns(size: tuple[int, int, int], dtype: DType) -> None:
    rows, columns, step = size
    x = given((rows * columns,), dtype)
    y = np.zeros(step * columns, dtype.numpy)
    turned = turned_kernel(rows, columns, step, dtype)
    turned(x, y)
    expected = np.zeros((columns, step), dtype.numpy)
    expected[:, :rows] = x.reshape(rows, columns).T
    np.testing.assert_array_equal(y.reshape(columns, step), expected)


def test_a_square_is_turned_without_gathers() -> None:
    text = turned_kernel(16, 16, 16, f32).lowered.ir_text
    assert text.count("shufflevector") == 16 * 4
    assert text.count("load <16 x float>") == 16
    assert "gather" not in text
