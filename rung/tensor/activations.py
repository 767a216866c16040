"""The less common activations. Names, arguments and defaults are those of
`torch.nn.functional`."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Final

from rung.core.errors import DomainError, RungError, ShapeError
from rung.ops import activation as a
from rung.tensor import elementwise as e
from rung.tensor.functional import floats, softmax
from rung.tensor.operate import Operand, as_tensor
from rung.tensor.precision import rounded_once
from rung.tensor.random import Source, uniform
from rung.tensor.shapes import reshape
from rung.tensor.state import apply

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

_SELU_ALPHA: Final = 1.6732632423543772848170429916717
_SELU_SCALE: Final = 1.0507009873554804934193349852946


def _exponential_below(x: Tensor, alpha: float, width: float = 1.0) -> Tensor:
    """x where it is positive, else alpha * (exp(x / width) - 1)."""
    positive = x > 0
    return e.where(positive, x, alpha * e.expm1(e.where(positive, 0.0, x) / width))


def _scaled_below(x: Tensor, slope: Operand) -> Tensor:
    """x where it is positive, else slope * x."""
    positive = x > 0
    return e.where(positive, x, slope * e.where(positive, 0.0, x))


@rounded_once
def celu(x: Operand, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha * (exp(x / alpha) - 1)  (Barron, 2017)."""
    if alpha == 0:
        raise RungError("celu: alpha=0", fix="give another alpha")
    return _exponential_below(floats(x), alpha, alpha)


@rounded_once
def selu(x: Operand) -> Tensor:
    """elu with constants that keep mean 0 and variance 1 (Klambauer et al., 2017)."""
    return _SELU_SCALE * _exponential_below(floats(x), _SELU_ALPHA)


@rounded_once
def prelu(x: Operand, weight: Operand) -> Tensor:
    """x where it is positive, else weight * x; weight[C] for x[N, C, …], or weight[1]."""
    x, slope = floats(x), as_tensor(weight)
    if slope.size == 1:
        slope = reshape(slope, ())
    else:
        if slope.ndim != 1 or x.ndim == 0 or x.shape[min(1, x.ndim - 1)] != slope.size:
            raise ShapeError(
                f"prelu: weight {slope._type} for x {x._type}", fix="one weight, or one a channel"
            )
        slope = reshape(slope, (slope.size, *(1,) * (x.ndim - 2)))
    return _scaled_below(x, slope)


@rounded_once
def rrelu(
    x: Operand,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    key: Source = None,
) -> Tensor:
    """x where it is positive, else x times a slope that is drawn from [lower, upper) in training,
    and their mean otherwise (Xu et al., 2015)."""
    if not lower <= upper or not isfinite(upper - lower):
        raise DomainError(f"rrelu: lower={lower}, upper={upper}", fix="give finite, rising bounds")
    x = floats(x)
    slope = uniform(x.shape, lower, upper, x.dtype, key) if training else (lower + upper) / 2
    return _scaled_below(x, slope)


def relu6(x: Operand) -> Tensor:
    """x held within [0, 6]."""
    return hardtanh(x, 0.0, 6.0)


def hardtanh(x: Operand, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x held within [min_val, max_val]."""
    if min_val > max_val:
        raise RungError(f"hardtanh: min_val={min_val}, max_val={max_val}", fix="exchange them")
    x = as_tensor(x)
    return e.where(x <= min_val, min_val, e.where(x >= max_val, max_val, x))


def threshold(x: Operand, threshold: float, value: float) -> Tensor:
    """x where it is above `threshold`, else `value`."""
    x = as_tensor(x)
    return e.where(x <= threshold, value, x)


def hardshrink(x: Operand, lambd: float = 0.5) -> Tensor:
    """x with 0 for all within [-lambd, lambd]."""
    x = floats(x)
    return e.where(e.abs(x) <= lambd, 0.0, x)


@rounded_once
def softshrink(x: Operand, lambd: float = 0.5) -> Tensor:
    """x moved by `lambd` towards 0, at most to 0."""
    if lambd < 0:
        raise RungError(f"softshrink: lambd={lambd}", fix="give a number of at least 0")
    x = floats(x)
    return e.where(x > lambd, x - lambd, e.where(x < -lambd, x + lambd, x * 0.0))


@rounded_once
def tanhshrink(x: Operand) -> Tensor:
    """x - tanh(x)."""
    x = floats(x)
    return x - e.tanh(x)


def softsign(x: Operand) -> Tensor:
    """x / (1 + |x|)."""
    return apply(a.softsign, floats(x))


def softmin(x: Operand, dim: int = -1) -> Tensor:
    """softmax(-x) along `dim`."""
    return softmax(-floats(x), dim)
