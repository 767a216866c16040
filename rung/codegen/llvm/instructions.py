"""Instructions that compute: arithmetic, comparisons, conversions, vectors, intrinsics."""

from __future__ import annotations

from collections.abc import Sequence

from rung.codegen.llvm.module import Module
from rung.codegen.llvm.types import (
    FLOAT_BITS,
    Val,
    constant,
    constant_int,
    constant_vector,
    element,
    is_float,
    is_signed,
    lanes_of,
    like,
    mangle,
    poison,
    register_type,
    split_type,
    type_bits,
    vector,
)
from rung.core.errors import LoweringError

FLOAT_PREDICATES = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
"""Comparison of dtypes to LLVM's: only `!=` holds when an operand is NaN."""

_INT_FOLDS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
}
_REDUCE_INT = {"add", "mul", "and", "or", "xor", "smax", "smin", "umax", "umin"}


class Instructions:
    """Appends instructions to the current block. `Function` adds blocks and memory to it.

    Operands of a binary instruction have equal types; a vector operation takes vectors.
    Floating-point instructions carry no fast-math flags unless `flags` says so.
    """

    def __init__(self, module: Module):
        self.module = module
        self._lines: list[str] = []
        self._debug = ""
        self._count = 0

    # -- the two ways in which text gets into a block

    def emit(self, type: str, text: str, name: str = "v") -> Val:
        """Append `%name<n> = text` and give the value of `type` that it defines."""
        self._count += 1
        register = f"%{name}{self._count}"
        self._lines.append(f"  {register} = {text}{self._debug}")
        return Val(type, register)

    def emit_void(self, text: str) -> None:
        """Append an instruction without a result."""
        self._lines.append(f"  {text}{self._debug}")

    def call(self, name: str, result: str, args: Sequence[Val], flags: str = "") -> Val:
        """Call a function that is declared here, on the way (arguments are values only)."""
        module = self.module
        if not module.is_declared(name):
            module.declare(name, result, [a.type for a in args])
        operands = ", ".join([f"{a.type} {a.name}" for a in args])
        prefix = f"call {flags} " if flags else "call "
        text = f"{prefix}{result} @{name}({operands})"
        if result == "void":
            self.emit_void(text)
            return Val("void", "void")
        return self.emit(result, text)

    def intrinsic(self, name: str, *args: Val, flags: str = "") -> Val:
        """Call `llvm.<name>` overloaded on the type of the first argument, which it returns."""
        type = args[0].type
        return self.call(f"llvm.{name}.{mangle(type)}", type, args, flags)

    # -- constants

    def const(self, type: str, value: float) -> Val:
        """A constant of `type`; for a vector, `value` in each lane."""
        return constant(type, value)

    def index(self, value: int) -> Val:
        """An `i64` constant."""
        return constant("i64", value)

    def iota(self, element_type: str, lanes: int, start: int = 0) -> Val:
        """The constant vector `start, start + 1, ...`; one lane is a scalar."""
        return constant_vector(element_type, range(start, start + lanes))

    # -- arithmetic

    def binary(self, opcode: str, x: Val, y: Val, flags: str = "") -> Val:
        """Any two-operand instruction by its opcode (`"fadd"`, `"shl"`, ...)."""
        if x.type != y.type:
            raise LoweringError(f"{opcode}: operand types differ: {x.type} and {y.type}")
        op = f"{opcode} {flags}" if flags else opcode
        return self.emit(x.type, f"{op} {x.type} {x.name}, {y.name}")

    def _arithmetic(self, opcode: str, x: Val, y: Val, flags: str) -> Val:
        if is_float(x.type):
            return self.binary("f" + opcode, x, y, flags)
        a, b = constant_int(x), constant_int(y)
        if a is not None and b is not None:
            return constant(x.type, _INT_FOLDS[opcode](a, b))
        if b is not None and (b == 0 if opcode != "mul" else b == 1):
            return x
        if a is not None and ((a == 0 and opcode == "add") or (a == 1 and opcode == "mul")):
            return y
        return self.binary(opcode, x, y, flags)

    def add(self, x: Val, y: Val, flags: str = "") -> Val:
        """`x + y`; integer constants are folded."""
        return self._arithmetic("add", x, y, flags)

    def sub(self, x: Val, y: Val, flags: str = "") -> Val:
        """`x - y`; integer constants are folded."""
        return self._arithmetic("sub", x, y, flags)

    def mul(self, x: Val, y: Val, flags: str = "") -> Val:
        """`x * y`; integer constants are folded."""
        return self._arithmetic("mul", x, y, flags)

    def div(self, x: Val, y: Val, signed: bool = True) -> Val:
        """`x / y`; integers truncate toward zero, and `y` must not be 0."""
        if is_float(x.type):
            return self.binary("fdiv", x, y)
        return self.binary("sdiv" if signed else "udiv", x, y)

    def rem(self, x: Val, y: Val, signed: bool = True) -> Val:
        """The rest of a truncating integer division, and `y` must not be 0."""
        return self.binary("srem" if signed else "urem", x, y)

    def neg(self, x: Val) -> Val:
        """`-x`; of a float, the sign bit flipped."""
        if is_float(x.type):
            return self.emit(x.type, f"fneg {x.type} {x.name}")
        return self.sub(constant(x.type, 0), x)

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        """`x * y + z` with one rounding."""
        return self.intrinsic("fma", x, y, z)

    def and_(self, x: Val, y: Val) -> Val:
        """Bitwise and."""
        return self.binary("and", x, y)

    def or_(self, x: Val, y: Val) -> Val:
        """Bitwise or."""
        return self.binary("or", x, y)

    def xor(self, x: Val, y: Val) -> Val:
        """Bitwise exclusive or."""
        return self.binary("xor", x, y)

    def not_(self, x: Val) -> Val:
        """Bitwise complement; logical not of `i1`."""
        return self.binary("xor", x, constant(x.type, -1))

    def shl(self, x: Val, count: Val | int) -> Val:
        """`x << count`; `count` must be less than the width."""
        return self.binary("shl", x, self._same(x, count))

    def lshr(self, x: Val, count: Val | int) -> Val:
        """`x >> count`, zeros shifted in."""
        return self.binary("lshr", x, self._same(x, count))

    def ashr(self, x: Val, count: Val | int) -> Val:
        """`x >> count`, the sign shifted in."""
        return self.binary("ashr", x, self._same(x, count))

    def _same(self, x: Val, value: Val | int) -> Val:
        return constant(x.type, value) if isinstance(value, int) else value

    def minimum(self, x: Val, y: Val, signed: bool = True, flags: str = "") -> Val:
        """The smaller; a NaN operand gives NaN, -0.0 is below 0.0 (flag `nsz`: either)."""
        if is_float(x.type):
            return self.intrinsic("minimum", x, y, flags=flags)
        return self.intrinsic("smin" if signed else "umin", x, y)

    def maximum(self, x: Val, y: Val, signed: bool = True, flags: str = "") -> Val:
        """The larger; a NaN operand gives NaN, 0.0 is above -0.0 (flag `nsz`: either)."""
        if is_float(x.type):
            return self.intrinsic("maximum", x, y, flags=flags)
        return self.intrinsic("smax" if signed else "umax", x, y)

    # -- comparison and choice

    def compare(self, predicate: str, x: Val, y: Val, signed: bool = True) -> Val:
        """`eq ne lt le gt ge` of equal types to `i1`s; with NaN only `ne` holds."""
        if x.type != y.type:
            raise LoweringError(f"compare: operand types differ: {x.type} and {y.type}")
        if is_float(x.type):
            return self.fcmp(FLOAT_PREDICATES[predicate], x, y)
        if predicate not in ("eq", "ne"):
            predicate = ("s" if signed else "u") + predicate
        return self.icmp(predicate, x, y)

    def fcmp(self, predicate: str, x: Val, y: Val) -> Val:
        """Floating-point comparison by LLVM's predicate (`olt`, `uno`, ...)."""
        return self.emit(like(x.type, "i1"), f"fcmp {predicate} {x.type} {x.name}, {y.name}")

    def icmp(self, predicate: str, x: Val, y: Val) -> Val:
        """Integer or pointer comparison by LLVM's predicate (`slt`, `ult`, `eq`, ...)."""
        return self.emit(like(x.type, "i1"), f"icmp {predicate} {x.type} {x.name}, {y.name}")

    def select(self, condition: Val, x: Val, y: Val) -> Val:
        """`x` where the `i1` (one, or one a lane) holds, else `y`."""
        if x.type != y.type:
            raise LoweringError(f"select: operand types differ: {x.type} and {y.type}")
        text = f"select {condition.type} {condition.name}, {x.type} {x.name}, {y.type} {y.name}"
        return self.emit(x.type, text)

    # -- conversion

    def bitcast(self, x: Val, type: str) -> Val:
        """The same bits as another type of equal size."""
        return x if x.type == type else self._convert("bitcast", x, type)

    def _convert(self, opcode: str, x: Val, type: str) -> Val:
        return self.emit(type, f"{opcode} {x.type} {x.name} to {type}")

    def resize(self, x: Val, element_type: str, signed: bool = True) -> Val:
        """An integer of another width: truncated, or extended by sign or zero."""
        target = like(x.type, element_type)
        value = constant_int(x)
        if value is not None and (signed or value >= 0):
            return constant(target, value)
        before, after = type_bits(element(x.type)), type_bits(element_type)
        if before == after:
            return x
        if before > after:
            return self._convert("trunc", x, target)
        return self._convert("sext" if signed else "zext", x, target)

    def cast(self, x: Val, source: str, target: str) -> Val:
        """Values of dtype `source` as dtype `target`, lane by lane.

        Rounds to nearest even; a float outside an integer dtype's range gives an unspecified but
        fixed value. Anything but zero is true. Integers wrap.
        """
        if source == target:
            return x
        if source == "bf16":
            return self.cast(self._from_bfloat(x), "f32", target)
        if target == "bf16":
            return self._to_bfloat(self.cast(x, source, "f32"))
        lanes = lanes_of(x.type)
        result = register_type(target, lanes)
        if target == "bool":
            zero = constant(x.type, 0)
            return self.fcmp("une", x, zero) if is_float(x.type) else self.icmp("ne", x, zero)
        if is_float(x.type):
            if is_float(result):
                return self._cast_float(x, element(result))
            return self._float_to_int(x, target)
        if is_float(result):
            return self._int_to_float(x, source, element(result))
        return self.resize(x, element(result), is_signed(source))

    def _float_to_int(self, x: Val, target: str) -> Val:
        if FLOAT_BITS[element(x.type)] == 16:
            x = self._cast_float(x, "float")
        wide = element(register_type(target))
        if type_bits(wide) < 32:
            integer = self._freeze(self._convert("fptosi", x, like(x.type, "i32")))
            return self._convert("trunc", integer, like(x.type, wide))
        opcode = "fptosi" if is_signed(target) else "fptoui"
        return self._freeze(self._convert(opcode, x, like(x.type, wide)))

    def _freeze(self, x: Val) -> Val:
        return self.emit(x.type, f"freeze {x.type} {x.name}")

    def _int_to_float(self, x: Val, source: str, target: str) -> Val:
        opcode = "sitofp" if is_signed(source) else "uitofp"
        middle = "float" if FLOAT_BITS[target] == 16 else target
        return self._cast_float(self._convert(opcode, x, like(x.type, middle)), target)

    def _cast_float(self, x: Val, target: str) -> Val:
        source = element(x.type)
        result = like(x.type, target)
        if source == target:
            return x
        if source == "double" and target == "half":
            x = self._double_to_float_odd(x)
        if source == "half" and target == "double":
            x = self._convert("fpext", x, like(x.type, "float"))
        widens = FLOAT_BITS[target] > FLOAT_BITS[element(x.type)]
        return self._convert("fpext" if widens else "fptrunc", x, result)

    def _from_bfloat(self, x: Val) -> Val:
        bits = self.resize(x, "i32", signed=False)
        return self.bitcast(self.shl(bits, 16), like(x.type, "float"))

    def _to_bfloat(self, x: Val) -> Val:
        # The hardware conversion flushes denormals, and its absence means a library call; these
        # integer steps round to nearest even everywhere alike.
        ints = like(x.type, "i32")
        bits = self.bitcast(x, ints)
        odd = self.and_(self.lshr(bits, 16), constant(ints, 1))
        rounded = self.add(self.add(bits, constant(ints, 0x7FFF)), odd)
        quiet = self.or_(bits, constant(ints, 0x400000))
        chosen = self.select(self.fcmp("uno", x, x), quiet, rounded)
        return self._convert("trunc", self.lshr(chosen, 16), like(x.type, "i16"))

    def _double_to_float_odd(self, x: Val) -> Val:
        # Rounding to odd keeps the later rounding to half from seeing a false tie.
        ints = like(x.type, "i32")
        near = self._convert("fptrunc", x, like(x.type, "float"))
        back = self._convert("fpext", near, x.type)
        bits = self.bitcast(near, ints)
        below = self.fcmp("olt", self.intrinsic("fabs", back), self.intrinsic("fabs", x))
        step = self.select(below, constant(ints, 1), constant(ints, -1))
        even = self.icmp("eq", self.and_(bits, constant(ints, 1)), constant(ints, 0))
        wrong = self.and_(even, self.fcmp("one", back, x))
        odd = self.select(wrong, self.add(bits, step), bits)
        return self.bitcast(odd, near.type)

    # -- vectors

    def splat(self, x: Val, lanes: int) -> Val:
        """The scalar in each of `lanes` lanes; one lane is the scalar itself."""
        if lanes == 1:
            return x
        type = vector(x.type, lanes)
        if x.is_constant and x.name[0] != "@":
            return Val(type, f"splat ({x.type} {x.name})")
        first = self.emit(type, f"insertelement {type} poison, {x.type} {x.name}, i64 0")
        text = f"shufflevector {type} {first.name}, {type} poison, <{lanes} x i32> zeroinitializer"
        return self.emit(type, text)

    def extract(self, x: Val, lane: int | Val) -> Val:
        """One lane of a vector; lane 0 of a scalar is the scalar."""
        name, lanes = split_type(x.type)
        if lanes == 1:
            return x
        where = f"i64 {lane}" if isinstance(lane, int) else f"{lane.type} {lane.name}"
        return self.emit(name, f"extractelement {x.type} {x.name}, {where}")

    def insert(self, x: Val, item: Val, lane: int | Val) -> Val:
        """The vector with one lane replaced."""
        if lanes_of(x.type) == 1:
            return item
        where = f"i64 {lane}" if isinstance(lane, int) else f"{lane.type} {lane.name}"
        return self.emit(
            x.type, f"insertelement {x.type} {x.name}, {item.type} {item.name}, {where}"
        )

    def shuffle(self, x: Val, lanes: Sequence[int], y: Val | None = None) -> Val:
        """Lanes chosen from `x` followed by `y` (-1: any value); one lane gives a scalar."""
        if len(lanes) == 1:
            count = lanes_of(x.type)
            return (
                self.extract(x, lanes[0])
                if lanes[0] < count or y is None
                else self.extract(y, lanes[0] - count)
            )
        if lanes_of(x.type) == 1:
            x = self.emit(
                vector(x.type, 2), f"insertelement <2 x {x.type}> poison, {x.type} {x.name}, i64 0"
            )
        other = "poison" if y is None else y.name
        mask = ", ".join("i32 poison" if lane < 0 else f"i32 {lane}" for lane in lanes)
        text = f"shufflevector {x.type} {x.name}, {x.type} {other}, <{len(lanes)} x i32> <{mask}>"
        return self.emit(vector(element(x.type), len(lanes)), text)

    def concat(self, x: Val, y: Val) -> Val:
        """The lanes of `x`, then those of `y` (equal types)."""
        name, lanes = split_type(x.type)
        if lanes == 1:
            pair = self.insert(poison(vector(name, 2)), x, 0)
            return self.insert(pair, y, 1)
        return self.shuffle(x, range(2 * lanes), y)

    def lane_mask(self, lanes: int, count: Val | int) -> Val:
        """`i1`s that are true for the first `count` lanes (a number or an `i64`/`i32`)."""
        if isinstance(count, int):
            return constant_vector("i1", [lane < count for lane in range(lanes)])
        known = constant_int(count)
        if known is not None:
            return self.lane_mask(lanes, known)
        return self.icmp("slt", self.iota(count.type, lanes), self.splat(count, lanes))

    def reduce(self, op: str, x: Val, flags: str = "") -> Val:
        """One scalar from all lanes: `add mul`, `min max` as opcodes, `and or xor`.

        `op` is `add`, `mul`, `minimum`, `maximum` (floats); `add`, `mul`, `and`, `or`, `xor`,
        `smin`, `smax`, `umin`, `umax` (integers). Floats are combined in a fixed tree: the upper
        half onto the lower half, until one lane is left.
        """
        lanes = lanes_of(x.type)
        if lanes == 1:
            return x
        if op in _REDUCE_INT and not is_float(x.type):
            name = f"llvm.vector.reduce.{op}.{mangle(x.type)}"
            return self.call(name, element(x.type), [x])
        low = 1 << (lanes - 1).bit_length() - 1
        lower = self.shuffle(x, range(low))
        upper = self.shuffle(x, range(low, lanes))
        if lanes - low == low:
            return self.reduce(op, self._combine(op, lower, upper, flags), flags)
        return self._combine(
            op, self.reduce(op, lower, flags), self.reduce(op, upper, flags), flags
        )

    def _combine(self, op: str, x: Val, y: Val, flags: str) -> Val:
        if op in ("minimum", "maximum"):
            return self.intrinsic(op, x, y, flags=flags)
        return self._arithmetic(op, x, y, flags)

    def any(self, mask: Val) -> Val:
        """Whether some `i1` lane is true."""
        return self.reduce("or", mask)

    def all(self, mask: Val) -> Val:
        """Whether every `i1` lane is true."""
        return self.reduce("and", mask)
