"""A disk with no room left: how its errors look, and what a run says of it."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vswin_jax.errors import InputError

# No room on the disk, none in the user's quota, and a file larger than the system allows.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def explained(path: str | os.PathLike[str], then: Callable[[], str]) -> Iterator[None]:
    """Turns what a full disk raises into an `InputError`: that `path` has no room, and `then()`."""
    try:
        yield
    except Exception as error:
        reason = reason_if_full(error)
        if reason is None or isinstance(error, InputError):
            raise
        consequence = then()
        raise InputError(
            f"The disk of '{os.fspath(path)}' is full ({reason}; {_free_space(path)} free): make "
            f"room there; {consequence}."
        ) from error


def reason_if_full(error: BaseException) -> str | None:
    """What the system says if `error` comes of a disk without room, else None.

    Libraries in C++ raise errors of their own, with the system's number or words in the text.
    """
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    for full in _FULL:
        if full == number or os.strerror(full) in str(error):
            return os.strerror(full)
    return None


def _free_space(path: str | os.PathLike[str]) -> str:
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return amount(shutil.disk_usage(place).free)


def amount(size: int) -> str:
    """A number of bytes, for people: 12 kB, 3 MB, 1,024 GB."""
    unit, name = next((u for u in ((1e9, "GB"), (1e6, "MB")) if size >= u[0]), (1e3, "kB"))
    return f"{size / unit:,.0f} {name}"
