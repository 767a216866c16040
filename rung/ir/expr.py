"""Scalar expressions: how an element of a result is computed from elements of the operands.

They are shared by the index maps of the op records (where a `Read` names an operand by number) and
by the kernel level (where it names a buffer). Index arithmetic is in i64. Nodes are interned, so
equal expressions are the same object; build them with the functions below, which simplify.
"""

from __future__ import annotations

import hashlib
import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from math import gcd
from types import MappingProxyType
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

from rung.core import dtype as dt
from rung.core.dtype import DType

_FEW = 4096
"""Index constants up to this size are kept, and found at once."""


_KEPT = 1 << 14
"""Results of index arithmetic that are remembered."""


class ReadSource(Protocol):
    """What a `Read` may read: a buffer of the kernel level (see `rung.kernel.loop.Buffer`)."""

    @property
    def dtype(self) -> DType: ...
    @property
    def name(self) -> str: ...


class Expr:
    """Base of scalar expressions: immutable and interned; compare with `is`."""

    __slots__ = ("__weakref__", "_free", "_limits", "_linear", "_order", "_reads", "dtype")
    _free: frozenset[Var]
    _limits: tuple[int, int] | None
    _linear: tuple[Mapping[Expr, int], int]
    _reads: bool
    _order: str
    _table: ClassVar[WeakValueDictionary[tuple[object, ...], Expr]] = WeakValueDictionary()
    dtype: DType

    def children(self) -> tuple[Expr, ...]:
        return ()

    def __repr__(self) -> str:
        text: dict[Expr, str] = {}
        for e in postorder(self):
            text[e] = _shallow_text(e, [text[c] for c in e.children()])
        return text[self]


def _has(name: str) -> Callable[[Expr], bool]:
    return lambda e: hasattr(e, name)


_HAS_LIMITS, _HAS_ORDER, _HAS_FREE, _HAS_READS = map(_has, ("_limits", "_order", "_free", "_reads"))


class Var(Expr):
    """A loop variable `name` (i64) with 0 <= value < `extent`."""

    __slots__ = ("extent", "name")
    name: str
    extent: int

    def __repr__(self) -> str:
        return self.name


class Size(Expr):
    """A size of the program (i64), the same throughout a run: `low` <= value <= `high`. Terms of
    linear forms may be products with sizes, written by `imul` with the sizes last."""

    __slots__ = ("high", "low", "name")
    name: str
    low: int
    high: int

    def __repr__(self) -> str:
        return self.name


class Const(Expr):
    """A constant of any dtype."""

    __slots__ = ("value",)
    value: bool | int | float

    def __repr__(self) -> str:
        return repr(self.value)


class Call(Expr):
    """A scalar op applied: `op` is the name of an element-wise op record (add, exp, where, cast…).

    For `cast` the target is `dtype`. Index arithmetic uses add, subtract, multiply, floor_divide,
    remainder, minimum and maximum on i64, and comparisons and logical_and/or/not on bool."""

    __slots__ = ("args", "op")
    op: str
    args: tuple[Expr, ...]

    def children(self) -> tuple[Expr, ...]:
        return self.args



class Read(Expr):
    """An element of operand number / buffer `source` at `index`. Where `guard` (bool) is false
    nothing is read and the value is zero."""

    __slots__ = ("guard", "index", "source")
    source: int | ReadSource
    index: tuple[Expr, ...]
    guard: Expr | None

    def children(self) -> tuple[Expr, ...]:
        return self.index if self.guard is None else (*self.index, self.guard)



def _bits(value: bool | int | float) -> object:
    if isinstance(value, float):
        return struct.pack("<d", value) if value == value else "nan"
    return (type(value).__name__, value)


def var(name: str, extent: int) -> Var:
    """The loop variable `name` ranging over [0, extent)."""
    key = (Var, name, extent)
    found = Expr._table.get(key)
    if found is None:
        found = Var()
        found.name, found.extent, found.dtype = name, extent, dt.int64
        Expr._table[key] = found
    return found  # type: ignore[return-value]


