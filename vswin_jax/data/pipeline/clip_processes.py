"""Worker processes that decode clips straight into the memory of the batch.

Threads of one interpreter wait for its lock: two threads decode 1.4 times the training clips of
one, two processes twice as many (`benchmarks/input_pipeline.py`). A process loads the same clips as
the module `clips`, byte for byte. It also has limits of time and memory, so that a video that hangs
or crashes its decoder costs that video alone.
"""

import atexit
import contextlib
import functools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import send_handle
from typing import Any, Protocol

import numpy as np

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.clips import TrainClip
from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.clip_process import DecodeTask
from vswin_jax.data.pipeline.process_limits import ProcessLimits, TooSlowError, exceeded_cpu
from vswin_jax.data.pipeline.shared_memory import SharedMemory
from vswin_jax.data.pipeline.video_check import FrameChoice, open_failure, unreadable_reason
from vswin_jax.errors import InputError
from vswin_jax.runtime.cpu_count import usable_cpus

# No host of accelerators needs more, and each process takes some 100 MB of memory.
MAX_PROCESSES = 32
_LIMITS = ProcessLimits()


class ClipLoader(Protocol):
    """The functions that load clips: those of the module `clips`, or of `ClipProcesses`."""

    def train_clips(
        self,
        example: Example,
        spec: ClipSpec,
        rng: np.random.Generator,
        count: int,
        out: np.ndarray,
    ) -> list[TrainClip]:
        """Load training clips as `clips.train_clips` does."""
        ...

    def test_views(self, example: Example, spec: ClipSpec, out: np.ndarray) -> np.ndarray:
        """Load test views as `clips.test_views` does."""
        ...


class ClipProcesses:
    """A pool of processes that load clips; each works only while a calling thread waits for it.

    `out` arguments must be views of blocks of `memory`.
    """

    def __init__(self, count: int, limits: ProcessLimits = _LIMITS) -> None:
        self.count = count
        self.memory = SharedMemory()
        self._limits = limits
        self._is_closed = False
        self._lock = threading.Lock()  # of `_is_closed` and `_processes`
        # Errors of videos that exceeded a limit of time, or each epoch would wait for it again.
        self._too_slow: dict[Any, str] = {}
        self._processes = {_Process(self.memory, limits) for _ in range(count)}
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [process.pid for process in self._processes]

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self._is_closed

    def train_clips(
        self,
        example: Example,
        spec: ClipSpec,
        rng: np.random.Generator,
        count: int,
        out: np.ndarray,
    ) -> list[TrainClip]:
        """Run `clips.train_clips` in a process; the state of `rng` does not change."""
        loaded = self._load(_train_clips, example, spec, rng, count, out=out)
        return [replace(clip, clip=row[None]) for clip, row in zip(loaded, out, strict=True)]

    def test_views(self, example: Example, spec: ClipSpec, out: np.ndarray) -> np.ndarray:
        """Run `clips.test_views` in a process."""
        self._load(_test_views, example, spec, out=out)
        return out

    def unreadable_reason(self, example: Example, choose: FrameChoice) -> str:
        """Run `video_check.unreadable_reason` in a process; limits of time apply to 32 frames."""
        arguments = (example, choose, self._limits.start_timers)
        try:
            return self.call(unreadable_reason, arguments, None, example.name)
        except InputError as error:
            return str(error)

    def open_failure(self, example: Example) -> str:
        """Run `video_check.open_failure` in a process."""
        try:
            return self.call(open_failure, (example,), None, example.name)
        except InputError as error:
            return str(error)

    def call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        out: np.ndarray | None,
        name: str,
    ) -> Any:
        """Run `function(*arguments, out=out)` in an idle process; all but `out` is pickled.

        With `out` None, `function(*arguments)` is run.

        Raises:
          InputError: the process died, and so did a second one, or it exceeded its limits; the
            message has the video's `name`.
        """
        process = self._idle.get()
        try:
            # Tried twice, because a process may have been killed for reasons other than the video,
            # and its memory may hold what earlier videos have left.
            for _ in range(2):
                try:
                    return process.call(function, arguments, out)
                except MemoryError:
                    process = self._replace(process)
                    failure = self._limits.memory_error(name)
                except (EOFError, ConnectionError):
                    exit_code = process.close()
                    process = self._replace(process)
                    failure = self._limits.death_error(exit_code, name)
                    if exceeded_cpu(exit_code):
                        break
        finally:
            self._idle.put(process)
        raise failure

    def _load(
        self, function: Callable[..., Any], example: Example, *options: Any, out: np.ndarray
    ) -> Any:
        """Run `function(example, *options, out=out)`, unless the video was too slow before."""
        # Not a record's bytes, which would stay in memory.
        key = example.video if isinstance(example.video, str | FrameFolder) else None
        if key in self._too_slow:
            raise InputError(self._too_slow[key])
        try:
            return self.call(function, (example, *options), out, example.name)
        except TooSlowError as error:
            if key is not None:
                self._too_slow[key] = str(error)
            raise

    def _replace(self, old: "_Process") -> "_Process":
        """End a process unless it has ended, and start another one."""
        old.close()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the clip processes are closed")
            self._processes.discard(old)
            new = _Process(self.memory, self._limits)
            self._processes.add(new)
        return new

    def close(self) -> None:
        """Kill the processes, including those that are decoding."""
        with self._lock:
            self._is_closed = True
            for process in self._processes:
                process.kill()


