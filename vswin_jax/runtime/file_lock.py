"""A lock that one process at a time holds; its file names the holder.

The kernel releases the lock when its holder ends, however it ends. On a file system without locks a
lease replaces it: a file that the holder touches every 20 seconds.
"""

import contextlib
import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from filelock import SoftFileLease, Timeout, lock_descriptor

from vswin_jax.errors import InputError

log = logging.getLogger("vswin_jax")

_POLL_SECONDS = 0.1
# A process that is suspended for longer than this loses its lease.
_LEASE_SECONDS = 60.0


@contextlib.contextmanager
def exclusive_lock(
    path: str | os.PathLike[str],
    activity: str,
    *,
    wait_seconds: float = 0.0,
    advice: str = "wait until it has ended, or stop it",
) -> Iterator[None]:
    """Hold the lock on the file `path` in the block; the file is removed afterwards.

    Another holder has `wait_seconds` to release it. `activity` is what holders do, such as "writing
    to 'data'", and `advice` what to do about another one.

    Raises:
      InputError: another process still holds the lock; the message names its host and number.
      OSError: the file cannot be written.
    """
    path = Path(path)
    with ExitStack() as stack:
        file = _locked_file(path, activity, wait_seconds, stack)
        if file is None:
            raise InputError(f"Another run is {activity}{_read_holder(path)}: {advice}.")
        stack.enter_context(file)
        stack.callback(_remove, path)
        _write_holder(file)
        yield


def _locked_file(
    path: Path, activity: str, wait_seconds: float, stack: ExitStack
) -> BinaryIO | None:
    """Return the open and locked file; None if another process holds it for too long."""
    deadline = time.monotonic() + wait_seconds
    is_logged = False
    while True:
        file = _open(path)
        try:
            is_locked = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            file.close()
            return _leased_file(path, wait_seconds, error, stack)
        # The previous holder may have removed the file since it was opened.
        if is_locked and _is_current(file, path):
            return file
        file.close()
        if not is_locked and time.monotonic() >= deadline:
            return None
        if not is_locked and not is_logged:
            log.info("waiting for another run, which is %s%s", activity, _read_holder(path))
            is_logged = True
        time.sleep(_POLL_SECONDS)


def _open(path: Path) -> BinaryIO:
    try:
        return _open_once(path)
    except FileNotFoundError:
        # A holder that ends may remove the directory as soon as it is there.
        return _open_once(path)


def _open_once(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("a+b")
    except PermissionError:
        # A killed process of another user has left it; reading is enough for a lock.
        return path.open("rb")


def _is_current(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _leased_file(
    path: Path, wait_seconds: float, reason: OSError, stack: ExitStack
) -> BinaryIO | None:
    """Take a lease until `stack` is closed and return the open file; None if it stays taken."""
    log.info(
        "'%s' is on a file system without locks (%s): a lease replaces the lock",
        path,
        reason.strerror,
    )
    # A killed holder on another host is recognised after this time by the lack of renewals.
    timeout = wait_seconds + 1.5 * _LEASE_SECONDS
    lease = SoftFileLease(
        path.with_name(f"{path.name}.lease"),
        timeout=-1 if math.isinf(timeout) else timeout,
        lease_duration=_LEASE_SECONDS,
    )
    try:
        stack.enter_context(lease)
    except Timeout:
        return None
    return _open(path)


def _write_holder(file: BinaryIO) -> None:
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    # It only serves messages of other processes, so a full disk must not end this one.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(json.dumps(holder).encode())
        file.flush()


def _remove(path: Path) -> None:
    # It may be another user's; a file that is left behind does no harm.
    with contextlib.suppress(OSError):
        path.unlink()


def _read_holder(path: Path) -> str:
    """Return the holder of the lock in parentheses after a space; "" if it is not known."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {holder['process']} on host {holder['host']!r}, since {holder['since']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
