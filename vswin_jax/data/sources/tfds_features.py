"""Finds the video, the label and the name of an example among the features of a TFDS data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow_datasets import features as tfds_features

from vswin_jax.errors import InputError


@dataclass(frozen=True)
class FeatureKeys:
    """The keys of the features of a serialized example; empty for a feature that is missing.

    Attributes:
      video: the bytes of a video file, or with `frames` those of an image for each frame.
      frames: True if a video is a sequence of images.
      label: the class index.
      name: the name of the example.
      times: the presentation time of each frame in seconds.
      fps: frames a second.
      classes: the class names in the order of the labels; None if the data set has none.
    """

    video: str
    frames: bool
    label: str
    name: str = ""
    times: str = ""
    fps: str = ""
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Leaf:
    """A feature that contains no other features.

    Attributes:
      path: the names of the enclosing features and its own, with slashes between them.
      feature: the TFDS feature.
      depth: the number of sequences that enclose it.
    """

    path: str
    feature: tfds_features.FeatureConnector
    depth: int

    @property
    def is_text(self) -> bool:
        return isinstance(self.feature, tfds_features.Text)

    @property
    def is_class_label(self) -> bool:
        return isinstance(self.feature, tfds_features.ClassLabel)

    def is_scalar(self, *dtypes: type[np.generic]) -> bool:
        """Return True if it is a scalar of one of these dtypes, or a sequence of such scalars."""
        is_scalar = isinstance(self.feature, tfds_features.Tensor) and self.feature.shape == ()
        return is_scalar and any(np.issubdtype(self.feature.np_dtype, dtype) for dtype in dtypes)


def find_keys(features: tfds_features.FeaturesDict, source: str) -> FeatureKeys:
    """Find the keys of a data set, which error messages call `source`.

    If several features could be the video (or label), the one named `video` (or `label`) is taken.

    Raises:
      InputError: no feature, or no single one, can be the video or the label; all are listed.
    """
    leaves = list(_leaves(features, "", 0))
    video = _choose([leaf for leaf in leaves if _may_be_video(leaf)], "video", leaves, source)
    label = _choose(_label_candidates(leaves), "label", leaves, source)

    def key_if(name: str, *dtypes: type[np.generic]) -> str:
        return name if any(leaf.path == name and leaf.is_scalar(*dtypes) for leaf in leaves) else ""

    return FeatureKeys(
        video=video.path,
        frames=video.depth == 1,
        label=label.path,
        name=key_if("name", np.object_),
        times=key_if("times", np.floating),
        fps=key_if("fps", np.floating, np.integer),
        classes=tuple(label.feature.names) if label.is_class_label else None,
    )


def _leaves(feature: tfds_features.FeatureConnector, path: str, depth: int) -> Iterator[_Leaf]:
    while isinstance(feature, tfds_features.Sequence):
        feature, depth = feature.feature, depth + 1
    if isinstance(feature, tfds_features.FeaturesDict):
        for name, inner in feature.items():
            yield from _leaves(inner, f"{path}/{name}" if path else name, depth)
    else:
        yield _Leaf(path, feature, depth)


def _may_be_video(leaf: _Leaf) -> bool:
    if isinstance(leaf.feature, tfds_features.Image):
        return leaf.depth == 1
    is_bytes = leaf.depth == 0 and leaf.is_scalar(np.object_)
    return is_bytes and (not leaf.is_text or leaf.path == "video")


def _label_candidates(leaves: Sequence[_Leaf]) -> list[_Leaf]:
    labels = [leaf for leaf in leaves if leaf.depth == 0 and leaf.is_class_label]
    return labels or [leaf for leaf in leaves if leaf.depth == 0 and leaf.is_scalar(np.integer)]


def _choose(candidates: Sequence[_Leaf], name: str, leaves: Sequence[_Leaf], source: str) -> _Leaf:
    named = [leaf for leaf in candidates if leaf.path == name]
    if len(candidates) == 1 or named:
        return (named or candidates)[0]
    listed = ", ".join(f"{leaf.path} ({_describe(leaf)})" for leaf in leaves)
    expected = {
        "video": "a video (a tensor with the bytes of a file, or a sequence of images)",
        "label": "a label (a ClassLabel, or a whole number)",
    }[name]
    raise InputError(
        f"Expected {source!r} to have {expected}, one of them or else one named {name!r}, but it "
        f"has {listed}: use a data set that has."
    )


def _describe(leaf: _Leaf) -> str:
    return "sequence of " * leaf.depth + type(leaf.feature).__name__
