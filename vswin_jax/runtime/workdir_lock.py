"""Locks a workdir for one run: two would delete each other's unfinished files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vswin_jax.runtime import distributed
from vswin_jax.runtime.file_lock import exclusive_lock
from vswin_jax.runtime.output_path import output_directory

LOCK_FILE = "run.lock"
# A run that was stopped a moment ago, and started again at once, may still be saving.
_WAIT_SECONDS = 15.0

# The workdirs that this process has locked, or process 0 of its run.
_locked: set[Path] = set()


@contextlib.contextmanager
def lock_workdir(
    workdir: str | os.PathLike[str], wait_seconds: float = _WAIT_SECONDS
) -> Iterator[None]:
    """Create `workdir` and keep other runs out of it; all processes of this run call it.

    Process 0 holds the lock, and the others wait until it does. A block within a block for the same
    directory does nothing. A directory that was created and is empty at the end is removed.

    Raises:
      InputError: another run is in `workdir` for longer than `wait_seconds`, or the directory
        cannot be written.
    """
    directory = Path(os.path.abspath(workdir))
    if directory in _locked:
        yield
        return
    with contextlib.ExitStack() as stack:
        peers = distributed.get_peers()
        # Not `jax.process_index`: a TPU that another run uses cannot even be counted.
        if peers is None or peers.index == 0:
            _lock(directory, wait_seconds, stack)
        distributed.wait_for_all("the workdir is locked")
        _locked.add(directory)
        stack.callback(_locked.discard, directory)
        yield


def _lock(directory: Path, wait_seconds: float, stack: contextlib.ExitStack) -> None:
    output_directory(directory, "the workdir")
    stack.enter_context(_created(directory))
    lock = exclusive_lock(
        directory / LOCK_FILE,
        f"in the workdir '{directory}'",
        wait_seconds=wait_seconds,
        advice="wait until it has ended, stop it, or give another workdir",
    )
    stack.enter_context(lock)


@contextlib.contextmanager
def _created(directory: Path) -> Iterator[None]:
    """Create a directory for the block; it is removed afterwards if nothing is in it."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
