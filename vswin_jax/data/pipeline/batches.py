"""Batches whose rows tf.data fills in parallel, always in the same order.

TensorFlow only runs the threads here; GPUs are hidden from it, so that it takes no GPU memory.
"""

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping

import cv2
import numpy as np
import tensorflow as tf

from vswin_jax.data.pipeline.buffer_pool import Allocator, BufferPool, allocate
from vswin_jax.runtime.cpu_count import available_cores, usable_cpus

AUTOTUNE: int = tf.data.AUTOTUNE
Batch = dict[str, np.ndarray]
# The dtype and the shape of every key of a row.
Fields = dict[str, tuple[type[np.generic], tuple[int, ...]]]

tf.config.set_visible_devices([], "GPU")
# Clips are decoded in parallel, so OpenCV must not start threads of its own for each of them.
cv2.setNumThreads(1)


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
    builder = _BatchBuilder(load, fields, items_per_batch, repeats, allocators or {})
    is_filled = _map_in_order(builder, length, threads)
    dataset = is_filled.batch(items_per_batch).prefetch(prefetch)
    return BatchIterator(dataset.with_options(_thread_options(threads)), builder)


def _thread_options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    if threads != AUTOTUNE:
        # tf.data's default pool has one thread for each core, and blocked threads count too.
        options.threading.private_threadpool_size = threads
    elif usable_cpus() < available_cores():
        # TensorFlow does not know the CPU quota of a container.
        options.threading.private_threadpool_size = usable_cpus()
    return options


def _map_in_order(builder: "_BatchBuilder", length: int, threads: int) -> tf.data.Dataset:
    """Return a data set that fills the items of `builder` and yields True for each success."""
    # TensorFlow keeps every function that it was given, and all that the function refers to, until
    # the process ends. With a weak reference the builder and its memory are freed earlier.
    builder_ref = weakref.ref(builder)

    def fill(index: np.ndarray) -> np.bool_:
        builder = builder_ref()
        return np.bool_(builder is not None and builder.fill(int(index)))

    return tf.data.Dataset.range(length).map(
        lambda index: tf.ensure_shape(tf.numpy_function(fill, [index], tf.bool), ()),
        num_parallel_calls=threads,
        deterministic=True,
    )


class _BatchBuilder:
    """The batches whose rows are being filled, by number, and the exceptions raised, by item."""

    def __init__(
        self,
        load: Callable[[int, Batch], None],
        fields: Fields,
        items_per_batch: int,
        repeats: int,
        allocators: Mapping[str, Allocator],
    ) -> None:
        self.failures: dict[int, Exception] = {}
        self._load = load
        self._items_per_batch = items_per_batch
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
        number, row = divmod(index, self._items_per_batch)
        with self._lock:
            if number not in self._batches:
                self._batches[number] = {key: pool.empty() for key, pool in self._pools.items()}
            batch = self._batches[number]
        return {key: values[row :: self._items_per_batch] for key, values in batch.items()}

    def take(self, number: int) -> Batch:
        """Remove and return batch `number`, whose rows are all filled."""
        return self._batches.pop(number)


class BatchIterator(Iterator[Batch]):
    """An iterator over batches that stops its threads before the interpreter shuts down."""

    def __init__(self, dataset: tf.data.Dataset, builder: _BatchBuilder) -> None:
        self._iterator: Iterator[np.ndarray] | None = dataset.as_numpy_iterator()
        self._builder = builder
        self._number = 0
        _OPEN_ITERATORS.add(self)

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        if not next(self._iterator).all():
            self.close()
            raise self._builder.failures[min(self._builder.failures)]
        self._number += 1
        return self._builder.take(self._number - 1)

    def close(self) -> None:
        """Stop decoding; the iterator ends."""
        self._iterator = None


_OPEN_ITERATORS: weakref.WeakSet[BatchIterator] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread that still decodes while the interpreter shuts down would wait for the GIL, and the
    # interpreter for the thread: a deadlock.
    for iterator in list(_OPEN_ITERATORS):
        iterator.close()
