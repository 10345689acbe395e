"""Decodes the test views of a video while the device computes those of the video before."""

import atexit
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.buffer_pool import allocate
from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import ProcessLimits, TooSlowError
from vswin_jax.errors import InputError

# Recordings of hours may have to be decoded as a whole to count their frames.
_LIMITS = ProcessLimits(cpu_seconds=1200.0, wall_seconds=2400.0)
Views = UInt8[np.ndarray, "V T size size 3"]
Results = Iterator[tuple[Example, Views | InputError]]

# A process that waits for the next call: it takes half a second to start. It ends with this one.
_waiting: list[ClipProcesses] = []
_lock = threading.Lock()


@contextlib.contextmanager
def read_ahead(examples: Sequence[Example], spec: ClipSpec) -> Iterator[Results]:
    """Yield an iterator over each example with its test views, or with the error of reading them.

    A video that hangs or crashes the process that decodes it is an error too. Reading begins at
    once, and one video is read ahead. Threads may read at the same time, each with its own process.
    """
    reader = _Reader(spec)
    try:
        yield reader.read_all(examples)
    finally:
        reader.close()


def read_views(example: Example, spec: ClipSpec) -> Views:
    """Read the test views of one video as `read_ahead` does.

    Raises:
      InputError: the video cannot be read.
    """
    with read_ahead([example], spec) as results:
        _, views = next(results)
    if isinstance(views, InputError):
        raise views
    return views


class _Reader:
    """A thread that reads videos in a process, which waits for the next reader afterwards."""

    def __init__(self, spec: ClipSpec) -> None:
        self._spec = spec
        self._processes = take_process()
        self._thread = ThreadPoolExecutor(1)
        self._latest: Future[Views | InputError] = Future()
        self._was_slow = False

    def read_all(self, examples: Sequence[Example]) -> Results:
        """Begin with the first example, and return the iterator over all of them."""
        return _one_ahead(examples, self._submit(examples[0]), self._submit)

    def close(self) -> None:
        """End the thread, and the process too if it is still decoding."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        is_idle = self._latest.cancel() or self._latest.done()
        if self._processes is not None:
            # A process remembers slow videos, which may have been replaced by the next call.
            give_back(self._processes, keep=is_idle and not self._was_slow)
        self._thread.shutdown()

    def _submit(self, example: Example) -> Future[Views | InputError]:
        self._latest = self._thread.submit(self._read, example)
        return self._latest

    def _read(self, example: Example) -> Views | InputError:
        spec = self._spec
        # Other systems cannot pass a socket to a process: the thread decodes there.
        loader: Any = self._processes or clips
        empty = self._processes.memory.empty if self._processes else allocate
        shape = (spec.views, spec.num_frames, spec.size, spec.size, 3)
        out = empty(int(np.prod(shape))).reshape(shape)
        try:
            return loader.test_views(example, spec, out=out)
        except InputError as error:
            self._was_slow |= isinstance(error, TooSlowError)
            return error


def take_process() -> ClipProcesses | None:
    """Return a pool of one process for long videos; None on systems that have none.

    It is the one that waits for a call, or a new one, until `give_back`.
    """
    if os.name != "posix":
        return None
    with _lock:
        if _waiting:
            return _waiting.pop()
    return ClipProcesses(1, _LIMITS)


def give_back(processes: ClipProcesses, *, keep: bool) -> None:
    """Let a process wait for the next call, or with `keep` False, end it."""
    with _lock:
        if keep and not _waiting:
            _waiting.append(processes)
            return
    processes.close()


@atexit.register
def _close_waiting() -> None:
    while _waiting:
        _waiting.pop().close()


if hasattr(os, "register_at_fork"):
    # The socket of a process must not be used by two parents.
    os.register_at_fork(after_in_child=_waiting.clear)


def _one_ahead(
    examples: Sequence[Example],
    result: Future[Views | InputError],
    submit: Callable[[Example], Future[Views | InputError]],
) -> Results:
    """Yield each example with its result; `result` is that of the first one."""
    for example, following in itertools.zip_longest(examples, examples[1:]):
        read = result.result()
        if following is not None:
            result = submit(following)
        yield example, read
