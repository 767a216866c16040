"""Normalizations, with PyTorch's arguments, parameter names and running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rung.core.errors import ShapeError
from rung.nn.module import Module, Parameter
from rung.tensor import functional as f
from rung.tensor.autograd import no_grad
from rung.tensor.creation import array, ones, zeros
from rung.tensor.dtypes import finfo
from rung.tensor.pools import local_response_norm
from rung.tensor.shapes import as_shape
from rung.tensor.tensor import Tensor


def _shape(given: int | Sequence[int]) -> tuple[int, ...]:
    return as_shape("normalized_shape", given)


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dims `normalized_shape`."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        shape = self.normalized_shape
        self.weight = Parameter(ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(zeros(shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Tensor:
        return f.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """x / sqrt(mean(x²) + eps) * weight over the last dims `normalized_shape`; eps None: the
    epsilon of the dtype of x."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = 1e-6,
        elementwise_affine: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        shape = self.normalized_shape
        self.weight = Parameter(ones(shape, dtype)) if elementwise_affine else None

    def forward(self, x: Any) -> Tensor:
        eps = finfo(x.dtype).eps if self.eps is None else self.eps
        return f.rms_norm(x, self.normalized_shape, self.weight, eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class GroupNorm(Module):
    """x[N, C, …] standardized within groups of channels, times weight[C], plus bias[C]."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ShapeError(
                f"GroupNorm: {num_channels} channels in {num_groups} groups",
                fix="the number of groups must divide the channels",
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.weight = Parameter(ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(zeros(num_channels, dtype)) if affine else None

    def forward(self, x: Any) -> Tensor:
        return f.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class _BatchNorm(Module):
    """x[N, C, …] standardized for each channel, times weight[C], plus bias[C].

    In training by the statistics of the batch, which are mixed into `running_mean` and
    `running_var` (weight `momentum`; None: the average of all batches); else by those."""

    ranks: ClassVar[tuple[int, ...]]
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = Parameter(ones(num_features, dtype)) if affine else None
        self.bias = Parameter(zeros(num_features, dtype)) if affine else None
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, dtype) if tracked else None)
        self.register_buffer("running_var", ones(num_features, dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", array(0) if tracked else None)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__}({self.num_features}): x is {x._type}",
                fix=f"x must be [N, {self.num_features}{', …' if max(self.ranks) > 2 else ''}] "
                f"with {' or '.join(map(str, self.ranks))} dims",
            )
        running = self.running_mean is not None
        learns = self.training and running
        momentum: Any = self.momentum
        if learns and self.num_batches_tracked is not None:
            with no_grad():
                self.num_batches_tracked.assign(self.num_batches_tracked + 1)
            if momentum is None:
                momentum = 1.0 / self.num_batches_tracked.astype(x.dtype)
        return f.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=learns or not running,
            momentum=momentum,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """Batch norm of x[N, C] or x[N, C, T]; see Ioffe and Szegedy, 2015."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch norm of x[N, C, H, W]; see Ioffe and Szegedy, 2015."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch norm of x[N, C, D, H, W]; see Ioffe and Szegedy, 2015."""

    ranks = (5,)


class _InstanceNorm(_BatchNorm):
    """x[N, C, …] standardized for each channel of each example, times weight[C], plus bias[C].

    With `track_running_stats` the means and variances of examples are mixed into `running_mean` and
    `running_var`, and evaluation goes by those. One example, [C, …], may come without a batch."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: object = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype)

    def forward(self, x: Tensor) -> Tensor:
        (rank,) = self.ranks
        if x.ndim not in (rank - 1, rank):
            raise ShapeError(
                f"{type(self).__name__}({self.num_features}): x is {x._type}",
                fix=f"x has {rank - 1} or {rank} dims",
            )
        if x.ndim == rank:
            return self._normalized(x)
        return self._normalized(x.expand_dims(0)).squeeze(0)

    def _normalized(self, x: Tensor) -> Tensor:
        return f.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.1 if self.momentum is None else self.momentum,
            self.eps,
        )


class InstanceNorm1d(_InstanceNorm):
    """Instance norm of x[N, C, T] or [C, T]; see Ulyanov et al., 2016."""

    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    """Instance norm of x[N, C, H, W] or [C, H, W]; see Ulyanov et al., 2016."""

    ranks = (4,)


class InstanceNorm3d(_InstanceNorm):
    """Instance norm of x[N, C, D, H, W] or [C, D, H, W]; see Ulyanov et al., 2016."""

    ranks = (5,)


class LocalResponseNorm(Module):
    """x / (k + alpha * mean of x² over `size` neighbouring channels)^beta for x[N, C, …]
    (Krizhevsky et al., 2012)."""

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Any) -> Tensor:
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
