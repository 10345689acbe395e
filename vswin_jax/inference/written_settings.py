"""Comparison of the settings of files that an earlier start has written with those of this one."""

from collections.abc import Collection, Mapping
from typing import Any

_MOST = 4  # settings in an error


def describe_changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    ignored: Collection[str],
    phrases: Mapping[str, str],
) -> str:
    """Return a phrase on the settings of `new` that differ; an empty one if none does.

    Those of `ignored` may differ. `phrases` are for settings whose values say nothing to a reader,
    such as digests.
    """
    changed = [name for name in new if name not in ignored and old.get(name) != new[name]]
    return "; ".join(
        phrases.get(name) or f"{name} {old.get(name)!r}, not {new[name]!r}"
        for name in changed[:_MOST]
    )
