"""Algorithms that are not written as loops: sort, argsort and top_k of one row.

Each element gets an unsigned key of its own width whose order is the wanted one (NaN is greater
than every number, zeros are equal). Pairs (key, position) are merged from runs of 1, 2, 4, ...
without branches on the data; a short top_k inserts into a list of the best so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.codegen.llvm.builder import Function
from rung.codegen.llvm.types import Val, constant, is_signed, memory_type
from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import LoweringError
from rung.kernel.loop import Buffer, Opaque

_SHORT = 64
"""Up to this many elements top_k keeps a sorted list of the best."""

_RESULTS = {
    "sort": ("values",),
    "argsort": ("positions",),
    "top_k": ("values", "positions"),
}
_INFINITE_BITS = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000, "f64": 0x7FF0000000000000}


@dataclass(frozen=True)
class Row:
    """The lane of memory that is sorted: `extent` elements, `stride` apart, of which `kept` are
    results."""

    extent: int
    stride: int
    kept: int
    falling: bool

    @property
    def is_short(self) -> bool:
        return self.kept <= _SHORT and self.kept < self.extent


def row_of(s: Opaque) -> Row:
    """What the options say. Raises LoweringError for an algorithm that is not known."""
    options = dict(s.options)
    if s.name not in _RESULTS:
        raise LoweringError(f"no code for the algorithm {s.name}")
    falling = bool(options.get("largest" if s.name == "top_k" else "descending", 0))
    extent = options["extent"]
    return Row(extent, options.get("stride", 1), options.get("k", extent), falling)


def scratch_buffer(s: Opaque) -> Buffer:
    """Room for keys and positions, twice, with one element to spare for a look beyond the end."""
    row = row_of(s)
    nbytes = 2 * (row.extent + 1) * (s.inputs[0].dtype.itemsize + 8)
    return Buffer(f"work_{s.name}_{nbytes}", dt.uint8, (nbytes,), "scratch")


class Pairs:
    """Keys and positions in scratch memory."""

    def __init__(self, f: Function, dtype: DType, start: Val, extent: int):
        self.f = f
        self.key_type = f"i{dtype.itemsize * 8}"
        room = extent + 1
        self.positions = [f.gep(start, 8 * room * side, "i8") for side in (0, 1)]
        keys = f.gep(start, 16 * room, "i8")
        self.keys = [f.gep(keys, dtype.itemsize * room * side, "i8") for side in (0, 1)]

    def key(self, keys: Val, i: Val) -> Val:
        return self.f.load(self.key_type, self.f.gep(keys, i, self.key_type))

    def set_key(self, keys: Val, i: Val, value: Val) -> None:
        self.f.store(value, self.f.gep(keys, i, self.key_type))

    def position(self, positions: Val, i: Val) -> Val:
        return self.f.load("i64", self.f.gep(positions, i, "i64"))

    def set_position(self, positions: Val, i: Val, value: Val) -> None:
        self.f.store(value, self.f.gep(positions, i, "i64"))


def emit(
    f: Function,
    s: Opaque,
    outputs: Sequence[Val],
    source: Val,
    scratch: Val,
    row_index: Val,
) -> None:
    """Emit the algorithm for one row: `outputs` and `source` point to whole buffers."""
    row, dtype = row_of(s), s.inputs[0].dtype
    if row.extent == 0 or row.kept == 0:
        return
    stride = f.index(row.stride)
    outer = f.div(row_index, stride, signed=False)
    inner = f.rem(row_index, stride, signed=False)
    x = f.gep(source, _row_start(f, outer, inner, row.extent, row.stride), memory_type(dtype.name))
    pairs = Pairs(f, dtype, scratch, row.extent)
    if row.is_short:
        _select(f, pairs, row, dtype, x)
        order = pairs.positions[0]
    else:
        order = _merge_sort(f, pairs, row, dtype, x)
    start = _row_start(f, outer, inner, row.kept, row.stride)
    results = _RESULTS[s.name]
    element = memory_type(dtype.name)
    with f.loop(0, row.kept, name="place") as loop:
        found = pairs.position(order, loop.index)
        at = f.add(start, f.mul(loop.index, stride))
        for kind, output in zip(results, outputs, strict=True):
            if kind == "positions":
                f.store(found, f.gep(output, at, "i64"))
            else:
                value = f.load(element, f.gep(x, f.mul(found, stride), element))
                f.store(value, f.gep(output, at, element))


def _row_start(f: Function, outer: Val, inner: Val, extent: int, stride: int) -> Val:
    return f.add(f.mul(outer, f.index(extent * stride)), inner)


def _load_key(f: Function, row: Row, dtype: DType, x: Val, i: Val) -> Val:
    """The element as an unsigned integer that rises in the wanted order."""
    name = dtype.name
    integer = f"i{dtype.itemsize * 8}"
    offset = f.mul(i, f.index(row.stride))
    bits = f.load(integer, f.gep(x, offset, integer))
    key = bits
    if dtype.is_float:
        infinite = _INFINITE_BITS[name]
        magnitude = f.and_(bits, constant(integer, (1 << (dtype.bits - 1)) - 1))
        zero = constant(integer, 0)
        bits = f.select(f.icmp("eq", magnitude, zero), zero, bits)
        flip = f.or_(f.ashr(bits, dtype.bits - 1), constant(integer, 1 << (dtype.bits - 1)))
        nan = f.icmp("ugt", magnitude, constant(integer, infinite))
        key = f.select(nan, constant(integer, -1), f.xor(bits, flip))
    elif is_signed(name):
        key = f.xor(bits, constant(integer, 1 << (dtype.bits - 1)))
    return f.not_(key) if row.falling else key


def _merge_sort(f: Function, pairs: Pairs, row: Row, dtype: DType, x: Val) -> Val:
    """Sort all of the row; gives where the positions are."""
    n = row.extent
    with f.loop(0, n, name="key") as loop:
        pairs.set_key(pairs.keys[0], loop.index, _load_key(f, row, dtype, x, loop.index))
        pairs.set_position(pairs.positions[0], loop.index, loop.index)
    num_passes = (n - 1).bit_length()
    if not num_passes:
        return pairs.positions[0]
    sides = [pairs.keys[0], pairs.positions[0], pairs.keys[1], pairs.positions[1]]
    with f.loop(0, num_passes, carried=sides, name="pass") as turn:
        keys, positions, new_keys, new_positions = turn.carried
        size = f.shl(f.index(1), turn.index)
        with f.loop(f.index(0), f.index(n), f.shl(size, 1), name="run") as run:
            middle = f.minimum(f.add(run.index, size), f.index(n))
            last = f.minimum(f.add(middle, size), f.index(n))
            with f.loop(run.index, last, carried=[run.index, middle], name="merge") as merge:
                left, right = merge.carried
                a, b = pairs.key(keys, left), pairs.key(keys, right)
                left_done = f.icmp("sge", left, middle)
                smaller = f.or_(f.icmp("ult", b, a), left_done)
                from_right = f.and_(smaller, f.icmp("slt", right, last))
                chosen = f.select(from_right, right, left)
                pairs.set_key(new_keys, merge.index, f.select(from_right, b, a))
                found = pairs.position(positions, chosen)
                pairs.set_position(new_positions, merge.index, found)
                step = f.resize(from_right, "i64", signed=False)
                merge.next(f.add(left, f.sub(f.index(1), step)), f.add(right, step))
        turn.next(new_keys, new_positions, keys, positions)
    return turn.results[1]


def _select(f: Function, pairs: Pairs, row: Row, dtype: DType, x: Val) -> None:
    """Keep the first `row.kept` of the sorted row in a sorted list, equal ones in order."""
    keys, positions = pairs.keys[0], pairs.positions[0]
    last = f.index(row.kept - 1)
    with f.loop(0, row.extent, name="scan") as scan:
        key = _load_key(f, row, dtype, x, scan.index)
        filling = f.icmp("sle", scan.index, last)
        better = f.icmp("ult", key, pairs.key(keys, last))
        with f.if_(f.or_(filling, better)):
            end = f.minimum(scan.index, last)
            place = _shift(f, pairs, key, end)
            pairs.set_key(keys, place, key)
            pairs.set_position(positions, place, scan.index)


def _shift(f: Function, pairs: Pairs, key: Val, end: Val) -> Val:
    """Move what is greater than `key` one up, from `end` down; gives the free place."""
    keys, positions = pairs.keys[0], pairs.positions[0]
    start, look, move, done = f.current, f.block("look"), f.block("move"), f.block("placed")
    f.br(look)
    f.enter(look)
    place = f.phi("i64", (end, start))
    before = f.sub(place.value, f.index(1))
    at_front = f.icmp("eq", place.value, f.index(0))
    earlier = f.select(at_front, f.index(0), before)
    greater = f.icmp("ugt", pairs.key(keys, earlier), key)
    f.cond_br(f.and_(greater, f.not_(at_front)), move, done)
    f.enter(move)
    pairs.set_key(keys, place.value, pairs.key(keys, before))
    pairs.set_position(positions, place.value, pairs.position(positions, before))
    place.add(before, f.current)
    f.br(look)
    f.enter(done)
    return place.value
