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


def try_lock(file: BinaryIO) -> bool:
    """Locks `file` as `lock` does, but without waiting; whether no other process had it locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True
