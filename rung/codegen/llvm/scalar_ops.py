"""The element-wise ops as LLVM instructions, on scalars and on vectors alike.

16-bit floats are computed in f32 and rounded after each op. Integers wrap; a division by zero
gives 0 as NumPy does; nothing traps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rung.codegen.llvm import vmath
from rung.codegen.llvm.builder import Function
from rung.codegen.llvm.types import (
    Val,
    constant,
    constant_int,
    element,
    is_float,
    is_signed,
    lanes_of,
    mangle,
    register_type,
    type_bits,
)
from rung.core.errors import LoweringError
from rung.ops.random import threefry_block

Emit = Callable[[Function, str, Sequence[Val]], Val]
"""(function, dtype of the operands, operands) -> result"""

_NARROW = ("f16", "bf16")
_FLOATS = (*_NARROW, "f32", "f64")
_INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")


def apply(f: Function, op: str, dtypes: Sequence[str], result: str, args: Sequence[Val]) -> Val:
    """`op(*args)`: `dtypes` and `result` are dtype names, `args` all scalars or all vectors.

    Raises LoweringError for an op that is not known."""
    dtype = dtypes[0]
    if op == "cast":
        return _cast(f, args[0], dtype, result)
    if op == "bitcast":
        return f.bitcast(args[0], register_type(result, lanes_of(args[0].type)))
    if op == "where":
        return f.select(*args)
    if dtype in _NARROW and op not in _EXACT:
        wide = [f.cast(a, d, "f32") for a, d in zip(args, dtypes, strict=True)]
        made = apply(f, op, ["f32"] * len(args), "f32" if result in _NARROW else result, wide)
        return f.cast(made, "f32", result) if result in _NARROW else made
    emit = _SHARED.get(op)
    if emit is None and dtype not in ("f32", "f64"):
        emit = _DISCRETE.get(op)
    if emit is not None:
        return emit(f, dtype, args)
    if dtype in ("f32", "f64"):
        return vmath.emit(f, _MATH_NAMES.get(op, op), dtype, lanes_of(args[0].type), args)
    raise LoweringError(f"no code for {op} on {dtype}")


_MATH_NAMES = {"power": "pow"}


def reduce_lanes(f: Function, op: str, dtype: str, x: Val) -> Val:
    """All lanes of a vector combined into a scalar by `op`, in a fixed tree."""
    if dtype in _NARROW:
        return f.cast(reduce_lanes(f, op, "f32", f.cast(x, dtype, "f32")), "f32", dtype)
    name = _REDUCE_FLOAT.get(op) if is_float(x.type) else _reduce_integer(op, dtype)
    if name is None:
        raise LoweringError(f"no reduction over lanes by {op} on {dtype}")
    return f.reduce(name, x, "nsz" if name in ("minimum", "maximum") else "")


_REDUCE_FLOAT = {"add": "add", "multiply": "mul", "maximum": "maximum", "minimum": "minimum"}
_REDUCE_INTEGER = {
    "add": "add",
    "multiply": "mul",
    "logical_and": "and",
    "logical_or": "or",
    "logical_xor": "xor",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_xor": "xor",
}


def _reduce_integer(op: str, dtype: str) -> str | None:
    if op in ("maximum", "minimum"):
        if dtype == "bool":
            return "or" if op == "maximum" else "and"
        return ("s" if is_signed(dtype) else "u") + op[:3]
    return _REDUCE_INTEGER.get(op)


# ---- conversions


def _cast(f: Function, x: Val, source: str, target: str) -> Val:
    """Floats become integers by dropping the fraction, held at the ends of the range; NaN is 0."""
    if source not in _FLOATS or target not in _INTEGERS:
        return f.cast(x, source, target)
    if source in _NARROW:
        x = f.cast(x, source, "f32")
    result = register_type(target, lanes_of(x.type))
    kind = "fptosi" if is_signed(target) else "fptoui"
    return f.call(f"llvm.{kind}.sat.{mangle(result)}.{mangle(x.type)}", result, [x])


# ---- arithmetic


def _add(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x, y = args
    return f.or_(x, y) if dtype == "bool" else f.add(x, y)


def _multiply(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x, y = args
    return f.and_(x, y) if dtype == "bool" else f.mul(x, y)


def _subtract(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x, y = args
    return f.sub(x, y)


def _divide(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x, y = args
    return f.div(x, y)


def _negative(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    if dtype == "bf16":
        return f.xor(args[0], constant(args[0].type, 0x8000))
    return f.neg(args[0])


def _abs(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x = args[0]
    if dtype == "bf16":
        return f.and_(x, constant(x.type, 0x7FFF))
    if is_float(x.type):
        return f.intrinsic("fabs", x)
    if not is_signed(dtype):
        return x
    return f.select(f.compare("lt", x, constant(x.type, 0)), f.neg(x), x)


def _sign(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    """-1, 0 or 1."""
    x = args[0]
    zero, one = constant(x.type, 0), constant(x.type, 1)
    positive = f.select(f.icmp("ne", x, zero), one, zero)
    if not is_signed(dtype):
        return positive
    return f.select(f.icmp("slt", x, zero), constant(x.type, -1), positive)


def _maximum(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    return _extreme(f, dtype, args, "maximum")


def _minimum(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    return _extreme(f, dtype, args, "minimum")


def _extreme(f: Function, dtype: str, args: Sequence[Val], which: str) -> Val:
    x, y = args
    if dtype == "bool":
        return f.or_(x, y) if which == "maximum" else f.and_(x, y)
    method = f.maximum if which == "maximum" else f.minimum
    return method(x, y, is_signed(dtype), "nsz" if is_float(x.type) else "")


# ---- division with the sign of the divisor


def _floor_divide(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x, y = args
    return _divide_integers(f, dtype, x, y)[0]


def _remainder(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    x, y = args
    return _divide_integers(f, dtype, x, y)[1]


def known_constant(x: Val) -> int | None:
    """The integer in every lane of a constant, or None."""
    if lanes_of(x.type) == 1:
        return constant_int(x)
    if x.name.startswith("splat (") and not is_float(x.type):
        return constant_int(Val(element(x.type), x.name[7:-1].split()[1]))
    return None


def _divide_integers(f: Function, dtype: str, x: Val, y: Val) -> tuple[Val, Val]:
    """Quotient rounded down and remainder; both 0 for a zero divisor."""
    signed = is_signed(dtype)
    zero, one = constant(x.type, 0), constant(x.type, 1)
    by = known_constant(y)
    if by is not None and by not in (0, -1):
        quotient, rest = f.div(x, y, signed), f.rem(x, y, signed)
    else:
        valid = f.icmp("ne", y, zero)
        negated = f.icmp("eq", y, constant(x.type, -1)) if signed else None
        divisor = f.select(valid, y, one)
        if negated is not None:
            divisor = f.select(negated, one, divisor)
        quotient, rest = f.div(x, divisor, signed), f.rem(x, divisor, signed)
        if negated is not None:
            quotient = f.select(negated, f.neg(x), quotient)
        quotient = f.select(valid, quotient, zero)
        rest = f.select(valid, rest, zero)
    if not signed:
        return quotient, rest
    opposite = f.icmp("slt", f.xor(rest, y), zero)
    inexact = f.and_(opposite, f.icmp("ne", rest, zero))
    lower = f.select(inexact, f.sub(quotient, one), quotient)
    return lower, f.select(inexact, f.add(rest, y), rest)


# ---- powers


def _power(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    """By repeated squaring; a negative exponent gives 0 unless |x| is 1."""
    x, y = args
    zero, one = constant(x.type, 0), constant(x.type, 1)
    known = known_constant(y)
    if known is not None and 0 <= known <= 64:
        return _fixed_power(f, x, known)
    bits = type_bits(element(x.type))
    with f.loop(0, bits, carried=[one, x, y]) as loop:
        total, square, left = loop.carried
        odd = f.icmp("ne", f.and_(left, one), zero)
        total = f.select(odd, f.mul(total, square), total)
        loop.next(total, f.mul(square, square), f.lshr(left, 1))
    total = loop.results[0]
    if not is_signed(dtype):
        return total
    odd = f.icmp("ne", f.and_(y, one), zero)
    minus = f.and_(f.icmp("eq", x, constant(x.type, -1)), odd)
    unit = f.select(minus, constant(x.type, -1), one)
    plus = f.or_(f.icmp("eq", x, one), f.icmp("eq", x, constant(x.type, -1)))
    inverse = f.select(plus, unit, zero)
    return f.select(f.icmp("slt", y, zero), inverse, total)


def _fixed_power(f: Function, x: Val, n: int) -> Val:
    result: Val | None = None
    square = x
    while n:
        if n & 1:
            result = square if result is None else f.mul(result, square)
        n >>= 1
        if n:
            square = f.mul(square, square)
    return constant(x.type, 1) if result is None else result


# ---- comparison, logic, bits


def _comparison(predicate: str) -> Emit:
    def emit(f: Function, dtype: str, args: Sequence[Val]) -> Val:
        x, y = args
        return f.compare(predicate, x, y, is_signed(dtype))

    return emit


def _bitwise(opcode: str) -> Emit:
    def emit(f: Function, dtype: str, args: Sequence[Val]) -> Val:
        x, y = args
        return f.binary(opcode, x, y)

    return emit


def _not(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    return f.not_(args[0])


def _left_shift(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    """x << y; 0 once all bits are shifted out."""
    x, y = args
    bits = type_bits(element(x.type))
    known = known_constant(y)
    if known is not None and 0 <= known < bits:
        return f.shl(x, y)
    inside = f.icmp("ult", y, constant(y.type, bits))
    zero = constant(x.type, 0)
    return f.select(inside, f.shl(x, f.select(inside, y, zero)), zero)


def _right_shift(f: Function, dtype: str, args: Sequence[Val]) -> Val:
    """x >> y: copies of the sign (signed) or zeros come in."""
    x, y = args
    bits = type_bits(element(x.type))
    shift = f.ashr if is_signed(dtype) else f.lshr
    known = known_constant(y)
    if known is not None and 0 <= known < bits:
        return shift(x, y)
    inside = f.icmp("ult", y, constant(y.type, bits))
    if is_signed(dtype):
        return shift(x, f.select(inside, y, constant(y.type, bits - 1)))
    zero = constant(x.type, 0)
    return f.select(inside, shift(x, f.select(inside, y, zero)), zero)


# ---- random bits


def _threefry(word: int) -> Emit:
    """A word of a Threefry block. Both words of one block are the same instructions, which LLVM
    merges."""

    def emit(f: Function, dtype: str, args: Sequence[Val]) -> Val:
        def rotate(x: Val, distance: int) -> Val:
            return f.or_(f.shl(x, distance), f.lshr(x, 32 - distance))

        k0, k1, c0, c1 = args
        block = threefry_block(
            (k0, k1), (c0, c1), f.add, f.xor, rotate, lambda n: constant(k0.type, n)
        )
        return block[word]

    return emit


_SHARED: dict[str, Emit] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "negative": _negative,
    "abs": _abs,
    "maximum": _maximum,
    "minimum": _minimum,
    "equal": _comparison("eq"),
    "not_equal": _comparison("ne"),
    "less": _comparison("lt"),
    "less_equal": _comparison("le"),
    "greater": _comparison("gt"),
    "greater_equal": _comparison("ge"),
}
"""Ops on every dtype; floats also have those of `vmath`."""

_DISCRETE: dict[str, Emit] = {
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "power": _power,
    "sign": _sign,
    "logical_and": _bitwise("and"),
    "logical_or": _bitwise("or"),
    "logical_xor": _bitwise("xor"),
    "logical_not": _not,
    "bitwise_and": _bitwise("and"),
    "bitwise_or": _bitwise("or"),
    "bitwise_xor": _bitwise("xor"),
    "bitwise_invert": _not,
    "left_shift": _left_shift,
    "right_shift": _right_shift,
    "threefry_first": _threefry(0),
    "threefry_second": _threefry(1),
}
"""Ops on integers and bool."""

_EXACT = frozenset(("negative", "abs"))
"""Ops that 16-bit floats need not be widened for."""
