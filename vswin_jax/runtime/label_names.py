"""Text files with one class name a line, in the order of the labels, such as label_names.txt."""

import os
from collections.abc import Sequence
from pathlib import Path

from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import atomic_write

LABEL_NAMES_FILE = "label_names.txt"


def read_label_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the class names of a file, without blank lines and surrounding white space.

    Raises:
      InputError: the file cannot be read or is not text in UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected a text file with one class name a line but {os.fspath(path)!r} cannot be "
            f"read ({getattr(error, 'strerror', None) or 'not UTF-8'}): correct the path, or leave "
            "it out."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def write_label_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Write one class name a line."""
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
