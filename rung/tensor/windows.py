"""Window functions of signal processing, under the names of `torch.signal.windows`.

M points; `sym` ends where it began, otherwise the window is one period (of M + 1 points without the
last). f32 unless `dtype` says otherwise; computed in f64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rung.core import dtype as dt
from rung.core.errors import RungError
from rung.tensor import elementwise as e
from rung.tensor.creation import arange
from rung.tensor.operate import cast_to
from rung.tensor.special import i0

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def _places(name: str, M: int, sym: bool) -> tuple[Tensor, int]:
    """0 … M - 1 in f64, and the number of steps from the begin to the end of the window."""
    if M < 0:
        raise RungError(f"{name}: M={M}", fix="give a number of points, 0 or more")
    return arange(M, dtype=dt.float64), max(M - 1 if sym else M, 1)


def _made(window: Tensor, M: int, dtype: object) -> Tensor:
    """The window in its dtype; of one point it is 1."""
    found = window * 0 + 1 if M == 1 else window
    return cast_to(found, dt.float32 if dtype is None else dt.as_dtype(dtype))


def general_cosine(
    M: int, *, a: Sequence[float], sym: bool = True, dtype: object = None
) -> Tensor:
    """Σ (-1)^k a[k] cos(2 pi k n / N).

    >>> import rung
    >>> rung.windows.general_cosine(3, a=[0.5, 0.5]).tolist()
    [0.0, 1.0, 0.0]
    """
    n, steps = _places("general_cosine", M, sym)
    found = n * 0
    for k, factor in enumerate(a):
        found = found + (-1) ** k * factor * e.cos(n * (2 * math.pi * k / steps))
    return _made(found, M, dtype)


def general_hamming(
    M: int, *, alpha: float = 0.54, sym: bool = True, dtype: object = None
) -> Tensor:
    """alpha - (1 - alpha) cos(2 pi n / N)."""
    return general_cosine(M, a=[alpha, 1 - alpha], sym=sym, dtype=dtype)


def hamming(M: int, *, sym: bool = True, dtype: object = None) -> Tensor:
    """Hamming's window: `general_hamming` of 0.54."""
    return general_hamming(M, alpha=0.54, sym=sym, dtype=dtype)


def hann(M: int, *, sym: bool = True, dtype: object = None) -> Tensor:
    """Hann's window: `general_hamming` of 0.5."""
    return general_hamming(M, alpha=0.5, sym=sym, dtype=dtype)


def blackman(M: int, *, sym: bool = True, dtype: object = None) -> Tensor:
    """Blackman's window: cosines of 0.42, 0.5, 0.08."""
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, dtype=dtype)


def nuttall(M: int, *, sym: bool = True, dtype: object = None) -> Tensor:
    """Nuttall's window of four cosines with the least side lobes."""
    return general_cosine(M, a=[0.3635819, 0.4891775, 0.1365995, 0.0106411], sym=sym, dtype=dtype)


def bartlett(M: int, *, sym: bool = True, dtype: object = None) -> Tensor:
    """A triangle from 0 to 0: 1 - |2 n / N - 1|."""
    n, steps = _places("bartlett", M, sym)
    return _made(1 - e.abs(n * (2 / steps) - 1), M, dtype)


def cosine(M: int, *, sym: bool = True, dtype: object = None) -> Tensor:
    """sin(pi (n + 1/2) / points)."""
    n, steps = _places("cosine", M, sym)
    points = steps + 1 if M > 1 else 1
    return _made(e.sin((n + 0.5) * (math.pi / points)), M, dtype)


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: object = None
) -> Tensor:
    """exp(-|n - center| / tau); the center is the middle unless given."""
    if tau <= 0:
        raise RungError(f"exponential: tau={tau}", fix="give a positive number")
    n, steps = _places("exponential", M, sym)
    middle = (steps if M > 1 else 0) / 2 if center is None else center
    return _made(e.exp(-e.abs(n - middle) / tau), M, dtype)


def gaussian(M: int, *, std: float = 1.0, sym: bool = True, dtype: object = None) -> Tensor:
    """exp(-(n - middle)² / (2 std²))."""
    if std <= 0:
        raise RungError(f"gaussian: std={std}", fix="give a positive number")
    n, steps = _places("gaussian", M, sym)
    return _made(e.exp(e.square((n - steps / 2) / std) * -0.5), M, dtype)


def kaiser(M: int, *, beta: float = 12.0, sym: bool = True, dtype: object = None) -> Tensor:
    """I0(beta sqrt(1 - (2 n / N - 1)²)) / I0(beta)."""
    if beta < 0:
        raise RungError(f"kaiser: beta={beta}", fix="give a number that is not negative")
    n, steps = _places("kaiser", M, sym)
    inside = e.maximum(1 - e.square(n * (2 / steps) - 1), 0.0)
    return _made(i0(beta * e.sqrt(inside)) / i0(n * 0 + beta), M, dtype)
