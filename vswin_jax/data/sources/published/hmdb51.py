"""HMDB51: a folder of `<class>_test_split<1-3>.txt` files with `video.avi flag` lines.

As in test_train_splits.rar of the Serre lab (Kuehne et al., ICCV 2011; its split_readme.txt): flag
1 is training, 2 is testing, 0 is neither. The folder holds three splits of two subsets each, so a
path names one subset: `FOLDER:train1` or `FOLDER:test1`. The classes are in the order of their
names (climb before climb_stairs, unlike the names of their files).
"""

import os
import re

from vswin_jax.data.sources.published.listing import (
    ListedVideo,
    ListFormat,
    Listing,
    alphabetical_listing,
)
from vswin_jax.errors import InputError
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_text

_PATH = re.compile(r"(.+):(train|test)([1-3])", re.DOTALL)
_SPLIT_FILE = re.compile(r"(.+)_test_split([1-3])\.txt")
_FLAGS = {"train": "1", "test": "2"}


def without_split(path: str) -> str:
    """Return FOLDER for a path `FOLDER:train1` to an existing folder, and other paths unchanged."""
    match = _PATH.fullmatch(path)
    return match[1] if match and os.path.isdir(match[1]) else path


def _matches(path: str, head: str) -> bool:
    return bool(_split_files(without_split(path)))


def _read(path: str) -> Listing:
    match = _PATH.fullmatch(path)
    if not match:
        raise InputError(
            f"Expected {path!r} to name a subset of HMDB51: add :train1 or :test1 (or 2, 3) to the "
            "folder of the split files."
        )
    folder, subset, split = match.groups()
    files = {match[1]: match[0] for match in _split_files(folder) if match[2] == split}
    if not files:
        raise InputError(
            f"Expected `<class>_test_split{split}.txt` files in {folder!r} but there are none: "
            "give the folder of HMDB51's splits."
        )
    videos = []
    for label in sorted(files):
        videos += _read_class(os.path.join(folder, files[label]), label, _FLAGS[subset])
    return alphabetical_listing(videos)


def _split_files(folder: str) -> list[re.Match[str]]:
    try:
        names = os.listdir(folder)
    except OSError:
        # A file, or a folder for which the reader of folders will raise an error.
        return []
    return list(filter(None, map(_SPLIT_FILE.fullmatch, names)))


def _read_class(path: str, label: str, flag: str) -> list[ListedVideo]:
    """Read the videos of a class that have this flag."""
    videos = []
    for line, text in numbered_lines(read_text(path)):
        fields = text.rsplit(None, 1)
        if len(fields) < 2 or fields[1] not in ("0", "1", "2"):
            raise bad_line(path, line, "`video.avi` and 0, 1 or 2", text)
        if fields[1] == flag:
            videos.append(ListedVideo(line, f"{label}/{fields[0].strip()}", label))
    return videos


FORMAT = ListFormat(matches=_matches, read=_read)
