"""The meaning of kernels: runs them, naive or scheduled, on NumPy arrays.

Loops run one iteration after the other, except that a loop whose iterations do not depend on each
other (but for accumulations) is run for all of them at once, one statement after the other. Each
loop has a dim of its own, given by its depth, in the arrays that stand for its variable and for all
that depends on it. `batch=False` runs everything one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import IndexingError, LoweringError, ShapeError
from rung.ir.expr import (
    PLAIN,
    Call,
    Const,
    Expr,
    Read,
    Size,
    Var,
    is_sized,
    postorder,
    sized_value,
)  # fmt: skip
from rung.ir.op import NO_ATTRS, Op
from rung.kernel.deps import carried
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Prefetch,
    Stmt,
    Store,
    children,
    walk_stmts,
)  # fmt: skip
from rung.ops.elementwise import DTypeAttrs
from rung.ops.sorting import SortAttrs, TopAttrs
from rung.ops.table import OPS

Array = np.ndarray[Any, Any]
Scalars = Mapping[str, Callable[[DType, Sequence[Array]], Array]]
"""For each scalar op: (dtype of the result, operands) -> result."""

MOST_AT_ONCE = 2**22
CONCRETE: dict[str, np.ufunc] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}


def _is_index(dtype: DType) -> bool:
    return dtype is dt.int64 or dtype is dt.bool_


def _is_index_arithmetic(e: Call) -> bool:
    """Whether plain integers can do it; a divisor that may be zero is left to the op."""
    if e.op not in CONCRETE or not (_is_index(e.dtype) and _is_index(e.args[0].dtype)):
        return False
    if e.op not in ("floor_divide", "remainder"):
        return True
    divisor = e.args[1]
    return is_sized(divisor) or (isinstance(divisor, Const) and divisor.value != 0)


@cache
def scalar_functions() -> Scalars:
    """What the op records say about scalar ops."""
    return {name: _function(op) for name, op in OPS.items() if op.elementwise}


def _function(op: Op) -> Callable[[DType, Sequence[Array]], Array]:
    if op.attrs is DTypeAttrs:
        return lambda dtype, operands: op.ref(DTypeAttrs(dtype), operands)[0]
    return lambda dtype, operands: op.ref(NO_ATTRS, operands)[0]


def interpret(
    kernel: Kernel,
    arrays: Sequence[Array],
    scalars: Scalars | None = None,
    batch: bool = True,
    hostile: bool = False,
    sizes: Sequence[int] = (),
) -> None:
    """Run `kernel` on one array for each of `kernel.params`, of the buffer's shape and dtype; those
    that it writes change. `sizes` are the values of `kernel.sizes`. `hostile` runs parallel loops
    backwards and vector loops a statement at a time without looking whether that is right.

    Raises ShapeError for an array that does not fit, IndexingError for an access outside of a
    buffer."""
    if len(arrays) != len(kernel.params):
        raise ShapeError(f"{kernel.name}: {len(arrays)} arrays for {len(kernel.params)} parameters")
    values = dict(zip(kernel.sizes, sizes, strict=True))
    storage: dict[Buffer, Storage] = {}
    for buffer, array in zip(kernel.params, arrays, strict=True):
        many = buffer.elements
        shape = buffer.shape if many is None else (sized_value(many, values),)
        if array.shape != shape or array.dtype != buffer.dtype.numpy:
            raise ShapeError(f"{kernel.name}: {buffer!r} is given {array.dtype}{array.shape}")
        storage[buffer] = Storage(array, 0)
    functions = scalars or scalar_functions()
    run = Run(functions, _depth(kernel.body), batch, hostile, storage, values)
    with np.errstate(all="ignore"):
        run.stmt(kernel.body, Frame())


def _depth(s: Stmt) -> int:
    inner = max((_depth(c) for c in children(s)), default=0)
    return inner + isinstance(s, For)


@dataclass(frozen=True)
class Storage:
    """The elements of a buffer, with `lead` dims for the loops around its allocation in front."""

    array: Array
    lead: int


@dataclass(frozen=True)
class Frame:
    """Where the run is: values of the axes (numbers, or arrays along the dim of their loop), the
    batched loops as depth: extent, and the mask of the iterations that count."""

    axes: Mapping[Var, Any] = field(default_factory=dict)
    batched: Mapping[int, int] = field(default_factory=dict)
    mask: Any = None
    depth: int = 0

    def masked(self, condition: Any) -> Any:
        if self.mask is None or self.mask is True:
            return condition
        return condition and self.mask if isinstance(condition, bool) else self.mask & condition


@dataclass
class Run:
    """One run of a kernel."""

    scalars: Scalars
    rank: int
    batch: bool
    hostile: bool
    storage: dict[Buffer, Storage]
    sizes: Mapping[Size, int] = field(default_factory=dict)
    flows: dict[For, bool] = field(default_factory=dict)

    # -- statements

    def stmt(self, s: Stmt, frame: Frame) -> None:
        if isinstance(s, Block):
            for c in s.stmts:
                self.stmt(c, frame)
        elif isinstance(s, For):
            self.loop(s, frame)
        elif isinstance(s, Store):
            self.store(s, frame)
        elif isinstance(s, Accumulate):
            self.accumulate(s, frame)
        elif isinstance(s, If):
            self.branch(s.body, self.value(s.condition, frame), frame)
        elif isinstance(s, Alloc):
            self.alloc(s.buffer, frame)
        elif isinstance(s, Opaque):
            self.opaque(s, frame)
        elif not isinstance(s, Prefetch):
            raise LoweringError(f"no meaning for {type(s).__name__}")

    def branch(self, body: Stmt, condition: Any, frame: Frame) -> None:
        if np.ndim(condition) == 0:
            if condition:
                self.stmt(body, frame)
        elif np.any(condition):
            self.stmt(body, replace(frame, mask=frame.masked(condition)))

    def loop(self, s: For, frame: Frame) -> None:
        extent = self.value(s.extent, frame)
        most = extent if isinstance(extent, int) else int(np.max(extent, initial=0))
        if most > s.axis.extent:
            raise IndexingError(f"{s.axis.name} runs to {most}, more than {s.axis.extent}")
        deeper = replace(frame, depth=frame.depth + 1)
        if most and self.at_once(s, most, frame):
            shape = [1] * self.rank
            shape[frame.depth] = most
            values = np.arange(most).reshape(shape)
            batched = {**frame.batched, frame.depth: most}
            mask = frame.masked(values < extent) if np.ndim(extent) else frame.mask
            axes = {**frame.axes, s.axis: values}
            self.stmt(s.body, replace(deeper, axes=axes, batched=batched, mask=mask))
            return
        order = range(most)
        for i in reversed(order) if self.hostile and s.kind == "parallel" else order:
            one = replace(deeper, axes={**frame.axes, s.axis: i})
            if np.ndim(extent):
                self.branch(s.body, i < extent, one)
            else:
                self.stmt(s.body, one)

    def at_once(self, s: For, most: int, frame: Frame) -> bool:
        """Whether all iterations may run together."""
        if prod(frame.batched.values()) * most > MOST_AT_ONCE:
            return False
        if self.hostile and s.kind == "vector":
            return True
        if not self.batch or (self.hostile and s.kind == "parallel"):
            return False
        found = self.flows.get(s)
        if found is None:
            plain = not any(isinstance(x, Opaque) for x in walk_stmts(s))
            found = self.flows[s] = plain and carried(s, reductions=True) is None
        return found

    def alloc(self, buffer: Buffer, frame: Frame) -> None:
        """Fresh elements, with values that show when they are read before they are written."""
        shape = self.frame_shape(frame) + buffer.shape
        poison = np.nan if buffer.dtype.is_float else not buffer.dtype.is_bool and 77
        self.storage[buffer] = Storage(np.full(shape, poison, buffer.dtype.numpy), self.rank)

    def frame_shape(self, frame: Frame) -> tuple[int, ...]:
        return tuple(frame.batched.get(d, 1) for d in range(self.rank))

    def store(self, s: Store, frame: Frame) -> None:
        frame = self.guarded(s.guard, frame)
        value = self.value(s.value, frame)
        place = self.place(s.buffer, s.index, frame.mask, frame, np.shape(value))
        if place is not None:
            array, index, active = place
            array[index] = (
                np.broadcast_to(value, active.shape)[active] if np.ndim(active) else value
            )

    def guarded(self, guard: Expr | None, frame: Frame) -> Frame:
        """The frame of the iterations in which a guard holds: nothing else is read or written."""
        if guard is None:
            return frame
        return replace(frame, mask=frame.masked(self.value(guard, frame)))

    def place(
        self,
        buffer: Buffer,
        index: tuple[Expr, ...],
        active: Any,
        frame: Frame,
        shape: tuple[int, ...],
    ) -> tuple[Array, tuple[Any, ...], Any] | None:
        """The array of a buffer, the positions that a statement writes there, and a mask of the
        iterations that do (True when there is one place and it is written)."""
        array, parts = self.position(buffer, [self.value(i, frame) for i in index])
        if shape or frame.batched or active is not None:
            shape = np.broadcast_shapes(shape, np.shape(active), *map(np.shape, parts))
        if not shape:
            if active is not None and not active:
                return None
            self.check(buffer, array, parts)
            return array, tuple(parts), True
        chosen = np.broadcast_to(True if active is None else active, shape)
        parts = [np.broadcast_to(p, shape)[chosen] for p in parts]
        self.check(buffer, array, parts)
        return array, tuple(parts), chosen

    def position(self, buffer: Buffer, index: list[Any]) -> tuple[Array, list[Any]]:
        held = self.storage.get(buffer)
        if held is None:
            raise LoweringError(f"{buffer!r} is neither a parameter nor allocated")
        parts: list[Any] = []
        for d in range(held.lead):
            n = held.array.shape[d]
            shape = [1] * self.rank
            shape[d] = n
            parts.append(np.arange(n).reshape(shape) if n > 1 else 0)
        return held.array, parts + index

    def check(self, buffer: Buffer, array: Array, parts: Sequence[Any]) -> None:
        for d, (p, n) in enumerate(zip(parts, array.shape, strict=True)):
            if isinstance(p, int) and 0 <= p < n:
                continue
            if np.size(p) and (np.min(p) < 0 or np.max(p) >= n):
                bad = np.min(p) if np.min(p) < 0 else np.max(p)
                dim = d - (array.ndim - len(buffer.shape))
                raise IndexingError(f"index {bad} is outside of dim {dim} of {buffer!r}")

    def accumulate(self, s: Accumulate, frame: Frame) -> None:
        frame = self.guarded(s.guard, frame)
        shape = self.frame_shape(frame) if frame.batched else ()
        value = np.broadcast_to(self.value(s.value, frame), shape)
        place = self.place(s.buffer, s.index, frame.mask, frame, shape)
        if place is None:
            return
        array, index, chosen = place
        combine = self.combiner(s)
        if not shape:
            array[index] = combine(array[index], value)
            return
        values = value[chosen]
        flat = np.ravel_multi_index(index, array.shape) if index else np.zeros(len(values), int)
        fold(np.atleast_1d(array) if not array.ndim else array, flat, values, combine)

    def combiner(self, s: Accumulate) -> Callable[[Any, Any], Any]:
        concrete = CONCRETE.get(s.combine)
        if concrete is not None and s.buffer.dtype not in (dt.float16, dt.bfloat16):
            return concrete
        function = self.scalars[s.combine]
        return lambda a, b: function(s.buffer.dtype, (np.asarray(a), np.asarray(b)))

    def opaque(self, s: Opaque, frame: Frame) -> None:
        """Sorts of a row: elements `stride` apart."""
        row, options = int(self.value(s.row, frame)), dict(s.options)
        stride, extent = options.get("stride", 1), options["extent"]
        if s.name not in ("sort", "argsort", "top_k"):
            raise LoweringError(f"no meaning for the algorithm {s.name}")
        kept = options.get("k", extent)
        attrs = (
            TopAttrs(kept, 0, bool(options["largest"]))
            if s.name == "top_k"
            else SortAttrs(0, bool(options.get("descending", 0)))
        )
        results = OPS[s.name].ref(attrs, [self.row(s.inputs[0], row, extent, stride)])
        for buffer, result in zip(s.outputs, results, strict=True):
            self.row(buffer, row, kept, stride)[:] = result

    def row(self, buffer: Buffer, row: int, extent: int, stride: int) -> Array:
        held = self.storage[buffer].array.reshape(-1)
        start = row // stride * stride * extent + row % stride
        return held[start : start + (extent - 1) * stride + 1 : stride]

    # -- expressions

    def value(self, e: Expr, frame: Frame) -> Any:
        values: dict[Expr, Any] = {}
        for x in postorder(e):
            values[x] = self.evaluate(x, frame, values)
        return values[e]

    def evaluate(self, e: Expr, frame: Frame, values: Mapping[Expr, Any]) -> Any:
        """The value of `e` from those of its parts."""
        if isinstance(e, Const):
            return e.value if _is_index(e.dtype) else e.dtype.numpy.type(e.value)
        if isinstance(e, Var):
            if e not in frame.axes:
                raise LoweringError(f"axis {e.name} is used outside of its loop")
            return frame.axes[e]
        if isinstance(e, Size):
            return self.sizes[e]
        if isinstance(e, Read):
            return self.read(e, frame, values)
        assert isinstance(e, Call)
        return self.call(e, [values[a] for a in e.args])

    def call(self, e: Call, args: list[Any]) -> Any:
        if _is_index_arithmetic(e):
            plain = isinstance(args[0], int) and isinstance(args[1], int)
            return (PLAIN if plain else CONCRETE)[e.op](*args)
        function = self.scalars.get(e.op)
        if function is None:
            raise LoweringError(f"no meaning for the scalar op {e.op}")
        result = function(e.dtype, [np.asarray(a) for a in args])
        return np.asarray(result, dtype=e.dtype.numpy)

    def read(self, e: Read, frame: Frame, values: Mapping[Expr, Any]) -> Any:
        assert isinstance(e.source, Buffer)
        array, parts = self.position(e.source, [values[i] for i in e.index])
        active = frame.mask
        if e.guard is not None:
            active = frame.masked(values[e.guard])
        if active is None or active is True:
            self.check(e.source, array, parts)
            return array[tuple(parts)]
        if not np.any(active):
            return np.zeros(np.shape(active), e.dtype.numpy)
        safe = [np.where(active, p, 0) for p in parts]
        self.check(e.source, array, safe)
        return np.where(active, array[tuple(safe)], np.zeros((), e.dtype.numpy))


def fold(array: Array, flat: Array, values: Array, combine: Callable[[Any, Any], Any]) -> None:
    """Combine `values` one after the other into the elements `flat` of `array`."""
    target = array.reshape(-1)
    if not np.shares_memory(target, array):
        raise ShapeError("accumulation into an array that is not contiguous")
    if len(flat) and np.all(flat == flat[0]) and isinstance(combine, np.ufunc) and combine.nin == 2:
        chain = np.concatenate([target[flat[:1]], values])
        target[flat[0]] = combine.accumulate(chain, dtype=chain.dtype)[-1]
        return
    order = np.argsort(flat, kind="stable")
    places, starts, counts = np.unique(flat[order], return_index=True, return_counts=True)
    for turn in range(int(counts.max(initial=0))):
        have = counts > turn
        chosen = order[starts[have] + turn]
        target[places[have]] = combine(target[places[have]], values[chosen])
