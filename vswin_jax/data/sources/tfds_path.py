"""How a path names a split of a TFDS data set; needs no TFDS.

`tfds:NAME[/CONFIG][:VERSION]:SPLIT` is a data set of the catalogue, and `DIRECTORY:SPLIT` one that
`tfds.builder_from_directory` opens, such as our record shards. SPLIT may be a part of one
(`train[:90%]`) or several (`train+test`).
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
    """A directory, or `NAME[/CONFIG][:VERSION]` of the catalogue, and a split; "" if none came."""

    name: str
    split: str
    is_directory: bool


def is_tfds(path: str) -> bool:
    """Whether `path` names a TFDS data set."""
    return path.startswith(PREFIX) or _directory_end(path) is not None


def parse(path: str) -> TfdsPath:
    """What the path says.

    Raises:
        InputError: it names no TFDS data set.
    """
    if path.startswith(PREFIX):
        return _of_catalogue(path)
    end = _directory_end(path)
    if end is None:
        raise InputError(
            f"Expected {path!r} to be DIRECTORY:SPLIT with a DIRECTORY that holds {INFO_FILE}, or "
            "tfds:NAME:SPLIT, for a TFDS data set: correct it, or the data format."
        )
    return TfdsPath(path[:end], path[end + 1 :], is_directory=True)


def _of_catalogue(path: str) -> TfdsPath:
    match = _CATALOGUE.fullmatch(path)
    if not match:
        raise InputError(
            f"Expected tfds:NAME[/CONFIG][:VERSION]:SPLIT, such as tfds:ucf101/ucf101_1:train, but "
            f"{path!r} came: correct it."
        )
    return TfdsPath(match["name"], match["split"] or "", is_directory=False)


def _directory_end(path: str) -> int | None:
    """Where the directory of `DIRECTORY[:SPLIT]` ends; directories and splits may have colons."""
    colons = [place for place, character in enumerate(path) if character == ":"]
    for end in (*colons, len(path)):
        if os.path.isfile(os.path.join(path[:end], INFO_FILE)):
            return end
    return None
