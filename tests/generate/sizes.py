"""Random programs under `jit` whose sizes change from call to call.

A program is drawn over dims that are numbers, sizes, or a size and a number. It runs under `jit` at
several sizes, from the second one on by kernels that are generic in these, and op by op by NumPy's:
both have to agree, and the sizes may cost three compilations at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import rung
from rung.core.settings import configure, settings
from rung.nn import functional as F
from rung.tensor.programs import clear_programs, num_compiled

EDGES = (2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100)
MOST_ELEMENTS = 200_000
MOST_COMPILED = 4
"""One more where two sizes look as if one followed from the other."""

Dim = tuple[int, int, int]
"""a + b*n + c*m as (a, b, c)."""
N: Dim = (0, 1, 0)
M: Dim = (0, 0, 1)


def length(d: Dim, n: int, m: int) -> int:
    return d[0] + d[1] * n + d[2] * m


@dataclass
class Program:
    """Steps that add a value each, made of earlier ones; the shapes of parameters."""

    steps: list[tuple[str, Callable[..., Any], tuple[int, ...]]] = field(default_factory=list)
    shapes: list[tuple[Dim, ...]] = field(default_factory=list)
    params: list[tuple[tuple[Dim, ...], Dim | None]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def run(self, *given: Any) -> list[Any]:
        values = list(given)
        for _, function, operands in self.steps:
            values.append(function(*(values[i] for i in operands)))
        return [values[i] for i in self.outputs]

    def text(self) -> str:
        lines = [f"x{i}: {s} {'' if p is None else p}" for i, (s, p) in enumerate(self.params)]
        for k, (name, _, operands) in enumerate(self.steps, len(self.params)):
            lines.append(f"x{k} = {name}{operands}: {self.shapes[k]}")
        return "\n".join((*lines, f"return {self.outputs}"))


class Drawer:
    """Draws programs from a random source."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.program = Program()
        self.sizes = self.rng.choice([1, 1, 2])

    def dim(self) -> Dim:
        choices: list[Dim] = [N, N, (self.rng.choice([1, 3, 5, 8, 16, 24]), 0, 0)]
        return self.rng.choice([*choices, M] if self.sizes == 2 else choices)

    def param(self, shape: tuple[Dim, ...], most: Dim | None = None) -> int:
        self.program.params.append((shape, most))
        self.program.shapes.append(shape)
        return len(self.program.shapes) - 1

    def add(
        self, name: str, function: Callable[..., Any], operands: tuple[int, ...], shape: Any
    ) -> int:
        self.program.steps.append((name, function, operands))
        self.program.shapes.append(tuple(shape))
        return len(self.program.shapes) - 1

    def draw(self) -> Program:
        rng, p = self.rng, self.program
        plan = [rng.choice(STEPS) for _ in range(rng.randint(2, 7))]
        first = self.param(tuple(self.dim() for _ in range(rng.choice([1, 2, 2, 3]))))
        other = self.param((N, self.dim()))
        weights = {rng.randint(0, 1): self.param((d, self.dim())) for d in (N, (8, 0, 0))}
        indices = self.param((rng.choice([N, M if self.sizes == 2 else (5, 1, 0)]),), N)
        self.inputs = [first, other, *weights.values()]
        self.indices = indices
        live = list(self.inputs)
        for step in plan:
            made = step(self, rng.choice(live))
            if made is not None:
                live = [*live[-3:], made]
        p.outputs = sorted(set(rng.sample(live, min(2, len(live)))) | {live[-1]})
        return p


def _axis(d: Drawer, x: int) -> int | None:
    rank = len(d.program.shapes[x])
    return d.rng.randrange(rank) if rank else None


def draw_unary(d: Drawer, x: int) -> int:
    name, f = d.rng.choice(
        [("tanh", rung.tanh), ("relu", F.relu), ("square", lambda v: v * v * 0.1),
         ("sigmoid", F.sigmoid), ("scaled", lambda v: v * 0.5 + 1)]
    )  # fmt: skip
    return d.add(name, f, (x,), d.program.shapes[x])


