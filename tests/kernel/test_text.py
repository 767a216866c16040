"""Kernels print and parse back to the identical object; bad text is a ParseError."""

from __future__ import annotations

from math import inf, nan
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nests import Nests

from rung.core import dtype as dt
from rung.core.errors import ParseError
from rung.core.source import Source
from rung.ir.expr import Expr, const, iadd, imul, isub, raw_call, read, var
from rung.kernel.loop import (
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Prefetch,
    Store,
    loop,
    scratch_offsets,
)
from rung.kernel.parse import parse_kernel, parse_stmt
from rung.kernel.text import expr_text, kernel_text, stmt_text

X = Buffer("x", dt.float32, (8, 9), "input", (16, 1))
N = Buffer("n", dt.int64, (8,), "input")
Y = Buffer("y", dt.float32, (8,), "output")
ROW, COL = var("i", 8), var("j", 9)


def back(e: Expr) -> Expr:
    """An f32 or other expression through its text."""
    target = Buffer("t", e.dtype, (), "output")
    s = parse_stmt(f"t[()] = {expr_text(e)}", {"x": X, "n": N, "t": target}, {"i": ROW, "j": COL})
    assert isinstance(s, Store)
    return s.value


def f32(op: str, *args: Expr) -> Expr:
    return raw_call(op, args, dt.float32)


