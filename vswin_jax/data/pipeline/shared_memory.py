"""Anonymous shared memory, which the system frees when the last process unmaps it."""

import itertools
import mmap
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BufferSlot:
    """The position of a uint8 array within the block numbered `block`, for other processes."""

    block: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Block:
    descriptor: int
    address: int
    size: int


class SharedMemory:
    """Allocates blocks of shared memory; a block stays mapped while an array refers to it.

    Blocks are numbered, and no number is reused. Threads may share an instance.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._ids = itertools.count()
        self._lock = threading.Lock()

    def empty(self, size: int) -> np.ndarray:
        """Return a new, uninitialised block of `size` bytes, uint8 [size]."""
        descriptor = _open_memory()
        os.ftruncate(descriptor, size)
        memory = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
        with self._lock:
            block_id = next(self._ids)
            self._blocks[block_id] = _Block(descriptor, memory.ctypes.data, size)
        weakref.finalize(memory, self._close_block, block_id).atexit = False
        return memory

    def _close_block(self, block_id: int) -> None:
        with self._lock:
            os.close(self._blocks.pop(block_id).descriptor)

    def locate(self, array: np.ndarray) -> BufferSlot:
        """Return the position of `array`, a view of a block."""
        address = array.ctypes.data
        with self._lock:
            for block_id, block in self._blocks.items():
                if block.address <= address < block.address + block.size:
                    offset = address - block.address
                    return BufferSlot(block_id, offset, array.shape, array.strides)
        raise ValueError("the array is not a view of a shared block")

    def block_ids(self) -> set[int]:
        """Return the numbers of the blocks that are in use."""
        with self._lock:
            return set(self._blocks)

    def descriptor(self, block_id: int) -> int:
        """Return the file descriptor of a block, which other processes can map."""
        return self._blocks[block_id].descriptor


def map_block(descriptor: int) -> mmap.mmap:
    """Map the block whose descriptor another process sent; the descriptor is closed."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def array_at(slot: BufferSlot, block: mmap.mmap) -> np.ndarray:
    """Return the uint8 array at `slot` of the mapped `block`."""
    return np.ndarray(slot.shape, np.uint8, block, slot.offset, slot.strides)


def _open_memory() -> int:
    # A memfd is limited by the machine's memory alone; /dev/shm has 64 MB in a container.
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vswin_jax clips")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
