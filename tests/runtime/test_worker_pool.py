"""Mapping a function over items in worker processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.worker_pool import map_in_processes, map_in_threads


def test_threads_take_few_items_ahead_and_stop_early() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(40):
            taken.append(item)
            yield item

    assert sorted(map_in_threads(str, range(9), 3)) == [(k, str(k)) for k in range(9)]
    results = map_in_threads(str, items(), 2)
    next(results)
    results.close()
    assert taken == [0, 1, 2, 3]


def test_every_result_comes_once() -> None:
    results = dict(map_in_processes(abs, iter(range(-40, 0)), 2))
    assert results == {-k: k for k in range(1, 41)}


def test_the_death_of_a_worker_is_reported() -> None:
    with pytest.raises(InputError, match=r"died while it processed one of '7': remove"):
        list(map_in_processes(os._exit, iter([7]), 1))


PARENT = """
import sys, time
from pathlib import Path
from vswin_jax.runtime.worker_pool import map_in_processes

def beat(path):
    while True:
        Path(path).touch()
        time.sleep(0.02)

if __name__ == "__main__":
    list(map_in_processes(beat, iter(sys.argv[1:]), 1))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", beats],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    while not beats.exists():
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    for _ in range(100):
        last = beats.stat().st_mtime_ns
        time.sleep(0.3)
        if beats.stat().st_mtime_ns == last:
            return
    pytest.fail("a worker kept running though its parent was killed")


WITHOUT_SEMAPHORES = """
import os
from vswin_jax.runtime.worker_pool import map_in_processes

def process_of(item):
    return os.getpid()

if __name__ == "__main__":
    results = dict(map_in_processes(process_of, range(5), 2))
    print(sorted(results), set(results.values()) == {os.getpid()})
"""


def test_threads_do_the_work_where_there_are_no_semaphores(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WITHOUT_SEMAPHORES)
    mount = 'mount -t tmpfs -o ro tmpfs /dev/shm || exit 77; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, tmp_path / "program.py"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this user may not mount file systems")
    assert done.stdout == "[0, 1, 2, 3, 4] True\n"
    assert done.stderr.startswith("threads instead of processes do the work, for want of semaph")
