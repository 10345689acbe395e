"""Reads text files that users write: their encoding, their lines, and the errors in them."""

import codecs
import os
import re
from collections.abc import Iterator

from vswin_jax.errors import InputError

# `str.splitlines` also splits at U+2028, form feeds and others, which names may contain.
_LINE_END = re.compile(r"\r\n|\r|\n")
_MARK = "\ufeff"  # the byte order mark
_MAX_SHOWN = 300  # characters of a line in an error


def read_text(path: str) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, without the mark.

    Raises:
      InputError: the file cannot be read or is not text.
    """
    try:
        with open(path, "rb") as file:
            return decode_text(file.read())
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path!r} is not a text file in UTF-8 (see line {line}): save it in UTF-8 if it is a "
            "list, or give a list of videos or a folder of classes."
        ) from error
    except OSError as error:
        raise InputError(f"The file {path!r} cannot be read: {error.strerror}.") from error


def decode_text(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, and remove byte order marks.

    Raises:
      UnicodeDecodeError: the content is not such text.
    """
    encoding = _encoding(content)
    text = content.decode(encoding)
    if "\0" in text:
        position = max(content.find(b"\0"), 0)
        raise UnicodeDecodeError(encoding, content, position, position + 1, "a NUL character")
    # Any two bytes are a character of UTF-16, so other files have to be recognised by more.
    if encoding == "utf-16" and (not text or "\ufffd" in text):
        raise UnicodeDecodeError(encoding, content, 0, 2, "no text")
    # A file that was joined from several, as by `cat`, has a mark at the start of each.
    return text.lstrip(_MARK).replace("\n" + _MARK, "\n")


def read_head(path: str, characters: int) -> str:
    r"""Return the first characters of a file as text with `\n` at the end of lines.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(4 * characters)
    text = content.decode(_encoding(content), errors="replace")
    return "\n".join(split_lines(text))[:characters].lstrip(_MARK)


def _encoding(content: bytes) -> str:
    # Windows PowerShell writes UTF-16. "utf-8-sig" removes the mark of spreadsheet programs.
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return "utf-16" if content.startswith(marks) else "utf-8-sig"


def split_lines(text: str) -> list[str]:
    r"""Split text at each `\n`, `\r\n` and `\r`, and at no other character."""
    return _LINE_END.split(text)


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of the lines that are not blank."""
    lines = enumerate(split_lines(text), start=1)
    return ((number, line) for number, line in lines if line.strip())


def bad_line(path: str | os.PathLike[str], number: int, expected: str, line: str) -> InputError:
    """Return the error for a line that differs from what was `expected`."""
    line = line.strip()
    shown = line if len(line) <= _MAX_SHOWN else line[:_MAX_SHOWN] + "..."
    return InputError(
        f"{os.fspath(path)!r}, line {number}: expected {expected} but it reads {shown!r}."
    )
