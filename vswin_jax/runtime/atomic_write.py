"""Atomic file writes: a file is written under a temporary name and then renamed."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


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
    `partial`. With `sync` the content is on disk before the rename.
    """
    path = Path(path)
    partial = Path(partial or path.with_name(path.name + ".partial"))
    try:
        yield partial
        if sync:
            _fsync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, and create the directory of `path` if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
