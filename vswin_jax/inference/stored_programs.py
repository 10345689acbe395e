"""Keeps the compiled programs of inference in the user's cache directory, for later processes.

A run's own directory is not used: it may come from somebody else, and a program is native code. The
contract is that nothing in a checkpoint is ever executed.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from vswin_jax.runtime import compilation
from vswin_jax.runtime.output_path import is_writable
from vswin_jax.weights.zoo import cache_directory

# Programs that were not used for the longest time are deleted beyond it.
_MAX_BYTES = 2 << 30
_lock = threading.RLock()


@contextlib.contextmanager
def stored_programs() -> Iterator[None]:
    """Load compiled programs from the user's cache, and store them there, during the block.

    The setting belongs to the process, so one thread at a time is in such a block. Without a
    directory that is writable, and this user's alone, nothing is stored.
    """
    directory = cache_directory() / compilation.DIRECTORY
    location = os.fspath(directory) if _is_usable(directory) else compilation.OFF
    with _lock, compilation.persistent_cache(location, directory, max_bytes=_MAX_BYTES):
        yield


def _is_usable(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The parent may be in /tmp, where somebody else can make a directory of its name first.
        is_own = all(map(_is_own, (directory, directory.parent)))
    except OSError:
        return False
    return is_own and is_writable(directory)


def _is_own(directory: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    status = directory.stat()
    return status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH
