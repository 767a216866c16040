"""The naive loop nest of one group of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.ir.expr import (
    Expr,
    Read,
    Var,
    both,
    bounds,
    conjuncts,
    const,
    iadd,
    imul,
    isub,
    raw_call,
    read,
    substitute,
    transform,
    var,
    variables,
)  # fmt: skip
from rung.ir.node import Node, Value
from rung.kernel.combine import identity
from rung.kernel.element import Body, canonical, delinearize, linearize
from rung.kernel.group import Group, Grouping, Storage, is_contraction, is_map, scan_rows
from rung.kernel.loop import Accumulate, Alloc, Block, Buffer, Opaque, Stmt, Store, loop
from rung.kernel.naming import KernelCall, finish
from rung.kernel.refine import refine_loops
from rung.kernel.share import share_in_rows

ROW_RECOMPUTE_COST = 8
"""Operations per element up to which a later level of a row computes a value again; beyond that it
is kept in the row's scratch memory, which is in the first-level cache."""


class GroupNest:
    """Builds the naive kernel of one group."""

    def __init__(
        self,
        storage: Storage,
        grouping: Grouping,
        group: Group,
        readers: dict[Value, list[Node]],
    ) -> None:
        self.storage = storage
        self.group = group
        self.members = group.members
        self.inside = set(group.members)
        outputs = {self._memory_owner(v) for v in storage.graph.outputs}
        self.kept = {
            value
            for m in self.members
            for value in m.results
            if value in outputs or any(u not in self.inside for u in readers.get(value, ()))
        }
        self.readers = readers
        self.level: dict[Node, int] = {}
        self.local: dict[Value, tuple[Buffer, Expr]] = {}  # buffer, position of its first element
        self._emitting: int = -1
        self._stored_here: dict[Value, tuple[Expr, int]] = {}
        self._length = 0  # of the loop within the row that is being written
        self._inner_axes: dict[int, Expr] = {}
        self._locals = 0

    def _memory_owner(self, v: Value) -> Value | None:
        buffer = self.storage.elements.memory(v)
        return None if buffer is None else self.storage.elements.owner(buffer)

    def build(self) -> KernelCall:
        """The kernel and its arguments."""
        build = {
            "rows": self._rows,
            "contract": self._contract,
            "scatter": self._scatter,
            "opaque": self._opaque,
        }[self.group.kind]
        phases = tuple(refine_loops(share_in_rows(s)) for s in build())
        sources = dict.fromkeys(m.source for m in self.members if m.source.line)
        return finish(phases, tuple(sources), self.storage, self.group.kind)

    # ---- element expressions within the group

    def _resolve(self, e: Expr) -> Expr:
        """`e` with reads of members' results replaced by local buffers or inlined bodies; each part
        is looked at once, or a value that two others read would be written out twice for each of
        them, and so on."""
        done: dict[Expr, Expr] = {}  # what is local or stored changes from a statement to the next
        stack = [e]
        while stack:
            x = stack[-1]
            if x not in done:
                missing: list[Expr] = []
                made = self._attempt(x, done, missing)
                if missing:  # made once these are
                    stack.extend(reversed(missing))
                    continue
                done[x] = made
            stack.pop()
        return done[e]

    def _attempt(self, e: Expr, done: dict[Expr, Expr], missing: list[Expr]) -> Expr:
        """`e` resolved, if `done` has what it is made of; else `missing` gets that."""

        def part(x: Expr) -> Expr:
            found = done.get(x)
            if found is None:
                missing.append(x)
                return x
            return found

        def leaf(x: Expr) -> Expr | None:
            if not isinstance(x, Read) or not isinstance(x.source, Buffer):
                return None
            if not self.storage.elements.owns(x.source):
                return x  # local: resolved before
            value = self.storage.elements.owner(x.source)
            if value.node not in self.inside:
                return None
            if x is not e:
                return part(x)
            before = len(missing)
            position = part(x.index[0])
            guard = None if x.guard is None else part(x.guard)
            if len(missing) > before:
                return x
            return self._member_read(value, x, position, guard, part)

        return transform(e, leaf)

    def _member_read(
        self,
        value: Value,
        r: Read,
        position: Expr,
        guard: Expr | None,
        part: Callable[[Expr], Expr],
    ) -> Expr:
        node = value.node
        stored_here = self._stored_here.get(value) == (position, self._length)
        being_stored = self.level.get(node, 0) == self._emitting and self._is_map(node)
        if value in self.local and (stored_here or not being_stored):
            buffer, start = self.local[value]
            index = () if not buffer.shape else (isub(position, start),)
            return self._guarded(read(buffer, index, guard=guard), guard)
        stored_before = value in self.kept and self.level.get(node, 0) < self._emitting
        if stored_before or stored_here or not self._is_map(node):
            return read(r.source, (position,), guard=guard)
        body = self.storage.bodies[node]
        bound = dict(zip(body.axes, delinearize(position, value.shape), strict=True))
        return self._guarded(part(substitute(body.exprs[value.index], bound)), guard)

    def _guarded(self, e: Expr, guard: Expr | None) -> Expr:
        """`e` where the guard holds, else 0; nothing is read where it does not."""
        if guard is None:
            return e

        def leaf(x: Expr) -> Expr | None:
            if not isinstance(x, Read):
                return None
            index = tuple(transform(i, leaf) for i in x.index)
            return read(x.source, index, x.dtype, both(guard, x.guard))

        e = transform(e, leaf)
        if isinstance(e, Read):
            return e
        return _under(guard, e)

    # ---- rows

    def _rows(self) -> tuple[Stmt, ...]:
        self._assign_levels()
        axis = var("r", self.group.rows)
        row: Expr = axis if axis.extent > 1 else const(0)
        body: list[Stmt] = []
        for segment in self._segments():
            body.extend(self._segment(segment, row))
        return (loop(axis, *body),)

    def _assign_levels(self) -> None:
        for node in self.members:
            level = 0
            for r in self.storage.bodies[node].reads:
                owner = self.storage.elements.owner(r.source)  # type: ignore[arg-type]
                producer = owner.node
                if producer in self.inside:
                    apart = producer in self.storage.read_often or producer in self.storage.long
                    step = 1 if apart or not is_map(producer, self.storage.elements) else 0
                    level = max(level, self.level[producer] + step)
            self.level[node] = level

    def _segments(self) -> list[list[Node]]:
        """Members in emission order, cut so that contractions stand alone."""
        segments: list[list[Node]] = []
        run: list[Node] = []
        for level in range(max(self.level.values()) + 1):
            members = [m for m in self.members if self.level[m] == level]
            contractions = [m for m in members if is_contraction(m, self.storage.elements)]
            if contractions and run:
                segments.append(run)
                run = []
            segments.extend([c] for c in contractions)
            run = run + [m for m in members if m not in contractions]
        if run:
            segments.append(run)
        return segments

    def _segment(self, members: list[Node], row: Expr) -> list[Stmt]:
        """The statements of a run of levels; rows are taken as fine as the run allows."""
        rows = self.group.rows
        finest = self._finest_rows(members)
        number = self._locals
        self._locals += 1
        if finest == rows:
            return self._levels(members, rows, row, row, members)
        inner = var(f"i{number}", finest // rows)
        fine = iadd(imul(row, finest // rows), inner)
        outer_allocs = [self._alloc(value, rows, row) for value in self._escaping(members)]
        outside = dict(self.local)
        body = self._levels(members, finest, fine, row, members)
        self.local = outside  # the others end with the loop
        return [*outer_allocs, loop(inner, *body)]

    def _finest_rows(self, members: list[Node]) -> int:
        rows = self.group.rows
        if len(members) == 1:
            node = members[0]
            body = self.storage.bodies[node]
            if is_contraction(node, self.storage.elements) or body.form.scan is not None:
                return rows
            return rows
        sizes = {prod(v.extent for v in self.storage.bodies[m].axes) // rows for m in members}
        smallest = min(sizes)
        for candidate in sorted(_divisors_of_prefixes(self.storage, members, rows), reverse=True):
            if candidate // rows <= smallest and self._local_under(members, candidate):
                return candidate
        return rows

    def _local_under(self, members: list[Node], rows: int) -> bool:
        from_run = set(members)
        row = var("r", rows)
        for m in members:
            body = self.storage.bodies[m]
            size = prod(v.extent for v in body.axes)
            if size % rows or (body.form.scan is not None and scan_rows(body) % rows):
                return False
            inner = var("c", size // rows)
            shape = tuple(v.extent for v in body.axes)
            place = iadd(imul(row, size // rows), inner)
            bound = dict(zip(body.axes, delinearize(place, shape), strict=True))
            for r in body.reads:
                owner = self.storage.elements.owner(r.source)  # type: ignore[arg-type]
                if owner.node in from_run and not _within_row(
                    substitute(r.index[0], bound), row, owner.type.size // rows
                ):
                    return False
        return True

    def _escaping(self, members: list[Node]) -> list[Value]:
        """Local results of a run that later segments read, themselves or within what is computed
        again there."""
        read_later: set[Node] = set()
        own = set(members)

        def is_read_later(v: Value) -> bool:
            return any(
                u in read_later or (u in self.inside and u not in own)
                for u in self.readers.get(v, ())
            )

        found: list[Value] = []
        for m in reversed(members):  # readers come before what they read
            again = self._recomputed(m)
            later = [v for v in m.results if v not in self.kept and is_read_later(v)]
            if again and later:
                read_later.add(m)
            elif not again:
                found += later
        return found[::-1]

    def _recomputed(self, node: Node) -> bool:
        """Whether a local map is inlined wherever it is read."""
        if not is_map(node, self.storage.elements):
            return False
        cost, reads = self.storage.inlined_cost(node)
        size = node.results[0].type.size
        heavy = [v for v in reads if v.type.size * 2 > size and v.node not in self.inside]
        levels = {self.level[u] for u in self.readers.get(node.results[0], ()) if u in self.inside}
        if levels <= {self.level[node]}:
            return True
        if node in self.storage.read_often or node in self.storage.long:
            return False
        return cost <= ROW_RECOMPUTE_COST and len(heavy) <= 2

    def _alloc(self, value: Value, rows: int, row: Expr) -> Stmt:
        """A scratch buffer for one row of `value`."""
        size = value.type.size // rows
        self._locals += 1
        shape = (size,) if size != 1 else ()
        role = "scratch" if shape else "register"
        buffer = Buffer(f"t{self._locals}", value.type.dtype, shape, role)
        self.local[value] = (buffer, canonical(imul(row, size)))
        return Alloc(buffer)

    def _levels(
        self, members: list[Node], rows: int, row: Expr, outer: Expr, run: list[Node]
    ) -> list[Stmt]:
        stmts: list[Stmt] = []
        for level in sorted({self.level[m] for m in members}):
            self._emitting = level
            here = [m for m in members if self.level[m] == level]
            stmts.extend(self._level(here, rows, row))
        return stmts

    def _level(self, members: list[Node], rows: int, row: Expr) -> list[Stmt]:
        """The loops of one level; members over equally long inner ranges share a loop."""
        self._stored_here.clear()
        self._inner_axes.clear()
        before: list[Stmt] = []
        shared: dict[int, list[Stmt]] = {}
        after: list[Stmt] = []
        alone: list[Stmt] = []
        inner: dict[tuple[int, ...], list[Node]] = {}
        for node in members:
            body = self.storage.bodies[node]
            size = prod(v.extent for v in body.axes) // rows
            if is_map(node, self.storage.elements):
                if stmts := self._map_stores(node, body, size, row, rows, before):
                    shared.setdefault(size, []).extend(stmts)
            elif body.form.scan is not None:
                alone.extend(self._scan(node, body, size, row, rows))
            elif size == 1 and not is_contraction(node, self.storage.elements):
                length = prod(v.extent for v in body.reduce)
                stmts, final = self._row_reduction(node, body, row, rows, before)
                shared.setdefault(length, []).extend(stmts)
                after.extend(final)
            else:
                alone_always = is_contraction(node, self.storage.elements)
                key = (size, *(v.extent for v in body.reduce), id(node) * alone_always)
                inner.setdefault(key, []).append(node)
        for nodes in inner.values():
            alone.extend(self._inner_reductions(nodes, row, rows))
        loops = [
            loop(axis, *stmts)
            if isinstance(axis := self._inner(length), Var)
            else Block(tuple(stmts))
            for length, stmts in shared.items()
        ]
        return [*before, *loops, *after, *alone]

    def _bind(self, body: Body, size: int, row: Expr, inner: Expr) -> dict[Var, Expr]:
        place = iadd(imul(row, size), inner)
        shape = tuple(v.extent for v in body.axes)
        return dict(zip(body.axes, delinearize(place, shape), strict=True))

    def _inner(self, size: int) -> Expr:
        """The variable of this level's loop over `size` positions within the row."""
        if size not in self._inner_axes:
            self._locals += 1
            self._inner_axes[size] = var(f"c{self._locals}", size) if size != 1 else const(0)
        return self._inner_axes[size]

    def _map_stores(
        self, node: Node, body: Body, size: int, row: Expr, rows: int, before: list[Stmt]
    ) -> list[Stmt]:
        stmts: list[Stmt] = []
        inner = self._inner(size)
        self._length = size
        bound = self._bind(body, size, row, inner)
        for value, e in zip(node.results, body.exprs, strict=True):
            if value not in self.kept and self._recomputed(node):
                continue
            element = self._resolve(substitute(e, bound))
            if value in self.kept:
                place = canonical(iadd(imul(row, size), inner))
                stmts.append(Store(self._buffer(value), (place,), element))
                self._stored_here[value] = (place, size)
                continue
            if value not in self.local:
                before.append(self._alloc(value, rows, row))
            buffer, start = self.local[value]
            index = (isub(iadd(imul(row, size), inner), start),) if buffer.shape else ()
            stmts.append(Store(buffer, index, element))
            self._stored_here[value] = (canonical(iadd(imul(row, size), inner)), size)
        return stmts

    def _is_map(self, node: Node) -> bool:
        return is_map(node, self.storage.elements)

    def _buffer(self, value: Value) -> Buffer:
        buffer = self.storage.elements.memory(value)
        assert buffer is not None
        return buffer

    def _accumulator(
        self, value: Value, combine: str, running: bool = False
    ) -> tuple[Buffer, list[Stmt]]:
        """A register for a result that grows and the statements that start it. One that is read on
        the way (`running`) is f64 for f32: it is a chain in any case, and rounded for each read."""
        self._locals += 1
        dtype = dt.accumulator(value.type.dtype)
        if running and value.type.dtype is dt.float32:
            dtype = dt.float64
        buffer = Buffer(f"s{self._locals}", dtype, (), "register")
        return buffer, [Alloc(buffer), Store(buffer, (), identity(combine, dtype))]

    def _row_reduction(
        self, node: Node, body: Body, row: Expr, rows: int, before: list[Stmt]
    ) -> tuple[list[Stmt], list[Stmt]]:
        """(statements of the loop over the row, statements after it) of a reduction to one
        element."""
        length = prod(v.extent for v in body.reduce)
        inner = self._inner(length)
        self._length = length
        bound = self._bind(body, 1, row, const(0))
        places = delinearize(inner, tuple(v.extent for v in body.reduce))
        bound.update(zip(body.reduce, places, strict=True))
        combine = body.form.combine or "add"
        loop_stmts: list[Stmt] = []
        final: list[Stmt] = []
        for value, e in zip(node.results, body.exprs, strict=True):
            buffer, start = self._accumulator(value, combine)
            before.extend(start)
            element = _cast(self._resolve(substitute(e, bound)), buffer.dtype)
            guard = None if body.guard is None else substitute(body.guard, bound)
            loop_stmts.append(Accumulate(buffer, (), combine, element, guard))
            final.extend(self._finish_row(value, buffer, row))
        return loop_stmts, final

    def _finish_row(self, value: Value, buffer: Buffer, row: Expr) -> list[Stmt]:
        result = _cast(read(buffer, ()), value.type.dtype)
        if value in self.local:  # allocated outside: a later segment reads it
            target, start = self.local[value]
            index = (isub(row, start),) if target.shape else ()
            return [Store(target, index, result)]
        stmts: list[Stmt] = []
        if value in self.kept:
            stmts.append(Store(self._buffer(value), (canonical(row),), result))
        if buffer.dtype is value.type.dtype:
            self.local[value] = (buffer, row)
            return stmts
        self._locals += 1
        rounded = Buffer(f"t{self._locals}", value.type.dtype, (), "register")
        self.local[value] = (rounded, row)
        return [*stmts, Alloc(rounded), Store(rounded, (), result)]

    def _inner_reductions(self, nodes: list[Node], row: Expr, rows: int) -> list[Stmt]:
        """Reductions (or one contraction) of one shape with several results per row."""
        first = self.storage.bodies[nodes[0]]
        size = prod(v.extent for v in first.axes) // rows
        self._locals += 1
        inner = var(f"o{self._locals}", size) if size != 1 else const(0)
        self._length = 0
        reduce = tuple(var(f"k{self._locals}_{i}", v.extent) for i, v in enumerate(first.reduce))
        before: list[Stmt] = []
        starts: list[Stmt] = []
        sums: list[Stmt] = []
        ends: list[Stmt] = []
        for node in nodes:
            body = self.storage.bodies[node]
            bound = self._bind(body, size, row, inner)
            bound.update(zip(body.reduce, reduce, strict=True))
            for value, e in zip(node.results, body.exprs, strict=True):
                if value not in self.kept and value not in self.local:
                    before.append(self._alloc(value, rows, row))
                combine = body.form.combine or "add"
                buffer, start = self._accumulator(value, combine)
                starts += start
                element = _cast(self._resolve(substitute(e, bound)), buffer.dtype)
                guard = None if body.guard is None else substitute(body.guard, bound)
                terms, whole = _split_guard(guard, reduce)
                sums.append(Accumulate(buffer, (), combine, element, terms))
                result = _cast(_under(whole, read(buffer, ())), value.type.dtype)
                ends.append(self._store_inner(value, size, row, inner, result))
        for k in reversed(reduce):
            sums = [loop(k, *sums)]
        stmts = [*starts, *sums, *ends]
        return [*before, *([loop(inner, *stmts)] if isinstance(inner, Var) else stmts)]

    def _store_inner(self, value: Value, size: int, row: Expr, inner: Expr, e: Expr) -> Stmt:
        place = iadd(imul(row, size), inner)
        if value in self.kept:
            return Store(self._buffer(value), (canonical(place),), e)
        buffer, start = self.local[value]
        return Store(buffer, (isub(place, start),) if buffer.shape else (), e)

    def _scan(self, node: Node, body: Body, size: int, row: Expr, rows: int) -> list[Stmt]:
        """A cumulative op: a running value for each place beside the scan axis."""
        form = body.form
        assert form.scan is not None
        where = form.axes.index(form.scan)
        steps = body.axes[where].extent
        columns = prod(v.extent for v in body.axes[where + 1 :])
        self._locals += 1
        outer = var(f"i{self._locals}", size // (steps * columns))
        column = var(f"o{self._locals}", columns)
        step = var(f"q{self._locals}", steps)
        inner = iadd(imul(outer, steps * columns), iadd(imul(step, columns), column))
        bound = self._bind(body, size, row, inner)
        stmts: list[Stmt] = []
        allocs: list[Stmt] = []
        for value, e in zip(node.results, body.exprs, strict=True):
            if value not in self.kept and value not in self.local:
                allocs.append(self._alloc(value, rows, row))
            buffer, start = self._accumulator(value, form.combine or "add", running=True)
            element = _cast(self._resolve(substitute(e, bound)), buffer.dtype)
            result = _cast(read(buffer, ()), value.type.dtype)
            stmts += [
                *start,
                loop(
                    step,
                    Accumulate(buffer, (), form.combine or "add", element),
                    self._store_inner(value, size, row, inner, result),
                ),
            ]
        nest: Stmt = loop(column, *stmts)
        return [*allocs, loop(outer, nest)]

    # ---- contraction with epilogue

    def _contract(self) -> tuple[Stmt, ...]:
        hero = self.members[0]
        body = self.storage.bodies[hero]
        value = hero.results[0]
        buffer, start = self._accumulator(value, "add")
        terms, whole = _split_guard(body.guard, body.reduce)
        element = _cast(body.exprs[0], buffer.dtype)
        accumulate: Stmt = Accumulate(buffer, (), "add", element, terms)
        for k in reversed(body.reduce):
            accumulate = loop(k, accumulate)
        result = _cast(_under(whole, read(buffer, ())), value.type.dtype)
        stores = self._epilogue(hero, result)
        nest: tuple[Stmt, ...] = (*start, accumulate, *stores)
        for axis in reversed(body.axes or (var("r", 1),)):
            nest = (loop(axis, *nest),)
        return nest

    def _epilogue(self, hero: Node, result: Expr) -> list[Stmt]:
        """Stores of the hero's result and of the element-wise members, at the hero's position."""
        elements: dict[Value, Expr] = {}
        stores: list[Stmt] = []

        def leaf(x: Expr) -> Expr | None:
            if isinstance(x, Read) and isinstance(x.source, Buffer):
                return elements.get(self.storage.elements.owner(x.source))
            return None

        def define(value: Value, e: Expr) -> None:
            """What is stored is read back where it is used again: nothing is read after its
            memory was overwritten, so state can be updated in place."""
            elements[value] = e
            if value in self.kept:
                place = canonical(self.group.position[value])
                stores.append(Store(self._buffer(value), (place,), e))
                elements[value] = read(self._buffer(value), (place,))

        define(hero.results[0], result)
        for m in self.members[1:]:
            body = self.storage.bodies[m]
            bound = dict(zip(body.axes, self.group.binding[m], strict=True))
            for value, e in zip(m.results, body.exprs, strict=True):
                define(value, transform(substitute(e, bound), leaf))
        return stores

    # ---- scatter

    def _scatter(self) -> tuple[Stmt, ...]:
        node = self.members[0]
        body = self.storage.bodies[node]
        value = node.results[0]
        target = self._buffer(value)
        assert body.start is not None and body.write is not None
        position, element = body.start
        copy = loop(position, Store(target, (position,), element))
        place = linearize(body.write, value.shape)
        update: Stmt
        if body.form.combine is None:
            update = Store(target, (place,), body.exprs[0], body.guard)
        else:
            update = Accumulate(target, (place,), body.form.combine, body.exprs[0], body.guard)
        for axis in reversed(body.axes):
            update = loop(axis, update)
        return (copy, update)

    # ---- opaque

    def _opaque(self) -> tuple[Stmt, ...]:
        node = self.members[0]
        form = self.storage.bodies[node].form
        extent = form.opaque[0].extent
        shape = node.inputs[0].shape
        dim = form.axes.index(form.opaque[0]) if form.opaque[0] in form.axes else len(shape) - 1
        inner = prod(shape[dim + 1 :])
        rows = max(prod(shape) // max(extent, 1), 1) if prod(shape) else 0
        row = var("r", rows)
        inputs = tuple(self._buffer(v) for v in node.inputs)
        outputs = tuple(self._buffer(v) for v in node.results)
        flags = {k: int(v) for k, v in vars(node.attrs).items() if isinstance(v, bool | int)}
        flags |= {"extent": extent, "stride": inner}
        options = tuple(sorted(flags.items()))
        return (loop(row, Opaque(node.op.name, outputs, inputs, row, options)),)


def _cast(e: Expr, dtype: DType) -> Expr:
    return e if e.dtype is dtype else raw_call("cast", (e,), dtype)


def _split_guard(guard: Expr | None, reduce: Sequence[Var]) -> tuple[Expr | None, Expr | None]:
    """The parts of a guard that tell the terms of one sum apart, and the rest: without it the whole
    sum is zero."""
    terms: Expr | None = None
    whole: Expr | None = None
    for part in conjuncts(guard):
        if any(v in variables(part) for v in reduce):
            terms = both(terms, part)
        else:
            whole = both(whole, part)
    return terms, whole


def _under(guard: Expr | None, e: Expr) -> Expr:
    """`e` where the guard holds, else 0."""
    return e if guard is None else raw_call("where", (guard, e, const(0, e.dtype)), e.dtype)


def _within_row(index: Expr, row: Var, size: int) -> bool:
    limits = bounds(isub(index, imul(row, size)))
    return limits is not None and limits[0] >= 0 and limits[1] < size


def _divisors_of_prefixes(storage: Storage, members: Sequence[Node], rows: int) -> set[int]:
    found: set[int] = {rows}
    for m in members:
        total = 1
        for v in storage.bodies[m].axes:
            total *= v.extent
            if total % rows == 0:
                found.add(total)
    return found
