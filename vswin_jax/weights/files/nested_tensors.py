"""Finds the tensors in nested dicts, lists and objects, and gives each one a dotted path."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.files.numpy_pickles import to_array
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.layouts.wrapped_names import strip_wrappers

# The attributes of a pickled module that hold its tensors and modules.
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
# A module of a pickled model is a level too.
_MAX_DEPTH = 24
_MAX_NAME_LENGTH = 200
_MAX_LIST_LENGTH = 100
_MAX_TENSORS = 100_000


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its name within `node`, the dict that holds it, whose name is a path."""

    node: str
    name: str
    value: np.ndarray

    @property
    def path(self) -> str:
        """The names of the dicts around it, and its own."""
        return f"{self.node}.{self.name}" if self.node else self.name


# The tensors of a file by their path without wrappers.
Entries = Mapping[str, Entry]


def index_by_path(loaded: object, source: str) -> dict[str, Entry]:
    """Return the tensors in `loaded` by their path without wrappers.

    Raises:
      InputError: there are more than any model has; the message names `source`.
    """
    found = list(itertools.islice(_walk(loaded, "", _MAX_DEPTH, set()), _MAX_TENSORS + 1))
    if len(found) > _MAX_TENSORS:
        raise InputError(
            f"{source} holds over {_MAX_TENSORS} tensors: save the model's state_dict alone."
        )
    # A model and its wrapper in one file: the names of the wrapper stay as they are.
    taken = {entry.path for entry in found if strip_wrappers(entry.path) == entry.path}
    entries: dict[str, Entry] = {}
    for entry in found:
        stripped = strip_wrappers(entry.path)
        is_free = stripped not in entries and stripped not in taken
        entries.setdefault(stripped if is_free else entry.path, entry)
    return entries


def _walk(loaded: object, node: str, depth: int, seen: set[int]) -> Iterator[Entry]:
    """Yield the tensors in nested dicts and objects; what is held twice comes once."""
    for key, value in _children(loaded, seen):
        array = to_array(value)
        if array is not None:
            yield Entry(node, key, array)
        elif depth and isinstance(value, Mapping | OpaqueObject | list | tuple):
            yield from _walk(value, f"{node}.{key}" if node else key, depth - 1, seen)


def _children(loaded: object, seen: set[int]) -> Iterator[tuple[str, object]]:
    """Yield the named contents of a dict, a list, or an object that a pickle describes.

    `seen` has the ids of the dicts before this one. A file can hold one dict in many places, and
    names of any length, so neither may multiply.
    """
    if id(loaded) in seen:
        return
    seen.add(id(loaded))
    if isinstance(loaded, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(loaded[:_MAX_LIST_LENGTH]))
    elif isinstance(loaded, Mapping):
        names = ((str(key), value) for key, value in loaded.items() if isinstance(key, str | int))
        yield from ((name, value) for name, value in names if len(name) <= _MAX_NAME_LENGTH)
    elif isinstance(loaded, OpaqueObject):
        for part in (loaded.items, *_attributes(loaded)):
            contents = part.items if isinstance(part, OpaqueObject) else part
            if isinstance(contents, Mapping | tuple):
                yield from _children(contents, seen)


def _attributes(loaded: OpaqueObject) -> list[object]:
    """Return the attributes of an object, or those parts of a module that hold tensors."""
    # An object with slots has a pair: its `__dict__`, and its slots. A named tuple has no state.
    pair = loaded.state if isinstance(loaded.state, tuple) else (loaded.state,)
    found = [attributes for attributes in pair[:2] if isinstance(attributes, Mapping)]
    parts = [group[part] for group in found for part in _MODULE_PARTS if part in group]
    return parts or found or [loaded.arguments]


def holds_tensors(loaded: object) -> bool:
    """Return True if there is a tensor in nested dicts and objects."""
    return any(True for _ in _walk(loaded, "", _MAX_DEPTH, set()))
