"""Looks up the videos of a published list on disk: in class folders, in split folders, or flat."""

import logging
import os
from collections.abc import Sequence

from vswin_jax.data.sources.annotations import AnnotationRow
from vswin_jax.data.sources.folders import VIDEO_SUFFIXES
from vswin_jax.data.sources.published.listing import ListedVideo
from vswin_jax.errors import InputError, join_some

log = logging.getLogger("vswin_jax")
# root/videos/train/class/file is the deepest layout of published archives. The limit also ends
# cycles of symbolic links.
_MAX_DEPTH = 3
_MAX_NAMES = 5  # missing videos that the log names


def find_videos(videos: Sequence[ListedVideo], root: str, source: str) -> list[AnnotationRow]:
    """Return a row, with a path relative to `root`, for each listed video that is found there.

    Files are compared by name without suffix, since these data sets are often stored re-encoded.
    Among several files of that name, one in the folder of the video's class is taken. Missing
    videos are counted in one log line.

    Raises:
      InputError: `root` is not a folder, or has none of the videos.
    """
    if not os.path.isdir(root):
        raise InputError(
            f"Expected the videos of {source!r} in {root!r}, which is not a folder: set the root.",
            ["the root"],
        )
    files = _video_files(root)
    found = [(video, _best_match(video, files)) for video in videos]
    missing = [video.video for video, path in found if not path]
    if missing:
        _report_missing(missing, len(videos), source, root)
    return [AnnotationRow(video.line, path, video.label) for video, path in found if path]


def _video_files(root: str) -> dict[str, list[str]]:
    """Map each file name without suffix to the paths of its files, relative to `root`."""
    # One walk over the folders, because 650,000 single look-ups take hours on a network disk.
    files: dict[str, list[str]] = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        relative = os.path.relpath(folder, root)
        depth = 0 if relative == os.curdir else relative.count(os.sep) + 1
        subfolders[:] = [name for name in subfolders if depth < _MAX_DEPTH and name[0] != "."]
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                path = os.path.normpath(os.path.join(relative, name))
                files.setdefault(stem, []).append(path)
    return files


def _best_match(video: ListedVideo, files: dict[str, list[str]]) -> str | None:
    class_folder, name = os.path.split(video.video)
    candidates = files.get(os.path.splitext(name)[0], ())

    def mismatch(path: str) -> tuple[bool, bool, str]:
        folder, file = os.path.split(path)
        is_class = _with_underscores(os.path.basename(folder)) == _with_underscores(class_folder)
        return not is_class, file != name, path

    return min(candidates, key=mismatch, default=None)


def _with_underscores(folder: str) -> str:
    # Copies of Kinetics name their class folders with spaces or with underscores.
    return folder.replace(" ", "_")


def _report_missing(missing: Sequence[str], total: int, source: str, root: str) -> None:
    if len(missing) == total:
        raise InputError(
            f"None of the {total} videos of {source!r} is in {root!r} (the first one is "
            f"{missing[0]!r}): set the root to the folder of the videos.",
            ["the root"],
        )
    named = join_some([*map(repr, missing)], _MAX_NAMES)
    summary = f"{len(missing)} of the {total} videos of {source!r} are not in {root!r}"
    log.warning("%s and are left out: %s", summary, named)
