"""The content of a shard of features."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NO_LABEL = -1


class UnreadVideo(NamedTuple):
    """A video without features: its index in the data set, its name and the reason."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class FeatureShard:
    """The features of neighbouring videos of a data set.

    Attributes:
      index: int64 [N], the indices of the videos in the data set.
      names: N names.
      labels: int64 [N], -1 without a label; of a multi-label set int8 [N, K], 1 for each class.
      features: [N, V, ...].
      files: of format npy, the path of each video's file in the directory; else empty.
      unreadable: the videos without features.
    """

    index: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    features: np.ndarray
    files: tuple[str, ...] = ()
    unreadable: tuple[UnreadVideo, ...] = ()
