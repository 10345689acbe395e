"""Which class a clip belongs to once it is mirrored: classes such as left and right change places.

A map of mirrored labels is int32 [K]: the class of the mirror image of each class, itself for most.
"""

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from vswin_jax.data.sources.annotations import bad_line, read_text
from vswin_jax.errors import InputError

LEFT_RIGHT = "left_right"
# Words as people write them in class names, so an underscore ends one.
_SIDE = re.compile(r"(?<![^\W\d_])(left|right)(?![^\W\d_])", re.IGNORECASE)
_NAMED = 3  # classes without a partner that the summary names


def mirrored_labels(rule: str, names: Sequence[str]) -> np.ndarray:
    """The map of mirrored labels for the classes `names`, int32 [K].

    Args:
        rule: `left_right` pairs the classes whose names differ in the words left and right alone,
            which change places; otherwise the path of a text file with the names of a pair of
            classes on each line, a tab between them.
        names: of the classes, in the order of the labels.

    Raises:
        InputError: no classes pair, or the file cannot be used; it names the line.
    """
    partner = np.arange(len(names), dtype=np.int32)
    for one, other in _left_right(names) if rule == LEFT_RIGHT else _listed(rule, names):
        partner[[one, other]] = other, one
    return partner


def describe_pairs(partner: np.ndarray, names: Sequence[str]) -> str:
    """A map of mirrored labels in a sentence, with the classes that seem to lack a partner."""
    pairs = int((partner != np.arange(len(partner))).sum()) // 2
    said = (
        f"mirrored clips exchange the labels of {pairs} pair{'s' if pairs > 1 else ''} of classes"
    )
    alone = [n for k, n in enumerate(names) if partner[k] == k and _SIDE.search(n)]
    if not alone:
        return said
    more = ", ..." if len(alone) > _NAMED else ""
    return (
        f"{said}; {len(alone)} that name a side have no partner and keep theirs: "
        f"{', '.join(map(repr, alone[:_NAMED]))}{more}"
    )


def _left_right(names: Sequence[str]) -> list[tuple[int, int]]:
    index_of = {name: index for index, name in enumerate(names)}
    swapped = [index_of.get(_SIDE.sub(_other_side, name), -1) for name in names]
    pairs = [(k, other) for k, other in enumerate(swapped) if k < other and swapped[other] == k]
    if not pairs:
        raise InputError(
            f"config.data.flip_labels is {LEFT_RIGHT!r} but no two of the {len(names)} classes "
            f"differ in the words left and right alone: leave it out, or give a file of pairs."
        )
    return pairs


def _other_side(match: re.Match[str]) -> str:
    word = match[0]
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _listed(path: str, names: Sequence[str]) -> Iterator[tuple[int, int]]:
    if not os.path.isfile(path):
        raise InputError(
            f"Expected config.data.flip_labels to be {LEFT_RIGHT!r} or a text file of pairs of "
            f"classes but {path!r} is neither: correct it."
        )
    index_of = {name: index for index, name in enumerate(names)}
    line_of: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        pair = [name.strip() for name in line.split("\t")]
        if len(pair) != 2 or pair[0] == pair[1]:
            raise bad_line(path, number, "the names of two classes with a tab between them", line)
        for name in pair:
            _check_name(name, f"{path!r}, line {number}", index_of, line_of)
            line_of[name] = number
        yield index_of[pair[0]], index_of[pair[1]]
    if not line_of:
        raise InputError(
            f"Expected {path!r}, which config.data.flip_labels names, to list pairs of classes but "
            f"it is empty: add some, or leave it out."
        )


def _check_name(name: str, where: str, index_of: dict[str, int], line_of: dict[str, int]) -> None:
    if name not in index_of:
        raise InputError(
            f"{where}: {name!r} is none of the {len(index_of)} classes of the training set: write "
            f"it as in the run's label_names.txt."
        )
    if name in line_of:
        raise InputError(
            f"{where}: {name!r} has a partner already, on line {line_of[name]}: name every class "
            f"once."
        )
