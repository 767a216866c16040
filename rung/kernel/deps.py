"""Which iterations of loops touch the same elements: affine reasoning on index expressions.

Two accesses of a buffer conflict when they may touch one element and one of them writes. An axis is
*pinned* by a pair when touching one element implies the same value of that axis; an axis that is
pinned by every conflicting pair has independent iterations.

The equation "both touch the same element" is, per dim, sum(coefficient * delta) + offset = 0 over
the differences of loop variables. It falls apart into groups that must each be zero: where the
larger coefficients have a greatest common divisor g and the rest stays within (-g, g), both are.
So it is with coefficients that are products of sizes: what stays below n is apart from what is
multiplied with n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd, inf, isinf

from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Read,
    Size,
    Var,
    bounds,
    const,
    factors,
    from_terms,
    iadd,
    ifloordiv,
    imul,
    is_sized,
    isub,
    linear_terms,
    raw_call,
    variables,
    walk,
)  # fmt: skip
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Opaque,
    Stmt,
    Store,
    remembered,
    walk_stmts,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """A place of the program that touches `buffer[index]`, inside `loops` (outermost first).

    `combine` names the combiner of an Accumulate. An access of an Opaque has the row as its index
    (`opaque`)."""

    buffer: Buffer
    index: tuple[Expr, ...]
    write: bool
    combine: str | None
    loops: tuple[For, ...]
    opaque: bool = False


def accesses(s: Stmt, loops: tuple[For, ...] = ()) -> list[Access]:
    """Every access below a statement, in program order (reads before the write)."""
    found: dict[Access, None] = {}
    for access in _accesses(s, loops):
        found[access] = None
    return list(found)


def _accesses(s: Stmt, loops: tuple[For, ...]) -> Iterator[Access]:
    if isinstance(s, Block):
        for c in s.stmts:
            yield from _accesses(c, loops)
    elif isinstance(s, For):
        yield from _reads(loops, s.extent)
        yield from _accesses(s.body, (*loops, s))
    elif isinstance(s, If):
        yield from _reads(loops, s.condition)
        yield from _accesses(s.body, loops)
    elif isinstance(s, Store | Accumulate):
        for e in _own_reads(s):
            assert isinstance(e.source, Buffer)
            yield Access(e.source, e.index, False, None, loops)
        combine = s.combine if isinstance(s, Accumulate) else None
        yield Access(s.buffer, s.index, True, combine, loops)
    elif isinstance(s, Opaque):
        yield from _reads(loops, s.row)
        for b in s.inputs:
            yield Access(b, (s.row,), False, None, loops, True)
        for b in s.outputs:
            yield Access(b, (s.row,), True, None, loops, True)


@remembered
def _own_reads(s: Store | Accumulate) -> tuple[Read, ...]:
    guard = () if s.guard is None else (s.guard,)
    return tuple(e for e in walk(s.value, *s.index, *guard) if isinstance(e, Read))


def _reads(loops: tuple[For, ...], *roots: Expr) -> Iterator[Access]:
    for e in walk(*roots):
        if isinstance(e, Read):
            assert isinstance(e.source, Buffer)
            yield Access(e.source, e.index, False, None, loops)


def local_buffers(s: Stmt) -> set[Buffer]:
    """The buffers allocated below a statement."""
    return {a.buffer for a in walk_stmts(s) if isinstance(a, Alloc)}


def written_buffers(s: Stmt) -> set[Buffer]:
    """The buffers written below a statement."""
    return {a.buffer for a in accesses(s) if a.write}


def conflicts(first: list[Access], second: list[Access]) -> Iterator[tuple[Access, Access]]:
    """The pairs, one of each list, that may touch one element with one of them writing, where two
    accumulations by the same combiner do not count."""
    by_buffer: dict[Buffer, list[Access]] = {}
    for a in second:
        by_buffer.setdefault(a.buffer, []).append(a)
    for a in first:
        for b in by_buffer.get(a.buffer, ()):
            if (a.write or b.write) and not (a.combine is not None and a.combine == b.combine):
                yield a, b


# ---- the equation of two accesses


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of the equation: `scale` times a difference within [low, high]. `term` is what
    differs; `parts` are what it is made of, scaled as in the equation. With sizes, the difference
    is multiplied with `times` as well, and is at most `most`."""

    scale: int
    low: float
    high: float
    term: Expr | None = None
    parts: tuple[Delta, ...] = ()
    times: Expr | None = None
    most: Expr | None = None

    @property
    def reach(self) -> float:
        return abs(self.scale) * max(abs(self.low), abs(self.high))


