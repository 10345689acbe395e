"""What a published list says, before anybody looks for its videos."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vswin_jax.data.sources.annotations import read_text
from vswin_jax.errors import InputError


class Entry(NamedTuple):
    """One video of a list: its line, `class/file` or `file` as published, and its class."""

    line: int
    video: str
    label: str


class Listing(NamedTuple):
    """The entries of a list, in its order, and the names of the classes in the published order.

    names_file: the published file with that order; empty where the order is the alphabet's.
    label_names: None where `names_file` is not there.
    """

    entries: list[Entry]
    label_names: tuple[str, ...] | None
    names_file: str = ""


class Family(NamedTuple):
    """How the lists of one data set are known, from path and first characters, and read."""

    recognises: Callable[[str, str], bool]
    read: Callable[[str], Listing]


def alphabetical(entries: list[Entry]) -> Listing:
    """A listing whose classes are all those that it names, in the alphabet's order."""
    return Listing(entries, tuple(sorted({entry.label for entry in entries})))


def beside(path: str, names: Sequence[str]) -> tuple[str, str] | None:
    """The (path, text) of the first of the files `names` in the folder of `path`, if any."""
    for name in names:
        candidate = os.path.join(os.path.dirname(path), name)
        if os.path.isfile(candidate):
            return candidate, read_text(candidate)
    return None


def in_order(numbers: dict[str, int], first: int, path: str) -> tuple[str, ...]:
    """The names of classes that a file numbers from `first` on, without gaps.

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
