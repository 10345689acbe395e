r"""Names of files and classes as text that every stream, file and font can take.

A file name on Linux is any sequence of bytes. Python keeps a byte that is not UTF-8 as a surrogate
(PEP 383), which can be neither encoded nor drawn; here it becomes an escape such as `\xe9`.
"""

import os
import re
import unicodedata

# Control characters, surrogates, and the separators of lines and paragraphs.
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNDECODED_BYTES = range(0xDC80, 0xDD00)


def encodable(name: str) -> str:
    """Return `name` with escapes for surrogates, so that it can be encoded."""
    return _SURROGATE.sub(lambda match: _escape(match[0]), name)


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return `name` on one line, with escapes for surrogates and control characters, as `\n`."""
    text = os.fspath(name)
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    code = ord(character)
    if code in _UNDECODED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _ESCAPED:
        return character.encode("unicode_escape").decode()
    return character
