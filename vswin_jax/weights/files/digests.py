"""SHA-256 of large files, worked out once: it is kept beside the file with size and time of change.

`<file>.sha256` is what `sha256sum --check` reads, with the two in a comment.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vswin_jax.errors import InputError

_RECORD = re.compile(r"([0-9a-f]{64})  .*\n# size (\d+) changed_ns (\d+)\n")


@dataclass(frozen=True)
class _Record:
    digest: str
    size: int
    changed_ns: int


def digest_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(path: Path, digest: str) -> None:
    """Keeps `digest` beside the file `path`, if its directory can be written."""
    stat, beside = path.stat(), _beside(path)
    partial = beside.with_name(f"{beside.name}.{os.getpid()}.part")
    text = f"{digest}  {path.name}\n# size {stat.st_size} changed_ns {stat.st_mtime_ns}\n"
    try:
        partial.write_text(text)
        os.replace(partial, beside)
    except OSError:
        partial.unlink(missing_ok=True)


def verify(path: Path, expected: str | None = None) -> None:
    """Checks the file `path` against its record, and against what is expected of it.

    The file is read only when it has no record, or is of another size or time than the recorded
    one; then it is recorded.

    Args:
      expected: all or the first digits of its SHA-256; None where nobody knows them.

    Raises:
      InputError: the file is another one.
    """
    known, stat = _recorded(path), path.stat()
    fresh = known is not None and (known.size, known.changed_ns) == (stat.st_size, stat.st_mtime_ns)
    digest = known.digest if fresh else digest_of(path)
    for wanted in filter(None, (expected, known and known.digest)):
        if not digest.startswith(wanted):
            raise InputError(
                f"{path} is not the file it should be: its SHA-256 begins with {digest[:8]} "
                f"instead of {wanted[:8]}; delete it and {_beside(path).name}, and it will be "
                f"downloaded again."
            )
    if not fresh:
        record(path, digest)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> _Record | None:
    try:
        match = _RECORD.fullmatch(_beside(path).read_text())
    except (OSError, UnicodeDecodeError):
        return None
    return _Record(match[1], int(match[2]), int(match[3])) if match else None
