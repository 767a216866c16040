"""Names of buffers and axes by their order of appearance, so that equal kernels are one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rung.core.source import Source
from rung.ir.expr import Expr, Read, Var, read, transform, var
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
from rung.kernel.rewrite import block, map_exprs


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
    numbers = axis_numbers(phases)
    renamed = tuple(_renamed(p, names, numbers) for p in phases)
    kernel = Kernel("kernel", tuple(names[b] for b in params), Block(renamed), sources)
    return KernelCall(kernel, tuple(storage.elements.owner(b) for b in params), group)


def axis_numbers(phases: Sequence[Stmt]) -> dict[Var, Var]:
    """The loop variables numbered by their order of appearance: `a0` for `a17_0`, `k1` for
    `k17_0`."""
    axes = dict.fromkeys(x.axis for p in phases for x in walk_stmts(p) if isinstance(x, For))
    return {v: var(f"{v.name[0]}{i}", v.extent) for i, v in enumerate(axes)}


def number_axes(phases: Sequence[Stmt]) -> list[Stmt]:
    """Phases with their loop variables numbered."""
    numbers = axis_numbers(phases)
    return [_renamed(p, {}, numbers) for p in phases]


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
    return _renamed(s, names, {})


def _renamed(s: Stmt, names: dict[Buffer, Buffer], axes: Mapping[Var, Var]) -> Stmt:
    """`s` with buffers and loop variables replaced."""
    memo: dict[Expr, Expr] = {}

    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Var):
            return axes.get(x)
        if isinstance(x, Read) and x.source in names:
            index = tuple([f(i) for i in x.index])
            return read(names[x.source], index, guard=None if x.guard is None else f(x.guard))
        return None

    def f(e: Expr) -> Expr:
        return transform(e, leaf, memo)

    def rewrite(x: Stmt) -> Stmt | None:
        if isinstance(x, For):
            axis = axes.get(x.axis, x.axis)
            return replace(x, axis=axis, body=block(x.body)) if axis is not x.axis else None
        if isinstance(x, Store):
            return Store(names.get(x.buffer, x.buffer), x.index, x.value, x.guard)
        if isinstance(x, Accumulate):
            buffer = names.get(x.buffer, x.buffer)
            return Accumulate(buffer, x.index, x.combine, x.value, x.guard)
        if isinstance(x, Alloc):
            return Alloc(names.get(x.buffer, x.buffer))
        if isinstance(x, Opaque):
            outputs = tuple(names.get(b, b) for b in x.outputs)
            inputs = tuple(names.get(b, b) for b in x.inputs)
            return Opaque(x.name, outputs, inputs, x.row, x.options)
        return None

    return map_stmts(map_exprs(s, f), rewrite)
