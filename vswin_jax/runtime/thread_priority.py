"""Lowers the priority of checkpoint-writer threads so that they do not slow the training step.

On a CPU they compete with the step itself, on an accelerator with the decoding of videos.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

# TensorStore's worker threads, which compress and write the arrays. Linux keeps the first 15
# characters of a thread's name.
_WRITER_NAME = "ts_pool_worker"
_LOWEST_PRIORITY = 19
_TASKS = Path("/proc/self/task")

_lowered: set[str] = set()


def lower_current_thread() -> None:
    """Lower the priority of the calling thread permanently, unless it is the main thread."""
    # On Linux PRIO_PROCESS with a thread id changes that thread alone, contrary to POSIX; hence the
    # check for /proc. Other systems would change the whole process or refuse the id.
    if _TASKS.is_dir() and threading.current_thread() is not threading.main_thread():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def lower_writer_threads() -> None:
    """Lower the priority of TensorStore's existing worker threads, on Linux only.

    They still run whenever a core is idle. TensorStore starts threads when there is data to write,
    so a caller repeats this while a save is in progress.
    """
    if not _TASKS.is_dir():
        return
    for task in set(os.listdir(_TASKS)) - _lowered:
        # The thread may have ended since the listing.
        with suppress(OSError):
            if (_TASKS / task / "comm").read_text().startswith(_WRITER_NAME):
                os.setpriority(os.PRIO_PROCESS, int(task), _LOWEST_PRIORITY)
                _lowered.add(task)
