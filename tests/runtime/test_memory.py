"""Aligned arrays and the list of buffers that are used again."""

import gc
import math
import time

import numpy as np
import pytest

from rung.runtime.memory import Block, FreeList, Memory, aligned_empty, free_list, size_class

BIG = (1024, 1024)  # 4 MiB of f32


@pytest.mark.parametrize("shape", [(), 0, 7, (3, 5), (0, 4), BIG, (1025, 1023)])
@pytest.mark.parametrize("dtype", ["f4", "u1", "?", "f8"])
def test_arrays_are_aligned_writable_and_of_the_right_kind(shape, dtype):
    array = aligned_empty(shape, dtype)
    assert array.shape == np.empty(shape, dtype).shape
    assert array.dtype == np.dtype(dtype)
    assert array.size == 0 or array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous
    assert array.flags.writeable
    array[...] = 1
    assert (array == 1).all()


@pytest.mark.parametrize("shape", [(), (3, 5), BIG])
def test_memory_tells_the_address(shape):
    memory = Memory(4 * math.prod(shape))
    array = memory.array(shape, np.dtype("f4"))
    assert array.ctypes.data == memory.address
    assert array.shape == shape


def test_buffer_comes_back_when_the_array_dies():
    free_list.clear()
    array = aligned_empty(BIG, "f4")
    address = array.ctypes.data
    array[:] = 3
    del array
    again = aligned_empty(BIG, "f4")
    assert again.ctypes.data == address
    assert (again == 3).all()  # the same pages, not fresh ones


def test_buffer_stays_while_a_view_lives():
    free_list.clear()
    array = aligned_empty(BIG, "f4")
    address = array.ctypes.data
    view = array[10:20].T.reshape(-1)[::2].view("u4")[5:]
    kept = array[10:20, ::2]
    del array
    gc.collect()
    other = aligned_empty(BIG, "f4")
    assert other.ctypes.data != address
    del kept, view
    gc.collect()
    third = aligned_empty(BIG, "f4")
    assert third.ctypes.data == address


def test_buffer_stays_while_another_library_holds_it():
    free_list.clear()
    array = aligned_empty(BIG, "f4")
    address = array.ctypes.data
    held = memoryview(array)
    del array
    assert aligned_empty(BIG, "f4").ctypes.data != address
    held.release()
    assert address in (aligned_empty(BIG, "f4").ctypes.data for _ in range(1))


def test_list_holds_no_more_than_its_limit():
    home = FreeList(limit_bytes=10 << 20)
    blocks = [home.take(4 << 20) for _ in range(4)]
    for block in blocks:
        home.give(block)
    assert home.held_bytes() <= 10 << 20
    assert home.held_bytes() == 2 * (4 << 20)
    home.clear()
    assert home.held_bytes() == 0


@pytest.mark.parametrize("nbytes", [1, 4096, 4097, 1 << 20, (1 << 20) + 1, 123_456_789])
def test_size_classes_waste_little(nbytes):
    size = size_class(nbytes)
    assert nbytes <= size <= max(nbytes * 9 / 8, nbytes + 4096)
    assert size_class(size) == size


def test_blocks_start_as_zeros():
    for nbytes in (0, 64, 5000, 9 << 20):
        block = Block(nbytes)
        assert block.data.nbytes == block.nbytes == nbytes
        assert block.address % 64 == 0
        assert not block.data.any()
    assert Block(9 << 20).address % (2 << 20) == 0


def test_used_pages_are_faster_than_fresh_ones():
    shape = 16 << 20
    free_list.clear()

    def seconds() -> float:
        start = time.perf_counter()
        aligned_empty(shape, "u1")[::4096] = 1
        return time.perf_counter() - start

    seconds()
    again = min(seconds() for _ in range(5))
    start = time.perf_counter()
    np.empty(shape, "u1")[::4096] = 1
    fresh = time.perf_counter() - start
    assert again < fresh
