"""Batches through tf.data: many clips decoded side by side, always in the same order.

TensorFlow does nothing here but run the threads; it never sees an accelerator. What a batch holds
is a function of (seed, step) alone.
"""

import atexit
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from vswin_jax.data.bad_videos import BadVideos, read_or_replace
from vswin_jax.data.clips import ClipSpec, test_views, train_clip
from vswin_jax.data.order import example_at, host_position
from vswin_jax.data.sources import Example, Source
from vswin_jax.errors import InputError

AUTOTUNE: int = tf.data.AUTOTUNE
Batch = dict[str, np.ndarray]
Row = dict[str, Any]

# Rows of a training run; a range of this length costs nothing.
_ENDLESS = 2**62
_FAILED = -2
_DTYPES = {
    "video": np.uint8,
    "label": np.int32,
    "mask": np.float32,
    "id": np.int32,
    "flip": np.bool_,
}

tf.config.set_visible_devices([], "GPU")
# Clips are decoded side by side, so each one is the work of one thread.
cv2.setNumThreads(1)


def train_batches(
    source: Source,
    spec: ClipSpec,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = AUTOTUNE,
    prefetch: int = 2,
    bad_videos: BadVideos | None = None,
) -> Iterator[Batch]:
    """Endless batches of this host from step `start_step` on, one view a video.

    `batch_size` is the global one; a host yields `batch_size // process_count` rows. Keys: video
    uint8 [B, 1, T, H, W, 3], label int32 [B] or, of a source with sets of labels, float32 [B, K]
    with a 1 for each class of a set, mask float32 [B], id int32 [B], flip bool [B].

    A video that cannot be read is replaced by another, whose label and id the row has; `bad_videos`
    counts and names them.

    Raises:
        InputError: at once for sizes that do not fit; while iterating, when too many videos cannot
            be read.
    """
    rows = _rows_per_host(source, batch_size, process_count)
    bad_videos = bad_videos or BadVideos()

    def load(row: int) -> Row:
        step = start_step + row // rows
        position = host_position(
            step,
            row % rows,
            batch_size=batch_size,
            process_index=process_index,
            process_count=process_count,
        )
        epoch, index = example_at(seed, position, len(source))
        example, (video, flip) = read_or_replace(
            lambda example, rng: train_clip(example, spec, rng),
            source,
            index,
            bad_videos,
            seed=seed,
            epoch=epoch,
            step=step,
        )
        return _row(video, _label(source, example), example.id, flip=flip)

    shape = (1, spec.num_frames, spec.size, spec.size, 3)
    return _batches(load, _ENDLESS, rows, _padding(source, shape), threads, prefetch)


def eval_batches(
    source: Source,
    spec: ClipSpec,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = AUTOTUNE,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Every video once over all hosts, with all its views; every host yields as many batches.

    `batch_size` is the global number of videos. Keys as in training, video is
    [B, V, T, H, W, 3]; padding rows have mask 0, id -1, label 0 (or all zeros) and black frames.

    Raises:
        InputError: at once for sizes that do not fit; while iterating, for the first video that
            cannot be read: scores of a part of a set are not comparable with those of the whole.
    """
    rows = _rows_per_host(source, batch_size, process_count)
    steps = -(-len(source) // batch_size)
    padding = _padding(source, (spec.views, spec.num_frames, spec.size, spec.size, 3))

    def load(row: int) -> Row:
        index = host_position(
            row // rows,
            row % rows,
            batch_size=batch_size,
            process_index=process_index,
            process_count=process_count,
        )
        if index >= len(source):
            return padding
        example = source[index]
        return _row(test_views(example, spec), _label(source, example), example.id)

    return _batches(load, steps * rows, rows, padding, threads, prefetch)


def _rows_per_host(source: Source, batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"The global batch size must be a positive multiple of the {process_count} "
            f"process{'es' if process_count > 1 else ''} but is {batch_size}."
        )
    if not len(source):
        raise InputError("There are no examples to make batches of.")
    return batch_size // process_count


def _label(source: Source, example: Example | None = None) -> np.ndarray:
    """What a batch's row says of an example, or of none: int32 [], or a set as float32 [K]."""
    if not source.multi_label:
        return np.array(example.label if example else 0, np.int32)
    label = np.zeros(len(source.label_names), np.float32)
    label[list(example.label) if example else []] = 1.0
    return label


def _padding(source: Source, shape: tuple[int, ...]) -> Row:
    return _row(np.zeros(shape, np.uint8), _label(source), -1, mask=0.0)


def _row(
    video: np.ndarray, label: np.ndarray, example_id: int, *, mask: float = 1.0, flip: bool = False
) -> Row:
    return {"video": video, "label": label, "mask": mask, "id": example_id, "flip": flip}


def _batches(
    load: Callable[[int], Row],
    length: int,
    rows: int,
    padding: Row,
    threads: int,
    prefetch: int,
) -> Iterator[Batch]:
    failures: dict[int, Exception] = {}
    dtypes = {**_DTYPES, "label": padding["label"].dtype}

    def load_arrays(row: np.ndarray) -> list[np.ndarray]:
        try:
            loaded = load(int(row))
        except Exception as error:
            # Raised here, TensorFlow would log a traceback and pass on the text only: hand the
            # exception itself to the caller, beside a row that says so.
            failures[int(row)] = error
            loaded = {**padding, "id": _FAILED}
        return [np.asarray(loaded[key], dtype) for key, dtype in dtypes.items()]

    def load_tensors(row: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = tf.numpy_function(load_arrays, [row], list(dtypes.values()))
        for key, tensor in zip(dtypes, tensors, strict=True):
            tensor.set_shape(np.shape(padding[key]))
        return dict(zip(dtypes, tensors, strict=True))

    dataset = tf.data.Dataset.range(length)
    dataset = dataset.map(load_tensors, num_parallel_calls=threads, deterministic=True)
    return Batches(dataset.batch(rows).prefetch(prefetch), failures)


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
