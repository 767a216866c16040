"""How windows slide over dims: the arithmetic shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rung.core.errors import ShapeError
from rung.ir.expr import Expr, both, compare, iadd, ifloordiv, imod, imul
from rung.ir.op import Array
from rung.ir.types import Shape, TensorType

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """A window of `size` elements over one dim.

    The dim gets `base_dilation` - 1 zeros between its elements, then `padding` zeros (before,
    after; negative: that many elements are cut off). The elements of the window are `dilation`
    apart, and it moves on by `stride`."""

    size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    base_dilation: int = 1

    @property
    def span(self) -> int:
        """Distance from the first to the last element of the window."""
        return (self.size - 1) * self.dilation

    def num_places(self, length: int) -> int:
        """How often the window fits on a dim of `length`; < 1 if it does not."""
        return (self._last(length) + sum(self.padding) - self.span) // self.stride + 1

    def _last(self, length: int) -> int:
        """Position of the last element once the dim is dilated."""
        return (length - 1) * self.base_dilation

    def place(self, start: Expr, offset: Expr, length: int) -> tuple[Expr, Expr | None]:
        """Position in the dim of element `offset` of window number `start`, and when it is one."""
        low = -self.padding[0]
        wide = iadd(iadd(imul(start, self.stride), imul(offset, self.dilation)), low)
        inside = both(
            compare("greater_equal", wide, 0), compare("less_equal", wide, self._last(length))
        )
        if self.base_dilation == 1:
            return wide, inside
        whole = compare("equal", imod(wide, self.base_dilation), 0)
        return ifloordiv(wide, self.base_dilation), both(inside, whole)

    def adjoint(self, length: int) -> Window:
        """The window that, over the results, meets for each of the `length` elements all windows
        that hold it (last window element first)."""
        places = self.num_places(length)
        low = self.span - self.padding[0]
        high = self._last(length) + self.span - (places - 1) * self.stride - low
        return Window(self.size, self.base_dilation, (low, high), self.dilation, self.stride)

    def swapped(self, length: int) -> Window:
        """The window for which the number of places is the kernel: over the same dim, with results
        where this has elements."""
        places = self.num_places(length)
        low = self.padding[0]
        high = self.span + (places - 1) * self.stride - self._last(length) - low
        return Window(places, self.dilation, (low, high), self.stride, self.base_dilation)


def check_window(op: str, w: Window) -> None:
    """Raise ShapeError for a window that is empty or does not move on."""
    if min(w.size, w.stride, w.dilation, w.base_dilation) < 1:
        raise ShapeError(
            f"{op}: a window of {w.size} with stride {w.stride} and dilation {w.dilation}",
            fix="size, stride and dilation are at least 1",
        )


def check_windows(op: str, operand: str, x: TensorType, windows: Sequence[Window]) -> Shape:
    """How often each window fits on the last dims of x. Raises ShapeError where one does not."""
    first = x.rank - len(windows)
    if first < 0:
        raise ShapeError(f"{op}: {operand} {x} has no {len(windows)} dims for the windows")
    places = []
    for i, w in enumerate(windows):
        check_window(op, w)
        length = x.shape[first + i]
        count = w.num_places(length) if length else 0
        if count < 1:
            raise ShapeError(
                f"{op}: a window of {w.size} (dilation {w.dilation}) does not fit in dim "
                f"{first + i} of {operand} {x} with padding {w.padding}",
                fix="a smaller window or more padding",
            )
        places.append(count)
    return tuple(places)


def windows_of(
    op: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    base_dilation: Sequence[int],
) -> tuple[Window, ...]:
    """One window a dim. Raises ShapeError where the lists differ in length."""
    if len({len(sizes), len(strides), len(padding), len(dilation), len(base_dilation)}) != 1:
        raise ShapeError(
            f"{op}: strides {tuple(strides)}, padding {padding}, dilation {tuple(dilation)} and "
            f"base dilation {tuple(base_dilation)} for windows of {tuple(sizes)}",
            fix="one entry for each window dim; padding is a pair (before, after)",
        )
    return tuple(map(Window, sizes, strides, padding, dilation, base_dilation))


def places_of(
    windows: Sequence[Window], starts: Sequence[Expr], offsets: Sequence[Expr], lengths: Shape
) -> tuple[tuple[Expr, ...], Expr | None]:
    """Where elements `offsets` of windows number `starts` are, and when they are there at all."""
    index: list[Expr] = []
    guard: Expr | None = None
    for w, start, offset, n in zip(windows, starts, offsets, lengths, strict=True):
        place, inside = w.place(start, offset, n)
        index.append(place)
        guard = both(guard, inside)
    return tuple(index), guard


def each(
    value: int | Sequence[int], num_dims: int, what: str, least: int | None = None
) -> tuple[int, ...]:
    """A number for every dim (also as a list of one), or the list given. `what` it is, for errors.
    Raises ShapeError for another number of them, or one below `least`."""
    given = (value,) if isinstance(value, int) else tuple(value)
    found = given * num_dims if len(given) == 1 else given
    if least is not None and min(found, default=least) < least:
        raise ShapeError(f"{what}={value}", fix=f"give numbers of at least {least}")
    if len(found) != num_dims:
        raise ShapeError(
            f"{what}={found} for {num_dims} dims", fix=f"give one number, or {num_dims} of them"
        )
    return found


def pairs(padding: int | Sequence[int] | Pairs, num_dims: int) -> Pairs:
    """(before, after) for every dim, from a number, a number a dim, or pairs."""
    if isinstance(padding, int):
        return ((padding, padding),) * num_dims
    if len(padding) not in (1, num_dims):
        raise ShapeError(
            f"padding={tuple(padding)} for {num_dims} dims",
            fix=f"give one number, or {num_dims} of them",
        )
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding)


# ---- NumPy meaning: pad and dilate, then look at strided views


def spread_out(x: Array, windows: Sequence[Window], fill: float) -> Array:
    """x with its last dims dilated and padded by `fill`, as the windows see it."""
    lead = x.shape[: x.ndim - len(windows)]
    lengths = x.shape[x.ndim - len(windows) :]
    spans = [(n - 1) * w.base_dilation + 1 for n, w in zip(lengths, windows, strict=True)]
    around = [(max(a, 0), max(b, 0)) for a, b in (w.padding for w in windows)]
    shape = [a + n + b for n, (a, b) in zip(spans, around, strict=True)]
    whole = np.full((*lead, *shape), fill, x.dtype)
    every = (slice(None),) * len(lead)
    inner = tuple(
        slice(a, a + n, w.base_dilation)
        for n, (a, _), w in zip(spans, around, windows, strict=True)
    )
    whole[every + inner] = x
    cut = tuple(
        slice(max(-w.padding[0], 0), n - max(-w.padding[1], 0))
        for n, w in zip(shape, windows, strict=True)
    )
    return np.asarray(whole[every + cut])


def window_elements(
    x: Array, windows: Sequence[Window], fill: float
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """For each element of the window, its number and the array of it over all places."""
    lengths = x.shape[x.ndim - len(windows) :]
    places = [w.num_places(n) for w, n in zip(windows, lengths, strict=True)]
    whole = spread_out(x, windows, fill)
    every = (slice(None),) * (x.ndim - len(windows))
    for offset in np.ndindex(*(w.size for w in windows)):
        cut = tuple(
            slice(k * w.dilation, k * w.dilation + (p - 1) * w.stride + 1, w.stride)
            for k, w, p in zip(offset, windows, places, strict=True)
        )
        yield offset, np.asarray(whole[every + cut])