def pinned(
    a: Access, b: Access, band: tuple[For, ...], written: frozenset[Buffer] = frozenset()
) -> frozenset[Var] | None:
    """The axes of the loops `band` that have one value whenever a and b touch one element; None
    when they never do. `band` is around both; loops inside differ freely. `written` are buffers
    that change meanwhile."""
    if a.opaque != b.opaque:
        return frozenset()
    loops_a, loops_b = (*band, *a.loops), (*band, *b.loops)
    sides = _Sides(loops_a, loops_b, written)
    zero: set[Expr] = set()
    for e, f in zip(a.index, b.index, strict=True):
        found = _zero_terms(*sides.equation(e, f))
        if found is None:
            return None
        zero |= found
    while not zero.issuperset(more := _recombined(zero, sides)):
        zero |= more
    return frozenset(f.axis for f in band if f.axis in zero)


def _recombined(zero: set[Expr], sides: _Sides) -> set[Expr]:
    """Terms that do not differ because their quotient and remainder do not."""
    more: set[Expr] = set()
    for t in zero:
        if isinstance(t, Call) and t.op == "remainder" and isinstance(t.args[1], Const):
            x = t.args[0]
            if ifloordiv(x, int(t.args[1].value)) in zero:
                more |= {x} | (_zero_terms(*sides.equation(x, x)) or set())
        elif isinstance(t, Call) and t.op == "remainder" and is_sized(t.args[1]):
            x = t.args[0]
            if raw_call("floor_divide", t.args, t.dtype) in zero:
                more |= {x} | (_zero_terms(*sides.equation(x, x)) or set())
    return more


class _Sides:
    """What is around two accesses, to set up the equations of their indices."""

    def __init__(
        self, loops_a: tuple[For, ...], loops_b: tuple[For, ...], written: frozenset[Buffer]
    ) -> None:
        self.loops_a = loops_a
        self.extents_a = {f.axis: f.extent for f in loops_a}
        self.extents_b = {f.axis: f.extent for f in loops_b}
        self.varying = {f.axis for f in (*loops_a, *loops_b)}
        self.written = written

    def equation(self, e: Expr, f: Expr) -> tuple[list[Delta], int]:
        """The terms, by falling coefficient, and the offset of `e - f`, with the variables of each
        side taken apart."""
        terms_a, constant_a = linear_terms(e)
        terms_b, constant_b = (terms_a, constant_a) if f is e else linear_terms(f)
        deltas: list[Delta] = []
        steps_a, steps_b = _steps(terms_a), _steps(terms_b)
        for x in {**steps_a, **steps_b}:
            p, q = steps_a.get(x, const(0)), steps_b.get(x, const(0))
            low, high = (1, 1) if x is None else _range(x)
            most = const(1) if x is None else self._most(x, low, high)
            if x is None or self._is_fixed(x):
                deltas.append(_scaled(Delta(1, low, high, most=most), isub(p, q)))
            elif p is q:
                deltas.append(_scaled(Delta(1, low - high, high - low, x, most=most), p))
            else:
                deltas.append(_scaled(Delta(1, low, high, most=most), p))
                deltas.append(_scaled(Delta(-1, low, high, most=most), q))
        deltas = self._with_composites([d for d in deltas if d.scale])
        return sorted(deltas, key=lambda d: -abs(d.scale)), constant_a - constant_b

    def _most(self, x: Expr, low: float, high: float) -> Expr | None:
        """The greatest value of `x`, and of a difference of its values, in terms of sizes."""
        if isinstance(x, Var):
            extent = self._extent(x)
            if extent is not None and is_sized(extent):
                return isub(extent, 1)
        if isinstance(x, Call) and x.op in ("remainder", "floor_divide") and is_sized(x.args[1]):
            if x.op == "remainder":
                return isub(x.args[1], 1)
            whole = self._extent(x.args[0])
            times = None if whole is None else _divided(whole, x.args[1])
            if times is not None:
                return isub(times, 1)
        if isinf(low) or isinf(high):
            return None
        return const(int(max(abs(low), abs(high), high - low)))

    def _extent(self, x: Expr) -> Expr | None:
        """How many values a loop variable has, if that is the same on both sides."""
        if not isinstance(x, Var):
            return None
        a, b = self.extents_a.get(x), self.extents_b.get(x)
        return b if a is None else a if b is None or a is b else None

    def _is_fixed(self, t: Expr) -> bool:
        """Whether a term has one value throughout."""
        return variables(t).isdisjoint(self.varying) and self.written.isdisjoint(_sources(t))

    def _with_composites(self, deltas: list[Delta]) -> list[Delta]:
        """Join f*outer + inner, where the extent of inner keeps it below n, into one term with
        reach n - 1."""
        for loop in reversed(self.loops_a):
            end = None if isinstance(loop.extent, Const) else ragged_end(loop.extent)
            if end is None or self.extents_b.get(loop.axis) is not loop.extent:
                continue
            for inner in [d for d in deltas if d.term is loop.axis]:
                alike = [d for d in deltas if d.times is inner.times]
                by_term = {d.term: d for d in alike if d.term is not None}
                _, outer, n = end
                parts = [by_term[t] for t in outer if t in by_term]
                if parts and all(d.scale == inner.scale * outer[t] for t, d in _named(parts)):
                    parts.append(inner)
                    _, high = _range(n)
                    most, times = isub(n, 1), inner.times
                    joined = Delta(
                        inner.scale, 1 - high, high - 1, None, tuple(parts), times, most
                    )
                    deltas = [d for d in deltas if d not in parts] + [joined]
        return deltas


