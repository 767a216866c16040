"""Convolutions and their transposes, with PyTorch's arguments and parameter shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rung.core.errors import RungError, ShapeError
from rung.nn.linear import torch_init_
from rung.nn.module import Module, Parameter
from rung.ops.window import each
from rung.tensor import functional as f
from rung.tensor.creation import empty
from rung.tensor.operate import as_tensor
from rung.tensor.resample import pad
from rung.tensor.tensor import Tensor

Size = int | Sequence[int]
PADDING_MODES: Final = ("zeros", "reflect", "replicate", "circular")


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
        padding_mode: str = "zeros",
        dtype: object = None,
    ) -> None:
        super().__init__()
        if padding_mode not in PADDING_MODES or (self.transposed and padding_mode != "zeros"):
            raise RungError(
                f"{type(self).__name__}: padding_mode={padding_mode!r}",
                fix='give "zeros"' + ("" if self.transposed else f" or one of {PADDING_MODES[1:]}"),
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"{type(self).__name__}: {groups} groups for {in_channels} -> {out_channels}",
                fix="groups must divide both numbers of channels",
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = each(kernel_size, self.num_dims, "kernel_size")
        self.stride = each(stride, self.num_dims, "stride")
        self.padding = (
            padding if isinstance(padding, str) else each(padding, self.num_dims, "padding")
        )
        self.dilation = each(dilation, self.num_dims, "dilation")
        self.groups = groups
        self.padding_mode = padding_mode
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

    def _convolved(self, function: Callable[..., Tensor], x: Any) -> Tensor:
        options = self._options()
        if self.padding_mode != "zeros":
            x = pad(x, self._widths(), self.padding_mode)
            options["padding"] = 0
        return function(x, self.weight, self.bias, **options)

    def _widths(self) -> list[int]:
        """What is put around the dims, the last one first."""
        found: list[int] = []
        for d in reversed(range(self.num_dims)):
            if isinstance(self.padding, str):
                whole = self.dilation[d] * (self.kernel_size[d] - 1)
                whole = whole if self.padding == "same" else 0
                found += [whole // 2, whole - whole // 2]
            else:
                found += [self.padding[d]] * 2
        return found

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        plain: dict[str, Any] = {
            "stride": (1,) * self.num_dims,
            "padding": (0,) * self.num_dims,
        }
        plain |= {"dilation": (1,) * self.num_dims, "groups": 1}
        for name, value in self._options().items():
            if value != plain[name]:
                text += f", {name}={value}"
        return text + ("" if self.bias is not None else ", bias=False")


class Conv1d(_Conv):
    """x[N, I, T] -> [N, O, T']."""

    num_dims = 1

    def forward(self, x: Any) -> Tensor:
        return self._convolved(f.conv1d, x)


class Conv2d(_Conv):
    """x[N, I, H, W] -> [N, O, H', W']. `padding` may be "same" or "valid"."""

    num_dims = 2

    def forward(self, x: Any) -> Tensor:
        return self._convolved(f.conv2d, x)


class Conv3d(_Conv):
    """x[N, I, D, H, W] -> [N, O, D', H', W']. `padding` may be "same" or "valid"."""

    num_dims = 3

    def forward(self, x: Any) -> Tensor:
        return self._convolved(f.conv3d, x)


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
        padding_mode: str = "zeros",
        dtype: object = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            dtype,
        )
        self.output_padding = each(output_padding, self.num_dims, "output_padding")

    def forward(self, x: Any, output_size: Sequence[int] | None = None) -> Tensor:
        more = self.output_padding
        if output_size is not None:
            more = self._padding_for(x, tuple(output_size)[-self.num_dims :])
        options = self._options() | {"output_padding": more}
        return f.conv_transpose2d(x, self.weight, self.bias, **options)

    def _padding_for(self, x: Any, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The `output_padding` with which the result has the lengths `wanted`."""
        x = as_tensor(x)
        if x.ndim < self.num_dims or len(wanted) != self.num_dims:
            raise ShapeError(
                f"{type(self).__name__}: output_size={wanted} for x {x._type}",
                fix=f"give {self.num_dims} lengths",
            )
        lengths = x.shape[-self.num_dims :]
        around: Any = self.padding
        options = zip(lengths, self.stride, around, self.dilation, self.kernel_size, strict=True)
        least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in options]
        found = tuple(w - n for w, n in zip(wanted, least, strict=True))
        if any(not 0 <= m < s for m, s in zip(found, self.stride, strict=True)):
            raise ShapeError(
                f"{type(self).__name__}: output_size={wanted} for x {x._type}",
                fix=f"from {least}, less than a stride longer",
            )
        return found


class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`: x[N, I, T] -> [N, O, T']; weight[I, O / groups, K]."""

    num_dims = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`: x[N, I, H, W] -> [N, O, H', W']; weight[I, O / groups, K, L]."""

    num_dims = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of `Conv3d`: x[N, I, D, H, W] -> [N, O, D', H', W'];
    weight[I, O / groups, J, K, L]."""

    num_dims = 3
