"""Priorities of the threads that write checkpoints."""

import contextlib
import os
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import pytest

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.runtime.thread_priority import lower_current_thread

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has thread priorities")


def priorities() -> dict[str, set[int]]:
    """Return the priorities of all threads of this process, by the thread's name."""
    found: dict[str, set[int]] = {}
    for task in Path("/proc/self/task").iterdir():
        # The thread may have ended since the listing.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text().strip()
            found.setdefault(name, set()).add(os.getpriority(os.PRIO_PROCESS, int(task.name)))
    return found


@pytest.mark.long
def test_only_the_writer_threads_have_a_lower_priority(tmp_path: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"weights": jnp.ones((1000, 1000))}, {})
            while checkpoints.is_saving():
                checkpoints.check_for_errors()
            checkpoints.check_for_errors()
        found = priorities()
    assert found["ts_pool_worker"] == {19}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_one_thread_lowers_its_own_priority_alone() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    after: list[int] = []

    def work() -> None:
        lower_current_thread()
        after.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert after == [19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
