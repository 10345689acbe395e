"""The frames that the windows of a long video need, decoded ahead in another process."""

import contextlib
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
from vswin_jax.errors import InputError
from vswin_jax.inference.clips_ahead import give_back, take_process
from vswin_jax.runtime.cpu_count import usable_cpus

_CHUNK_BYTES = 4 << 20
# More threads of a decoder help little, and each keeps frames.
_MAX_THREADS = 8

Frames = UInt8[np.ndarray, "n height width 3"]


def decoder_threads() -> int:
    """Return the number of threads for decoding one long video."""
    return min(usable_cpus(), _MAX_THREADS)


class FrameStream:
    """A long video whose frames are read in order, each decoded once; use it in a `with` statement.

    Attributes:
      source: the video.
      plan: its windows.
      failure: the error that ended the frames before the end of the video, or "".

    Args:
      processes: a pool of one process, which the caller closes; by default the stream takes
        its own.

    Raises:
      InputError: the video cannot be read.
    """

    def __init__(self, source: LongVideo, processes: ClipProcesses | None = None) -> None:
        self.source = source
        self.failure = ""
        # Some systems cannot pass a socket to a process: this one decodes there.
        self._processes = take_process() if processes is None else processes
        self._owns_process = processes is None and self._processes is not None
        self._thread = ThreadPoolExecutor(1)
        self._latest: Future[tuple[int, str]] = Future()
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
        self._latest = self._thread.submit(self._read, position, out)
        return self._latest

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
        """Close the video, and end its own process too if that is still decoding."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        is_idle = self._latest.cancel() or self._latest.done()
        if is_idle or not self._owns_process:
            self._thread.shutdown()
            self._call(close_cursor, (), None)
        if self._owns_process and self._processes is not None:
            give_back(self._processes, keep=is_idle)
        # A call of a process that was killed ends with an error.
        self._thread.shutdown()

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.close()
