"""Applies the `--config.KEY=VALUE` arguments of a command line to a config."""

import difflib
import os
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from vswin_jax.config.renames import RENAMED
from vswin_jax.config.setting_values import example, get_value, set_value
from vswin_jax.config.similar_keys import list_keys, similar_keys
from vswin_jax.errors import InputError, unknown_name

PATH_KEYS = (
    *("init_from", "data.train", "data.eval", "data.root", "data.label_names"),
    *("data.flip_labels", "train.compilation_cache"),
)
_DATA_KEYS = ("data.train", "data.eval")
_PREFIX = "--config."
# Other programs write these as numbers.
_UNITS = {"train.duration": " (such as '30 epochs' or '1000 steps')"}
# The words of other programs, with dashes.
_FLAG_WORDS = {
    "--workdir": "output-dir log-dir save-dir out-dir outdir out output run-dir exp-dir",
    "--config": "cfg conf config-file experiment recipe",
    "--mode=evaluate": "eval evaluate test validate eval-only test-only",
    "--mode=dry_run": "dry-run dryrun",
}


def apply_overrides(
    config: ConfigDict, overrides: Sequence[str], other_flags: Sequence[str]
) -> ConfigDict:
    """Apply the arguments as `flags.override` does; an error names the command's `other_flags`."""
    keys = list(list_keys(config))
    named = dict(_split(text, config, keys, other_flags) for text in join_values(overrides))
    for key, text in named.items():
        set_value(config, key, text)
    _use_named_data(config, named)
    return _with_home_directory(config.lock())


def join_values(arguments: Sequence[str]) -> list[str]:
    """Join each `--config.KEY VALUE` of two arguments to one with an equals sign."""
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1] if joined else ""
        if before.startswith(_PREFIX) and "=" not in before and not argument.startswith("--"):
            joined[-1] = f"{before}={argument}"
        else:
            joined.append(argument)
    return joined


def _split(
    argument: str, config: ConfigDict, keys: Sequence[str], other_flags: Sequence[str]
) -> tuple[str, str]:
    """Return the key and the text of its value."""
    name, equals, text = argument.lstrip("-").partition("=")
    if not argument.startswith("-") or not name.startswith("config."):
        raise _unknown_argument(argument, name, keys, other_flags)
    key = name.removeprefix("config.")
    if key not in keys:
        raise _unknown_key(key, keys)
    if not equals:
        shown = example(key, get_value(config, key))
        raise InputError(
            f"Expected {_PREFIX}{key}=VALUE, such as {_PREFIX}{key}={shown}, but no value came."
        )
    return key, text


def _unknown_argument(
    argument: str, name: str, keys: Sequence[str], other_flags: Sequence[str]
) -> InputError:
    """Return the error for an argument that sets nothing: a flag, or a key without its prefix."""
    flags = [] if name.startswith("config.") else _similar_flags(name, other_flags)
    settings = [f"{_PREFIX}{key}=VALUE" for key in similar_keys(name.removeprefix("config."), keys)]
    near = " or ".join(flags or settings)
    if not argument.startswith("-") and not name.startswith("config."):
        return _stray_word(argument)
    if not near:
        return unknown_name("argument", argument, other_flags)
    advice = "see --help" if flags else f"settings of the config begin with {_PREFIX}; see --help"
    return InputError(f"Unknown argument {argument!r}: did you mean {near}? ({advice})")


def _stray_word(word: str) -> InputError:
    if ".py" in word:
        return InputError(f"Unknown argument {word!r}: did you mean --config {word}?")
    return InputError(
        f"Expected flags but the word {word!r} came: put a value with spaces in quotes, such as "
        f"{_PREFIX}train.duration='30 epochs'; see --help."
    )


def _similar_flags(name: str, flags: Sequence[str]) -> list[str]:
    """List the flags that a wrong one may mean: an initial, a word of other programs, a typo."""
    meant = [flag for flag, words in _FLAG_WORDS.items() if name.replace("_", "-") in words.split()]
    initials = [flag for flag in flags if len(name) == 1 and flag.startswith(f"--{name}")]
    spelt = difflib.get_close_matches(f"--{name}", flags, n=2, cutoff=0.75)
    return meant or initials or spelt


def _unknown_key(key: str, keys: Sequence[str]) -> InputError:
    if key in RENAMED:
        return InputError(f"config.{key} is now called config.{RENAMED[key]}: use that name.")
    inside = [known for known in keys if known.startswith(f"{key}.")]
    near = similar_keys(key, keys, spelling=not inside)
    meant = [f"{known!r}{_UNITS.get(known, '')}" for known in near]
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    if not inside:
        return InputError(f"Unknown config key {key!r}: {hint}{_list_siblings(key, keys)}")
    return InputError(
        f"config.{key} is a section of settings: {hint}Give one of them as {_PREFIX}{key}.NAME="
        f"VALUE: {', '.join(known.removeprefix(f'{key}.') for known in inside)}."
    )


def _list_siblings(key: str, keys: Sequence[str]) -> str:
    section = f"{key.partition('.')[0]}."
    siblings = [known for known in keys if known.startswith(section)]
    if "." in key and siblings:
        return f"The settings of config.{section[:-1]} are {', '.join(siblings)}."
    sections = sorted({k if "." not in k else f"{k.partition('.')[0]}.*" for k in keys})
    return f"The known ones are {', '.join(sections)}."


def _use_named_data(config: ConfigDict, named: Mapping[str, str]) -> None:
    """Take the videos that the command line names, where the experiment writes its own."""
    data = config.get("data", {})
    given = [key for key in _DATA_KEYS if named.get(key)]
    if not given or data.get("kind") != "moving_shapes":
        return
    if "data.kind" in named:
        raise InputError(
            f"config.data.kind is 'moving_shapes', whose videos the run writes itself, but "
            f"config.{given[0]} names others: leave one of them out."
        )
    data.kind = "files"


def _with_home_directory(config: ConfigDict) -> ConfigDict:
    """Replace a leading `~` in the settings that are paths, and return `config`."""
    for key in PATH_KEYS:
        section, _, name = key.rpartition(".")
        parent = config[section] if section else config
        # A config that a user has made by hand need not have every field.
        if isinstance(parent.get(name), str):
            parent[name] = os.path.expanduser(parent[name])
    return config
