"""Memory: private anonymous mappings, and NumPy arrays whose large buffers are used again.

A fresh 64 MB array costs 10 ms of page faults at its first touch. Large buffers therefore go
back to a free list when the array that owns them dies, and come out again with their pages.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from rung.core.errors import AllocationError
from rung.ir.types import TensorType
from rung.runtime.forks import hold_at_fork

ALIGNMENT = 64
_HUGE_PAGE = 2 << 20
_POOLED_BYTES = 1 << 20  # smaller arrays come from NumPy's own allocator
_MADV_DONTFORK, _MADV_DOFORK, _MADV_HUGEPAGE = 10, 11, 14
_Byte = ctypes.c_char


class Block:
    """`nbytes` of zeroed private memory, 64-byte aligned (2 MiB when large), unmapped at death."""

    __slots__ = ("address", "data", "nbytes")

    def __init__(self, nbytes: int):
        large = nbytes >= 2 * _HUGE_PAGE
        slack = _HUGE_PAGE if large else 0
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            mapping = mmap.mmap(-1, max(nbytes, 1) + slack, flags=flags)
        except (OSError, OverflowError, ValueError):
            raise AllocationError(
                f"the system does not give {nbytes / 1e9:,.1f} GB of memory",
                fix="smaller batches, or a dtype of fewer bytes",
            ) from None
        whole = np.frombuffer(mapping, np.uint8)
        start = -whole.ctypes.data % _HUGE_PAGE if large else 0
        if large and hasattr(mapping, "madvise"):
            _advise_huge(mapping, start, nbytes // _HUGE_PAGE * _HUGE_PAGE)
            _note_large(mapping)
        self.data: npt.NDArray[np.uint8] = whole[start : start + nbytes]
        self.address: int = whole.ctypes.data + start
        self.nbytes = nbytes


def _advise_huge(mapping: mmap.mmap, start: int, nbytes: int) -> None:
    """Huge pages for these bytes; what is behind them has small ones, so that it takes no more
    memory than is used."""
    try:
        mapping.madvise(_MADV_HUGEPAGE, start, nbytes)
    except OSError:
        return  # a kernel without transparent huge pages


_large: dict[int, weakref.ref[mmap.mmap]] = {}
"""The mappings of all large blocks that are alive, by identity."""
_leaving_out = threading.RLock()
hold_at_fork(_leaving_out)


def _note_large(mapping: mmap.mmap) -> None:
    number = id(mapping)
    _large[number] = weakref.ref(mapping, lambda _: _large.pop(number, None))


@contextmanager
def large_blocks_left_out() -> Iterator[Sequence[mmap.mmap]]:
    """A child that this thread forks inside does not get the memory of large blocks; it must keep
    the mappings that this gives, and use none of them.

    Otherwise a fork copies page tables, and the next write of the parent to each page copies the
    page: 0.7 s for 1 GB of weights."""
    with _leaving_out:  # forks of other threads, whose children may read tensors, wait
        mappings = [m for m in (ref() for ref in list(_large.values())) if m is not None]
        for mapping in mappings:
            mapping.madvise(_MADV_DONTFORK)
        try:
            yield mappings
        finally:
            for mapping in mappings:
                mapping.madvise(_MADV_DOFORK)


class FreeList:
    """Blocks whose arrays have died, by size class; holds at most `limit_bytes`.

    Only list operations that are atomic in CPython are used, because a block may come back from
    a finalizer at any point, also inside these methods.
    """

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self._blocks: dict[int, list[Block]] = {}

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes`, used before or new."""
        size = size_class(nbytes)
        try:
            return self._blocks[size].pop()
        except (KeyError, IndexError):
            return Block(size)

    def give(self, block: Block) -> None:
        """Take a block back, or let it be unmapped when the list is full."""
        if self.held_bytes() + block.nbytes <= self.limit_bytes:
            self._blocks.setdefault(block.nbytes, []).append(block)

    def held_bytes(self) -> int:
        """Bytes that wait to be used again."""
        return sum(size * len(blocks) for size, blocks in list(self._blocks.items()))

    def clear(self) -> None:
        """Give all waiting memory back to the system."""
        self._blocks.clear()


def size_class(nbytes: int) -> int:
    """`nbytes` rounded up so that a block wastes at most an eighth: 8 classes per octave."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


free_list = FreeList(limit_bytes=256 << 20)


class Memory:
    """`nbytes` of uninitialized memory at `address`, on a 64-byte boundary. It is used again when
    this and all arrays over it have died."""

    __slots__ = ("_home", "_source", "address", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._home: FreeList | None = None
        if nbytes >= _POOLED_BYTES:
            block = free_list.take(nbytes)
            self._source: Block | npt.NDArray[np.uint8] = block
            self._home = free_list
            self.address = block.address
        else:
            raw = np.empty(nbytes + ALIGNMENT, np.uint8)
            start = ctypes.addressof(_Byte.from_buffer(raw))  # type: ignore[arg-type]
            self._source = raw
            self.address = start + -start % ALIGNMENT

    @property
    def __array_interface__(self) -> dict[str, object]:
        return {
            "version": 3,
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (self.address, False),
        }

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """The memory, which it fills, as a C-contiguous array; made anew at each call."""
        return np.asarray(self).view(dtype).reshape(shape)

    def __del__(self) -> None:
        if self._home is not None:
            self._home.give(self._source)  # type: ignore[arg-type]


def aligned_empty(shape: int | Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """An uninitialized C-contiguous array whose data starts on a 64-byte boundary.

    Its memory is used again when the array and all views of it have died.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    kind = np.dtype(dtype)
    return Memory(math.prod(sizes) * kind.itemsize).array(sizes, kind)


def array_at(address: int, type: TensorType) -> npt.NDArray[np.generic]:
    """The dense row-major array of `type` in the memory at `address`, which the caller keeps."""
    if not type.nbytes:
        return np.empty(type.shape, type.dtype.numpy)
    memory = memoryview((ctypes.c_char * type.nbytes).from_address(address))
    found: npt.NDArray[np.generic] = np.frombuffer(memory, type.dtype.numpy, type.size)
    return found.reshape(type.shape)