def _named(deltas: list[Delta]) -> list[tuple[Expr, Delta]]:
    return [(d.term, d) for d in deltas if d.term is not None]


def _range(t: Expr) -> tuple[float, float]:
    found = bounds(t)
    return (-inf, inf) if found is None else found


def _sources(t: Expr) -> set[object]:
    return set() if isinstance(t, Var) else {r.source for r in walk(t) if isinstance(r, Read)}


def _divided(whole: Expr, by: Expr) -> Expr | None:
    """The number, size or product of two sizes by which `by` is multiplied in `whole`."""
    sizes = sorted((e for e in walk(whole) if isinstance(e, Size)), key=lambda n: n.name)
    tops, bottoms = linear_terms(whole)[0].values(), linear_terms(by)[0].values()
    numbers = {c // d for c in tops for d in bottoms}
    factors: list[Expr] = [const(c) for c in sorted(numbers) if c > 0]
    factors += [*sizes, *(imul(a, b) for a in sizes for b in sizes)]
    factors += [imul(a, c) for a in sizes for c in sorted(numbers) if c > 1]
    return next((f for f in factors if imul(f, by) is whole), None)


def _steps(terms: Mapping[Expr, int]) -> dict[Expr | None, Expr]:
    """What each term that varies is multiplied with, a number or made of sizes; None stands for 1,
    if it is multiplied with sizes."""
    found: dict[Expr | None, Expr] = {}
    for t, c in terms.items():
        x, fixed = factors(t)
        step: Expr = const(c)
        for n in fixed:
            step = imul(step, n)
        found[x] = iadd(found[x], step) if x in found else step
    return found


def _scaled(delta: Delta, step: Expr) -> Delta:
    """A difference multiplied with `step`."""
    if isinstance(step, Const):
        return replace(delta, scale=delta.scale * int(step.value))
    terms, constant = linear_terms(step)
    g = gcd(*terms.values(), constant)
    g = -g if max(terms.values()) < 0 else g
    times = from_terms({t: c // g for t, c in terms.items()}, constant // g)
    return replace(delta, scale=delta.scale * g, times=times)


def ragged_end(extent: Expr) -> tuple[int, dict[Expr, int], Expr] | None:
    """(f, X, n) where `extent` is min(f, n - X) with X a linear form and n a number or made of
    sizes; else None."""
    if not (isinstance(extent, Call) and extent.op == "minimum"):
        return None
    for limit, rest in (extent.args, extent.args[::-1]):
        if isinstance(limit, Const) and not isinstance(rest, Const):
            terms, n = linear_terms(rest)
            whole = from_terms({t: c for t, c in terms.items() if is_sized(t)}, n)
            terms = {t: c for t, c in terms.items() if not is_sized(t)}
            some = is_sized(whole) or n > 0
            if some and terms and all(c < 0 for c in terms.values()):
                return int(limit.value), {t: -c for t, c in terms.items()}, whole
    return None


def _zero_terms(deltas: list[Delta], offset: int) -> set[Expr] | None:
    """The terms that must not differ; None when there is no solution. `deltas` by falling
    coefficient."""
    if any(d.times is not None for d in deltas):
        return _zero_sized(deltas, offset)
    still: set[Expr] = {d.term for d in deltas if not d.reach and d.term is not None}
    if any(not d.reach for d in deltas):  # axes of one iteration
        found = _zero_terms([d for d in deltas if d.reach], offset)
        return None if found is None else found | still
    still = {d.term for d in deltas if d.term is not None and not d.reach}
    if still:
        found = _zero_terms([d for d in deltas if d.reach], offset)
        return None if found is None else found | still
    if not deltas:
        return None if offset else set()
    g = gcd(*(d.scale for d in deltas))
    low, high = _span(deltas, offset)
    if offset % g or low > 0 or high < 0:
        return None
    for cut in range(1, len(deltas)):
        g = gcd(*(d.scale for d in deltas[:cut]))
        low, high = _span(deltas[cut:], offset)
        if -g < low and high < g:
            first, second = _zero_terms(deltas[:cut], 0), _zero_terms(deltas[cut:], offset)
            return None if first is None or second is None else first | second
    if len(deltas) > 1 or offset:
        return set()
    (only,) = deltas
    if only.parts:
        parts = [replace(d, times=None) for d in only.parts]
        return _zero_terms(sorted(parts, key=lambda d: -abs(d.scale)), 0)
    return set() if only.term is None else {only.term}


def _zero_sized(deltas: list[Delta], offset: int) -> set[Expr] | None:
    """The same where some are multiplied with sizes: those that share a product of sizes are zero
    by themselves where the others stay below it."""
    for times in dict.fromkeys(d.times for d in deltas if d.times is not None):
        group = [d for d in deltas if d.times is times]
        rest = [d for d in deltas if d.times is not times]
        up: Expr = const(max(offset, 0))
        down: Expr = const(max(-offset, 0))
        for d in rest:
            if d.most is None:
                break
            most = imul(d.most, abs(d.scale))
            most = most if d.times is None else imul(most, d.times)
            if d.scale > 0 or d.low < 0:
                up = iadd(up, most)
            if d.scale < 0 or d.low < 0:
                down = iadd(down, most)
        else:
            step = imul(times, gcd(*(d.scale for d in group)))
            if not (_is_below(up, step) and _is_below(down, step)):
                continue
            first = _zero_terms([replace(d, times=None) for d in group], 0)
            second = _zero_terms(rest, offset)
            return None if first is None or second is None else first | second
    return set()


def _is_below(a: Expr, b: Expr) -> bool:
    """Whether a < b for all sizes. A remainder is at most what is divided, and so is a quotient
    times its divisor."""
    for smooth in (False, True):
        if smooth:
            terms, constant = linear_terms(a)
            a = const(constant)
            for t, c in terms.items():
                x, scale = t, c
                if isinstance(t, Call) and t.op in ("remainder", "floor_divide") and c > 0:
                    d = t.args[1]
                    if t.op == "remainder":
                        x = t.args[0]
                    elif isinstance(d, Const) and c % int(d.value) == 0:
                        x, scale = t.args[0], c // int(d.value)
                a = iadd(a, imul(x, scale))
        limits = bounds(isub(a, b))
        if limits is not None and limits[1] < 0:
            return True
    return False


def _span(deltas: list[Delta], offset: int) -> tuple[float, float]:
    """The interval of the sum of the terms and the offset."""
    ends = [(d.scale * d.low, d.scale * d.high) for d in deltas]
    return offset + sum(min(e) for e in ends), offset + sum(max(e) for e in ends)


# ---- loops


def carried(loop: For, reductions: bool = False) -> tuple[Access, Access] | None:
    """A pair of accesses by which iterations of `loop` depend on each other, or None.

    Accumulations by one combiner into places that iterations share count unless `reductions`."""
    private = local_buffers(loop.body)
    found = [a for a in accesses(loop.body) if a.buffer not in private]
    written = frozenset(a.buffer for a in found if a.write)
    for i, a in enumerate(found):
        for b in found[i:]:
            if a.buffer is not b.buffer or not (a.write or b.write):
                continue
            if reductions and a.combine is not None and a.combine == b.combine:
                continue
            axes = pinned(a, b, (loop,), written)
            if axes is not None and loop.axis not in axes:
                return a, b
    return None
