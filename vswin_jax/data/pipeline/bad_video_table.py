"""The file that names the videos that cannot be read, one a row."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from vswin_jax.runtime.file_lock import lock

HEADER = ("path", "reason", "step", "epoch")


class BadVideoTable:
    """A CSV file that processes append to: no video twice, no torn row after a kill.

    The rows already there count, so a run that starts again names nothing a second time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._known: set[str] = set()
        self._offset = 0  # bytes of the file that are in `_known`

    def add(self, name: str, reason: str, step: int, epoch: int) -> None:
        """Appends a row unless the file names the video."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            lock(file)
            self._catch_up(file)
            rows = [] if self._offset else [HEADER]
            if _one_line(name) not in self._known:
                rows.append((name, reason, step, epoch))
            file.write(csv_bytes(rows))

    def _catch_up(self, file: BinaryIO) -> None:
        """Reads what others, or this run before it was killed, have written."""
        file.seek(self._offset)
        new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        if len(whole) < len(new):
            file.truncate(self._offset + len(whole))
        self._offset += len(whole)
        lines = whole.decode("utf-8", "surrogateescape").split("\n")
        self._known.update(row[0] for row in csv.reader(lines) if row)


def csv_bytes(rows: Iterable[Iterable[Any]]) -> bytes:
    """CSV in UTF-8, every row one line whatever is in its cells."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_one_line(str(cell)) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _one_line(cell: str) -> str:
    return cell.replace("\r", "\\r").replace("\n", "\\n")
