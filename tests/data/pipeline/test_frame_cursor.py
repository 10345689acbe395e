"""Frames of a long video, in order and each decoded once."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_videos import DrawnVideo, write, write_broken

from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.decoding.video import Video
from vswin_jax.data.pipeline.frame_cursor import FrameCursor, LongVideo, frames_in_order
from vswin_jax.errors import InputError

SPEC = ClipSpec(num_frames=4, frame_interval=2, resize=32, size=32)
KINDS = [
    DrawnVideo(count=40, gop=12, b_frames=2),
    DrawnVideo(count=40, gop=250),
    DrawnVideo(codec="mpeg4", container="avi", count=40, gop=5, b_frames=2),
    DrawnVideo(codec="mpeg2video", container="ts", count=40, gop=4, b_frames=1),
    DrawnVideo(codec="libvpx-vp9", container="webm", count=40),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.codec}-{kind.container}")
@pytest.mark.parametrize("threads", [1, 3])
def test_frames_are_those_of_a_clip(kind: DrawnVideo, threads: int, tmp_path: Path) -> None:
    path = str(write(kind, tmp_path / "a"))
    indices = np.array([0, 1, 3, 4, 8, 9, 10, 20, 39])
    with open_video(path) as video:
        expected = video.decode(indices)
    with open_video(path, threads=threads) as video:
        found = [frame.copy() for frame in frames_in_order(video, indices)]
    np.testing.assert_array_equal(found, expected)


class LateFrame(Video):
    """Leaves frame 3 out until all others have come, as decoding from a wrong key frame does."""

    name = "late.mp4"
    num_frames = 200
    times = np.arange(200) / 10

    def __init__(self) -> None:
        self.most = 0

    def frames(self) -> Iterator[np.ndarray]:
        return (np.full((4, 4, 3), index, np.uint8) for index in range(self.num_frames))

    def _decode_unique(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for index, frame in enumerate(self.frames()):
            if index != 3 and index in indices:
                self.most = index
                yield index, frame


def test_a_frame_that_comes_late_is_waited_for_in_bounded_memory() -> None:
    video = LateFrame()
    found = [int(frame[0, 0, 0]) for frame in frames_in_order(video, np.arange(1, 200))]
    assert found == [*range(1, 200)]
    assert video.most < 100


def test_a_frame_that_never_comes_is_an_error_after_those_before_it() -> None:
    frames = frames_in_order(LateFrame(), np.arange(5))
    assert [int(next(frames)[0, 0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"Frame 3 of 200 in 'late\.mp4' cannot be decoded"):
        next(frames)


def test_damage_ends_the_frames_and_keeps_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.mov"
    write_broken(path)
    cursor = FrameCursor(LongVideo(str(path), "broken.mov", SPEC, stride=0.1))
    out = np.zeros((12, 32, 32, 3), np.uint8)
    count, reason = cursor.read(out)
    cursor.close()
    assert count == 4
    assert "broken.mov" in reason


def test_images_need_a_frame_rate(tmp_path: Path) -> None:
    for index in range(1, 13):
        frame = av.VideoFrame.from_ndarray(np.full((40, 32, 3), 20 * index, np.uint8))
        frame.to_image().save(tmp_path / f"img_{index:05d}.png")
    source = LongVideo(FrameFolder(str(tmp_path)), "frames", SPEC, stride=0.2)
    with pytest.raises(InputError, match="such as --frame-rate 30"):
        FrameCursor(source)
    plan = FrameCursor(
        LongVideo(FrameFolder(str(tmp_path)), "frames", SPEC, stride=0.2, frame_rate=10)
    ).opened.plan
    assert plan.indices[:, 0].tolist() == [0, 2, 4]
    assert plan.duration == pytest.approx(1.2)
