"""HMDB51: a folder of `<class>_test_split<1-3>.txt` files with `video.avi flag` lines.

As in test_train_splits.rar of the Serre lab (Kuehne et al., ICCV 2011; its split_readme.txt): flag
1 is training, 2 is testing, 0 is in neither. One folder holds three splits of two sets each, so a
path says which: `FOLDER:train1` or `FOLDER:test1`. The classes are in the order of their names
(climb before climb_stairs, unlike the files' names).
"""

import os
import re

from vswin_jax.data.sources.annotations import bad_line, read_text
from vswin_jax.data.sources.published.listing import Entry, Family, Listing, alphabetical
from vswin_jax.errors import InputError

_CHOICE = re.compile(r"(.+):(train|test)([1-3])", re.DOTALL)
_SPLIT_FILE = re.compile(r"(.+)_test_split([1-3])\.txt")
_FLAGS = {"train": "1", "test": "2"}


def folder_of(path: str) -> str:
    """The folder that `FOLDER:train1` names; any other path is its own."""
    choice = _CHOICE.fullmatch(path)
    return choice[1] if choice and os.path.isdir(choice[1]) else path


def _recognises(path: str, head: str) -> bool:
    return bool(_split_files(folder_of(path)))


def _read(path: str) -> Listing:
    choice = _CHOICE.fullmatch(path)
    if not choice:
        raise InputError(
            f"Expected {path!r} to say which part of HMDB51 is meant: add :train1 or :test1 (or "
            "2, 3) to the folder of the split files."
        )
    folder, part, split = choice.groups()
    files = {match[1]: match[0] for match in _split_files(folder) if match[2] == split}
    if not files:
        raise InputError(
            f"Expected `<class>_test_split{split}.txt` files in {folder!r} but there are none: "
            "give the folder of HMDB51's splits."
        )
    entries = []
    for label in sorted(files):
        entries += _of_class(os.path.join(folder, files[label]), label, _FLAGS[part])
    return alphabetical(entries)


def _split_files(folder: str) -> list[re.Match[str]]:
    try:
        names = os.listdir(folder)
    except OSError:
        # A file, or a folder that the reader of folders will complain about.
        return []
    return list(filter(None, map(_SPLIT_FILE.fullmatch, names)))


def _of_class(path: str, label: str, wanted: str) -> list[Entry]:
    entries = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        fields = text.rsplit(None, 1)
        if fields and (len(fields) < 2 or fields[1] not in ("0", "1", "2")):
            raise bad_line(path, line, "`video.avi` and 0, 1 or 2", text)
        if fields and fields[1] == wanted:
            entries.append(Entry(line, f"{label}/{fields[0].strip()}", label))
    return entries


FAMILY = Family(_recognises, _read)
