"""Opening a split of a data set that TFDS has prepared; nothing is ever downloaded.

This module needs TFDS and is imported by `open_source` when a path asks for it.
"""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from vswin_jax.data.sources.labels import resolve_labels
from vswin_jax.data.sources.record_files import FORMATS, RecordFiles, Stretch
from vswin_jax.data.sources.record_source import RecordSource
from vswin_jax.data.sources.tfds_features import Keys, find_keys
from vswin_jax.data.sources.tfds_path import TfdsPath, parse
from vswin_jax.errors import InputError

LABELS_FILE = "labels-{split}.npy"


def open_tfds(
    path: str, root: str, label_names: Sequence[str] | None, num_classes: int | None
) -> RecordSource:
    """The examples of a split; arguments as of `open_source`, `root` being TFDS's data_dir.

    Raises:
        InputError: not prepared, no such split, no video or label in it, or other classes.
    """
    asked = parse(path)
    builder = _open_directory(asked.name) if asked.is_directory else _find(asked.name, root)
    stretches = _stretches(builder, asked, path)
    keys = find_keys(builder.info.features, path)
    files = RecordFiles(stretches, _file_format(builder, path))
    if keys.classes is not None:
        names, label_of = _classes(keys.classes, path, label_names, num_classes)
        stored = _stored_labels(builder, stretches)
        return RecordSource(files, keys, names, label_of, asked.split, stored)
    return _open_numbered(files, keys, asked, label_names, num_classes)


def _open_directory(directory: str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # of whatever parser it is that cannot read a file
        raise InputError(
            f"{directory!r} cannot be opened as a TFDS data set ({_first_line(error)}): prepare "
            "it again."
        ) from error


def _find(name: str, root: str) -> tfds.core.DatasetBuilder:
    try:
        # Unlike `tfds.builder`, this never asks the network for anything.
        return read_only_builder.builder_from_files(name, data_dir=root or None)
    except tfds.core.DatasetNotFoundError as error:
        folder = root or str(tfds.core.constants.DATA_DIR)
        raise InputError(
            f"The TFDS data set {name!r} is not prepared in {folder!r}: run `tfds build {name} "
            f"--data_dir {folder}` once, or set the root to where it is."
        ) from error
    except Exception as error:
        raise InputError(
            f"The TFDS data set {name!r} cannot be opened ({_first_line(error)}): prepare it again."
        ) from error


def _stretches(builder: tfds.core.DatasetBuilder, asked: TfdsPath, path: str) -> list[Stretch]:
    known = ", ".join(sorted(builder.info.splits))
    if not asked.split:
        raise InputError(
            f"Expected {path!r} to end in a split, as in {path.rstrip(':')}:SPLIT: add one of "
            f"{known}."
        )
    try:
        instructions = builder.info.splits[asked.split].file_instructions
    except Exception as error:
        raise InputError(
            f"{asked.name!r} has no split {asked.split!r}: it has {known}, of which a part can be "
            "taken as in train[:90%]."
        ) from error
    if not instructions:
        raise InputError(f"The split {asked.split!r} of {asked.name!r} has no examples.")
    return [
        Stretch(os.fspath(part.filename), part.skip, part.take, part.examples_in_shard)
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


def _classes(
    data: tuple[str, ...], path: str, label_names: Sequence[str] | None, num_classes: int | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Our classes, and int32 [classes of the data] which of them each class of the data is."""
    ours = data if label_names is None else tuple(label_names)
    where = f"The classes of {path!r}"
    # TFDS names classes that have no names by their numbers.
    if data == tuple(map(str, range(len(data)))):
        count = num_classes if label_names is None else len(ours)
        label_of, _ = resolve_labels(
            data, lambda _: where, path, label_names=data, num_classes=count
        )
        return ours, label_of
    label_of, names = resolve_labels(
        data, lambda _: where, path, label_names=ours, num_classes=num_classes, numbers=False
    )
    return names, label_of


def _open_numbered(
    files: RecordFiles,
    keys: Keys,
    asked: TfdsPath,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> RecordSource:
    """Labels that are plain numbers: how many classes there are is seen from all of them."""
    labels = RecordSource(files, keys, (), None, asked.split).labels
    checked, names = resolve_labels(
        list(map(str, labels.tolist())),
        lambda index: f"{asked.name!r}, {asked.split}/{index}",
        f"{asked.name}:{asked.split}",
        label_names=label_names,
        num_classes=num_classes,
    )
    label_of = np.arange(len(names), dtype=np.int32)
    return RecordSource(files, keys, names, label_of, asked.split, checked)


def _stored_labels(
    builder: tfds.core.DatasetBuilder, stretches: Sequence[Stretch]
) -> np.ndarray | None:
    """The labels of the stretches by the files that we write beside records, int32 [N], or None."""
    labels_of: dict[str, np.ndarray] = {}
    for name, split in builder.info.splits.items():
        path = os.path.join(builder.data_dir, LABELS_FILE.format(split=name))
        if os.path.isfile(path):
            labels = _read_labels(path, split.num_examples)
            parts = np.split(labels, np.cumsum(split.shard_lengths)[:-1])
            labels_of.update(zip(map(os.fspath, split.filepaths), parts, strict=True))
    if not all(stretch.path in labels_of for stretch in stretches):
        return None
    return np.concatenate([labels_of[s.path][s.skip : s.skip + s.take] for s in stretches])


def _read_labels(path: str, count: int) -> np.ndarray:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path!r} cannot be read ({_first_line(error)}): remove it.") from error
    if labels.shape != (count,):
        raise InputError(
            f"Expected {path!r} to hold the {count} labels of the records beside it but its shape "
            f"is {labels.shape}: remove it."
        )
    return labels.astype(np.int32)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
