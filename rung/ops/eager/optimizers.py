"""Updates of one parameter by SGD and Adam, in place in new arrays. The order of the operations is
that of the bodies, so the bits are too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rung.ir.op import Array, EagerKernel
from rung.ir.types import TensorType


def _alike(types: Sequence[TensorType]) -> bool:
    """Whether all are f32, or all f64, of one shape with dims."""
    first = types[0]
    return (
        first.dtype.is_float
        and first.dtype.bits >= 32
        and bool(first.shape)
        and all(t == first for t in types)
    )


def _gradient(g: Array, p: Array, maximize: bool, decay: Array | None) -> Array:
    """The gradient, turned round or with the decay added."""
    if maximize:
        g = np.negative(g)
    if decay is None:
        return g
    y: Array = p * decay
    return np.add(g, y, out=y)


def _moved(start: Array, end: Array, near: Array | None, far: Array) -> Array:
    """start + near (end - start), or end - far (end - start)."""
    y: Array = end - start
    if near is not None:
        y *= near
        return np.add(start, y, out=y)
    y *= far
    return np.subtract(end, y, out=y)


def adam(types: Sequence[TensorType], static: Mapping[str, Any]) -> EagerKernel | None:
    """grad, p, average, square, size of the step, root of the correction -> p, average, square."""
    if static["amsgrad"] or static["decoupled"] or not _alike(types[:4]):
        return None
    dtype = types[0].dtype.numpy
    beta1, beta2, maximize = static["beta1"], static["beta2"], bool(static["maximize"])
    near = np.array(1 - beta1, dtype) if 1 - beta1 < 0.5 else None
    far, keep, add, eps = (
        np.array(v, dtype) for v in (1 - (1 - beta1), beta2, 1 - beta2, static["eps"])
    )
    decay = np.array(static["weight_decay"], dtype) if static["weight_decay"] else None

    def kernel(
        g: Array, p: Array, average: Array, square: Array, step: Array, root: Array
    ) -> tuple[Array, ...]:
        if maximize or decay is not None:
            g = _gradient(g, p, maximize, decay)
        m = _moved(average, g, near, far)
        v: Array = square * keep
        y: Array = g * add
        y *= g
        v += y
        below = np.sqrt(v)
        below /= root.astype(dtype)
        below += eps
        np.multiply(m, np.negative(step).astype(dtype), out=y)
        y /= below
        y += p
        return y, m, v

    return kernel


def sgd(types: Sequence[TensorType], static: Mapping[str, Any]) -> EagerKernel | None:
    """grad, lr, count, p and perhaps a velocity -> p and that."""
    if static["dampening"] or not _alike((types[0], *types[3:])):
        return None
    dtype = types[0].dtype.numpy
    maximize, nesterov = bool(static["maximize"]), bool(static["nesterov"])
    momentum = np.array(static["momentum"], dtype)
    decay = np.array(static["weight_decay"], dtype) if static["weight_decay"] else None

    def kernel(
        g: Array, lr: Array, count: Array, p: Array, *buffers: Array
    ) -> Array | tuple[Array, ...]:
        if maximize or decay is not None:
            g = _gradient(g, p, maximize, decay)
        kept = []
        for buffer in buffers:
            velocity: Array = buffer * momentum
            velocity += g
            kept.append(velocity)
            g = g + velocity * momentum if nesterov else velocity
        y: Array = g * lr.astype(dtype)
        np.subtract(p, y, out=y)
        return (y, *kept) if kept else y

    return kernel
