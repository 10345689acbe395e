"""Reads the features of a directory as arrays."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vswin_jax.errors import InputError, join_some
from vswin_jax.inference.feature_files.feature_directory import (
    SETTINGS_FILE,
    FeatureDirectory,
    open_directory,
)
from vswin_jax.inference.feature_files.feature_shard import FeatureShard, UnreadVideo


@dataclass(frozen=True)
class StoredFeatures:
    """The features of a data set, in its order.

    Attributes:
      features: [N, V, C], or [N, V, D, H, W, C] of a feature map; V views a video.
      names: the names of the N videos.
      labels: int64 [N], -1 without a label; of a multi-label set int8 [N, K], 1 for each class.
      label_names: the names of the K classes.
      index: int64 [N], the index of each video in the data set.
      unreadable: the videos without features, with reasons.
      settings: the content of `features.json`: checkpoint, layer, views and so on.
    """

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    label_names: tuple[str, ...]
    index: np.ndarray
    unreadable: tuple[UnreadVideo, ...]
    settings: Mapping[str, Any]


def load_features(
    directory: str | os.PathLike[str], *, allow_missing: bool = False
) -> StoredFeatures:
    """Read all features of a directory that `features` has written.

    Args:
      directory: the directory.
      allow_missing: read the shards that are there, while others are missing.

    Raises:
      InputError: it has no features, or shards are missing or damaged.
    """
    files = open_directory(Path(os.path.expanduser(os.fspath(directory))))
    shards = [*range(files.plan.num_shards)]
    missing = [shard for shard in shards if not files.is_complete(shard)]
    if missing and (not allow_missing or len(missing) == len(shards)):
        raise _missing_error(files, missing)
    return _read(files, [shard for shard in shards if shard not in set(missing)])


def _missing_error(files: FeatureDirectory, missing: Sequence[int]) -> InputError:
    names = join_some([files.plan.name(shard) for shard in missing], 3)
    return InputError(
        f"{len(missing)} of the {files.plan.num_shards} shards of {os.fspath(files.path)!r} are "
        f"missing ({names}): start the command that writes them again, in all its processes."
    )


def _read(files: FeatureDirectory, shards: Sequence[int]) -> StoredFeatures:
    settings = files.settings
    num_videos = sum(len(files.plan.videos(shard)) for shard in shards)
    # Shards are copied one by one: concatenating them would need twice the memory.
    features = np.empty((num_videos, *settings["shape"]), settings["dtype"])
    count, parts = 0, []
    for shard in shards:
        part = files.read(shard)
        end = count + len(part.names)
        if len(part.names):
            features[count:end] = _checked(part, files, shard).features
        count = end
        parts.append(part)
    with_videos = [part for part in parts if len(part.names)] or parts[:1]
    return StoredFeatures(
        features=features[:count],
        names=tuple(name for part in parts for name in part.names),
        labels=np.concatenate([part.labels for part in with_videos]),
        label_names=tuple(settings["label_names"]),
        index=np.concatenate([part.index for part in parts]),
        unreadable=tuple(bad for part in parts for bad in part.unreadable),
        settings=settings,
    )


def _checked(part: FeatureShard, files: FeatureDirectory, shard: int) -> FeatureShard:
    expected = (len(part.names), *files.settings["shape"])
    if part.features.shape != expected:
        raise InputError(
            f"Expected features of shape {expected} in {os.fspath(files.shard_path(shard))!r} but "
            f"{part.features.shape} came: {SETTINGS_FILE} is of other features."
        )
    return part
