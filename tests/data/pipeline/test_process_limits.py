"""A video that takes too much time or memory costs that video alone."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example, train_clips
from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import ProcessLimits
from vswin_jax.errors import InputError

SPEC = ClipSpec(num_frames=2, frame_interval=2, resize=36, size=32)
LIMITS = ProcessLimits(cpu_seconds=0.5, memory_bytes=1 << 30)


@pytest.fixture(scope="module")
def pool(tasks: ModuleType) -> Iterator[ClipProcesses]:
    processes = ClipProcesses(1, LIMITS)
    yield processes
    processes.close()


def _error(pool: ClipProcesses, function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        pool.call(function, arguments, None, "a.mp4")
    return str(caught.value)


def test_a_decoder_that_computes_forever_is_ended(pool: ClipProcesses, tasks: ModuleType) -> None:
    assert _error(pool, tasks.compute_forever) == (
        "'a.mp4' takes more than 0.5 seconds of processor time to read: encode it again, or take "
        "it off the list."
    )
    assert pool.call(tasks.allocate, (4,), None, "b.mp4") == 4


def test_memory_past_the_limit_is_refused(pool: ClipProcesses, tasks: ModuleType) -> None:
    # NumPy and OpenCV fail in their own ways.
    for function, size in ((tasks.allocate, 2 << 30), (tasks.decode_image, 40_000)):
        message = _error(pool, function, size)
        assert message.startswith("'a.mp4' needs more than the 1 GiB of memory that")
    # Most of the limit is available, and batches, which processes share, do not count.
    batches = [pool.memory.empty(1 << 29) for _ in range(3)]
    for batch in batches:
        pool.call(tasks.fill, (0,), batch[: 1 << 20], "b.mp4")
    assert pool.call(tasks.allocate, (1 << 29,), None, "b.mp4") == 1 << 29


def test_memory_that_earlier_videos_have_left_does_not_count(
    pool: ClipProcesses, tasks: ModuleType
) -> None:
    pool.call(tasks.leak, (5 << 27,), None, "a.mp4")
    assert pool.call(tasks.allocate, (1 << 29,), None, "b.mp4") == 1 << 29


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_video_that_never_comes_is_waited_for_once(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    pool = ClipProcesses(1, ProcessLimits(wall_seconds=2.0))
    os.mkfifo(tmp_path / "pipe.mp4")
    endless, good = (
        Example(str(path), 0, 0, path.name) for path in (tmp_path / "pipe.mp4", write_video())
    )
    out = pool.memory.empty(2 * 32 * 32 * 3).reshape(1, 2, 32, 32, 3)
    message = r"'pipe\.mp4' takes more than 2 seconds of time to read"
    with pytest.raises(InputError, match=message):
        pool.train_clips(endless, SPEC, np.random.default_rng(0), 1, out)
    after = pool.pids
    with pytest.raises(InputError, match=message):
        pool.test_views(endless, SPEC, out)
    # No process was replaced, so none has waited.
    assert pool.pids == after
    pool.train_clips(good, SPEC, np.random.default_rng(0), 1, out)
    (expected,) = train_clips(good, SPEC, np.random.default_rng(0), 1)
    np.testing.assert_array_equal(out[0], expected.clip[0])
    pool.close()


def test_a_check_of_many_frames_starts_the_timers_again(tasks: ModuleType, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "long.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(8000):
            picture = np.full((48, 64, 3), shade % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    example = Example(str(tmp_path / "long.mp4"), 0, 0, "long.mp4")
    pool = ClipProcesses(1, ProcessLimits(cpu_seconds=2.0))
    # Its first task imports PyAV.
    assert pool.open_failure(example) == ""
    # Less time is left than all frames take, and far more than 32 of them.
    assert pool.unreadable_reason(example, tasks.every_frame_at_the_last_moment) == ""
    assert "'a.mp4' takes more than 2 seconds" in _error(pool, tasks.compute_forever)
    pool.close()
