"""Clips of processes are those of this process; processes may die, and end with us."""

import gc
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vswin_jax.data import ClipSpec, open_source
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.data.pipeline.clip_processes import ClipProcesses, choose_processes, shared_processes
from vswin_jax.data.pipeline.pipeline import eval_batches, train_batches
from vswin_jax.data.sources.sources import VideoSource
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]
SPEC = ClipSpec(num_frames=2, frame_interval=2, resize=36, size=32, clips=2, crops=3)


@pytest.fixture
def source(write_video: WriteVideo, tmp_path: Path) -> VideoSource:
    for place, name in enumerate(["jump/a", "jump/b", "run/a", "run/b", "run/c"]):
        write_video(f"set/{name}.mp4", 5 + place)
    return open_source(tmp_path / "set")


@pytest.fixture(scope="module")
def tasks() -> Iterator[ModuleType]:
    """A module that processes which start later can import too, at no cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("process_tasks")


@pytest.fixture(scope="module")
def pool(tasks: ModuleType) -> Iterator[ClipProcesses]:
    processes = ClipProcesses(2)
    yield processes
    processes.close()


def assert_same(ours: list[dict], theirs: list[dict]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.mark.parametrize("repeats", [1, 2])
def test_batches_are_those_of_threads(source: VideoSource, tmp_path: Path, repeats: int) -> None:
    (tmp_path / "set/run/b.mp4").write_bytes(b"torn")
    spec = replace(SPEC, rand_augment_n=2)
    batches = {}
    for count in (0, 2):
        reading = {"batch_size": 4, "seed": 3, "repeats": repeats, "processes": count}
        bad_videos = BadVideos(max_fraction=0.5)
        of_training = train_batches(source, spec, bad_videos=bad_videos, **reading)
        batches[count] = list(itertools.islice(of_training, 4))
        assert bad_videos.bad >= 1
    assert_same(batches[2], batches[0])


def test_evaluations_are_those_of_threads(source: VideoSource) -> None:
    ours, theirs = (list(eval_batches(source, SPEC, batch_size=2, processes=n)) for n in (2, 0))
    assert len(ours) == 3
    assert_same(ours, theirs)


def test_a_bad_video_is_the_same_error(source: VideoSource, tmp_path: Path) -> None:
    (tmp_path / "set/jump/a.mp4").write_bytes(b"torn")
    said = []
    for count in (0, 2):
        with pytest.raises(InputError) as caught:
            list(eval_batches(source, SPEC, batch_size=2, processes=count))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_killed_processes_are_replaced(source: VideoSource) -> None:
    pool = shared_processes(2)
    undisturbed = list(itertools.islice(train_batches(source, SPEC, batch_size=4, seed=1), 25))
    batches = train_batches(source, SPEC, batch_size=4, seed=1, processes=2)
    made = [next(batches)]
    for _ in range(3):
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        # More than are read ahead: a video that both processes were killed at would be blamed.
        made += [next(batches) for _ in range(8)]
    assert_same(made, undisturbed)


def test_a_video_that_ends_its_process_is_blamed(pool: ClipProcesses, tasks: ModuleType) -> None:
    before = pool.pids
    with pytest.raises(InputError, match=r"'a\.mp4' ends the process"):
        pool.call(tasks.end, (), pool.memory.empty(4), "a.mp4")
    assert len(pool.pids) == 2
    assert sorted(pool.pids) != sorted(before)
    pool.call(tasks.fill, (7,), out := pool.memory.empty(4), "b.mp4")
    assert out.tolist() == [7] * 4


def test_errors_come_with_the_place_that_they_were_raised_at(
    pool: ClipProcesses, tasks: ModuleType
) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        pool.call(tasks.fill_with_text, ("x",), pool.memory.empty(4), "a.mp4")
    assert "in fill_with_text" in caught.value.__notes__[0]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads what Linux says")
def test_memory_is_given_back_everywhere(pool: ClipProcesses, tasks: ModuleType) -> None:
    for value in range(20):
        pool.call(tasks.fill, (value,), pool.memory.empty(1 << 20), "a")
    gc.collect()
    for _ in range(4):
        pool.call(tasks.fill, (1,), out := pool.memory.empty(1 << 20), "a")
    assert len(pool.memory.numbers()) == 1
    for pid in (os.getpid(), *pool.pids):
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert maps.count("vswin_jax clips") <= 2
    assert out.tolist() == [1] * len(out)


PROGRAM = """
import os, signal, sys
from vswin_jax.data import ClipSpec, open_source
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.pipeline.clip_processes import shared_processes
spec = ClipSpec(num_frames=64, frame_interval=1, resize=480, size=480)
batches = train_batches(open_source(sys.argv[1]), spec, batch_size=1, seed=0, processes=2)
next(batches)
print(*shared_processes(2).pids, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["ends", "killed"])
def test_they_end_with_the_program(source: VideoSource, tmp_path: Path, end: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "set"), end],
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[3],
    )
    assert result.returncode == (0 if end == "ends" else -signal.SIGKILL)
    deadline = time.monotonic() + 60
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a process outlives its program"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may have asked yet how it ended.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_how_many_processes_a_setting_means(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_processes(0) == 0
    assert choose_processes(3) == 3
    assert 1 <= choose_processes(-1) <= 32
    monkeypatch.setattr(os, "name", "nt")
    assert choose_processes(-1) == 0
    with pytest.raises(InputError, match="processes is 3"):
        choose_processes(3)
