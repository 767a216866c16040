"""Random loop nests over i32 buffers, random steps for them, and running them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from random import Random

import numpy as np

from rung.core import dtype as dt
from rung.ir.expr import (
    Expr,
    Read,
    Size,
    Var,
    bounds,
    compare,
    const,
    iadd,
    ifloordiv,
    imod,
    imul,
    isub,
    raw_call,
    read,
    size,
    var,
    variables,
)  # fmt: skip
from rung.kernel.cascade import Cascade
from rung.kernel.interpret import interpret
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    loop,
    walk_stmts,
)  # fmt: skip
from rung.kernel.memory_steps import all_exprs
from rung.kernel.rewrite import axis_names, with_guard
from rung.kernel.schedule import (
    AccumulateIn,
    Branch,
    ComputeAt,
    Fission,
    Flatten,
    Fuse,
    FuseLoops,
    Halve,
    Inline,
    Lanes,
    Narrow,
    Pack,
    Parallel,
    Peel,
    PrefetchIn,
    PrefetchRest,
    Reorder,
    Skip,
    Split,
    Stage,
    Step,
    Unroll,
    Vectorize,
)  # fmt: skip

SIZE = 96
X = Buffer("x", dt.int32, (SIZE,), "input")
Y = Buffer("y", dt.int32, (SIZE,), "output")
Z = Buffer("z", dt.int32, (8, 12), "output")
T = Buffer("t", dt.int32, (SIZE,), "temp")
PARAMS = (X, Y, Z, T)
NAMES = ("i", "j", "k")


SIZES = (size("n", 1, 4), size("m", 1, 4))
VALUES = ((4, 4), (1, 3), (3, 2), (2, 1))
"""What the sizes are in the runs of a kernel that depends on them."""


def run(kernel: Kernel, batch: bool = False, hostile: bool = False) -> list[np.ndarray]:
    """The outputs after a run on fixed inputs, for several values of the sizes."""
    found: list[np.ndarray] = []
    for sizes in VALUES if kernel.sizes else ((),):
        rng = np.random.default_rng(7)
        start = {b: rng.integers(-9, 9, b.shape, np.int32) for b in PARAMS}
        arrays = [start[b] if b in start else np.zeros(b.shape, np.int32) for b in kernel.params]
        interpret(kernel, arrays, batch=batch, hostile=hostile, sizes=sizes)
        pairs = zip(kernel.params, arrays, strict=True)
        found += [a for b, a in pairs if b.role != "temp"]
    return found


class Nests:
    """Draws kernels from a random source."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.extents: dict[Var, Expr] = {}

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def kernel(self) -> Kernel:
        """One to three phases of up to three nested loops, or a producer of `t` and its reader."""
        axes = [var(n, self.rng.randint(1, 7)) for n in NAMES]
        sizes: tuple[Size, ...] = ()
        if self.chance(0.4):
            sizes = SIZES
            axes = [var(v.name, min(v.extent, 4)) for v in axes]
            for at in self.rng.sample(range(len(axes)), self.rng.randint(1, len(axes))):
                axes[at] = var(axes[at].name, 4)
                self.extents[axes[at]] = self.rng.choice(sizes)
        phases = [self.nest(axes, ()) for _ in range(self.rng.randint(1, 2))]
        if self.chance(0.3):
            phases = [self.filled(T), *(self.nest(axes, ()) for _ in range(2))]
        return Kernel("random", PARAMS, Block(tuple(phases)), sizes=sizes)

    def loop(self, axis: Var, *body: Stmt) -> For:
        """A loop over the axis; it may have as many iterations as a size says."""
        return For(axis, self.extents.get(axis, const(axis.extent)), Block(body))

    def filled(self, buffer: Buffer) -> Stmt:
        """A nest that stores to every element."""
        r, q = var("r", 8), var("q", 12)
        place = iadd(imul(r, 12), q)
        value = raw_call("multiply", (read(X, (place,)), const(3, dt.int32)), dt.int32)
        return loop(r, loop(q, Store(buffer, (place,), value)))

    def nest(self, axes: list[Var], around: tuple[Var, ...]) -> Stmt:
        axis, *rest = axes
        active = (*around, axis)
        body: list[Stmt] = []
        local: Buffer | None = None
        if self.chance(0.3):
            local = Buffer(f"m{len(active)}", dt.int32, (), "register")
            body += [Alloc(local), Store(local, (), const(self.rng.randint(-1, 1), dt.int32))]
        for _ in range(self.rng.choice([1, 1, 2])):
            inner = rest and self.chance(0.7)
            body.append(self.nest(rest, active) if inner else self.leaf(active, local))
        if local is not None:
            alone = self.chance(0.5)
            for n, s in enumerate(body):
                if isinstance(s, For):
                    inside = (*active, s.axis)
                    add = Accumulate(local, (), "add", self.value(inside, None))
                    if self.chance(0.4):
                        guarded = with_guard(add, self.difference(inside))
                    else:
                        guarded = add
                    body[n] = self.loop(s.axis, *(() if alone else s.body.stmts), guarded)
            result: Expr = read(local, ())
            if alone or self.chance(0.3):
                condition, other = self.difference(active), const(0, dt.int32)
                result = raw_call("where", (condition, result, other), dt.int32)
            body.append(Store(Y, self.index(Y, active), result))
        return self.loop(axis, *body)

    def leaf(self, active: tuple[Var, ...], local: Buffer | None) -> Stmt:
        value = self.value(active, local)
        if local is not None and self.chance(0.4):
            return Accumulate(local, (), self.rng.choice(["add", "maximum"]), value)
        buffer = self.rng.choice([Y, Z, T])
        index = self.index(buffer, active)
        guard = None
        if self.chance(0.2):
            guard = compare("less", self.rng.choice(active), self.rng.randint(0, 6))
            if self.chance(0.4):
                return If(guard, Block((Store(buffer, index, value),)))
        if self.chance(0.4):
            if self.chance(0.4):
                index = self.index(buffer, active[:-1])
            return Accumulate(buffer, index, self.rng.choice(["add", "maximum"]), value, guard)
        return Store(buffer, index, value, guard)

    def difference(self, active: tuple[Var, ...]) -> Expr:
        """A comparison of two loop variables, or of one with a number."""
        low, high = self.rng.choice(active), self.rng.choice([*active, const(0)])
        factor = self.rng.choice([1, 1, 2])
        return compare("greater_equal", isub(imul(low, factor), high), self.rng.randint(-2, 3))

    def value(self, active: tuple[Var, ...], local: Buffer | None) -> Expr:
        total: Expr = self.read(X, active)
        if self.chance(0.3):
            total = raw_call("multiply", (total, self.read(X, active)), dt.int32)
        if self.chance(0.35):
            source = self.rng.choice([Y, Z, T])
            total = raw_call("add", (total, self.read(source, active)), dt.int32)
        if local is not None and self.chance(0.5):
            total = raw_call("maximum", (total, read(local, ())), dt.int32)
        if self.chance(0.3):
            axis = raw_call("cast", (self.rng.choice(active),), dt.int32)
            total = raw_call("subtract", (total, axis), dt.int32)
        return total

    def read(self, buffer: Buffer, active: tuple[Var, ...]) -> Expr:
        guard = None
        if self.chance(0.15):
            guard = compare("less", self.rng.choice(active), self.rng.randint(1, 5))
        return read(buffer, self.index(buffer, active), guard=guard)

    def index(self, buffer: Buffer, active: tuple[Var, ...]) -> tuple[Expr, ...]:
        position = self.position(active)
        limits = bounds(position)
        assert limits is not None
        if limits[0] < 0 or limits[1] >= prod(buffer.shape):
            position = imod(position, prod(buffer.shape))
        if len(buffer.shape) == 1:
            return (position,)
        width = buffer.shape[1]
        return ifloordiv(position, width), imod(position, width)

    def position(self, active: tuple[Var, ...]) -> Expr:
        """Mostly row-major over the axes, or some of them; sometimes any linear form."""
        chosen = list(active)
        if self.chance(0.2) and len(chosen) > 1:
            chosen.pop(self.rng.randrange(len(chosen)))
        total: Expr = const(int(self.chance(0.1)))
        if self.chance(0.15):
            for v in chosen:
                total = iadd(total, imul(v, self.rng.randint(0, 4)))
            return total
        place: Expr = const(1)
        for v in reversed(chosen):
            total = iadd(total, imul(v, place))
            place = imul(place, self.extents.get(v, const(v.extent)))
        return total

    # -- steps

    def step(self, kernel: Kernel, turn: int) -> Step:
        """Some step that names what is there; it need not be legal."""
        names = axis_names(kernel.body)
        loops = [s for s in walk_stmts(kernel.body) if isinstance(s, For)]
        some = self.rng.choice(loops)
        axis, other = some.axis.name, self.rng.choice(names)
        inside = axis_names(some.body)
        buffers = ["x", "y", "z", "t", *(s.buffer.name for s in walk_stmts(kernel.body)
                                         if isinstance(s, Alloc))]  # fmt: skip
        buffer = self.rng.choice(buffers)
        found = [e for e in all_exprs(some.body) if isinstance(e, Read)]
        seen = self.rng.choice(found) if found else None
        around = sorted(v.name for v in variables(seen)) if seen else [axis]
        self.rng.shuffle(around)
        picked = [n for n in around if n in inside]
        packed = seen.source.name if seen and self.chance(0.8) else buffer
        chain = [axis, *inside]
        order = self.rng.sample(chain, self.rng.randint(1, len(chain)))
        a, b = f"a{turn}", f"b{turn}"
        makers: list[Callable[[], Step]] = [
            lambda: Split(axis, self.rng.randint(1, 5), a, b),
            lambda: Reorder(tuple(order)),
            lambda: Fuse(axis, inside[0] if inside else other, f"f{turn}"),
            lambda: Fission(axis),
            lambda: FuseLoops(axis, other),
            lambda: Peel(axis),
            lambda: Branch(axis),
            lambda: Unroll(axis),
            lambda: Vectorize(axis, 8),
            lambda: Parallel(axis),
            lambda: Lanes(axis, 2, self.rng.choice([1, 2])),
            lambda: AccumulateIn(buffer, axis),
            lambda: Cascade(axis, self.rng.randint(1, 4)),
            lambda: Pack(packed, axis, tuple(picked), f"p{turn}"),
            lambda: Stage(packed, tuple(around), self.rng.choice([0, 3]), f"s{turn}"),
            lambda: ComputeAt("t", axis),
            lambda: Inline("t"),
            lambda: PrefetchIn(buffer, axis, 2),
            lambda: PrefetchRest(axis),
            lambda: Narrow(axis),
            lambda: Skip(axis),
            lambda: Flatten(buffer, self.rng.choice([0, 1])),
            lambda: Halve(axis),
        ]
        weights = [4, 4, 2, 2, 2, 2, 2, 0.5, 1, 1, 3, 4, 4, 3, 2, 2, 1, 0.3, 1, 2, 5, 4, 1]
        return self.rng.choices(makers, weights)[0]()
