"""Clips made by several processes, straight into the batch.

Threads of one Python wait for its lock: two of them make 1.4 times the training clips of one, two
processes twice as many (`benchmarks/input_pipeline.py`). What a process makes is what `clips` makes
here, to the byte.
"""

import atexit
import functools
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import send_handle
from typing import Any, Protocol

import numpy as np

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clips import ClipSpec, TrainClip
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.clip_process import Task
from vswin_jax.data.pipeline.shared_memory import SharedMemory
from vswin_jax.errors import InputError

# More than any accelerator's host needs, and each takes some 100 MB.
MAX_CHOSEN = 32
_NOTHING = np.empty(0, np.uint8)


class ClipMaker(Protocol):
    """What makes clips: the module `clips` itself, or processes."""

    def train_clips(
        self,
        example: Example,
        spec: ClipSpec,
        rng: np.random.Generator,
        count: int,
        out: np.ndarray,
    ) -> list[TrainClip]:
        """`clips.train_clips`."""
        ...

    def test_views(self, example: Example, spec: ClipSpec, out: np.ndarray) -> np.ndarray:
        """`clips.test_views`."""
        ...


class ClipProcesses:
    """Processes that make clips; as many threads as there are processes keep them busy.

    `out` must be memory of `memory`.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.memory = SharedMemory()
        self._is_closed = False
        self._all = {_Process(self.memory) for _ in range(count)}
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._all:
            self._idle.put(process)

    @property
    def pids(self) -> list[int]:
        """The numbers by which the system knows them."""
        return [process.pid for process in self._all]

    def train_clips(
        self,
        example: Example,
        spec: ClipSpec,
        rng: np.random.Generator,
        count: int,
        out: np.ndarray,
    ) -> list[TrainClip]:
        """`clips.train_clips`, made by one of the processes; `rng` stays as it is."""
        made = self.call(_train_clips, (example, spec, rng, count), out, example.name)
        return [replace(clip, clip=row[None]) for clip, row in zip(made, out, strict=True)]

    def test_views(self, example: Example, spec: ClipSpec, out: np.ndarray) -> np.ndarray:
        """`clips.test_views`, made by one of the processes."""
        self.call(_test_views, (example, spec), out, example.name)
        return out

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], out: np.ndarray, name: str
    ) -> Any:
        """`function(*arguments, out=out)` in an idle process; all but `out` is pickled.

        Raises:
            InputError: the process died, and so did the next one that tried; `name` is blamed.
        """
        process = self._idle.get()
        try:
            # One that was killed from outside says nothing about the video.
            for _ in range(2):
                try:
                    return process.call(function, arguments, out)
                except (EOFError, ConnectionError):
                    process = self._instead_of(process)
        finally:
            self._idle.put(process)
        raise InputError(
            f"{name!r} ends the process that reads it: take it off the list, or encode it again."
        )

    def _instead_of(self, dead: "_Process") -> "_Process":
        dead.close()
        if self._is_closed:
            raise RuntimeError("these processes are closed")
        self._all.discard(dead)
        new = _Process(self.memory)
        self._all.add(new)
        return new

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        self._is_closed = True
        for process in self._all:
            process.kill()


@functools.cache
def shared_processes(count: int) -> ClipProcesses:
    """The `count` processes that all pipelines of this program share."""
    processes = ClipProcesses(count)
    atexit.register(processes.close)
    return processes


def choose_processes(asked: int) -> int:
    """How many processes `config.data.processes` means: -1 is one for each core that we may use.

    Raises:
        InputError: some were asked for on a system that cannot share memory this way.
    """
    if os.name != "posix":
        if asked > 0:
            raise InputError(
                f"config.data.processes is {asked}, but this system only has threads: set it to 0."
            )
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MAX_CHOSEN) if asked < 0 else asked


class _Process:
    """One process, and the blocks of memory that it has mapped."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._mapped: set[int] = set()
        self._connection, theirs = Pipe()
        with theirs:
            self._process = _start(theirs)

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], out: np.ndarray
    ) -> Any:
        place = self._memory.place(out)
        is_new = place.block not in self._mapped
        gone = frozenset(self._mapped - self._memory.numbers())
        self._connection.send(Task(function, arguments, place, is_new, gone))
        if is_new:
            descriptor = self._memory.descriptor(place.block)
            send_handle(self._connection, descriptor, self.pid)
        self._mapped = (self._mapped - gone) | {place.block}
        result, error = self._connection.recv()
        if error is not None:
            raise error
        return result

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._connection.close()


def _start(connection: Connection) -> subprocess.Popen[bytes]:
    # Not multiprocessing's own: it would import the main module again, JAX and TensorFlow with it.
    descriptor = connection.fileno()
    program = f"from vswin_jax.data.pipeline.clip_process import serve; serve({descriptor})"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _train_clips(*arguments: Any, out: np.ndarray) -> list[TrainClip]:
    """`clips.train_clips` without the pictures, which are in `out`."""
    return [replace(clip, clip=_NOTHING) for clip in clips.train_clips(*arguments, out=out)]


def _test_views(*arguments: Any, out: np.ndarray) -> None:
    clips.test_views(*arguments, out=out)
