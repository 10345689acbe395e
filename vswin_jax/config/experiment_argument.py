"""Parses the argument of an experiment, ARGUMENT in `--config FILE:ARGUMENT`."""

import difflib
import os
from collections.abc import Mapping, Sequence

from vswin_jax.errors import InputError, unknown_name

RUNLOCAL = "runlocal"
_DATA_WORDS = ("root", "data", "train", "folder", "path")


def parse_argument(
    argument: str, allowed: Mapping[str, Sequence[str] | None]
) -> dict[str, str | bool]:
    """Parse what follows the colon of `--config FILE:ARGUMENT`, such as "variant=base,runlocal".

    `allowed` maps each key to its values, the first of which is the default, or to None for any
    text (default ""), in which commas may occur and a leading `~` is the home directory. The result
    has every key, and `runlocal` as a bool.

    Raises:
      InputError: an unknown key or value; the message lists the known ones.
    """
    chosen: dict[str, str | bool] = {k: v[0] if v else "" for k, v in allowed.items()}
    chosen[RUNLOCAL] = False
    for part in filter(None, map(str.strip, _split_parts(argument, allowed))):
        key, equals, value = part.partition("=")
        if key == RUNLOCAL and not equals:
            chosen[RUNLOCAL] = True
            continue
        chosen[key] = _allowed_value(key, value, allowed)
    return chosen


def _split_parts(argument: str, allowed: Mapping[str, Sequence[str] | None]) -> list[str]:
    """Split at the commas, except those within a value that may be any text, such as a path."""
    parts: list[str] = []
    for part in argument.split(","):
        previous = parts[-1].partition("=")[0].strip() if parts else ""
        is_text = previous in allowed and allowed[previous] is None
        if is_text and not _resembles_key(part, allowed):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def _resembles_key(part: str, allowed: Mapping[str, Sequence[str] | None]) -> bool:
    """Return True for KEY=VALUE and `runlocal`, and also for misspelt ones."""
    key, equals, _ = (text.strip() for text in part.partition("="))
    names = list(allowed) if equals else [RUNLOCAL]
    return key in allowed or bool(difflib.get_close_matches(key, names, cutoff=0.8))


def _allowed_value(key: str, value: str, allowed: Mapping[str, Sequence[str] | None]) -> str:
    if key not in allowed:
        raise _unknown_argument(key, value, allowed)
    values = allowed[key]
    if values is not None and value not in values:
        raise unknown_name(f"value of {key} in --config", value, values)
    if not value:
        raise InputError(f"Expected {key}=VALUE after the colon of --config but no value came.")
    return value if values else os.path.expanduser(value)


def _unknown_argument(
    key: str, value: str, allowed: Mapping[str, Sequence[str] | None]
) -> InputError:
    of_value = [name for name, values in allowed.items() if values and key in values]
    if of_value and not value:
        return InputError(f"Unknown argument of --config {key!r}: write {of_value[0]}={key}.")
    error = unknown_name("argument of --config", key, [*allowed, RUNLOCAL])
    if key not in _DATA_WORDS:
        return error
    return InputError(
        f"{error} Give videos as --config.data.train=PATH and --config.data.eval=PATH, after it."
    )