def size(name: str, low: int, high: int) -> Size:
    """The size `name` within [low, high], of which no value is negative."""
    key = (Size, name, low, high)
    found = Expr._table.get(key)
    if found is None:
        found = Size()
        found.name, found.low, found.high, found.dtype = name, low, high, dt.int64
        Expr._table[key] = found
    return found  # type: ignore[return-value]


def const(value: bool | int | float, dtype: DType = dt.int64) -> Const:
    """A constant; the Python value is brought to the kind of `dtype`."""
    if dtype is dt.int64 and type(value) is int and -_FEW <= value <= _FEW:
        return _index(value)
    return _const(value, dtype)


@cache
def _index(value: int) -> Const:
    return _const(value, dt.int64)


def _const(value: bool | int | float, dtype: DType) -> Const:
    value = bool(value) if dtype.is_bool else int(value) if dtype.is_integer else float(value)
    key = (Const, _bits(value), dtype.name)
    found = Expr._table.get(key)
    if found is None:
        found = Const()
        found.value, found.dtype = value, dtype
        Expr._table[key] = found
    return found  # type: ignore[return-value]


def raw_call(op: str, args: tuple[Expr, ...], dtype: DType) -> Call:
    """`op(*args)` as it is, without simplification."""
    key = (Call, op, args, dtype.name)
    found = Expr._table.get(key)
    if found is None:
        found = Call()
        found.op, found.args, found.dtype = op, args, dtype
        Expr._table[key] = found
    return found  # type: ignore[return-value]


def read(
    source: int | ReadSource,
    index: tuple[Expr, ...],
    dtype: DType | None = None,
    guard: Expr | None = None,
) -> Expr:
    """`source[index]`; `dtype` may be left out for a buffer. A guard that is constantly true goes
    away; one that is constantly false gives the zero constant."""
    if dtype is None:
        assert not isinstance(source, int)
        dtype = source.dtype
    if isinstance(guard, Const):
        if not guard.value:
            return const(0, dtype)
        guard = None
    key = (Read, source, index, guard, dtype.name)
    found = Expr._table.get(key)
    if found is None:
        found = Read()
        found.source, found.index, found.guard, found.dtype = source, index, guard, dtype
        Expr._table[key] = found
    return found


# ---- index arithmetic (i64), simplified on the way


def bounds(e: Expr) -> tuple[int, int] | None:
    """Inclusive (low, high) of an index expression, or None when unknown."""
    try:
        return e._limits
    except AttributeError:
        for x in postorder(e, known=_HAS_LIMITS):
            x._limits = _bounds(x)
        return e._limits


