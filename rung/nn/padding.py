"""Modules that put more around a tensor: `padding` is one number, or (before, after) of the last
dim, then of the one before it, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rung.core.errors import ShapeError
from rung.nn.module import Module
from rung.tensor.resample import pad
from rung.tensor.tensor import Tensor

Size = int | Sequence[int]


class _Pad(Module):
    num_dims: ClassVar[int]
    mode: ClassVar[str] = "constant"

    def __init__(self, padding: Size) -> None:
        super().__init__()
        count = 2 * self.num_dims
        self.padding = (padding,) * count if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != count:
            raise ShapeError(
                f"{type(self).__name__}: padding={self.padding}", fix=f"give {count} numbers"
            )

    def forward(self, x: Any) -> Tensor:
        return pad(x, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_Pad):
    """`value` around the last dim."""

    num_dims = 1

    def __init__(self, padding: Size, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, x: Any) -> Tensor:
        return pad(x, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}, value={self.value}"


class ConstantPad2d(ConstantPad1d):
    """`value` around the last two dims."""

    num_dims = 2


class ConstantPad3d(ConstantPad1d):
    """`value` around the last three dims."""

    num_dims = 3


class ZeroPad1d(_Pad):
    """Zeros around the last dim."""

    num_dims = 1


class ZeroPad2d(_Pad):
    """Zeros around the last two dims."""

    num_dims = 2


class ZeroPad3d(_Pad):
    """Zeros around the last three dims."""

    num_dims = 3


class ReflectionPad1d(_Pad):
    """The last dim mirrored at its outer elements."""

    num_dims = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """The last two dims mirrored at their outer elements."""

    num_dims = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """The last three dims mirrored at their outer elements."""

    num_dims = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """The outer elements repeated around the last dim."""

    num_dims = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """The outer elements repeated around the last two dims."""

    num_dims = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """The outer elements repeated around the last three dims."""

    num_dims = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """The elements of the other end around the last dim."""

    num_dims = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """The elements of the other ends around the last two dims."""

    num_dims = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """The elements of the other ends around the last three dims."""

    num_dims = 3
    mode = "circular"
