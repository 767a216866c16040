"""Scheduled kernels to LLVM IR text: one function for each phase.

    void @name(ptr args, i64 begin, i64 end, ptr scratch)

`args` are the buffer pointers in the order of `Kernel.params`, and that of the values of
`Kernel.sizes` if there are any; [begin, end) the tiles of the parallel loop to do. The work is in
an inner function with one `noalias` parameter for each buffer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rung.codegen.llvm.builder import Function, Param
from rung.codegen.llvm.lower_expr import Storage, num_elements
from rung.codegen.llvm.lower_stmt import StmtLowering, written
from rung.codegen.llvm.module import Module
from rung.codegen.llvm.opaque import scratch_buffer
from rung.codegen.llvm.roll import in_memory
from rung.codegen.llvm.target import Target
from rung.codegen.llvm.types import Val
from rung.core.errors import LoweringError
from rung.ir.expr import Expr, Read, bounds, walk
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Prefetch,
    Stmt,
    Store,
    children,
    grid,
    walk_stmts,
)
from rung.kernel.prepare import phases as phases_of

_LINE_BYTES = 64


@dataclass(frozen=True)
class LoweredKernel:
    """LLVM IR text of a kernel. `phases` are (symbol, grid) in order of execution, and `grids` the
    same for any sizes; `scratch_bytes` is what each thread needs."""

    ir_text: str
    phases: tuple[tuple[str, int], ...]
    scratch_bytes: int
    grids: tuple[Expr, ...] = ()


def lower_kernel(kernel: Kernel, target: Target, debug: bool = False) -> LoweredKernel:
    """LLVM IR for `kernel` on `target`; `debug` adds the user's source lines as debug info.

    Raises LoweringError for a kernel that breaks a rule of the loop level."""
    module = Module(target.attributes, target.enabled)
    offsets, scratch_bytes = _scratch_layout(kernel)
    phases: list[tuple[str, int]] = []
    grids: list[Expr] = []
    for phase in phases_of(kernel):
        symbol = f"{_symbol(kernel.name)}_{len(phases)}"
        _lower_phase(module, kernel, target, symbol, phase, offsets, debug)
        grids.append(grid(phase))
        phases.append((symbol, _most(grids[-1])))
    text = _header(kernel) + module.text()
    return LoweredKernel(text, tuple(phases), scratch_bytes, tuple(grids))


def _most(grid: Expr) -> int:
    limits = bounds(grid)
    assert limits is not None
    return limits[1]


def _symbol(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _header(kernel: Kernel) -> str:
    """What the code is made of, as comments."""
    lines = [f"kernel {kernel.name}"]
    lines += [f"  {b!r}" for b in kernel.params]
    lines += [f"  from {s.describe()}" for s in kernel.sources]
    lines += [f"  schedule {step}" for step in kernel.schedule]
    return "".join(f"; {line}\n" for text in lines for line in text.splitlines())


def _scratch_layout(kernel: Kernel) -> tuple[dict[Buffer, int], int]:
    """Byte offset of each scratch buffer, and bytes in all."""
    offsets: dict[Buffer, int] = {}
    total = 0

    def place(buffer: Buffer, copies: int) -> None:
        nonlocal total
        if buffer.role == "scratch" and buffer not in offsets:
            offsets[buffer] = total
            total += -(-buffer.nbytes * copies // _LINE_BYTES) * _LINE_BYTES

    def visit(s: Stmt, copies: int) -> None:
        if isinstance(s, Alloc):
            place(s.buffer, copies)
        elif isinstance(s, Opaque):
            place(scratch_buffer(s), 1)
        elif isinstance(s, For) and s.kind == "vector":
            copies = s.lanes or s.axis.extent
        for c in children(s):
            visit(c, copies)

    visit(kernel.body, 1)
    return offsets, total


def _used(phase: Stmt) -> set[Buffer]:
    """Every buffer that the phase touches."""
    found = written(phase)
    for s in walk_stmts(phase):
        exprs = []
        if isinstance(s, Store | Accumulate):
            exprs = [*s.index, s.value, *([s.guard] if s.guard is not None else [])]
        elif isinstance(s, For):
            exprs = [s.extent]
        elif isinstance(s, If):
            exprs = [s.condition]
        elif isinstance(s, Prefetch):
            found.add(s.buffer)
            exprs = list(s.index)
        elif isinstance(s, Opaque):
            found.update(s.inputs)
            exprs = [s.row]
        for e in walk(*exprs):
            if isinstance(e, Read) and isinstance(e.source, Buffer):
                found.add(e.source)
    return found


def _lower_phase(
    module: Module,
    kernel: Kernel,
    target: Target,
    symbol: str,
    phase: Stmt,
    offsets: dict[Buffer, int],
    debug: bool,
) -> None:
    used, changed = _used(phase), written(phase)
    params = [b for b in kernel.params if b in used]
    scratch = [b for b in offsets if b in used]
    unknown = [b for b in used if b.role != "register" and b not in (*params, *scratch)]
    if unknown:
        raise LoweringError(f"{kernel.name}: {unknown[0]!r} is neither parameter nor allocated")
    declared = [
        Param("ptr", f"b{i}_{_symbol(b.name)}", _attributes(b, b in changed))
        for i, b in enumerate([*params, *scratch])
    ]
    source = kernel.sources[0] if debug and kernel.sources else None
    f = Function(
        module,
        f"{symbol}_body",
        [
            *declared,
            *(Param("i64", f"n_{_symbol(n.name)}") for n in kernel.sizes),
            Param("i64", "begin"),
            Param("i64", "end"),
        ],
        attributes="noinline",
        linkage="internal",
        debug=(source.file, source.line) if source else None,
    )
    *values, begin, end = f.params
    pointers, sizes = values[: len(declared)], values[len(declared) :]
    lowering = StmtLowering(f, target)
    lowering.in_memory = in_memory(kernel)
    for buffer, pointer in zip([*params, *scratch], pointers, strict=True):
        lowering.storage[buffer] = Storage(pointer, num_elements(buffer))
    for size, value in zip(kernel.sizes, sizes, strict=True):
        lowering.bind_size(size, value)
    if isinstance(phase, For) and phase.kind == "parallel":
        lowering.serial_loop(phase.axis, begin, end, phase.body)
    else:
        with f.if_(f.icmp("slt", begin, end)), lowering.scope():
            lowering.run(phase)
    f.ret()
    _emit_entry(module, kernel, symbol, f, params, [offsets[b] for b in scratch])


def _attributes(buffer: Buffer, changed: bool) -> str:
    """What LLVM may assume of the pointer: distinct from all others, readable as a whole."""
    parts = ["noalias", "captures(none)"]
    parts.append(f"align {_LINE_BYTES if buffer.role == 'scratch' else buffer.dtype.itemsize}")
    if not changed:
        parts.append("readonly")
    if buffer.least_bytes:
        parts.append(f"dereferenceable({buffer.least_bytes})")
    return " ".join(parts)


def _emit_entry(
    module: Module,
    kernel: Kernel,
    symbol: str,
    body: Function,
    params: list[Buffer],
    scratch_offsets: list[int],
) -> None:
    """The exported function: takes the pointers apart and calls the body."""
    entry = Function(
        module,
        symbol,
        [
            Param("ptr", "args", "noalias readonly"),
            Param("i64", "begin"),
            Param("i64", "end"),
            Param("ptr", "scratch"),
        ],
    )
    args, begin, end, scratch = entry.params
    values: list[Val] = []
    for buffer in params:
        position = kernel.params.index(buffer)
        values.append(entry.load("ptr", entry.gep(args, position, "ptr")))
    values += [entry.gep(scratch, offset, "i8") for offset in scratch_offsets]
    if kernel.sizes:
        sizes = entry.load("ptr", entry.gep(args, len(kernel.params), "ptr"))
        values += [entry.load("i64", entry.gep(sizes, i, "i64")) for i in range(len(kernel.sizes))]
    operands = ", ".join(f"{v.type} {v.name}" for v in [*values, begin, end])
    entry.emit_void(f"call void @{body.name}({operands})")
    entry.ret()