x = read(X, (ROW, COL))
n = read(N, (ROW,))
EXPRESSIONS = {
    "x[i, j]*(x[i, j] + 2.0)": f32("multiply", x, f32("add", x, const(2.0, dt.float32))),
    "x[i, j]*x[i, j] + 2.0": f32("add", f32("multiply", x, x), const(2.0, dt.float32)),
    "x[i, j] - (x[i, j] - -0.5)": f32("subtract", x, f32("subtract", x, const(-0.5, dt.float32))),
    "exp(-inf)": f32("exp", const(-inf, dt.float32)),
    "nan": const(nan, dt.float32),
    "f64(-0.0)": const(-0.0, dt.float64),
    "u8(255)": const(255, dt.uint8),
    "bf16(1e-05)": const(1e-5, dt.bfloat16),
    "True": const(True, dt.bool_),
    "9*i + j": iadd(imul(ROW, 9), COL),
    "7 - i": isub(const(7), ROW),
    "-2*i": imul(ROW, -2),
    "(i + j)//4": raw_call("floor_divide", (iadd(ROW, COL), const(4)), dt.int64),
    "floor_divide(3*i + 5, 3)": raw_call(
        "floor_divide", (iadd(imul(ROW, 3), 5), const(3)), dt.int64
    ),
    "add(i, i)": raw_call("add", (ROW, ROW), dt.int64),
    "multiply(n[i], i)": raw_call("multiply", (n, ROW), dt.int64),
    "cast[f32](i)": f32("cast", ROW),
    "not (i < 3 and (j == 2 or True))": raw_call(
        "logical_not",
        (
            raw_call(
                "logical_and",
                (
                    raw_call("less", (ROW, const(3)), dt.bool_),
                    raw_call(
                        "logical_or",
                        (raw_call("equal", (COL, const(2)), dt.bool_), const(True, dt.bool_)),
                        dt.bool_,
                    ),
                ),
                dt.bool_,
            ),
        ),
        dt.bool_,
    ),
    "isnan(x[i, j])": raw_call("isnan", (x,), dt.bool_),
    "load(x[i - 1, j], guard=i >= 1)": read(
        X, (isub(ROW, 1), COL), guard=raw_call("greater_equal", (ROW, const(1)), dt.bool_)
    ),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions(text: str) -> None:
    e = EXPRESSIONS[text]
    assert expr_text(e) == text
    assert back(e) is e


def full_kernel() -> Kernel:
    m = Buffer("m", dt.float32, (), "register")
    s = Buffer("s", dt.uint8, (100,), "scratch")
    low = raw_call("less", (COL, const(4)), dt.bool_)
    v = var("v", 5)
    rest = raw_call("minimum", (const(5), isub(const(7), ROW)), dt.int64)
    return Kernel(
        "full",
        (X, N, Y),
        Block(
            (
                loop(
                    ROW,
                    Alloc(m),
                    Alloc(s),
                    loop(COL, If(low, Block((Store(m, (), x, low),))), Prefetch(X, (ROW, COL))),
                    For(v, rest, Block(()), "serial"),
                    For(v, const(5), Block((Block((Store(Y, (v,), read(m, ())),)),)), "vector", 8),
                    kind="parallel",
                ),
                loop(ROW, Opaque("sort", (Y,), (Y,), ROW, (("extent", 8), ("stride", -1)))),
            )
        ),
        (Source("train.py", 41, "h.3", "softmax/jvp"),),
        ("split('i', 2, 'a', 'b')",),
    )


def test_whole_kernel(golden) -> None:
    kernel = full_kernel()
    text = kernel_text(kernel)
    golden("kernel_full.txt", text)
    assert parse_kernel(text) is kernel


def test_equal_records_are_one() -> None:
    assert full_kernel() is full_kernel()
    assert Buffer("a", dt.int8, (3, 4), "input") is Buffer("a", dt.int8, (3, 4), "input", (4, 1))
    assert Buffer("a", dt.int8, (4,), "input") is not Buffer("a", dt.int8, (4,), "output")
    assert Store(Y, index=(ROW,), value=x) is Store(Y, (ROW,), x, None)
    with pytest.raises(TypeError, match="Store needs value"):
        Store(Y, (ROW,))
    with pytest.raises(ValueError, match="'a b' is not a name"):
        Buffer("a b", dt.int8, (), "input")


def test_scratch_offsets_are_aligned() -> None:
    a = Buffer("a", dt.uint8, (65,), "scratch")
    b = Buffer("b", dt.uint8, (1,), "scratch")
    kernel = Kernel("k", (), Block((Alloc(a), Alloc(b), Block((Alloc(a),)))))
    assert scratch_offsets(kernel) == {a: 0, b: 128}
    assert kernel.scratch_bytes == 192


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_kernels(seed: int) -> None:
    kernel = Nests(Random(seed)).kernel()
    assert parse_kernel(kernel_text(kernel)) is kernel
    for s in kernel.phases:
        sizes = {n.name: n for n in kernel.sizes}
        assert parse_stmt(stmt_text(s), {b.name: b for b in kernel.params}, sizes) is s


HEAD = "@kernel\ndef f(x: input(f32[4]), y: output(f32[4])):\n    "
BAD = {
    "": "expected one `@kernel def`",
    "x = 1": "expected one `@kernel def`",
    "def f(x: input(f32)): pass": "line 1: expected `@kernel` before def",
    "@kernel\ndef f(x): pass": "line 2: x has no buffer type",
    "@kernel\ndef f(x: input(f99)): pass": "line 2: unknown dtype f99",
    "@kernel\ndef f(x: scratch(f32)): pass": (
        "line 2: expected input or output or inout or temp(dtype[shape]), not scratch(f32)"
    ),
    "@kernel\ndef f(x: input(f32[-1])): pass": "line 2: -1 is less than 0",
    "@kernel\ndef f(*x: input(f32)): pass": "line 2: parameters are name: role(dtype[shape])",
    "@evil()\n@kernel\ndef f(): pass": "line 1: unknown mark @evil",
    HEAD + "y[0] = x[i]": "line 3: unknown axis i",
    HEAD + "y[0] = z[0]": "line 3: unknown buffer z",
    HEAD + "y[0, 1] = x[0]": "line 3: y has 1 dims, the index 2",
    HEAD + "y[x[0]] = x[0]": "line 3: index x[0] is f32, not an integer",
    HEAD + "y[0] = 1": "line 3: 1 is i64, y holds f32",
    HEAD + "y[0] = x[0] + 1": "line 3: x[0] + 1: operands are f32 and i64",
    HEAD + "y[0] = x.real": "line 3: x.real is not an expression of a kernel",
    HEAD + "y[0] = (lambda: 1.0)()": "line 3: expected a call, not (lambda: 1.0)()",
    HEAD + "y[0] = exp(*x)": "line 3: *x is not an expression of a kernel",
    HEAD + "y[0] = 9**9": "line 3: 9 ** 9 is not an expression of a kernel",
    HEAD + "y[0] = u8(1)": "line 3: u8(1) is u8, y holds f32",
    HEAD + "y[u8(256)] = x[0]": "line 3: 256 does not fit u8",
    HEAD + f"y[{2**63}] = x[0]": f"line 3: expected an integer, not {2**63}",
    HEAD + "import os": "line 3: Import is not part of kernels",
    HEAD + "print(x)": "line 3: print(x) is not a statement of a kernel",
    HEAD + "while True: pass": "line 3: While is not part of kernels",
    HEAD + "if x[0]:\n        pass": "line 3: condition x[0] is f32, not bool",
    HEAD + "for i in range(x[0]):\n        pass": "line 3: extent x[0] is f32, not i64",
    HEAD + "for i in count(3):\n        pass": (
        "line 3: expected `for axis in range | parallel | unroll | vector(extent)`"
    ),
    HEAD + "for i in range(2):\n        for j in range(i):\n            pass": (
        "line 4: an extent that is not a constant needs at_most"
    ),
    HEAD + "y[0] |= x[0]\n  y": "line 4: unindent does not match any outer indentation level",
    HEAD + "y[0] = x[0": "line 3: '[' was never closed",
    "\0": "not a program: it holds a null byte",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_text(text: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse_kernel(text)
    assert raised.value.message == BAD[text]


DEEP = ("-" * 3000 + "1.0", "1.0+" * 4000 + "1.0", "(" * 5000, "exp(" * 900 + "1.0" + ")" * 900)


@pytest.mark.parametrize("value", DEEP)
def test_deep_text_is_an_error(value: str) -> None:
    with pytest.raises(ParseError):
        parse_kernel(HEAD + "y[0] = " + value)
