"""LLVM types and constants as text.

A type is the string that LLVM prints: `"float"`, `"<16 x float>"`, `"i64"`, `"ptr"`. A dtype is one
of rung's names (`"f32"`, `"u8"`, ...). A bool is `i1` in a register and `i8` in memory.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from rung.core.errors import LoweringError

LLVM_TYPE = {
    "bool": "i1",
    "i8": "i8",
    "i16": "i16",
    "i32": "i32",
    "i64": "i64",
    "u8": "i8",
    "u16": "i16",
    "u32": "i32",
    "u64": "i64",
    "f16": "half",
    "bf16": "i16",
    "f32": "float",
    "f64": "double",
}
"""The LLVM element type that holds a value of each dtype in a register.

LLVM has `bfloat`, but where the processor has not, it cannot select or shuffle one. We only move
and convert such values, and never compute with them: they are their bits.
"""

FLOAT_BITS = {"half": 16, "float": 32, "double": 64}
"""Width in bits of each LLVM floating-point element type."""

_MANGLED = {"half": "f16", "float": "f32", "double": "f64", "ptr": "p0"}
_VECTOR = re.compile(r"<(\d+) x (\w+)>\Z")


class Val(NamedTuple):
    """A typed SSA value or constant: `name` is what an instruction writes for it."""

    type: str
    name: str

    @property
    def is_constant(self) -> bool:
        """Whether the text is a literal and not a register."""
        return self.name[0] != "%"


@cache
def split_type(type: str) -> tuple[str, int]:
    """Element type and number of lanes; a scalar has one lane.

    >>> split_type("<16 x float>"), split_type("i64")
    (('float', 16), ('i64', 1))
    """
    match = _VECTOR.match(type)
    if match is None:
        return type, 1
    return match.group(2), int(match.group(1))


def element(type: str) -> str:
    """The element type: `"float"` of `"<16 x float>"` and of `"float"`."""
    return split_type(type)[0]


def lanes_of(type: str) -> int:
    """The number of lanes, 1 for a scalar."""
    return split_type(type)[1]


@cache
def vector(element_type: str, lanes: int) -> str:
    """The type of `lanes` elements; one lane is the scalar type itself.

    >>> vector("float", 8), vector("float", 1)
    ('<8 x float>', 'float')
    """
    return element_type if lanes == 1 else f"<{lanes} x {element_type}>"


def like(type: str, element_type: str) -> str:
    """The type with as many lanes as `type` and another element type."""
    return vector(element_type, lanes_of(type))


def register_type(dtype: str, lanes: int = 1) -> str:
    """LLVM type of `lanes` values of `dtype` in a register (bool is `i1`)."""
    return vector(LLVM_TYPE[dtype], lanes)


def memory_type(dtype: str, lanes: int = 1) -> str:
    """LLVM type of `lanes` values of `dtype` in a buffer (bool is one byte, 0 or 1)."""
    return vector("i8" if dtype == "bool" else LLVM_TYPE[dtype], lanes)


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of `dtype` in a buffer."""
    return type_bytes(memory_type(dtype))


@cache
def type_bits(type: str) -> int:
    """Bits of a value of `type`."""
    name, lanes = split_type(type)
    if name == "ptr":
        return 64 * lanes
    return lanes * (FLOAT_BITS[name] if name in FLOAT_BITS else int(name[1:]))


def type_bytes(type: str) -> int:
    """Bytes of a value of `type` in memory."""
    return (type_bits(type) + 7) // 8


@cache
def is_float(type: str) -> bool:
    """Whether the element type is a floating-point type."""
    return element(type) in FLOAT_BITS


def is_signed(dtype: str) -> bool:
    """Whether integers of this dtype are signed."""
    return dtype[0] == "i"


@cache
def mangle(type: str) -> str:
    """The suffix of an overloaded intrinsic: `"v16f32"` for `"<16 x float>"`."""
    name, lanes = split_type(type)
    text = _MANGLED.get(name, name)
    return text if lanes == 1 else f"v{lanes}{text}"


def _double_bits(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def float_literal(type: str, value: float) -> str:
    """The literal of `value` rounded to the floating-point element type."""
    if type == "double":
        return f"0x{_double_bits(value):016X}"
    if type == "float":
        return f"0x{_double_bits(_round_to_float(value)):016X}"
    if type == "half":
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    raise LoweringError(f"not a floating-point type: {type}")


def _round_to_float(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _bfloat_bits(value: float) -> int:
    bits = int(struct.unpack("<I", struct.pack("<f", _round_to_float(value)))[0])
    if value != value:
        return (bits >> 16) | 0x40
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def int_literal(type: str, value: int) -> str:
    """The literal of `value` wrapped to the integer element type."""
    if type == "i1":
        return "true" if value & 1 else "false"
    bits = int(type[1:])
    wrapped = value & ((1 << bits) - 1)
    return str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)


def scalar_literal(type: str, value: float) -> str:
    """The literal of a number of an element type; `null` for a pointer."""
    if type in FLOAT_BITS:
        return float_literal(type, float(value))
    if type == "ptr":
        return "null"
    return int_literal(type, int(value))


@lru_cache(maxsize=65536)
def _constant(type: str, value: float, sign: float) -> Val:
    name, lanes = split_type(type)
    literal = scalar_literal(name, value)
    return Val(type, literal if lanes == 1 else f"splat ({name} {literal})")


def constant(type: str, value: float) -> Val:
    """A constant of `type`; for a vector, `value` in each lane.

    >>> constant("<4 x i32>", -1)
    Val(type='<4 x i32>', name='splat (i32 -1)')
    """
    if isinstance(value, int):
        return _constant(type, value, 1.0)
    return _constant(type, value, math.copysign(1.0, value))


def dtype_constant(dtype: str, value: float) -> Val:
    """A scalar constant of a dtype.

    >>> dtype_constant("bf16", 1.0)
    Val(type='i16', name='16256')
    """
    if dtype == "bf16":
        return constant("i16", _bfloat_bits(value))
    return constant(register_type(dtype), value)


def constant_vector(element_type: str, values: Sequence[float]) -> Val:
    """A constant with its own value in each lane; a single value is a scalar."""
    if len(values) == 1:
        return constant(element_type, values[0])
    if all(value == values[0] for value in values) and element_type not in FLOAT_BITS:
        return constant(vector(element_type, len(values)), values[0])
    items = ", ".join(f"{element_type} {scalar_literal(element_type, v)}" for v in values)
    return Val(vector(element_type, len(values)), f"<{items}>")


def poison(type: str) -> Val:
    """A value of `type` that nobody may look at."""
    return Val(type, "poison")


def zero(type: str) -> Val:
    """The value of `type` with all bits zero."""
    return Val(type, "null" if type == "ptr" else "zeroinitializer")


def constant_int(value: Val) -> int | None:
    """The number that a scalar integer constant stands for, or `None`."""
    name = value.name
    if name == "true":
        return 1
    if name in ("false", "zeroinitializer") and lanes_of(value.type) == 1:
        return 0
    if name[0] == "-" or name[0].isdigit():
        return int(name) if not name.startswith("0x") else None
    return None
