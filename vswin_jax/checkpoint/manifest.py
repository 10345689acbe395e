"""What belongs to a step, file by file: written when all of it is there, and compared later."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

NAME = "manifest.json"
# Orbax completes a step after the manifest is written: it marks it, and notes the time.
MARKER = "commit_success.txt"
_NOTES, _TIME = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
# Bytes; smaller files are compared whole even where there is no time for all.
_SMALL = 1 << 16
_CHUNK = 1 << 20


def write(directory: epath.Path, *, marked: bool = False) -> None:
    """Writes the manifest of the step in `directory`, whose files are all there.

    `marked` says that Orbax is to mark the step as complete, and nobody is to miss the mark.

    Raises:
      OSError: a file cannot be read, or the manifest not written.
    """
    names = sorted(set(_names(directory)) - {NAME, MARKER})
    files = {name: _describe(directory / name) for name in names}
    (directory / NAME).write_text(json.dumps({"marked": marked, "files": files}, indent=1))


def add(directory: epath.Path, name: str) -> None:
    """Adds to the manifest of a step a file that came after it.

    Until that is done nobody misses the file, and a kill in between does no harm.

    Raises:
      OSError: the file cannot be read, or the manifest not written.
    """
    content = read_json(directory / NAME)
    content["files"] |= {name: _describe(directory / name)}
    partial = directory / f"{NAME}.partial"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(directory / NAME)


def difference(directory: epath.Path, *, thorough: bool) -> str | None:
    """How `directory` differs from its manifest, as a phrase; None if it does not.

    Not `thorough`, the content of large files is not read. Files that the manifest does not name
    make no difference: nothing reads them.

    Raises:
      OSError: a file is there and cannot be read.
    """
    content = read_json(directory / NAME)
    files = content.get("files")
    if not isinstance(files, dict) or "marked" not in content:
        return f"'{NAME}' is not what was saved"
    if content["marked"] and not (directory / MARKER).exists():
        return f"'{MARKER}' is missing"
    for name, saved in files.items():
        how = _file_difference(directory / name, saved, thorough)
        if how:
            return f"'{name}' {how}"
    return None


def strangers(directory: epath.Path) -> list[str]:
    """The files in `directory` that its manifest does not name, such as a lock left behind."""
    known = read_json(directory / NAME).get("files", {})
    return sorted(set(_names(directory)) - {NAME, MARKER, *known})


def read_json(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file; {} for a file with anything else in it."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _names(directory: epath.Path) -> Iterator[str]:
    for folder, _, names in directory.walk():
        yield from ((folder / name).relative_to(directory).as_posix() for name in names)


def _describe(path: epath.Path) -> dict[str, Any]:
    size = None if path.name == _NOTES else path.stat().length
    return {"size": size, "sha256": _digest(path)}


def _file_difference(path: epath.Path, saved: Any, thorough: bool) -> str | None:
    if not isinstance(saved, dict) or not saved.keys() >= {"size", "sha256"}:
        return "is not described by the manifest"
    if not path.exists():
        return "is missing"
    size = path.stat().length
    if saved["size"] not in (None, size):
        return f"has {size} bytes instead of {saved['size']}"
    if (thorough or size <= _SMALL) and _digest(path) != saved["sha256"]:
        return "has not the content that was saved"
    return None


def _digest(path: epath.Path) -> str:
    if path.name == _NOTES:
        notes = {key: value for key, value in read_json(path).items() if key != _TIME}
        return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
