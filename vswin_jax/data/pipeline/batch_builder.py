"""Batches in memory, whose rows several threads fill."""

import threading
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from vswin_jax.data.pipeline.buffer_pool import Allocator, BufferPool, allocate

Batch = dict[str, np.ndarray]
# The dtype and the shape of every key of a row.
Fields = dict[str, tuple[type[np.generic], tuple[int, ...]]]

# Clips are decoded in parallel, so OpenCV must not start threads of its own for each of them.
cv2.setNumThreads(1)


class BatchBuilder:
    """The batches whose rows are being filled, by number, and the exceptions raised, by item.

    `load(index, rows)` fills the rows of an item, as views of its batch.
    """

    def __init__(
        self,
        load: Callable[[int, Batch], None],
        fields: Fields,
        items_per_batch: int,
        repeats: int,
        allocators: Mapping[str, Allocator],
    ) -> None:
        self.failures: dict[int, Exception] = {}
        self.items_per_batch = items_per_batch
        self._load = load
        self._batches: dict[int, Batch] = {}
        count = items_per_batch * repeats
        self._pools = {
            key: BufferPool((count, *shape), dtype, allocators.get(key, allocate))
            for key, (dtype, shape) in fields.items()
        }
        self._lock = threading.Lock()

    def fill(self, index: int) -> bool:
        """Fill the rows of an item; return False if that failed."""
        try:
            self._load(index, self._rows(index))
        except Exception as error:
            # If it were raised here, TensorFlow would log a traceback and keep only the text.
            self.failures[index] = error
        return index not in self.failures

    def _rows(self, index: int) -> Batch:
        number, row = divmod(index, self.items_per_batch)
        with self._lock:
            if number not in self._batches:
                self._batches[number] = {key: pool.empty() for key, pool in self._pools.items()}
            batch = self._batches[number]
        return {key: values[row :: self.items_per_batch] for key, values in batch.items()}

    def take(self, number: int) -> Batch:
        """Remove and return batch `number`, whose items are all done.

        Raises:
          Exception: what was raised for the first of its items that failed.
        """
        batch = self._batches.pop(number)
        failed = min(self.failures, default=None)
        if failed is not None and failed // self.items_per_batch <= number:
            raise self.failures[failed]
        return batch
