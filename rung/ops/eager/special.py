"""The error function and the normal distribution function by rational functions.

Both are x P(x²) / Q(x²) on the interval outside of which they are 1 in f32, fitted for this module:
that of `erf` to 2^-29 relative to its value, computed in f64; that of the distribution function to
2^-26, computed in f32, which is wrong by less than 2.5 · 2^-23. Large arrays go block by block, so
that what is between stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.ir.op import Array, Attrs, EagerRule
from rung.ir.types import TensorType
from rung.ops.eager.elementwise import Kernel, as_array, is_narrow

Types = Sequence[TensorType]
BLOCK: Final = 16384
"""Elements that are worked on at a time."""
_FEW: Final = 48
"""Up to so many elements Python's own function is faster."""


@dataclass(frozen=True)
class Rational:
    """x P(x²) / Q(x²) + `middle` for x held within ±`end`; coefficients from the highest power."""

    above: tuple[Any, ...]
    below: tuple[Any, ...]
    end: Any
    middle: Any

    def into(self, out: Array, x: Array, buffers: Array) -> None:
        """The values at x into `out`, with four `buffers` of the size of x."""
        held, square, p, q = buffers
        np.minimum(np.maximum(x, -self.end, out=held, casting="unsafe"), self.end, out=held)
        np.multiply(held, held, out=square)
        np.multiply(square, self.above[0], out=p)
        np.multiply(square, self.below[0], out=q)
        for c in self.above[1:-1]:
            p += c
            p *= square
        for c in self.below[1:-1]:
            q += c
            q *= square
        p += self.above[-1]
        q += self.below[-1]
        p *= held
        p /= q
        np.add(p, self.middle, out=out, casting="unsafe")


def _rational(dtype: Any, above: Sequence[float], below: Sequence[float], end: float, middle: float
) -> Rational:
    """With coefficients that are arrays without dims, which NumPy need not convert."""
    p, q = (tuple(np.array(c, dtype) for c in cs) for cs in (above, below))
    return Rational(p, q, np.array(end, dtype), np.array(middle, dtype))


ERF: Final = _rational(
    np.float64,
    (-1.2897165893513827e-08, 4.6273665561316105e-06, 0.00037744344033030063,
     0.0038414083967303735, 0.054261959116173375, 0.185155667867796, 1.1283791691990184),
    (6.256956249269263e-05, 0.0013030044928446908, 0.015438048293158148, 0.11389570109142966,
     0.49742334627407864, 1.0),
    3.937, 0.0,
)  # fmt: skip
NORMAL: Final = _rational(
    np.float32,
    (2.2144998091929303e-08, 6.356488777387611e-06, 0.00017385111243874146,
     0.004707262449738075, 0.03437619729841194, 0.39894222158118275),
    (1.180199323327742e-06, 7.510178153218504e-05, 0.001912981235979188, 0.02894013266680338,
     0.2528340614625667, 1.0),
    5.6, 0.5,
)  # fmt: skip


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


def by_rational(exact: Callable[[Array], Array], rational: Rational) -> EagerRule:
    """The rule of a function that has a rational form for f32; `exact` serves for few elements and
    for f64."""
    dtype, slow = rational.end.dtype, as_array(exact)

    def kernel(x: Array) -> Array:
        return in_blocks(x, dtype, 4, rational.into)

    def rule(attrs: Attrs, ins: Types, outs: Types) -> Kernel | None:
        if is_narrow(ins[0]):
            return None
        few = outs[0].size <= _FEW
        return slow if few or ins[0].dtype is not dt.float32 else kernel

    return rule


