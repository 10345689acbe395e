"""Resolves the labels that a user wrote, numbers or names, to class indices and class names."""

import bisect
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from vswin_jax.errors import InputError

_NUMBER = re.compile(r"-?\d+")
NO_CLASS = "no class"  # describes a video whose set of labels is empty
# Maps the index of a video to its location in the source, for error messages.
LocationOf = Callable[[int], str]
# The class of every video, int32 [N], or its set of classes in ascending order.
Labels = np.ndarray | tuple[tuple[int, ...], ...]


def resolve_labels(
    labels: Sequence[str | tuple[str, ...]],
    location_of: LocationOf,
    source: str,
    *,
    label_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    allow_indices: bool = True,
    multi_label: bool = False,
) -> tuple[Labels, tuple[str, ...]]:
    """Return the class of every video, with `multi_label` its classes, and all class names.

    Labels that are all whole numbers are indices, unless `allow_indices` is False or all are in
    `label_names`. Otherwise they are names, in the order of `label_names` (the training set's),
    or else in alphabetical order. `labels` may hold tuples only with `multi_label`; a plain label
    is then a set of one.

    Raises:
      InputError: a number is out of range, a name is unknown, or a class has no video.
    """
    _check_count(label_names, num_classes, source)
    sets = [label if isinstance(label, tuple) else (label,) for label in labels]
    flat = list(itertools.chain.from_iterable(sets))
    if not flat and label_names is None and num_classes is None:
        raise InputError(f"No video of {source!r} has a label: set the number of classes.")
    ends = list(itertools.accumulate(map(len, sets)))

    def location_of_label(position: int) -> str:
        return location_of(bisect.bisect_right(ends, position))

    are_indices = allow_indices and _are_indices(flat, label_names)
    resolve = _resolve_indices if are_indices else _resolve_names
    indices, names = resolve(flat, location_of_label, source, label_names, num_classes)
    return (_split_into_sets(indices, ends) if multi_label else indices), names


def _are_indices(labels: Sequence[str], label_names: Sequence[str] | None) -> bool:
    are_names = label_names is not None and set(labels) <= set(label_names)
    return not are_names and all(map(_NUMBER.fullmatch, labels))


def _split_into_sets(indices: np.ndarray, ends: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    values = indices.tolist()
    return tuple(tuple(sorted({*values[a:b]})) for a, b in itertools.pairwise([0, *ends]))


def classes_of(label: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the classes of a label, which is one class or a set of classes."""
    return label if isinstance(label, tuple) else (label,)


def describe_label(label: int | tuple[int, ...], names: Sequence[str]) -> str:
    """Describe a video's label by name: "jump", a set as "jump + run" or "no class"."""
    return " + ".join(names[k] for k in classes_of(label)) or NO_CLASS


def check_same_names(model: Sequence[str], data: Sequence[str], source: str) -> None:
    """Compare the class names of a model with those of the data `source`.

    Raises:
      InputError: they differ; the message names the first class that does.
    """
    pairs = enumerate(itertools.zip_longest(model, data))
    difference = next(((index, *pair) for index, pair in pairs if pair[0] != pair[1]), None)
    if difference is None:
        return
    index, in_model, in_data = difference
    raise InputError(
        f"Expected the {len(model)} classes of the model but {source!r} has {len(data)} that "
        f"differ from class {index} on, which is {_name_or_absent(in_model)} in the model and "
        f"{_name_or_absent(in_data)} in the data: use the data and label names that the model was "
        "trained with, or train a new one."
    )


def _name_or_absent(name: str | None) -> str:
    return "absent" if name is None else repr(name)


def _check_count(names: Sequence[str] | None, num_classes: int | None, source: str) -> None:
    if names is not None and num_classes is not None and len(names) != num_classes:
        raise InputError(
            f"The model has {num_classes} classes but {source!r} has {len(names)}: set the number "
            f"of classes to {len(names)}."
        )


def _resolve_indices(
    labels: Sequence[str],
    location_of: LocationOf,
    source: str,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    indices = [int(label) for label in labels]
    known = num_classes if label_names is None else len(label_names)
    count = max(indices) + 1 if known is None else known
    for position, index in enumerate(indices):
        if not 0 <= index < count:
            raise InputError(
                f"{location_of(position)}: the label must be from 0 to {max(count - 1, 0)} but is "
                f"{index}."
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
            f"Class {empty} of {source!r} has no videos: number the labels from 0 without gaps, or "
            "set the number of classes."
        )


def _resolve_names(
    labels: Sequence[str],
    location_of: LocationOf,
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
            f"{location_of(labels.index(unknown[0]))}: {_describe_classes(unknown)} not among the "
            f"{len(names)} classes of the training set ({_abbreviate(names)})."
        )
    return np.array([index_of[label] for label in labels], np.int32), names


def _describe_classes(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"class {names[0]!r} is"
    return f"classes {_abbreviate(names)} are"


def _abbreviate(names: Sequence[str], max_shown: int = 8) -> str:
    rest = f", and {len(names) - max_shown} more" if len(names) > max_shown else ""
    return ", ".join(map(repr, names[:max_shown])) + rest
