"""A CSV file that lists the videos that cannot be read, one row each."""

import contextlib
import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor

HEADER = ("path", "reason", "step", "epoch")


class BadVideoTable:
    """A CSV file that several processes may append to; it lists every video once.

    Existing rows of the file count too, so a restarted run lists no video a second time. A row
    that a killed process wrote in part is removed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._listed: set[str] = set()
        self._offset = 0  # bytes of the file whose rows are in `_listed`

    def add(self, name: str, reason: str, step: int | str, epoch: int | str) -> None:
        """Append a row unless the file lists the video already; "" is no step or epoch."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            # A file system without locks raises; rows are then appended without a lock.
            with contextlib.suppress(OSError):
                lock_descriptor(file.fileno())
            self._read_new_rows(file)
            rows = [] if self._offset else [HEADER]
            if _one_line(name) not in self._listed:
                rows.append((name, reason, step, epoch))
            file.write(csv_bytes(rows))

    def _read_new_rows(self, file: BinaryIO) -> None:
        """Read the rows that other processes, or an earlier start of the run, have appended."""
        file.seek(self._offset)
        new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        if len(complete) < len(new):
            # The process that wrote the last row was killed before the row's end.
            file.truncate(self._offset + len(complete))
        self._offset += len(complete)
        lines = complete.decode("utf-8", "surrogateescape").split("\n")
        self._listed.update(row[0] for row in csv.reader(lines) if row)


def csv_bytes(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return `rows` as CSV in UTF-8; line breaks within cells are escaped, so a row is one line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_one_line(str(cell)) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _one_line(cell: str) -> str:
    return cell.replace("\r", "\\r").replace("\n", "\\n")
