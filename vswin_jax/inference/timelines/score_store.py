"""The directory of a timeline: the probabilities are appended as they come, to be continued."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32

from vswin_jax.errors import InputError, first_line
from vswin_jax.inference.timelines.timeline_settings import check_same_settings
from vswin_jax.runtime.atomic_write import atomic_write, write_json
from vswin_jax.runtime.disk_full import reraise_disk_full
from vswin_jax.runtime.file_lock import exclusive_lock

SETTINGS_FILE = "settings.json"
SCORES_FILE = "scores.npy"
# Rows of float32, until the last window is computed.
_PARTIAL_FILE = "scores.part"
_ADVICE = "the same command goes on with the windows that are missing"

Scores = Float32[np.ndarray, "W K"]


class ScoreStore:
    """The probabilities of the windows of one video; without a directory they stay in memory.

    Attributes:
      path: the directory, or None.
      scores: of the windows that are computed, in order.
    """

    def __init__(self, path: Path | None, num_classes: int, batch_size: int) -> None:
        self.path = path
        # Continued at the same batches, so that the results are the same to the bit.
        self._batch_size = batch_size
        self._parts = [np.zeros((0, num_classes), np.float32)]
        self._file: BinaryIO | None = None
        if path is not None:
            self._parts.append(self._stored(path, num_classes))

    @property
    def scores(self) -> Scores:
        """The probabilities that are known so far."""
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def begin(self, num_windows: int) -> int:
        """Prepare to add windows; return the first one that is to be computed."""
        known = self.scores
        if len(known) == num_windows:
            return num_windows
        kept = known[: len(known) // self._batch_size * self._batch_size]
        self._parts = [kept]
        if self.path is not None:
            (self.path / SCORES_FILE).unlink(missing_ok=True)
            self._file = (self.path / _PARTIAL_FILE).open("wb")
            self._append(kept)
        return len(kept)

    def add(self, rows: Scores) -> None:
        """Add the next windows; they are in the file when this returns."""
        self._parts.append(rows)
        self._append(rows)

    def finish(self) -> None:
        """Write the file of all windows."""
        if self._file is None or self.path is None:
            return
        content = io.BytesIO()
        np.save(content, self.scores)
        with atomic_write(self.path / SCORES_FILE, sync=True) as partial:
            partial.write_bytes(content.getvalue())
        self.close()
        (self.path / _PARTIAL_FILE).unlink()

    def close(self) -> None:
        """Close the file; its windows are kept for the next start."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, rows: Scores) -> None:
        if self._file is not None:
            self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())
            self._file.flush()

    def _stored(self, path: Path, num_classes: int) -> Scores:
        complete, partial = path / SCORES_FILE, path / _PARTIAL_FILE
        try:
            if complete.exists():
                return np.load(complete, allow_pickle=False).reshape(-1, num_classes)
            if not partial.exists():
                return self._parts[0]
            row = 4 * num_classes
            content = partial.read_bytes()
            # A killed process may have left a part of a row.
            whole = content[: len(content) // row * row]
            return np.frombuffer(whole, np.float32).reshape(-1, num_classes)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"The scores in {os.fspath(path)!r} cannot be read ({first_line(error, 200)}): "
                f"delete the directory, and start again."
            ) from error


@contextlib.contextmanager
def open_store(
    path: Path, settings: Mapping[str, Any], batch_size: int, *, overwrite: bool
) -> Iterator[ScoreStore]:
    """Open the directory for the block, in which no other process writes to it.

    Raises:
      InputError: it has a timeline of other settings, or other files.
    """
    num_classes = len(settings["label_names"])
    with reraise_disk_full(path, lambda: _ADVICE):
        path.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(path / ".lock", f"writing a timeline to '{path}'"):
            if overwrite and (path / SETTINGS_FILE).exists():
                for name in (SCORES_FILE, _PARTIAL_FILE):
                    (path / name).unlink(missing_ok=True)
            else:
                check_same_settings(path / SETTINGS_FILE, settings)
            write_json(path / SETTINGS_FILE, settings, sync=True)
            with contextlib.closing(ScoreStore(path, num_classes, batch_size)) as store:
                yield store
