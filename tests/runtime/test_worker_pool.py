"""Mapping a function over items in worker processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime.worker_pool import map_in_processes


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
