"""Graphs that are long or deep, of several shapes, in every place where a graph can stand.

A shape is a function of one f32 vector and a number of operations; a context runs a function of one
vector and gives an array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import rung
from rung.ir.node import Graph

Function = Callable[[Any], Any]
Shape = Callable[[Any, int], Any]

SIZE = 8


def chain(x: Any, n: int) -> Any:
    """One value, changed again and again."""
    for i in range(n):
        x = rung.sin(x) if i % 3 else x * 1.25 + 0.25
    return x


def horner(x: Any, n: int) -> Any:
    """A polynomial: one value, with another beside it at each step."""
    total = rung.zeros_like(x)
    for i in range(n // 2):
        total = total * x * 0.5 + (i % 7) * 0.125
    return total


def long_sum(x: Any, n: int) -> Any:
    """A sum of losses, each a reduction."""
    return sum(((x - i % 13) ** 2).mean() for i in range(n // 4)) + x


def fan_out(x: Any, n: int) -> Any:
    """Many values of one, and their sum."""
    return sum([x * float(i % 9) for i in range(n // 2)]) * 0.01


def comb(x: Any, n: int) -> Any:
    """A chain all of whose values are used once more."""
    total = x
    for i in range(n // 3):
        x = rung.tanh(x + 0.01 * i)
        total = total + x
    return total


def ladder(x: Any, n: int) -> Any:
    """Two values, each made of both."""
    a, b = x, x + 1
    for _ in range(n // 5):
        a, b = (a + b) * 0.5, a * 0.5 - b * 0.25
    return a + b


def tree(x: Any, n: int) -> Any:
    """Values added up in pairs."""
    values = [x * (i % 5) for i in range(n // 2)]
    while len(values) > 1:
        values = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
    return values[0] * 0.1


def moves(x: Any, n: int) -> Any:
    """A value that is moved and added to."""
    for i in range(n // 3):
        x = rung.flip(x) + 0.5 if i % 2 else rung.roll(x, 3) * 0.75
    return x


def picks(x: Any, n: int) -> Any:
    """Conditions, one within the other."""
    for i in range(n // 4):
        x = rung.where(x > 0, x - 0.125, x * -0.5 + 0.01 * i)
    return x


def rows(x: Any, n: int) -> Any:
    """Reductions of the row before."""
    for _ in range(n // 8):
        x = x - x.mean() + rung.nn.functional.softmax(x, 0)
    return x


def products(x: Any, n: int) -> Any:
    """Matrix products with something element-wise between."""
    w = rung.eye(SIZE) * 0.5 + 0.01
    for _ in range(n // 4):
        x = rung.sin(x @ w) + 0.5
    return x


SHAPES: dict[str, Shape] = {
    f.__name__: f
    for f in (
        chain, horner, long_sum, fan_out, comb, ladder, tree, moves, picks, rows, products
    )
}  # fmt: skip


def vector() -> Any:
    """What the functions are run on."""
    return rung.asarray(np.linspace(-0.9, 1.1, SIZE).astype(np.float32))


def array(tensor: Any) -> Any:
    """The value of a tensor."""
    return np.asarray(tensor)


def in_scan(f: Function) -> Any:
    """The last carry and what each iteration gives."""
    rows = rung.ones((3, SIZE)) * 0.1
    last, each = rung.scan(lambda c, a: (f(c) * 0.1 + a, c.sum()), vector(), rows)
    return np.concatenate([array(last), array(each)])


def in_backward(f: Function) -> Any:
    """The gradient that `backward()` gives."""
    x = rung.nn.Parameter(vector())
    f(x).sum().backward()
    return array(x.grad)


def by_rule(f: Function) -> Any:
    """A rule of the user's around the function, under `vmap`."""

    @rung.custom_vjp
    def ruled(x: Any) -> Any:
        return f(x)

    ruled.defvjp(lambda x: (f(x), x), lambda x, ct: (ct * 2,))
    return array(rung.vmap(lambda x: rung.grad(lambda x: ruled(x).sum())(x) + ruled(x))(stacked()))


def stacked() -> Any:
    """Three examples."""
    return rung.stack([vector(), vector() * 0.5, vector() - 0.25])


def gradient(f: Function) -> Function:
    """The gradient of the sum of `f`."""
    return rung.grad(lambda x: f(x).sum())


CONTEXTS: dict[str, Callable[[Function], Any]] = {
    "lazy": lambda f: array(f(vector())),
    "jit": lambda f: array(rung.jit(f)(vector())),
    "grad": lambda f: array(gradient(f)(vector())),
    "jit_grad": lambda f: array(rung.jit(gradient(f))(vector())),
    "backward": in_backward,
    "jvp": lambda f: array(rung.jvp(f, (vector(),), (rung.ones(SIZE),))[1]),
    "vmap": lambda f: array(rung.vmap(f)(stacked())),
    "rule": by_rule,
    "loop": lambda f: array(rung.fori_loop(0, 3, lambda i, x: f(x) * 0.1, vector())),
    "scan": in_scan,
    "grad_of_loop": lambda f: array(
        gradient(lambda x: rung.fori_loop(0, 2, lambda i, x: f(x) * 0.1, x))(vector())
    ),
    "cond": lambda f: array(rung.cond(vector().sum() > 0, f, lambda x: x, vector())),
    "checkpoint": lambda f: array(gradient(rung.checkpoint(f))(vector())),
    "function": lambda f: array(rung.function(lambda x: f(x))(vector())),
}


def traced(f: Function) -> Graph:
    """The graph of a function of one vector."""
    runnable = rung.jit(f).compile(vector()).runnable
    assert runnable is not None
    return runnable.graph
