"""Which features of a TFDS data set are the video, the label and the name of an example."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow_datasets import features as tfds_features

from vswin_jax.errors import InputError


@dataclass(frozen=True)
class Keys:
    """Under which keys a serialized example has what we need; "" for what it does not have.

    video: the bytes of a video file, or with `frames` those of an image for each frame.
    times: seconds of each frame; fps: frames a second.
    classes: the names of the classes in the order of the labels; None where the data do not say.
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
    """A feature without features in it, and how many sequences it is in."""

    path: str
    feature: tfds_features.FeatureConnector
    depth: int

    @property
    def is_text(self) -> bool:
        return isinstance(self.feature, tfds_features.Text)

    @property
    def is_classes(self) -> bool:
        return isinstance(self.feature, tfds_features.ClassLabel)

    def is_tensor(self, *kinds: type[np.generic]) -> bool:
        """Whether it is one value of one of these kinds, or a list of them in a sequence."""
        is_one = isinstance(self.feature, tfds_features.Tensor) and self.feature.shape == ()
        return is_one and any(np.issubdtype(self.feature.np_dtype, kind) for kind in kinds)


def find_keys(features: tfds_features.FeaturesDict, source: str) -> Keys:
    """The keys of the data set `source`.

    Where several features could be the video or the label, it is the one of that name.

    Raises:
        InputError: there is no video or no label, or several; lists the features.
    """
    leaves = list(_leaves(features, "", 0))
    videos = [leaf for leaf in leaves if _may_be_video(leaf)]
    labels = [leaf for leaf in leaves if leaf.depth == 0 and leaf.is_classes]
    if not labels:
        labels = [leaf for leaf in leaves if leaf.depth == 0 and leaf.is_tensor(np.integer)]
    video = _choose(videos, "video", leaves, source)
    label = _choose(labels, "label", leaves, source)
    has = {leaf.path: leaf for leaf in leaves}
    return Keys(
        video=video.path,
        frames=video.depth == 1,
        label=label.path,
        name="name" if "name" in has and has["name"].is_tensor(np.object_) else "",
        times="times" if "times" in has and has["times"].is_tensor(np.floating) else "",
        fps="fps" if "fps" in has and has["fps"].is_tensor(np.floating, np.integer) else "",
        classes=tuple(label.feature.names) if label.is_classes else None,
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
    is_bytes = leaf.depth == 0 and leaf.is_tensor(np.object_)
    return is_bytes and (not leaf.is_text or leaf.path == "video")


def _choose(candidates: Sequence[_Leaf], name: str, leaves: Sequence[_Leaf], source: str) -> _Leaf:
    named = [leaf for leaf in candidates if leaf.path == name]
    if len(candidates) == 1 or named:
        return (named or candidates)[0]
    listed = ", ".join(f"{leaf.path} ({_described(leaf)})" for leaf in leaves)
    expected = {
        "video": "a video (a tensor with the bytes of a file, or a sequence of images)",
        "label": "a label (a ClassLabel, or a whole number)",
    }[name]
    raise InputError(
        f"Expected {source!r} to have {expected}, one of them or else one named {name!r}, but it "
        f"has {listed}: use a data set that has."
    )


def _described(leaf: _Leaf) -> str:
    return "sequence of " * leaf.depth + type(leaf.feature).__name__
