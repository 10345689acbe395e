"""Atomic file writes: a file is written under a temporary name and then renamed."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_MAX_NAME_BYTES = 255


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    *,
    partial: str | os.PathLike[str] | None = None,
    sync: bool = False,
) -> Iterator[Path]:
    """Yield a temporary path to write to and rename it to `path` when the block succeeds.

    If the block raises, the temporary file is deleted; a killed process leaves it, and the next
    call overwrites it. Processes that may write the same file at once must each give their own
    `partial`. With `sync` the content is on disk before the rename. A device is written to in
    place, because the rename would remove it from the system.
    """
    path = Path(path)
    if is_device(path):
        yield path
        return
    partial = Path(partial or _partial_path(path))
    try:
        yield partial
        if sync:
            _fsync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Return True for a device, a pipe or a socket, such as /dev/null and /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    # /dev/stdout is a link, to a regular file if the output is redirected to one.
    is_stream = os.fspath(path.absolute().parent) in ("/dev", "/dev/fd")
    return is_stream or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_json(path: Path, content: Mapping[str, Any], *, sync: bool = False) -> None:
    """Write `content` as indented JSON, and create the directory of `path` if it is missing.

    With `sync` the content is on disk before the file has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, sync=sync) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _partial_path(path: Path) -> Path:
    name = f"{path.name}.partial"
    # File systems limit names to 255 bytes.
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.partial"
    return path.with_name(name)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
