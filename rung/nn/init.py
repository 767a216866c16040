"""Initial values for parameters. Each function fills a tensor in place and returns it.

Numbers are drawn on the host by NumPy's Philox generator, keyed by the next key of a
`rung.random` generator (the global one unless given): nothing has to be compiled for values that
are needed once, and the same seed gives the same model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from rung.core.arguments import above, at_least, host_arrays
from rung.core.errors import ArgumentError, RungError, ShapeError
from rung.ops.random import below
from rung.tensor.creation import array
from rung.tensor.random import Source, check_span, draw_key
from rung.tensor.tensor import Tensor

Array = np.ndarray[Any, Any]


def host_generator(generator: Source = None) -> np.random.Generator:
    """A NumPy generator keyed by the next key of `generator`."""
    key = np.asarray(draw_key(generator))
    if key.shape != (2,) or key.dtype.kind not in "iu":
        raise ArgumentError("generator is no key", fix="give a rung.Generator or random.key(seed)")
    words = key.astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([words[0], words[1]], np.uint64)))


_FURTHEST: Final = 16
"""No draw in f32 is as many standard deviations away."""


def _fill(tensor: Tensor, values: Array) -> Tensor:
    tensor.assign(array(values, dtype=tensor.dtype))
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """All zeros."""
    return _fill(tensor, np.zeros(tensor.shape, np.float32))


def ones_(tensor: Tensor) -> Tensor:
    """All ones."""
    return _fill(tensor, np.ones(tensor.shape, np.float32))


def constant_(tensor: Tensor, value: float) -> Tensor:
    """All `value`."""
    return _fill(tensor, np.full(tensor.shape, value, np.float64))


def eye_(tensor: Tensor) -> Tensor:
    """A matrix with ones on the diagonal. Raises ShapeError unless there are two dims."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: {tensor._type} is no matrix")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def uniform_(
    tensor: Tensor, low: float = 0.0, high: float = 1.0, generator: Source = None
) -> Tensor:
    """Evenly spread over [low, high)."""
    check_span("uniform_", low, high, tensor.dtype)
    with host_arrays("uniform_"):
        unit = host_generator(generator).random(tensor.shape, np.float32)
    kind = tensor.dtype.numpy
    spread = (unit * np.float32(high - low) + np.float32(low)).astype(kind)
    return _fill(tensor, np.minimum(spread, kind.type(below(low, high, tensor.dtype))))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Source = None
) -> Tensor:
    """Normally distributed."""
    at_least("normal_", 0, std=std)
    check_span("normal_", mean - _FURTHEST * std, mean + _FURTHEST * std, tensor.dtype)
    with host_arrays("normal_"):
        drawn = host_generator(generator).standard_normal(tensor.shape, np.float32)
    return _fill(tensor, drawn * np.float32(std) + np.float32(mean))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    generator: Source = None,
) -> Tensor:
    """Normally distributed within [low, high] (absolute bounds): what falls outside is drawn
    again. Raises RungError for bounds that leave next to nothing."""
    above("trunc_normal_", 0, std=std)
    check_span("trunc_normal_", low, high, tensor.dtype)
    check_span("trunc_normal_", mean - std, mean + std, tensor.dtype)
    a, b = (low - mean) / std, (high - mean) / std
    inside = 0.5 * (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2)))
    if inside < 0.01:
        raise RungError(f"trunc_normal_: [{low}, {high}] holds {inside:.1%} of the numbers")
    rng = host_generator(generator)
    drawn = rng.standard_normal(tensor.shape, np.float32).reshape(-1)
    while (outside := np.flatnonzero((drawn < a) | (drawn > b))).size:
        drawn[outside] = rng.standard_normal(outside.size, np.float32)
    return _fill(tensor, drawn.reshape(tensor.shape) * np.float32(std) + np.float32(mean))


def calculate_fan(tensor: Tensor) -> tuple[int, int]:
    """(inputs, outputs) that an element is connected with, for weight[O, I, …]."""
    if tensor.ndim < 2:
        raise ShapeError(f"fan of {tensor._type}", fix="a weight needs at least two dims")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def calculate_gain(nonlinearity: str, slope: float = 0.01) -> float:
    """The factor that keeps the variance through a nonlinearity (PyTorch's table)."""
    gains: dict[str, Callable[[], float]] = {
        "linear": lambda: 1.0,
        "sigmoid": lambda: 1.0,
        "tanh": lambda: 5 / 3,
        "relu": lambda: math.sqrt(2.0),
        "leaky_relu": lambda: math.sqrt(2 / (1 + slope * slope)),
        "selu": lambda: 0.75,
    }
    if nonlinearity not in gains:
        raise RungError(f"nonlinearity {nonlinearity!r}", fix=f"one of {', '.join(gains)}")
    return gains[nonlinearity]()


def _kaiming_std(tensor: Tensor, slope: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise RungError(f"kaiming: mode={mode!r}", fix='"fan_in" or "fan_out"')
    fan = calculate_fan(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, slope) / math.sqrt(max(fan, 1))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Source = None,
) -> Tensor:
    """Evenly spread with variance gain² / fan (He et al., 2015); `a`: slope of the leaky relu."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Source = None,
) -> Tensor:
    """Normally distributed with variance gain² / fan (He et al., 2015)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Source = None) -> Tensor:
    """Evenly spread with variance 2 gain² / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6.0 / max(sum(calculate_fan(tensor)), 1))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Source = None) -> Tensor:
    """Normally distributed with variance 2 gain² / (fan_in + fan_out)."""
    return normal_(
        tensor, 0.0, gain * math.sqrt(2.0 / max(sum(calculate_fan(tensor)), 1)), generator
    )


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Source = None) -> Tensor:
    """gain times a matrix (dims after the first as one) with orthonormal rows or columns,
    whichever are fewer (Saxe et al., 2013)."""
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: {tensor._type} is no matrix")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    drawn = host_generator(generator).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    laid = q if rows >= columns else q.T
    return _fill(tensor, gain * laid.reshape(tensor.shape))
