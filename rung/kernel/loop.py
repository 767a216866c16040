"""The kernel level: loop nests over buffers.

A `Kernel` straight out of fusion is *naive*: plain serial loops that say what is computed. Schedule
steps rewrite it into another `Kernel` that means the same and says how. Each top-level statement of
the body is a *phase*: phases run one after the other with a barrier between them; a phase whose
outermost statement is a `parallel` loop is split over the threads.

    @kernel
    def row_maximum(x: input(f32[64, 256]), y: output(f32[64])):
        for i in parallel(64):
            m: register(f32)
            m[()] = -inf
            for j in range(256):
                m[()] @= maximum(x[i, j])
            y[i] = m[()]

Records are interned: equal buffers, statements and kernels are the same object, so compare with
`is`, and expect one object in several places of a kernel when these places hold the same text.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, wraps
from itertools import chain
from math import prod
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from rung.core.dtype import DType
from rung.core.source import Source
from rung.ir.expr import Expr, Size, Var, bounds, const, free_variables


def is_name(text: str) -> bool:
    """Whether `text` can name a buffer, an axis or a kernel."""
    return text.isidentifier() and not keyword.iskeyword(text)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense row-major array."""
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


_interned: WeakValueDictionary[tuple[object, ...], Any] = WeakValueDictionary()


class Interning(type):
    """Makes equal records of a class one object."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        values = _values(cls, args, fields)
        found = _interned.get((cls, *values))
        if found is not None:
            return found
        new: Any = object.__new__(cls)  # type: ignore[arg-type]
        new.__dict__.update(zip(field_names(cls), values, strict=True))
        finish = getattr(new, "__post_init__", None)
        if finish is not None:
            finish()
            values = tuple(new.__dict__.values())
        return _interned.setdefault((cls, *values), new)


def _values(cls: type, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, ...]:
    """The value of every field of a record, as its constructor is called."""
    names = field_names(cls)
    if not given and len(args) == len(names):
        return args
    rest = []
    for name, default in zip(names[len(args) :], _defaults(cls)[len(args) :], strict=True):
        value = given.pop(name, default)
        if value is MISSING:
            raise TypeError(f"{cls.__name__} needs {name}")
        rest.append(value)
    if given or len(args) > len(names):
        raise TypeError(f"{cls.__name__} takes {', '.join(names)}")
    return (*args, *rest)


@cache
def _defaults(cls: type) -> tuple[Any, ...]:
    return tuple(f.default for f in fields(cls))


@cache
def field_names(cls: type) -> tuple[str, ...]:
    """The fields of a record, in order."""
    return tuple(f.name for f in fields(cls))


class Record(metaclass=Interning):
    """Base of the interned records."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Buffer(Record):
    """Memory of one dtype. `strides` in elements. Names are identifiers, unique among the buffers
    that a statement can see.

    role: `input`, `output`, `inout` (updated in place) and `temp` (between phases; allocated by
    the plan) are parameters of the kernel. `scratch` lives in the thread's scratch block within a
    phase, `register` must end up in registers: all its indices are constant once loops are unrolled
    and vectorized.

    elements: how many elements a parameter of one dim has, where that depends on the sizes of the
    kernel; `shape` is then the most."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    role: str
    strides: tuple[int, ...] = ()
    elements: Expr | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"{self.name!r} is not a name for a buffer")
        if len(self.strides) != len(self.shape):
            object.__setattr__(self, "strides", row_major(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the block, last element included."""
        if not prod(self.shape):
            return 0
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize

    @property
    def least_bytes(self) -> int:
        """Bytes of the block whatever the sizes are."""
        limits = None if self.elements is None else bounds(self.elements)
        return self.nbytes if limits is None else max(limits[0], 0) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.name}: {self.role} {self.dtype}[{', '.join(map(str, self.shape))}]"


class Stmt(Record):
    """Base of statements."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes of loops, this and below, in program order, each once."""
        known: dict[str, Any] = self.__dict__
        if "_axes" not in known:
            own = (self.axis.name,) if isinstance(self, For) else ()
            below = [c.axes for c in children(self)]
            only = below[0] if len(below) == 1 else tuple(dict.fromkeys(chain(*below)))
            known["_axes"] = own + only
        found: tuple[str, ...] = known["_axes"]
        return found

    @property
    def variables(self) -> frozenset[Var]:
        """The loop variables that occur in expressions, here and below."""
        known: dict[str, Any] = self.__dict__
        if "_variables" not in known:
            here = map(free_variables, stmt_exprs(self))
            known["_variables"] = frozenset().union(*here, *(c.variables for c in children(self)))
        found: frozenset[Var] = known["_variables"]
        return found


S = TypeVar("S", bound=Stmt)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Block(Stmt):
    """Statements one after the other."""

    stmts: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class For(Stmt):
    """`for axis in kind(extent)`. `extent` is a number or, inside a split with a ragged end and
    where sizes are not known, an index expression (at most `axis.extent`).

    kind: `serial`; `parallel` (only outermost of a phase; iterations are independent); `unroll`
    (expanded in the code; constant extent); `vector` (one SIMD operation; `lanes` is the width that
    the machine vector is rounded up to, lanes at or beyond `extent` are masked).
    Iterations of a `vector` loop are independent, but for `Accumulate` into a place that does not
    depend on the axis, which is a reduction over the lanes by a fixed tree."""

    axis: Var
    extent: Expr
    body: Block
    kind: str = "serial"
    lanes: int = 0


@dataclass(frozen=True, eq=False)
class Store(Stmt):
    """`buffer[index] = value`, where `guard` (if any) is true."""

    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr
    guard: Expr | None = None


