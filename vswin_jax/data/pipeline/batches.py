"""The tf.data behind the batches: many rows made side by side, always in the same order.

TensorFlow does nothing here but run the threads; it never sees an accelerator.
"""

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping

import cv2
import numpy as np
import tensorflow as tf

from vswin_jax.data.pipeline.buffer_pool import NewMemory, RecycledMemory, new_memory

AUTOTUNE: int = tf.data.AUTOTUNE
Batch = dict[str, np.ndarray]
# The type and the shape of every key of a row.
Fields = dict[str, tuple[type[np.generic], tuple[int, ...]]]

tf.config.set_visible_devices([], "GPU")
# Clips are decoded side by side, so each one is the work of one thread.
cv2.setNumThreads(1)


def make_batches(
    load: Callable[[int, Batch], None],
    length: int,
    places: int,
    fields: Fields,
    *,
    threads: int,
    prefetch: int,
    repeats: int = 1,
    memory: Mapping[str, NewMemory] | None = None,
) -> "Batches":
    """Batches of `places` * `repeats` rows, which `load` fills place by place, from 0 to `length`.

    `load(place, rows)` gets for each of the `fields` the rows of its place, [repeats, ...], as
    views of the batch itself, so nothing is copied. A batch has the first rows of all its places,
    then the second ones. `memory` says for some fields where to get memory of so many bytes.
    """
    filling = _Filling(load, fields, places, repeats, memory or {})
    # TensorFlow never forgets a function that it was given, nor what that function refers to.
    if_wanted = weakref.ref(filling)

    def fill(place: np.ndarray) -> np.bool_:
        wanted = if_wanted()
        return np.bool_(wanted is not None and wanted.fill(int(place)))

    dataset = tf.data.Dataset.range(length)
    dataset = dataset.map(
        lambda place: tf.ensure_shape(tf.numpy_function(fill, [place], tf.bool), ()),
        num_parallel_calls=threads,
        deterministic=True,
    )
    options = tf.data.Options()
    if threads != AUTOTUNE:
        # Otherwise there are never more than one for each core, and those that wait count too.
        options.threading.private_threadpool_size = threads
    return Batches(dataset.batch(places).prefetch(prefetch).with_options(options), filling)


class _Filling:
    """The batches whose rows are being filled, by number, and what went wrong at which place."""

    def __init__(
        self,
        load: Callable[[int, Batch], None],
        fields: Fields,
        places: int,
        repeats: int,
        memory: Mapping[str, NewMemory],
    ) -> None:
        self.failures: dict[int, Exception] = {}
        self._load = load
        self._places = places
        self._batches: dict[int, Batch] = {}
        count = places * repeats
        self._memory = {
            key: RecycledMemory((count, *shape), dtype, memory.get(key, new_memory))
            for key, (dtype, shape) in fields.items()
        }
        self._lock = threading.Lock()

    def fill(self, place: int) -> bool:
        """Fills the rows of a place; False if that failed."""
        try:
            self._load(place, self._rows(place))
        except Exception as error:
            # Raised here, TensorFlow would log a traceback and pass on the text only.
            self.failures[place] = error
        return place not in self.failures

    def _rows(self, place: int) -> Batch:
        number, row = divmod(place, self._places)
        with self._lock:
            if number not in self._batches:
                self._batches[number] = {k: m.empty() for k, m in self._memory.items()}
            batch = self._batches[number]
        return {key: values[row :: self._places] for key, values in batch.items()}

    def take(self, number: int) -> Batch:
        """The batch of that number, which is full."""
        return self._batches.pop(number)


class Batches(Iterator[Batch]):
    """An iterator over a data set that gives its threads back before Python ends."""

    def __init__(self, dataset: tf.data.Dataset, filling: _Filling) -> None:
        self._iterator: Iterator[np.ndarray] | None = dataset.as_numpy_iterator()
        self._filling = filling
        self._number = 0
        _OPEN.add(self)

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        if not next(self._iterator).all():
            self.close()
            raise self._filling.failures[min(self._filling.failures)]
        self._number += 1
        return self._filling.take(self._number - 1)

    def close(self) -> None:
        """Stop decoding; there are no more batches."""
        self._iterator = None


_OPEN: weakref.WeakSet[Batches] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads that still decode when Python ends would wait for it for ever, and it for them.
    for batches in list(_OPEN):
        batches.close()
