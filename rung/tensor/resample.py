"""Functions of images that move pixels: padding, resizing, windows side by side.

Names, arguments and defaults are those of `torch.nn.functional`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rung.core.arguments import between, check_lengths
from rung.core.errors import RungError, ShapeError
from rung.ops.window import each
from rung.tensor.creation import eye
from rung.tensor.functional import conv_transpose2d, floats
from rung.tensor.operate import Operand, as_tensor
from rung.tensor.pools import adaptive_mean
from rung.tensor.precision import rounded_once
from rung.tensor.shapes import moveaxis, permute_dims, reshape, stack
from rung.tensor.shapes import pad as pad_constant
from rung.tensor.sorting import take

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

Size = int | Sequence[int]
Array = np.ndarray[Any, Any]
_NUMPY_MODES: Final = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
_RANKS: Final = {
    "nearest": (1, 2, 3), "nearest-exact": (1, 2, 3), "area": (1, 2, 3), "linear": (1,),
    "bilinear": (2,), "trilinear": (3,), "bicubic": (2,),
}  # fmt: skip
_SMOOTH: Final = ("linear", "bilinear", "trilinear", "bicubic")


def pad(x: Operand, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """x with more around it: `pad` is (before, after) of the last dim, then of the one before it, …

    "constant": `value` (negative numbers cut off); "reflect": mirrored at the outer elements;
    "replicate": the outer elements; "circular": those of the other end."""
    x = as_tensor(x)
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ShapeError(f"pad: {tuple(pad)} for {x._type}", fix="give two numbers a dim")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    first = x.ndim - len(pairs)
    wide = (n + max(a, 0) + max(b, 0) for n, (a, b) in zip(x.shape[first:], pairs, strict=True))
    check_lengths("pad", (*x.shape[:first], *wide))
    if mode == "constant":
        return pad_constant(x, [(0, 0)] * first + pairs, value)
    if mode not in _NUMPY_MODES:
        names = ", ".join(f'"{n}"' for n in ("constant", *_NUMPY_MODES))
        raise RungError(f"pad: mode={mode!r}", fix=f"give one of {names}")
    for dim, widths in enumerate(pairs, first):
        if widths != (0, 0):
            x = take(x, _sources(x, dim, widths, mode), dim)
    return x


def _sources(x: Tensor, dim: int, widths: tuple[int, int], mode: str) -> Array:
    """The position that each element of the padded dim comes from."""
    n = x.shape[dim]
    limit = {"reflect": n - 1, "circular": n}.get(mode, math.inf)
    if max(widths) > limit or not n:
        raise ShapeError(f"pad: {widths} around dim {dim} of {x._type}", fix=f"at most {limit}")
    low, high = widths
    around = (max(low, 0), max(high, 0))
    if mode == "circular":  # what is cut off is not there to come in at the other end
        kept = np.arange(max(-low, 0), n - max(-high, 0))
        return np.pad(kept, around, mode="wrap")
    found: Array = np.pad(np.arange(n), around, mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return found[max(-low, 0) : len(found) - max(-high, 0)]


# ---- resizing


@rounded_once
def interpolate(
    x: Operand,
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Tensor:
    """x[N, C, …] with its dims after the channels `size` long, or `scale_factor` times as long.

    `mode`: "nearest" (positions rounded down), "nearest-exact", "area" (means), "linear" (one dim),
    "bilinear", "bicubic" (two), "trilinear". `align_corners`: the outer elements keep their
    places. Each dim is one product with a matrix of weights, or a look-up."""
    x = floats(x)
    rank = x.ndim - 2
    _check_interpolate(x, size, scale_factor, mode, align_corners)
    lengths = x.shape[2:]
    if size is not None:
        sizes, factors = each(size, rank, "size", 1), [None] * rank
    else:
        given: Any = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * rank
        if len(given) != rank:
            raise ShapeError(f"interpolate: {len(given)} factors for {rank} dims")
        given = [float(s) for s in given]
        for one in given:
            between("interpolate", 0, 1 << 40, scale_factor=one)
        sizes = tuple(math.floor(n * s) for n, s in zip(lengths, given, strict=True))
        factors = [None] * rank if recompute_scale_factor else list(given)
    if min(sizes, default=1) < 1 or min(x.shape[2:], default=1) < 1:
        raise ShapeError(f"interpolate: {x._type} to {list(sizes)}", fix="give positive lengths")
    check_lengths("interpolate", (*x.shape[:2], *sizes))
    for dim, (count, factor) in enumerate(zip(sizes, factors, strict=True), 2):
        x = _resized(x, dim, count, factor, mode, bool(align_corners))
    return x


def _check_interpolate(x: Tensor, size: Any, factor: Any, mode: str, corners: bool | None) -> None:
    if mode not in _RANKS:
        names = ", ".join(f'"{n}"' for n in _RANKS)
        raise RungError(f"interpolate: mode={mode!r}", fix=f"give one of {names}")
    if x.ndim - 2 not in _RANKS[mode]:
        raise ShapeError(f"interpolate: {mode} of {x._type}", fix="x is [N, C, …]")
    if (size is None) == (factor is None):
        raise RungError("interpolate: size and scale_factor", fix="give one of the two")
    if corners is not None and mode not in _SMOOTH:
        raise RungError(f"interpolate: align_corners with {mode}", fix="leave it out")


def _resized(
    x: Tensor, dim: int, count: int, factor: float | None, mode: str, corners: bool
) -> Tensor:
    length = x.shape[dim]
    if mode == "area":
        return adaptive_mean(x, dim, count)
    scale = length / count if factor is None else 1 / factor
    if mode.startswith("nearest"):
        return take(x, _nearest(length, count, scale, mode), dim)
    if corners:
        scale = (length - 1) / (count - 1) if count > 1 else 0.0
    source = np.arange(count) * scale
    if not corners:
        source = source + 0.5 * scale - 0.5
    weights = _cubic(source, length) if mode == "bicubic" else _linear(source, length)
    return moveaxis(moveaxis(x, dim, -1) @ as_tensor(weights, x.dtype), -1, dim)


def _nearest(length: int, count: int, scale: float, mode: str) -> Array:
    """Source positions, which PyTorch computes in f32."""
    shift = np.float32(0.5 if mode == "nearest-exact" else 0)
    at = np.floor((np.arange(count, dtype=np.float32) + shift) * np.float32(scale))
    return np.minimum(at.astype(np.int64), length - 1)


def _linear(source: Array, length: int) -> Array:
    """Weights [L, count] of the two neighbours of each source position."""
    source = np.maximum(source, 0.0)
    low = np.minimum(np.floor(source).astype(np.int64), length - 1)
    part = source - low
    return _spread([low, np.minimum(low + 1, length - 1)], [1 - part, part], length)


def _cubic(source: Array, length: int) -> Array:
    """Weights [L, count] of the four neighbours: Keys' kernel with a = -0.75."""
    a = -0.75
    low = np.floor(source).astype(np.int64)
    t = source - low
    weights = []
    for distance in (t + 1, t, 1 - t, 2 - t):
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        weights.append(np.where(distance <= 1, near, far))
    at = [np.clip(low + k, 0, length - 1) for k in (-1, 0, 1, 2)]
    return _spread(at, weights, length)


