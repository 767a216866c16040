"""Dropout of elements, of channels, and the kinds that keep mean and variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rung.core.errors import RungError
from rung.nn.module import Module
from rung.tensor import dropouts
from rung.tensor import functional as f
from rung.tensor.tensor import Tensor


class _Dropout(Module):
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise RungError(f"{type(self).__name__}: p={p}", fix="give a probability from 0 to 1")
        self.p = p

    def forward(self, x: Any) -> Any:
        if self.p == 0 or not self.training:
            return x
        return type(self).function(x, self.p, True)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """In training, each element 0 with probability p, else divided by 1 - p; else x itself."""

    function = f.dropout


class Dropout1d(_Dropout):
    """In training, whole channels of x[N, C, T] 0 with probability p, else divided by 1 - p
    (Tompson et al., 2015)."""

    function = dropouts.dropout1d


class Dropout2d(_Dropout):
    """In training, whole channels of x[N, C, H, W] 0 with probability p, else divided by 1 - p."""

    function = dropouts.dropout2d


class Dropout3d(_Dropout):
    """In training, whole channels of x[N, C, D, H, W] 0 with probability p, else divided by
    1 - p."""

    function = dropouts.dropout3d


class AlphaDropout(_Dropout):
    """In training, each element what SELU tends to at the left with probability p; all are scaled
    and moved so that mean 0 and variance 1 stay (Klambauer et al., 2017)."""

    function = dropouts.alpha_dropout


class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels of x[N, C, …]."""

    function = dropouts.feature_alpha_dropout
