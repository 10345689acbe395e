"""What long pieces of work share: whole files, progress lines, worker processes."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from vswin_jax import progress
from vswin_jax.errors import InputError
from vswin_jax.progress import Progress
from vswin_jax.whole_file import whole_file
from vswin_jax.worker_pool import in_processes


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


def test_processes_give_every_result_once() -> None:
    results = dict(in_processes(abs, iter(range(-40, 0)), 2))
    assert results == {-k: k for k in range(1, 41)}


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(InputError, match=r"at one of '7': take"):
        list(in_processes(os._exit, iter([7]), 1))
