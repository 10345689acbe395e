"""Files that appear whole or not at all: written to a temporary name, then renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str],
    *,
    partial: str | os.PathLike[str] | None = None,
    sync: bool = False,
) -> Iterator[Path]:
    """The temporary path to write to; it becomes `path` if the block ends well, and goes if not.

    A file that stood at `path` is replaced. What a killed process leaves is `<name>.partial`, which
    the next call writes over, or the `partial` that is given where several processes may write the
    same file. With `sync` the content is on the disk before the file has its name.
    """
    path = Path(path)
    partial = Path(partial or path.with_name(path.name + ".partial"))
    try:
        yield partial
        if sync:
            _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