@dataclass(frozen=True, eq=False)
class Accumulate(Stmt):
    """`buffer[index] = combine(buffer[index], value)` for a combiner `add`, `multiply`, `maximum`,
    `minimum`, `logical_and`, `logical_or`, … An `add` of a product is one fused multiply-add."""

    buffer: Buffer
    index: tuple[Expr, ...]
    combine: str
    value: Expr
    guard: Expr | None = None


@dataclass(frozen=True, eq=False)
class If(Stmt):
    """`body` where the condition holds."""

    condition: Expr
    body: Block


@dataclass(frozen=True, eq=False)
class Alloc(Stmt):
    """A `scratch` or `register` buffer for the rest of the enclosing block."""

    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Opaque(Stmt):
    """An algorithm that is not written as loops: `name` is `sort`, … with its buffers and integer
    options; the code generator and the interpreter each know these few by name. The parallel grid
    is the rows: it is performed for row `row` (an index expression over enclosing loops)."""

    name: str
    outputs: tuple[Buffer, ...]
    inputs: tuple[Buffer, ...]
    row: Expr
    options: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Prefetch(Stmt):
    """A hint that `buffer[index]` will be needed."""

    buffer: Buffer
    index: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Kernel(Record):
    """A named function over `params` (input, output, inout and temp buffers).

    `sources` are the user's lines it came from; `schedule` are the steps applied, as text. A kernel
    with `sizes` runs for all their values within their limits."""

    name: str
    params: tuple[Buffer, ...]
    body: Block
    sources: tuple[Source, ...] = ()
    schedule: tuple[str, ...] = field(default=())
    sizes: tuple[Size, ...] = ()

    @property
    def phases(self) -> tuple[Stmt, ...]:
        return self.body.stmts

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch that a thread needs."""
        return sum(-(-b.nbytes // 64) * 64 for b in scratch_buffers(self))


def scratch_buffers(kernel: Kernel) -> tuple[Buffer, ...]:
    """The distinct scratch buffers, in program order."""
    allocs = (s.buffer for s in walk_stmts(kernel.body) if isinstance(s, Alloc))
    return tuple(dict.fromkeys(b for b in allocs if b.role == "scratch"))


def scratch_offsets(kernel: Kernel) -> dict[Buffer, int]:
    """Where each scratch buffer starts in the thread's block, in bytes (64-byte aligned)."""
    offsets: dict[Buffer, int] = {}
    total = 0
    for buffer in scratch_buffers(kernel):
        offsets[buffer] = total
        total += -(-buffer.nbytes // 64) * 64
    return offsets


def grid(phase: Stmt) -> Expr:
    """Number of parallel tiles of a phase (1 when its outermost statement is not parallel)."""
    if not (isinstance(phase, For) and phase.kind == "parallel"):
        return const(1)
    return phase.extent


def remembered(find: Callable[[S], T]) -> Callable[[S], T]:
    """`find`, which looks at a statement once: statements are interned, and one that a step leaves
    alone is looked at after each."""
    name = f"_{find.__module__}.{find.__qualname__}"

    @wraps(find)
    def found(s: S) -> T:
        known: dict[str, Any] = s.__dict__
        if name not in known:
            known[name] = find(s)
        result: T = known[name]
        return result

    return found


def children(s: Stmt) -> tuple[Stmt, ...]:
    """The statements directly in a statement."""
    if isinstance(s, Block):
        return s.stmts
    return (s.body,) if isinstance(s, For | If) else ()


def walk_stmts(s: Stmt) -> Iterator[Stmt]:
    """Every statement, parents first, in program order."""
    stack = [s]
    while stack:
        x = stack.pop()
        yield x
        if isinstance(x, Block):
            stack.extend(reversed(x.stmts))
        elif isinstance(x, For | If):
            stack.append(x.body)


def stmt_exprs(s: Stmt) -> tuple[Expr, ...]:
    """The expressions of a statement itself."""
    if isinstance(s, Store | Accumulate):
        guard = () if s.guard is None else (s.guard,)
        return (*s.index, s.value, *guard)
    if isinstance(s, For):
        return (s.extent,)
    if isinstance(s, If):
        return (s.condition,)
    if isinstance(s, Opaque):
        return (s.row,)
    return s.index if isinstance(s, Prefetch) else ()


def loop(axis: Var, *body: Stmt, kind: str = "serial") -> For:
    """A loop over the whole extent of `axis`."""
    return For(axis, const(axis.extent), Block(body), kind)


def with_body(s: For | If, body: Block) -> For | If:
    """A loop or condition around another body."""
    if isinstance(s, If):
        return If(s.condition, body)
    return For(s.axis, s.extent, body, s.kind, s.lanes)


def map_stmts(s: Stmt, f: Callable[[Stmt], Stmt | None]) -> Stmt:
    """`s` rebuilt bottom up: `f` may return a replacement for each rebuilt statement (a Block in
    place of a statement of a Block is spliced in)."""
    if isinstance(s, Block):
        stmts: list[Stmt] = []
        for c in s.stmts:
            new = map_stmts(c, f)
            stmts.extend(new.stmts if isinstance(new, Block) else (new,))
        same = len(stmts) == len(s.stmts) and all(
            a is b for a, b in zip(stmts, s.stmts, strict=True)
        )
        s = s if same else Block(tuple(stmts))
    elif isinstance(s, For | If):
        body = map_stmts(s.body, f)
        body = body if isinstance(body, Block) else Block((body,))
        s = s if body is s.body else with_body(s, body)
    new_s = f(s)
    return s if new_s is None else new_s
