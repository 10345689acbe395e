"""Parses the text of `--config.KEY=VALUE` as the type that the setting has."""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_flags.tuple_parser import TupleParser

from vswin_jax.config.base import base_config
from vswin_jax.errors import InputError

_NONE = ("none", "null")
_TRUE, _FALSE = ("true", "t", "1", "yes", "y", "on"), ("false", "f", "0", "no", "n", "off")
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
_NUMBERS = re.compile(rf"[(\[]?\s*{_NUMBER}(\s*[,x;\s]\s*{_NUMBER})*\s*,?\s*[)\]]?", re.IGNORECASE)

_MEANINGS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "values with commas between them",
}
# Of settings whose default is None, or no help.
_EXAMPLES = {
    "model.num_classes": "400",
    "model.embed_dim": "96",
    "model.depths": "2,2,6,2",
    "model.num_heads": "3,6,12,24",
    "model.window_size": "8,7,7",
    "model.patch_size": "2,4,4",
    "model.frozen_stages": "1",
    "data.augmentations": "grayscale(p=0.1)",
}
_EXAMPLES_OF_TYPE = {int: "1", float: "0.1", bool: "true", tuple: "1,2", str: "auto"}


def set_value(config: ConfigDict, key: str, text: str) -> None:
    """Set `config.KEY` to the value that `text` stands for.

    Raises:
      InputError: `text` is not of the setting's type.
    """
    section, _, name = key.rpartition(".")
    parent = get_value(config, section) if section else config
    kind = parent.get_type(name)
    try:
        parent[name] = _parse(text, kind, is_optional=_is_optional(key))
    except (ValueError, TypeError, SyntaxError):
        raise _wrong_value(key, text, kind, parent[name]) from None


def get_value(config: Mapping[str, Any], key: str) -> Any:
    """Return the setting or section at `key`, such as "optim.learning_rate"."""
    for name in key.split("."):
        config = config[name]
    return config


def _is_optional(key: str) -> bool:
    """Return True if the setting may be None, which is the value of the model's variant."""
    try:
        return get_value(base_config(), key) is None
    except KeyError:  # a setting of a user's own
        return False


def example(key: str, value: Any, kind: type | None = None) -> str:
    """Return text for `--config.KEY=`: that of `value`, the present one, if it has any."""
    if key in _EXAMPLES or value in (None, "", ()):
        return _EXAMPLES.get(key, _EXAMPLES_OF_TYPE.get(kind or type(value), "VALUE"))
    if isinstance(value, tuple):
        return ",".join(f"{part:.3g}" if isinstance(part, float) else str(part) for part in value)
    if isinstance(value, str):
        return repr(value) if " " in value else value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wrong_value(key: str, text: str, kind: type, value: Any) -> InputError:
    meaning = _MEANINGS.get(kind, "a value of its type")
    return InputError(
        f"Expected config.{key} to be {meaning}, such as "
        f"--config.{key}={example(key, value, kind)}, but {text!r} came."
    )


def _parse(text: str, kind: type, *, is_optional: bool) -> Any:
    # "none" is a value of config.model.remat.
    if is_optional and (text == "None" or (kind is not str and text.lower() in _NONE)):
        return None
    return _PARSERS.get(kind, _parse_literal)(text)


def _parse_whole_number(text: str) -> int:
    text = _without_quotes(text)
    if re.fullmatch(r"[-+]?\d[\d_]*", text):
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise ValueError("it has a fraction")
    return int(number)


def _parse_number(text: str) -> float:
    return float(_without_quotes(text))


def _without_quotes(text: str) -> str:
    return text.strip().strip("\"'")


def _parse_bool(text: str) -> bool:
    lower = _without_quotes(text).lower()
    if lower not in _TRUE + _FALSE:
        raise ValueError("it is neither")
    return lower in _TRUE


def _parse_tuple(text: str) -> tuple[Any, ...]:
    text = text.strip()
    if _NUMBERS.fullmatch(text):
        return tuple(map(ast.literal_eval, re.split(r"[,x;\s]+", text.lower().strip(" ,()[]"))))
    return tuple(TupleParser().parse(text))


def _parse_literal(text: str) -> Any:
    """Parse the value of a setting of another type, which only a user's own experiment can have."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


_PARSERS: dict[type, Callable[[str], Any]] = {
    int: _parse_whole_number,
    float: _parse_number,
    bool: _parse_bool,
    str: str,
    tuple: _parse_tuple,
}
