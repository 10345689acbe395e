"""Finds the Swin in the object that a file of any format holds, whatever is around it.

Trainers nest a state_dict in dicts (`state_dict`, `model`, `ema`, ...), and wrappers and users'
classes put prefixes before its names. Here all of that is one dotted name for each tensor, and the
Swin is recognised by the names that its layout has (see `wrapped_names`).
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vswin_jax.errors import InputError, join_some
from vswin_jax.weights.files.nested_tensors import Entries, Entry, index_by_path
from vswin_jax.weights.files.pickles import OpaqueObject
from vswin_jax.weights.layouts.wrapped_names import (
    CONVENTIONAL,
    Trunk,
    choose_trunks,
    find_head,
    find_trunks,
    is_trunk_name,
    select_trunks,
    strip_wrappers,
    wrappers_in,
)

# The keys under which a file without a Swin may have a state_dict; averaged weights come last.
_KEYS = (*CONVENTIONAL[:-1], "state_dict_ema", "model_ema", "ema_state_dict")
# Wrappers that every name of a file without a Swin may begin with.
_PREFIXES = ("module", "_orig_mod")


@dataclass(frozen=True)
class UnwrappedState:
    """The tensors of one model in a file, without what wrappers add to their names.

    Attributes:
      tensors: the arrays by name.
      file_names: the name in the file of each of them.
      left_out: the names in the file of the tensors beside them.
      notes: phrases on what was removed from the names, and on what was chosen.
    """

    tensors: dict[str, np.ndarray]
    file_names: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def unwrap(loaded: object, source: str, prefix: str | None = None) -> UnwrappedState:
    """Return the Swin in `loaded`, the object of a file; without one, the state_dict in it.

    Args:
      loaded: dicts, objects and arrays.
      source: the name of the file in errors.
      prefix: components before the names of the Swin to take, if there are several.

    Raises:
      InputError: there is no state_dict, or no Swin of this prefix, or there are several of equal
        rank (see `choose_trunks`).
    """
    entries = index_by_path(loaded, source)
    trunks = find_trunks(entries)
    if not trunks:
        return _without_swin(loaded, source)
    wanted = trunks if prefix is None else _under(prefix, trunks, source)
    return _select(entries, trunks, _choose(entries, wanted, source))


def _under(prefix: str, trunks: list[Trunk], source: str) -> list[Trunk]:
    if found := select_trunks(trunks, prefix):
        return found
    others = _list_prefixes(trunks)
    raise InputError(f"{source} has no Swin under {prefix!r}: give another of {others}.")


def _select(entries: Entries, trunks: list[Trunk], trunk: Trunk) -> UnwrappedState:
    others = [other for other in trunks if other is not trunk]
    rivals = [other for other in others if not _are_equal(entries, trunk, other)]
    shapes = {name: entry.value.shape for name, entry in entries.items()}
    names = {name: _own_name(name, trunk, others) for name in entries}
    names |= find_head(shapes, trunk, rivals)
    kept = {new: entries[name] for name, new in names.items() if new}
    node = entries[trunk.anchor].node
    left_out = [entries[name] for name, new in names.items() if not new]
    return UnwrappedState(
        tensors={name: entry.value for name, entry in kept.items()},
        file_names={name: _file_name(entry, node) for name, entry in kept.items()},
        left_out=tuple(entry.name for entry in left_out if _is_reported(entry, node)),
        notes=(*_note_choice(trunk, rivals), *_note_names(kept, node)),
    )


def _own_name(name: str, trunk: Trunk, others: list[Trunk]) -> str | None:
    """Return a tensor's name without the trunk's wrapper; None if it is no tensor of the model."""
    if not name.startswith(trunk.wrapper):
        return None
    in_trunk = name.startswith(trunk.prefix) and is_trunk_name(name[len(trunk.prefix) :])
    if any(name.startswith(_area(other, trunk)) for other in others):
        # The other Swin can be around this one.
        closest = max(map(len, filter(name.startswith, (_area(o, trunk) for o in others))))
        if not in_trunk or closest > len(trunk.prefix):
            return None
    own = name[len(trunk.wrapper) :]
    return own if in_trunk or _is_head(own.removeprefix(trunk.own)) else None


def _area(other: Trunk, trunk: Trunk) -> str:
    """Return the prefix of all tensors that belong to another Swin than `trunk`."""
    return other.wrapper if len(other.wrapper) > len(trunk.wrapper) else other.prefix


def _is_head(name: str) -> bool:
    return name.startswith(("head.", "cls_head.", "classifier."))


def _choose(entries: Entries, trunks: list[Trunk], source: str) -> Trunk:
    """Return the trunk of the trained model; video models come before image models."""
    best = choose_trunks([t for t in trunks if entries[t.anchor].value.ndim == 5] or trunks)
    different = [best[0], *(t for t in best[1:] if not _are_equal(entries, best[0], t))]
    if len(different) == 1:
        return best[0]
    raise InputError(
        f"{source} holds several Swins, whose names begin with {_list_prefixes(different)}: choose "
        f"one by the argument prefix (--prefix of convert_weights.py)."
    )


def _list_prefixes(trunks: list[Trunk]) -> str:
    return join_some([repr(trunk.prefix) for trunk in trunks], 4)


def _are_equal(entries: Entries, one: Trunk, other: Trunk) -> bool:
    """Return True if two trunks have the same tensors, as a module with two names has."""
    ones, others = (
        {name[len(t.prefix) :]: e.value for name, e in entries.items() if name.startswith(t.prefix)}
        for t in (one, other)
    )
    names = set(filter(is_trunk_name, ones))
    same = names == set(filter(is_trunk_name, others))
    return same and all(_same_array(ones[name], others[name]) for name in names)


def _same_array(one: np.ndarray, other: np.ndarray) -> bool:
    return one is other or (one.dtype == other.dtype and np.array_equal(one, other))


def _file_name(entry: Entry, node: str) -> str:
    """Return the name in the dict that holds the trunk."""
    if entry.node == node:
        return entry.name
    return entry.path.removeprefix(f"{node}.") if node else entry.path


def _is_reported(entry: Entry, node: str) -> bool:
    """Return True for a tensor beside the model, except the pixel statistics of mmengine."""
    return entry.node == node and ".data_preprocessor." not in f".{strip_wrappers(entry.name)}"


def _note_choice(trunk: Trunk, rivals: list[Trunk]) -> Iterator[str]:
    if rivals:
        found = ", ".join(repr(other.prefix) for other in rivals)
        yield f"of several Swins, the one under {trunk.prefix!r} was taken, not {found}"


def _note_names(kept: Mapping[str, Entry], node: str) -> Iterator[str]:
    """Yield a note on what was removed from the names in the file."""
    parts = (_removed_parts(_file_name(entry, node), name) for name, entry in kept.items())
    removed = Counter(itertools.chain.from_iterable(parts))
    if removed:
        counts = ", ".join(f"{part!r} from {count}" for part, count in removed.items())
        yield f"removed {counts} of {len(kept)} names"


def _removed_parts(file_name: str, name: str) -> list[str]:
    """Return the prefix that was removed from a name, or else wrappers within it and a prefix."""
    if file_name.endswith(f".{name}"):
        return [file_name.removesuffix(name)]
    stripped, wrappers = strip_wrappers(file_name), wrappers_in(file_name)
    prefix = [stripped.removesuffix(name)] if stripped.endswith(f".{name}") else []
    return [*(f"{part}." for part in wrappers), *prefix]


def _without_swin(loaded: object, source: str) -> UnwrappedState:
    """Return the state_dict of another model, without prefixes that all of its names have."""
    found = _find_state_dict(loaded, depth=3)
    if not found and _holds_shards(loaded, depth=3):
        raise InputError(
            f"{source} holds the part of each tensor that one process of several had: save the "
            f"whole with get_model_state_dict and StateDictOptions(full_state_dict=True)."
        )
    if not found:
        raise InputError(
            f"{source} holds no state_dict: expected a dict of tensors, itself or under one of "
            f"{', '.join(_KEYS[:5])}, but it is {_summarize(loaded)}; save model.state_dict()."
        )
    names = {name: name for name in found}
    while len({name.partition(".")[0] for name in names} - set(_PREFIXES)) == 0:
        names = {name.partition(".")[2]: file_name for name, file_name in names.items()}
    return UnwrappedState({name: found[own] for name, own in names.items()}, names)


def _holds_shards(loaded: object, depth: int) -> bool:
    """Return True if there are distributed tensors of PyTorch in nested dicts."""
    if isinstance(loaded, OpaqueObject):
        return loaded.name.endswith(".DTensor")
    values = itertools.islice(loaded.values(), 50) if isinstance(loaded, Mapping) and depth else ()
    return any(_holds_shards(value, depth - 1) for value in values)


def _find_state_dict(loaded: object, depth: int) -> dict[str, np.ndarray]:
    if not isinstance(loaded, Mapping) or not depth:
        return {}
    for key in _KEYS:
        if inner := _find_state_dict(loaded.get(key), depth - 1):
            return inner
    return {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }


def _summarize(loaded: object) -> str:
    if isinstance(loaded, OpaqueObject):
        return f"an object of {loaded.name}"
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    keys = [str(key)[:60] for key in loaded if isinstance(key, str | int)]
    return f"a dict with the keys {join_some(keys, 8) or '(none)'}"
