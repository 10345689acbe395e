"""Recognises the errors of a full disk and reports them as one clear `InputError`."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vswin_jax.errors import InputError

# No space on the disk, none in the user's quota, and a file larger than the system allows.
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def reraise_disk_full(
    path: str | os.PathLike[str], consequence: Callable[[], str]
) -> Iterator[None]:
    """Re-raise a disk-full error of the block as an `InputError` about the disk of `path`.

    The message ends with the text of `consequence()`: the loss, and the user's next step. All other
    errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        reason = disk_full_reason(error)
        if reason is None or isinstance(error, InputError):
            raise
        # Called before the free space is measured, because it may delete files (see `Checkpoints`).
        described = consequence()
        raise InputError(
            f"The disk of '{os.fspath(path)}' is full ({reason}; {_free_space(path)} free): make "
            f"room there; {described}."
        ) from error


def disk_full_reason(error: BaseException) -> str | None:
    """Return the system's message if `error` was caused by a full disk, else None.

    C++ libraries (TensorStore, TensorFlow) raise their own exception types, with the errno or the
    system's message only in the text.
    """
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    for full in DISK_FULL_ERRNOS:
        if full == number or os.strerror(full) in str(error):
            return os.strerror(full)
    return None


def _free_space(path: str | os.PathLike[str]) -> str:
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    return format_bytes(shutil.disk_usage(existing).free)


def format_bytes(size: int) -> str:
    """Format a number of bytes in decimal units: 12 kB, 3 MB, 1,024 GB."""
    unit, name = next((u for u in ((1e9, "GB"), (1e6, "MB")) if size >= u[0]), (1e3, "kB"))
    return f"{size / unit:,.0f} {name}"
