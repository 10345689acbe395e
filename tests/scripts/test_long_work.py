"""What long pieces of work share: whole files, progress lines, worker processes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime import progress
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.file_lock import try_lock
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.worker_pool import in_processes


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    # The file is opened, and only then it turns out that a text is no bytes.
    with pytest.raises(TypeError), whole_file(path) as partial:
        partial.write_bytes("half")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(("total", "left"), [(100, "360 s"), (500, "33 min"), (2000, "2 h 13 min")])
def test_progress_has_rate_and_time_left(
    total: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 4.0, 40.0, 41.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    said: list[str] = []
    work = Progress(total, said.append, things="clips")
    for note in ("", "2 bad", ""):
        work.add(5, note)
    # Ten clips in 40 seconds are 0.25 a second; nothing is due after 4 and 41 seconds.
    assert said == [f"10 of {total} clips, 2 bad, 0.2 clips/s, {left} left"]


@pytest.mark.parametrize("own", ["file.txt.partial", "elsewhere"])
def test_the_temporary_name_can_be_given(tmp_path: Path, own: str) -> None:
    given = None if own.startswith("file") else tmp_path / own
    with whole_file(tmp_path / "file.txt", partial=given, sync=True) as partial:
        assert partial == tmp_path / own
        partial.write_text("new")
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_lock_is_of_one(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("wb") as first, (tmp_path / "lock").open("wb") as second:
        assert try_lock(first)
        assert not try_lock(second)
        first.close()
        assert try_lock(second)


def test_processes_give_every_result_once() -> None:
    results = dict(in_processes(abs, iter(range(-40, 0)), 2))
    assert results == {-k: k for k in range(1, 41)}


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(InputError, match=r"at one of '7': take"):
        list(in_processes(os._exit, iter([7]), 1))


PARENT = """
import sys, time
from pathlib import Path
from vswin_jax.runtime.worker_pool import in_processes

def beat(path):
    while True:
        Path(path).touch()
        time.sleep(0.02)

if __name__ == "__main__":
    list(in_processes(beat, iter(sys.argv[1:]), 1))
"""


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
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
    pytest.fail("a process went on though its parent was killed")
