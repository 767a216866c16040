"""Dropout of whole channels, and the kinds that keep mean and variance. Names, arguments and
defaults are those of `torch.nn.functional`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rung.core.errors import RungError, ShapeError
from rung.tensor.creation import ones
from rung.tensor.functional import dropout, floats
from rung.tensor.operate import Operand
from rung.tensor.random import Source

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

_SATURATED: Final = -1.7580993408473766
"""What SELU tends to for large negative x: minus its scale times its alpha."""


def _one_a_channel(x: Tensor, num_lead: int) -> Tensor:
    """Ones for the first dims of x, to be broadcast over the others."""
    return ones((*x.shape[:num_lead], *(1,) * (x.ndim - num_lead)), x.dtype)


def _of_channels(rank: int, x: Operand, p: float, training: bool, key: Source) -> Tensor:
    x = floats(x)
    lead = x.ndim - rank
    if lead not in (1, 2):
        raise ShapeError(f"dropout{rank}d: x is {x._type}", fix="x is [N, C, …] or [C, …]")
    if not training or p == 0:
        return x
    return x * dropout(_one_a_channel(x, lead), p, True, key)


def dropout1d(x: Operand, p: float = 0.5, training: bool = True, key: Source = None) -> Tensor:
    """x[N, C, T] with whole channels 0 with probability p, else divided by 1 - p."""
    return _of_channels(1, x, p, training, key)


def dropout2d(x: Operand, p: float = 0.5, training: bool = True, key: Source = None) -> Tensor:
    """x[N, C, H, W] with whole channels 0 with probability p, else divided by 1 - p."""
    return _of_channels(2, x, p, training, key)


def dropout3d(x: Operand, p: float = 0.5, training: bool = True, key: Source = None) -> Tensor:
    """x[N, C, D, H, W] with whole channels 0 with probability p, else divided by 1 - p."""
    return _of_channels(3, x, p, training, key)


def alpha_dropout(
    x: Operand, p: float = 0.5, training: bool = False, key: Source = None
) -> Tensor:
    """x with each element what SELU tends to at the left with probability p; all are scaled and
    moved so that mean 0 and variance 1 stay (Klambauer et al., 2017)."""
    x = floats(x)
    return _saturated(x, ones(x.shape, x.dtype), p, training, key)


def feature_alpha_dropout(
    x: Operand, p: float = 0.5, training: bool = False, key: Source = None
) -> Tensor:
    """`alpha_dropout` of whole channels of x[N, C, …]."""
    x = floats(x)
    return _saturated(x, _one_a_channel(x, 2), p, training, key)


def _saturated(x: Tensor, mask: Tensor, p: float, training: bool, key: Source) -> Tensor:
    if not 0 <= p <= 1:
        raise RungError(f"alpha_dropout: p={p}", fix="give a probability from 0 to 1")
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0.0
    kept = dropout(mask, p, True, key) * (1 - p)
    scale = ((1 - p) * (1 + p * _SATURATED**2)) ** -0.5
    return (x * kept + _SATURATED * (1 - kept)) * scale - scale * p * _SATURATED
