"""A file of answers that is written as they come and continued by a later start."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vswin_jax.errors import InputError
from vswin_jax.inference.answers.answer_formats import (
    Settings,
    format_line,
    format_of,
    parse_line,
    read_answers,
    read_settings,
    settings_path,
    write_settings,
)
from vswin_jax.inference.answers.answer_rows import Answer
from vswin_jax.inference.written_settings import describe_changes
from vswin_jax.runtime.disk_full import reraise_disk_full
from vswin_jax.runtime.file_lock import exclusive_lock

_ADVICE = "the same command goes on with the videos that have no answers yet"
# The same weights may have moved.
_MAY_DIFFER = ("checkpoint",)
_PHRASES = {
    "label_names": "other classes",
    "weights": "other weights",
    "data": "other videos",
    "root": "videos in another folder",
}


class AnswerFile:
    """The answers in `path`, and those that this process adds.

    Lines of JSON are appended to the file itself; those of another format to a file beside it,
    which is removed when `finish` has written the answers of all videos. Its first line has the
    digest of the file that it continues, without which it would be read again after a kill between
    the two.

    Attributes:
      earlier: the answers that an earlier start has left.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self._settings = path, settings
        self._journal = path if path.suffix.lower() == ".jsonl" else _journal_beside(path)
        self._file: BinaryIO | None = None
        if self._journal == path:
            self.earlier = _parse(path, _whole_lines(path))
        else:
            self.earlier = [*(read_answers(path) if path.exists() else ()), *self._continued()]

    def _continued(self) -> list[Answer]:
        """Return the answers of the file beside; one that is finished is removed."""
        lines = _whole_lines(self._journal)
        if lines[:1] == [_header(self.path)]:
            return _parse(self._journal, lines[1:])
        if self._journal.exists():
            self._journal.unlink()
        return []

    def add(self, answers: Sequence[Answer]) -> None:
        """Append answers; each is in the file when this returns."""
        if self._file is None:
            self._file = self._journal.open("ab")
            if self._journal != self.path and not self._file.tell():
                self._file.write(_header(self.path))
        self._file.write(b"".join(map(format_line, answers)))
        self._file.flush()

    def finish(self, answers: Sequence[Answer], scores: Mapping[str, float]) -> None:
        """Write the answers of all videos in order, and their scores to the settings."""
        format_of(self.path).write(self.path, answers, self._settings["label_names"])
        if self._journal != self.path and self._journal.exists():
            self.close()
            self._journal.unlink()
        write_settings(self.path, {**self._settings, "scores": scores})

    def close(self) -> None:
        """Close the file; its answers are kept for the next start."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextlib.contextmanager
def open_answer_file(path: Path, settings: Settings, *, overwrite: bool) -> Iterator[AnswerFile]:
    """Open the file of answers for the block, in which no other process writes to it.

    With `overwrite` earlier answers are deleted.

    Raises:
      InputError: it has answers of other settings, or it is no file of answers.
    """
    with (
        reraise_disk_full(path.parent, lambda: _ADVICE),
        exclusive_lock(path.with_name(f".{path.name}.lock"), f"writing answers to '{path}'"),
    ):
        if overwrite:
            for file in (settings_path(path), path, _journal_beside(path)):
                file.unlink(missing_ok=True)
        if settings_path(path).exists():
            _check_same(path, settings)
        elif path.exists():
            raise InputError(
                f"{os.fspath(path)!r} exists and is not of `python -m vswin_jax.predict`, because "
                f"{settings_path(path).name} is missing: give another name, or overwrite it."
            )
        write_settings(path, settings)
        with contextlib.closing(AnswerFile(path, settings)) as file:
            yield file


def _journal_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.jsonl")


def _header(path: Path) -> bytes:
    """Return the first line of the file that continues `path`, which may be missing."""
    content = path.read_bytes() if path.exists() else b""
    return json.dumps({"continues": hashlib.sha256(content).hexdigest()}).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, or none; a part that a killed process has left is cut off."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(path, sum(map(len, lines[:-1])))
        lines.pop()
    return lines


def _parse(path: Path, lines: Sequence[bytes]) -> list[Answer]:
    try:
        return [parse_line(line) for line in lines]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{os.fspath(path)!r} has lines that are no answers: give another name, or overwrite "
            f"it."
        ) from error


def _check_same(path: Path, settings: Settings) -> None:
    """Compare the settings with those of the start that made the file."""
    old = read_settings(path)
    new = {**settings, "label_names": tuple(settings["label_names"])}
    shown = describe_changes(old, new, ignored=_MAY_DIFFER, phrases=_PHRASES)
    if shown:
        raise InputError(
            f"The answers in {os.fspath(path)!r} are of other settings ({shown}): give another "
            f"name, or overwrite them."
        )