def _bounds(e: Expr) -> tuple[int, int] | None:
    if isinstance(e, Const):
        return (int(e.value), int(e.value)) if e.dtype.is_integer else None
    if isinstance(e, Var):
        return (0, max(e.extent - 1, 0))
    if isinstance(e, Size):
        return (e.low, e.high)
    if isinstance(e, Read):
        return _dtype_range(e.dtype)
    if isinstance(e, Call) and e.op == "cast":
        return _cast_bounds(e)
    if not isinstance(e, Call) or len(e.args) != 2:
        return None
    a, b = bounds(e.args[0]), bounds(e.args[1])
    if a is None or b is None:
        if e.op == "remainder" and b is not None and b[0] == b[1] > 0:
            return (0, b[1] - 1)
        return None
    if e.op == "add":
        return (a[0] + b[0], a[1] + b[1])
    if e.op == "subtract":
        return (a[0] - b[1], a[1] - b[0])
    if e.op == "multiply":
        corners = [x * y for x in a for y in b]
        return (min(corners), max(corners))
    if e.op == "floor_divide" and b[0] > 0:
        corners = [x // y for x in a for y in b]
        return (min(corners), max(corners))
    if e.op == "remainder" and b[0] > 0:
        return a if a[0] >= 0 and a[1] < b[0] else (0, b[1] - 1)
    if e.op == "minimum":
        return (min(a[0], b[0]), min(a[1], b[1]))
    if e.op == "maximum":
        return (max(a[0], b[0]), max(a[1], b[1]))
    return None


def _dtype_range(dtype: DType) -> tuple[int, int] | None:
    """The least and the greatest value of an integer type."""
    if dtype.is_bool or not dtype.is_integer:
        return (0, 1) if dtype.is_bool else None
    low = 0 if dtype.kind == "u" else -(2 ** (dtype.bits - 1))
    return low, low + 2**dtype.bits - 1


def _cast_bounds(e: Call) -> tuple[int, int] | None:
    """Those of the argument where they fit the type, else those of the type."""
    own, inner = _dtype_range(e.dtype), bounds(e.args[0])
    if own is None or inner is None or not (own[0] <= inner[0] and inner[1] <= own[1]):
        return own
    return inner


def linear_terms(e: Expr) -> tuple[Mapping[Expr, int], int]:
    """`e` as sum(coefficient * term) + constant; terms are opaque to addition and scaling."""
    try:
        return e._linear
    except AttributeError:
        terms, constant = _linear_terms(e)
        e._linear = MappingProxyType(terms), constant
        return e._linear


def _linear_terms(e: Expr) -> tuple[dict[Expr, int], int]:
    terms: dict[Expr, int] = {}
    constant, stack = 0, [(e, 1)]
    while stack:
        x, scale = stack.pop()
        if isinstance(x, Const):
            constant += scale * int(x.value)
        elif isinstance(x, Call) and x.op in ("add", "subtract"):
            stack.append((x.args[1], scale if x.op == "add" else -scale))
            stack.append((x.args[0], scale))
        elif isinstance(x, Call) and x.op == "multiply" and isinstance(x.args[1], Const):
            stack.append((x.args[0], scale * int(x.args[1].value)))
        else:
            terms[x] = terms.get(x, 0) + scale
    found = {t: c for t, c in terms.items() if c}
    return _recombine(found), constant


def _recombine(terms: dict[Expr, int]) -> dict[Expr, int]:
    """Merge c*d*(x // d) + c*(x % d) into c*x."""
    while (merged := _recombine_one(terms)) is not None:
        terms = merged
    return terms


def _recombine_one(terms: dict[Expr, int]) -> dict[Expr, int] | None:
    """`terms` with one pair merged, or None."""
    for t, c in terms.items():
        if not (isinstance(t, Call) and t.op == "remainder"):
            continue
        x, d = t.args
        if is_sized(d):
            quotient: Expr = _product(raw_call("floor_divide", (x, d), dt.int64), d)
            whole = c
        elif isinstance(d, Const) and d.value > 0:
            quotient, whole = ifloordiv(x, int(d.value)), c * int(d.value)
        else:
            continue
        if terms.get(quotient) == whole:
            merged = {k: v for k, v in terms.items() if k is not t and k is not quotient}
            inner, constant = linear_terms(x)
            if constant:
                continue
            for k, v in inner.items():
                merged[k] = merged.get(k, 0) + v * c
            return {k: v for k, v in merged.items() if v}
    return None


def order_key(e: Expr) -> str:
    """What terms are sorted by: the text of a small expression, a digest of a large one, whose
    text may be exponentially long because parts are shared."""
    try:
        return e._order
    except AttributeError:
        pass
    for x in postorder(e, known=_HAS_ORDER):
        text = _shallow_text(x, [c._order for c in x.children()])
        x._order = text if len(text) <= 160 else hashlib.sha256(text.encode()).hexdigest()
    return e._order


def _shallow_text(x: Expr, keys: Sequence[str]) -> str:
    """The text of an expression, given that of its parts."""
    if isinstance(x, Call):
        return f"{x.op}({', '.join(keys)})"
    if isinstance(x, Read):
        name = f"${x.source}" if isinstance(x.source, int) else x.source.name
        place = f"{name}[{', '.join(keys[: len(x.index)])}]"
        return place if x.guard is None else f"guarded({place}, {keys[-1]})"
    return repr(x)


def from_terms(terms: Mapping[Expr, int], constant: int) -> Expr:
    """The canonical expression of a linear form: by falling coefficient, the constant last."""
    total: Expr | None = None
    pairs: Iterable[tuple[Expr, int]] = terms.items()
    if len(terms) > 1:
        pairs = sorted(pairs, key=lambda kv: (-kv[1], order_key(kv[0])))
    for term, scale in pairs:
        part = term if scale == 1 else raw_call("multiply", (term, const(scale)), dt.int64)
        total = part if total is None else raw_call("add", (total, part), dt.int64)
    if total is None:
        return const(constant)
    if constant:
        total = raw_call("add", (total, const(constant)), dt.int64)
    return total


@lru_cache(maxsize=_KEPT)
def iadd(a: Expr, b: Expr | int) -> Expr:
    """a + b on indices."""
    b = const(b) if isinstance(b, int) else b
    terms, constant = linear_terms(raw_call("add", (a, b), dt.int64))
    return from_terms(terms, constant)


@lru_cache(maxsize=_KEPT)
def isub(a: Expr, b: Expr | int) -> Expr:
    """a - b on indices."""
    b = const(b) if isinstance(b, int) else b
    terms, constant = linear_terms(raw_call("subtract", (a, b), dt.int64))
    return from_terms(terms, constant)


def imul(a: Expr, factor: int | Expr) -> Expr:
    """a * factor on indices. A factor that is no number is a polynomial of sizes."""
    terms, constant = linear_terms(a)
    if isinstance(factor, Const):
        factor = int(factor.value)
    if isinstance(factor, int):
        scaled = {t: c * factor for t, c in terms.items() if c * factor}
        return from_terms(scaled, constant * factor)
    others, other = linear_terms(factor)
    total: dict[Expr | None, int] = {}
    for t, c in (*terms.items(), (None, constant)):
        for u, d in (*others.items(), (None, other)):
            product = t if u is None else u if t is None else _product(t, u)
            total[product] = total.get(product, 0) + c * d
    constant = total.pop(None, 0)
    return from_terms({t: c for t, c in total.items() if t is not None and c}, constant)


def is_sized(e: Expr) -> bool:
    """Whether an index expression has one value in a run, but is not a constant."""
    return not (isinstance(e, Const) or free_variables(e) or reads_data(e))


def sized_value(e: Expr, sizes: Mapping[Size, int]) -> int:
    """The value of an expression of sizes."""
    values: dict[Expr, int] = {}
    for x in postorder(e):
        if isinstance(x, Size):
            values[x] = sizes[x]
        elif isinstance(x, Const):
            values[x] = int(x.value)
        else:
            assert isinstance(x, Call)
            values[x] = PLAIN[x.op](*[values[a] for a in x.args])
    return values[e]


PLAIN: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "minimum": min,
    "maximum": max,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "logical_and": operator.and_,
    "logical_or": operator.or_,
}
"""Index arithmetic on numbers."""


