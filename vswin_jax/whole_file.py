"""Files that appear whole or not at all: written to a temporary name, then renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The temporary path to write to; it becomes `path` if the block ends well, and goes if not.

    A file that stood at `path` is replaced. What a killed process leaves is `<name>.partial`, which
    the next call writes over.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
