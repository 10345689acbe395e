"""Fills batches by tf.data, in parallel and always in the same order.

TensorFlow only runs the threads here; GPUs are hidden from it, so that it takes no GPU memory.
"""

import atexit
import weakref
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from vswin_jax.data.pipeline.batch_builder import BatchBuilder
from vswin_jax.runtime.cpu_count import available_cores, usable_cpus

AUTOTUNE: int = tf.data.AUTOTUNE

tf.config.set_visible_devices([], "GPU")


class TensorflowFiller(Iterator[None]):
    """A tf.data iterator that fills the items from `first` to `length`; `next` waits for a batch.

    `close` stops its threads.
    """

    def __init__(
        self, builder: BatchBuilder, first: int, length: int, *, threads: int, prefetch: int
    ) -> None:
        is_filled = _map_in_order(builder, first, length, threads)
        dataset = is_filled.batch(builder.items_per_batch).prefetch(prefetch)
        dataset = dataset.with_options(_thread_options(threads))
        self._iterator: Iterator[np.ndarray] | None = dataset.as_numpy_iterator()
        _OPEN.add(self)

    def __next__(self) -> None:
        if self._iterator is None:
            raise StopIteration
        next(self._iterator)

    def close(self) -> None:
        """Stop decoding; the iterator ends."""
        self._iterator = None


def _thread_options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    if threads != AUTOTUNE:
        # tf.data's default pool has one thread for each core, and blocked threads count too.
        options.threading.private_threadpool_size = threads
    elif usable_cpus() < available_cores():
        # TensorFlow does not know the CPU quota of a container.
        options.threading.private_threadpool_size = usable_cpus()
    return options


def _map_in_order(builder: BatchBuilder, first: int, length: int, threads: int) -> tf.data.Dataset:
    """Return a data set that fills the items of `builder` and yields True for each success."""
    # TensorFlow keeps every function that it was given, and all that the function refers to, until
    # the process ends. With a weak reference the builder and its memory are freed earlier.
    builder_ref = weakref.ref(builder)

    def fill(index: np.ndarray) -> np.bool_:
        builder = builder_ref()
        return np.bool_(builder is not None and builder.fill(int(index)))

    return tf.data.Dataset.range(first, length).map(
        lambda index: tf.ensure_shape(tf.numpy_function(fill, [index], tf.bool), ()),
        num_parallel_calls=threads,
        deterministic=True,
    )


_OPEN: weakref.WeakSet[TensorflowFiller] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread that still decodes while the interpreter shuts down would wait for the GIL, and the
    # interpreter for the thread: a deadlock.
    for filler in list(_OPEN):
        filler.close()
