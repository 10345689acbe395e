"""The content of a published list, before its videos are looked up on disk."""

import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vswin_jax.errors import InputError
from vswin_jax.runtime.label_names import normalize_label_name
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_text


class ListedVideo(NamedTuple):
    """One video of a list.

    Attributes:
      line: the line number.
      video: `class/file` or `file` as published.
      label: the name of the class.
    """

    line: int
    video: str
    label: str


class Listing(NamedTuple):
    """The content of a published list.

    Attributes:
      videos: in the order of the list.
      label_names: the class names in the published order; None if `names_file` is missing.
      names_file: the name of the published file with that order; empty for alphabetical order.
    """

    videos: list[ListedVideo]
    label_names: tuple[str, ...] | None
    names_file: str = ""


class ListFormat(NamedTuple):
    """The format of one data set's lists.

    Attributes:
      matches: returns True for a list in this format, from its path and its first characters.
      read: reads the list at a path.
    """

    matches: Callable[[str, str], bool]
    read: Callable[[str], Listing]


def alphabetical_listing(videos: list[ListedVideo]) -> Listing:
    """Build a listing whose classes are those of its videos, in alphabetical order."""
    names = {normalize_label_name(video.label) for video in videos}
    return Listing(videos, tuple(sorted(names)))


def read_sibling(path: str, names: Sequence[str]) -> tuple[str, str] | None:
    """Return (path, text) of the first file of `names` that exists in the folder of `path`."""
    for name in names:
        sibling = os.path.join(os.path.dirname(path), name)
        if os.path.isfile(sibling):
            return sibling, read_text(sibling)
    return None


def read_numbered_names(
    path: str, names_file: str, pattern: re.Pattern[str], expected: str, *, first: int
) -> tuple[str, ...] | None:
    """Read the file in the folder of `path` that numbers the classes from `first`, if it exists.

    `pattern` matches a line, with groups `name` and `number`; `expected` describes it in errors.

    Raises:
      InputError: a line is malformed, or a number is missing or comes twice.
    """
    sibling = read_sibling(path, [names_file])
    if sibling is None:
        return None
    numbers = {}
    for line, text in numbered_lines(sibling[1]):
        match = pattern.fullmatch(text)
        if not match:
            raise bad_line(sibling[0], line, expected, text)
        numbers[match["name"]] = int(match["number"])
    return sort_by_number(numbers, first, sibling[0])


def sort_by_number(numbers: dict[str, int], first: int, path: str) -> tuple[str, ...]:
    """Return the class names of the file `path` in the order of their numbers from `first` on.

    Raises:
      InputError: a number is missing or comes twice.
    """
    names = sorted(numbers, key=numbers.__getitem__)
    for expected, name in enumerate(names, start=first):
        if numbers[name] != expected:
            raise InputError(
                f"{path!r} should number its {len(names)} classes from {first} without gaps, but "
                f"{name!r} has {numbers[name]} where {expected} was expected: use the published "
                "file."
            )
    return tuple(names)
