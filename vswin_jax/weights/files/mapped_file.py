"""Maps a file into memory, so that only the bytes in use are read."""

import mmap
import os

from vswin_jax.errors import InputError

REMEDY = "download it or save it again"


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """Return the bytes of a file, which are read on first access.

    Raises:
      InputError: there is no such file, it is empty, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(f"{path} is empty: {REMEDY}.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}: give the path of a checkpoint.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file.") from None
