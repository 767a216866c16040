"""Statements of the loop level to LLVM: loops, guards, stores, reductions over lanes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rung.codegen.llvm import opaque, scalar_ops
from rung.codegen.llvm.address import Address, Lanes
from rung.codegen.llvm.builder import Function
from rung.codegen.llvm.lower_expr import ExprLowering, Storage, num_elements
from rung.codegen.llvm.roll import rolled
from rung.codegen.llvm.target import Target
from rung.codegen.llvm.transpose import TileCopy, find_tile_copy, interleave
from rung.codegen.llvm.types import (
    Val,
    constant,
    constant_int,
    dtype_constant,
    lanes_of,
    memory_type,
    vector,
)
from rung.core.dtype import DType, bfloat16, float16
from rung.core.errors import LoweringError
from rung.ir.expr import Call, Const, Expr, Var, const, read
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
    walk_stmts,
)


class StmtLowering(ExprLowering):
    """Emits statements at the end of the current block of `f`. `in_memory`: the register buffers
    that are too large for registers."""

    in_memory: frozenset[Buffer] = frozenset()

    def __init__(self, f: Function, target: Target):
        super().__init__(f, target)
        self._as_loop: dict[For, Block | None] = {}

    def run(self, s: Stmt) -> None:
        """Emit one statement."""
        if isinstance(s, Block):
            for c in s.stmts:
                self.run(c)
        elif isinstance(s, For):
            self._for(s)
        elif isinstance(s, Store):
            with self._guarded_statement(s.guard):
                self._store(s.buffer, self._resolved(s.index), self.resolve(s.value))
        elif isinstance(s, Accumulate):
            with self._guarded_statement(s.guard):
                self._accumulate(s)
        elif isinstance(s, If):
            with self._guarded_statement(s.condition):
                self.run(s.body)
        elif isinstance(s, Alloc):
            self._alloc(s.buffer)
        elif isinstance(s, Prefetch):
            address = self.address(s.buffer, self._resolved(s.index))
            written = s.buffer.role in ("output", "inout")
            self.f.prefetch(self.pointer(s.buffer, address), write=written)
        elif isinstance(s, Opaque):
            self._opaque(s)
        else:
            raise LoweringError(f"{self.f.name}: unknown statement {type(s).__name__}")

    def _resolved(self, index: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(self.resolve(i) for i in index)

    # -- loops

    def _for(self, s: For) -> None:
        extent = self.resolve(s.extent)
        count = int(extent.value) if isinstance(extent, Const) else None
        if count is not None and count <= 0:
            return
        if s.kind == "vector" and (s.lanes or count) != 1:
            self._vector_loop(s, extent)
        elif count == 1 or s.kind == "unroll":
            if count is None:
                raise LoweringError(f"{self.f.name}: unrolled loop {s.axis!r} over {extent!r}")
            if count > 1 and (self._transposed(s) or self._rolled(s)):
                return
            for i in range(count):
                with self.bound(s.axis, const(i)):
                    self.run(s.body)
        else:
            self.serial_loop(s.axis, constant("i64", 0), self.emit(extent), s.body)

    def _rolled(self, s: For) -> bool:
        """Emit an unrolled loop as a loop, where that is as fast."""
        if self.lanes is not None:
            return False
        if s not in self._as_loop:
            self._as_loop[s] = rolled(s, self.in_memory)
        block = self._as_loop[s]
        if block is not None:
            self.run(block)
        return block is not None

    @contextmanager
    def bound(self, axis: Var, value: Const) -> Iterator[None]:
        """The loop variable is a constant inside."""
        self.constants[axis] = value
        yield
        del self.constants[axis]

    def serial_loop(self, axis: Var, first: Val, last: Val, body: Block) -> None:
        """`for axis in range(first, last)`."""
        for buffer in written(body):
            self.forget(buffer)
        name = re.sub(r"\W", "_", axis.name)
        with self.f.loop(first, last, name=name) as loop, self.scope():
            self.axes[axis] = loop.index
            self.depths[axis] = 1 + len(self.axes)
            self.run(body)
            del self.axes[axis]
            del self.depths[axis]

    def _vector_loop(self, s: For, extent: Expr) -> None:
        if self.lanes is not None:
            raise LoweringError(
                f"{self.f.name}: vector loop {s.axis!r} inside vector loop {self.lanes.axis!r}"
            )
        width = s.lanes or s.axis.extent
        lanes = Lanes(s.axis, width)
        self.use_known_in(lanes)
        self.lanes = lanes
        if isinstance(extent, Const) and extent.value >= width:
            with self.known_in_lanes():
                self.run(s.body)
        else:
            with self.scope():
                self.mask = self.f.lane_mask(width, self.emit(extent))
                self.run(s.body)
        self.lanes = self.mask = None

    def _transposed(self, s: For) -> bool:
        """Emit an unrolled loop as a transposition in registers, if it is one."""
        copy = find_tile_copy(s)
        if copy is None or self.lanes is not None:
            return False
        source, target = copy.source.source, copy.store.buffer
        assert isinstance(source, Buffer)
        lanes = Lanes(copy.vector.axis, copy.rows)
        self.use_known_in(lanes)
        self.lanes = lanes
        with self.scope():
            reads, writes = [], []
            for column in range(copy.columns):
                with self.bound(s.axis, const(column)):
                    reads.append(self.address(source, self._resolved(copy.source.index)))
                    writes.append(self.address(target, self._resolved(copy.store.index)))
            fits = _side_by_side(reads) and all(w.step == 1 for w in writes)
            if fits and reads[0].step not in (None, 1):
                self._emit_transposed(copy, reads[0], writes)
                self.forget(target)
            else:
                fits = False
        self.lanes = None
        return fits

    def _emit_transposed(self, copy: TileCopy, first: Address, writes: Sequence[Address]) -> None:
        source, target = copy.source.source, copy.store.buffer
        assert isinstance(source, Buffer)
        item = memory_type(target.dtype.name)
        wide = vector(item, copy.columns)
        align = target.dtype.itemsize
        places = [self.pointer(source, first, first.lanes[i]) for i in range(copy.rows)]
        mixed = interleave(self.f, [self.f.load(wide, place, align) for place in places])
        each = copy.columns // copy.rows
        dense = all(b.offset - a.offset == copy.rows for a, b in itertools.pairwise(writes))
        for number, columns in enumerate(mixed):
            if dense:
                self.f.store(columns, self.pointer(target, writes[number * each]), align)
                continue
            for part in range(each):
                lanes = range(part * copy.rows, (part + 1) * copy.rows)
                value = columns if each == 1 else self.f.shuffle(columns, lanes)
                self.f.store(value, self.pointer(target, writes[number * each + part]), align)

    # -- guards

    @contextmanager
    def _guarded_statement(self, guard: Expr | None) -> Iterator[None]:
        """Inside, the guard holds: by a branch, or by a mask for the part that varies by lane."""
        uniform, by_lane = self.split_guard(None if guard is None else self.resolve(guard))
        with self._branch(uniform):
            if by_lane is None:
                yield
                return
            outside = self.mask
            with self.scope():
                self.mask = self.masked(outside, self.emit_lanes(by_lane))
                yield
            self.mask = outside

    @contextmanager
    def _branch(self, condition: Expr | None) -> Iterator[None]:
        if condition is None:
            yield
            return
        with self.f.if_(self.emit(condition)), self.scope():
            yield

    # -- memory

    def _alloc(self, buffer: Buffer) -> None:
        """Registers are stack memory at constant offsets, which LLVM turns into SSA values.

        A buffer allocated inside a vector loop has a copy for each lane."""
        self.forget(buffer)
        private = self.lanes is not None
        count = num_elements(buffer) * (self.lanes.width if self.lanes else 1)
        known = self.storage.get(buffer)
        if buffer.role == "scratch" and known is not None:
            self.storage[buffer] = Storage(known.pointer, count, private)
        elif known is None or known.elements != count:
            type = f"[{max(count, 1)} x {memory_type(buffer.dtype.name)}]"
            self.storage[buffer] = Storage(self.f.alloca(type), count, private)

    def _store(self, buffer: Buffer, index: tuple[Expr, ...], value: Expr) -> None:
        if value.dtype is not buffer.dtype:
            raise LoweringError(f"{self.f.name}: {value.dtype} value stored into {buffer!r}")
        address = self.address(buffer, index)
        if self.lanes is not None and not address.is_invariant:
            self._store_lanes(buffer, address, self.emit_lanes(value))
        elif self.varies(value):
            self._store_last_lane(buffer, address, self.emit_lanes(value))
        else:
            self._store_one(buffer, address, self.emit(value))

    def _store_one(self, buffer: Buffer, address: Address, value: Val) -> None:
        """Store what is the same in every lane; nothing if no lane is on."""
        pointer = self.pointer(buffer, address)
        if self.mask is None or self.mask.is_constant:
            self.f.store_dtype(buffer.dtype.name, value, pointer)
        else:
            with self.f.if_(self.f.any(self.mask)):
                self.f.store_dtype(buffer.dtype.name, value, pointer)
        self.forget(buffer)

    def _store_last_lane(self, buffer: Buffer, address: Address, value: Val) -> None:
        """One place for all lanes: as in a serial loop, the last one stays."""
        assert self.lanes is not None
        on = [True] * self.lanes.width
        if self.mask is not None:
            states = [constant_int(self.lane_of(self.mask, i)) for i in range(self.lanes.width)]
            if None in states:
                raise LoweringError(f"{self.f.name}: the lanes of {buffer!r} overwrite each other")
            on = [bool(state) for state in states]
        last = max(i for i, state in enumerate(on) if state)
        self._store_one(buffer, address, self.f.extract(value, last))

    def _store_lanes(self, buffer: Buffer, address: Address, value: Val) -> None:
        assert self.lanes is not None
        dtype, mask = buffer.dtype.name, self.mask
        if address.step == 1:
            pointer = self.pointer(buffer, address)
            room = address.within(self.storage[buffer].elements)
            if mask is not None and room and buffer.role == "register":
                # whole vectors, which LLVM keeps in registers
                old = self.f.load_dtype(dtype, self.lanes.width, pointer)
                value, mask = self.f.select(mask, value, old), None
            self.f.store_dtype(dtype, value, pointer, mask=mask)
        elif address.step == -1:
            pointer = self.pointer(buffer, address, 1 - self.lanes.width)
            mask = None if mask is None else self.reverse(mask)
            self.f.store_dtype(dtype, self.reverse(value), pointer, mask=mask)
        else:
            self._scatter(buffer, address, value, mask)
        self.forget(buffer)

    def _scatter(self, buffer: Buffer, address: Address, value: Val, mask: Val | None) -> None:
        assert self.lanes is not None
        value = self.f.to_memory(buffer.dtype.name, value)
        by_hardware = mask is not None and not mask.is_constant and self.has_gather(buffer)
        pointers = self.pointers(buffer, address) if address.varying or by_hardware else None
        if pointers is not None and by_hardware:
            self.f.scatter(value, pointers, mask)
            return
        for lane in range(self.lanes.width):
            allowed = None if mask is None else self.lane_of(mask, lane)
            if allowed is not None and constant_int(allowed) == 0:
                continue
            place = (
                self.pointer(buffer, address, address.lanes[lane])
                if pointers is None
                else self.f.extract(pointers, lane)
            )
            item = self.f.extract(value, lane)
            if allowed is None or constant_int(allowed) == 1:
                self.f.store(item, place)
            else:
                with self.f.if_(allowed), self.scope():
                    self.f.store(item, place)

    # -- accumulation

    def _accumulate(self, s: Accumulate) -> None:
        buffer, dtype = s.buffer, s.value.dtype
        if dtype is not buffer.dtype:
            raise LoweringError(f"{self.f.name}: {dtype} value accumulated into {buffer!r}")
        index = self._resolved(s.index)
        address = self.address(buffer, index)
        factors = self._factors(s)
        if self.lanes is not None and address.is_invariant:
            self._reduce_lanes(s, address, index, self.resolve(s.value))
            return
        old = self._current(buffer, address, index)
        if factors is not None:
            left, right = map(self.emit_lanes, factors)
            new = self.f.fma(left, right, old)
        else:
            new = self._combine(s.combine, dtype, old, self.emit_lanes(self.resolve(s.value)))
        if self.lanes is None:
            self._store_one(buffer, address, new)
        else:
            self._store_lanes(buffer, address, new)

    def _factors(self, s: Accumulate) -> list[Expr] | None:
        """The factors of a product that is added: rows and columns of a tile are resolved alone."""
        value = s.value
        if s.combine == "add" and not _is_product(value):
            value = self.resolve(value)
        if s.combine != "add" or not _is_product(value):
            return None
        assert isinstance(value, Call)
        return [self.resolve(a) for a in value.args]

    def _current(self, buffer: Buffer, address: Address, index: tuple[Expr, ...]) -> Val:
        """What `buffer[index]` is, in every lane."""
        if self.lanes is None or self.mask is not None or address.step != 1:
            return self.emit_lanes(read(buffer, index))
        return self.f.load_dtype(buffer.dtype.name, self.lanes.width, self.pointer(buffer, address))

    def _combine(self, op: str, dtype: DType, old: Val, value: Val) -> Val:
        # x86 tests the first operand of an extreme for NaN: not on the path from turn to turn.
        swapped = op in ("maximum", "minimum")
        args = [value, old] if swapped else [old, value]
        return scalar_ops.apply(self.f, op, [dtype.name, dtype.name], dtype.name, args)

    def _reduce_lanes(
        self, s: Accumulate, address: Address, index: tuple[Expr, ...], value: Expr
    ) -> None:
        """All lanes go to one place: combine them in a fixed tree, then with what is there."""
        lanes = self.emit_lanes(value)
        dtype = s.buffer.dtype
        if self.mask is not None:
            neutral = dtype_constant(dtype.name, identity(s.combine, dtype))
            neutral = self.f.splat(neutral, lanes_of(lanes.type))
            lanes = self.f.select(self.mask, lanes, neutral)
        total = scalar_ops.reduce_lanes(self.f, s.combine, dtype.name, lanes)
        old = self.emit(read(s.buffer, index))
        self._store_one(s.buffer, address, self._combine(s.combine, dtype, old, total))

    def _opaque(self, s: Opaque) -> None:
        if self.lanes is not None:
            raise LoweringError(f"{self.f.name}: {s.name} inside a vector loop")
        outputs = [self.storage[b].pointer for b in s.outputs]
        source = self.storage[s.inputs[0]].pointer
        scratch = self.storage[opaque.scratch_buffer(s)].pointer
        opaque.emit(self.f, s, outputs, source, scratch, self.emit(self.resolve(s.row)))
        for buffer in s.outputs:
            self.forget(buffer)


def written(s: Stmt) -> set[Buffer]:
    """The buffers that a statement changes."""
    found: set[Buffer] = set()
    for c in walk_stmts(s):
        if isinstance(c, Store | Accumulate | Alloc):
            found.add(c.buffer)
        elif isinstance(c, Opaque):
            found.update(c.outputs, (opaque.scratch_buffer(c),))
    return found


def _side_by_side(addresses: Sequence[Address]) -> bool:
    """Whether each address is one element behind the one before it, in every lane."""
    first = addresses[0]
    return not first.varying and all(
        a.terms == first.terms and a.lanes == first.lanes and a.offset == first.offset + i
        for i, a in enumerate(addresses)
    )


def _is_product(value: Expr) -> bool:
    if not isinstance(value, Call) or value.op != "multiply":
        return False
    return value.dtype.is_float and value.dtype not in (float16, bfloat16)


def identity(combine: str, dtype: DType) -> bool | int | float:
    """What leaves the other operand of the combiner as it is."""
    if combine in ("add", "bitwise_or", "bitwise_xor", "logical_or", "logical_xor"):
        return -0.0 if dtype.is_float else 0
    if combine in ("multiply", "logical_and"):
        return 1.0 if dtype.is_float else 1
    if combine == "bitwise_and":
        return -1
    if combine not in ("maximum", "minimum"):
        raise LoweringError(f"no reduction over lanes by {combine}")
    low = combine == "maximum"
    if dtype.is_float:
        return -math.inf if low else math.inf
    if dtype.is_bool:
        return not low
    info = np.iinfo(dtype.numpy)
    return int(info.min if low else info.max)
