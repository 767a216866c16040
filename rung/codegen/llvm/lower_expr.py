"""Scalar expressions to LLVM values: arithmetic, addresses, loads.

In a vector loop an expression that does not depend on the lane stays a scalar until a vector needs
it. A value is emitted once in the scope of a block and used again until a store may change it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rung.codegen.llvm import scalar_ops
from rung.codegen.llvm.address import Address, Lanes, Terms, find_address
from rung.codegen.llvm.builder import Function
from rung.codegen.llvm.target import Target
from rung.codegen.llvm.types import (
    Val,
    constant,
    constant_int,
    constant_vector,
    dtype_bytes,
    dtype_constant,
    lanes_of,
    memory_type,
    register_type,
    vector,
    zero,
)
from rung.core import dtype as dt
from rung.core.errors import LoweringError
from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Read,
    Size,
    Var,
    both,
    bounds,
    conjuncts,
    isub,
    postorder,
    read,
    rebuild,
    transform,
)
from rung.kernel.loop import Buffer

_COMPARISONS = {
    "less": "slt",
    "less_equal": "sle",
    "greater": "sgt",
    "greater_equal": "sge",
    "equal": "eq",
    "not_equal": "ne",
}
_INT32 = (-(2**31), 2**31 - 1)
_MAX_WINDOW_LOADS = 4


class Storage(NamedTuple):
    """Where a buffer lives, and the elements of its memory with all copies. `private`: every lane
    of the vector loop has its own copy."""

    pointer: Val
    elements: int
    private: bool = False


class Reach(NamedTuple):
    """What an expression depends on."""

    variables: frozenset[Var]
    buffers: frozenset[Buffer]


_NOTHING = Reach(frozenset(), frozenset())


class ExprLowering:
    """Emits expressions at the end of the current block of `f`."""

    def __init__(self, f: Function, target: Target):
        self.f = f
        self.target = target
        self.storage: dict[Buffer, Storage] = {}
        self.axes: dict[Var, Val] = {}
        self.depths: dict[Var, int] = {}
        self.constants: dict[Var, Expr] = {}
        self.lanes: Lanes | None = None
        self.mask: Val | None = None
        self._memo: dict[Hashable, Val] = {}
        self._order: list[Hashable] = []
        self._readers: dict[Buffer, list[Hashable]] = {}
        self._reach: dict[Expr, Reach] = {}
        self._unrolled: dict[tuple[Expr, ...], Expr] = {}
        self._addresses: dict[Hashable, Address] = {}
        self._lanes_known: Lanes | None = None
        self._known_in_lanes: list[Hashable] = []

    def bind_size(self, size: Size, value: Val) -> None:
        """A size has a value throughout."""
        self._memo[size] = value

    # -- what is known in a scope

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values emitted inside are forgotten at the end: their block need not dominate."""
        mark = len(self._order)
        yield
        while len(self._order) > mark:
            self._memo.pop(self._order.pop(), None)

    @contextmanager
    def known_in_lanes(self) -> Iterator[None]:
        """What is emitted in a vector loop without a mask serves the next one of the same lanes:
        the rows of a tile share the vectors of its columns."""
        mark = len(self._order)
        yield
        self._known_in_lanes += self._order[mark:]

    def use_known_in(self, lanes: Lanes) -> None:
        """Before a vector loop: what other lanes have computed is forgotten."""
        if lanes != self._lanes_known:
            self._lanes_known = lanes
            for key in self._known_in_lanes:
                self._memo.pop(key, None)
            self._known_in_lanes.clear()

    def forget(self, buffer: Buffer) -> None:
        """The buffer changes: values read from it are no longer valid."""
        for key in self._readers.pop(buffer, ()):
            self._memo.pop(key, None)

    def _remember(self, key: Hashable, value: Val, buffers: frozenset[Buffer]) -> Val:
        self._memo[key] = value
        self._order.append(key)
        for buffer in buffers:
            self._readers.setdefault(buffer, []).append(key)
        return value

    def reach(self, e: Expr) -> Reach:
        """The loop variables and buffers that the value of `e` depends on."""
        found = self._reach.get(e)
        if found is None:
            for x in postorder(e, known=self._reach.__contains__):
                found = self._reach[x] = self._find_reach(x)
            assert found is not None
        return found

    def _find_reach(self, e: Expr) -> Reach:
        if isinstance(e, Const):
            return _NOTHING
        if isinstance(e, Var):
            return Reach(frozenset((e,)), frozenset())
        parts = [self._reach[c] for c in e.children()]
        buffers = [p.buffers for p in parts]
        if isinstance(e, Read):
            buffers.append(frozenset((self.buffer_of(e),)))
        variables = frozenset().union(*[p.variables for p in parts])
        return Reach(variables, frozenset().union(*buffers))

    def buffer_of(self, e: Read) -> Buffer:
        """The buffer that is read. Raises LoweringError for one that the kernel does not have."""
        if not isinstance(e.source, Buffer):
            raise LoweringError(f"{self.f.name}: {e!r} does not read a buffer of a kernel")
        return e.source

    def varies(self, e: Expr) -> bool:
        """Whether the lanes of the vector loop may have different values of `e`."""
        if self.lanes is None:
            return False
        reach = self.reach(e)
        if self.lanes.axis in reach.variables:
            return True
        return any(self.storage[b].private for b in reach.buffers)

    def resolve(self, e: Expr) -> Expr:
        """`e` with the variables of unrolled loops replaced by their values."""
        if not self.constants:
            return e
        found = self._known_value(e)
        if found is None:
            for x in postorder(e, known=lambda x: self._known_value(x) is not None):
                found = self._unrolled[self._unrolled_key(x)] = self._resolve(x)
            assert found is not None
        return found

    def _unrolled_key(self, e: Expr) -> tuple[Expr, ...]:
        variables = self.reach(e).variables
        return (e, *[c for v, c in self.constants.items() if v in variables])

    def _known_value(self, e: Expr) -> Expr | None:
        """What `resolve` gives, if that has been found before or is `e` itself."""
        if isinstance(e, Const):
            return e
        found = self._reach.get(e)
        variables = (self.reach(e) if found is None else found).variables
        values = [c for v, c in self.constants.items() if v in variables]
        return self._unrolled.get((e, *values)) if values else e

    def _resolve(self, e: Expr) -> Expr:
        """The same for an expression whose parts are known."""
        if isinstance(e, Var):
            return self.constants[e]
        if isinstance(e, Call):
            return rebuild(e, tuple(self.resolve(a) for a in e.args))
        assert isinstance(e, Read)
        index = tuple(self.resolve(i) for i in e.index)
        return read(e.source, index, e.dtype, None if e.guard is None else self.resolve(e.guard))

    # -- values

    def emit(self, e: Expr) -> Val:
        """The value of a resolved expression: a vector if it varies by lane, else a scalar."""
        found = self._memo.get(e)
        if found is not None:
            return found
        stack = [(e, False)]
        while True:
            x, in_lanes = stack[-1]
            if x not in self._memo:
                part = self._next_operand(x)
                if part is not None:
                    stack.append(part)
                    continue
            made = self.emit_lanes(x) if in_lanes else self._emit_one(x)
            stack.pop()
            if not stack:
                return made

    def _next_operand(self, e: Expr) -> tuple[Expr, bool] | None:
        """The first operand that the code of `e` is going to use and that is not there yet, and
        whether it has to be in all lanes."""
        if not isinstance(e, Call):
            return None
        varies = self.varies(e)
        if varies and e.op in _COMPARISONS and e.args[0].dtype is dt.int64:
            return None  # perhaps lane numbers against one scalar
        for a in e.args:
            found = self._memo.get(a)
            if found is None and not isinstance(a, Const):
                return a, varies
            if varies and found is not None and self.lanes is not None:
                scalar = lanes_of(found.type) == 1
                if scalar and ("splat", a) not in self._memo:
                    return a, varies
        return None

    def _emit_one(self, e: Expr) -> Val:
        """The value of an expression whose operands are there."""
        found = self._memo.get(e)
        if found is not None:
            return found
        if isinstance(e, Const):
            return dtype_constant(e.dtype.name, e.value)
        if isinstance(e, Var):
            value = self._variable(e)
        elif isinstance(e, Read):
            value = self._load(e)
        elif isinstance(e, Call):
            value = self._call(e)
        else:
            raise LoweringError(f"{self.f.name}: cannot emit {e!r}")
        return self._remember(e, value, self.reach(e).buffers)

    def emit_lanes(self, e: Expr) -> Val:
        """The value of `e` in every lane of the vector loop (a scalar outside of one)."""
        value = self.emit(e)
        if self.lanes is None or lanes_of(value.type) > 1:
            return value
        if isinstance(e, Const):
            return self.f.splat(value, self.lanes.width)
        key = ("splat", e)
        found = self._memo.get(key)
        if found is None:
            splat = self.f.splat(value, self.lanes.width)
            found = self._remember(key, splat, self.reach(e).buffers)
        return found

    def _variable(self, e: Var) -> Val:
        if self.lanes is not None and e is self.lanes.axis:
            return self.f.iota("i64", self.lanes.width)
        if e not in self.axes:
            raise LoweringError(f"{self.f.name}: {e!r} is used outside its loop")
        return self.axes[e]

    def _call(self, e: Call) -> Val:
        varies = self.varies(e)
        if varies and e.op in _COMPARISONS:
            mask = self._lane_comparison(e)
            if mask is not None:
                return mask
        if e.dtype is dt.int64 and len(e.args) == 2 and not self.reach(e).buffers:
            value = self._index_arithmetic(e)
            if value is not None:
                return value
        args = [self.emit_lanes(a) if varies else self.emit(a) for a in e.args]
        kinds = [a.dtype.name for a in e.args]
        return scalar_ops.apply(self.f, e.op, kinds, e.dtype.name, args)

    def _index_arithmetic(self, e: Call) -> Val | None:
        """Arithmetic whose bounds are known cannot overflow."""
        if bounds(e) is None:
            return None
        varies = self.varies(e)
        a, b = [self.emit_lanes(x) if varies else self.emit(x) for x in e.args]
        if e.op in ("add", "subtract", "multiply"):
            method = {"add": self.f.add, "subtract": self.f.sub, "multiply": self.f.mul}[e.op]
            return method(a, b, "nsw")
        limits = bounds(e.args[0])
        divisor, positive = e.args[1], bounds(e.args[1])
        if e.op not in ("floor_divide", "remainder") or limits is None or limits[0] < 0:
            return None
        if positive is None or positive[0] <= 0:
            return None
        divide = self.f.div if e.op == "floor_divide" else self.f.rem
        if not varies or limits[1] > _INT32[1] or not isinstance(divisor, Const):
            return divide(a, b, signed=False)
        narrow = divide(self.f.resize(a, "i32"), constant(vector("i32", lanes_of(a.type)),
                        int(divisor.value)), signed=False)  # fmt: skip
        return self.f.resize(narrow, "i64", signed=False)

    def _lane_comparison(self, e: Call) -> Val | None:
        """a op b on indices with a - b = lane part + rest: lane numbers against one scalar."""
        a, b = e.args
        if a.dtype is not dt.int64 or self.lanes is None or self.reach(e).buffers:
            return None
        address = find_address((isub(a, b),), (1,), self.lanes, self.varies)
        if address.varying or address.is_invariant:
            return None
        if address.low is None or address.high is None:
            return None
        if max(map(abs, (address.low, address.high, *address.lanes))) > _INT32[1]:
            return None
        lanes = constant_vector("i32", address.lanes)
        rest = self.f.sub(constant("i64", -address.offset), self._sum(address.terms), "nsw")
        # hidden: LLVM 22 takes 0 / 0 in lanes that a constant mask zeroes for 0 and drops the mask
        limit = self.f.splat(self.f.opaque(self.f.resize(rest, "i32")), self.lanes.width)
        return self.f.icmp(_COMPARISONS[e.op], lanes, limit)

    # -- addresses

    def address(self, buffer: Buffer, index: Sequence[Expr]) -> Address:
        """Where `buffer[index]` (resolved) is, lane by lane."""
        private = self.storage[buffer].private
        key = (buffer, tuple(index), self.lanes, private)
        found = self._addresses.get(key)
        if found is None:
            found = find_address(index, buffer.strides, self.lanes, self.varies, private)
            self._addresses[key] = found
        return found

    def pointer(self, buffer: Buffer, address: Address, lane_offset: int = 0) -> Val:
        """Pointer to the lane-invariant part of the address plus `lane_offset` elements."""
        base = self._row_pointer(buffer, address.terms)
        offset = address.offset + lane_offset
        if offset == 0:
            return base
        sure = address.within_at(lane_offset, self.storage[buffer].elements)
        key = (buffer, address.terms, offset, sure)
        found = self._memo.get(key)
        if found is None:
            found = self._gep(base, constant("i64", offset), buffer, sure)
            self._remember(key, found, self._term_buffers(address.terms))
        return found

    def _row_pointer(self, buffer: Buffer, terms: Terms) -> Val:
        """The sum of the terms on top of the base: outer loops first, so that LLVM can hoist."""
        if not terms:
            return self.storage[buffer].pointer
        key = (buffer, terms)
        found = self._memo.get(key)
        if found is not None:
            return found
        depth = max(self._depth(t) for t, _ in terms)
        outer = tuple(p for p in terms if self._depth(p[0]) < depth)
        inner = tuple(p for p in terms if self._depth(p[0]) == depth)
        base = self._row_pointer(buffer, outer)
        reached = find_address(tuple(t for t, _ in terms), tuple(c for _, c in terms))
        inbounds = reached.within(self.storage[buffer].elements + 1)
        made = self._gep(base, self._sum(inner), buffer, inbounds)
        return self._remember(key, made, self._term_buffers(terms))

    def _depth(self, e: Expr) -> int:
        return max((self.depths.get(v, 0) for v in self.reach(e).variables), default=0)

    def _term_buffers(self, terms: Terms) -> frozenset[Buffer]:
        return frozenset().union(*[self.reach(t).buffers for t, _ in terms])

    def _sum(self, terms: Terms) -> Val:
        """The i64 sum of lane-invariant terms times their factors."""
        total = constant("i64", 0)
        for term, scale in terms:
            flags = "nsw" if bounds(term) is not None else ""
            part = self.f.mul(self.emit(term), constant("i64", scale), flags)
            total = self.f.add(total, part, flags)
        return total

    def _gep(self, base: Val, offset: Val, buffer: Buffer, inbounds: bool) -> Val:
        if constant_int(offset) == 0:
            return base
        element = memory_type(buffer.dtype.name)
        flags = "inbounds " if inbounds else ""
        text = f"getelementptr {flags}{element}, ptr {base.name}, {offset.type} {offset.name}"
        type = "ptr" if offset.type == "i64" else vector("ptr", lanes_of(offset.type))
        return self.f.emit(type, text, "p")

    def pointers(self, buffer: Buffer, address: Address) -> Val:
        """The pointer of every lane, as a vector."""
        assert self.lanes is not None
        base = self.pointer(buffer, address)
        offsets = constant_vector("i64", address.lanes)
        for term, scale in address.varying:
            factor = constant(offsets.type, scale)
            offsets = self.f.add(offsets, self.f.mul(self.emit_lanes(term), factor))
        return self._gep(base, offsets, buffer, False)

    # -- guards

    def split_guard(self, guard: Expr | None) -> tuple[Expr | None, Expr | None]:
        """A guard as the conjunction of a lane-invariant and a lane-dependent one."""
        uniform: Expr | None = None
        by_lane: Expr | None = None
        for part in conjuncts(guard):
            if self.varies(part):
                by_lane = both(by_lane, part)
            else:
                uniform = both(uniform, part)
        return uniform, by_lane

    def masked(self, mask: Val | None, more: Val | None) -> Val | None:
        """The conjunction of two masks, None standing for all lanes."""
        if mask is None or more is None:
            return more if mask is None else mask
        return self.f.and_(mask, more)

    def _zeros(self) -> Val:
        """A block of zeros that a load may go to in place of an address that is not valid."""
        size = 8 * (self.lanes.width if self.lanes else 1)
        text = f"private unnamed_addr constant [{size} x i8] zeroinitializer, align 64"
        return Val("ptr", self.f.module.add_global(f"zeros{size}", text))

    # -- loads

    def _load(self, e: Read) -> Val:
        buffer = self.buffer_of(e)
        address = self.address(buffer, _guarded_index(e))
        uniform, by_lane = self.split_guard(e.guard)
        condition = None if uniform is None else self.emit(uniform)
        guard_mask = None if by_lane is None else self.emit_lanes(by_lane)
        safe = address.within(self.storage[buffer].elements)
        mask = guard_mask if safe else self.masked(self.mask, guard_mask)
        if self.lanes is None:
            return self._load_one(buffer, address, condition)
        if address.is_invariant:
            some = None if mask is None or safe else self.f.any(mask)
            value = self._load_one(buffer, address, self.masked(condition, some))
            if guard_mask is None:
                return value
            wide = self.f.splat(value, self.lanes.width)
            return self.f.select(guard_mask, wide, zero(wide.type))
        return self._load_lanes(buffer, address, condition, mask, guard_mask, safe)

    def _load_one(self, buffer: Buffer, address: Address, condition: Val | None) -> Val:
        pointer = self._guarded(self.pointer(buffer, address), condition)
        return self.f.load_dtype(buffer.dtype.name, 1, pointer)

    def _guarded(self, pointer: Val, condition: Val | None) -> Val:
        return pointer if condition is None else self.f.select(condition, pointer, self._zeros())

    def _load_lanes(
        self,
        buffer: Buffer,
        address: Address,
        condition: Val | None,
        mask: Val | None,
        guard_mask: Val | None,
        safe: bool,
    ) -> Val:
        """A vector of loads. `mask`: the lanes that may be touched; `guard_mask`: those that are
        not zero; `condition`: whether any of it happens."""
        assert self.lanes is not None
        width, dtype = self.lanes.width, buffer.dtype.name
        step = address.step
        if step in (1, -1):
            start = 0 if step == 1 else 1 - width
            pointer = self._guarded(self.pointer(buffer, address, start), condition)
            whole = buffer.role == "register" or not self.target.has_masks
            if mask is not None and safe and whole:
                value = self.f.load_dtype(dtype, width, pointer)
                value = value if step == 1 else self.reverse(value)
                return self.f.select(mask, value, zero(value.type))
            if mask is not None and step == -1:
                mask = self.reverse(mask)
            value = self.f.load_dtype(dtype, width, pointer, mask=mask)
            return value if step == 1 else self.reverse(value)
        if condition is not None:
            everywhere = self.f.splat(condition, width)
            guard_mask = self.masked(guard_mask, everywhere)
            mask = self.masked(mask, everywhere)
        if buffer.role == "register" and mask is None:
            column = self._load_column(buffer, address)
            if column is not None:
                return column
        if safe and condition is None:
            window = self._load_window(buffer, address)
            if window is not None and guard_mask is not None:
                return self.f.select(guard_mask, window, zero(window.type))
            if window is not None:
                return window
        return self._gather(buffer, address, mask)

    def reverse(self, x: Val) -> Val:
        return self.f.shuffle(x, range(lanes_of(x.type) - 1, -1, -1))

    def _load_column(self, buffer: Buffer, address: Address) -> Val | None:
        """A column of rows that are in registers: all columns are made at once by transposing."""
        assert self.lanes is not None
        width, step = self.lanes.width, address.step
        if step is None or step % width or width & (width - 1) or address.terms:
            return None
        column = address.offset % step % width
        start = address.offset - column
        if start + (width - 1) * step + width > self.storage[buffer].elements:
            return None
        key = (buffer, "columns", start, step, width)
        found = self._memo.get((*key, column))
        if found is not None:
            return found
        type = memory_type(buffer.dtype.name, width)
        block = Address((), start, low=start, high=start)
        rows = [self.f.load(type, self.pointer(buffer, block, i * step)) for i in range(width)]
        readers = frozenset((buffer,))
        for i, value in enumerate(transposed(self.f, rows)):
            made = self.f.from_memory(buffer.dtype.name, value)
            self._remember((*key, i), made, readers)
        return self._memo[*key, column]

    def _load_window(self, buffer: Buffer, address: Address) -> Val | None:
        """A fixed pattern of lanes over a short range: load the range and shuffle it."""
        assert self.lanes is not None
        if address.varying:
            return None
        width, first, last = self.lanes.width, min(address.lanes), max(address.lanes)
        size = min(width, last - first + 1)
        if last - first + 1 > _MAX_WINDOW_LOADS * width:
            return None
        starts = [*range(first, last + 2 - size, size)]
        if starts[-1] != last + 1 - size:
            starts.append(last + 1 - size)
        type = memory_type(buffer.dtype.name, size)
        parts = [self.f.load(type, self.pointer(buffer, address, start)) for start in starts]
        source = [min((x - first) // size, len(starts) - 1) for x in address.lanes]
        places = [(s, x - starts[s]) for s, x in zip(source, address.lanes, strict=True)]
        return self.f.from_memory(buffer.dtype.name, _pick(self.f, parts, places))

    def _gather(self, buffer: Buffer, address: Address, mask: Val | None) -> Val:
        assert self.lanes is not None
        width, dtype = self.lanes.width, buffer.dtype.name
        by_hardware = self.has_gather(buffer)
        pointers = self.pointers(buffer, address) if address.varying or by_hardware else None
        if pointers is not None and by_hardware:
            return self.f.gather(register_type(dtype, width), pointers, mask)
        value = zero(memory_type(dtype, width))
        for lane in range(width):
            allowed = None if mask is None else self.lane_of(mask, lane)
            if allowed is not None and constant_int(allowed) == 0:
                continue
            if allowed is not None and constant_int(allowed) == 1:
                allowed = None
            place = (
                self.pointer(buffer, address, address.lanes[lane])
                if pointers is None
                else self.f.extract(pointers, lane)
            )
            item = self.f.load(memory_type(dtype), self._guarded(place, allowed))
            value = self.f.insert(value, item, lane)
        return self.f.from_memory(dtype, value)

    def lane_of(self, mask: Val, lane: int) -> Val:
        """One lane of a mask, as a literal if the mask is constant."""
        if mask.is_constant:
            items = mask.name.split(",")
            return constant("i1", int("true" in (items[lane] if len(items) > 1 else items[0])))
        return self.f.extract(mask, lane)

    def has_gather(self, buffer: Buffer) -> bool:
        """Whether the machine loads lanes of this dtype from anywhere in one fast instruction."""
        wide = dtype_bytes(buffer.dtype.name) in (4, 8)
        return wide and self.target.has("avx512f") and not self.target.cpu.startswith("znver")


def num_elements(buffer: Buffer) -> int:
    """Elements from the first to the last of a buffer that are surely there, holes included."""
    return buffer.least_bytes // buffer.dtype.itemsize


def _guarded_index(e: Read) -> tuple[Expr, ...]:
    """The index, where the reads in it happen only if the guard holds."""
    guard = e.guard
    if guard is None:
        return e.index

    def leaf(x: Expr) -> Expr | None:
        if not isinstance(x, Read):
            return None
        return read(x.source, x.index, x.dtype, both(guard, x.guard))

    return tuple(transform(i, leaf) for i in e.index)


def transposed(f: Function, rows: Sequence[Val]) -> list[Val]:
    """The columns of a square of lanes: blocks off the diagonal are swapped, then within them."""
    made = list(rows)
    size = len(made) // 2
    lanes = range(len(made))
    while size:
        upper = [x if not x & size else len(made) + x - size for x in lanes]
        lower = [x + size if not x & size else len(made) + x for x in lanes]
        for i in lanes:
            if not i & size:
                a, b = made[i], made[i + size]
                made[i], made[i + size] = f.shuffle(a, upper, b), f.shuffle(a, lower, b)
        size //= 2
    return made


def _pick(f: Function, parts: Sequence[Val], places: Sequence[tuple[int, int]]) -> Val:
    """A vector whose lane i is lane places[i][1] of parts[places[i][0]]."""
    if len(parts) <= 2:
        size = lanes_of(parts[0].type)
        other = parts[1] if len(parts) == 2 else None
        return f.shuffle(parts[0], [part * size + lane for part, lane in places], other)
    size = lanes_of(parts[0].type)
    half = (len(parts) + 1) // 2
    low = [(p, i) if p < half else (0, 0) for p, i in places]
    high = [(p - half, i) if p >= half else (0, 0) for p, i in places]
    first, second = _pick(f, parts[:half], low), _pick(f, parts[half:], high)
    width = len(places)
    chosen = [i if p < half else width + i for i, (p, _) in enumerate(places)]
    return f.shuffle(first, chosen, second)
