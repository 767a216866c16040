"""Dropout of elements, of channels, and the kinds that keep mean and variance."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from rung.core.errors import RungError, ShapeError
from rung.nn.module import Module
from rung.tensor import functional as f
from rung.tensor.creation import ones
from rung.tensor.tensor import Tensor

_SATURATED: Final = -1.7580993408473766
"""What SELU tends to for large negative x: minus its scale times its alpha."""


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise RungError(f"{type(self).__name__}: p={p}", fix="give a probability from 0 to 1")
        self.p = p

    def forward(self, x: Any) -> Any:
        if self.p == 0 or not self.training:
            return x
        return self._dropped(x)

    def _dropped(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """In training, each element 0 with probability p, else divided by 1 - p; else x itself."""

    def _dropped(self, x: Tensor) -> Tensor:
        return f.dropout(x, self.p)


def _one_a_channel(x: Tensor, num_lead: int) -> Tensor:
    """Ones for the first dims of x, to be broadcast over the others."""
    return ones((*x.shape[:num_lead], *(1,) * (x.ndim - num_lead)), x.dtype)


class _ChannelDropout(_Dropout):
    """In training, whole channels 0 with probability p, else divided by 1 - p (Tompson et al.,
    2015)."""

    num_dims: ClassVar[int]

    def _dropped(self, x: Tensor) -> Tensor:
        lead = x.ndim - self.num_dims
        if lead not in (1, 2):
            raise ShapeError(f"{type(self).__name__}: x is {x._type}", fix="x is [N, C, …]")
        return x * f.dropout(_one_a_channel(x, lead), self.p)


class Dropout1d(_ChannelDropout):
    """In training, whole channels of x[N, C, T] 0 with probability p, else divided by 1 - p."""

    num_dims = 1


class Dropout2d(_ChannelDropout):
    """In training, whole channels of x[N, C, H, W] 0 with probability p, else divided by 1 - p."""

    num_dims = 2


class Dropout3d(_ChannelDropout):
    """In training, whole channels of x[N, C, D, H, W] 0 with probability p, else divided by
    1 - p."""

    num_dims = 3


class AlphaDropout(_Dropout):
    """In training, each element what SELU tends to at the left with probability p; all are scaled
    and moved so that mean 0 and variance 1 stay (Klambauer et al., 2017)."""

    def _mask(self, x: Tensor) -> Tensor:
        return ones(x.shape, x.dtype)

    def _dropped(self, x: Tensor) -> Tensor:
        if self.p == 1:
            return x * 0.0
        kept = f.dropout(self._mask(x), self.p) * (1 - self.p)
        scale = ((1 - self.p) * (1 + self.p * _SATURATED**2)) ** -0.5
        return (x * kept + _SATURATED * (1 - kept)) * scale - scale * self.p * _SATURATED


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole channels of x[N, C, …]."""

    def _mask(self, x: Tensor) -> Tensor:
        return _one_a_channel(x, 2)
