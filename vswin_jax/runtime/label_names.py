"""Text files with one class name a line, in the order of the labels, such as label_names.txt."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.printable import encodable
from vswin_jax.runtime.text_files import decode_text, split_lines

LABEL_NAMES_FILE = "label_names.txt"


def normalize_label_name(name: str) -> str:
    """Return a class name in Unicode's form NFC, on one line, without surrounding white space.

    Bytes of a folder's name that are not UTF-8 become escapes.

    The names of folders made on macOS are in NFD, in which "ü" is "u" and a mark: without this,
    training and validation data from two systems would have two classes of the same name.
    """
    one_line = " ".join(filter(None, map(str.strip, split_lines(name))))
    return encodable(unicodedata.normalize("NFC", one_line))


def read_label_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the class names of a file, normalised, without blank lines.

    Raises:
      InputError: the file cannot be read or is not text in UTF-8.
    """
    try:
        lines = split_lines(decode_text(Path(path).read_bytes()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected a text file with one class name a line but {os.fspath(path)!r} cannot be "
            f"read ({getattr(error, 'strerror', None) or 'not UTF-8'}): correct the path, or leave "
            "it out."
        ) from error
    return tuple(normalize_label_name(line) for line in lines if line.strip())


def write_label_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Write one class name a line."""
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{encodable(name)}\n" for name in names), encoding="utf-8")
