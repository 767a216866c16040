"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.core.errors import RungError
from rung.nn.module import Module
from rung.tensor import functional as f
from rung.tensor.tensor import Tensor

Size = int | Sequence[int]


class MaxPool2d(Module):
    """Maxima of windows of x[N, C, H, W]; `stride` is the window unless given."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def forward(self, x: Any) -> Tensor:
        return f.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(Module):
    """Means of windows of x[N, C, H, W]; `stride` is the window unless given."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Tensor:
        return f.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """The mean over height and width, kept as dims of length 1: x[N, C, H, W] -> [N, C, 1, 1]."""

    def __init__(self, output_size: Size = 1) -> None:
        super().__init__()
        if output_size not in (1, (1, 1), [1, 1]):
            raise RungError(
                f"AdaptiveAvgPool2d: output_size={output_size!r}",
                fix="only 1 is known; use AvgPool2d for windows of a fixed size",
            )

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1), keepdims=True)

    def extra_repr(self) -> str:
        return "1"