def factors(term: Expr) -> tuple[Expr | None, tuple[Expr, ...]]:
    """A term of a linear form as what varies (None: nothing) times what does not."""
    fixed: list[Expr] = []
    rest: Expr = term
    while isinstance(rest, Call) and rest.op == "multiply" and is_sized(rest.args[1]):
        fixed.append(rest.args[1])
        rest = rest.args[0]
    if is_sized(rest):
        return None, (*fixed, rest)
    return rest, tuple(fixed)


def _product(a: Expr, b: Expr) -> Expr:
    """The product of two terms, what does not vary in canonical order behind what does."""
    first, fixed = factors(a)
    second, more = factors(b)
    varying = [x for x in (first, second) if x is not None]
    parts = [*varying, *sorted((*fixed, *more), key=order_key)]
    product = parts[0]
    for x in parts[1:]:
        product = raw_call("multiply", (product, x), dt.int64)
    return product


def _split_multiple(a: Expr, d: int) -> tuple[Expr, Expr]:
    """a = d * q + rest with as much in q as divides exactly."""
    terms, constant = linear_terms(a)
    whole = {t: c // d for t, c in terms.items() if c % d == 0}
    rest = {t: c for t, c in terms.items() if c % d}
    return from_terms(whole, constant // d), from_terms(rest, constant % d)


def _coarse_part(a: Expr, d: int) -> tuple[Expr, Expr, int] | None:
    """a = g * coarse + fine with 0 <= fine < g for some g > 1 that divides d, or None."""
    terms, constant = linear_terms(a)
    for scale in sorted({c for c in terms.values() if c > 1}, reverse=True):
        g = gcd(scale, d)
        if g == 1:
            continue
        fine = from_terms({t: c for t, c in terms.items() if c % g}, constant % g)
        limits = bounds(fine)
        if limits is not None and limits[0] >= 0 and limits[1] < g:
            coarse = {t: c // g for t, c in terms.items() if c % g == 0}
            return from_terms(coarse, constant // g), fine, g
    return None


@lru_cache(maxsize=_KEPT)
def ifloordiv(a: Expr, d: int) -> Expr:
    """a // d for a positive constant d, using the bounds of loop variables."""
    if d == 1:
        return a
    whole, rest = _split_multiple(a, d)
    limits = bounds(rest)
    if limits is not None and limits[0] // d == limits[1] // d:
        return iadd(whole, limits[0] // d)
    if isinstance(rest, Call) and rest.op == "floor_divide":
        inner = rest.args[1]
        if isinstance(inner, Const):  # (x // a) // b = x // (a * b)
            return iadd(whole, ifloordiv(rest.args[0], int(inner.value) * d))
    terms, constant = linear_terms(rest)
    if len(terms) == 1 and is_sized(rest):
        ((term, scale),) = terms.items()
        if scale == 1 and isinstance(term, Call) and term.op == "floor_divide":
            x, by = term.args
            if isinstance(by, Const):  # (x // c + k) // d = (x + c * k) // (c * d)
                c = int(by.value)
                return iadd(whole, ifloordiv(iadd(x, c * constant), c * d))
    parts = _coarse_part(rest, d)
    if parts is not None:  # (g * coarse + fine) // d = coarse // (d / g)
        return iadd(whole, ifloordiv(parts[0], d // parts[2]))
    return iadd(whole, raw_call("floor_divide", (rest, const(d)), dt.int64))


@lru_cache(maxsize=_KEPT)
def imod(a: Expr, d: int) -> Expr:
    """a % d (result in [0, d)) for a positive constant d."""
    if d == 1:
        return const(0)
    _, rest = _split_multiple(a, d)
    limits = bounds(rest)
    if limits is not None and limits[0] // d == limits[1] // d:
        return iadd(rest, -d * (limits[0] // d))
    if isinstance(rest, Call) and rest.op == "remainder":
        inner = rest.args[1]
        if isinstance(inner, Const) and int(inner.value) % d == 0:  # (x % (k d)) % d = x % d
            return imod(rest.args[0], d)
    parts = _coarse_part(rest, d)
    if parts is not None:
        coarse, fine, g = parts
        return iadd(imul(imod(coarse, d // g), g), fine)
    return raw_call("remainder", (rest, const(d)), dt.int64)


def iminimum(a: Expr, b: Expr | int) -> Expr:
    """min(a, b) on indices, folded when the bounds decide it."""
    b = const(b) if isinstance(b, int) else b
    limits = bounds(isub(a, b))
    if limits is not None and (limits[1] <= 0 or limits[0] >= 0):
        return a if limits[1] <= 0 else b
    return _absorbed("minimum", "maximum", a, b) or raw_call("minimum", (a, b), dt.int64)


def imaximum(a: Expr, b: Expr | int) -> Expr:
    """max(a, b) on indices, folded when the bounds decide it."""
    b = const(b) if isinstance(b, int) else b
    limits = bounds(isub(a, b))
    if limits is not None and (limits[1] <= 0 or limits[0] >= 0):
        return b if limits[1] <= 0 else a
    return _absorbed("maximum", "minimum", a, b) or raw_call("maximum", (a, b), dt.int64)


def _absorbed(op: str, other: str, a: Expr, b: Expr) -> Expr | None:
    """`op(a, b)` where one is made of the other: min(a, max(a, c)) is a, and min(a, min(a, c)) is
    min(a, c)."""
    for x, y in ((a, b), (b, a)):
        if isinstance(y, Call) and x in y.args and y.op in (op, other):
            return y if y.op == op else x
    return None


def compare(op: str, a: Expr, b: Expr | int) -> Expr:
    """A comparison of indices (`less`, `greater_equal`, …), folded when the bounds decide it."""
    b = const(b) if isinstance(b, int) else b
    limits = bounds(isub(a, b))
    if limits is not None:
        low, high = limits
        decided: dict[str, tuple[bool, bool]] = {  # op: (surely true, surely false)
            "less": (high < 0, low >= 0),
            "less_equal": (high <= 0, low > 0),
            "greater": (low > 0, high <= 0),
            "greater_equal": (low >= 0, high < 0),
            "equal": (low == high == 0, high < 0 or low > 0),
            "not_equal": (high < 0 or low > 0, low == high == 0),
        }
        true, false = decided[op]
        if true or false:
            return const(true, dt.bool_)
    if op in ("less", "greater_equal"):
        coarse = _coarse_comparison(isub(a, b))
        if coarse is not None:
            return compare(op, coarse, 0)
    return raw_call(op, (a, b), dt.bool_)


def _coarse_comparison(difference: Expr) -> Expr | None:
    """`coarse` where difference = g * coarse + fine with 0 <= fine < g: both have one sign."""
    terms, constant = linear_terms(difference)
    for g in sorted({abs(c) for c in terms.values() if abs(c) > 1}, reverse=True):
        fine = from_terms({t: c for t, c in terms.items() if c % g}, constant % g)
        limits = bounds(fine)
        if limits is not None and limits[0] >= 0 and limits[1] < g and fine.dtype is dt.int64:
            if isinstance(fine, Const) and not fine.value:
                continue
            coarse = {t: c // g for t, c in terms.items() if c % g == 0}
            return from_terms(coarse, constant // g)
    return None


def both(a: Expr | None, b: Expr | None) -> Expr | None:
    """The conjunction of two guards, None standing for true."""
    if a is None or (isinstance(a, Const) and a.value):
        return b if not (isinstance(b, Const) and b.value) else None
    if b is None or a is b or (isinstance(b, Const) and b.value):
        return a
    if isinstance(a, Const) or isinstance(b, Const):
        return const(False, dt.bool_)
    return raw_call("logical_and", (a, b), dt.bool_)


def conjuncts(guard: Expr | None) -> list[Expr]:
    """The parts that a guard asks to hold together; none where it is None."""
    parts: list[Expr] = []
    stack = [] if guard is None else [guard]
    while stack:
        x = stack.pop()
        if isinstance(x, Call) and x.op == "logical_and":
            stack.extend(reversed(x.args))
        else:
            parts.append(x)
    return parts


_INDEX_BUILDERS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": iadd,
    "subtract": isub,
    "minimum": iminimum,
    "maximum": imaximum,
}


def rebuild(e: Call, args: tuple[Expr, ...]) -> Expr:
    """`e` with other arguments; integer index arithmetic is simplified again. Arithmetic on data
    stays as it is: it may overflow, and then (x * 4) // 4 is not x."""
    is_index = all(a.dtype is dt.int64 and not reads_data(a) for a in args)
    if e.dtype is dt.int64 and len(args) == 2 and is_index:
        if e.op in _INDEX_BUILDERS:
            return _INDEX_BUILDERS[e.op](*args)
        if isinstance(args[1], Const) and args[1].value > 0:
            d = int(args[1].value)
            if e.op == "floor_divide":
                return ifloordiv(args[0], d)
            if e.op == "remainder":
                return imod(args[0], d)
        if e.op == "multiply" and isinstance(args[1], Const):
            return imul(args[0], int(args[1].value))
        if e.op == "multiply" and is_sized(args[1]):
            return imul(args[0], args[1])
    if e.dtype.is_bool and len(args) == 2 and all(a.dtype is dt.int64 for a in args):
        return compare(e.op, args[0], args[1])
    if e.op == "logical_and":
        joined = both(*args)
        return const(True, dt.bool_) if joined is None else joined
    if e.op == "where" and isinstance(args[0], Const):
        return args[1] if args[0].value else args[2]
    return raw_call(e.op, args, e.dtype)


def transform(
    e: Expr, leaf: Callable[[Expr], Expr | None], memo: dict[Expr, Expr] | None = None
) -> Expr:
    """`e` with every sub-expression for which `leaf` returns a replacement replaced (top down, each
    shared sub-expression once). `memo` is what earlier calls with the same `leaf` have made."""
    memo = {} if memo is None else memo
    if e in memo:
        return memo[e]
    stack = [e]
    opened: set[Expr] = set()  # those whose parts are done, or come before them on the stack
    while stack:
        x = stack[-1]
        if x in memo:
            stack.pop()
        elif x in opened:
            memo[x] = _with_parts(x, memo)
        elif (new := leaf(x)) is not None:
            memo[x] = new
        else:
            opened.add(x)
            stack.extend(c for c in reversed(x.children()) if c not in memo)
    return memo[e]


def _with_parts(x: Expr, new: Mapping[Expr, Expr]) -> Expr:
    """`x` with each part replaced by what `new` says."""
    if isinstance(x, Call):
        args = tuple([new[a] for a in x.args])
        return x if args == x.args else rebuild(x, args)
    if isinstance(x, Read):
        index = tuple([new[i] for i in x.index])
        guard = None if x.guard is None else new[x.guard]
        same = index == x.index and guard is x.guard
        return x if same else read(x.source, index, x.dtype, guard)
    return x


def substitute(e: Expr, mapping: dict[Var, Expr]) -> Expr:
    """`e` with loop variables replaced."""
    keys = mapping.keys()

    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Var):
            return mapping.get(x)
        return x if free_variables(x).isdisjoint(keys) else None

    return e if free_variables(e).isdisjoint(keys) else transform(e, leaf)


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every distinct sub-expression, parents before children."""
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        yield e
        stack.extend(e.children())


def postorder(*roots: Expr, known: Callable[[Expr], bool] | None = None) -> Iterator[Expr]:
    """Every distinct sub-expression, parts before what is made of them; without what is `known`, as
    each one is to be after it was given, and what occurs in that alone."""
    closed: set[Expr] = set()
    known = closed.__contains__ if known is None else known
    stack = list(reversed(roots))
    while stack:
        e = stack[-1]
        if known(e):
            stack.pop()
            continue
        parts = [c for c in e.children() if not known(c)]
        if parts:
            stack.extend(reversed(parts))
            continue
        stack.pop()
        closed.add(e)
        yield e


def free_variables(e: Expr) -> frozenset[Var]:
    """The loop variables that occur, found once for each expression."""
    try:
        return e._free
    except AttributeError:
        for x in postorder(e, known=_HAS_FREE):
            own = (x,) if isinstance(x, Var) else ()
            x._free = frozenset(own).union(*[c._free for c in x.children()])
        return e._free


def reads_data(e: Expr) -> bool:
    """Whether an element of memory occurs, found once for each expression."""
    try:
        return e._reads
    except AttributeError:
        for x in postorder(e, known=_HAS_READS):
            x._reads = isinstance(x, Read) or any(c._reads for c in x.children())
        return e._reads


def variables(*roots: Expr) -> set[Var]:
    """The loop variables that occur."""
    return set().union(*(free_variables(e) for e in roots))
