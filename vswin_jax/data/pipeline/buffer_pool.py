"""Arrays whose memory is used again when nothing refers to it any more.

A new large array costs more than it seems: the kernel clears its pages, and that alone takes a
tenth of the time in which a clip is decoded.
"""

import ctypes
import math
import threading
import weakref
from collections.abc import Callable

import numpy as np

NewMemory = Callable[[int], np.ndarray]


def new_memory(size: int) -> np.ndarray:
    """Memory of this process alone, uint8 [size]; it holds anything."""
    return np.empty(size, np.uint8)


class RecycledMemory:
    """Gives arrays of one shape and type, in memory uint8 [size] of `new`; threads may share it.

    An array and all views of it, JAX arrays that alias it included, keep its memory to themselves
    for as long as they live.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: type[np.generic],
        new: NewMemory = new_memory,
    ) -> None:
        self._new = new
        self._shape, self._dtype = shape, dtype
        self._bytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self) -> np.ndarray:
        """An array that holds anything."""
        with self._lock:
            memory = self._free.pop() if self._free else self._new(self._bytes)
        # NumPy lets a view refer to the owner of the memory and not to the array that it was taken
        # from. The owner is therefore no array, so that its end is the end of all views.
        owner = (ctypes.c_ubyte * self._bytes).from_buffer(memory)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return np.frombuffer(owner, self._dtype).reshape(self._shape)
