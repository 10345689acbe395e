"""The frames that the windows of a long video need, decoded ahead in another process."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.frame_cursor import (
    LongVideo,
    close_cursor,
    open_cursor,
    read_frames,
    read_frames_at,
)
from vswin_jax.data.pipeline.process_limits import ProcessLimits
from vswin_jax.errors import InputError

# Of one call, which reads a chunk. Some files have to be decoded as a whole to count their frames.
_LIMITS = ProcessLimits(cpu_seconds=1200.0, wall_seconds=2400.0)
_CHUNK_BYTES = 4 << 20

Frames = UInt8[np.ndarray, "n height width 3"]


class FrameStream:
    """A long video whose frames are read in order, each decoded once; use it in a `with` statement.

    Attributes:
      source: the video.
      plan: its windows.
      failure: the error that ended the frames before the end of the video, or "".

    Args:
      processes: a pool of one process, which the caller closes; by default the stream has its own.

    Raises:
      InputError: the video cannot be read.
    """

    def __init__(self, source: LongVideo, processes: ClipProcesses | None = None) -> None:
        self.source = source
        self.failure = ""
        self._owns_process = processes is None and os.name == "posix"
        # Other systems cannot pass a socket to a process: this one decodes there.
        self._processes = ClipProcesses(1, _LIMITS) if self._owns_process else processes
        self._thread = ThreadPoolExecutor(1)
        try:
            opened = self._call(open_cursor, (source,), None)
        except BaseException:
            self.close()
            raise
        self.plan = opened.plan
        self._shape = (*opened.shape, 3)

    def chunks(self, position: int, count: int) -> Iterator[Frames]:
        """Yield the next frames of those that the windows need, from `position` up to `count`.

        An array is valid until the next one is asked for. Damage ends the frames, and sets
        `failure`.
        """
        length = max(1, _CHUNK_BYTES // int(np.prod(self._shape)))
        buffers = [self._empty(length) for _ in range(2)]
        pending = self._submit(position, buffers[0][: count - position])
        while position < count:
            number, self.failure = pending.result()
            chunk = buffers[0][:number]
            position += number
            buffers.reverse()
            if not self.failure and position < count:
                pending = self._submit(position, buffers[0][: count - position])
            if number:
                yield chunk
            if self.failure:
                return

    def read_at(self, indices: Int64[np.ndarray, " n"]) -> Frames:
        """Read single frames by their indices in the video.

        Raises:
          InputError: one of them cannot be decoded.
        """
        out = self._empty(len(indices))
        self._call(read_frames_at, (self.source, indices), out)
        return out.copy()

    def _submit(self, position: int, out: np.ndarray) -> Future[tuple[int, str]]:
        return self._thread.submit(self._read, position, out)

    def _read(self, position: int, out: np.ndarray) -> tuple[int, str]:
        try:
            return self._call(read_frames, (self.source, position), out)
        except InputError as error:
            # The decoding process has died.
            return 0, str(error)

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], out: np.ndarray | None
    ) -> Any:
        if self._processes is not None:
            return self._processes.call(function, arguments, out, self.source.name)
        return function(*arguments) if out is None else function(*arguments, out=out)

    def _empty(self, length: int) -> np.ndarray:
        shape = (length, *self._shape)
        if self._processes is None:
            return np.empty(shape, np.uint8)
        return self._processes.memory.empty(int(np.prod(shape))).reshape(shape)

    def close(self) -> None:
        """Close the video: end its own process, and the thread that waits for it."""
        if self._owns_process and self._processes is not None:
            self._processes.close()
        # A call of a process that was killed ends with an error.
        self._thread.shutdown(wait=not self._owns_process, cancel_futures=True)
        if not self._owns_process:
            self._call(close_cursor, (), None)

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.close()
