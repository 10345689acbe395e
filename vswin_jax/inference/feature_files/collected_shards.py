"""Collects the results of batches into shards."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.inference.feature_files.feature_shard import NO_LABEL, FeatureShard, UnreadVideo
from vswin_jax.inference.feature_files.feature_shard_plan import ShardStream
from vswin_jax.inference.video_batches import BatchOutputs


class ShardCollector:
    """Collects the videos of one shard after another."""

    def __init__(self, stream: ShardStream, features: np.ndarray, files: tuple[str, ...]) -> None:
        """Collect from `stream`; `features` `[0, V, ...]` has the shape and dtype of a shard's.

        `files` are the files of all videos of the data set, or empty.
        """
        self._stream, self._none, self._files = stream, features, files
        self._clear()

    def collect(
        self, batches: Iterable[BatchOutputs], count_videos: Callable[[int], None]
    ) -> Iterator[tuple[int, FeatureShard]]:
        """Yield each shard with its number as soon as its last batch is there."""
        current = None
        for batch in batches:
            positions = [*batch.ids.tolist(), *batch.failures]
            shard = self._stream.shard(positions[0])
            if current not in (None, shard):
                yield current, self._take()
            current = shard
            self._add(batch)
            count_videos(sum(not self._stream.is_repeated(one) for one in positions))
            if max(positions) == self._stream.end(shard):
                yield current, self._take()
                current = None
        if current is not None:
            yield current, self._take()

    def _clear(self) -> None:
        self._features = [self._none]
        self._read: list[tuple[int, str, object]] = []
        self._bad: list[UnreadVideo] = []

    def _add(self, batch: BatchOutputs) -> None:
        stream = self._stream
        is_new = [not stream.is_repeated(position) for position in batch.ids.tolist()]
        features = batch.outputs["features"][is_new]
        for position, values in zip(batch.ids[is_new].tolist(), features, strict=True):
            seen = stream.take(position)
            _check_range(seen.name, values)
            self._read.append((stream.video(position), seen.name, seen.label))
        self._features.append(features)
        for position, reason in batch.failures.items():
            if not stream.is_repeated(position):
                name = stream.take(position).name
                self._bad.append(UnreadVideo(stream.video(position), name, reason))

    def _take(self) -> FeatureShard:
        indices = [index for index, _, _ in self._read]
        shard = FeatureShard(
            index=np.array(indices, np.int64),
            names=tuple(name for _, name, _ in self._read),
            labels=self._labels(),
            features=np.concatenate(self._features),
            files=tuple(self._files[index] for index in indices) if self._files else (),
            unreadable=tuple(sorted(self._bad)),
        )
        self._clear()
        return shard

    def _labels(self) -> np.ndarray:
        labels = [label for _, _, label in self._read]
        if not self._stream.label_names:
            return np.full(len(labels), NO_LABEL, np.int64)
        if not self._stream.multi_label:
            return np.array([NO_LABEL if one is None else one for one in labels], np.int64)
        rows = np.zeros((len(labels), len(self._stream.label_names)), np.int8)
        for row, classes in zip(rows, labels, strict=True):
            row[list(classes or ())] = 1
        return rows


def _check_range(name: str, values: np.ndarray) -> None:
    if np.isinf(values).any():
        raise InputError(
            f"The features of {name!r} exceed the range of {values.dtype.name}: write float32 "
            f"(--dtype float32), or another layer."
        )
