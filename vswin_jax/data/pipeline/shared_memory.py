"""Memory that this process shares with others: without a name, gone with the last who maps it."""

import itertools
import mmap
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where an array lies, for a process that maps the block of that number."""

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
    """Blocks of memory, each mapped here for as long as an array refers to it.

    Blocks are numbered, and no number is used twice. Threads may share one.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def empty(self, size: int) -> np.ndarray:
        """A new block of `size` bytes, uint8 [size]; it holds anything."""
        descriptor = _open_memory()
        os.ftruncate(descriptor, size)
        memory = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
        with self._lock:
            number = next(self._numbers)
            self._blocks[number] = _Block(descriptor, memory.ctypes.data, size)
        weakref.finalize(memory, self._forget, number).atexit = False
        return memory

    def _forget(self, number: int) -> None:
        with self._lock:
            os.close(self._blocks.pop(number).descriptor)

    def place(self, array: np.ndarray) -> Place:
        """Where `array`, a view of a block, lies."""
        address = array.ctypes.data
        with self._lock:
            for number, block in self._blocks.items():
                if block.address <= address < block.address + block.size:
                    return Place(number, address - block.address, array.shape, array.strides)
        raise ValueError("the array lies in no shared block")

    def numbers(self) -> set[int]:
        """The blocks that there are."""
        with self._lock:
            return set(self._blocks)

    def descriptor(self, number: int) -> int:
        """The open file of a block, to be mapped by others."""
        return self._blocks[number].descriptor


def map_block(descriptor: int) -> mmap.mmap:
    """The block behind the descriptor that another process sent, which is closed."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def array_at(place: Place, block: mmap.mmap) -> np.ndarray:
    """The uint8 array at `place`, whose block is `block`."""
    return np.ndarray(place.shape, np.uint8, block, place.offset, place.strides)


def _open_memory() -> int:
    # Unlike /dev/shm, of which a container has 64 MB, this is limited by the memory alone.
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vswin_jax clips")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
