"""Opens a split of a data set that TFDS has prepared; it never downloads anything.

This module needs TFDS, so `open_source` imports it only for a path that names a TFDS data set.
"""

import functools
import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from vswin_jax.data.sources.labels import resolve_labels
from vswin_jax.data.sources.record_files import FORMATS, FileSlice, RecordFiles
from vswin_jax.data.sources.record_source import RecordSource
from vswin_jax.data.sources.tfds_features import FeatureKeys, find_keys
from vswin_jax.data.sources.tfds_path import TfdsPath, parse_tfds_path
from vswin_jax.errors import InputError, first_line

LABELS_FILE = "labels-{split}.npy"


def open_tfds(
    path: str, root: str, label_names: Sequence[str] | None, num_classes: int | None
) -> RecordSource:
    """Open the examples of a split; arguments as of `open_source`, `root` being TFDS's data_dir.

    Raises:
      InputError: the data set is not prepared, or lacks the split, a video, a label or a class.
    """
    tfds_path = parse_tfds_path(path)
    builder = _open_builder(tfds_path, root)
    slices = _file_slices(builder, tfds_path, path)
    keys = find_keys(builder.info.features, path)
    files = RecordFiles(slices, _file_format(builder, path))
    if keys.classes is None:
        return _open_integer_labels(files, keys, tfds_path, label_names, num_classes)
    names, label_of = _match_classes(keys.classes, path, label_names, num_classes)
    stored_labels = _stored_labels(builder, slices)
    return RecordSource(files, keys, names, label_of, tfds_path.split, stored_labels)


def _open_builder(tfds_path: TfdsPath, root: str) -> tfds.core.DatasetBuilder:
    if tfds_path.is_directory:
        return _open_directory(tfds_path.name)
    return _open_prepared(tfds_path.name, root)


def _open_directory(directory: str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # the parsers of TFDS raise exceptions of many types
        raise InputError(
            f"{directory!r} cannot be opened as a TFDS data set ({first_line(error)}): prepare "
            "it again."
        ) from error


def _open_prepared(name: str, root: str) -> tfds.core.DatasetBuilder:
    try:
        # Unlike `tfds.builder`, this never accesses the network.
        return read_only_builder.builder_from_files(name, data_dir=root or None)
    except tfds.core.DatasetNotFoundError as error:
        folder = root or str(tfds.core.constants.DATA_DIR)
        raise InputError(
            f"The TFDS data set {name!r} is not prepared in {folder!r}: run `tfds build {name} "
            f"--data_dir {folder}` once, or set the root to where it is.",
            ["the root"],
        ) from error
    except Exception as error:
        raise InputError(
            f"The TFDS data set {name!r} cannot be opened ({first_line(error)}): prepare it again."
        ) from error


def _file_slices(
    builder: tfds.core.DatasetBuilder, tfds_path: TfdsPath, path: str
) -> list[FileSlice]:
    name, split = tfds_path.name, tfds_path.split
    known = ", ".join(sorted(builder.info.splits))
    if not split:
        example = f"{path.rstrip(':')}:SPLIT"
        raise InputError(
            f"Expected {path!r} to end in a split, as in {example}: add one of {known}."
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except Exception as error:
        hint = f"it has {known}, of which a part can be taken as in train[:90%]"
        raise InputError(f"{name!r} has no split {split!r}: {hint}.") from error
    if not instructions:
        raise InputError(f"The split {split!r} of {name!r} has no examples.")
    return [
        FileSlice(os.fspath(part.filename), part.skip, part.take, part.examples_in_shard)
        for part in instructions
    ]


def _file_format(builder: tfds.core.DatasetBuilder, path: str) -> str:
    file_format = builder.info.file_format.value
    if file_format not in FORMATS:
        raise InputError(
            f"Expected {path!r} to be stored as {' or '.join(FORMATS)} but it is {file_format}: "
            "prepare it again as one of them."
        )
    return file_format


def _match_classes(
    data: tuple[str, ...], path: str, label_names: Sequence[str] | None, num_classes: int | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the model's classes, and the index there of each class of the data, int32 [K]."""
    names = data if label_names is None else tuple(label_names)
    resolve = functools.partial(resolve_labels, data, lambda _: f"The classes of {path!r}", path)
    # Without class names, TFDS names classes by their numbers; such classes match by number.
    if data == tuple(map(str, range(len(data)))):
        count = num_classes if label_names is None else len(names)
        label_of, _ = resolve(label_names=data, num_classes=count)
    else:
        label_of, _ = resolve(label_names=names, num_classes=num_classes, allow_indices=False)
    return names, label_of


def _open_integer_labels(
    files: RecordFiles,
    keys: FeatureKeys,
    tfds_path: TfdsPath,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> RecordSource:
    """Open a split whose labels are plain integers: all are read to find the number of classes."""
    name, split = tfds_path.name, tfds_path.split
    labels = RecordSource(files, keys, (), None, split).labels
    checked, names = resolve_labels(
        list(map(str, labels.tolist())),
        lambda index: f"{name!r}, {split}/{index}",
        f"{name}:{split}",
        label_names=label_names,
        num_classes=num_classes,
    )
    label_of = np.arange(len(names), dtype=np.int32)
    return RecordSource(files, keys, names, label_of, split, stored_labels=checked)


def _stored_labels(
    builder: tfds.core.DatasetBuilder, slices: Sequence[FileSlice]
) -> np.ndarray | None:
    """Return the labels of the slices, int32 [N], if files beside the records store them."""
    labels_of_file: dict[str, np.ndarray] = {}
    for name, split in builder.info.splits.items():
        path = os.path.join(builder.data_dir, LABELS_FILE.format(split=name))
        if os.path.isfile(path):
            labels = _read_labels(path, split.num_examples)
            parts = np.split(labels, np.cumsum(split.shard_lengths)[:-1])
            labels_of_file.update(zip(map(os.fspath, split.filepaths), parts, strict=True))
    if not all(part.path in labels_of_file for part in slices):
        return None
    return np.concatenate(
        [labels_of_file[part.path][part.skip : part.skip + part.take] for part in slices]
    )


def _read_labels(path: str, count: int) -> np.ndarray:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path!r} cannot be read ({first_line(error)}): remove it.") from error
    if labels.shape != (count,):
        raise InputError(
            f"Expected {path!r} to hold the {count} labels of the records beside it but its shape "
            f"is {labels.shape}: remove it."
        )
    return labels.astype(np.int32)