@functools.cache
def shared_processes(count: int) -> ClipProcesses:
    """Return the pool of `count` processes that all pipelines of this program share."""
    processes = ClipProcesses(count)
    atexit.register(processes.close)
    return processes


def choose_processes(requested: int) -> int:
    """Return the number of processes for `config.data.processes`; -1 is one for each usable CPU.

    Raises:
      InputError: processes are requested on a system that cannot share memory with them.
    """
    if os.name != "posix":
        if requested > 0:
            raise InputError(
                f"config.data.processes is {requested}, but this system only supports threads: set "
                f"it to 0."
            )
        return 0
    return min(usable_cpus(), MAX_PROCESSES) if requested < 0 else requested


class _Process:
    """A worker process, and the blocks of shared memory that it has mapped."""

    def __init__(self, memory: SharedMemory, limits: ProcessLimits) -> None:
        self._memory = memory
        self._mapped: set[int] = set()
        self._connection, child_connection = Pipe()
        with child_connection:
            self._process = _start(child_connection, limits)

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], out: np.ndarray | None
    ) -> Any:
        """Run `function` as `ClipProcesses.call` does; its exceptions are raised here."""
        slot = None if out is None else self._memory.locate(out)
        freed = frozenset(self._mapped - self._memory.block_ids())
        sends_descriptor = slot is not None and slot.block not in self._mapped
        task = DecodeTask(function, arguments, slot, sends_descriptor, freed, _directory())
        self._connection.send(task)
        if slot is not None and sends_descriptor:
            descriptor = self._memory.descriptor(slot.block)
            send_handle(self._connection, descriptor, self.pid)
        self._mapped = (self._mapped - freed) | ({slot.block} if slot else set())
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

    def close(self) -> int:
        """Close the connection, which ends the process, and return the exit code.

        It is that of an earlier end if the process has ended.
        """
        self._connection.close()
        # A process that ends closes its connection a moment before its exit code is known.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self.kill()
        return self._process.returncode


def _directory() -> str | None:
    with contextlib.suppress(FileNotFoundError):  # it has been deleted
        return os.getcwd()
    return None


def _start(connection: Connection, limits: ProcessLimits) -> subprocess.Popen[bytes]:
    # multiprocessing would import the main module again in the child, with JAX and TensorFlow.
    descriptor = connection.fileno()
    program = (
        "from vswin_jax.data.pipeline.clip_process import serve\n"
        "from vswin_jax.data.pipeline.process_limits import ProcessLimits\n"
        f"serve({descriptor}, {limits!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _train_clips(*arguments: Any, out: np.ndarray) -> list[TrainClip]:
    """Run `clips.train_clips`; return the clips without pixels, which are in `out` already."""
    loaded = clips.train_clips(*arguments, out=out)
    return [replace(clip, clip=clip.clip[:, :, :0, :0]) for clip in loaded]


def _test_views(*arguments: Any, out: np.ndarray) -> None:
    clips.test_views(*arguments, out=out)
