"""Vector arithmetic in one floating-point dtype: the words in which `vmath` is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rung.codegen.llvm.builder import Function, Param
from rung.codegen.llvm.types import (
    Val,
    constant,
    constant_vector,
    element,
    int_literal,
    lanes_of,
    mangle,
    poison,
    register_type,
    type_bits,
    vector,
)


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format, and ln 2 split so that `n * ln2_high` is exact."""

    element: str
    integer: str
    mantissa_bits: int
    max_exponent: int
    ln2_high: float
    ln2_low: float

    @property
    def magic(self) -> float:
        """Added to a small integer, leaves it in the low bits of the representation."""
        return 1.5 * 2.0**self.mantissa_bits

    @property
    def smallest_normal(self) -> float:
        """The least positive number of full precision."""
        return 2.0 ** (1 - self.max_exponent)

    @property
    def largest(self) -> float:
        """The greatest finite number."""
        return (2.0 - 2.0**-self.mantissa_bits) * 2.0**self.max_exponent


FORMATS = {
    "f32": Format("float", "i32", 23, 127, 0.693115234375, 3.194618329871446e-05),
    "f64": Format("double", "i64", 52, 1023, 0.6931471805592082, 7.371002565167799e-13),
}

_REGISTER_BITS = (128, 256, 512)