def draw_binary(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    shapes = d.program.shapes
    y = d.rng.choice([i for i, s in enumerate(shapes) if s == shape and i != d.indices])
    name, f = d.rng.choice([("add", lambda a, b: a + b), ("mul", lambda a, b: a * b * 0.5)])
    return d.add(name, f, (x, y), shape)


def draw_reduce(d: Drawer, x: int) -> int | None:
    axis, keep = _axis(d, x), d.rng.random() < 0.4
    if axis is None:
        return None
    name, f = d.rng.choice([("sum", rung.sum), ("mean", rung.mean), ("max", rung.max)])
    shape = list(d.program.shapes[x])
    shape[axis : axis + 1] = [(1, 0, 0)] if keep else []
    return d.add(f"{name}{axis}", lambda v: f(v, axis=axis, keepdims=keep), (x,), shape)


def draw_centre(d: Drawer, x: int) -> int | None:
    axis = _axis(d, x)
    if axis is None:
        return None
    return d.add(
        f"centre{axis}", lambda v: v - rung.mean(v, axis=axis, keepdims=True), (x,),
        d.program.shapes[x],
    )  # fmt: skip


def draw_softmax(d: Drawer, x: int) -> int | None:
    axis = _axis(d, x)
    if axis is None:
        return None
    return d.add(f"softmax{axis}", lambda v: F.softmax(v, axis), (x,), d.program.shapes[x])


def draw_turn(d: Drawer, x: int) -> int:
    shape = d.program.shapes[x]
    order = list(range(len(shape)))
    d.rng.shuffle(order)
    return d.add(
        f"permute{order}", lambda v: rung.permute_dims(v, tuple(order)), (x,),
        [shape[i] for i in order],
    )  # fmt: skip


def draw_gram(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    if len(shape) < 2:
        return None
    result = (*shape[:-1], shape[-2])
    return d.add("gram", lambda v: v @ rung.matrix_transpose(v) * 0.1, (x,), result)


def draw_matmul(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    if len(shape) < 1:
        return None
    fits = [i for i in d.inputs if len(d.program.shapes[i]) == 2
            and d.program.shapes[i][0] == shape[-1]]  # fmt: skip
    if not fits:
        return None
    w = d.rng.choice(fits)
    result = (*shape[:-1], d.program.shapes[w][1])
    return d.add("matmul", lambda v, w: v @ w * 0.2, (x, w), result)


def draw_concat(d: Drawer, x: int) -> int | None:
    axis = _axis(d, x)
    if axis is None:
        return None
    shape = list(d.program.shapes[x])
    a, b, c = shape[axis]
    shape[axis] = (2 * a, 2 * b, 2 * c)
    return d.add(f"twice{axis}", lambda v: rung.concat([v, v * 2], axis=axis), (x,), shape)


def draw_cut(d: Drawer, x: int) -> int | None:
    axis = _axis(d, x)
    shape = list(d.program.shapes[x])
    if axis is None or length(shape[axis], 2, 2) < 2:
        return None
    a, b, c = shape[axis]
    shape[axis] = (a - 1, b, c)
    end = d.rng.random() < 0.5
    index = (slice(None),) * axis + (slice(1, None) if end else slice(None, -1),)
    return d.add(f"cut{axis}{end}", lambda v: v[index], (x,), shape)


def draw_pad(d: Drawer, x: int) -> int | None:
    shape = list(d.program.shapes[x])
    if not shape:
        return None
    a, b, c = shape[-1]
    shape[-1] = (a + 3, b, c)
    return d.add("pad", lambda v: F.pad(v, (1, 2)), (x,), shape)


def draw_flip(d: Drawer, x: int) -> int | None:
    axis = _axis(d, x)
    if axis is None:
        return None
    return d.add(f"flip{axis}", lambda v: rung.flip(v, axis=axis), (x,), d.program.shapes[x])


def draw_running(d: Drawer, x: int) -> int | None:
    axis = _axis(d, x)
    if axis is None:
        return None
    f = lambda v: rung.cumulative_sum(v, axis=axis) * 0.1  # noqa: E731
    return d.add(f"cumsum{axis}", f, (x,), d.program.shapes[x])


def draw_take(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    if not shape or shape[0] != N:
        return None
    result = (d.program.shapes[d.indices][0], *shape[1:])
    return d.add("take", lambda v, i: v[i], (x, d.indices), result)


def draw_scatter(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    if not shape or shape[0] != d.program.shapes[d.indices][0]:
        return None
    first = d.inputs[1]  # [n, …]

    def add(v: Any, i: Any, like: Any) -> Any:
        return rung.index_add(rung.zeros((like.shape[0], *v.shape[1:])), 0, i, v)

    return d.add("index_add", add, (x, d.indices, first), (N, *shape[1:]))


def draw_mask(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    if len(shape) < 2:
        return None

    def mask(v: Any) -> Any:
        i, j = (rung.arange(k) for k in v.shape[-2:])
        return rung.where(i[:, None] >= j[None, :], v, -1.0)

    return d.add("causal", mask, (x,), shape)


def draw_flat(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    fixed = [s for s in shape if not (s[1] or s[2])]
    if len(shape) < 2 or len(shape) - len(fixed) > 1:
        return None
    total: Dim = (1, 0, 0)
    for s in shape:
        k = total if not (total[1] or total[2]) else s
        other = s if k is total else total
        total = (k[0] * other[0], k[0] * other[1], k[0] * other[2])
    return d.add("flat", lambda v: rung.reshape(v, (-1,)), (x,), (total,))


def draw_conv(d: Drawer, x: int) -> int | None:
    shape = d.program.shapes[x]
    if len(shape) != 3 or (shape[1][1] or shape[1][2]):
        return None
    channels = shape[1][0]
    f = lambda v: F.conv1d(v, rung.ones((4, channels, 3)) * 0.1, padding=1)  # noqa: E731
    return d.add("conv1d", f, (x,), (shape[0], (4, 0, 0), shape[2]))


STEPS: tuple[Callable[[Drawer, int], int | None], ...] = (
    draw_unary, draw_unary, draw_binary, draw_reduce, draw_reduce, draw_centre, draw_softmax,
    draw_turn, draw_gram, draw_matmul, draw_matmul, draw_concat, draw_cut, draw_pad, draw_flip,
    draw_running, draw_take, draw_take, draw_scatter, draw_scatter, draw_mask, draw_flat, draw_conv,
)  # fmt: skip


def operands(program: Program, n: int, m: int, seed: int) -> list[rung.Tensor] | None:
    rng = np.random.default_rng(seed)
    if any(np.prod([length(d, n, m) for d in s], dtype=float) > MOST_ELEMENTS
           for s in program.shapes):  # fmt: skip
        return None
    found = []
    for shape, most in program.params:
        dims = [length(d, n, m) for d in shape]
        if most is None:
            found.append(rung.asarray(rng.standard_normal(dims).astype(np.float32)))
        else:
            found.append(rung.asarray(rng.integers(0, length(most, n, m), dims)))
    return found


def sum_and_gradient(program: Program, *given: Any) -> list[Any]:
    """The outputs, and the gradient of the sum of their squares along the first parameter."""

    def total(x: Any) -> Any:
        return sum((y * y).mean() for y in program.run(x, *given[1:]))

    return [*program.run(*given), rung.grad(total)(given[0])]


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`."""
    program = Drawer(seed).draw()
    rng = random.Random(seed)
    backward = rng.random() < 0.4

    def function(*given: Any) -> list[Any]:
        return sum_and_gradient(program, *given) if backward else program.run(*given)

    clear_programs()
    jitted, compiled, wrong = rung.jit(function), 0, []
    sizes = [(n, rng.choice(EDGES)) for n in rng.sample(EDGES, 7)]
    sizes += [(2, 2), (3, 2)]
    for n, m in sizes:
        given = operands(program, n, m, seed)
        if given is None:
            continue
        before = num_compiled()
        found = [x.numpy() for x in jitted(*given)]
        compiled += num_compiled() - before
        wrong += _differences(found, _references(function, given), (n, m))
    if compiled > MOST_COMPILED:
        reasons = [r for r in rung.recompiles() if "another size" in r]
        wrong.append(f"{compiled} compilations: {reasons[-1:]}")
    return wrong


def _references(function: Callable[..., Any], given: list[Any]) -> list[np.ndarray[Any, Any]]:
    before = settings().tier
    configure(tier="eager")
    try:
        return [x.numpy() for x in function(*given)]
    finally:
        configure(tier=before)


def _differences(
    found: list[np.ndarray[Any, Any]], wanted: list[np.ndarray[Any, Any]], where: object
) -> list[str]:
    wrong = []
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        scale = float(np.abs(b).max(initial=0)) + 1e-3
        if a.shape != b.shape:
            wrong.append(f"output {k} at {where}: {a.shape}, not {b.shape}")
        elif not np.allclose(a, b, rtol=1e-3, atol=1e-4 * scale + 5e-5, equal_nan=True):
            wrong.append(f"output {k} at {where}: off by {np.abs(a - b).max()} of {scale}")
    return wrong


def show(seed: int) -> str:
    """Case `seed` as text."""
    return Drawer(seed).draw().text()
