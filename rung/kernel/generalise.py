"""Kernels generic in sizes, from the kernels of one program at several sizes.

    for r0 in range(307*64)    for r0 in range(601*64)          for r0 in range(64*n0)
        y1[r0] = x0[r0]*2.0        y1[r0] = x0[r0]*2.0     ->       y1[r0] = x0[r0]*2.0

Kernels of one structure differ in integers alone. Each that differs becomes a polynomial of the
sizes, found from some of the probes and checked on the others. What a kernel simplified by the
limits of its variables follows from inequalities that hold at all probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, combinations_with_replacement
from math import prod
from typing import Final

from rung.core import dtype as dt
from rung.core.errors import LoweringError
from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Read,
    Size,
    Var,
    bounds,
    const,
    iadd,
    imul,
    linear_terms,
    postorder,
    raw_call,
    read,
    var,
    walk,
)  # fmt: skip
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Stmt,
    Store,
    stmt_exprs,
    walk_stmts,
)  # fmt: skip

MOST_DEGREE: Final = 3
"""Sizes that are multiplied with each other, at most."""
MOST_TERMS: Final = 4
"""Terms of a polynomial, at most."""


class NotGeneral(LoweringError):
    """A program has another structure at another size."""


@dataclass(frozen=True, eq=False)
class Probes:
    """The sizes as they are named in kernels, and their values in each of several programs."""

    sizes: tuple[Size, ...]
    values: tuple[tuple[int, ...], ...]


Monomial = tuple[int, ...]
"""The numbers of the sizes that are multiplied."""


class Fit:
    """Polynomials of the sizes through the values that integers have at the probes."""

    def __init__(self, probes: Probes, guess: bool = False) -> None:
        """`guess`: the simplest polynomial will do, even if nothing is left to check it on."""
        self.probes = probes
        numbers = range(len(probes.sizes))
        monomials: list[Monomial] = []
        for degree in range(MOST_DEGREE + 1):
            monomials += combinations_with_replacement(numbers, degree)
        self._rows = {m: [prod(v[i] for i in m) for v in probes.values] for m in monomials}
        self._bases = [
            chosen
            for number in range(1, min(MOST_TERMS, len(probes.values) - (not guess)) + 1)
            for chosen in combinations(monomials, number)
        ]
        self._found: dict[tuple[int, ...], Expr | None] = {}

    def integer(self, values: Sequence[int], what: str) -> Expr:
        """The polynomial through `values`, one for each probe. Raises NotGeneral if there is none:
        `what` says for the message what the values are."""
        key = tuple(values)
        if key not in self._found:
            self._found[key] = self._fit(key)
        found = self._found[key]
        if found is None:
            raise NotGeneral(f"{what} is no polynomial of the sizes: {list(values)}")
        return found

    def real(self, values: Sequence[float], dtype: dt.DType) -> Expr:
        """The same for floats: an integer, or a number divided by one."""
        whole = [round(v) for v in values]
        if all(v == w for v, w in zip(values, whole, strict=True)):
            as_float: Expr = raw_call("cast", (self.integer(whole, "a number"),), dt.float64)
        else:
            as_float = self._quotient(values, dtype)
        return as_float if dtype is dt.float64 else raw_call("cast", (as_float,), dtype)

    def quotient(
        self, values: Sequence[float], round_to: Callable[[float], object] = float
    ) -> tuple[float, Expr]:
        """A number and the integers by which it is divided to give `values`, as rounded by
        `round_to`. Raises NotGeneral if there are none."""
        for row in self._rows.values():
            top = float(f"{values[0] * row[0]:.12g}")
            pairs = zip(values, row, strict=True)
            if all(r and round_to(top / r) == round_to(v) for v, r in pairs):
                return top, self.integer(row, "a number")
        raise NotGeneral(f"a number is no quotient of the sizes: {list(values)}")

    def _quotient(self, values: Sequence[float], dtype: dt.DType) -> Expr:
        top, below = self.quotient(values, dtype.numpy.type)
        divisor = raw_call("cast", (below,), dt.float64)
        return raw_call("divide", (const(top, dt.float64), divisor), dt.float64)

    def _fit(self, values: tuple[int, ...]) -> Expr | None:
        if len(set(values)) == 1:
            return const(values[0])
        for basis in self._bases:
            weights = self._weights(basis, values)
            if weights is not None:
                return self._expr(basis, weights)
        return None

    def _weights(self, basis: tuple[Monomial, ...], values: tuple[int, ...]) -> list[int] | None:
        """The integer weights of the monomials with which they give the values."""
        number = len(basis)
        rows = [
            [Fraction(self._rows[m][p]) for m in basis] + [Fraction(values[p])]
            for p in range(number)
        ]
        for i in range(number):
            pivot = next((r for r in range(i, number) if rows[r][i]), None)
            if pivot is None:
                return None
            rows[i], rows[pivot] = rows[pivot], rows[i]
            rows[i] = [x / rows[i][i] for x in rows[i]]
            for r in range(number):
                if r != i and rows[r][i]:
                    rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
        weights = [row[-1] for row in rows]
        if any(w.denominator != 1 or not w for w in weights):
            return None
        for p in range(number, len(values)):
            if sum(w * self._rows[m][p] for w, m in zip(weights, basis, strict=True)) != values[p]:
                return None
        return [int(w) for w in weights]

    def _expr(self, basis: tuple[Monomial, ...], weights: Sequence[int]) -> Expr:
        total: Expr = const(0)
        for m, w in zip(basis, weights, strict=True):
            term: Expr = const(w)
            for i in m:
                term = imul(term, self.probes.sizes[i])
            total = iadd(total, term)
        return total


def most(e: Expr) -> int:
    """The greatest value of an expression of sizes."""
    limits = bounds(e)
    assert limits is not None
    return limits[1]


class Generaliser:
    """Makes one kernel of those of several programs that differ in sizes alone."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self._exprs: dict[tuple[Expr, ...], Expr] = {}
        self._buffers: dict[tuple[Buffer, ...], Buffer] = {}
        self._shapes: dict[Expr, int] = {}
        self._numbers: dict[object, int] = {}

    def kernel(self, kernels: Sequence[Kernel]) -> Kernel:
        """The kernel for all sizes. Raises NotGeneral where the structures differ."""
        first = kernels[0]
        if all(k is first for k in kernels):
            return first
        if len({len(k.params) for k in kernels}) > 1:
            raise NotGeneral("kernels have different numbers of parameters")
        params = tuple(self.buffer(bs) for bs in zip(*(k.params for k in kernels), strict=True))
        body = self.stmt([k.body for k in kernels])
        assert isinstance(body, Block)
        used = _sizes(params, body)
        sizes = tuple(n for n in self.fit.probes.sizes if n in used)
        return Kernel(first.name, params, body, first.sources, (), sizes)

    # -- statements

    def stmt(self, stmts: Sequence[Stmt]) -> Stmt:
        """One statement for those of each kernel."""
        first = stmts[0]
        if any(type(s) is not type(first) for s in stmts):
            raise NotGeneral("kernels have different statements")
        if isinstance(first, Block):
            bodies = [s.stmts for s in stmts if isinstance(s, Block)]
            if len({len(b) for b in bodies}) > 1:
                raise NotGeneral("kernels have different numbers of statements")
            return Block(tuple(self.stmt(row) for row in zip(*bodies, strict=True)))
        if isinstance(first, For):
            return self._loop([s for s in stmts if isinstance(s, For)])
        if isinstance(first, If):
            body = self.stmt([s.body for s in stmts if isinstance(s, If)])
            assert isinstance(body, Block)
            return If(self.expr(tuple(s.condition for s in stmts if isinstance(s, If))), body)
        if isinstance(first, Alloc):
            return Alloc(self.buffer(tuple(s.buffer for s in stmts if isinstance(s, Alloc))))
        if isinstance(first, Store | Accumulate):
            return self._store(first, [s for s in stmts if isinstance(s, Store | Accumulate)])
        if isinstance(first, Opaque):
            return self._opaque([s for s in stmts if isinstance(s, Opaque)])
        raise NotGeneral(f"a {type(first).__name__.lower()} depends on the size")

    def _loop(self, loops: Sequence[For]) -> Stmt:
        first = loops[0]
        if len({(f.axis.name, f.kind, f.lanes) for f in loops}) > 1:
            raise NotGeneral("kernels have different loops")
        extent = self.expr(tuple(f.extent for f in loops))
        axes = tuple(f.axis for f in loops)
        axis = var(first.axis.name, most(extent))
        self._exprs[axes] = axis
        body = self.stmt([f.body for f in loops])
        assert isinstance(body, Block)
        return For(axis, extent, body, first.kind, first.lanes)

    def _store(self, first: Store | Accumulate, stmts: Sequence[Store | Accumulate]) -> Stmt:
        buffer = self.buffer(tuple(s.buffer for s in stmts))
        index = tuple(self.expr(row) for row in zip(*(s.index for s in stmts), strict=True))
        value = self.expr(tuple(s.value for s in stmts))
        guard = self._guard([s.guard for s in stmts])
        if isinstance(first, Store):
            return Store(buffer, index, value, guard)
        if len({s.combine for s in stmts if isinstance(s, Accumulate)}) > 1:
            raise NotGeneral("kernels accumulate in different ways")
        return Accumulate(buffer, index, first.combine, value, guard)

    def _opaque(self, stmts: Sequence[Opaque]) -> Stmt:
        first = stmts[0]
        if len({(s.name, s.options) for s in stmts}) > 1:
            raise NotGeneral(f"{first.name} is of rows whose length depends on the size")
        outputs = tuple(self.buffer(bs) for bs in zip(*(s.outputs for s in stmts), strict=True))
        inputs = tuple(self.buffer(bs) for bs in zip(*(s.inputs for s in stmts), strict=True))
        row = self.expr(tuple(s.row for s in stmts))
        return Opaque(first.name, outputs, inputs, row, first.options)

    def _guard(self, guards: Sequence[Expr | None]) -> Expr | None:
        there = tuple(g for g in guards if g is not None)
        if there and len(there) < len(guards):
            raise NotGeneral("only some kernels have a guard")
        return self.expr(there) if there else None

    # -- buffers

    def buffer(self, buffers: tuple[Buffer, ...]) -> Buffer:
        """One buffer for those of each kernel."""
        found = self._buffers.get(buffers)
        if found is None:
            found = self._buffers[buffers] = self._buffer(buffers)
        return found

    def _buffer(self, buffers: tuple[Buffer, ...]) -> Buffer:
        first = buffers[0]
        if all(b is first for b in buffers):
            return first
        if len({(b.name, b.dtype, b.role, len(b.shape)) for b in buffers}) > 1:
            raise NotGeneral("kernels have different buffers")
        dims = [
            self.fit.integer(row, "a dim") for row in zip(*(b.shape for b in buffers), strict=True)
        ]
        shape = tuple(map(most, dims))
        if first.role in ("scratch", "temp"):
            return Buffer(first.name, first.dtype, shape, first.role)
        if first.role == "register" or len(shape) != 1:
            raise NotGeneral("a register depends on the size")
        return Buffer(first.name, first.dtype, shape, first.role, (), dims[0])

    # -- expressions

    def expr(self, exprs: tuple[Expr, ...]) -> Expr:
        """One expression for those of each kernel."""
        stack = [exprs]
        while stack:
            top = stack[-1]
            if top in self._exprs:
                stack.pop()
                continue
            missing: list[tuple[Expr, ...]] = []
            made = self._made(top, missing)
            if missing:
                stack += reversed(missing)
            else:
                assert made is not None
                self._exprs[top] = made
        return self._exprs[exprs]

    def _part(self, exprs: Iterable[Expr], missing: list[tuple[Expr, ...]]) -> Expr:
        key = tuple(exprs)
        found = self._exprs.get(key)
        if found is None:
            missing.append(key)
            return const(0)
        return found

    def _made(self, exprs: tuple[Expr, ...], missing: list[tuple[Expr, ...]]) -> Expr | None:
        """The expression, if its parts are known; else `missing` gets these."""
        first = exprs[0]
        if len({(type(e), e.dtype) for e in exprs}) > 1:
            if all(e.dtype is dt.int64 for e in exprs):
                return self._linear(exprs, missing)
            raise NotGeneral("kernels compute different things")
        if isinstance(first, Const):
            return self._constant([e for e in exprs if isinstance(e, Const)])
        if isinstance(first, Var):
            raise NotGeneral("kernels use the variables of different loops")
        if isinstance(first, Read):
            return self._read([e for e in exprs if isinstance(e, Read)], missing)
        calls = [e for e in exprs if isinstance(e, Call)]
        assert isinstance(first, Call)
        if first.dtype is dt.int64 and any(e not in linear_terms(e)[0] for e in calls):
            return self._linear(exprs, missing)
        if len({(e.op, len(e.args)) for e in calls}) > 1:
            raise NotGeneral("kernels compute different things")
        args = [self._part(row, missing) for row in zip(*(e.args for e in calls), strict=True)]
        return None if missing else raw_call(first.op, tuple(args), first.dtype)

    def _constant(self, constants: Sequence[Const]) -> Expr:
        first = constants[0]
        if all(c is first for c in constants):
            return first
        if first.dtype is dt.int64:
            return self.fit.integer([int(c.value) for c in constants], "an integer")
        if first.dtype.is_float:
            return self.fit.real([float(c.value) for c in constants], first.dtype)
        whole = self.fit.integer([int(c.value) for c in constants], "an integer")
        return raw_call("cast", (whole,), first.dtype)

    def _read(self, reads: Sequence[Read], missing: list[tuple[Expr, ...]]) -> Expr | None:
        guards = [r.guard for r in reads if r.guard is not None]
        if (guards and len(guards) < len(reads)) or len({len(r.index) for r in reads}) > 1:
            raise NotGeneral("kernels read in different ways")
        source = self.buffer(tuple(r.source for r in reads if isinstance(r.source, Buffer)))
        index = [self._part(row, missing) for row in zip(*(r.index for r in reads), strict=True)]
        guard = self._part(guards, missing) if guards else None
        return None if missing else read(source, tuple(index), guard=guard)

    def _linear(self, exprs: tuple[Expr, ...], missing: list[tuple[Expr, ...]]) -> Expr | None:
        """A linear form: terms of equal structure belong together, in whatever order."""
        forms = [linear_terms(e) for e in exprs]
        rows = [sorted(terms.items(), key=lambda p: self._structure(p[0])) for terms, _ in forms]
        kinds = {tuple(self._structure(t) for t, _ in row) for row in rows}
        if len(kinds) > 1:
            raise NotGeneral("kernels have different indices")
        total = self.fit.integer([c for _, c in forms], "an offset")
        for column in zip(*rows, strict=True):
            term = self._part((t for t, _ in column), missing)
            step = self.fit.integer([c for _, c in column], "a stride")
            total = iadd(total, imul(term, step))
        return None if missing else total

    def _structure(self, e: Expr) -> int:
        """A number for the structure of an expression, integers left aside."""
        found = self._shapes
        for x in postorder(e, known=found.__contains__):
            found[x] = self._numbers.setdefault(self._structure_of(x), len(self._numbers))
        return found[e]

    def _structure_of(self, x: Expr) -> object:
        parts = [self._shapes[c] for c in x.children()]
        if isinstance(x, Var):
            return "axis", x.name
        if isinstance(x, Const):
            return "const", x.dtype.name
        if isinstance(x, Read):
            assert isinstance(x.source, Buffer)
            return "read", x.source.name, *parts
        assert isinstance(x, Call)
        terms = linear_terms(x)[0] if x.dtype is dt.int64 else {x: 1}
        if x not in terms:
            return "linear", *sorted(self._shapes[t] for t in terms)
        return x.op, x.dtype.name, *parts


def _sizes(params: Iterable[Buffer], body: Stmt) -> set[Size]:
    """The sizes that a kernel depends on."""
    roots = [b.elements for b in params if b.elements is not None]
    for s in walk_stmts(body):
        roots += stmt_exprs(s)
    return {e for e in walk(*roots) if isinstance(e, Size)}
