"""The table of derivatives for `rung.grad_source`: one line a function.

`x="d * y"` says: from the cotangent `d` of the result `y`, that of the operand x. Names are those
of the parameters; `rung` and the functions of `rung.autodiff.adjoint` may be used. Where operands
are broadcast (`wide`), the sum over repeated dims is added by the generator.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any

from rung.core.arguments import unchecked
from rung.tensor import (
    creation,
    elementwise,
    functional,
    linalg,
    reductions,
    shapes,
    sorting,
)
from rung.tensor.custom import stop_gradient
from rung.tensor.tensor import Tensor

LN2, LN10 = math.log(2.0), math.log(10.0)


@dataclass(frozen=True)
class Formula:
    """Parameters (with the texts of their defaults) and the adjoint of each operand."""

    params: dict[str, str | None]
    adjoints: dict[str, ast.expr]
    wide: bool = False

    @property
    def uses_result(self) -> bool:
        """Whether an adjoint reads the result."""
        return any(
            isinstance(n, ast.Name) and n.id == "y"
            for a in self.adjoints.values()
            for n in ast.walk(a)
        )


def formula(params: str, wide: bool = False, **adjoints: str) -> Formula:
    """A formula from texts: `formula("x, axis=None", x="spread(d, x, axis)")`."""
    node = ast.parse(f"lambda {params}: 0", mode="eval").body
    assert isinstance(node, ast.Lambda)
    names = [a.arg for a in node.args.args]
    defaults = [ast.unparse(d) for d in node.args.defaults]
    known: dict[str, str | None] = dict.fromkeys(names[: len(names) - len(defaults)])
    known.update(zip(names[len(known) :], defaults, strict=True))
    trees = {k: ast.parse(text, mode="eval").body for k, text in adjoints.items()}
    return Formula(known, trees, wide)


def _unary(adjoint: str) -> Formula:
    return formula("x", x=adjoint)


def _binary(a: str, b: str) -> Formula:
    return formula("a, b", wide=True, a=a, b=b)


_REDUCE = "x, axis=None, keepdims=False"
_VAR = "x, axis=None, correction=0.0, keepdims=False"
_SAME = formula("x", x="d.reshape(x.shape)")
_CAST = formula("x", x="d.astype(x.dtype)")
_AWAY = "(x - x.mean(axis=axis, keepdims=True)) / (x.size / y.size - correction)"

FORMULAS: dict[str, Formula] = {
    "negative": _unary("-d"),
    "positive": _unary("d"),
    "abs": _unary("d * rung.sign(x)"),
    "square": _unary("d * 2 * x"),
    "reciprocal": _unary("-d * y ** 2"),
    "sqrt": _unary("d / (2 * y)"),
    "rsqrt": _unary("-0.5 * d * y / x"),
    "exp": _unary("d * y"),
    "exp2": _unary(f"d * y * {LN2}"),
    "expm1": _unary("d * (y + 1)"),
    "log": _unary("d / x"),
    "log1p": _unary("d / (1 + x)"),
    "log2": _unary(f"d / (x * {LN2})"),
    "log10": _unary(f"d / (x * {LN10})"),
    "sin": _unary("d * rung.cos(x)"),
    "cos": _unary("-d * rung.sin(x)"),
    "tan": _unary("d * (1 + y ** 2)"),
    "asin": _unary("d * rung.rsqrt(1 - x ** 2)"),
    "acos": _unary("-d * rung.rsqrt(1 - x ** 2)"),
    "atan": _unary("d / (1 + x ** 2)"),
    "sinh": _unary("d * rung.cosh(x)"),
    "cosh": _unary("d * rung.sinh(x)"),
    "tanh": _unary("d * (1 - y ** 2)"),
    "asinh": _unary("d * rung.rsqrt(x ** 2 + 1)"),
    "acosh": _unary("d * rung.rsqrt(x ** 2 - 1)"),
    "atanh": _unary("d / (1 - x ** 2)"),
    "erf": _unary(f"d * {2 / math.sqrt(math.pi)} * rung.exp(-x ** 2)"),
    "relu": _unary("rung.where(x > 0, d, 0.0)"),
    "leaky_relu": formula("x, negative_slope=0.01", x="rung.where(x > 0, d, negative_slope * d)"),
    "sigmoid": _unary("d * y * (1 - y)"),
    "logsigmoid": _unary("d * rung.sigmoid(-x)"),
    "softplus": _unary("d * rung.sigmoid(x)"),
    "silu": _unary("d * (y + rung.sigmoid(x) * (1 - y))"),
    "gelu": _unary(
        f"d * (0.5 + 0.5 * rung.erf(x * {math.sqrt(0.5)}) "
        f"+ x * rung.exp(-0.5 * x ** 2) * {1 / math.sqrt(2 * math.pi)})"
    ),
    "add": _binary("d", "d"),
    "subtract": _binary("d", "-d"),
    "multiply": _binary("d * b", "d * a"),
    "divide": _binary("d / b", "-d * y / b"),
    "remainder": _binary("d", "-d * (a // b)"),
    "pow": _binary("d * b * a ** (b - 1)", "d * y * rung.log(a)"),
    "maximum": _binary(
        "rung.where(a > b, d, rung.where(a == b, 0.5 * d, 0.0))",
        "rung.where(b > a, d, rung.where(a == b, 0.5 * d, 0.0))",
    ),
    "minimum": _binary(
        "rung.where(a < b, d, rung.where(a == b, 0.5 * d, 0.0))",
        "rung.where(b < a, d, rung.where(a == b, 0.5 * d, 0.0))",
    ),
    "atan2": _binary("d * b / (a ** 2 + b ** 2)", "-d * a / (a ** 2 + b ** 2)"),
    "hypot": _binary("d * a / y", "d * b / y"),
    "logaddexp": _binary("d * rung.exp(a - y)", "d * rung.exp(b - y)"),
    "where": formula("c, a, b", wide=True, a="rung.where(c, d, 0.0)", b="rung.where(c, 0.0, d)"),
    "clip": formula("x, min=None, max=None", x="inside(d, x, min, max)"),
    "matmul": formula("a, b", a="left_factor(d, a, b)", b="right_factor(d, a, b)"),
    "outer": formula("a, b", a="d @ b", b="a @ d"),
    "linear": formula(
        "x, weight, bias=None",
        x="left_factor(d, x, weight.mT)",
        weight="right_factor(d, x, weight.mT).mT",
        bias="unbroadcast(d, bias)",
    ),
    "mse_loss": formula(
        "x, target", x="2 * d * (x - target) / x.size", target="2 * d * (target - x) / x.size"
    ),
    "sum": formula(_REDUCE, x="spread(d, x, axis, keepdims)"),
    "mean": formula(_REDUCE, x="spread(d, x, axis, keepdims) * (y.size / x.size)"),
    "max": formula(_REDUCE, x="share(d, x, y, axis, keepdims)"),
    "min": formula(_REDUCE, x="share(d, x, y, axis, keepdims)"),
    "var": formula(_VAR, x=f"spread(2 * d, x, axis, keepdims) * {_AWAY}"),
    "std": formula(_VAR, x=f"spread(d / y, x, axis, keepdims) * {_AWAY}"),
    "norm": formula(_REDUCE, x="spread(d / y, x, axis, keepdims) * x"),
    "logsumexp": formula(
        _REDUCE, x="spread(d, x, axis, keepdims) * rung.exp(x - spread(y, x, axis, keepdims))"
    ),
    "softmax": formula("x, axis=-1", x="y * (d - (d * y).sum(axis=axis, keepdims=True))"),
    "log_softmax": formula("x, axis=-1", x="d - rung.exp(y) * d.sum(axis=axis, keepdims=True)"),
    "cumulative_sum": formula(
        "x, axis=None",
        x="rung.flip(rung.cumulative_sum(rung.flip(d, axis=axis), axis=axis), axis=axis)",
    ),
    "reshape": _SAME,
    "flatten": _SAME,
    "squeeze": _SAME,
    "expand_dims": _SAME,
    "broadcast_to": formula("x, shape", x="unbroadcast(d, x)"),
    "matrix_transpose": _unary("d.mT"),
    "swapaxes": formula("x, axis1, axis2", x="rung.swapaxes(d, axis1, axis2)"),
    "moveaxis": formula("x, source, destination", x="rung.moveaxis(d, destination, source)"),
    "permute_dims": formula("x, axes", x="unpermuted(d, axes)"),
    "flip": formula("x, axis=None", x="rung.flip(d, axis=axis)"),
    "tril": formula("x, k=0", x="rung.tril(d, k=k)"),
    "triu": formula("x, k=0", x="rung.triu(d, k=k)"),
    "concat": formula("arrays, axis=0", arrays="split_like(d, arrays, axis)"),
    "stack": formula("arrays, axis=0", arrays="list(rung.unstack(d, axis=axis))"),
    "split": formula("x, sizes, axis=0", x="rung.concat(d, axis=axis)"),
    "chunk": formula("x, chunks, axis=0", x="rung.concat(d, axis=axis)"),
    "unstack": formula("x, axis=0", x="rung.stack(d, axis=axis)"),
    "astype": _CAST,
    "set_at": formula(
        "x, index, value", x="set_at(d, index, 0.0)", value="unbroadcast(d[index], value)"
    ),
}
"""By name of the function. What else an argument may be (`shape`, `dtype`) is in FREE."""

FREE = frozenset({
    "reshape", "flatten", "squeeze", "expand_dims", "astype", "float", "double", "half", "view",
    "unsqueeze", "expand", "bfloat16", "to", "sum",
})  # fmt: skip
"""Functions whose formulas hold whatever other arguments say."""

METHODS = {
    "view": _SAME, "unsqueeze": _SAME, "float": _CAST, "double": _CAST, "half": _CAST,
    "bfloat16": _CAST, "to": _CAST, "clone": _unary("d"), "copy": _unary("d"),
    "expand": _unary("unbroadcast(d, x)"), "neg": FORMULAS["negative"],
    "sub": FORMULAS["subtract"], "mul": FORMULAS["multiply"], "div": FORMULAS["divide"],
    "clamp": FORMULAS["clip"], "amax": FORMULAS["max"], "amin": FORMULAS["min"],
    "dot": FORMULAS["matmul"], "cumsum": FORMULAS["cumulative_sum"],
    "transpose": FORMULAS["swapaxes"], "permute": FORMULAS["permute_dims"],
    "unbind": FORMULAS["unstack"],
}  # fmt: skip
"""Methods of tensors that are no functions of the same name."""

ATTRIBUTES = {"T": _unary("d.T"), "mT": _unary("d.mT")}

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide",
    ast.Mod: "remainder", ast.Pow: "pow", ast.MatMult: "matmul", ast.USub: "negative",
    ast.UAdd: "positive",
}  # fmt: skip

_CONSTANT_METHODS = """
    floor ceil round trunc sign argmax argmin argsort detach item numpy tolist isnan isinf isfinite
    any all count_nonzero nonzero eq ne lt le gt ge int long bool dim numel
