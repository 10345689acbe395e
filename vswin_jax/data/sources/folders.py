"""Reads data sets that are a folder with a sub-folder for each class."""

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from vswin_jax.data.decoding.frames import is_image
from vswin_jax.data.sources.annotations import AnnotationRow
from vswin_jax.errors import InputError, join_some

log = logging.getLogger("vswin_jax")
# The containers and raw streams that FFmpeg reads, without those that mostly hold sound, subtitles,
# a single image, or frames whose size only the user knows (.yuv).
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mj2", ".3gp", ".3gpp", ".3g2", ".3gp2", ".f4v", ".ismv"),
    *(".mkv", ".mk3d", ".webm", ".avi", ".divx", ".amv", ".flv", ".kux", ".ogv", ".ogm", ".ogx"),
    *(".asf", ".wmv", ".wm", ".dvr-ms", ".wtv", ".rm", ".rmvb", ".ivr", ".viv", ".nsv", ".nuv"),
    *(".ts", ".m2ts", ".m2t", ".mts", ".tp", ".trp", ".ty", ".pva"),
    *(".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".mp2v", ".mpv2", ".vob", ".vro", ".evo"),
    *(".mod", ".tod", ".dv", ".dif", ".mxf", ".mxg", ".gxf", ".lxf", ".r3d", ".nut", ".dav"),
    *(".h261", ".h263", ".h264", ".264", ".h26l", ".avc", ".h265", ".265", ".hevc", ".h266"),
    *(".266", ".vvc", ".evc", ".apv", ".obu", ".ivf", ".vc1", ".rcv", ".cavs", ".avs2", ".avs3"),
    *(".drc", ".vc2", ".dnxhd", ".dnxhr", ".mjpg", ".mjpeg", ".y4m", ".gif", ".apng"),
    *(".mp4v", ".mpeg4", ".f4p", ".psp", ".insv", ".360"),
    *(".swf", ".fli", ".flc", ".bik", ".bk2", ".smk", ".roq", ".thp", ".usm", ".xmv", ".ifv"),
)
# Files and folders that macOS, Windows and network disks add to others, in lower case.
_OF_SYSTEMS = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found"),
        *("__macosx", "@eadir", "$recycle.bin", "system volume information"),
    }
)
_MAX_OPENED = 20  # folders of a class in which images are looked for: a network disk takes long
_MAX_NAMES = 5  # of left-out files that the log and errors name


class FolderEntries(NamedTuple):
    """The sorted names of a folder's sub-folders and files."""

    folders: list[str]
    files: list[str]


def read_folder(path: str, *, frames: bool) -> list[AnnotationRow]:
    """List the videos of a folder of classes, with paths relative to it.

    Classes are in alphabetical order, and so are the videos of each. With `frames`, a video is a
    folder of images. Everything else in the folders is left out, with a line in the log.

    Raises:
      InputError: the folder has no classes, or a class has no videos.
    """
    classes, left_out = list_entries(path)
    if not classes:
        raise InputError(
            f"The folder {path!r} has no sub-folders: videos are expected in one sub-folder per "
            "class."
        )
    rows = []
    for name in classes:
        videos, others = _split_videos(list_entries(os.path.join(path, name)), frames)
        if not videos:
            raise _no_videos(os.path.join(path, name), frames, others)
        rows += [AnnotationRow(0, os.path.join(name, video), name) for video in videos]
        left_out += [os.path.join(name, other) for other in others]
    if left_out:
        _report_left_out(left_out, path, frames)
    return rows


def has_frame_folders(path: str) -> bool:
    """Return True if the videos of a folder of classes are folders of images, not files.

    The first class with either decides. If it has both, as a folder of thumbnails beside videos or
    a preview beside folders of frames, its videos are of the kind that it has more of.
    """
    for name in list_entries(path).folders:
        folder = os.path.join(path, name)
        entries = list_entries(folder)
        files = sum(map(is_video, entries.files))
        if files < len(entries.folders) and any(
            _has_images(os.path.join(folder, video)) for video in entries.folders[:_MAX_OPENED]
        ):
            return True
        if files:
            return False
    return False


def _split_videos(entries: FolderEntries, frames: bool) -> tuple[list[str], list[str]]:
    """Return the videos of a class, and all else in its folder."""
    folders = [os.path.join(name, "") for name in entries.folders]
    if frames:
        return entries.folders, entries.files
    videos = [name for name in entries.files if is_video(name)]
    return videos, [name for name in entries.files if not is_video(name)] + folders


def is_video(name: str) -> bool:
    """Return True if a file has a video's suffix."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def _has_images(folder: str) -> bool:
    return any(map(is_image, list_entries(folder).files))


def _no_videos(folder: str, frames: bool, others: Sequence[str]) -> InputError:
    expected = "folders of images" if frames else "video files such as a.mp4 or a.mkv"
    found = f" but has {join_some([*map(repr, others)], _MAX_NAMES)}" if others else ""
    return InputError(
        f"The class {os.path.basename(folder)!r} has no videos: {folder!r} should hold "
        f"{expected}{found}; add some or remove the folder."
    )


def _report_left_out(names: Sequence[str], path: str, frames: bool) -> None:
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_describe_kind(name), []).append(name)
    largest = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    shown = join_some([f"{kind}: {len(of)} ({of[0]!r})" for kind, of in largest], _MAX_NAMES)
    expected = "folders of images" if frames else "files with a video's suffix"
    single = len(names) == 1
    what, verb = ("file or folder", "is") if single else ("files and folders", "are")
    counts = f"{len(names)} {what} in {path!r} {verb} left out"
    log.warning("%s, as only %s in class folders are videos: %s", counts, expected, shown)


def _describe_kind(name: str) -> str:
    if name.endswith(os.sep):
        return "folders"
    return os.path.splitext(name)[1].lower() or "without a suffix"


def list_entries(path: str) -> FolderEntries:
    """List a folder without hidden entries and those of systems.

    Raises:
      InputError: it cannot be read.
    """
    try:
        with os.scandir(path) as found:
            entries = [(entry.name, _is_folder(entry)) for entry in found if _is_visible(entry)]
    except OSError as error:
        raise InputError(f"The folder {path!r} cannot be read: {error.strerror}.") from error
    folders = sorted(name for name, is_folder in entries if is_folder)
    return FolderEntries(folders, sorted(name for name, is_folder in entries if not is_folder))


def _is_visible(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in _OF_SYSTEMS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of symbolic links
        return False
