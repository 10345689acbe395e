"""Finding the videos of a published list: in class folders, in split folders, or all in one."""

import logging
import os
from collections.abc import Sequence

from vswin_jax.data.sources.annotations import Row
from vswin_jax.data.sources.folders import VIDEO_SUFFIXES
from vswin_jax.data.sources.published.listing import Entry
from vswin_jax.errors import InputError

log = logging.getLogger("vswin_jax")
# root/videos/train/class/file is as deep as published archives go; also ends loops of links.
_DEEPEST = 3
_NAMED = 5


def find_videos(entries: Sequence[Entry], root: str, source: str) -> list[Row]:
    """The rows of the entries that have a file under `root`, with paths relative to it.

    A file is known by its name without its suffix, since many keep these data sets re-encoded;
    where several have that name, the one in its class's folder is taken. The others are counted
    in one line of the log.

    Raises:
        InputError: there is no such folder, or it has none of the videos.
    """
    if not os.path.isdir(root):
        raise InputError(
            f"Expected the videos of {source!r} in {root!r}, which is no folder: correct the root."
        )
    videos = _videos_under(root)
    places = [_place(entry, videos) for entry in entries]
    missing = [entry.video for entry, place in zip(entries, places, strict=True) if not place]
    if len(missing) == len(entries):
        raise InputError(
            f"None of the {len(entries)} videos of {source!r} is in {root!r} (the first one is "
            f"{missing[0]!r}): set the root to the folder of the videos."
        )
    if missing:
        log.warning("%s", _said(missing, len(entries), source, root))
    return [
        Row(entry.line, place, entry.label)
        for entry, place in zip(entries, places, strict=True)
        if place
    ]


def _videos_under(root: str) -> dict[str, list[str]]:
    # One listing of the folders: asking for 650,000 files one by one takes hours on a network disk.
    found: dict[str, list[str]] = {}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        inside = os.path.relpath(folder, root)
        depth = 0 if inside == os.curdir else inside.count(os.sep) + 1
        subfolders[:] = [name for name in subfolders if depth < _DEEPEST and name[0] != "."]
        for name in files:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                place = os.path.normpath(os.path.join(inside, name))
                found.setdefault(stem, []).append(place)
    return found


def _place(entry: Entry, videos: dict[str, list[str]]) -> str | None:
    folder, name = os.path.split(entry.video)
    places = videos.get(os.path.splitext(name)[0], ())

    def unlikeness(place: str) -> tuple[bool, bool, str]:
        theirs, file = os.path.split(place)
        is_class = _spelt(os.path.basename(theirs)) == _spelt(folder)
        return not is_class, file != name, place

    return min(places, key=unlikeness, default=None)


def _spelt(folder: str) -> str:
    # Copies of Kinetics have folders with and without underscores.
    return folder.replace(" ", "_")


def _said(missing: Sequence[str], total: int, source: str, root: str) -> str:
    named = ", ".join(map(repr, missing[:_NAMED]))
    rest = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return (
        f"{len(missing)} of the {total} videos of {source!r} are not in {root!r} and are left "
        f"out: {named}{rest}"
    )
