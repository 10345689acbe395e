"""Resolves the labels that a user wrote, numbers or names, to class indices and class names."""

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import numpy as np

from vswin_jax.errors import InputError, join_some
from vswin_jax.runtime.label_names import normalize_label_name

# pandas writes the labels of a column with a missing one as `2.0`, and `numpy.savetxt` as
# `2.000000000000000000e+00`. A comma as the decimal sign makes a number too, which is refused.
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?(?P<exponent>\d+))?")
_MAX_DIGITS = 18  # of a whole number, and of an exponent: Python computes with any number of them
_MISSING = frozenset(
    ("nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "inf", "-inf", "?", "-")
)
_MAX_NAMES = 8  # of classes that an error lists
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

    Labels that are all numbers are indices (`2.0` is 2), unless `allow_indices` is False or
    `label_names` are numbers too. Otherwise they are names, in the order of `label_names` (the
    training set's), or else in alphabetical order. Names that differ in white space around them or
    in their form of Unicode are equal, and so are `2` and `2.0`, unless `label_names` has both.
    `labels` may hold tuples only with `multi_label`; a plain label is then a set of one.

    Raises:
      InputError: a number is not whole or out of range, a label is missing, a name is unknown, or a
        class has no video.
    """
    _check_count(label_names, num_classes, source)
    sets = [label if isinstance(label, tuple) else (label,) for label in labels]
    flat = list(itertools.chain.from_iterable(sets))
    if not flat and label_names is None and num_classes is None:
        raise InputError(
            f"No video of {source!r} has a label: set the number of classes.",
            ["the number of classes"],
        )
    ends = list(itertools.accumulate(map(len, sets)))

    def location_of_label(position: int) -> str:
        return location_of(bisect.bisect_right(ends, position))

    if allow_indices:
        _check_none_missing(flat, location_of_label, label_names)
    are_indices = allow_indices and _are_indices(flat, label_names)
    resolve = _resolve_indices if are_indices else _resolve_names
    indices, names = resolve(flat, location_of_label, source, label_names, num_classes)
    return (_split_into_sets(indices, ends) if multi_label else indices), names


def _check_none_missing(
    labels: Sequence[str], location_of: LocationOf, label_names: Sequence[str] | None
) -> None:
    """Refuse labels such as `nan` among numbers, since they would make all labels names."""
    different = set(labels)
    missing = {label for label in different if label.lower() in _MISSING} - {*(label_names or ())}
    if missing and missing != different and _are_numbers(different - missing):
        position = next(k for k, label in enumerate(labels) if label in missing)
        raise InputError(
            f"{location_of(position)}: expected a label but it reads {labels[position]!r}: add the "
            "label, or leave the video out."
        )


def _are_indices(labels: Sequence[str], label_names: Sequence[str] | None) -> bool:
    if label_names is None or not labels:
        return _are_numbers({*labels})
    # Names such as 0, 1, 10, 2, in the order of texts, are not their own indices.
    are_misplaced = _are_numbers(label_names) and not _are_counted(label_names)
    are_known = {*map(_comparable, {*labels})} <= {*map(_comparable, label_names)}
    return _are_numbers({*labels}) and not are_misplaced and not are_known


def _are_counted(names: Sequence[str]) -> bool:
    return all(name == str(index) for index, name in enumerate(names))


def _are_numbers(labels: Iterable[str]) -> bool:
    return all(map(_NUMBER.fullmatch, map(str.strip, labels)))


def _whole_number(label: str) -> int | None:
    """Return 2 for `2`, `2.0`, `02` or `2e0`, and None for what is not a whole number."""
    match = _NUMBER.fullmatch(label.strip())
    if not match or "," in label or len(match["exponent"] or "") > _MAX_DIGITS:
        return None
    value = Decimal(label)
    if value.adjusted() >= _MAX_DIGITS or value != value.to_integral_value():
        return None
    return int(value)


def _comparable(name: str) -> str:
    """Return the form in which class names are compared: normalised, and `2` for `2.0`."""
    name = normalize_label_name(name)
    number = _whole_number(name)
    return name if number is None else str(number)


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
    difference = next(((index, *pair) for index, pair in pairs if not _are_same(*pair)), None)
    if difference is None:
        return
    index, in_model, in_data = difference
    raise InputError(
        f"Expected the {len(model)} classes of the model but {source!r} has {len(data)} that "
        f"differ from class {index} on, which is {_name_or_absent(in_model)} in the model and "
        f"{_name_or_absent(in_data)} in the data: use the data and label names that the model was "
        "trained with, or train a new one."
    )


def _are_same(first: str | None, second: str | None) -> bool:
    return first == second or (
        first is not None and second is not None and _comparable(first) == _comparable(second)
    )


def _name_or_absent(name: str | None) -> str:
    return "absent" if name is None else repr(name)


def _check_count(names: Sequence[str] | None, num_classes: int | None, source: str) -> None:
    if names is not None and num_classes is not None and len(names) != num_classes:
        raise InputError(
            f"The model has {num_classes} classes but {source!r} has {len(names)}: set the number "
            f"of classes to {len(names)}.",
            ["the number of classes"],
        )


def _resolve_indices(
    labels: Sequence[str],
    location_of: LocationOf,
    source: str,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    indices = _whole_numbers(labels, location_of)
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


def _whole_numbers(labels: Sequence[str], location_of: LocationOf) -> list[int]:
    number_of = {label: _whole_number(label) for label in set(labels)}
    numbers = []
    for position, label in enumerate(labels):
        number = number_of[label]
        if number is None:
            raise InputError(
                f"{location_of(position)}: expected a whole number or a class name but the label "
                f"is {label!r}: number the classes from 0, or list such names, one a line, in "
                "label_names.txt beside the list."
            )
        numbers.append(number)
    return numbers


def _check_gaps(indices: Sequence[int], source: str) -> None:
    present = set(indices)
    empty = next((index for index in range(len(present)) if index not in present), None)
    if empty is not None:
        raise InputError(
            f"Class {empty} of {source!r} has no videos: number the labels from 0 without gaps, or "
            "set the number of classes.",
            ["the number of classes"],
        )


def _resolve_names(
    labels: Sequence[str],
    location_of: LocationOf,
    source: str,
    label_names: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    if label_names is None:
        names = tuple(sorted({*map(normalize_label_name, {*labels})}))
        _check_count(names, num_classes, source)
    else:
        names = tuple(label_names)
        _check_unambiguous(labels, names, location_of)
    index_of = _find_names({*labels}, names)
    unknown = sorted({*labels} - index_of.keys())
    if unknown:
        raise InputError(
            f"{location_of(labels.index(unknown[0]))}: {_describe_classes(unknown)} not among the "
            f"{len(names)} classes of the training set ({_list_some(names)})."
        )
    return np.array([index_of[label] for label in labels], np.int32), names


def _check_unambiguous(
    labels: Sequence[str], names: Sequence[str], location_of: LocationOf
) -> None:
    counts = Counter(names)
    if len(counts) == len(names):
        return
    written = enumerate(map(normalize_label_name, labels))
    repeated = next(((k, name) for k, name in written if counts[name] > 1), None)
    if repeated is not None:
        position, name = repeated
        raise InputError(
            f"{location_of(position)}: expected a name of one class but {counts[name]} classes are "
            f"named {name!r}: rename one in the label names, or number the labels.",
            ["the label names"],
        )


def _find_names(labels: set[str], names: Sequence[str]) -> dict[str, int]:
    """Return the index in `names` of each label that is there: as written, or else comparable."""
    exact = {name: index for index, name in enumerate(names)}
    comparable = {_comparable(name): index for index, name in enumerate(names)}
    found = {label: exact.get(label, comparable.get(_comparable(label))) for label in labels}
    return {label: index for label, index in found.items() if index is not None}


def _describe_classes(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"class {names[0]!r} is"
    return f"classes {_list_some(names)} are"


def _list_some(names: Sequence[str]) -> str:
    return join_some([*map(repr, names)], _MAX_NAMES)
