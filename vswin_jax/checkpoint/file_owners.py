"""Lets etils.epath, which Orbax uses, read files whose owner has no entry in the passwd file.

That is so for `docker run --user`, and for the owners of other machines on a network disk.
"""

import os
import stat
from dataclasses import fields

from etils.epath import backend, stat_utils


def allow_unknown_owners() -> None:
    """Replace the look-up of the owner's and the group's name, which raises KeyError, by numbers.

    Nothing here or in Orbax reads the names. A version of etils without this class may not have
    this defect either, and is left as it is.
    """
    local = getattr(backend, "_OsPathBackend", None)
    if local is not None:
        local.stat = _stat


def _stat(_: object, path: str | os.PathLike[str]) -> stat_utils.StatResult:
    found = os.stat(path)
    values = {
        "is_directory": stat.S_ISDIR(found.st_mode),
        "length": found.st_size,
        "mtime": int(found.st_mtime),
        "owner": str(found.st_uid),
        "group": str(found.st_gid),
        "mode": found.st_mode,
    }
    # Versions differ in their fields.
    known = {field.name for field in fields(stat_utils.StatResult)}
    return stat_utils.StatResult(**{name: v for name, v in values.items() if name in known})
