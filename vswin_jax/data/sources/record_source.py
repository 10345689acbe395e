"""Examples stored as serialized tf.train.Example messages in ArrayRecord or TFRecord files.

Only the fields that an `Example` needs are taken from a record, and no image is decoded.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from vswin_jax.data.decoding.frames import EncodedFrames
from vswin_jax.data.example import Example
from vswin_jax.data.sources.record_files import RecordFiles, missing_file
from vswin_jax.data.sources.tfds_features import FeatureKeys
from vswin_jax.errors import InputError
from vswin_jax.runtime.progress import Progress

log = logging.getLogger("vswin_jax")
_MAX_CLASSES = 2**31 - 1


class RecordSource:
    """One split of a TFDS data set, with random access; threads and processes may share it.

    Args:
      files: the records.
      keys: the keys of the fields in a record.
      label_names: the names of the model's classes.
      label_of: int32 [classes of the data], maps the data's classes to the model's; None keeps the
        labels as they are.
      split: names an example without a name, together with its index.
      stored_labels: the data's label of each record, int32 [N], if stored beside the records.
    """

    multi_label = False

    def __init__(
        self,
        files: RecordFiles,
        keys: FeatureKeys,
        label_names: tuple[str, ...],
        label_of: np.ndarray | None,
        split: str,
        stored_labels: np.ndarray | None = None,
    ) -> None:
        self.label_names = label_names
        self._files = files
        self._keys = keys
        self._label_of = label_of
        self._split = split
        self._stored_labels = stored_labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        fields = self._fields(index)
        name = self._name(fields, index)
        return Example(self._video(fields, name), self._label(fields, name), index, name)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The class of every example, int32 [N]; reads all records unless labels are stored."""
        if self._stored_labels is not None and self._label_of is not None:
            return self._label_of[self._stored_labels]
        log.info("Reading the %d records of %r for their labels", len(self), self._split)
        progress = Progress(len(self), log.info, unit="records")
        labels = np.empty(len(self), np.int32)
        for index in range(len(self)):
            fields = self._fields(index)
            labels[index] = self._label(fields, self._name(fields, index))
            progress.add()
        return labels

    @property
    def identity(self) -> str:
        """A digest of the records, their order and their classes."""
        slices = [
            (os.path.basename(part.path), part.skip, part.take, _file_size(part.path))
            for part in self._files.slices
        ]
        classes = None if self._label_of is None else self._label_of.tolist()
        content = json.dumps([slices, self.label_names, classes])
        return hashlib.sha256(content.encode()).hexdigest()

    def _fields(self, index: int) -> Any:
        record = self._files.read(int(index))
        try:
            return tf_example_pb2.Example.FromString(record).features.feature
        except DecodeError as error:
            raise InputError(
                f"Record {index} of {self._split!r} is damaged: copy its file again, or prepare "
                "the data set again."
            ) from error

    def _name(self, fields: Any, index: int) -> str:
        stored = fields[self._keys.name].bytes_list.value if self._keys.name else ()
        name = stored[0].decode("utf-8", "surrogateescape") if stored else ""
        return name or f"{self._split}/{index}"

    def _label(self, fields: Any, name: str) -> int:
        stored = fields[self._keys.label].int64_list.value
        label = stored[0] if len(stored) else -1
        classes = _MAX_CLASSES if self._label_of is None else len(self._label_of)
        if not 0 <= label < classes:
            raise InputError(
                f"Expected {name!r} to have a label from 0 to {classes - 1} but it is {label}: use "
                "a split that has labels."
            )
        return label if self._label_of is None else int(self._label_of[label])

    def _video(self, fields: Any, name: str) -> bytes | EncodedFrames:
        stored = fields[self._keys.video].bytes_list.value
        if self._keys.frames:
            return EncodedFrames(list(stored), self._times(fields, len(stored)))
        if not stored:
            raise InputError(f"{name!r} has no video in its record: prepare the records again.")
        return stored[0]

    def _times(self, fields: Any, count: int) -> np.ndarray | None:
        times = _numbers(fields, self._keys.times)
        if len(times) == count > 0:
            return np.asarray(times, np.float64)
        rate = _numbers(fields, self._keys.fps)
        return np.arange(count) / rate[0] if len(rate) and rate[0] > 0 else None


def _file_size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise missing_file(path) from error


def _numbers(fields: Any, key: str) -> Sequence[float]:
    if not key:
        return ()
    return fields[key].float_list.value or fields[key].int64_list.value
