"""Threads that write checkpoints give way to what trains: to a step on a CPU, to decoding."""

import os
import threading
from contextlib import suppress
from pathlib import Path

# TensorStore's, which compress and write the arrays; Linux keeps the first 15 letters of a name.
_WRITERS = "ts_pool_worker"
_LOWEST = 19
_TASKS = Path("/proc/self/task")

_lowered: set[str] = set()


def this_thread_gives_way() -> None:
    """Lowers the priority of the calling thread, for good, unless it is the main one."""
    if _TASKS.is_dir() and threading.current_thread() is not threading.main_thread():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)


def writers_give_way() -> None:
    """Lowers the priority of the writing threads that there are by now, where the system can.

    They still get every moment in which a core has nothing else to do. TensorStore starts them
    when there is something to write, so a save that goes on is asked again.
    """
    if not _TASKS.is_dir():
        return
    for task in set(os.listdir(_TASKS)) - _lowered:
        # It may have ended meanwhile.
        with suppress(OSError):
            if (_TASKS / task / "comm").read_text().startswith(_WRITERS):
                os.setpriority(os.PRIO_PROCESS, int(task), _LOWEST)
                _lowered.add(task)
