"""The list of bad videos of a check, written as they are found, and what is checked already.

The list is OUTPUT. Beside it OUTPUT.checked has a line for each video, so that a check that was
interrupted continues; it is removed when the check is complete.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.bad_video_table import HEADER, BadVideoTable, csv_bytes
from vswin_jax.errors import InputError
from vswin_jax.runtime.atomic_write import atomic_write, is_device

# Identifies a video: the path of its list, and its name there.
Key = tuple[str, str]


class CheckReport:
    """The report of one check; a context manager that keeps its files open.

    Args:
      output: the list of bad videos, which is replaced.
      settings: all that the results depend on besides the videos. Results of other settings are
        not used.
    """

    def __init__(self, output: Path, settings: Sequence[str]) -> None:
        _check_replaceable(output)
        self._output = output
        # A device such as /dev/null must stay where it is, and has no neighbours.
        self._is_device = is_device(output)
        checked = os.devnull if self._is_device else f"{output}.checked"
        self._checked = Path(checked)
        self._settings = list(settings)
        self._earlier = self._read_earlier()

    def __enter__(self) -> Self:
        if not self._earlier and not self._is_device:
            self._output.unlink(missing_ok=True)
        self._table = BadVideoTable(self._output)
        # Written anew, because a killed check may have left a part of a line.
        self._file = self._checked.open("w")
        self._write(self._settings)
        for key, (state, reason) in self._earlier.items():
            self._write([*key, state, reason])
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def earlier_reason(self, key: Key, state: Any) -> str | None:
        """Return the reason that an interrupted check found, "" if the video is good.

        Returns None if the video was not checked, or if its `video_state` was another one.
        """
        found, reason = self._earlier.get(key, (None, None))
        return reason if found == state else None

    def add(self, key: Key, state: Any, reason: str) -> None:
        """Add the result of a video whose `video_state` is `state`."""
        if reason and not self._is_device:
            self._table.add(key[-1], reason, "", "")
        self._write([*key, state, reason])

    def finish(self, bad: Iterable[tuple[str, str]]) -> None:
        """Replace the list by the complete one, and remove the file of what is checked."""
        rows = [HEADER, *((name, reason, "", "") for name, reason in bad)]
        with atomic_write(self._output) as partial:
            partial.write_bytes(csv_bytes(rows))
        if not self._is_device:
            self._checked.unlink()

    def _write(self, row: Sequence[Any]) -> None:
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()

    def _read_earlier(self) -> dict[Key, tuple[Any, str]]:
        try:
            lines = self._checked.read_bytes().split(b"\n")
            if json.loads(lines[0]) != self._settings:
                return {}
            # The last line is empty, or a part that a killed check has written.
            rows = map(json.loads, lines[1:-1])
            return {(path, name): (state, reason) for path, name, state, reason in rows}
        except (OSError, ValueError):
            return {}


def video_state(example: Example) -> Any:
    """Return a value for JSON that changes when the video's file or folder is replaced."""
    video = example.video
    if isinstance(video, bytes):
        return len(video)
    if isinstance(video, EncodedFrames):
        return list(map(len, video.images))
    path, count = (video.path, video.num_frames) if isinstance(video, FrameFolder) else (video, 0)
    try:
        found = os.stat(path)
    except OSError as error:
        return error.strerror
    return [found.st_size, found.st_mtime_ns, count]


def _check_replaceable(output: Path) -> None:
    """Raise an InputError if `output` is a file other than a list of bad videos."""
    header = csv_bytes([HEADER])
    if output.is_file():
        with output.open("rb") as file:
            head = file.read(len(header))
        if head and head != header:
            raise InputError(
                f"Expected --output to be a new file, or an earlier list of bad videos, but "
                f"{os.fspath(output)!r} is another file: give another name."
            )
