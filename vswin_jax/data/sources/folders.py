"""Reads data sets that are a folder with a sub-folder for each class."""

import os

from vswin_jax.data.decoding.frames import is_image
from vswin_jax.data.sources.annotations import AnnotationRow
from vswin_jax.errors import InputError

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".ts", ".3gp", ".gif"),
)


def read_folder(path: str, *, frames: bool) -> list[AnnotationRow]:
    """List the videos of a folder of classes, with paths relative to it.

    Classes are in alphabetical order, and so are the videos of each. With `frames`, a video is a
    folder of images.

    Raises:
      InputError: the folder has no classes, or a class has no videos.
    """
    classes = _subfolders(path)
    if not classes:
        raise InputError(
            f"The folder {path!r} has no sub-folders: videos are expected in one sub-folder per "
            "class."
        )
    rows = []
    for name in classes:
        videos = _videos(os.path.join(path, name), frames)
        rows += [AnnotationRow(0, os.path.join(name, video), name) for video in videos]
    return rows


def has_frame_folders(path: str) -> bool:
    """Return True if the first video of a folder of classes is a folder of images."""
    for name in _subfolders(path)[:1]:
        folder = os.path.join(path, name)
        for video in _subfolders(folder)[:1]:
            return any(map(is_image, os.listdir(os.path.join(folder, video))))
    return False


def _videos(folder: str, frames: bool) -> list[str]:
    videos = _subfolders(folder) if frames else _video_files(folder)
    if not videos:
        expected = "folders of images" if frames else f"video files ({' '.join(VIDEO_SUFFIXES)})"
        raise InputError(
            f"The class {os.path.basename(folder)!r} has no videos: {folder!r} should hold "
            f"{expected}; add some or remove the folder."
        )
    return videos


def _video_files(folder: str) -> list[str]:
    return sorted(
        entry.name
        for entry in _visible_entries(folder)
        if entry.name.lower().endswith(VIDEO_SUFFIXES) and not entry.is_dir()
    )


def _subfolders(path: str) -> list[str]:
    return sorted(entry.name for entry in _visible_entries(path) if entry.is_dir())


def _visible_entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"The folder {path!r} cannot be read: {error.strerror}.") from error
