import contextlib
import os
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import pytest

from vswin_jax.checkpoint import Checkpoints
from vswin_jax.runtime.thread_priority import this_thread_gives_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")


def priorities() -> dict[str, set[int]]:
    """Those of all threads of this process, by the thread's name."""
    found: dict[str, set[int]] = {}
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text().strip()
            found.setdefault(name, set()).add(os.getpriority(os.PRIO_PROCESS, int(task.name)))
    return found


def test_what_writes_a_checkpoint_gives_way_and_nothing_else(tmp_path: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"weights": jnp.ones((1000, 1000))}, {})
            while checkpoints.is_saving():
                checkpoints.check()
            checkpoints.check()
        found = priorities()
    assert found["ts_pool_worker"] == {19}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_one_thread_alone_gives_way() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    after: list[int] = []

    def work() -> None:
        this_thread_gives_way()
        after.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert after == [19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
