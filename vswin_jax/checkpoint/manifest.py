"""The manifest of a saved step: size and SHA-256 of each file, to detect later damage."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

NAME = "manifest.json"
# Orbax completes a step after the manifest is written: it creates a marker file, and records the
# time of the commit in its own metadata file.
MARKER = "commit_success.txt"
_ORBAX_METADATA, _COMMIT_TIME = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
# Bytes; smaller files are compared by content even in the quick check.
_SMALL = 1 << 16
_CHUNK = 1 << 20


def write(directory: epath.Path, *, marked: bool = False) -> None:
    """Write the manifest of the step in `directory`, after all of its files.

    `marked` states that Orbax will add its marker file later; without it the step is damaged.

    Raises:
      OSError: a file cannot be read, or the manifest cannot be written.
    """
    names = sorted(set(_file_names(directory)) - {NAME, MARKER})
    files = {name: _entry(directory / name) for name in names}
    (directory / NAME).write_text(json.dumps({"marked": marked, "files": files}, indent=1))


def add(directory: epath.Path, name: str) -> None:
    """Add a file that was written later to the manifest of a step.

    A kill before this call does no harm: the file then counts as unexpected, which is allowed.

    Raises:
      OSError: the file cannot be read, or the manifest cannot be written.
    """
    content = read_json(directory / NAME)
    content["files"] |= {name: _entry(directory / name)}
    # Not `atomic_write`, which renames by the os module: the step may be in a bucket.
    partial = directory / f"{NAME}.partial"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(directory / NAME)


def difference(directory: epath.Path, *, thorough: bool) -> str | None:
    """Return the first difference of `directory` from its manifest as a phrase, or None.

    Unless `thorough`, the content of large files is not read. Files that are not in the manifest
    are no difference, since nothing reads them.

    Raises:
      OSError: a file exists but cannot be read.
    """
    content = read_json(directory / NAME)
    files = content.get("files")
    if not isinstance(files, dict) or "marked" not in content:
        return f"'{NAME}' is not what was saved"
    if content["marked"] and not (directory / MARKER).exists():
        return f"'{MARKER}' is missing"
    for name, entry in files.items():
        phrase = _file_difference(directory / name, entry, thorough)
        if phrase:
            return f"'{name}' {phrase}"
    return None


def unexpected_files(directory: epath.Path) -> list[str]:
    """Return the files in `directory` that are not in its manifest, such as a stale lock."""
    known = read_json(directory / NAME).get("files", {})
    return sorted(set(_file_names(directory)) - {NAME, MARKER, *known})


def read_json(path: epath.Path) -> dict[str, Any]:
    """Read the JSON object in a file; a file with any other content gives {}."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _file_names(directory: epath.Path) -> Iterator[str]:
    for folder, _, names in directory.walk():
        yield from ((folder / name).relative_to(directory).as_posix() for name in names)


def _entry(path: epath.Path) -> dict[str, Any]:
    # Orbax rewrites its metadata file after the manifest, so the size changes.
    size = None if path.name == _ORBAX_METADATA else path.stat().length
    return {"size": size, "sha256": _sha256(path)}


def _file_difference(path: epath.Path, entry: Any, thorough: bool) -> str | None:
    if not isinstance(entry, dict) or not entry.keys() >= {"size", "sha256"}:
        return "is not described by the manifest"
    if not path.exists():
        return "is missing"
    size = path.stat().length
    if entry["size"] not in (None, size):
        return f"has {size} bytes instead of {entry['size']}"
    if (thorough or size <= _SMALL) and _sha256(path) != entry["sha256"]:
        return "does not have the content that was saved"
    return None


def _sha256(path: epath.Path) -> str:
    """Return the hexadecimal digest of a file, for Orbax's metadata without the commit time."""
    if path.name == _ORBAX_METADATA:
        entries = {key: value for key, value in read_json(path).items() if key != _COMMIT_TIME}
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    digest = hashlib.sha256()
    # hashlib.file_digest needs `readinto`, which files in a bucket do not have.
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
