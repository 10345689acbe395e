"""Frames of a long video that another process decodes."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_videos import DrawnVideo, write

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.frame_cursor import LongVideo
from vswin_jax.inference.timelines.frame_stream import FrameStream

SPEC = ClipSpec(num_frames=4, frame_interval=2, resize=32, size=32)


def test_chunks_continue_at_any_frame(tmp_path: Path) -> None:
    path = str(write(DrawnVideo(count=40, gop=12, b_frames=2), tmp_path / "a"))
    with FrameStream(LongVideo(path, path, SPEC, stride=0.1)) as stream:
        count = len(np.unique(stream.plan.indices))
        # The array of a chunk is used again.
        whole = np.concatenate([chunk.copy() for chunk in stream.chunks(0, count)])
        rest = np.concatenate([chunk.copy() for chunk in stream.chunks(5, count)])
        thumbnails = stream.read_at(np.array([30, 2, 2]))
    np.testing.assert_array_equal(rest, whole[5:])
    with open_video(path) as video:
        expected = video.decode(np.array([30, 2, 2]))
    assert thumbnails.shape == (3, 32, 48, 3)
    np.testing.assert_array_equal(thumbnails, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_of_the_caller_closes_the_video_and_lives_on(tmp_path: Path) -> None:
    path = str(write(DrawnVideo(count=20), tmp_path / "a"))
    processes = ClipProcesses(1)
    (pid,) = processes.pids
    try:
        for _ in range(2):
            with FrameStream(LongVideo(path, path, SPEC, stride=0.1), processes) as stream:
                assert len(next(stream.chunks(0, 5))) == 5
                assert path in open_files(pid)
            assert path not in open_files(pid)
        assert processes.pids == [pid]
    finally:
        processes.close()


def open_files(pid: int) -> list[str]:
    return [os.path.realpath(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
