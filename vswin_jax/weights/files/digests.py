"""SHA-256 digests of large files, cached beside each file.

`<file>.sha256` is a file that `sha256sum --check` reads. A comment in it holds the size and the
modification time for which the digest is valid, so an unchanged file is hashed only once.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vswin_jax.errors import InputError

_RECORD = re.compile(r"([0-9a-f]{64})  .*\n# size (\d+) changed_ns (\d+)\n")


@dataclass(frozen=True)
class _DigestRecord:
    digest: str
    size: int
    changed_ns: int

    def is_current(self, stat: os.stat_result) -> bool:
        return (self.size, self.changed_ns) == (stat.st_size, stat.st_mtime_ns)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(path: Path, digest: str) -> None:
    """Write `digest` to the record of the file `path`, if its directory is writable."""
    stat, record_path = path.stat(), _record_path(path)
    partial = record_path.with_name(f"{record_path.name}.{os.getpid()}.part")
    text = f"{digest}  {path.name}\n# size {stat.st_size} changed_ns {stat.st_mtime_ns}\n"
    try:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(partial, record_path)
    except OSError:
        partial.unlink(missing_ok=True)


def verify(path: Path, expected: str | None = None) -> None:
    """Check the file `path` against its record and against an expected digest.

    The file is hashed, and recorded, only if it has no record or if its size or modification time
    differs from the record's.

    Args:
      path: the file.
      expected: all or the first digits of its SHA-256; None if it is unknown.

    Raises:
      InputError: a digest differs.
    """
    recorded, stat = _read_record(path), path.stat()
    current = recorded is not None and recorded.is_current(stat)
    digest = recorded.digest if current else sha256_of(path)
    _check(path, digest, expected)
    _check(path, digest, recorded and recorded.digest)
    if not current:
        record(path, digest)


def _check(path: Path, digest: str, expected: str | None) -> None:
    if expected and not digest.startswith(expected):
        raise InputError(
            f"{path} is not the file it should be: its SHA-256 begins with {digest[:8]} instead "
            f"of {expected[:8]}; delete it and {_record_path(path).name}, and it will be "
            f"downloaded again."
        )


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _read_record(path: Path) -> _DigestRecord | None:
    try:
        match = _RECORD.fullmatch(_record_path(path).read_bytes().decode("utf-8", "replace"))
    except OSError:
        return None
    return _DigestRecord(match[1], int(match[2]), int(match[3])) if match else None
