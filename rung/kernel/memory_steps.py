"""Schedule steps on buffers: pack, stage, flatten, compute_at, inline, prefetch."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from rung.ir.expr import (
    Expr,
    Read,
    Var,
    both,
    bounds,
    const,
    from_terms,
    iadd,
    ifloordiv,
    iminimum,
    imod,
    imul,
    isub,
    linear_terms,
    raw_call,
    read,
    substitute,
    transform,
    var,
    variables,
    walk,
)  # fmt: skip
from rung.kernel.deps import local_buffers, written_buffers
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Prefetch,
    Stmt,
    Store,
    map_stmts,
    row_major,
    stmt_exprs,
    walk_stmts,
    with_body,
)  # fmt: skip
from rung.kernel.rewrite import block, map_exprs, replace_buffer, substitute_stmt, used_buffers
from rung.kernel.step import Step

LINE_BYTES = 64
"""Bytes of a line of the caches."""
MOST_LINES = 32
"""Lines that an iteration of a loop asks for at most."""


def reads_of(s: Stmt, buffer: Buffer) -> list[Read]:
    """The distinct reads of a buffer below a statement."""
    return [e for e in all_exprs(s) if isinstance(e, Read) and e.source is buffer]


def all_exprs(s: Stmt) -> list[Expr]:
    """The distinct expressions, with their parts, below a statement."""
    return list(walk(*(e for x in walk_stmts(s) for e in stmt_exprs(x))))


def inner_loops(s: Stmt) -> list[For]:
    """The loops below a statement."""
    return [x for x in walk_stmts(s) if isinstance(x, For)]


def map_reads(s: Stmt, old: Read, new: Expr) -> Stmt:
    """`s` with one read replaced."""
    return map_exprs(s, lambda e: transform(e, lambda x: new if x is old else None))


@dataclass(frozen=True)
class Pack(Step):
    """What a loop reads of a buffer is copied, at the start of each iteration, to scratch memory in
    the order of the given axes.

        for j0 in range(2):                        for j0 in range(2):
            for i in range(14):                        b_packed: scratch(f32[64, 32])
                for k in range(64):                    for b_packed_k in range(64):
                    for j1 in range(32):                   for b_packed_j1 in range(32):
                        c[i, 32*j0 + j1] +=     ->             b_packed[...] = b[...]
                            a[i, k]*                   for i in range(14): ...
                            b[k, 32*j0 + j1]                   c[i, 32*j0 + j1] +=
                                                                   a[i, k]*b_packed[k, j1]
        pack('b', 'j0', ('k', 'j1'))

    The axes are the loops inside on which the read depends; the copy has an element for each of
    their iterations, so any index and guard can be packed (`im2col` is the pack of an image). The
    loop must read the buffer along these axes in one way, and not write it."""

    name = "pack"
    buffer_name: str
    at: str
    axes: tuple[str, ...]
    packed: str = ""

    @property
    def _name(self) -> str:
        return self.packed or f"{self.buffer_name}_packed"

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.at, *self.axes)
        self.require_fresh(kernel, *(f"{self._name}_{a}" for a in self.axes))
        buffer = self.buffer(kernel, self.buffer_name)
        new = self.on_loops(kernel, self.at, lambda f: self._packed(f, buffer))
        if new.body is kernel.body:
            self.fail(f"loop {self.at!r} does not read {self.buffer_name!r}")
        return new

    def _packed(self, around: For, buffer: Buffer) -> Stmt:
        found = [r for r in reads_of(around.body, buffer) if self._along(r)]
        if not found:
            return around
        if len(found) > 1:
            self.fail(f"loop {self.at!r} reads {self.buffer_name!r} in {len(found)} ways")
        (old,) = found
        sources = {e.source for e in walk(old) if isinstance(e, Read)}
        if not written_buffers(around.body).isdisjoint(sources):
            self.fail(f"loop {self.at!r} writes what is packed")
        loops = self._copied(around, old)
        axes = tuple(f.axis for f in loops)
        value = self._enclosing(around, old, axes)
        scratch = Buffer(self._name, value.dtype, tuple(v.extent for v in axes), "scratch")
        new = read(scratch, axes)
        body = map_exprs(
            around.body, lambda e: transform(e, lambda x: new if x is value else None)
        )
        return replace(around, body=block(Alloc(scratch), self._copy(scratch, value, loops), body))

    def _enclosing(self, around: For, old: Read, axes: tuple[Var, ...]) -> Expr:
        """The largest expression that holds the read, depends on no other loop inside and on no
        other memory: a guarded or converted element is packed as it is used."""
        others = {f.axis for f in inner_loops(around.body)} - set(axes)
        sources = {e.source for e in walk(old) if isinstance(e, Read)}
        for x in walk_stmts(around.body):
            if not isinstance(x, Store | Accumulate):
                continue
            for e in walk(x.value):  # parents come first
                within = set(walk(e))
                reads = {r.source for r in within if isinstance(r, Read)}
                if old in within and reads <= sources and not variables(e) & others:
                    return e
        return old

    def _along(self, r: Read) -> bool:
        return {v.name for v in variables(r)}.issuperset(self.axes)

    def _copied(self, around: For, old: Read) -> list[For]:
        """The loop for each axis of the copy."""
        inside = inner_loops(around.body)
        free = variables(old)
        for f in inside:
            if f.axis in free and f.axis.name not in self.axes:
                self.fail(f"the read depends on {f.axis.name!r} too")
        found: list[For] = []
        for name in self.axes:
            candidates = [f for f in inside if f.axis.name == name and f.axis in free]
            if not candidates:
                self.fail(f"what loop {self.at!r} reads does not depend on {name!r}")
            if any(f.extent is not candidates[0].extent for f in candidates):
                self.fail(f"the loops {name!r} have different extents")
            if not variables(candidates[0].extent).isdisjoint(f.axis for f in inside):
                self.fail(f"the extent of {name!r} changes in loop {self.at!r}")
            found.append(candidates[0])
        self._check_conditions(around.body, old)
        return found

    def _check_conditions(self, s: Stmt, old: Read) -> None:
        for x in walk_stmts(s):
            if not isinstance(x, If) or variables(x.condition).isdisjoint(variables(old)):
                continue
            if old in all_exprs(x.body):
                self.fail("the read is under a condition on its index")

    def _copy(self, scratch: Buffer, old: Expr, loops: Sequence[For]) -> Stmt:
        axes = [var(f"{self._name}_{f.axis.name}", f.axis.extent) for f in loops]
        mapping: dict[Var, Expr] = {f.axis: v for f, v in zip(loops, axes, strict=True)}
        nest: Stmt = Store(scratch, tuple(axes), substitute(old, mapping))
        for f, v in reversed(list(zip(loops, axes, strict=True))):
            nest = For(v, f.extent, block(nest))
        return nest


@dataclass(frozen=True)
class Stage(Step):
    """What a phase reads of a buffer is copied by a phase of its own, before it, to temporary
    memory in the order of the given axes. The rows of the copy are `pad` elements apart from
    each other.

                                              for x_staged_k in range(64):
                                                  for x_staged_i in range(14):
        for i in range(14):                           x_staged[...] = x[64*x_staged_i + x_staged_k]
            for k in range(64):         ->    for i in range(14):
                s[()] += x[64*i + k]              for k in range(64):
                                                      s[()] += x_staged[k, i]
        stage('x', ('k', 'i'))

    The phase must read the buffer along these axes in one way, and not write it."""

    name = "stage"
    buffer_name: str
    axes: tuple[str, ...]
    pad: int = 0
    staged: str = ""

    @property
    def _name(self) -> str:
        return self.staged or f"{self.buffer_name}_staged"

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, *self.axes)
        self.require_fresh(kernel, *(f"{self._name}_{a}" for a in self.axes))
        buffer = self.buffer(kernel, self.buffer_name)
        phases: list[Stmt] = []
        params = list(kernel.params)
        for phase in kernel.phases:
            found = [r for r in reads_of(phase, buffer) if self._along(r)]
            if not found:
                phases.append(phase)
                continue
            if len(found) > 1 or len(params) > len(kernel.params):
                self.fail(f"{self.buffer_name!r} is read along these axes in several ways")
            temp, copy, rest = self._staged(phase, found[0])
            params.append(temp)
            phases += [copy, rest]
        if len(params) == len(kernel.params):
            self.fail(f"nothing reads {self.buffer_name!r} along these axes")
        return replace(kernel, params=tuple(params), body=Block(tuple(phases)))

    def _along(self, r: Read) -> bool:
        return {v.name for v in variables(r)}.issuperset(self.axes)

    def _staged(self, phase: Stmt, old: Read) -> tuple[Buffer, Stmt, Stmt]:
        sources = {e.source for e in walk(old) if isinstance(e, Read)}
        if not written_buffers(phase).isdisjoint(sources):
            self.fail("the phase writes what is copied")
        free = variables(old)
        loops = [
            next(f for f in inner_loops(phase) if f.axis.name == a and f.axis in free)
            for a in self.axes
        ]
        for v in free - {f.axis for f in loops}:
            self.fail(f"the read depends on {v.name!r} too")
        for n, f in enumerate(loops):
            for v in variables(f.extent) - {x.axis for x in loops[:n]}:
                self.fail(f"the extent of {f.axis.name!r} depends on {v.name!r}")
        axes = tuple(f.axis for f in loops)
        shape = tuple(v.extent for v in axes)
        strides = list(row_major(shape))
        for d in range(len(shape) - 1):
            strides[d] = (
                strides[d] // shape[-1] * (shape[-1] + self.pad) if self.pad else strides[d]
            )
        temp = Buffer(self._name, old.dtype, shape, "temp", tuple(strides))
        copies = [var(f"{self._name}_{v.name}", v.extent) for v in axes]
        mapping: dict[Var, Expr] = dict(zip(axes, copies, strict=True))
        nest: Stmt = Store(temp, tuple(copies), substitute(old, mapping))
        for f, v in reversed(list(zip(loops, copies, strict=True))):
            nest = For(v, substitute(f.extent, mapping), block(nest))
        return temp, nest, map_reads(phase, old, read(temp, axes))


@dataclass(frozen=True)
class Flatten(Step):
    """The dims of a local buffer from `dim` on become one.

        t: scratch(f32[8, 3, 3])               t: scratch(f32[8, 9])
        t[i, n//3, n%3] = 0.0           ->     t[i, n] = 0.0
        flatten('t', 1)

    The buffer must be dense."""

    name = "flatten"
    buffer_name: str
    dim: int

    def rewrite(self, kernel: Kernel) -> Kernel:
        old = self.buffer(kernel, self.buffer_name)
        if old.role not in ("scratch", "register") or old.strides != row_major(old.shape):
            self.fail(f"{self.buffer_name!r} is not a dense local buffer")
        if not 0 <= self.dim < len(old.shape):
            self.fail(f"{self.buffer_name!r} has no dim {self.dim}")
        shape = (*old.shape[: self.dim], prod(old.shape[self.dim :]))
        new = Buffer(old.name, old.dtype, shape, old.role)

        def place(index: tuple[Expr, ...]) -> tuple[Buffer, tuple[Expr, ...]]:
            tail: Expr = const(0)
            for i, step in zip(index[self.dim :], row_major(old.shape[self.dim :]), strict=True):
                tail = iadd(tail, imul(i, step))
            return new, (*index[: self.dim], tail)

        def realloc(s: Stmt) -> Stmt | None:
            return Alloc(new) if isinstance(s, Alloc) and s.buffer is old else None

        body = map_stmts(replace_buffer(kernel.body, old, place), realloc)
        return replace(kernel, body=block(body))


@dataclass(frozen=True)
class Producer:
    """The nest that fills a buffer: `loops` over its elements, `body` inside of them, and the
    index at which the one store is."""

    buffer: Buffer
    loops: tuple[For, ...]
    body: Block
    store: Store

    def coordinates(self, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """The iteration that makes element `index`."""
        position = flat(index, self.buffer.shape)
        found: dict[Var, Expr] = {}
        terms, _ = linear_terms(flat(self.store.index, self.buffer.shape))
        for f in self.loops:
            place = terms.get(f.axis, 0)
            if f.axis.extent == 1:
                found[f.axis] = const(0)
                continue
            digit = ifloordiv(position, place)
            top = place * f.axis.extent == prod(self.buffer.shape)
            found[f.axis] = digit if top else imod(digit, f.axis.extent)
        return tuple(found[f.axis] for f in self.loops)


def flat(index: tuple[Expr, ...], shape: tuple[int, ...]) -> Expr:
    """The row-major position of an index."""
    total: dict[Expr, int] = {}
    constant = 0
    for i, stride in zip(index, row_major(shape), strict=True):
        terms, c = linear_terms(i)
        constant += c * stride
        for t, scale in terms.items():
            total[t] = total.get(t, 0) + scale * stride
    return from_terms({t: c for t, c in total.items() if c}, constant)


def producer_of(step: Step, kernel: Kernel, buffer: Buffer) -> tuple[int, Producer]:
    """The phase that fills a temp buffer and nothing else, an iteration for each element."""
    writers = [n for n, p in enumerate(kernel.phases) if buffer in written_buffers(p)]
    if len(writers) != 1 or buffer.role != "temp":
        step.fail(f"{buffer.name!r} is not a temp buffer filled by one phase")
    phase = kernel.phases[writers[0]]
    stores = [
        s for s in walk_stmts(phase) if isinstance(s, Store | Accumulate) and s.buffer is buffer
    ]
    others = written_buffers(phase) - local_buffers(phase) - {buffer}
    if (
        len(stores) != 1
        or not isinstance(stores[0], Store)
        or stores[0].guard is not None
        or others
    ):
        step.fail(f"{buffer.name!r} is not filled by one plain store")
    loops: list[For] = []
    inside: Block = Block((phase,))
    terms, offset = linear_terms(flat(stores[0].index, buffer.shape))
    while len(inside.stmts) == 1 and isinstance(inside.stmts[0], For):
        f = inside.stmts[0]
        if f.axis not in terms and f.axis.extent > 1:
            break
        loops.append(f)
        inside = f.body
    _check_digits(step, buffer, loops, terms, offset)
    return writers[0], Producer(buffer, tuple(loops), inside, stores[0])


def _check_digits(
    step: Step, buffer: Buffer, loops: Sequence[For], terms: Mapping[Expr, int], offset: int
) -> None:
    """Check that the loops are the digits of the position in the buffer."""
    by_place = sorted((f for f in loops if f.axis in terms), key=lambda f: terms[f.axis])
    place = 1
    exact = offset == 0 and len(by_place) == len(terms)
    for f in by_place:
        exact = exact and terms[f.axis] == place and f.extent is const(f.axis.extent)
        place *= f.axis.extent
    if not exact or place != prod(buffer.shape):
        step.fail(f"the loops that fill {buffer.name!r} are not those over its elements")


def without_phase(kernel: Kernel, number: int, buffer: Buffer, body: Sequence[Stmt]) -> Kernel:
    """`kernel` with other phases, less one phase and the buffer that it filled."""
    phases = [p for n, p in enumerate(body) if n != number]
    params = tuple(b for b in kernel.params if b is not buffer)
    return replace(kernel, params=params, body=block(*phases))


@dataclass(frozen=True)
class Inline(Step):
    """An element-wise temp buffer is computed where it is read.

        for i in range(8):
            t[i] = exp(x[i])                  for j in range(8):
        for j in range(8):              ->        y[j] = exp(x[j])*2.0
            y[j] = t[j]*2.0

    The buffer must be filled by one store of a phase of its own, without reductions."""

    name = "inline"
    buffer_name: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        buffer = self.buffer(kernel, self.buffer_name)
        number, made = producer_of(self, kernel, buffer)
        if made.body.stmts != (made.store,):
            self.fail(f"{self.buffer_name!r} is made by more than one statement")
        changed = {
            b for n, p in enumerate(kernel.phases) if n != number for b in written_buffers(p)
        }
        sources = {e.source for e in walk(made.store.value) if isinstance(e, Read)}
        if not changed.isdisjoint(sources):
            self.fail(f"what {self.buffer_name!r} is made of changes later")
        phases = [map_exprs(p, lambda e: _inlined(e, made)) for p in kernel.phases]
        return without_phase(kernel, number, buffer, phases)


def _inlined(e: Expr, made: Producer) -> Expr:
    def leaf(x: Expr) -> Expr | None:
        if not (isinstance(x, Read) and x.source is made.buffer):
            return None
        index = tuple(transform(i, leaf) for i in x.index)
        guard = None if x.guard is None else transform(x.guard, leaf)
        bound = zip((f.axis for f in made.loops), made.coordinates(index), strict=True)
        value = substitute(made.store.value, dict(bound))
        if guard is None:
            return value
        value = transform(value, lambda r: _under(r, guard))
        return raw_call("where", (guard, value, const(0, x.dtype)), x.dtype)

    return transform(e, leaf)


def _under(x: Expr, guard: Expr) -> Expr | None:
    if isinstance(x, Read):
        return read(x.source, x.index, x.dtype, both(guard, x.guard))
    return None


@dataclass(frozen=True)
class ComputeAt(Step):
    """The part of a temp buffer that an iteration of a loop reads is computed at its start.

        for i in range(64):                      for j0 in range(8):
            t[i] = exp(x[i])                         t_j0: scratch(f32[8])
        for j0 in range(8):                          for t_i in range(8):
            for j1 in range(8):            ->            t_j0[t_i] = exp(x[8*j0 + t_i])
                y[8*j0 + j1] = t[8*j0 + j1]          for j1 in range(8):
                                                         y[8*j0 + j1] = t_j0[j1]
        compute_at('t', 'j0')

    The buffer must be filled by a phase of its own, one iteration of its outer loops for each
    element, and be read in that loop alone."""

    name = "compute_at"
    buffer_name: str
    at: str
    role: str = "scratch"

    def rewrite(self, kernel: Kernel) -> Kernel:
        if self.role not in ("scratch", "register"):
            self.fail("the role is scratch or register")
        self.require(kernel, self.at)
        buffer = self.buffer(kernel, self.buffer_name)
        number, made = producer_of(self, kernel, buffer)
        changed = {
            b for n, p in enumerate(kernel.phases) if n != number for b in written_buffers(p)
        }
        if not changed.isdisjoint(used_buffers(made.body)):
            self.fail(f"what {self.buffer_name!r} is made of changes later")
        taken = [f"{self.buffer_name}_{f.axis.name}" for f in made.loops]
        self.require_fresh(kernel, *taken)
        new = self.on_loops(kernel, self.at, lambda f: self._with_part(f, made))
        phases = new.phases
        if any(buffer in used_buffers(p) for n, p in enumerate(phases) if n != number):
            self.fail(f"{self.buffer_name!r} is read outside of loop {self.at!r} as well")
        return without_phase(kernel, number, buffer, phases)

    def _with_part(self, around: For, made: Producer) -> Stmt:
        found = reads_of(around.body, made.buffer)
        if not found:
            return around
        inner = frozenset(f.axis for f in inner_loops(around.body))
        needed = [made.coordinates(r.index) for r in found]
        box = [self._interval([c[d] for c in needed], inner) for d in range(len(made.loops))]
        shape = tuple(width for _, width in box)
        name = f"{self.buffer_name}_{self.at}"
        local = Buffer(name, made.buffer.dtype, shape, self.role)
        body: Stmt = around.body
        for old, coordinate in zip(found, needed, strict=True):
            index = tuple(isub(c, base) for c, (base, _) in zip(coordinate, box, strict=True))
            body = map_reads(body, old, read(local, index, guard=old.guard))
        return replace(around, body=block(Alloc(local), self._part(made, local, box), body))

    def _interval(self, needed: list[Expr], inner: frozenset[Var]) -> tuple[Expr, int]:
        """(first, width) of what the iterations inside need of one coordinate."""
        parts = [self._interval_of(e, inner) for e in needed]
        first = parts[0][0]
        ends: list[tuple[int, int]] = []
        for base, low, high in parts:
            shift = bounds(isub(base, first))
            if shift is None or shift[0] != shift[1]:
                self.fail(f"loop {self.at!r} reads parts of {self.buffer_name!r} that lie apart")
            ends.append((low + shift[0], high + shift[0]))
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        base = iadd(first, low)
        limits = bounds(base)
        if limits is None or limits[0] < 0:
            self.fail(f"the part of {self.buffer_name!r} may begin before its start")
        return base, high - low + 1

    def _interval_of(self, e: Expr, inner: frozenset[Var]) -> tuple[Expr, int, int]:
        """An expression as (what is fixed in an iteration, least, greatest of the rest)."""
        terms, constant = linear_terms(e)
        fixed = {t: c for t, c in terms.items() if variables(t).isdisjoint(inner)}
        rest = from_terms({t: c for t, c in terms.items() if t not in fixed}, 0)
        limits = bounds(rest)
        if limits is None or any(isinstance(x, Read) for x in walk(*fixed)):
            self.fail(f"which part of {self.buffer_name!r} is needed is not known")
        return from_terms(fixed, constant), limits[0], limits[1]

    def _part(self, made: Producer, local: Buffer, box: list[tuple[Expr, int]]) -> Stmt:
        """The nest that fills the local buffer."""
        axes = [
            var(f"{self.buffer_name}_{f.axis.name}", width)
            for f, (_, width) in zip(made.loops, box, strict=True)
        ]
        mapping: dict[Var, Expr] = {}
        for f, v, (base, _) in zip(made.loops, axes, box, strict=True):
            mapping[f.axis] = iadd(base, v)
        index = tuple(axes)
        body = replace_buffer(made.body, made.buffer, lambda _: (local, index))
        nest = substitute_stmt(body, mapping)
        for f, v, (base, width) in reversed(list(zip(made.loops, axes, box, strict=True))):
            extent = iminimum(const(width), isub(const(f.axis.extent), base))
            nest = For(v, extent, block(nest))
        return nest


@dataclass(frozen=True)
class PrefetchIn(Step):
    """Each iteration of a loop asks for the lines that a later one reads.

    for k in range(64):                for k in range(64):
        s[()] += x[8*k]      ->            prefetch(x[8*k + 32])
                                           s[()] += x[8*k]
    prefetch('x', 'k', 4)
    """

    name = "prefetch"
    buffer_name: str
    at: str
    distance: int

    def rewrite(self, kernel: Kernel) -> Kernel:
        if self.distance < 1:
            self.fail("the distance is at least 1")
        buffer = self.buffer(kernel, self.buffer_name)
        new = self.on_loops(kernel, self.at, lambda f: self._with_hint(f, buffer))
        if new.body is kernel.body:
            self.fail(f"loop {self.at!r} does not step through {self.buffer_name!r}")
        return new

    def _with_hint(self, around: For, buffer: Buffer) -> Stmt:
        inner = inner_loops(around.body)
        hints = dict.fromkeys(
            i
            for r in reads_of(around.body, buffer)
            if around.axis in variables(*r.index)
            for i in self._lines(r, around, inner)
        )
        return replace(around, body=block(*(Prefetch(buffer, i) for i in hints), around.body))

    def _lines(self, r: Read, around: For, inner: Sequence[For]) -> Iterator[tuple[Expr, ...]]:
        """An index in each line that a later iteration reads."""
        later: dict[Var, Expr] = {around.axis: iadd(around.axis, self.distance)}
        buffer = r.source
        assert isinstance(buffer, Buffer)
        for index in _line_indices(buffer, r.index, inner):
            yield tuple(substitute(i, later) for i in index)


@dataclass(frozen=True)
class PrefetchRest(Step):
    """Before a loop, asks for the lines of parameters that the loops behind it read and write.

    for k in range(64):                prefetch(z[0])
        s[()] += x[k]                  prefetch(y[0])
    for i in range(8):       ->        for k in range(64):
        y[i] = s[()]*z[i]                  s[()] += x[k]
                                       for i in range(8):
                                           y[i] = s[()]*z[i]
    prefetch_rest('k')
    """

    name = "prefetch_rest"
    at: str

    def rewrite(self, kernel: Kernel) -> Kernel:
        self.require(kernel, self.at)
        if not self.has_effect(kernel):
            self.fail(f"no loop behind {self.at!r} reads a parameter")
        return replace(kernel, body=block(self._visit(kernel.body, set(kernel.params))))

    def has_effect(self, kernel: Kernel) -> bool:
        """Whether there is something to ask for."""
        return self._visit(kernel.body, set(kernel.params)) is not kernel.body

    def _visit(self, s: Stmt, params: set[Buffer]) -> Stmt:
        if self.at not in s.axes:
            return s
        if isinstance(s, For | If):
            body = block(self._visit(s.body, params))
            return s if body is s.body else with_body(s, body)
        assert isinstance(s, Block)
        found: list[Stmt] = []
        for n, c in enumerate(s.stmts):
            if isinstance(c, For) and c.axis.name == self.at:
                found += _hints(s.stmts[n + 1 :], params)
            found.append(self._visit(c, params))
        same = len(found) == len(s.stmts) and all(map(operator.is_, found, s.stmts))
        return s if same else block(*found)


def _hints(stmts: Sequence[Stmt], params: set[Buffer]) -> list[Prefetch]:
    """A hint for each line of `params` that loops among the statements read in all of their
    iterations, and for those that these write."""
    found: dict[tuple[Buffer, tuple[Expr, ...]], None] = {}
    for s in stmts:
        inner = inner_loops(s)
        moving = {f.axis for f in inner}
        places: list[tuple[Buffer, tuple[Expr, ...]]] = [
            (e.source, e.index)
            for e in all_exprs(s)
            if isinstance(e, Read) and e.source in params and moving <= variables(*e.index)
        ]
        if moving and places:
            stores = [x for x in walk_stmts(s) if isinstance(x, Store | Accumulate)]
            places += [(x.buffer, x.index) for x in stores if x.buffer in params]
            for buffer, index in places:
                found.update(((buffer, i), None) for i in _line_indices(buffer, index, inner))
    return [Prefetch(buffer, index) for buffer, index in found]


def _line_indices(
    buffer: Buffer, index: tuple[Expr, ...], inner: Sequence[For]
) -> Iterator[tuple[Expr, ...]]:
    """An index in each line that the loops `inner` touch: the first alone where these do not lie
    side by side, none where the place depends on data."""
    if any(isinstance(e, Read) for e in walk(*index)):
        return
    start: dict[Var, Expr] = {f.axis: const(0) for f in inner}
    first = tuple(substitute(i, start) for i in index)
    if buffer.strides[-1:] != (1,):
        yield first
        return
    per_line = LINE_BYTES // buffer.dtype.itemsize
    for at in _line_starts(buffer, index, inner, per_line):
        yield (*first[:-1], iadd(first[-1], at)) if at else first


def _line_starts(
    buffer: Buffer, index: tuple[Expr, ...], inner: Sequence[For], per_line: int
) -> list[int]:
    """Elements, as distances from the first, one in each line that `inner` touches: runs that lie
    side by side, repeated by the loops that step farther."""
    terms: dict[Expr, int] = {}
    for i, step in zip(index, buffer.strides, strict=True):
        for term, scale in linear_terms(i)[0].items():
            terms[term] = terms.get(term, 0) + scale * step
    moving = sorted((terms[f.axis], f.axis.extent) for f in inner if terms.get(f.axis))
    span, runs = 1, [0]
    for step, extent in moving:
        if 0 < step <= span and len(runs) == 1:
            span += step * (extent - 1)
        elif len(runs) * extent <= MOST_LINES:
            runs = [at + step * n for at in runs for n in range(extent)]
    lines = [at + more for at in runs for more in range(0, span, per_line)]
    return lines if len(lines) <= MOST_LINES else [0]
