"""Names of buffers and axes by their order of appearance, so that equal kernels are one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rung.core.source import Source
from rung.ir.expr import Expr, Read, read, transform, var
from rung.ir.node import Value
from rung.kernel.group import Storage
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    Kernel,
    Opaque,
    Stmt,
    Store,
    map_stmts,
    walk_stmts,
)  # fmt: skip
from rung.kernel.rewrite import block, map_exprs, substitute_stmt


@dataclass(frozen=True, eq=False)
class KernelCall:
    """A kernel and the graph values whose memory its parameters are."""

    kernel: Kernel
    args: tuple[Value, ...]
    group: str


def finish(
    phases: tuple[Stmt, ...], sources: tuple[Source, ...], storage: Storage, group: str
) -> KernelCall:
    """Name the buffers by their order of appearance, so that equal kernels are one object."""
    written: dict[Buffer, None] = {}
    used: dict[Buffer, None] = {}
    for p in phases:
        for x in walk_stmts(p):
            if isinstance(x, Store | Accumulate):
                written[x.buffer] = None
                for e in (*x.index, x.value, *(() if x.guard is None else (x.guard,))):
                    _collect(e, used)
                used[x.buffer] = None
            elif isinstance(x, Opaque):
                used.update(dict.fromkeys((*x.inputs, *x.outputs)))
                written.update(dict.fromkeys(x.outputs))
    params = [b for b in used if b.role == "temp"]
    names: dict[Buffer, Buffer] = {}
    for b in params:
        role = "output" if b in written else "input"
        letter = "y" if b in written else "x"
        names[b] = Buffer(f"{letter}{len(names)}", b.dtype, b.shape, role)
    local = [x.buffer for p in phases for x in walk_stmts(p) if isinstance(x, Alloc)]
    for i, b in enumerate(dict.fromkeys(local)):
        names[b] = Buffer(f"t{i}", b.dtype, b.shape, b.role)
    renamed = tuple(number_axes([rename(p, names) for p in phases]))
    kernel = Kernel("kernel", tuple(names[b] for b in params), Block(renamed), sources)
    return KernelCall(kernel, tuple(storage.elements.owner(b) for b in params), group)


def number_axes(phases: Sequence[Stmt]) -> list[Stmt]:
    """Number the loop variables by their order of appearance: `a17_0`, `k17_0` become `a0`,
    `k1`."""
    axes = dict.fromkeys(x.axis for p in phases for x in walk_stmts(p) if isinstance(x, For))
    new = {v: var(f"{v.name[0]}{i}", v.extent) for i, v in enumerate(axes)}

    def renumbered(x: Stmt) -> Stmt | None:
        if not isinstance(x, For):
            return None
        axis = new[x.axis]
        return replace(x, axis=axis, body=block(substitute_stmt(x.body, {x.axis: axis})))

    return [map_stmts(p, renumbered) for p in phases]


def _collect(e: Expr, used: dict[Buffer, None]) -> None:
    stack = [e]
    seen: set[Expr] = set()
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if isinstance(x, Read) and isinstance(x.source, Buffer):
            used[x.source] = None
        stack.extend(reversed(x.children()))


def rename(s: Stmt, names: dict[Buffer, Buffer]) -> Stmt:
    """`s` with buffers replaced."""

    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Read) and x.source in names:
            index = tuple(transform(i, leaf) for i in x.index)
            guard = None if x.guard is None else transform(x.guard, leaf)
            return read(names[x.source], index, guard=guard)
        return None

    def rewrite(x: Stmt) -> Stmt | None:
        if isinstance(x, Store):
            return Store(names.get(x.buffer, x.buffer), x.index, x.value, x.guard)
        if isinstance(x, Accumulate):
            buffer = names.get(x.buffer, x.buffer)
            return Accumulate(buffer, x.index, x.combine, x.value, x.guard)
        if isinstance(x, Alloc):
            return Alloc(names.get(x.buffer, x.buffer))
        if isinstance(x, Opaque):
            outputs = tuple(names[b] for b in x.outputs)
            return Opaque(x.name, outputs, tuple(names[b] for b in x.inputs), x.row, x.options)
        return None

    return map_stmts(map_exprs(s, lambda e: transform(e, leaf)), rewrite)
