"""Runs an experiment file, and explains what is wrong in one that a user wrote."""

import inspect
import re
import runpy
import traceback
from collections.abc import Callable

from ml_collections import ConfigDict

from vswin_jax.config.base import base_config
from vswin_jax.config.similar_keys import list_keys, similar_keys
from vswin_jax.errors import InputError

# The errors of ml_collections: for an unknown key that is set or read, and for a wrong type.
_UNKNOWN_KEY = re.compile(
    r"""^["']*(?:Key )?\\?["'](\w+)\\?["'](?: does not exist|\\?['"]*\\nDid|$)"""
)
_WRONG_TYPE = re.compile(r"field '(\w+)' .*?\. (.*) is of original type <.*'([\w.]+)'>$", re.DOTALL)


def run_experiment(file: str, argument: str) -> ConfigDict:
    """Return `get_config(argument)` of an experiment file.

    Raises:
      InputError: the file is not Python, defines no experiment or sets a setting that is unknown or
        of another type. Other exceptions of the file's own code are raised as they are.
    """
    try:
        get_config = runpy.run_path(file).get("get_config")
    except SyntaxError as error:
        line = f"{error.filename}, line {error.lineno}"
        raise InputError(f"{line}: this is not Python ({error.msg}): correct it.") from error
    if get_config is None or not inspect.signature(get_config).parameters:
        raise InputError(f"Expected {file!r} to define get_config(argument) but it does not.")
    config = _call(get_config, file, argument)
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"Expected get_config of {file!r} to return a config but {type(config).__name__} came: "
            f"end it with `return config`."
        )
    return config


def _call(get_config: Callable[[str], object], file: str, argument: str) -> object:
    try:
        return get_config(argument)
    except (AttributeError, KeyError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "ml_collections" not in frames[-1].filename:
            raise
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), 0)
        raise InputError(f"{file}, line {line}: {_explain(str(error))}") from error


def _explain(reason: str) -> str:
    """Return the end of a sentence about an error of ml_collections."""
    unknown, wrong = _UNKNOWN_KEY.search(reason), _WRONG_TYPE.search(reason)
    if unknown:
        near = similar_keys(unknown[1], list_keys(base_config()))
        hint = f": did you mean {' or '.join(f'config.{key}' for key in near)}?" if near else "."
        return f"the config has no {unknown[1]!r} there{hint}"
    if wrong:
        kind = wrong[3].rpartition(".")[2].replace("ConfigDict", "section of settings")
        return f"{wrong[1]!r} of the config is of type {kind} but {wrong[2]!r} came: correct it."
    return reason.splitlines()[0][:200]
