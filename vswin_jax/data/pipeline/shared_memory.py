"""Anonymous shared memory, which the system frees when the last process unmaps it."""

import collections
import contextlib
import functools
import itertools
import logging
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from vswin_jax.errors import InputError

log = logging.getLogger("vswin_jax")

# A directory in memory, on Linux.
_MEMORY_FILES = "/dev/shm"
_CHUNK = 1 << 20


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
        self._lock = threading.Lock()  # of `_blocks`
        self._freed: collections.deque[int] = collections.deque()

    def empty(self, size: int) -> np.ndarray:
        """Return a new, uninitialised block of `size` bytes, uint8 [size]."""
        descriptor = _open_memory(size)
        memory = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
        with self._locked():
            block_id = next(self._ids)
            self._blocks[block_id] = _Block(descriptor, memory.ctypes.data, size)
        weakref.finalize(memory, self._free, block_id).atexit = False
        return memory

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            yield
        self._close_freed()

    def _free(self, block_id: int) -> None:
        self._freed.append(block_id)
        self._close_freed()

    def _close_freed(self) -> None:
        # The garbage collector may run a finalizer in a thread that holds the lock, which then
        # closes the block when it has released the lock.
        while self._freed and self._lock.acquire(blocking=False):
            try:
                while self._freed:
                    os.close(self._blocks.pop(self._freed.popleft()).descriptor)
            finally:
                self._lock.release()

    def locate(self, array: np.ndarray) -> BufferSlot:
        """Return the position of `array`, a view of a block."""
        address = array.ctypes.data
        with self._locked():
            # The newest first: since NumPy 2.5 an array unmaps its memory a moment before its
            # finalizer runs, and a new block may already have the same address.
            for block_id, block in reversed(self._blocks.items()):
                if block.address <= address < block.address + block.size:
                    offset = address - block.address
                    return BufferSlot(block_id, offset, array.shape, array.strides)
        raise ValueError("the array is not a view of a shared block")

    def block_ids(self) -> set[int]:
        """Return the numbers of the blocks that are in use."""
        with self._locked():
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


def _open_memory(size: int) -> int:
    """Return the descriptor of `size` bytes of memory, or of a file if there is none.

    Raises:
      InputError: no file can be that large.
    """
    # A memfd is limited by the machine's memory alone; /dev/shm has 64 MB in a container. Old
    # kernels and some sandboxes have none.
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return _resized(os.memfd_create("vswin_jax clips"), size)
    for directory in (_MEMORY_FILES, tempfile.gettempdir()):
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=directory) as file:
            _reserve(file, size)
            _log_directory(directory)
            return os.dup(file.fileno())
    raise InputError(
        f"Expected room for {size:,} bytes that the decoding processes share but neither "
        f"{_MEMORY_FILES} nor {tempfile.gettempdir()} has it: make room there, or decode in "
        f"threads with config.data.processes=0."
    )


def _resized(descriptor: int, size: int) -> int:
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _reserve(file: BinaryIO, size: int) -> None:
    """Allocate the blocks of a file.

    If a file of `ftruncate` alone finds its disk full later, a signal ends the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    # macOS lacks that function.
    for start in range(0, size, _CHUNK):
        file.write(bytes(min(_CHUNK, size - start)))
    file.flush()


@functools.cache
def _log_directory(directory: str) -> None:
    log.info("processes share clips in files in %s, for want of anonymous memory", directory)
