"""Batches whose rows are filled in parallel, always in the same order.

tf.data fills them. Because TensorFlow takes seconds to import, threads of Python fill the first
batches, and so all batches of a short pass; the import begins with the second batch, while the
device works on the first one.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vswin_jax.data.pipeline.batch_builder import Batch, BatchBuilder, Fields
from vswin_jax.data.pipeline.buffer_pool import Allocator
from vswin_jax.data.pipeline.thread_filler import ThreadFiller
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.quiet_import import BackgroundImport

# The value of `tf.data.AUTOTUNE`.
AUTOTUNE = -1

_FILLER_MODULE = "vswin_jax.data.pipeline.tensorflow_filler"
# A pass of fewer batches is over before TensorFlow is imported.
_MIN_BATCHES = 64


def make_batches(
    load: Callable[[int, Batch], None],
    length: int,
    items_per_batch: int,
    fields: Fields,
    *,
    threads: int,
    prefetch: int,
    repeats: int = 1,
    allocators: Mapping[str, Allocator] | None = None,
) -> "BatchIterator":
    """Return batches of `items_per_batch` * `repeats` rows that `load` fills in parallel.

    `load(index, rows)` is called once for each item from 0 to `length`. `rows` holds, for each of
    the `fields`, the item's rows [repeats, ...] as views of the batch, so nothing is copied. A
    batch has the first rows of all its items, then the second rows. `allocators` replaces the
    allocator of some fields.
    """
    builder = BatchBuilder(load, fields, items_per_batch, repeats, allocators or {})
    return BatchIterator(builder, length, threads=threads, prefetch=prefetch)


class BatchIterator(Iterator[Batch]):
    """An iterator over the batches of `builder`, which has `length` items."""

    def __init__(self, builder: BatchBuilder, length: int, *, threads: int, prefetch: int) -> None:
        self._builder, self._length = builder, length
        self._threads, self._prefetch = threads, prefetch
        self._number = 0
        count = usable_cpus() if threads == AUTOTUNE else threads
        self._first = ThreadFiller(builder, length, threads=count, prefetch=prefetch)
        weakref.finalize(self, self._first.close)
        self._filler: Any = self._first
        self._import: BackgroundImport | None = None
        self._num_first: int | None = None  # batches that the threads fill, once that is known

    def __next__(self) -> Batch:
        if self._filler is None:
            raise StopIteration
        self._use_tensorflow()
        next(self._filler)
        self._number += 1
        try:
            return self._builder.take(self._number - 1)
        except Exception:
            self.close()
            raise

    def _use_tensorflow(self) -> None:
        """Import TensorFlow in the background, and hand the batches over to it when it is there."""
        if self._import is None:
            batches = self._length // self._builder.items_per_batch
            if self._number == 1 and batches >= _MIN_BATCHES:
                self._import = BackgroundImport(_FILLER_MODULE)
        elif self._num_first is None and self._import.module is not None:
            self._num_first = self._first.stop_early()
        if self._import is not None and self._number == self._num_first:
            self._filler = self._import.module.TensorflowFiller(
                self._builder,
                self._number * self._builder.items_per_batch,
                self._length,
                threads=self._threads,
                prefetch=self._prefetch,
            )

    def close(self) -> None:
        """Stop decoding; the iterator ends."""
        if self._filler is not None:
            self._filler.close()
        self._filler = None
