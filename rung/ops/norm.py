"""Roots of sums of squares, right over the whole range of the dtype.

The square of 1e30 is infinite in f32, and that of 1e-30 is 0. So the squares are summed as they are
and, by the same loop, scaled down and up by a power of two, which changes no digit; of the sums the
one counts that neither overflows nor loses terms (Blue, A portable Fortran program to find the
Euclidean norm of a vector, 1978). Ordinary values get the bits of the plain sum.
"""

from __future__ import annotations

from typing import Final

from rung.core import dtype as dt
from rung.ir.node import Value
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.composite import composite_with_jvp
from rung.ops.elementwise import clip, divide, equal, isinf, less, multiply, plus, subtract, where
from rung.ops.shorthand import averaged, number, require_float, times
from rung.ops.transcendental import rsqrt, sqrt, square

SCALE: Final = {dt.float32: 2.0**100, dt.float64: 2.0**600}
LEAST: Final = {dt.float32: 2.0**-100, dt.float64: 2.0**-900}
"""A sum of squares below this may have lost terms."""


def _norm_jvp(x: Value, y: Value, dx: Value, *, dims: tuple[int, ...]) -> Value:
    """Σ x dx / y, and 0 where y is 0."""
    zero = equal(y, number(0, y))
    length = spread(where(zero, number(1, y), y), dims, x.shape)
    return reduce_sum(multiply(divide(x, length), dx), dims=dims)


@composite_with_jvp(_norm_jvp)
def euclidean_norm(x: Value, *, dims: tuple[int, ...]) -> Value:
    """sqrt(Σ x²) over `dims`, x being f32 or f64. Its derivative is 0 where it is 0."""
    require_float("euclidean_norm", "x", x)
    scale = SCALE[x.dtype]
    plain = reduce_sum(square(x), dims=dims)
    large = reduce_sum(square(times(x, 1 / scale)), dims=dims)
    small = reduce_sum(square(times(clip(x, -1.0, 1.0), scale)), dims=dims)
    is_large, is_small = isinf(plain), less(plain, number(LEAST[x.dtype], plain))
    total = where(is_large, large, where(is_small, small, plain))
    one = number(1, plain)
    factor = where(is_large, times(one, scale), where(is_small, times(one, 1 / scale), one))
    nothing = equal(total, number(0, total))
    root = multiply(sqrt(where(nothing, one, total)), factor)
    return where(nothing, number(0, root), root)


def _normalized_jvp(
    x: Value, y: Value, dx: Value, *, dims: tuple[int, ...], eps: float, overflows: bool
) -> Value:
    """(dx - y mean(y dx)) / sqrt(mean(x²) + eps)."""
    mean = spread(averaged(multiply(y, dx), dims), dims, x.shape)
    root = spread(_inverse_root(x, dims, eps, overflows), dims, x.shape)
    return multiply(subtract(dx, multiply(y, mean)), root)


@composite_with_jvp(_normalized_jvp)
def normalized(
    x: Value, *, dims: tuple[int, ...], eps: float, overflows: bool = True
) -> Value:
    """x / sqrt(mean(x²) + eps) over `dims`, x being f32 or f64. `overflows`: squares of x can, as
    those of an f16 in f32 can not."""
    require_float("normalized", "x", x)
    return multiply(x, spread(_inverse_root(x, dims, eps, overflows), dims, x.shape))


def _inverse_root(c: Value, dims: tuple[int, ...], eps: float, overflows: bool) -> Value:
    mean = averaged(square(c), dims)
    total = plus(mean, eps)
    if not overflows:
        return rsqrt(total)
    scale = SCALE[c.dtype]
    large = averaged(square(times(c, 1 / scale)), dims)
    is_large, one = isinf(mean), number(1, mean)
    root = rsqrt(where(is_large, large, total))
    return multiply(root, where(is_large, times(one, 1 / scale), one))

