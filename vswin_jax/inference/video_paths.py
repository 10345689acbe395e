"""Finds the videos that paths name: files, folders of frames, folders of either at any depth."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from vswin_jax.data.decoding.frames import FrameFolder, is_image
from vswin_jax.data.sources.folders import is_video, list_entries
from vswin_jax.errors import InputError

VideoPath = str | os.PathLike[str]


class FoundVideo(NamedTuple):
    """A video at `path`, as the decoder opens it."""

    path: str
    video: str | FrameFolder


def find_videos(path: VideoPath) -> list[FoundVideo]:
    """Return the video at `path`, or all videos in that folder and its sub-folders, by name.

    A file that is named is a video whatever its suffix is. A folder with numbered images and no
    video files is one video.

    Raises:
      InputError: there is nothing, or a folder without videos, or one that cannot be read.
    """
    path = os.fsdecode(path)
    if not os.path.isdir(path):
        # A pipe would be waited for, and cannot be read twice.
        if not os.path.isfile(path):
            raise InputError(f"There is no video file at {path!r}: correct the path.")
        return [FoundVideo(path, path)]
    found = list(_in_folder(path, frozenset()))
    if not found:
        raise InputError(
            f"The folder {path!r} holds neither video files nor numbered images such as "
            f"img_00001.jpg: give the path of a video, or of a folder with videos or frames."
        )
    return found


def find_one_video(path: VideoPath) -> FoundVideo:
    """Return the only video that `path` names.

    Raises:
      InputError: there is none, or a folder with several.
    """
    found = find_videos(path)
    if len(found) > 1:
        raise InputError(
            f"Expected one video but the folder {found[0].path!r} is in has {len(found)}: give the "
            f"path of one of them."
        )
    return found[0]


def _in_folder(folder: str, parents: frozenset[str]) -> Iterator[FoundVideo]:
    """Yield the videos of a folder; `parents` are the real paths of those that it is in."""
    real = os.path.realpath(folder)
    if real in parents:  # a link to a folder that it is in
        return
    folders, files = list_entries(folder)
    videos = [*filter(is_video, files)]
    images = sum(map(is_image, files))
    # A single image beside folders is a title picture, and those folders have the videos.
    if not videos and images > (1 if folders else 0):
        yield FoundVideo(folder, FrameFolder(folder))
        return
    for name in videos:
        path = os.path.join(folder, name)
        yield FoundVideo(path, path)
    for name in folders:
        yield from _in_folder(os.path.join(folder, name), parents | {real})
