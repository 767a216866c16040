"""Vector math: element-wise functions of floats written out as LLVM IR.

`emit(b, "exp", "f32", 16, [x])` appends the instructions of 16 exponentials. Functions are our own
polynomials, correct for infinities, NaN, signed zeros and denormals; `LIBM_F64` names the few that
call the C library lane by lane in f64. Half precision is computed in f32 by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rung.codegen.llvm import vmath_basic as basic
from rung.codegen.llvm import vmath_exp as exps
from rung.codegen.llvm import vmath_log as logs
from rung.codegen.llvm import vmath_trig as trig
from rung.codegen.llvm.builder import Function
from rung.codegen.llvm.reals import FORMATS, Reals
from rung.codegen.llvm.types import Val
from rung.core.errors import LoweringError

UNARY: Final[dict[str, Callable[[Reals, Val], Val]]] = {
    "exp": exps.exp,
    "exp2": exps.exp2,
    "expm1": exps.expm1,
    "sinh": exps.sinh,
    "cosh": exps.cosh,
    "tanh": exps.tanh,
    "erf": exps.erf,
    "erfc": exps.erfc,
    "normal_cdf": exps.normal_cdf,
    "log": logs.log,
    "log2": logs.log2,
    "log10": logs.log10,
    "log1p": logs.log1p,
    "asinh": logs.asinh,
    "acosh": logs.acosh,
    "atanh": logs.atanh,
    "sin": trig.sin,
    "cos": trig.cos,
    "tan": trig.tan,
    "asin": trig.asin,
    "acos": trig.acos,
    "atan": trig.atan,
    "sqrt": basic.sqrt,
    "rsqrt": basic.rsqrt,
    "reciprocal": basic.reciprocal,
    "floor": basic.floor,
    "ceil": basic.ceil,
    "round": basic.round_even,
    "trunc": basic.trunc,
    "sign": basic.sign,
    "isnan": basic.isnan,
    "isinf": basic.isinf,
    "isfinite": basic.isfinite,
    "signbit": basic.signbit,
}
"""Functions of one operand; the last four give `i1`."""

BINARY: Final[dict[str, Callable[[Reals, Val, Val], Val]]] = {
    "pow": logs.pow,
    "logaddexp": logs.logaddexp,
    "atan2": trig.atan2,
    "hypot": basic.hypot,
    "fmod": basic.fmod,
    "remainder": basic.remainder,
    "floor_divide": basic.floor_divide,
    "copysign": basic.copysign,
    "nextafter": basic.nextafter,
}
"""Functions of two operands."""

LIBM_F64: Final[dict[str, str]] = {
    "erf": "erf", "erfc": "erfc", "normal_cdf": "erf", "pow": "pow",
}  # fmt: skip
"""Functions that in f64 call one of the C library; `sin`, `cos`, `tan` (beyond 2**20) and `fmod`,
`remainder`, `floor_divide` (quotients beyond half the precision, both dtypes) call it on rare
paths."""

ACCURACY: Final[dict[str, tuple[float, float]]] = {
    "exp": (1.1, 1.1),
    "exp2": (0.9, 0.9),
    "expm1": (1.5, 1.9),
    "sinh": (2.5, 2.5),
    "cosh": (1.6, 1.6),
    "tanh": (1.3, 1.3),
    "erf": (1.1, 1.0),
    "erfc": (3.6, 1.0),
    "normal_cdf": (0.6, 0.6),
    "log": (0.9, 0.9),
    "log2": (1.5, 1.5),
    "log10": (1.3, 1.2),
    "log1p": (1.0, 1.0),
    "asinh": (1.8, 1.8),
    "acosh": (2.0, 2.0),
    "atanh": (2.2, 2.0),
    "sin": (0.9, 0.9),
    "cos": (0.9, 0.9),
    "tan": (1.3, 1.3),
    "asin": (2.1, 2.1),
    "acos": (1.3, 1.3),
    "atan": (2.0, 2.0),
    "sqrt": (0.5, 0.5),
    "rsqrt": (1.6, 1.6),
    "reciprocal": (0.5, 0.5),
    "floor": (0.0, 0.0),
    "ceil": (0.0, 0.0),
    "round": (0.0, 0.0),
    "trunc": (0.0, 0.0),
    "sign": (0.0, 0.0),
    "isnan": (0.0, 0.0),
    "isinf": (0.0, 0.0),
    "isfinite": (0.0, 0.0),
    "signbit": (0.0, 0.0),
    "pow": (0.6, 1.0),
    "logaddexp": (2.0, 2.0),
    "atan2": (2.0, 2.0),
    "hypot": (0.6, 1.1),
    "fmod": (0.0, 0.0),
    "remainder": (0.0, 0.0),
    "floor_divide": (0.0, 0.0),
    "copysign": (0.0, 0.0),
    "nextafter": (0.0, 0.0),
}
"""Greatest error in units in the last place of the result, for f32 and f64; of the largest operand
for `logaddexp`, of 1 for `normal_cdf`. The tests measure it."""


def emit(b: Function, op: str, dtype: str, lanes: int, args: Sequence[Val]) -> Val:
    """Append the function `op` of `lanes` values of `dtype` (`"f32"` or `"f64"`).

    `args` have the type of `lanes` values of the dtype (a scalar for one lane), and so has the
    result; `isnan`, `isinf`, `isfinite`, `signbit` give `i1`s. May end the current block.
    Raises `LoweringError` for an unknown function or dtype.
    """
    if dtype not in FORMATS:
        raise LoweringError(f"{op}: no vector math in {dtype}", fix="compute in f32")
    r = Reals(b, dtype, lanes)
    if op in UNARY:
        (x,) = args
        return UNARY[op](r, x)
    if op in BINARY:
        x, y = args
        return BINARY[op](r, x, y)
    raise LoweringError(f"no vector math for {op}")
