"""Builds the text of an LLVM function: blocks, loops, memory, on top of `Instructions`.

module = Module()
f = Function(module, "double_all", [Param("ptr", "x", "noalias"), Param("i64", "n")])
x, n = f.params
with f.loop(f.index(0), n, f.index(1)) as loop:
    p = f.gep(x, loop.index, "float")
    v = f.load("float", p)
    f.store(f.add(v, v), p)
f.ret()
print(module.text())
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rung.codegen.llvm.instructions import Instructions
from rung.codegen.llvm.module import Module
from rung.codegen.llvm.types import (
    Val,
    constant,
    constant_int,
    element,
    lanes_of,
    like,
    mangle,
    memory_type,
    poison,
    type_bytes,
    vector,
)
from rung.core.errors import LoweringError


class Param(NamedTuple):
    """A parameter of a function, with attributes such as `"noalias readonly align 64"`."""

    type: str
    name: str
    attributes: str = ""


class Block:
    """A basic block: its label, its phis and its instructions."""

    __slots__ = ("label", "lines", "phis", "terminated")

    def __init__(self, label: str):
        self.label = label
        self.phis: list[Phi] = []
        self.lines: list[str] = []
        self.terminated = False

    def text(self) -> str:
        """The block as LLVM IR text."""
        phis = [phi.text() for phi in self.phis]
        return "\n".join([f"{self.label}:", *phis, *self.lines])


class Phi:
    """A phi whose incoming values may be added later; `value` is what it defines."""

    __slots__ = ("_incoming", "value")

    def __init__(self, value: Val):
        self.value = value
        self._incoming: list[tuple[Val, Block]] = []

    def add(self, value: Val, block: Block) -> None:
        """When control comes from `block`, the phi is `value`."""
        if value.type != self.value.type:
            raise LoweringError(f"phi: {value.type} comes into a {self.value.type}")
        self._incoming.append((value, block))

    def text(self) -> str:
        """The phi as LLVM IR text."""
        pairs = ", ".join(f"[ {v.name}, %{b.label} ]" for v, b in self._incoming)
        return f"  {self.value.name} = phi {self.value.type} {pairs}"


class Loop:
    """An open loop: `index`, the values `carried` into this turn, and after it `results`."""

    def __init__(self, index: Val, carried: tuple[Val, ...]):
        self.index = index
        self.carried = carried
        self.results: tuple[Val, ...] = ()
        self._next: tuple[Val, ...] | None = None

    def next(self, *values: Val) -> None:
        """The carried values of the next turn; call it once, at the end of the body."""
        if len(values) != len(self.carried):
            raise LoweringError(f"loop carries {len(self.carried)} values, not {len(values)}")
        self._next = values

    def _next_values(self) -> tuple[Val, ...]:
        if self._next is None and self.carried:
            raise LoweringError("the loop carries values, but next() was not called")
        return self._next or ()


class Function(Instructions):
    """A function under construction. Instructions go to the end of the current block.

    `debug` is `(path, line)` of what the function was generated for; with it `location` marks
    instructions with user lines.
    """

    def __init__(
        self,
        module: Module,
        name: str,
        params: Sequence[Param] = (),
        result: str = "void",
        attributes: str = "",
        linkage: str = "",
        debug: tuple[str, int] | None = None,
    ):
        super().__init__(module)
        self.name = name
        self.result = result
        self.params = [Val(p.type, f"%{p.name}") for p in params]
        self._signature = ", ".join(
            f"{p.type} {p.attributes} %{p.name}" if p.attributes else f"{p.type} %{p.name}"
            for p in params
        )
        self._attributes = " ".join(t for t in (attributes, module.attributes) if t)
        self._linkage = linkage + " " if linkage else ""
        self._allocas: list[str] = []
        self._subprogram = module.debug_subprogram(name, *debug) if debug else ""
        self.blocks: list[Block] = []
        self.current = Block("entry")
        self.enter(self.current)
        if debug:
            self.location(*debug)
        module.define(name, self)

    def text(self) -> str:
        """The definition as LLVM IR text."""
        debug = f" !dbg {self._subprogram}" if self._subprogram else ""
        head = f"define {self._linkage}{self.result} @{self.name}({self._signature}) "
        first, *rest = [block.text() for block in self.blocks]
        if self._allocas:
            label, _, body = first.partition("\n")
            first = "\n".join([label, *self._allocas, body])
        return "\n".join([f"\n{head}{self._attributes}{debug} {{", first, *rest, "}"])

    def location(self, path: str, line: int) -> None:
        """Mark what follows as coming from this line of the user's program."""
        if self._subprogram:
            node = self.module.debug_location(self._subprogram, path, line)
            self._debug = f", !dbg {node}"

    # -- blocks and branches

    def block(self, hint: str = "b") -> Block:
        """A new block, not yet placed: `enter` puts it at the end of the function."""
        self._count += 1
        return Block(f"{hint}{self._count}")

    def enter(self, block: Block) -> None:
        """Place the block and go on writing there."""
        self.blocks.append(block)
        self.current = block
        self._lines = block.lines

    def phi(self, type: str, *incoming: tuple[Val, Block], name: str = "phi") -> Phi:
        """A phi of the current block."""
        self._count += 1
        phi = Phi(Val(type, f"%{name}.{self._count}"))
        for value, block in incoming:
            phi.add(value, block)
        self.current.phis.append(phi)
        return phi

    def _end(self, text: str) -> None:
        if self.current.terminated:
            raise LoweringError(f"block {self.current.label} of {self.name} ends twice")
        self.emit_void(text)
        self.current.terminated = True

    def br(self, block: Block, meta: str = "") -> None:
        """Go to `block`."""
        self._end(f"br label %{block.label}{meta}")

    def cond_br(self, condition: Val, then: Block, other: Block, meta: str = "") -> None:
        """Go to `then` if the `i1` holds, otherwise to `other`."""
        targets = f"label %{then.label}, label %{other.label}"
        self._end(f"br i1 {condition.name}, {targets}{meta}")

    def ret(self, value: Val | None = None) -> None:
        """Leave the function."""
        self._end("ret void" if value is None else f"ret {value.type} {value.name}")

    @contextmanager
    def loop(
        self,
        lo: Val | int,
        hi: Val | int,
        step: Val | int = 1,
        carried: Sequence[Val] = (),
        name: str = "i",
        unroll: int = 1,
    ) -> Iterator[Loop]:
        """`for i in range(lo, hi, step)`, a positive step, all of one integer type.

        `carried` are the first turn's values of what each turn hands to the next with
        `Loop.next`; `Loop.results` are the last ones (`carried`, if there is no turn). Plain
        numbers are `i64`. The test is at the end; the guard in front disappears when the bounds
        are constants. `unroll` as in `Module.loop_metadata`.

            with f.loop(0, n, carried=[zero]) as loop:
                loop.next(f.add(loop.carried[0], f.load("float", f.gep(x, loop.index, "float"))))
            total = loop.results[0]
        """
        first, last, stride = (self.index(v) if isinstance(v, int) else v for v in (lo, hi, step))
        start, body, end = self.current, self.block(f"{name}.loop"), self.block(f"{name}.end")
        guarded = not _runs_at_least_once(first, last)
        if guarded:
            self.cond_br(self.icmp("slt", first, last), body, end)
        else:
            self.br(body)
        self.enter(body)
        index = self.phi(first.type, (first, start), name=name)
        phis = [self.phi(value.type, (value, start), name="acc") for value in carried]
        loop = Loop(index.value, tuple(phi.value for phi in phis))
        yield loop
        following = loop._next_values()
        after = self.binary("add", index.value, stride, "nsw")
        index.add(after, self.current)
        for phi, value in zip(phis, following, strict=True):
            phi.add(value, self.current)
        again = self.icmp("slt", after, last)
        latch = self.current
        self.cond_br(again, body, end, f", !llvm.loop {self.module.loop_metadata(unroll)}")
        self.enter(end)
        if not guarded:
            loop.results = following
            return
        pairs = zip(carried, following, strict=True)
        loop.results = tuple(
            self.phi(a.type, (a, start), (b, latch), name="res").value for a, b in pairs
        )

    @contextmanager
    def if_(self, condition: Val, likely: bool | None = None) -> Iterator[None]:
        """Run the body only if the `i1` holds."""
        then, end = self.block("then"), self.block("end")
        self.cond_br(condition, then, end, self._weights(likely))
        self.enter(then)
        yield
        self.br(end)
        self.enter(end)

    def if_else(
        self,
        condition: Val,
        then: Callable[[], Sequence[Val]],
        other: Callable[[], Sequence[Val]],
        likely: bool | None = None,
    ) -> tuple[Val, ...]:
        """Run one of two bodies; gives what it returned (equal types on both sides)."""
        ways = [self.block("then"), self.block("else")]
        end = self.block("end")
        self.cond_br(condition, ways[0], ways[1], self._weights(likely))
        outcomes = []
        for block, body in zip(ways, (then, other), strict=True):
            self.enter(block)
            values = body()
            outcomes.append((tuple(values), self.current))
            self.br(end)
        self.enter(end)
        (left, left_end), (right, right_end) = outcomes
        pairs = zip(left, right, strict=True)
        return tuple(
            self.phi(a.type, (a, left_end), (b, right_end), name="either").value for a, b in pairs
        )

    def _weights(self, likely: bool | None) -> str:
        if likely is None:
            return ""
        yes, no = (2000, 1) if likely else (1, 2000)
        node = self.module.metadata(f'!{{!"branch_weights", i32 {yes}, i32 {no}}}')
        return f", !prof {node}"

    # -- addresses, loads and stores

    def gep(self, base: Val, index: Val | int, element_type: str = "i8") -> Val:
        """`&base[index]` counted in `element_type`; a vector of indices gives many pointers."""
        offset = self.index(index) if isinstance(index, int) else index
        if constant_int(offset) == 0:
            return base
        text = f"getelementptr inbounds {element_type}, {base.type} {base.name}, "
        type = like(offset.type if base.type == "ptr" else base.type, "ptr")
        return self.emit(type, f"{text}{offset.type} {offset.name}", "p")

    def load(self, type: str, ptr: Val, align: int = 0, meta: str = "") -> Val:
        """Load a scalar or vector; `align` in bytes, by default that of the element."""
        align = align or type_bytes(element(type))
        return self.emit(type, f"load {type}, ptr {ptr.name}, align {align}{meta}")

    def store(self, value: Val, ptr: Val, align: int = 0, meta: str = "") -> None:
        """Store a scalar or vector; `meta` may be `nontemporal()` or an alias scope."""
        align = align or type_bytes(element(value.type))
        self.emit_void(f"store {value.type} {value.name}, ptr {ptr.name}, align {align}{meta}")

    def load_dtype(
        self,
        dtype: str,
        lanes: int,
        ptr: Val,
        align: int = 0,
        meta: str = "",
        mask: Val | None = None,
    ) -> Val:
        """Load `lanes` values of `dtype` as they are held in registers (bool bytes to `i1`)."""
        type = memory_type(dtype, lanes)
        value = (
            self.load(type, ptr, align, meta)
            if mask is None
            else self.masked_load(type, ptr, mask, align, meta=meta)
        )
        return self.from_memory(dtype, value)

    def store_dtype(
        self,
        dtype: str,
        value: Val,
        ptr: Val,
        align: int = 0,
        meta: str = "",
        mask: Val | None = None,
    ) -> None:
        """Store register values of `dtype` (bool `i1` to bytes 0 and 1)."""
        value = self.to_memory(dtype, value)
        if mask is None:
            self.store(value, ptr, align, meta)
        else:
            self.masked_store(value, ptr, mask, align, meta)

    def from_memory(self, dtype: str, value: Val) -> Val:
        """What was loaded as `memory_type` in `register_type`."""
        if dtype != "bool":
            return value
        return self.icmp("ne", value, constant(value.type, 0))

    def to_memory(self, dtype: str, value: Val) -> Val:
        """A register value as it is stored."""
        return self.resize(value, "i8", signed=False) if dtype == "bool" else value

    def nontemporal(self) -> str:
        """The `meta` of a store that bypasses the caches."""
        return f", !nontemporal {self.module.metadata('!{i32 1}')}"

    def masked_load(
        self,
        type: str,
        ptr: Val,
        mask: Val,
        align: int = 0,
        passthru: Val | None = None,
        meta: str = "",
    ) -> Val:
        """Load the lanes whose `i1` is true; the others are those of `passthru` (default 0)."""
        other = passthru or Val(type, "zeroinitializer")
        known = _known_mask(mask)
        if known is not None and all(known):
            return self.load(type, ptr, align, meta)
        if known is not None and not any(known):
            return other
        if lanes_of(type) == 1:
            return self._guarded_load(type, ptr, mask, align, other, meta)
        align = align or type_bytes(element(type))
        name = f"llvm.masked.load.{mangle(type)}.p0"
        self.module.declare(name, type, ["ptr", mask.type, type])
        args = f"ptr align {align} {ptr.name}, {mask.type} {mask.name}, {type} {other.name}"
        return self.emit(type, f"call {type} @{name}({args}){meta}")

    def masked_store(self, value: Val, ptr: Val, mask: Val, align: int = 0, meta: str = "") -> None:
        """Store the lanes whose `i1` is true."""
        known = _known_mask(mask)
        if known is not None and all(known):
            self.store(value, ptr, align, meta)
            return
        if known is not None and not any(known):
            return
        if lanes_of(value.type) == 1:
            with self.if_(mask):
                self.store(value, ptr, align, meta)
            return
        if known is not None and sum(known) == 1:
            # LLVM 22 stores too many bytes for one lane cut from a wider integer.
            lane = known.index(True)
            place = self.gep(ptr, lane, element(value.type)) if lane else ptr
            self.store(self.extract(value, lane), place, type_bytes(element(value.type)), meta)
            return
        align = align or type_bytes(element(value.type))
        name = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.module.declare(name, "void", [value.type, "ptr", mask.type])
        args = f"{value.type} {value.name}, ptr align {align} {ptr.name}, {mask.type} {mask.name}"
        self.emit_void(f"call void @{name}({args}){meta}")

    def gather(
        self,
        type: str,
        ptrs: Val,
        mask: Val | None = None,
        align: int = 0,
        passthru: Val | None = None,
        meta: str = "",
    ) -> Val:
        """Load each lane from its own pointer (`gep` with a vector of indices)."""
        lanes = lanes_of(type)
        if mask is None:
            mask = constant(vector("i1", lanes), 1)
        if lanes == 1:
            return self.masked_load(type, ptrs, mask, align, passthru, meta)
        align = align or type_bytes(element(type))
        name = f"llvm.masked.gather.{mangle(type)}.{mangle(ptrs.type)}"
        self.module.declare(name, type, [ptrs.type, mask.type, type])
        other = passthru or Val(type, "zeroinitializer")
        if mask.name == "splat (i1 true)":
            other = poison(type)
        where = f"{ptrs.type} align {align} {ptrs.name}"
        args = f"{where}, {mask.type} {mask.name}, {type} {other.name}"
        return self.emit(type, f"call {type} @{name}({args}){meta}")

    def scatter(
        self, value: Val, ptrs: Val, mask: Val | None = None, align: int = 0, meta: str = ""
    ) -> None:
        """Store each lane to its own pointer, in lane order where pointers are equal."""
        lanes = lanes_of(value.type)
        if mask is None:
            mask = constant(vector("i1", lanes), 1)
        if lanes == 1:
            self.masked_store(value, ptrs, mask, align, meta)
            return
        align = align or type_bytes(element(value.type))
        name = f"llvm.masked.scatter.{mangle(value.type)}.{mangle(ptrs.type)}"
        self.module.declare(name, "void", [value.type, ptrs.type, mask.type])
        where = f"{ptrs.type} align {align} {ptrs.name}"
        self.emit_void(
            f"call void @{name}({value.type} {value.name}, {where}, {mask.type} {mask.name}){meta}"
        )

    def _guarded_load(
        self, type: str, ptr: Val, mask: Val, align: int, other: Val, meta: str
    ) -> Val:
        return self.if_else(mask, lambda: [self.load(type, ptr, align, meta)], lambda: [other])[0]

    def alloca(self, type: str, count: int = 1, align: int = 64) -> Val:
        """Stack memory of `count` elements, reserved on entry."""
        self._count += 1
        name = f"%stack{self._count}"
        self._allocas.append(f"  {name} = alloca {type}, i64 {count}, align {align}")
        return Val("ptr", name)

    def prefetch(self, ptr: Val, write: bool = False, locality: int = 3) -> None:
        """Bring the cache line at `ptr` near: locality 3 is the first-level cache."""
        name = "llvm.prefetch.p0"
        self.module.declare(name, "void", ["ptr", "i32 immarg", "i32 immarg", "i32 immarg"])
        self.emit_void(
            f"call void @{name}(ptr {ptr.name}, i32 {int(write)}, i32 {locality}, i32 1)"
        )

    def opaque(self, x: Val) -> Val:
        """`x`, a scalar; a constant is hidden from the optimizer."""
        if not x.is_constant:
            return x
        return self.emit(x.type, f'call {x.type} asm "", "=r,0"({x.type} {x.name})')

    # -- atomics

    def atomic_rmw(self, op: str, ptr: Val, value: Val, ordering: str = "acq_rel") -> Val:
        """Read, combine (`add xchg fadd max ...`) and write as one step; gives the old value."""
        text = f"atomicrmw {op} ptr {ptr.name}, {value.type} {value.name} {ordering}"
        return self.emit(value.type, text)

    def atomic_load(self, type: str, ptr: Val, ordering: str = "acquire") -> Val:
        """Load a scalar atomically."""
        return self.emit(
            type, f"load atomic {type}, ptr {ptr.name} {ordering}, align {type_bytes(type)}"
        )

    def atomic_store(self, value: Val, ptr: Val, ordering: str = "release") -> None:
        """Store a scalar atomically."""
        text = f"store atomic {value.type} {value.name}, ptr {ptr.name} {ordering}"
        self.emit_void(f"{text}, align {type_bytes(value.type)}")

    def compare_exchange(self, ptr: Val, expected: Val, new: Val) -> tuple[Val, Val]:
        """Store `new` if memory holds `expected`; gives the old value and whether it did."""
        type = expected.type
        operands = f"ptr {ptr.name}, {type} {expected.name}, {type} {new.name}"
        pair = self.emit(f"{{ {type}, i1 }}", f"cmpxchg {operands} acq_rel acquire")
        old = self.emit(type, f"extractvalue {pair.type} {pair.name}, 0")
        return old, self.emit("i1", f"extractvalue {pair.type} {pair.name}, 1")

    def fence(self, ordering: str = "seq_cst") -> None:
        """Order memory accesses around this point."""
        self.emit_void(f"fence {ordering}")


def _runs_at_least_once(lo: Val, hi: Val) -> bool:
    first, last = constant_int(lo), constant_int(hi)
    return first is not None and last is not None and first < last


def _known_mask(mask: Val) -> list[bool] | None:
    """The lanes of a constant mask, or `None`."""
    if not mask.is_constant:
        return None
    if mask.name.startswith("splat"):
        return ["true" in mask.name] * lanes_of(mask.type)
    if mask.name == "zeroinitializer":
        return [False] * lanes_of(mask.type)
    return ["true" in item for item in mask.name.split(",")]
