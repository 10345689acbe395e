"""A process that makes clips for another one: `clip_processes` starts it and tells it what to do.

It reads tasks from a socket until that is closed, so it ends with the process that started it,
however that ends.
"""

import contextlib
import mmap
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import cv2

from vswin_jax.data.pipeline.shared_memory import Place, array_at, map_block


@dataclass(frozen=True)
class Task:
    """Call `function(*arguments, out=array)`, where the array lies at `place`.

    is_new: the descriptor of the place's block follows the task.
    gone: blocks that are not needed any more.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    place: Place
    is_new: bool
    gone: frozenset[int]


def serve(descriptor: int) -> None:
    """Does tasks from the socket `descriptor` until it is closed; answers (result, exception)."""
    # Ctrl-C and a scheduler's SIGTERM reach all processes; the one that started this one decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    blocks: dict[int, mmap.mmap] = {}
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        while True:
            _answer(connection, *_do(connection, connection.recv(), blocks))


def _do(
    connection: Connection, task: Task, blocks: dict[int, mmap.mmap]
) -> tuple[Any, Exception | None]:
    if task.is_new:
        blocks[task.place.block] = map_block(recv_handle(connection))
    for number in task.gone:
        blocks.pop(number, None)
    out = array_at(task.place, blocks[task.place.block])
    try:
        return task.function(*task.arguments, out=out), None
    except Exception as error:
        error.add_note(traceback.format_exc())
        return None, error


def _answer(connection: Connection, result: Any, error: Exception | None) -> None:
    try:
        connection.send((result, error))
    except (EOFError, ConnectionError):
        raise
    except Exception as unsendable:
        connection.send((None, RuntimeError(f"{result or error!r}: {unsendable}")))
