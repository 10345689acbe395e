"""From the labels that a user wrote, numbers or names, to class indices and their names."""

import bisect
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import whole_file

LABEL_NAMES_FILE = "label_names.txt"
_NUMBER = re.compile(r"-?\d+")
NO_CLASS = "no class"  # of a video whose set of labels is empty
Where = Callable[[int], str]
# Of every video its class, int32 [N], or its set of classes in ascending order.
Labels = np.ndarray | tuple[tuple[int, ...], ...]


def resolve_labels(
    labels: Sequence[str | tuple[str, ...]],
    where: Where,
    source: str,
    *,
    label_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    numbers: bool = True,
    multi_label: bool = False,
) -> tuple[Labels, tuple[str, ...]]:
    """The class of every video, or with `multi_label` its classes, and the name of every class.

    Labels that are all whole numbers are indices, unless `numbers` is False or they are all among
    the given names; otherwise all are names, whose order is the alphabet's unless `label_names`
    (the training set's) gives it. `where` names the place of a video for an error. Only with
    `multi_label` may `labels` hold tuples; a plain label is then a set of one.

    Raises:
        InputError: a number out of range, a name that is not known, classes without a video.
    """
    _check_count(label_names, num_classes, source)
    sets = [label if isinstance(label, tuple) else (label,) for label in labels]
    flat = list(itertools.chain.from_iterable(sets))
    if not flat and label_names is None and num_classes is None:
        raise InputError(f"No video of {source!r} has a label: say how many classes there are.")
    ends = list(itertools.accumulate(map(len, sets)))

    def where_is(place: int) -> str:
        return where(bisect.bisect_right(ends, place))

    are_known = label_names is not None and set(flat) <= set(label_names)
    are_numbers = numbers and not are_known and all(map(_NUMBER.fullmatch, flat))
    resolve = _resolve_numbers if are_numbers else _resolve_names
    indices, names = resolve(flat, where_is, source, label_names, num_classes)
    return (_as_sets(indices, ends) if multi_label else indices), names


def _as_sets(indices: np.ndarray, ends: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    values = indices.tolist()
    return tuple(tuple(sorted({*values[a:b]})) for a, b in itertools.pairwise([0, *ends]))


def classes_of(label: int | tuple[int, ...]) -> tuple[int, ...]:
    """The classes of a video's label, which is one class or a set of them."""
    return label if isinstance(label, tuple) else (label,)


def describe_label(label: int | tuple[int, ...], names: Sequence[str]) -> str:
    """A video's label in words: "jump", or of a set "jump + run", or "no class"."""
    return " + ".join(names[k] for k in classes_of(label)) or NO_CLASS


def check_same_names(model: Sequence[str], data: Sequence[str], source: str) -> None:
    """Compares the label map of a model, or of what it trains on, with that of the data `source`.

    Raises:
        InputError: they differ; names the first class that does.
    """
    pairs = enumerate(itertools.zip_longest(model, data))
    found = next(((index, *pair) for index, pair in pairs if pair[0] != pair[1]), None)
    if found is None:
        return
    index, ours, theirs = found
    raise InputError(
        f"Expected the {len(model)} classes of the model but {source!r} has {len(data)} that "
        f"differ from class {index} on, which is {_name(ours)} in the model and {_name(theirs)} "
        "in the data: use the data and label names that the model was trained with, or start anew."
    )


def _name(name: str | None) -> str:
    return "absent" if name is None else repr(name)


def write_label_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Writes the label map: one class name a line, in the order of the labels."""
    with whole_file(path) as partial:
        partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def read_label_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names of a file that has one a line, in the order of the labels.

    Raises:
        InputError: it is no text file with class names.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected a text file with one class name a line but {os.fspath(path)!r} is not one: "
            "correct the path, or leave it out."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def _check_count(names: Sequence[str] | None, num_classes: int | None, source: str) -> None:
    if names is not None and num_classes is not None and len(names) != num_classes:
        raise InputError(
            f"The model has {num_classes} classes but {source!r} has {len(names)}: set the number "
            f"of classes to {len(names)}."
        )


def _resolve_numbers(
    labels: Sequence[str],
    where: Where,
    source: str,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    indices = [int(label) for label in labels]
    known = num_classes if label_names is None else len(label_names)
    count = max(indices) + 1 if known is None else known
    for place, index in enumerate(indices):
        if not 0 <= index < count:
            raise InputError(
                f"{where(place)}: the label must be from 0 to {max(count - 1, 0)} but is {index}."
            )
    if known is None:
        _check_gaps(indices, source)
    names = tuple(label_names) if label_names is not None else tuple(map(str, range(count)))
    return np.array(indices, np.int32), names


def _check_gaps(indices: Sequence[int], source: str) -> None:
    present = set(indices)
    empty = next((index for index in range(len(present)) if index not in present), None)
    if empty is not None:
        raise InputError(
            f"Class {empty} of {source!r} has no videos: labels count from 0 without gaps, "
            "or say how many classes there are."
        )


def _resolve_names(
    labels: Sequence[str],
    where: Where,
    source: str,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    names = tuple(sorted(set(labels))) if label_names is None else tuple(label_names)
    if label_names is None:
        _check_count(names, num_classes, source)
    index_of = {name: index for index, name in enumerate(names)}
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise InputError(
            f"{where(labels.index(unknown[0]))}: {_listed(unknown)} not among the "
            f"{len(names)} classes of the training set ({_shortened(names)})."
        )
    return np.array([index_of[label] for label in labels], np.int32), names


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"class {names[0]!r} is"
    return f"classes {_shortened(names)} are"


def _shortened(names: Sequence[str], most: int = 8) -> str:
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + rest
