"""The error function and the normal distribution function.

For x within ±4 erf(x) is x P(x²) / Q(x²), in f64; the fit is right to 2^-29. The distribution
function is made of its tail, exp(-x²/2) times a polynomial of 1 / (1 + s |x|) (Hastings,
Approximations for digital computers, 1955), in f32: its error is below 2^-22. Large arrays go
block by block, so that what is between stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array, Attrs, EagerKernel, EagerRule
from rung.ir.types import TensorType
from rung.ops.eager.elementwise import as_array, is_narrow

Types = Sequence[TensorType]
BLOCK: Final = 32768
"""Elements that are worked on at a time."""
_FEW: Final = 48
"""Up to so many elements Python's own function is faster."""


def _numbers(dtype: Any, *values: float) -> tuple[Array, ...]:
    """Arrays without dims, which NumPy need not convert."""
    return tuple(np.array(v, dtype) for v in values)


# from the highest power
_ABOVE: Final = _numbers(
    np.float64,
    -1.2897165893513827e-08, 4.6273665561316105e-06, 0.00037744344033030063,
    0.0038414083967303735, 0.054261959116173375, 0.185155667867796, 1.1283791691990184,
)  # fmt: skip
_BELOW: Final = _numbers(
    np.float64,
    6.256956249269263e-05, 0.0013030044928446908, 0.015438048293158148, 0.11389570109142966,
    0.49742334627407864, 1.0,
)  # fmt: skip
_END: Final = 3.937
_TAIL: Final = _numbers(
    np.float32,
    -0.10191485528773628, 0.37384078603194904, -0.21075078674170084, 0.24757570773868293,
    0.07610909203479146, 0.11514008742644909,
)  # fmt: skip
_BITS: Final = np.dtype(np.uint32)
_SIGN: Final = np.array(1 << 31, _BITS)
_SCALE, _ONE, _HALF, _MINUS_HALF = _numbers(np.float32, 0.28, 1.0, 0.5, -0.5)


def erf_into(out: Array, x: Array, buffers: Array) -> None:
    """erf(x) into `out`, with four f64 `buffers` of the size of x."""
    held, square, p, q = buffers
    np.minimum(np.maximum(x, -_END, out=held), _END, out=held)
    np.multiply(held, held, out=square)
    np.multiply(square, _ABOVE[0], out=p)
    np.multiply(square, _BELOW[0], out=q)
    for c in _ABOVE[1:-1]:
        p += c
        p *= square
    for c in _BELOW[1:-1]:
        q += c
        q *= square
    p += _ABOVE[-1]
    q += _BELOW[-1]
    p *= held
    np.divide(p, q, out=out)


def normal_into(out: Array, x: Array, buffers: Array) -> None:
    """The normal distribution function of x into `out`, with two f32 `buffers` of its size."""
    size, t = buffers
    np.absolute(x, out=size)
    np.multiply(size, _SCALE, out=t)
    t += _ONE
    np.reciprocal(t, out=t)
    np.multiply(t, _TAIL[0], out=out)
    for c in _TAIL[1:]:
        out += c
        out *= t
    size *= size
    size *= _MINUS_HALF
    np.exp(size, out=size)
    out *= size
    np.subtract(_HALF, out, out=out)
    np.bitwise_and(x.view(_BITS), _SIGN, out=t.view(_BITS))
    np.bitwise_or(out.view(_BITS), t.view(_BITS), out=out.view(_BITS))
    out += _HALF


def in_blocks(
    x: Array, dtype: np.dtype[Any], num_buffers: int, body: Callable[[Array, Array, Array], None]
) -> Array:
    """A new f32 array of the shape of x made by `body(out, x, buffers)` on blocks of elements, with
    buffers of `dtype` of the size of the block."""
    flat = x.reshape(-1)
    n = flat.size
    out = np.empty(n, x.dtype)
    buffers = np.empty((num_buffers, min(n, BLOCK)), dtype)
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        body(out[begin:end], flat[begin:end], buffers[:, : end - begin])
    return out.reshape(x.shape)


def by_blocks(
    exact: Callable[[Array], Array],
    dtype: np.dtype[Any],
    num_buffers: int,
    body: Callable[[Array, Array, Array], None],
) -> EagerRule:
    """The rule of a function that `body` computes for f32, with buffers of `dtype`; `exact` serves
    for few elements and for f64."""
    slow = as_array(exact)

    def kernel(x: Array) -> Array:
        return in_blocks(x, dtype, num_buffers, body)

    def rule(attrs: Attrs, ins: Types, outs: Types) -> EagerKernel | None:
        if is_narrow(ins[0]):
            return None
        few = outs[0].size <= _FEW
        return slow if few or ins[0].dtype is not dt.float32 else kernel

    return rule


def erf_rule(exact: Callable[[Array], Array]) -> EagerRule:
    """The rule of `erf`."""
    return by_blocks(exact, dt.float64.numpy, 4, erf_into)


def normal_rule(exact: Callable[[Array], Array]) -> EagerRule:
    """The rule of `normal_cdf`."""
    return by_blocks(exact, dt.float32.numpy, 2, normal_into)
