"""Paths that a command writes to, checked before its work and not after it.

The checks create nothing, so a command that is refused for another reason leaves nothing behind.
"""

import os
import re
import stat
import tempfile
from pathlib import Path

from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import is_device
from vswin_jax.runtime.disk_full import DISK_FULL_ERRNOS
from vswin_jax.runtime.printable import encodable

# A full disk often has room for an empty file.
_TRIED_BYTES = 4096


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path` with `~` expanded; `name` is the flag or the setting that it comes from.

    Raises:
      InputError: it is a URL, or the home directory is unknown.
    """
    text = os.path.expanduser(os.fspath(path))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise InputError(
            f"Expected {name} to be a path on this machine but {text!r} came: give a local or a "
            f"mounted directory, and copy the files from there."
        )
    if text.startswith("~") and not os.path.lexists(text):
        raise InputError(
            f"Expected {name} to be a path but the home directory in {text!r} is unknown: give "
            f"the whole path, or ./{text} for a directory of that name."
        )
    return Path(text)


def output_directory(path: str | os.PathLike[str], name: str) -> Path:
    """Return the directory `path`, which may be missing, if files can be written in it.

    Raises:
      InputError: it is no local path, a file is in its way, or it cannot be written to.
    """
    directory = local_path(path, name)
    # The libraries that write checkpoints and TensorBoard's files take no other names.
    is_text = encodable(os.fspath(directory)) == os.fspath(directory)
    obstacle = _directory_obstacle(directory.absolute()) if is_text else "its name is not UTF-8"
    if obstacle:
        raise _refusal(directory, name, "a directory that can be written to", obstacle)
    return directory


def output_file(
    path: str | os.PathLike[str], name: str, *, parent_must_exist: bool = False
) -> Path:
    """Return the path of a file that can be written, or replaced if it exists.

    Raises:
      InputError: it is no local path, it is a directory, or it cannot be written.
    """
    file = local_path(path, name)
    obstacle = _file_obstacle(file.absolute(), parent_must_exist)
    if obstacle:
        raise _refusal(file, name, "a file that can be written", obstacle)
    return file


def is_writable(directory: Path) -> bool:
    """Return True if files can be written in `directory`, which may be missing."""
    return _directory_obstacle(directory.absolute()) is None


def _refusal(path: Path, name: str, expected: str, obstacle: str) -> InputError:
    is_full = obstacle in map(os.strerror, DISK_FULL_ERRNOS)
    remedy = "make room on its disk" if is_full else "make this one writable"
    return InputError(
        f"Expected {name} to be {expected} but {os.fspath(path)!r} is not ({obstacle}): give "
        f"another path, or {remedy}."
    )


def _directory_obstacle(directory: Path) -> str | None:
    """Return the reason why no file can be written in `directory`, or None.

    If it is missing, the nearest parent that exists counts.
    """
    for path in (directory, *directory.parents):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                return f"{os.fspath(path)!r} is a link to nothing"
            continue
        except OSError as error:
            return error.strerror
        return _write_error(path) if stat.S_ISDIR(mode) else f"{os.fspath(path)!r} is a file"
    return None


def _write_error(directory: Path) -> str | None:
    """Write a file without a name in `directory`; return the system's message if that fails."""
    # os.access would miss a full disk, a quota and a server's own rules.
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        return error.strerror
    return None


def _file_obstacle(file: Path, parent_must_exist: bool) -> str | None:
    """Return the reason why `file` cannot be written, or None."""
    try:
        exists = bool(file.lstat())
    except (FileNotFoundError, NotADirectoryError):
        exists = False
    except OSError as error:
        return error.strerror
    if os.path.isdir(file):
        return "it is a directory"
    if is_device(file):
        return None if os.access(file, os.W_OK) else "no permission"
    if parent_must_exist and not file.parent.exists():
        return f"its directory is {os.fspath(file.parent)!r}, which does not exist"
    if exists and _belongs_to_another(file):
        return "it belongs to another user"
    return _directory_obstacle(file.parent)


def _belongs_to_another(file: Path) -> bool:
    """Return True for another user's file in a directory such as /tmp, where it cannot be replaced.

    In a directory with the sticky bit only the owners of the file and of the directory may do so.
    """
    parent = file.parent.stat()
    owners = (0, parent.st_uid, file.lstat().st_uid)
    return bool(parent.st_mode & stat.S_ISVTX) and os.geteuid() not in owners
