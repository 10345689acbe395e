"""Opens what a user names, paths or a data set, as one source of videos."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from vswin_jax.data.decoding.frames import is_image
from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.bad_videos import nameless
from vswin_jax.data.sources.folders import is_video
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError
from vswin_jax.inference.predictor import FoundVideos, UnreadableVideo, Videos


class VideoList:
    """Videos without labels, in the order in which their paths were given; see `Source`.

    Attributes:
      missing: the paths without videos.
    """

    multi_label = False

    def __init__(self, videos: Videos, label_names: tuple[str, ...] = ()) -> None:
        """Find the videos that the paths name."""
        found = FoundVideos(videos)
        self.label_names = label_names
        self.missing: list[UnreadableVideo] = found.missing
        self._examples = found.examples

    @property
    def identity(self) -> str:
        """A digest of the paths, in their order."""
        names = json.dumps([example.name for example in self._examples])
        return hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class NamedLabel(NamedTuple):
    """The name of a video, and its label; None if a damaged record has none."""

    name: str
    label: int | tuple[int, ...] | None


class SomeVideos:
    """The videos of `source` at `indices`, numbered anew; see `Source`.

    The names and labels of videos that were read are remembered until they are taken, because a
    record would have to be read again for them.
    """

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.label_names, self.multi_label = source.label_names, source.multi_label
        self._source, self._indices = source, indices
        self._read: dict[int, NamedLabel] = {}

    @property
    def identity(self) -> str:
        """A digest of the videos, in their order."""
        content = json.dumps([self._source.identity, list(self._indices)])
        return hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        example = self._source[self._indices[index]]
        self._read[index] = NamedLabel(example.name, example.label)
        return dataclasses.replace(example, id=index)

    def take(self, index: int) -> NamedLabel:
        """Return the name and label of a video that was read, and forget them."""
        return self._read.pop(index, NamedLabel(nameless(self._indices[index]), None))


def open_videos(
    videos: Videos,
    *,
    root: str | os.PathLike[str] = "",
    kind: str = "auto",
    label_names: tuple[str, ...] | None = None,
    multi_label: bool = False,
) -> Source:
    """Open paths, or one list or data set that training reads, as a source.

    Args:
      videos: one path or several, of video files, of folders of frames, or of folders with either
        at any depth; or one list or data set in a format of `open_source`.
      root: the folder to which paths in a list are relative.
      kind: the format of a list or data set; with "auto", a folder is one of videos without labels.
      label_names: the classes of the model, which a data set with labels must have.
      multi_label: let the videos of a data set have sets of labels.

    Raises:
      InputError: there is no such data set, or no videos at all.
    """
    paths = [videos] if isinstance(videos, str | bytes | os.PathLike) else list(videos)
    if len(paths) == 1 and _is_data_set(os.fsdecode(paths[0]), kind):
        return open_source(
            os.fsdecode(paths[0]),
            root=root,
            kind=kind,
            label_names=label_names or None,
            must_exist=False,
            multi_label=multi_label,
        )
    if kind != "auto" or root:
        raise InputError(
            f"Expected one list or data set, as kind and root are given, but {len(paths)} paths "
            f"came: give one, or leave kind and root out."
        )
    found = VideoList(paths, label_names or ())
    if not len(found):
        reason = found.missing[0].reason if found.missing else "No videos were given: name some."
        raise InputError(reason)
    return found


def _is_data_set(path: str, kind: str) -> bool:
    if kind != "auto":
        return True
    if os.path.isdir(path):
        return False
    # A file that is no list may be a video of any suffix; a path that is no file may be of TFDS.
    is_list = path.lower().endswith((".txt", ".csv", ".tsv", ".json", ".jsonl", ".lst"))
    return is_list or (":" in path and not os.path.exists(path) and not _looks_like_video(path))


def _looks_like_video(path: str) -> bool:
    return is_video(path) or is_image(path)
