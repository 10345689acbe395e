"""Parses the paths that name a split of a TFDS data set, without importing TFDS.

`tfds:NAME[/CONFIG][:VERSION]:SPLIT` is a data set of the catalogue, and `DIRECTORY:SPLIT` one that
`tfds.builder_from_directory` opens, such as prepared record shards. SPLIT may be a part of a split
(`train[:90%]`) or a sum of splits (`train+test`).
"""

import os
import re
from dataclasses import dataclass

from vswin_jax.errors import InputError

PREFIX = "tfds:"
INFO_FILE = "dataset_info.json"
_VERSION = r"(?:\d+|\*)(?:\.(?:\d+|\*)){2}"
_CATALOGUE = re.compile(
    rf"tfds:(?P<name>\w+(?:/[\w+.-]+)?(?::{_VERSION})?)(?::(?P<split>.*))?", re.DOTALL
)


@dataclass(frozen=True)
class TfdsPath:
    """A data set and a split.

    Attributes:
      name: a directory, or `NAME[/CONFIG][:VERSION]` of the catalogue.
      split: empty if the path names none.
      is_directory: True if `name` is a directory.
    """

    name: str
    split: str
    is_directory: bool


def is_tfds_path(path: str) -> bool:
    """Return True if `path` names a TFDS data set."""
    return path.startswith(PREFIX) or _directory_end(path) is not None


def parse_tfds_path(path: str) -> TfdsPath:
    """Parse a path into a data set and a split.

    Raises:
      InputError: it names no TFDS data set.
    """
    if path.startswith(PREFIX):
        return _parse_catalogue_path(path)
    end = _directory_end(path)
    if end is None:
        raise InputError(
            f"Expected {path!r} to be DIRECTORY:SPLIT with a DIRECTORY that holds {INFO_FILE}, or "
            "tfds:NAME:SPLIT, for a TFDS data set: correct it, or the data format.",
            ["the data format"],
        )
    return TfdsPath(path[:end], path[end + 1 :], is_directory=True)


def _parse_catalogue_path(path: str) -> TfdsPath:
    match = _CATALOGUE.fullmatch(path)
    if not match:
        raise InputError(
            f"Expected tfds:NAME[/CONFIG][:VERSION]:SPLIT, such as tfds:ucf101/ucf101_1:train, but "
            f"{path!r} came: correct it."
        )
    return TfdsPath(match["name"], match["split"] or "", is_directory=False)


def _directory_end(path: str) -> int | None:
    """Return the end of the directory in `DIRECTORY[:SPLIT]`; both parts may contain colons."""
    colons = [position for position, character in enumerate(path) if character == ":"]
    for end in (*colons, len(path)):
        if os.path.isfile(os.path.join(path[:end], INFO_FILE)):
            return end
    return None
