"""A pool of arrays whose memory is reused once nothing refers to it.

Allocating a large array is expensive: the kernel zeroes its pages on first use, which takes a tenth
of the time that decoding a clip takes.
"""

import ctypes
import math
import threading
import weakref
from collections.abc import Callable

import numpy as np

# Returns uninitialised memory of a size in bytes, uint8 [size].
Allocator = Callable[[int], np.ndarray]


def allocate(size: int) -> np.ndarray:
    """Return uninitialised memory that is private to this process, uint8 [size]."""
    return np.empty(size, np.uint8)


class BufferPool:
    """Arrays of one shape and dtype in memory of `allocator`; threads may share a pool.

    The memory of an array is reused only after the array and all views of it, JAX arrays that
    alias it included, have been garbage-collected.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: type[np.generic],
        allocator: Allocator = allocate,
    ) -> None:
        self._allocator = allocator
        self._shape, self._dtype = shape, dtype
        self._bytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self) -> np.ndarray:
        """Return an uninitialised array."""
        with self._lock:
            memory = self._free.pop() if self._free else self._allocator(self._bytes)
        # The base of a NumPy view is the object that owns the memory, not the array that the view
        # was taken from. The owner here is a ctypes buffer, because a finalizer on an array would
        # run while views of it are still alive.
        owner = (ctypes.c_ubyte * self._bytes).from_buffer(memory)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return np.frombuffer(owner, self._dtype).reshape(self._shape)
