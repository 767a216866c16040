"""Convolutions and their transposes, with PyTorch's arguments and parameter shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rung.core.errors import ShapeError
from rung.nn.linear import torch_init_
from rung.nn.module import Module, Parameter
from rung.ops.window import each
from rung.tensor import functional as f
from rung.tensor.creation import empty
from rung.tensor.tensor import Tensor

Size = int | Sequence[int]


class _Conv(Module):
    """What the convolutions share. weight is [O, I / groups, K…], or [I, O / groups, K…] for a
    transposed one."""

    num_dims: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"{type(self).__name__}: {groups} groups for {in_channels} -> {out_channels}",
                fix="groups must divide both numbers of channels",
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = each(kernel_size, self.num_dims)
        self.stride = each(stride, self.num_dims)
        self.padding = padding if isinstance(padding, str) else each(padding, self.num_dims)
        self.dilation = each(dilation, self.num_dims)
        self.groups = groups
        channels = (out_channels, in_channels // groups)
        if self.transposed:
            channels = (in_channels, out_channels // groups)
        self.weight = Parameter(empty((*channels, *self.kernel_size), dtype))
        self.bias = Parameter(empty(out_channels, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        torch_init_(self.weight, self.bias)

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        plain: dict[str, Any] = {
            "stride": each(1, self.num_dims),
            "padding": each(0, self.num_dims),
        }
        plain |= {"dilation": each(1, self.num_dims), "groups": 1}
        for name, value in self._options().items():
            if value != plain[name]:
                text += f", {name}={value}"
        return text + ("" if self.bias is not None else ", bias=False")


class Conv1d(_Conv):
    """x[N, I, T] -> [N, O, T']."""

    num_dims = 1

    def forward(self, x: Any) -> Tensor:
        return f.conv1d(x, self.weight, self.bias, **self._options())


class Conv2d(_Conv):
    """x[N, I, H, W] -> [N, O, H', W']. `padding` may be "same" or "valid"."""

    num_dims = 2

    def forward(self, x: Any) -> Tensor:
        return f.conv2d(x, self.weight, self.bias, **self._options())


class _ConvTranspose(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        dtype: object = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype
        )
        self.output_padding = each(output_padding, self.num_dims)

    def forward(self, x: Any) -> Tensor:
        function = f.conv_transpose1d if self.num_dims == 1 else f.conv_transpose2d
        more = self.output_padding
        return function(x, self.weight, self.bias, output_padding=more, **self._options())


class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`: x[N, I, T] -> [N, O, T']; weight[I, O / groups, K]."""

    num_dims = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`: x[N, I, H, W] -> [N, O, H', W']; weight[I, O / groups, K, L]."""

    num_dims = 2