class Reals:
    """Instructions on `lanes` values of one dtype, with masks and bits of the same shape."""

    def __init__(self, b: Function, dtype: str, lanes: int):
        self.b = b
        self.dtype = dtype
        self.lanes = lanes
        self.format = FORMATS[dtype]
        self.type = register_type(dtype, lanes)
        self.ints = vector(self.format.integer, lanes)

    def c(self, value: float) -> Val:
        """A constant in each lane."""
        return constant(self.type, value)

    def ci(self, value: int) -> Val:
        """An integer constant in each lane, as wide as the dtype."""
        return constant(self.ints, value)

    def wider(self, dtype: str) -> Reals:
        """The same number of lanes of another dtype."""
        return Reals(self.b, dtype, self.lanes)

    # -- arithmetic

    def add(self, x: Val, y: Val) -> Val:
        """`x + y`."""
        return self.b.binary("fadd", x, y)

    def sub(self, x: Val, y: Val) -> Val:
        """`x - y`."""
        return self.b.binary("fsub", x, y)

    def mul(self, x: Val, y: Val) -> Val:
        """`x * y`."""
        return self.b.binary("fmul", x, y)

    def div(self, x: Val, y: Val) -> Val:
        """`x / y`."""
        return self.b.binary("fdiv", x, y)

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        """`x * y + z` with one rounding."""
        return self.b.intrinsic("fma", x, y, z)

    def neg(self, x: Val) -> Val:
        """`-x`."""
        return self.b.neg(x)

    def abs(self, x: Val) -> Val:
        """`|x|`."""
        return self.b.intrinsic("fabs", x)

    def sqrt(self, x: Val) -> Val:
        """The square root, correctly rounded."""
        return self.b.intrinsic("sqrt", x)

    def round(self, x: Val) -> Val:
        """The nearest integer, ties to even."""
        return self.b.intrinsic("roundeven", x)

    def trunc(self, x: Val) -> Val:
        """The integer toward zero."""
        return self.b.intrinsic("trunc", x)

    def copysign(self, x: Val, sign: Val) -> Val:
        """`|x|` with the sign of `sign`."""
        return self.b.intrinsic("copysign", x, sign)

    def poly(self, x: Val, coefficients: Sequence[float]) -> Val:
        """The polynomial in `x`, lowest power first (Horner)."""
        *rest, last = coefficients
        result = self.c(last)
        for value in reversed(rest):
            result = self.fma(result, x, self.c(value))
        return result

    # -- choice

    def compare(self, predicate: str, x: Val, y: Val | float) -> Val:
        """`fcmp` by LLVM's predicate; a number stands for that constant."""
        return self.b.fcmp(predicate, x, self._val(y))

    def select(self, condition: Val, x: Val | float, y: Val | float) -> Val:
        """`x` where the condition holds, else `y`; numbers stand for constants."""
        return self.b.select(condition, self._val(x), self._val(y))

    def _val(self, value: Val | float) -> Val:
        return value if isinstance(value, Val) else self.c(value)

    def at_most(self, x: Val, limit: Val | float) -> Val:
        """The smaller one; a NaN in `x` stays."""
        return self.select(self.compare("ogt", x, limit), limit, x)

    def at_least(self, x: Val, limit: Val | float) -> Val:
        """The larger one; a NaN in `x` stays."""
        return self.select(self.compare("olt", x, limit), limit, x)

    def is_nan(self, x: Val) -> Val:
        """Where `x` is NaN."""
        return self.b.fcmp("uno", x, x)

    # -- bits and exponents

    def bits(self, x: Val) -> Val:
        """The representation as integers."""
        return self.b.bitcast(x, self.ints)

    def real(self, bits: Val) -> Val:
        """Integers as representations."""
        return self.b.bitcast(bits, self.type)

    def small_int(self, n: Val) -> Val:
        """A small integral `n` as integers; only the low `mantissa_bits - 2` bits count."""
        return self.bits(self.add(n, self.c(self.format.magic)))

    def pow2(self, n: Val) -> Val:
        """`2**n` for an integral `n` for which it is a normal number."""
        if self.has_avx512:
            return self.scale(self.c(1.0), n)
        shifted = self.b.shl(self.small_int(n), self.format.mantissa_bits)
        return self.real(self.b.add(shifted, self.ci(_bits_of_one(self.format))))

    def scale(self, x: Val, n: Val) -> Val:
        """`x * 2**n` for an integral `n` up to twice the range; overflows and underflows right.

        `x` is near 1.
        """
        if self.has_avx512:
            return self.by_registers(self._scalef, x, n)
        half = self.round(self.mul(n, self.c(0.5)))
        return self.mul(self.mul(x, self.pow2(half)), self.pow2(self.sub(n, half)))

    def scale_where(self, kept: Val, x: Val, n: Val) -> Val:
        """`scale` where the mask holds, else 0. With AVX-512 what is not kept may be anything."""
        if self.has_avx512:
            return self.by_registers(self._scalef_where, x, n, kept)
        return self.select(kept, self.scale(x, n), 0.0)

    @property
    def has_avx512(self) -> bool:
        """Whether AVX-512's instructions for exponents and estimates can be used."""
        power_of_two = self.lanes & (self.lanes - 1) == 0
        return power_of_two and {"avx512f", "avx512vl"} <= self.b.module.features

    def _scalef(self, x: Val, n: Val) -> Val:
        return self._avx512("mask.scalef", [x, n])

    def _scalef_where(self, x: Val, n: Val, kept: Val) -> Val:
        return self._avx512("mask.scalef", [x, n], kept=kept)

    def _avx512(
        self,
        name: str,
        args: list[Val],
        immediate: str = "",
        rounding: bool = True,
        kept: Val | None = None,
    ) -> Val:
        """An AVX-512 intrinsic on whole registers; 0 in lanes that are not kept."""
        type = args[0].type
        bits = type_bits(type)
        suffix = "ps" if self.dtype == "f32" else "pd"
        mask_type = f"i{max(lanes_of(type), 8)}"
        operands = [f"{a.type} {a.name}" for a in args]
        types = [a.type for a in args]
        if immediate:
            operands.append(f"i32 {immediate}")
            types.append("i32 immarg")
        mask = "-1"
        if kept is not None:
            lanes = int(mask_type[1:])
            wide = kept if lanes_of(kept.type) == lanes else self._widen(kept, lanes)
            mask = self.b.bitcast(wide, mask_type).name
        operands += [f"{type} zeroinitializer", f"{mask_type} {mask}"]
        types += [type, mask_type]
        if bits == 512 and rounding:
            operands.append("i32 4")
            types.append("i32 immarg")
        function = f"llvm.x86.avx512.{name}.{suffix}.{bits}"
        self.b.module.declare(function, type, types)
        return self.b.emit(type, f"call {type} @{function}({', '.join(operands)})")

    def rsqrt14(self, x: Val) -> Val:
        """An estimate of `1 / sqrt(x)` to 14 bits, of one AVX-512 register."""
        return self._avx512("rsqrt14", [x], rounding=False)

    def lookup(self, table: Sequence[float], index: Val) -> Val:
        """The f32 entry of a table of 32 at the low five bits of each index, by AVX-512."""
        if lanes_of(index.type) > 16:
            half = lanes_of(index.type) // 2
            parts = (range(half), range(half, 2 * half))
            low, high = (self.lookup(table, self.b.shuffle(index, p)) for p in parts)
            return self.b.concat(low, high)
        if lanes_of(index.type) < 16:
            found = self.lookup(table, self._widen(index, 16))
            return self.b.shuffle(found, range(lanes_of(index.type)))
        first, second = (constant_vector("float", table[at : at + 16]) for at in (0, 16))
        operands = (first, index, second)
        types = [v.type for v in operands]
        function = "llvm.x86.avx512.vpermi2var.ps.512"
        self.b.module.declare(function, first.type, types)
        args = ", ".join(f"{v.type} {v.name}" for v in operands)
        return self.b.emit(first.type, f"call {first.type} @{function}({args})")

    def by_registers(self, function: Callable[..., Val], *args: Val) -> Val:
        """Apply what works on one register to any power of two of lanes."""
        b = self.b
        bits = type_bits(args[0].type)
        lanes = lanes_of(args[0].type)
        if bits in _REGISTER_BITS:
            return function(*args)
        if bits > _REGISTER_BITS[-1]:
            half = lanes // 2
            low = self.by_registers(function, *[b.shuffle(a, range(half)) for a in args])
            high = self.by_registers(function, *[b.shuffle(a, range(half, lanes)) for a in args])
            return b.concat(low, high)
        width = _REGISTER_BITS[0] // type_bits(element(args[0].type))
        result = function(*[self._widen(a, width) for a in args])
        return b.shuffle(result, range(lanes))

    def _widen(self, x: Val, width: int) -> Val:
        if lanes_of(x.type) == 1:
            return self.b.insert(poison(vector(x.type, width)), x, 0)
        lanes = lanes_of(x.type)
        return self.b.shuffle(x, [lane if lane < lanes else -1 for lane in range(width)])

    def split(self, x: Val) -> tuple[Val, Val]:
        """`e` and `m` with `x = m * 2**e`, `0.75 <= m < 1.5`, for positive finite `x`.

        On AVX-512 the rest comes out well, too: `e` is -inf for 0 and inf for inf with `m` 1;
        `m` is NaN for NaN and for negative numbers. See `fix_log` for the others.
        """
        if self.has_avx512:
            m = self.by_registers(self._getmant, x)
            return self.sub(self.by_registers(self._getexp, x), self._small_exponent(m)), m
        b, form = self.b, self.format
        tiny = self.compare("olt", x, form.smallest_normal)
        shift = form.mantissa_bits + 1
        scaled = self.select(tiny, self.mul(x, self.c(2.0**shift)), x)
        one = _bits_of_one(form)
        base = one - (1 << (form.mantissa_bits - 1))
        raised = b.add(self.bits(scaled), self.ci(one - base))
        exponent = b.lshr(raised, form.mantissa_bits)
        fraction = b.and_(raised, self.ci((1 << form.mantissa_bits) - 1))
        m = self.real(b.add(fraction, self.ci(base)))
        bias = self.select(tiny, float(form.max_exponent + shift), float(form.max_exponent))
        return self.sub(self._small_float(exponent), bias), m

    def _small_float(self, n: Val) -> Val:
        """A small non-negative integer as a float, without 64-bit conversions."""
        magic = 2.0**self.format.mantissa_bits
        bits = (self.format.mantissa_bits + self.format.max_exponent) << self.format.mantissa_bits
        return self.sub(self.real(self.b.or_(n, self.ci(bits))), self.c(magic))

    def _small_exponent(self, m: Val) -> Val:
        return self.select(self.compare("olt", m, 1.0), -1.0, 0.0)

    def _getmant(self, x: Val) -> Val:
        return self._avx512("mask.getmant", [x], immediate="11")

    def _getexp(self, x: Val) -> Val:
        return self._avx512("mask.getexp", [x])

    def fix_log(self, x: Val, y: Val) -> Val:
        """`y = log(x)` with 0, negative numbers, infinity and NaN put right."""
        if self.has_avx512:
            return self.select(self.compare("oeq", x, 0.0), -math.inf, y)
        y = self.select(self.compare("olt", x, math.inf), y, x)
        pole = self.select(self.compare("oeq", x, 0.0), -math.inf, math.nan)
        return self.select(self.compare("ogt", x, 0.0), y, pole)

    # -- calls

    def libm(self, name: str, *args: Val) -> Val:
        """The C library's function, lane by lane."""
        scalar = self.format.element
        self.b.module.declare(
            name, scalar, [scalar] * len(args), "nounwind willreturn memory(none)"
        )
        result = poison(self.type)
        for lane in range(self.lanes):
            value = self.b.call(name, scalar, [self.b.extract(a, lane) for a in args])
            result = self.b.insert(result, value, lane)
        return result

    def outlined(self, name: str, body: Callable[[Reals, Sequence[Val]], Val], *args: Val) -> Val:
        """Call `body` as a function of its own, defined once in the module: for rare paths."""
        symbol = f"rung.{name}.{mangle(self.type)}"
        module = self.b.module
        if not module.is_declared(symbol):
            module.declare(symbol, self.type, [a.type for a in args])
            params = [Param(a.type, f"x{i}") for i, a in enumerate(args)]
            function = Function(
                module, symbol, params, self.type, "noinline cold", linkage="internal"
            )
            function.ret(body(Reals(function, self.dtype, self.lanes), function.params))
        return self.b.call(symbol, self.type, args)


def _bits_of_one(form: Format) -> int:
    return int(int_literal(form.integer, form.max_exponent << form.mantissa_bits))
