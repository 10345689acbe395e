"""Clips of worker processes equal those of this process; workers may crash, and exit with it."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
SPEC = ClipSpec(num_frames=2, frame_interval=2, resize=36, size=32, num_clips=2, num_crops=3)


@pytest.fixture
def source(write_video: WriteVideo, tmp_path: Path) -> VideoSource:
    for index, name in enumerate(["jump/a", "jump/b", "run/a", "run/b", "run/c"]):
        write_video(f"set/{name}.mp4", 5 + index)
    return open_source(tmp_path / "set")


@pytest.fixture(scope="module")
def pool(tasks: ModuleType) -> Iterator[ClipProcesses]:
    processes = ClipProcesses(2)
    yield processes
    processes.close()


def assert_same(actual: list[dict], expected: list[dict]) -> None:
    for batch, other in zip(actual, expected, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


@pytest.mark.parametrize("repeats", [1, 2])
def test_batches_equal_those_of_threads(source: VideoSource, tmp_path: Path, repeats: int) -> None:
    (tmp_path / "set/run/b.mp4").write_bytes(b"torn")
    spec = replace(SPEC, rand_augment_n=2)
    batches = {}
    for count in (0, 2):
        options = {"batch_size": 4, "seed": 3, "aug_repeats": repeats, "processes": count}
        bad_videos = BadVideos(max_fraction=0.5)
        iterator = train_batches(source, spec, bad_videos=bad_videos, **options)
        batches[count] = list(itertools.islice(iterator, 4))
        assert bad_videos.bad >= 1
    assert_same(batches[2], batches[0])


def test_evaluation_batches_equal_those_of_threads(source: VideoSource) -> None:
    batches, expected = (
        list(eval_batches(source, SPEC, batch_size=2, processes=n)) for n in (2, 0)
    )
    assert len(batches) == 3
    assert_same(batches, expected)


def test_a_bad_video_is_the_same_error(source: VideoSource, tmp_path: Path) -> None:
    (tmp_path / "set/jump/a.mp4").write_bytes(b"torn")
    messages = []
    for count in (0, 2):
        with pytest.raises(InputError) as caught:
            list(eval_batches(source, SPEC, batch_size=2, processes=count))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_killed_processes_are_replaced(source: VideoSource) -> None:
    pool = shared_processes(2)
    undisturbed = list(itertools.islice(train_batches(source, SPEC, batch_size=4, seed=1), 25))
    batches = train_batches(source, SPEC, batch_size=4, seed=1, processes=2)
    read = [next(batches)]
    for _ in range(3):
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        # More than are prefetched: a video during which two processes died would be an error.
        read += [next(batches) for _ in range(8)]
    assert_same(read, undisturbed)


def test_a_video_that_crashes_its_process_is_named(pool: ClipProcesses, tasks: ModuleType) -> None:
    before = pool.pids
    with pytest.raises(InputError, match=r"'a\.mp4' crashes the process"):
        pool.call(tasks.exit_process, (), pool.memory.empty(4), "a.mp4")
    assert len(pool.pids) == 2
    assert sorted(pool.pids) != sorted(before)
    pool.call(tasks.fill, (7,), out := pool.memory.empty(4), "b.mp4")
    assert out.tolist() == [7] * 4


def test_no_process_is_started_after_the_end(tasks: ModuleType) -> None:
    pool = ClipProcesses(2)
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(pool.call, tasks.compute_forever, (), None, "a.mp4") for _ in range(2)
        ]
        pool.close()
    for call in calls:
        with pytest.raises(RuntimeError, match="the clip processes are closed"):
            call.result()
    assert not any(map(is_running, pool.pids))


def test_errors_have_the_traceback_of_the_process(pool: ClipProcesses, tasks: ModuleType) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        pool.call(tasks.fill_with_text, ("x",), pool.memory.empty(4), "a.mp4")
    assert "in fill_with_text" in caught.value.__notes__[0]


def mapped_blocks(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("vswin_jax clips")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_memory_is_freed_in_all_processes(pool: ClipProcesses, tasks: ModuleType) -> None:
    # Other tests of this process may still hold memory of other pools.
    before = mapped_blocks(os.getpid())
    for value in range(20):
        pool.call(tasks.fill, (value,), pool.memory.empty(1 << 20), "a")
    gc.collect()
    for _ in range(4):
        pool.call(tasks.fill, (1,), out := pool.memory.empty(1 << 20), "a")
    assert len(pool.memory.block_ids()) == 1
    assert mapped_blocks(os.getpid()) <= before + 2
    assert all(mapped_blocks(pid) <= 2 for pid in pool.pids)
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


@pytest.mark.long
@pytest.mark.parametrize("end", ["ends", "killed"])
def test_processes_exit_with_the_program(source: VideoSource, tmp_path: Path, end: str) -> None:
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
        assert time.monotonic() < deadline, "a process is still running after its program"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that nobody has waited for yet is a zombie.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_number_of_processes_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_processes(0) == 0
    assert choose_processes(3) == 3
    assert 1 <= choose_processes(-1) <= 32
    monkeypatch.setattr(os, "name", "nt")
    assert choose_processes(-1) == 0
    with pytest.raises(InputError, match="processes is 3"):
        choose_processes(3)


def test_relative_paths_are_those_of_the_present_directory(
    source: VideoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 2, "processes": 1}
    expected = list(eval_batches(source, SPEC, **options))
    for directory in (tmp_path / "set", tmp_path):
        monkeypatch.chdir(directory)
        relative = open_source(os.path.relpath(tmp_path / "set"))
        assert_same(list(eval_batches(relative, SPEC, **options)), expected)
