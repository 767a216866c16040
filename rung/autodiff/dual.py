"""Forward mode by dual numbers: the whole of it in one file.

A dual number is `value + tangent · ε` with ε² = 0. To compute with such numbers is to compute
derivatives, since f(v + t · ε) = f(v) + f'(v) · t · ε:

    dual.derivative(lambda x: x * dual.sin(x))(2.0)      # sin 2 + 2 cos 2

Value and tangent are numbers, NumPy arrays, tensors of rung, or dual numbers again: a derivative
within a derivative has an ε of its own, known by its `level`. Beside the functions of this module,
those of NumPy and the methods that tensors have work on dual numbers.
"""

from __future__ import annotations

import itertools
import math
import operator
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from rung.core.errors import GradientError
from rung.tensor import creation, elementwise, linalg, shapes, tree
from rung.tensor.state import TensorState

Number = Any
"""A Python number, an array, a tensor, or a dual number of these."""
Unary: TypeAlias = Callable[[Number], Any]
_levels = itertools.count()


class Dual:
    """`value + tangent · ε`, where ε belongs to the derivative number `level`."""

    __slots__ = ("level", "tangent", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, level: int, value: Number, tangent: Number) -> None:
        self.level, self.value = level, value
        self.tangent = _spread(tangent, value)

    def __repr__(self) -> str:
        return f"Dual({self.value!r} + {self.tangent!r} ε)"

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        raise GradientError(
            "float() of a dual number would lose its derivative",
            fix="use the functions of rung.autodiff.dual or of NumPy in place of those of math",
        )

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> Any:
        return _linear(lambda x: x[index], self)

    def __array_namespace__(self, *, api_version: str | None = None) -> ModuleType:
        return sys.modules[__name__]

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *given: Any, **options: Any) -> Any:
        """What NumPy calls: `np.sin(x)`, `array * x`."""
        name = _NUMPY_NAMES.get(ufunc.__name__, ufunc.__name__)
        known = name in _NAMES and method == "__call__" and not options
        return globals()[name](*given) if known else NotImplemented

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the dims."""
        return _shape(self.value)

    @property
    def T(self) -> Any:
        """The dims in reverse order."""
        return _linear(lambda x: x.T, self)

    def sum(self, axis: Any = None) -> Any:
        """The sum over `axis`."""
        return _linear(lambda x: x.sum(axis=axis), self)

    def mean(self, axis: Any = None) -> Any:
        """The arithmetic mean over `axis`."""
        return _linear(lambda x: x.mean(axis=axis), self)

    def reshape(self, *shape: Any) -> Any:
        """The same elements in another shape."""
        return _linear(lambda x: x.reshape(*shape), self)


# ---- functions of dual numbers from functions of numbers


def _plain(x: Number) -> bool:
    """Whether x is a Python number or of NumPy."""
    return not isinstance(x, Dual | TensorState)


def _shape(x: Number) -> tuple[int, ...]:
    return np.shape(x) if _plain(x) else tuple(x.shape)


def _spread(tangent: Number, value: Number) -> Number:
    """A tangent in the shape of its value; of a tensor, a tensor."""
    kind = _value(value)
    if isinstance(kind, TensorState) and isinstance(tangent, int | float):
        return creation.full(value.shape, tangent, dtype=kind.dtype)
    return tangent if _shape(tangent) == _shape(value) else broadcast_to(tangent, _shape(value))


def _parts(x: Number, level: int) -> tuple[Number, Number]:
    """Value and tangent of x as seen by one derivative, for which all else is constant."""
    return (x.value, x.tangent) if isinstance(x, Dual) and x.level == level else (x, 0.0)


def _linear(function: Callable[[Number], Number], x: Number) -> Any:
    """A function that is its own derivative."""
    if not isinstance(x, Dual):
        return function(x)
    return Dual(x.level, function(x.value), function(x.tangent))


def _unary(
    array: Callable[..., Any],
    tensor: Callable[..., Any],
    derivative: Callable[[Number, Number], Number],
) -> Unary:
    """The function that is `array` on numbers and arrays, `tensor` on tensors; `derivative` has
    the argument and the result."""

    def function(x: Number) -> Any:
        if not isinstance(x, Dual):
            return array(x) if _plain(x) else tensor(x)
        y = function(x.value)
        return Dual(x.level, y, derivative(x.value, y) * x.tangent)

    return function


def _binary(
    array: Callable[..., Any],
    tensor: Callable[..., Any],
    tangent: Callable[..., Number],
) -> Callable[[Number, Number], Any]:
    """As `_unary`; `tangent` has both arguments, the tangents of both, and the result."""

    def function(a: Number, b: Number) -> Any:
        level = max((x.level for x in (a, b) if isinstance(x, Dual)), default=None)
        if level is None:
            return array(a, b) if _plain(a) and _plain(b) else tensor(a, b)
        (x, dx), (y, dy) = _parts(a, level), _parts(b, level)
        z = function(x, y)
        return Dual(level, z, tangent(x, y, dx, dy, z))

    return function


def _rounded(array: Callable[..., Any], tensor: Callable[..., Any]) -> Callable[[Number], Any]:
    return _unary(array, tensor, lambda x, y: 0.0)


def _product(x: Number, y: Number, dx: Number, dy: Number, z: Number) -> Number:
    return dx * y + x * dy


def _matrix_product(x: Number, y: Number, dx: Number, dy: Number, z: Number) -> Number:
    """A tangent of 0.0 is that of a constant; `@` takes no numbers."""
    terms = [(dx, y)] * (not _is_zero(dx)) + [(x, dy)] * (not _is_zero(dy))
    return sum((matmul(a, b) for a, b in terms), 0.0)


def _power(x: Number, y: Number, dx: Number, dy: Number, z: Number) -> Number:
    """A constant exponent needs no logarithm, so x may be negative or zero then."""
    by_x = 0.0 if _is_zero(y) else y * x ** (y - 1) * dx
    return by_x if _is_zero(dy) else by_x + z * log(x) * dy


def _is_zero(x: Number) -> bool:
    return isinstance(x, int | float) and x == 0


def _winner(wins: Callable[[Number, Number], Any]) -> Callable[..., Number]:
    """Equal arguments share the derivative in half."""

    def tangent(x: Number, y: Number, dx: Number, dy: Number, z: Number) -> Number:
        share = where(_value(x) == _value(y), 0.5, where(wins(_value(x), _value(y)), 1.0, 0.0))
        return share * dx + (1.0 - share) * dy

    return tangent


def _value(x: Number) -> Number:
    """x without any ε."""
    return _value(x.value) if isinstance(x, Dual) else x


# ---- the functions: on arrays, on tensors, derivative

_e = elementwise
negative = _unary(np.negative, _e.negative, lambda x, y: -1.0)
abs = _unary(np.abs, _e.abs, lambda x, y: sign(x))
square = _unary(np.square, _e.square, lambda x, y: 2.0 * x)
reciprocal = _unary(lambda x: 1.0 / x, _e.reciprocal, lambda x, y: -y * y)
sqrt = _unary(np.sqrt, _e.sqrt, lambda x, y: 0.5 / y)
rsqrt = _unary(lambda x: 1.0 / np.sqrt(x), _e.rsqrt, lambda x, y: -0.5 * y / x)
exp = _unary(np.exp, _e.exp, lambda x, y: y)
exp2 = _unary(np.exp2, _e.exp2, lambda x, y: y * math.log(2.0))
expm1 = _unary(np.expm1, _e.expm1, lambda x, y: y + 1.0)
log = _unary(np.log, _e.log, lambda x, y: 1.0 / x)
log1p = _unary(np.log1p, _e.log1p, lambda x, y: 1.0 / (1.0 + x))
log2 = _unary(np.log2, _e.log2, lambda x, y: 1.0 / (x * math.log(2.0)))
log10 = _unary(np.log10, _e.log10, lambda x, y: 1.0 / (x * math.log(10.0)))
sin = _unary(np.sin, _e.sin, lambda x, y: cos(x))
cos: Unary = _unary(np.cos, _e.cos, lambda x, y: -sin(x))
tan = _unary(np.tan, _e.tan, lambda x, y: 1.0 + y * y)
asin = _unary(np.arcsin, _e.asin, lambda x, y: 1.0 / sqrt(1.0 - x * x))
acos = _unary(np.arccos, _e.acos, lambda x, y: -1.0 / sqrt(1.0 - x * x))
atan = _unary(np.arctan, _e.atan, lambda x, y: 1.0 / (1.0 + x * x))
sinh = _unary(np.sinh, _e.sinh, lambda x, y: cosh(x))
cosh: Unary = _unary(np.cosh, _e.cosh, lambda x, y: sinh(x))
tanh = _unary(np.tanh, _e.tanh, lambda x, y: 1.0 - y * y)
asinh = _unary(np.arcsinh, _e.asinh, lambda x, y: 1.0 / sqrt(x * x + 1.0))
acosh = _unary(np.arccosh, _e.acosh, lambda x, y: 1.0 / sqrt(x * x - 1.0))
atanh = _unary(np.arctanh, _e.atanh, lambda x, y: 1.0 / (1.0 - x * x))
erf = _unary(np.vectorize(math.erf, [float]), _e.erf,
             lambda x, y: 2.0 / math.sqrt(math.pi) * exp(-x * x))  # fmt: skip
sign: Unary = _rounded(np.sign, _e.sign)
floor, ceil, trunc = (_rounded(getattr(np, n), getattr(_e, n)) for n in ("floor", "ceil", "trunc"))
round = _rounded(np.rint, _e.round)

add = _binary(operator.add, _e.add, lambda x, y, dx, dy, z: dx + dy)
subtract = _binary(operator.sub, _e.subtract, lambda x, y, dx, dy, z: dx - dy)
multiply = _binary(operator.mul, _e.multiply, _product)
divide = _binary(operator.truediv, _e.divide, lambda x, y, dx, dy, z: (dx - z * dy) / y)
floor_divide = _binary(operator.floordiv, _e.floor_divide, lambda x, y, dx, dy, z: 0.0)
remainder = _binary(operator.mod, _e.remainder, lambda x, y, dx, dy, z: dx - (x // y) * dy)
pow = _binary(operator.pow, _e.pow, _power)
matmul = _binary(operator.matmul, linalg.matmul, _matrix_product)
maximum = _binary(np.maximum, _e.maximum, _winner(operator.gt))
minimum = _binary(np.minimum, _e.minimum, _winner(operator.lt))
atan2 = _binary(np.arctan2, _e.atan2, lambda x, y, dx, dy, z: (y * dx - x * dy) / (x * x + y * y))
hypot = _binary(np.hypot, _e.hypot, lambda x, y, dx, dy, z: (x * dx + y * dy) / z)
logaddexp = _binary(
    np.logaddexp, _e.logaddexp, lambda x, y, dx, dy, z: exp(x - z) * dx + exp(y - z) * dy
)


def where(condition: Number, a: Number, b: Number) -> Any:
    """a where the condition is true, else b."""
    condition = _value(condition)
    level = max((x.level for x in (a, b) if isinstance(x, Dual)), default=None)
    if level is None:
        plain = _plain(condition) and _plain(a) and _plain(b)
        chosen: Any = np.where(condition, a, b) if plain else _e.where(condition, a, b)
        return chosen[()] if plain else chosen  # an array without dims becomes a number
    (x, dx), (y, dy) = _parts(a, level), _parts(b, level)
    return Dual(level, where(condition, x, y), where(condition, dx, dy))


def broadcast_to(x: Number, shape: tuple[int, ...]) -> Any:
    """x repeated to `shape`."""
    if isinstance(x, Dual):
        return _linear(lambda y: broadcast_to(y, shape), x)
    return np.broadcast_to(x, shape) if _plain(x) else shapes.broadcast_to(x, shape)


def sigmoid(x: Number) -> Any:
    """1 / (1 + exp(-x)), by tanh so that nothing overflows."""
    return 0.5 * (1.0 + tanh(0.5 * x))


def relu(x: Number) -> Any:
    """x where it is positive, else 0."""
    return where(_value(x) > 0, x, 0.0 * x)


# ---- the operators and methods of Dual

_NAMES = [
    "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "broadcast_to",
    "ceil", "cos", "cosh", "divide", "erf", "exp", "exp2", "expm1", "floor", "floor_divide",
    "hypot", "log", "log10", "log1p", "log2", "logaddexp", "matmul", "maximum", "minimum",
    "multiply", "negative", "pow", "reciprocal", "relu", "remainder", "round", "rsqrt", "sigmoid",
    "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "trunc", "where",
]  # fmt: skip
_NUMPY_NAMES = {
    "absolute": "abs", "power": "pow", "rint": "round", "arcsin": "asin", "arccos": "acos",
    "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "arctan2": "atan2",
}  # fmt: skip
_OPERATORS = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "floordiv": floor_divide,
    "mod": remainder, "pow": pow, "matmul": matmul,
}  # fmt: skip


def _complete(kind: type) -> None:
    """Give the class its operators: arithmetic, comparison of values, functions as methods."""
    for name, function in _OPERATORS.items():
        setattr(kind, f"__{name}__", lambda a, b, f=function: f(a, b))
        setattr(kind, f"__r{name}__", lambda a, b, f=function: f(b, a))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        compare = getattr(operator, name)
        setattr(kind, f"__{name}__", lambda a, b, f=compare: f(_value(a), _value(b)))
    for name in _NAMES:
        method = globals()[name]
        setattr(kind, name, lambda *given, f=method: f(*given))
    for name, one in (("neg", negative), ("pos", lambda x: x), ("abs", abs)):
        setattr(kind, f"__{name}__", lambda a, f=one: f(a))


_complete(Dual)


# ---- derivatives


def jvp(
    function: Callable[..., Any], primals: Sequence[Number], tangents: Sequence[Number]
) -> tuple[Any, Any]:
    """(result, tangent of the result) of `function` at `primals`, one tangent for each."""
    level = next(_levels)
    result = function(*(Dual(level, x, t) for x, t in zip(primals, tangents, strict=True)))
    leaves, structure = tree.flatten(result)
    parts = [_parts(x, level) for x in leaves]
    values = tree.unflatten(structure, [value for value, _ in parts])
    return values, tree.unflatten(structure, [tangent for _, tangent in parts])


def derivative(function: Callable[[Number], Any]) -> Callable[[Number], Any]:
    """f' of a function of one number; of an element-wise function, the derivative by each element.

    >>> derivative(lambda x: x ** 3)(2.0)
    12.0
    """
    return lambda x: jvp(function, (x,), (1.0,))[1]


def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """The derivatives of a function of one array or tensor by each of its elements, one pass for
    each: in the shape of the array, an array of the results of these passes."""

    def derived(x: Number) -> Any:
        shape = _shape(x)
        found = []
        for place in np.ndindex(shape):
            direction = np.zeros(shape)
            direction[place] = 1.0
            tangent: Any = direction
            if isinstance(x, TensorState):
                tangent = creation.asarray(direction, dtype=x.dtype)
            found.append(jvp(function, (x,), (tangent,))[1])
        if isinstance(x, TensorState):
            return shapes.reshape(shapes.stack(found), (*shape, *_shape(found[0])))
        return np.array(found).reshape(*shape, *_shape(found[0]))

    return derived
