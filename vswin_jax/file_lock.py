"""One process at a time: an advisory lock on an open file."""

import contextlib
from typing import BinaryIO


def lock(file: BinaryIO) -> None:
    """Waits until no other process has `file` locked; where there are no locks it just returns.

    The lock ends when the file is closed, or its process does.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
