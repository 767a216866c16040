"""Pooling, over windows or to a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rung.nn.module import Module
from rung.tensor import pools
from rung.tensor.tensor import Tensor

Size = int | Sequence[int]
Target = int | None | Sequence[int | None]
Function = Callable[..., Any]


class _MaxPool(Module):
    function: ClassVar[Function]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, x: Any) -> Any:
        return type(self).function(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool1d(_MaxPool):
    """Maxima of windows of x[N, C, T]; `stride` is the window unless given."""

    function = pools.max_pool1d


class MaxPool2d(_MaxPool):
    """Maxima of windows of x[N, C, H, W]; `stride` is the window unless given."""

    function = pools.max_pool2d


class MaxPool3d(_MaxPool):
    """Maxima of windows of x[N, C, D, H, W]; `stride` is the window unless given."""

    function = pools.max_pool3d


class _MaxUnpool(Module):
    function: ClassVar[Function]

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, x: Any, indices: Any, output_size: Sequence[int] | None = None) -> Tensor:
        return type(self).function(  # type: ignore[no-any-return]
            x, indices, self.kernel_size, self.stride, self.padding, output_size
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Zeros with x[N, C, T] at the places that `MaxPool1d` gave with `return_indices`."""

    function = pools.max_unpool1d


class MaxUnpool2d(_MaxUnpool):
    """Zeros with x[N, C, H, W] at the places that `MaxPool2d` gave with `return_indices`."""

    function = pools.max_unpool2d


class MaxUnpool3d(_MaxUnpool):
    """Zeros with x[N, C, D, H, W] at the places that `MaxPool3d` gave with `return_indices`."""

    function = pools.max_unpool3d


class _AvgPool(Module):
    function: ClassVar[Function]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Any) -> Tensor:
        return type(self).function(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """Means of windows of x[N, C, T]; `stride` is the window unless given."""

    function = pools.avg_pool1d


class AvgPool2d(_AvgPool):
    """Means of windows of x[N, C, H, W]; `stride` is the window unless given."""

    function = pools.avg_pool2d


class AvgPool3d(_AvgPool):
    """Means of windows of x[N, C, D, H, W]; `stride` is the window unless given."""

    function = pools.avg_pool3d


class _LPPool(Module):
    function: ClassVar[Function]

    def __init__(
        self,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.ceil_mode = ceil_mode

    def forward(self, x: Any) -> Tensor:
        return type(self).function(
            x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}"


class LPPool1d(_LPPool):
    """(Σ x^norm_type)^(1 / norm_type) of windows of x[N, C, T]."""

    function = pools.lp_pool1d


class LPPool2d(_LPPool):
    """(Σ x^norm_type)^(1 / norm_type) of windows of x[N, C, H, W]."""

    function = pools.lp_pool2d


class LPPool3d(_LPPool):
    """(Σ x^norm_type)^(1 / norm_type) of windows of x[N, C, D, H, W]."""

    function = pools.lp_pool3d


class _Adaptive(Module):
    function: ClassVar[Function]

    def __init__(self, output_size: Target = 1) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Any) -> Tensor:
        return type(self).function(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """Means of `output_size` windows of nearly equal length: [N, C, T] -> [N, C, output_size]."""

    function = pools.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_Adaptive):
    """Means of windows of nearly equal size: x[N, C, H, W] -> [N, C, *output_size]."""

    function = pools.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_Adaptive):
    """Means of windows of nearly equal size: x[N, C, D, H, W] -> [N, C, *output_size]."""

    function = pools.adaptive_avg_pool3d


class AdaptiveMaxPool1d(_Adaptive):
    """Maxima of `output_size` windows of nearly equal length: [N, C, T] -> [N, C, output_size]."""

    function = pools.adaptive_max_pool1d


class AdaptiveMaxPool2d(_Adaptive):
    """Maxima of windows of nearly equal size: x[N, C, H, W] -> [N, C, *output_size]."""

    function = pools.adaptive_max_pool2d


class AdaptiveMaxPool3d(_Adaptive):
    """Maxima of windows of nearly equal size: x[N, C, D, H, W] -> [N, C, *output_size]."""

    function = pools.adaptive_max_pool3d
