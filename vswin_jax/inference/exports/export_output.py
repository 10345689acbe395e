"""The place of an export: checked before the work, filled at once when the export is complete."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vswin_jax.errors import InputError
from vswin_jax.inference.exports.export_format import ExportFormat
from vswin_jax.runtime.output_path import local_path, output_file

# A file that the directory of a SavedModel has, and hardly any other directory.
_MARK = "saved_model.pb"


def description_path(path: Path) -> Path:
    """Return the path of the JSON file beside the export at `path`."""
    return path.with_name(f"{path.name}.json")


def checked_output(
    out: str | os.PathLike[str], export_format: ExportFormat, *, overwrite: bool
) -> Path:
    """Return the absolute path of an export that can be written.

    Raises:
      InputError: there is something already, and not an earlier export to `overwrite`, or nothing
        can be written there.
    """
    path = Path(os.path.abspath(local_path(out, "the output")))
    for existing in filter(os.path.lexists, (path, description_path(path))):
        if not overwrite:
            raise InputError(
                f"{os.fspath(existing)!r} already exists: give another name, or --overwrite."
            )
    if export_format.is_directory:
        _check_directory(path)
    else:
        output_file(path, "the output", parent_must_exist=True)
    output_file(description_path(path), "the output's description", parent_must_exist=True)
    return path


def _check_directory(path: Path) -> None:
    if os.path.lexists(path) and not (path / _MARK).is_file():
        raise InputError(
            f"Expected a SavedModel to replace but {os.fspath(path)!r} is something else, which is "
            f"not deleted: give another name."
        )


@contextlib.contextmanager
def complete_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path for an export, which gets its name when the block succeeds.

    The block writes the description too, at `description_path` of the temporary path. Nothing is
    left of a block that fails.

    Raises:
      InputError: the files cannot be written.
    """
    try:
        # File systems limit names to 255 bytes.
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:30]}.", dir=path.parent) as name:
            partial = Path(name) / path.name
            yield partial
            # The export comes last: if it is there, so is its description.
            os.replace(description_path(partial), description_path(path))
            _replace(partial, path, Path(name) / "replaced")
    except OSError as error:
        raise InputError(
            f"The export cannot be written to {os.fspath(path)!r} ({error.strerror or error}): "
            f"free some space, or choose another directory."
        ) from error


def _replace(partial: Path, path: Path, aside: Path) -> None:
    # A directory is not replaced by a rename.
    if path.is_dir():
        os.rename(path, aside)
    os.replace(partial, path)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