"""
CONSTANT_METHODS = frozenset(_CONSTANT_METHODS.split())
"""Methods and attributes of tensors through which no derivative passes."""
CONSTANT_ATTRIBUTES = frozenset({"shape", "ndim", "size", "dtype", "device", "itemsize", "nbytes"})
_CONSTANT_FUNCTIONS = """
    floor ceil round trunc sign floor_divide argmax argmin argsort isnan isinf isfinite any all
    equal not_equal less less_equal greater greater_equal logical_and logical_or logical_not
    logical_xor zeros_like ones_like full_like count_nonzero signbit
"""
_MODULES = (elementwise, reductions, shapes, linalg, functional, creation, sorting)


def _named(name: str) -> list[Any]:
    """The functions of rung of that name."""
    return [getattr(m, name) for m in _MODULES if hasattr(m, name)]


def _by_function() -> dict[int, tuple[str, Formula]]:
    found = {id(f): (name, known) for name, known in FORMULAS.items() for f in _named(name)}
    found |= {id(getattr(math, n)): (n, f) for n, f in FORMULAS.items() if hasattr(math, n)}
    found[id(abs)] = ("abs", FORMULAS["abs"])
    return found


_FUNCTIONS = _by_function()
_CONSTANTS = {id(f) for name in _CONSTANT_FUNCTIONS.split() for f in _named(name)} | {
    id(f) for f in (len, range, int, bool, float, isinstance, type, print, stop_gradient)
}


def formula_of(function: Any) -> tuple[str, Formula] | None:
    """Name and formula of a function, None where there is none."""
    return _FUNCTIONS.get(id(unchecked(function)))


def formula_of_method(name: str) -> Formula | None:
    """The formula of a method of tensors."""
    return METHODS.get(name) or (FORMULAS.get(name) if hasattr(Tensor, name) else None)


def is_constant(function: Any) -> bool:
    """Whether no derivative passes through a function."""
    return id(unchecked(function)) in _CONSTANTS
