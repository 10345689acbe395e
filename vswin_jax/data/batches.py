"""The tf.data behind the batches: many rows made side by side, always in the same order.

TensorFlow does nothing here but run the threads; it never sees an accelerator.
"""

import atexit
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

AUTOTUNE: int = tf.data.AUTOTUNE
Batch = dict[str, np.ndarray]
Row = dict[str, Any]
# The type and the shape of every key of a row.
Fields = dict[str, tuple[type[np.generic], tuple[int, ...]]]

_FAILED = -2

tf.config.set_visible_devices([], "GPU")
# Clips are decoded side by side, so each one is the work of one thread.
cv2.setNumThreads(1)


def make_batches(
    load: Callable[[int], Row],
    length: int,
    places: int,
    fields: Fields,
    *,
    threads: int,
    prefetch: int,
    repeats: int = 1,
) -> "Batches":
    """Batches of `places` rows: those that `load` makes for the places 0 to `length` - 1.

    `fields` has "id" among its keys. With `repeats` above 1, what `load` gives for a place has so
    many rows in a first axis; a batch has the first ones of all its places, then the second ones.
    """
    failures: dict[int, Exception] = {}
    first = (repeats,) if repeats > 1 else ()
    types = [dtype for dtype, _ in fields.values()]

    def load_arrays(place: np.ndarray) -> list[np.ndarray]:
        try:
            loaded = load(int(place))
        except Exception as error:
            # Raised here, TensorFlow would log a traceback and pass on the text only: hand the
            # exception itself to the caller, beside a row that says so.
            failures[int(place)] = error
            loaded = {key: np.zeros(first + shape) for key, (_, shape) in fields.items()}
            loaded["id"] = np.full(first, _FAILED)
        return [np.asarray(loaded[key], dtype) for key, (dtype, _) in fields.items()]

    def load_tensors(place: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = tf.numpy_function(load_arrays, [place], types)
        for tensor, (_, shape) in zip(tensors, fields.values(), strict=True):
            tensor.set_shape(first + shape)
        return dict(zip(fields, tensors, strict=True))

    dataset = tf.data.Dataset.range(length)
    dataset = dataset.map(load_tensors, num_parallel_calls=threads, deterministic=True)
    dataset = dataset.batch(places)
    if repeats > 1:
        dataset = dataset.map(lambda batch: {k: _apart(tensor) for k, tensor in batch.items()})
    return Batches(dataset.prefetch(prefetch), failures)


def _apart(tensor: tf.Tensor) -> tf.Tensor:
    """[places, repeats, ...] -> [repeats * places, ...]."""
    by_repeat = tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])
    return tf.reshape(by_repeat, [-1, *tensor.shape[2:]])


class Batches(Iterator[Batch]):
    """An iterator over a data set that gives its threads back before Python ends."""

    def __init__(self, dataset: tf.data.Dataset, failures: dict[int, Exception]) -> None:
        self._iterator: Iterator[Batch] | None = dataset.as_numpy_iterator()
        self._failures = failures
        _OPEN.add(self)

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        batch = next(self._iterator)
        if (batch["id"] == _FAILED).any():
            self.close()
            raise self._failures[min(self._failures)]
        return batch

    def close(self) -> None:
        """Stop decoding; there are no more batches."""
        self._iterator = None


_OPEN: weakref.WeakSet[Batches] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads that still decode when Python ends would wait for it for ever, and it for them.
    for batches in list(_OPEN):
        batches.close()
