"""The main function of a process that decodes clips for its parent (`clip_processes`).

The process reads tasks from a socket until the socket is closed, so it also exits when the parent
is killed.
"""

import contextlib
import mmap
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import cv2

from vswin_jax.data.pipeline.process_limits import ProcessLimits, is_out_of_memory, stop_timers
from vswin_jax.data.pipeline.shared_memory import BufferSlot, array_at, map_block


@dataclass(frozen=True)
class DecodeTask:
    """A call of `function(*arguments, out=array)` with the array at `slot` of shared memory.

    Without a slot the function is called without `out`. With `sends_descriptor`, the file
    descriptor of the slot's block follows the task on the socket. `freed_blocks` are the numbers of
    the blocks that the process should unmap. Relative paths of videos are those of `directory`.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    slot: BufferSlot | None
    sends_descriptor: bool
    freed_blocks: frozenset[int]
    directory: str | None


def serve(descriptor: int, limits: ProcessLimits) -> None:
    """Run tasks from the socket `descriptor` until it is closed; send (result, exception) back.

    A task that takes more time than `limits` ends the process.
    """
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The parent handles them and
    # closes the socket when it is done with this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    limits.apply()
    cv2.setNumThreads(1)
    blocks: dict[int, mmap.mmap] = {}
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        while True:
            task = connection.recv()
            limits.start_timers()
            result, error = _run(connection, task, blocks)
            stop_timers()
            _send(connection, result, error)


def _run(
    connection: Connection, task: DecodeTask, blocks: dict[int, mmap.mmap]
) -> tuple[Any, Exception | None]:
    if task.slot and task.sends_descriptor:
        blocks[task.slot.block] = map_block(recv_handle(connection))
    for block_id in task.freed_blocks:
        blocks.pop(block_id, None)
    options = {"out": array_at(task.slot, blocks[task.slot.block])} if task.slot else {}
    try:
        if task.directory is not None:
            # The parent may have changed its directory since this process started.
            os.chdir(task.directory)
        return task.function(*task.arguments, **options), None
    except Exception as error:
        if any(map(is_out_of_memory, (error, error.__cause__))):
            return None, MemoryError()
        # A pickled exception loses its traceback, so the text travels as a note.
        error.add_note(traceback.format_exc())
        return None, error


def _send(connection: Connection, result: Any, error: Exception | None) -> None:
    try:
        connection.send((result, error))
    except (EOFError, ConnectionError):
        raise
    except Exception as pickling_error:
        connection.send((None, RuntimeError(f"{result or error!r}: {pickling_error}")))
