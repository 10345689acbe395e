"""The registry of data formats, which `config.data.format` or the scheme of a path chooses from.

`--config.data.train=my_format:PATH` opens PATH by the function that is registered as `my_format`,
as does `--config.data.format=my_format` with PATH alone.
"""

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources import published
from vswin_jax.data.sources.labels import check_same_names
from vswin_jax.errors import InputError, join_some, unknown_name
from vswin_jax.runtime.registry import Registry, UnregisteredError

KINDS = ("auto", "list", "csv", "jsonl", "folder", "frames", "tfds", *published.KINDS)


@dataclass(frozen=True)
class SourceOptions:
    """The settings that a data format is opened with.

    Attributes:
      root: `config.data.root`, or "".
      label_names: the classes of the training set or the model, whose order the labels must have;
        None for a training set that may choose it.
      num_classes: `config.model.num_classes`, or None.
      must_exist: True if missing videos are an error; they are replaced in training.
      multi_label: `config.data.multi_label`.
    """

    root: str = ""
    label_names: Sequence[str] | None = None
    num_classes: int | None = None
    must_exist: bool = True
    multi_label: bool = False


OpenSource = Callable[[str, SourceOptions], Source]
Registered = TypeVar("Registered", bound=OpenSource)
SOURCE_FORMATS: Registry[OpenSource] = Registry("data format", "config.data.format")


def register_source(name: str) -> Callable[[Registered], Registered]:
    """Register a data format under `name`: a decorator of a function `(path, options) -> Source`.

    `options` are `SourceOptions`. A class with these arguments is such a function.
    """

    def register(open_source: Registered) -> Registered:
        if name in KINDS:
            raise InputError(f"The data format {name!r} is a built-in one: choose another name.")
        return SOURCE_FORMATS.add(name, open_source)

    return register


def split_scheme(path: str, kind: str) -> tuple[str | None, str]:
    """Return (registered format, path without its scheme); (None, `path`) for a built-in format.

    Raises:
      InputError: an unknown `kind`.
    """
    scheme, _, rest = path.partition(":")
    if kind in SOURCE_FORMATS:
        return kind, rest if scheme == kind else path
    if kind not in KINDS:
        sentence = str(unknown_name("data format", kind, _known(), "kind"))
        raise UnregisteredError(sentence, names=["kind"])
    is_own = kind == "auto" and scheme in SOURCE_FORMATS
    return (scheme, rest) if is_own else (None, path)


def _folder_of(path: str) -> str:
    """Describe the folder that should hold `path`."""
    folder = os.path.dirname(published.without_split(path)) or "."
    if not os.path.isdir(folder):
        return f"{folder!r} is no folder"
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return f"{folder!r} holds {join_some(names, 8) or 'nothing'}"


def missing_error(path: str) -> InputError:
    """Return the error for a path without data, maybe one whose format is not registered."""
    sentence = f"There is no annotation file or folder of videos at {path!r}: {_folder_of(path)}."
    scheme, colon, _ = path.partition(":")
    if not (colon and scheme.isidentifier() and len(scheme) > 1):
        return InputError(sentence)
    return UnregisteredError(f"{sentence} {unknown_name('data format', scheme, _known())}")


def _known() -> list[str]:
    return [*KINDS, *SOURCE_FORMATS]


def open_registered(name: str, path: str, options: SourceOptions) -> Source:
    """Open `path` by a registered format.

    Raises:
      InputError: it fails, or what it returns is no `Source`, is empty, or has other classes.
    """
    source = _open(name, os.path.expanduser(path), options)
    _check_contract(name, source)
    if not len(source):
        raise InputError(f"Expected videos but the data format {name!r} finds none at {path!r}.")
    if options.label_names is not None:
        check_same_names(options.label_names, source.label_names, path)
    if source.multi_label != options.multi_label:
        raise InputError(
            f"Expected the data format {name!r} to open {path!r} with multi_label="
            f"{options.multi_label}, as config.data.multi_label, but it is {source.multi_label}."
        )
    return source


def _open(name: str, path: str, options: SourceOptions) -> Source:
    try:
        return SOURCE_FORMATS[name](path, options)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"The data format {name!r} cannot open {path!r}: {error} ({line.filename}, line "
            f"{line.lineno}); correct the path or the file."
        ) from error


def _check_contract(name: str, source: Source) -> None:
    members = ("label_names", "multi_label", "identity", "__len__", "__getitem__")
    missing = [member for member in members if not hasattr(source, member)]
    if missing:
        raise InputError(
            f"Expected the data format {name!r} to return a Source but its "
            f"{type(source).__name__} has no {', '.join(missing)}: add it, as "
            f"vswin_jax.data.Source describes."
        )
    if len(source) and not isinstance(source[0], Example):
        raise InputError(
            f"Expected the source of the data format {name!r} to hold vswin_jax.data.Example but "
            f"its first element is a {type(source[0]).__name__}."
        )
