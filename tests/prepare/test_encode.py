"""Stored videos, read with PyAV and with `open_video`."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from vswin_jax.data import Example, FrameFolder, open_video
from vswin_jax.errors import InputError
from vswin_jax.prepare.encode import StoredVideo, store_video, target_size
from vswin_jax.prepare.frame_rate import mean_frame_rate, repeat_counts
from vswin_jax.prepare.mp4 import TIME_BASE, to_pts
from vswin_jax.prepare.options import PrepareOptions

WriteVideo = Callable[..., Path]


def _store(video: object, **options: object) -> StoredVideo:
    return store_video(Example(video, 0, 0, "the video"), PrepareOptions(**options))


def _frames(video: object) -> np.ndarray:
    with open_video(video) as opened:
        return np.stack(list(opened.frames()))


def test_format_of_the_stored_file(write_video: WriteVideo) -> None:
    stored = _store(write_video(count=40, size=(64, 90), audio=True), short_side=32)
    assert (stored.height, stored.width, stored.fps, stored.size) == (
        32,
        44,
        12.0,
        len(stored.content),
    )
    with av.open(io.BytesIO(stored.content)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].average_rate == 12
        frames = list(container.decode(video=0))
    assert [(frame.height, frame.width) for frame in frames] == [(32, 44)] * 40
    types = [PictureType(frame.pict_type).name for frame in frames]
    assert set(types) == {"I", "P"}
    keys = [number for number, frame in enumerate(frames) if frame.key_frame]
    assert max(np.diff([*keys, 40])) <= 16
    # The tuning "fastdecode": no deblocking filter and no arithmetic coding (CABAC).
    assert b"cabac=0" in stored.content
    assert b"deblock=0" in stored.content


def test_options_are_passed_to_the_encoder(write_video: WriteVideo) -> None:
    path = write_video(count=30)
    other = _store(path, gop=5, bframes=2, crf=40, preset="veryfast", fastdecode=False)
    for option in (b"keyint=5 ", b"bframes=2", b"crf=40.0", b"subme=2", b"cabac=1", b"deblock=1"):
        assert option in other.content, option
    assert len(other.content) < len(_store(path).content)
    assert len(_frames(other.content)) == 30


def test_colours_are_kept(write_video: WriteVideo) -> None:
    path = write_video()
    before, after = _frames(path).astype(int), _frames(_store(path, crf=12).content)
    assert np.abs(before - after).mean() < 3
    assert np.abs((before - after).mean((0, 1, 2))).max() < 2


def test_rotated_files_are_stored_upright(write_video: WriteVideo) -> None:
    path = write_video(size=(48, 64), count=5)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]  # a quarter turn clockwise
    data[at : at + 36] = np.array(matrix, ">i4").tobytes()
    stored = _store(bytes(data), crf=12)
    assert (stored.height, stored.width) == (64, 48)
    with av.open(io.BytesIO(stored.content)) as container:
        assert {frame.rotation for frame in container.decode(video=0)} == {0}
    expected = np.rot90(_frames(path), -1, axes=(1, 2)).astype(int)
    assert np.abs(_frames(stored.content) - expected).mean() < 3


def test_uneven_presentation_times_are_kept(write_video: WriteVideo) -> None:
    times = [0, 0.1, 0.11, 0.5, 0.75, 2.0]
    stored = _store(write_video(count=6, times=times))
    assert stored.fps == 2.5
    with open_video(stored.content) as video:
        np.testing.assert_allclose(video.times, times, atol=float(TIME_BASE))
    np.testing.assert_allclose(stored.times, times, atol=1e-9)


def test_encoding_is_reproducible(write_video: WriteVideo) -> None:
    # Two macroblocks wide: with x264's macroblock tree one result in thirty differed.
    path = write_video(size=(32, 32), count=6)
    contents = set()
    for number in range(60):
        # Changes the content of the uninitialised memory that the encoder gets.
        garbage = [np.random.default_rng(number).bytes(1000 * k) for k in range(20)]
        contents.add(_store(path).content)
        del garbage
    assert len(contents) == 1
    assert b"mbtree=0" in contents.pop()


def test_resampled_frames_are_those_shown_at_their_times(write_video: WriteVideo) -> None:
    path = write_video(count=24)  # two seconds at 12
    half, double = _store(path, fps=6, crf=12), _store(path, fps=24, crf=12)
    before = _frames(path).astype(int)
    assert (half.fps, double.fps) == (6.0, 24.0)
    assert np.abs(_frames(half.content) - before[::2]).mean() < 3
    assert np.abs(_frames(double.content) - before.repeat(2, 0)).mean() < 3


@pytest.mark.parametrize(
    ("times", "fps", "counts"),
    [
        ([0, 1, 2, 3], 1, [1, 1, 1, 1]),
        ([0, 1, 2, 3], 2, [2, 2, 2, 2]),
        ([0, 1, 2, 3], 0.5, [1, 0, 1, 0]),
        # Shown until 0.1, 1.0 and 1.1 s, and the last one for the mean of 1.1 / 3 s: 1.467 s.
        ([0, 0.1, 1.0, 1.1], 10, [1, 9, 1, 4]),
        ([0], 30, [1]),
        ([0], 1, [1]),
    ],
)
def test_repeat_counts(times: list[float], fps: float, counts: list[int]) -> None:
    assert repeat_counts(np.array(times, float), fps) == counts


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((720, 1280), 256, (256, 456)),  # 455.1
        ((1280, 720), 256, (456, 256)),
        ((240, 320), 256, (240, 320)),
        ((241, 321), 256, (240, 320)),
        ((257, 257), 256, (256, 256)),
        ((720, 1281), 0, (720, 1280)),
        ((1, 9), 256, (2, 8)),
    ],
)
def test_target_sizes(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    assert target_size(*size, short_side) == expected


def test_time_stamps_increase_strictly() -> None:
    assert to_pts(np.array([0, 1e-7, 2e-7, 1.0])).tolist() == [0, 1, 2, 90000]
    assert mean_frame_rate(np.array([0.0])) == 30.0


def _write_images(folder: Path, sizes: list[tuple[int, int]]) -> FrameFolder:
    folder.mkdir()
    for number, (height, width) in enumerate(sizes):
        frame = np.full((height, width, 3), (40 * number, 100, 200), np.uint8)
        cv2.imwrite(str(folder / f"img_{number:03}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return FrameFolder(str(folder))


def test_images_have_30_frames_a_second_or_those_of_the_option(tmp_path: Path) -> None:
    folder = _write_images(tmp_path / "frames", [(20, 30)] * 4)
    for fps, seconds in ((0, 1 / 30), (10, 0.1)):
        stored = _store(folder, fps=fps)
        with open_video(stored.content) as video:
            np.testing.assert_allclose(video.times, np.arange(4) * seconds, atol=float(TIME_BASE))
            reds = video.decode(range(4))[:, 10, 10, 0].astype(int)
        assert np.abs(reds - [0, 40, 80, 120]).max() < 6


def test_a_jpeg_image_for_each_frame(write_video: WriteVideo) -> None:
    path = write_video(count=3, times=[0, 0.5, 0.6])
    fine, coarse = (_store(path, store="jpeg", jpeg_quality=quality) for quality in (98, 30))
    assert fine.size == sum(map(len, fine.content)) > coarse.size
    assert fine.sha256 != coarse.sha256
    assert (fine.height, fine.width, len(fine.content)) == (48, 64, 3)
    np.testing.assert_allclose(fine.times, [0, 0.5, 0.6], atol=1e-9)
    decoded = [cv2.imdecode(np.frombuffer(image, np.uint8), 1) for image in fine.content]
    decoded = np.stack(decoded)[..., ::-1].astype(int)
    assert np.abs(decoded - _frames(path)).mean() < 6  # half of it is from 4:2:0 chroma


def test_files_stored_unchanged(write_video: WriteVideo, tmp_path: Path) -> None:
    path = write_video(count=7, audio=True)
    for video in (str(path), path.read_bytes()):
        stored = _store(video, reencode=False)
        assert stored.content == path.read_bytes()
        assert (stored.height, stored.width, len(stored.times), stored.fps) == (48, 64, 7, 12.0)
    for video, message in (
        (_write_images(tmp_path / "frames", [(8, 8)]), "leave out --no-reencode"),
        (str(tmp_path / "gone.mp4"), "'the video' cannot be read: No such file"),
        (b"torn", "'the video' cannot be read as a video"),
    ):
        with pytest.raises(InputError, match=message):
            _store(video, reencode=False)


def test_videos_that_cannot_be_stored(write_video: WriteVideo, tmp_path: Path) -> None:
    data = write_video(count=60).read_bytes()
    at = data.index(b"mdat") + len(data) // 2
    damaged = data[:at] + bytes(len(data) // 4) + data[at + len(data) // 4 :]
    for video, message in (
        (_write_images(tmp_path / "frames", [(8, 8), (8, 10)]), "not of one size"),
        (str(tmp_path / "gone.mp4"), "cannot be read as a video"),
        (damaged, "'the video'"),
    ):
        with pytest.raises(InputError, match=message):
            _store(video)
