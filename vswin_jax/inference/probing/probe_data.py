"""One vector and one target a video, for probes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from vswin_jax.errors import InputError
from vswin_jax.inference.feature_files.feature_shard import NO_LABEL
from vswin_jax.inference.feature_files.stored_features import StoredFeatures, load_features
from vswin_jax.training import metrics

# A larger one would take time and decide nothing.
_MAX_HELD_OUT = 10_000
_HELD_OUT_SHARE = 0.2
# These may differ between the features of a training and a test set.
_SHARED_SETTINGS = ("weights", "layer", "compute_dtype")


@dataclass(frozen=True)
class ProbeData:
    """Vectors and targets; `targets` is 1 at every class of a video."""

    vectors: Float32[np.ndarray, "N C"]
    targets: Float32[np.ndarray, "N K"]
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: np.ndarray) -> "ProbeData":
        """Return some of the videos, by index."""
        return ProbeData(self.vectors[rows], self.targets[rows], self.multi_label)

    def split(self, seed: int = 0) -> tuple["ProbeData", "ProbeData"]:
        """Return the videos without and with those held out, a fifth of each class.

        Raises:
          InputError: there are too few videos.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        if not self.multi_label:
            # A stable sort by class leaves the order within a class random.
            order = order[np.argsort(self.targets[order].argmax(axis=1), kind="stable")]
        step = max(round(1 / _HELD_OUT_SHARE), -(-len(self) // _MAX_HELD_OUT))
        is_held_out = np.arange(len(self)) % step == step - 1
        if not is_held_out.any():
            raise InputError(
                f"Expected {step} or more training videos, to hold some out, but {len(self)} came."
            )
        return self.take(order[~is_held_out]), self.take(order[is_held_out])

    def score(self, scores: Float[np.ndarray, "N K"]) -> float:
        """Return the accuracy of the class scores of the videos, or the mAP of multi-label ones."""
        if self.multi_label:
            return metrics.mean_over_present(metrics.average_precisions(scores, self.targets))
        return metrics.top_k_accuracy(scores, self.targets.argmax(axis=1), 1)


def load_pair(
    train: str | os.PathLike[str], test: str | os.PathLike[str]
) -> tuple[ProbeData, ProbeData, Mapping[str, Any]]:
    """Read the features of a training and a test set, and the settings of the training set's.

    Raises:
      InputError: they are of different models or classes, or have no labels.
    """
    loaded = load_features(train), load_features(test)
    for name in _SHARED_SETTINGS:
        old, new = (one.settings[name] for one in loaded)
        if old != new:
            raise InputError(
                f"Expected training and test features of one model but their {name} is {old!r} in "
                f"{os.fspath(train)!r} and {new!r} in {os.fspath(test)!r}: write them anew."
            )
    if loaded[0].label_names != loaded[1].label_names:
        raise InputError(
            f"Expected the same classes, in the same order, in {os.fspath(train)!r} and "
            f"{os.fspath(test)!r}: write the features with lists that have the same classes."
        )
    data = [_data_of(one, path) for one, path in zip(loaded, (train, test), strict=True)]
    return data[0], data[1], loaded[0].settings


def _data_of(stored: StoredFeatures, path: str | os.PathLike[str]) -> ProbeData:
    features, labels = stored.features, stored.labels
    # The mean over the views, and over time and space of a feature map.
    vectors = features.mean(tuple(range(1, features.ndim - 1)), dtype=np.float32)
    if labels.ndim == 2:
        return ProbeData(vectors, labels.astype(np.float32), multi_label=True)
    is_labelled = labels != NO_LABEL
    if not is_labelled.any():
        raise InputError(
            f"Expected labelled videos but those of {os.fspath(path)!r} have no classes: write "
            f"the features of a list with labels, or of a folder with a sub-folder a class."
        )
    one_hot = np.eye(len(stored.label_names), dtype=np.float32)
    return ProbeData(vectors[is_labelled], one_hot[labels[is_labelled]])
