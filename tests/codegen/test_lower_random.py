"""Random loop nests: machine code equals the kernel interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import Compiled, call, kernel

from rung.core import dtype as dt
from rung.core.dtype import DType
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
    read,
    var,
)
from rung.kernel.interpret import interpret
from rung.kernel.loop import Accumulate, Block, Buffer, For, If, Kernel, Stmt, Store

DTYPES = (dt.float32, dt.int32, dt.int8, dt.float64, dt.uint16)
OPS = ("add", "subtract", "multiply", "maximum", "minimum")


@dataclass(frozen=True)
class Nest:
    """A kernel and its arrays."""

    kernel: Kernel
    arrays: tuple[np.ndarray, ...]


@st.composite
def index_exprs(draw: st.DrawFn, axes: tuple[Var, ...]) -> Expr:
    """A sum of loop variables times small factors, sometimes divided or wrapped."""
    total: Expr = const(draw(st.integers(-3, 3)))
    for axis in axes:
        total = iadd(total, imul(axis, draw(st.sampled_from((0, 1, 1, 1, 2, -1, 3, 5)))))
    kind = draw(st.sampled_from(("plain", "plain", "plain", "quotient", "rest")))
    if kind == "quotient":
        return ifloordiv(total, draw(st.sampled_from((2, 3, 4, 8))))
    return imod(total, draw(st.sampled_from((3, 4, 7, 16)))) if kind == "rest" else total


@st.composite
def values(draw: st.DrawFn, axes: tuple[Var, ...], inputs: tuple[Buffer, ...], depth: int) -> Expr:
    """An expression over guarded reads of the inputs, axes and constants."""
    dtype = inputs[0].dtype
    kind = draw(st.sampled_from(("read", "read", "op", "op", "where", "axis", "const")))
    if depth == 0 or kind == "read":
        buffer = draw(st.sampled_from(inputs))
        guard: Expr | None = None
        index = []
        for n in buffer.shape:
            e = draw(index_exprs(axes))
            guard = both(guard, compare("greater_equal", e, 0))
            guard = both(guard, compare("less", e, n))
            index.append(e)
        return read(buffer, tuple(index), guard=guard)
    if kind == "axis":
        return call("cast", draw(st.sampled_from(axes)), dtype=dtype)
    if kind == "const":
        return const(draw(st.integers(0, 5)), dtype)
    a, b = draw(values(axes, inputs, depth - 1)), draw(values(axes, inputs, depth - 1))
    if kind == "op":
        return call(draw(st.sampled_from(OPS)), a, b)
    return call("where", call("less", a, b, dtype=dt.bool_), a, b, dtype=a.dtype)


@st.composite
def guards(draw: st.DrawFn, axes: tuple[Var, ...], inputs: tuple[Buffer, ...]) -> Expr | None:
    kind = draw(st.sampled_from(("none", "none", "index", "data", "both")))
    guard: Expr | None = None
    if kind in ("index", "both"):
        guard = compare("less", draw(index_exprs(axes)), draw(st.integers(-1, 12)))
    if kind in ("data", "both"):
        a, b = draw(values(axes, inputs, 0)), const(draw(st.integers(0, 4)), inputs[0].dtype)
        guard = both(guard, call("greater", a, b, dtype=dt.bool_))
    return guard


@st.composite
def nests(draw: st.DrawFn) -> Nest:
    dtype: DType = draw(st.sampled_from(DTYPES))
    rank = draw(st.integers(1, 3))
    axes = tuple(var(f"i{d}", draw(st.integers(1, 19))) for d in range(rank))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = [(draw(st.integers(1, 40)),), (draw(st.integers(1, 9)), draw(st.integers(1, 24)))]
    inputs = tuple(Buffer(f"x{k}", dtype, s, "input") for k, s in enumerate(shapes))
    kept = tuple(a for a in axes if draw(st.booleans()))
    total = Buffer("total", dtype, tuple(a.extent for a in kept), "inout")
    out = Buffer("out", dtype, tuple(a.extent for a in axes), "inout")
    combine = draw(st.sampled_from(("add", "maximum", "minimum")))
    part = draw(values(axes, inputs, 1))
    part = call("add", part, read(out, axes)) if draw(st.booleans()) else part
    stmts: list[Stmt] = [
        Store(out, axes, draw(values(axes, inputs, 3)), draw(guards(axes, inputs))),
        Accumulate(total, kept, combine, part, draw(guards(axes, inputs))),
    ]
    if draw(st.booleans()):
        condition = draw(guards(axes, inputs))
        if condition is not None and not isinstance(condition, type(const(0))):
            stmts = [If(condition, Block(tuple(stmts)))]
    body: Stmt = Block(tuple(stmts))
    vectors = draw(st.integers(0, rank))
    for depth, axis in reversed(list(enumerate(axes))):
        kinds = ["serial", "serial", "unroll"]
        if depth == 0 and axis in kept:
            kinds.append("parallel")
        kind = "vector" if depth == vectors else draw(st.sampled_from(kinds))
        lanes = 0
        if kind == "vector":
            lanes = draw(st.sampled_from((0, 16, 32)))
            lanes = 0 if lanes < axis.extent else lanes
        inner = body if isinstance(body, Block) else Block((body,))
        body = For(axis, const(axis.extent), inner, kind, lanes)
    params = (*inputs, total, out)
    arrays = tuple(rng.integers(0, 5, b.shape).astype(dtype.numpy) for b in params)
    return Nest(kernel(params, body), arrays)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(nests(), st.integers(1, 3))
def test_random_nests(nest: Nest, parts: int) -> None:
    wanted = [a.copy() for a in nest.arrays]
    made = [a.copy() for a in nest.arrays]
    interpret(nest.kernel, wanted, batch=False)
    Compiled(nest.kernel)(*made, parts=parts)
    for buffer, a, b in zip(nest.kernel.params, made, wanted, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"{buffer!r}")