def _spread(at: Sequence[Array], weights: Sequence[Array], length: int) -> Array:
    matrix = np.zeros((length, len(at[0])))
    for rows, values in zip(at, weights, strict=True):
        np.add.at(matrix, (rows, np.arange(len(rows))), values)
    return matrix


# ---- channels to pixels


def pixel_shuffle(x: Operand, upscale_factor: int) -> Tensor:
    """[…, C r², H, W] -> […, C, H r, W r]  (Shi et al., 2016)."""
    x, r = as_tensor(x), upscale_factor
    if x.ndim < 3 or r < 1 or x.shape[-3] % r**2:
        raise ShapeError(f"pixel_shuffle: {x._type} by {r}", fix=f"channels divide by {r**2}")
    *lead, channels, height, width = x.shape
    split = reshape(x, (*lead, channels // r**2, r, r, height, width))
    n = len(lead)
    moved = permute_dims(split, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return reshape(moved, (*lead, channels // r**2, height * r, width * r))


def pixel_unshuffle(x: Operand, downscale_factor: int) -> Tensor:
    """[…, C, H r, W r] -> […, C r², H, W]: the inverse of `pixel_shuffle`."""
    x, r = as_tensor(x), downscale_factor
    if x.ndim < 3 or r < 1 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"pixel_unshuffle: {x._type} by {r}", fix=f"height, width divide by {r}")
    *lead, channels, height, width = x.shape
    split = reshape(x, (*lead, channels, height // r, r, width // r, r))
    n = len(lead)
    moved = permute_dims(split, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return reshape(moved, (*lead, channels * r**2, height // r, width // r))


def channel_shuffle(x: Operand, groups: int) -> Tensor:
    """x[N, C, …] with channel i of group g as channel g of group i."""
    x = as_tensor(x)
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ShapeError(f"channel_shuffle: {x._type} in {groups} groups")
    split = reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return reshape(permute_dims(split, (0, 2, 1, *range(3, split.ndim))), x.shape)


# ---- windows side by side


def unfold(
    x: Operand,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Tensor:
    """The windows of x[N, C, H, W] as columns, [N, C * K * L, places]; also of [C, H, W]."""
    x = as_tensor(x)
    if x.ndim == 3:
        return unfold(x[None], kernel_size, dilation, padding, stride)[0]
    if x.ndim != 4:
        raise ShapeError(f"unfold: x is {x._type}", fix="x must be [N, C, H, W] or [C, H, W]")
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = _both(kernel_size, dilation, padding, stride)
    rows, columns = _places(x.shape[-2:], kernel_size, dilation, padding, stride)
    wide = pad(x, (pw, pw, ph, ph))
    found = [
        wide[:, :, i * dh : i * dh + (rows - 1) * sh + 1 : sh,
             j * dw : j * dw + (columns - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]  # fmt: skip
    joined = stack(found, 2)
    return reshape(joined, (x.shape[0], x.shape[1] * kh * kw, rows * columns))


def _both(kernel_size: Size, dilation: Size, padding: Size, stride: Size) -> list[tuple[int, ...]]:
    """Each of them for both dims."""
    names = ("kernel_size", "dilation", "padding", "stride")
    given = (kernel_size, dilation, padding, stride)
    return [each(v, 2, n, int(n != "padding")) for n, v in zip(names, given, strict=True)]


def _places(
    lengths: Sequence[int], kernel_size: Size, dilation: Size, padding: Size, stride: Size
) -> tuple[int, int]:
    given = _both(kernel_size, dilation, padding, stride)
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(lengths, *given, strict=True)
    )
    if rows < 1 or columns < 1:
        raise ShapeError(
            f"unfold: a window of {kernel_size} does not fit {tuple(lengths)}",
            fix="a smaller window or more padding",
        )
    return rows, columns


def fold(
    x: Operand,
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Tensor:
    """The transpose of `unfold`: columns [N, C * K * L, places] added up in [N, C, H, W], which is
    a transposed convolution by windows with a single 1; also of [C * K * L, places]."""
    x = floats(x)
    if x.ndim == 2:
        return fold(x[None], output_size, kernel_size, dilation, padding, stride)[0]
    sizes, (kh, kw) = each(output_size, 2, "output_size", 1), each(kernel_size, 2, "kernel_size", 1)
    rows, columns = _places(sizes, kernel_size, dilation, padding, stride)
    num_columns = kh * kw
    if x.ndim != 3 or x.shape[1] % num_columns or x.shape[2] != rows * columns:
        raise ShapeError(
            f"fold: x is {x._type}", fix=f"x must be [N, C * {num_columns}, {rows * columns}]"
        )
    n, channels = x.shape[0], x.shape[1] // num_columns
    images = reshape(x, (n * channels, num_columns, rows, columns))
    ones = reshape(eye(num_columns, dtype=x.dtype), (num_columns, 1, kh, kw))
    given = _both(kernel_size, dilation, padding, stride)
    more = tuple(
        size - ((count - 1) * step - 2 * around + apart * (k - 1) + 1)
        for size, count, k, apart, around, step in zip(sizes, (rows, columns), *given, strict=True)
    )
    summed = conv_transpose2d(images, ones, None, stride, padding, more, 1, dilation)
    return reshape(summed, (n, channels, *sizes))
