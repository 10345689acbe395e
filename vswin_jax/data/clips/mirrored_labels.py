"""The classes of mirrored clips: pairs of classes such as left and right are exchanged.

A map of mirrored labels has, for each class, the class of its mirror image (mostly itself).
"""

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, Int32

from vswin_jax.errors import InputError
from vswin_jax.runtime.label_names import normalize_label_name
from vswin_jax.runtime.text_files import bad_line, numbered_lines, read_text

LEFT_RIGHT = "left_right"
# Word borders, where an underscore (as in move_left) or a digit ends a word, unlike with \b.
_SIDE = re.compile(r"(?<![^\W\d_])(left|right)(?![^\W\d_])", re.IGNORECASE)
_MAX_NAMED = 3  # unpaired classes that `describe_pairs` lists by name


def mirrored_labels(rule: str, names: Sequence[str]) -> Int32[np.ndarray, " K"]:
    """Return the map of mirrored labels for the classes `names`.

    Args:
      rule: `left_right` pairs classes whose names differ only in that left and right are exchanged.
        Any other value is the path of a text file with two class names on each line, separated by
        a tab.
      names: the class names, in the order of the labels.

    Raises:
      InputError: there is no pair, or a line of the file cannot be used.
    """
    partner = np.arange(len(names), dtype=np.int32)
    pairs = _left_right_pairs(names) if rule == LEFT_RIGHT else _listed_pairs(rule, names)
    for first, second in pairs:
        partner[[first, second]] = second, first
    return partner


def describe_pairs(partner: Int[np.ndarray, " K"], names: Sequence[str]) -> str:
    """Describe a map of mirrored labels, with the classes whose partner seems to be missing."""
    pairs = int((partner != np.arange(len(partner))).sum()) // 2
    text = (
        f"mirrored clips exchange the labels of {pairs} pair{'s' if pairs > 1 else ''} of classes"
    )
    unpaired = [n for k, n in enumerate(names) if partner[k] == k and _SIDE.search(n)]
    if not unpaired:
        return text
    more = ", ..." if len(unpaired) > _MAX_NAMED else ""
    return (
        f"{text}; {len(unpaired)} that name a side have no partner and keep their labels: "
        f"{', '.join(map(repr, unpaired[:_MAX_NAMED]))}{more}"
    )


def _left_right_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    index_of = {name: index for index, name in enumerate(names)}
    mirrored = [index_of.get(_SIDE.sub(_opposite_side, name), -1) for name in names]
    pairs = [(k, other) for k, other in enumerate(mirrored) if k < other and mirrored[other] == k]
    if not pairs:
        raise InputError(
            f"config.data.flip_labels is {LEFT_RIGHT!r} but no two of the {len(names)} classes "
            f"differ in the words left and right alone: leave it out, or give a file of pairs."
        )
    return pairs


def _opposite_side(match: re.Match[str]) -> str:
    word = match[0]
    opposite = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return opposite.upper()
    return opposite.capitalize() if word[0].isupper() else opposite


def _listed_pairs(path: str, names: Sequence[str]) -> Iterator[tuple[int, int]]:
    if not os.path.isfile(path):
        raise InputError(
            f"Expected config.data.flip_labels to be {LEFT_RIGHT!r} or a text file of pairs of "
            f"classes but {path!r} is neither: correct it."
        )
    index_of = {normalize_label_name(name): index for index, name in enumerate(names)}
    line_of: dict[str, int] = {}
    for number, line in numbered_lines(read_text(path)):
        first, second = _parse_pair(path, number, line, index_of, line_of)
        yield index_of[first], index_of[second]
    if not line_of:
        raise InputError(
            f"Expected {path!r}, which config.data.flip_labels names, to list pairs of classes but "
            f"it is empty: add some, or leave it out."
        )


def _parse_pair(
    path: str, number: int, line: str, index_of: dict[str, int], line_of: dict[str, int]
) -> list[str]:
    """Return the two class names of a line, and store their line number in `line_of`."""
    pair = [normalize_label_name(name) for name in line.split("\t")]
    if len(pair) != 2 or pair[0] == pair[1]:
        raise bad_line(path, number, "the names of two classes with a tab between them", line)
    for name in pair:
        _check_name(name, f"{path!r}, line {number}", index_of, line_of)
        line_of[name] = number
    return pair


def _check_name(
    name: str, location: str, index_of: dict[str, int], line_of: dict[str, int]
) -> None:
    if name not in index_of:
        raise InputError(
            f"{location}: {name!r} is not one of the {len(index_of)} classes of the training set: "
            f"write it as in the run's label_names.txt."
        )
    if name in line_of:
        raise InputError(
            f"{location}: {name!r} has a partner already, on line {line_of[name]}: name every "
            f"class once."
        )
