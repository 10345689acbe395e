import ctypes
import gc
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest

from vswin_jax.data import open_video
from vswin_jax.data.clips import sampling
from vswin_jax.data.decoding import packets
from vswin_jax.data.decoding.packets import PacketIndex, index_packets, packet_ranges
from vswin_jax.data.decoding.video_stream import read_packets
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]
EveryFrame = Callable[[Path], np.ndarray]

FILES = {
    "b-frames.mp4": {"g": "8", "bf": "3"},
    "b-frames.mkv": {"g": "8", "bf": "3"},
    "b-frames.mov": {"bf": "2"},
    "intra.mp4": {"g": "1"},
    "open-gop.mp4": {"g": "6", "x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"},
    "intra-refresh.mp4": {"x264-params": "intra-refresh=1:keyint=8"},
    "no-display-times.avi": {"g": "8", "bf": "3"},
    "stream.ts": {"g": "8"},
}


DECODED_IN_FULL = {"intra-refresh.mp4", "no-display-times.avi"}


def _real_videos() -> list[Path]:
    default = Path(__file__).parents[4] / "shared" / "videos"
    folder = Path(os.environ.get("VSWIN_TEST_VIDEOS", default))
    return sorted(path for path in folder.glob("*") if path.is_file())


def _compare(path: Path, frames: np.ndarray, requests: list[list[int]]) -> None:
    """Check that a file and its bytes give `frames` at each of the requested lists of indices."""
    for source in (path, path.read_bytes()):
        with open_video(source) as video:
            assert video.num_frames == len(frames)
            for indices in requests:
                np.testing.assert_array_equal(video.decode(indices), frames[indices])


@pytest.mark.parametrize("name", FILES)
def test_any_frames_equal_those_of_decoding_all(
    name: str, write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(name, 30, **FILES[name])
    requests = [list(range(30)), list(range(0, 30, 2)), [29], [0], [3, 17, 29], [20, 3, 3, 11]]
    _compare(path, every_frame(path), requests)


@pytest.mark.parametrize("name", FILES)
def test_files_too_large_to_cache_their_packets(
    name: str, write_video: WriteVideo, every_frame: EveryFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(name, 30, **FILES[name])
    with av.open(str(path)) as container:
        index = index_packets(read_packets(container, container.streams.video[0]), "video")
    assert index is None or len(index.packets) == len(index.pts)
    monkeypatch.setattr(packets, "_MAX_CACHED_BYTES", 100)
    with av.open(str(path)) as container:
        index = index_packets(read_packets(container, container.streams.video[0]), "video")
    assert index is None or not index.packets
    _compare(path, every_frame(path), [list(range(0, 30, 2)), [29], [20, 3, 3, 11]])


@pytest.mark.parametrize("name", sorted(FILES.keys() - DECODED_IN_FULL))
def test_files_are_not_decoded_from_the_start_if_key_frames_suffice(
    name: str, write_video: WriteVideo
) -> None:
    with open_video(write_video(name, 30, **FILES[name])) as video:
        container = video._container
        for indices in ([29], [3, 17], list(range(30))):
            video.decode(indices)
        # Decoding from the start would open the file again.
        assert video._container is container


def _sampled(total: int) -> list[np.ndarray]:
    """Return the frames of 32-frame clips by every sampling rule, of training and of tests."""
    rng = np.random.default_rng(total)
    return [
        sampling.dense_train(total, 32, 2, rng),
        np.unique(sampling.dense_test(total, 32, 2, 4)),
        sampling.uniform_train(total, 32, rng),
        sampling.uniform_test(total, 32)[0],
    ]


@pytest.mark.long
@pytest.mark.skipif(not _real_videos(), reason="no real clips in VSWIN_TEST_VIDEOS")
@pytest.mark.parametrize("path", _real_videos(), ids=lambda path: path.name)
def test_real_clips(path: Path, every_frame: EveryFrame) -> None:
    """Frames that training and test sample, and the last ones, which need draining the decoder."""
    frames = every_frame(path)
    last = len(frames) - 1
    requests = [indices.tolist() for indices in _sampled(len(frames))]
    _compare(path, frames, [*requests, [last], [last, 0, 0]])


@pytest.mark.skipif(not _real_videos(), reason="no real clips in VSWIN_TEST_VIDEOS")
@pytest.mark.parametrize("path", _real_videos(), ids=lambda path: path.name)
def test_real_clips_have_the_orientation_that_opencv_gives_them(path: Path) -> None:
    """OpenCV applies the display matrix of a phone's video with code of its own."""
    found, picture = cv2.VideoCapture(str(path)).read()
    assert found
    with open_video(path) as video:
        (frame,) = video.decode([0])
    assert frame.shape == picture.shape
    difference = np.abs(frame.astype(int) - picture[..., ::-1]).mean()
    assert difference < 0.5, f"{difference:.2f} grey levels"


def test_copied_from_the_middle_of_an_open_gop(
    tmp_path: Path, write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    # As `ffmpeg -ss ... -c copy` writes it: the first frames refer to frames that were cut off.
    whole = write_video("whole.mp4", 30, **FILES["open-gop.mp4"])
    part = tmp_path / "part.mkv"
    with av.open(str(whole)) as old, av.open(str(part), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        second = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[second:]:
            packet.stream = stream
            new.mux(packet)
    frames = every_frame(part)
    assert len(frames) < len(packets) - second
    _compare(part, frames, [list(range(len(frames))), [0], [len(frames) - 1, 5]])


def test_only_the_needed_packets_are_decoded(write_video: WriteVideo) -> None:
    # No B-frames and a key frame every 8 frames: frame i is packet i and depends on i // 8 * 8.
    path = write_video(count=30, g="8", bf="0", sc_threshold="0")
    with av.open(str(path)) as container:
        index = index_packets(read_packets(container, container.streams.video[0]), "video")
    assert index is not None
    assert index.packet_of_frame.tolist() == list(range(30))
    assert packet_ranges(index, np.array([3, 20, 21])) == [(0, 3), (16, 21)]
    # The range up to 15 ends where the next begins, so the two are merged.
    assert packet_ranges(index, np.array([15, 16])) == [(8, 16)]


def test_packet_ranges_of_b_frames() -> None:
    # Decode order I0 P3 B1 B2 I6 B4 B5: B4 and B5 are stored after the key frame I6 but refer to
    # frames of the first group.
    pts = np.array([0, 3, 1, 2, 6, 4, 5])
    index = PacketIndex(
        pts=pts,
        dts=pts,
        sizes=np.full(7, 100),
        packet_of_frame=np.array([0, 2, 3, 1, 5, 6, 4]),
        keyframe_of_frame=np.array([0, 0, 0, 0, 0, 0, 4]),
    )
    assert packet_ranges(index, np.array([1, 4])) == [(0, 5)]
    assert packet_ranges(index, np.array([6])) == [(4, 4)]


# The display matrix in the track header of a file from a phone held sideways: (a, b, c, d) rotates
# the picture clockwise by the angle.
@pytest.mark.parametrize(
    ("clockwise", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]
)
def test_rotated_files_give_upright_frames(
    clockwise: int,
    matrix: tuple[int, int, int, int],
    tmp_path: Path,
    write_video: WriteVideo,
    every_frame: EveryFrame,
) -> None:
    straight = write_video("straight.mp4", 6)
    data = bytearray(straight.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 65536 for value in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    rotated = tmp_path / "rotated.mp4"
    rotated.write_bytes(data)
    with open_video(rotated) as video:
        frames = video.decode([0, 4])
    expected = np.rot90(every_frame(straight)[[0, 4]], -clockwise // 90, axes=(1, 2))
    np.testing.assert_array_equal(frames, expected)


def test_transform_is_applied_once_to_each_frame(write_video: WriteVideo) -> None:
    shapes = []

    def shrink(frame: np.ndarray, _: np.ndarray | None) -> np.ndarray:
        shapes.append(frame.shape)
        return frame[::2, ::2]

    with open_video(write_video()) as video:
        small = video.decode([5, 2, 5], shrink)
        np.testing.assert_array_equal(small, video.decode([5, 2, 5])[:, ::2, ::2])
    assert shapes == [(48, 64, 3)] * 2


def test_the_first_video_stream_is_decoded(tmp_path: Path, every_frame: EveryFrame) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=12) for _ in range(2)]
        for side, stream in zip((32, 64), streams, strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for side, stream in zip((32, 64), streams, strict=True):
            for level in range(3):
                picture = np.full((side, side, 3), 60 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    with open_video(path) as video:
        assert video.decode([0]).shape == (1, 32, 32, 3)


def test_indices_out_of_range_raise_an_index_error(write_video: WriteVideo) -> None:
    with open_video(write_video(count=6)) as video:
        for indices in ([6], [-1]):
            with pytest.raises(IndexError):
                video.decode(indices)


def test_odd_file_names(write_video: WriteVideo) -> None:
    path = write_video("http:/a b#c%03d?.mp4", 3)
    with open_video(str(path)) as video:
        assert video.num_frames == 3


def _error_message(path: Path | bytes, name: str = "") -> str:
    with pytest.raises(InputError) as caught, open_video(path, name) as video:
        video.decode([0, video.num_frames - 1])
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_unreadable_files_are_named_with_the_cause(tmp_path: Path) -> None:
    text, empty = tmp_path / "notes.txt", tmp_path / "empty.mp4"
    text.write_text("not a video\n" * 50)
    empty.touch()
    assert "notes.txt" in _error_message(text)
    assert "empty.mp4" in _error_message(empty)
    assert "Is a directory" in _error_message(tmp_path)
    missing = _error_message(tmp_path / "gone.mp4")
    assert "gone.mp4" in missing
    assert "No such file" in missing
    assert "'clip 7'" in _error_message(b"garbage" * 100, "clip 7")


def test_a_file_with_audio_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert "no video stream" in _error_message(path)


def test_a_video_stream_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "hollow.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    assert "hollow.mkv" in _error_message(path)


def test_truncated_files(tmp_path: Path, write_video: WriteVideo) -> None:
    path = tmp_path / "cut.mp4"
    whole = write_video("whole.mp4").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut.mp4" in _error_message(path)
    whole = write_video("front.mp4", muxer={"movflags": "faststart"}).read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert "cut short" in _error_message(path)


def test_a_damaged_packet(tmp_path: Path, write_video: WriteVideo) -> None:
    data = bytearray(write_video("whole.mp4", g="24").read_bytes())
    with av.open(str(tmp_path / "whole.mp4")) as container:
        packet = next(container.demux(video=0))
    data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    assert "damaged.mp4" in _error_message(path)


def _huge(path: Path, width: int, height: int, *, declared: bool = True) -> Path:
    """Write three VP8 frames whose headers state another size, the container's too if `declared`.

    The size is 14 bits after the start code of a key frame, and two bytes in the header of WebM.
    """
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=12)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        stream.codec_context.gop_size = 1
        for level in range(3):
            picture = np.full((256, 256, 3), 60 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    start = b"\x9d\x01\x2a"
    data = data.replace(
        start + struct.pack("<HH", 256, 256), start + struct.pack("<HH", width, height)
    )
    if declared:
        for tag, side in ((b"\xb0\x82", width), (b"\xba\x82", height)):
            assert data.count(tag + b"\x01\x00") == 1
            data = data.replace(tag + b"\x01\x00", tag + struct.pack(">H", side))
    path.write_bytes(data)
    return path


def test_frames_past_the_limits_are_refused(tmp_path: Path) -> None:
    message = _error_message(_huge(tmp_path / "huge.webm", 12288, 12288))
    assert "huge.webm' has frames of 12288x12288 pixels, past the limits" in message
    assert "8192x4321" in _error_message(_huge(tmp_path / "8K.webm", 8192, 4321))
    assert "2112x64" in _error_message(_huge(tmp_path / "flat.webm", 2112, 64))
    # The container's header states 256x256, so only the decoder sees the size.
    hidden = _error_message(_huge(tmp_path / "hidden.webm", 12288, 12288, declared=False))
    assert "hidden.webm' cannot be read" in hidden


def test_frames_up_to_the_limits_are_read(tmp_path: Path) -> None:
    for name, width, height in (("8K.webm", 8192, 4320), ("flat.webm", 2048, 64)):
        with open_video(_huge(tmp_path / name, width, height)) as video:
            small = video.decode([1], lambda frame, _: frame[::40, ::40])
        assert small.shape[1:3] == (-(-height // 40), -(-width // 40))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kilobytes on Linux")
@pytest.mark.parametrize("declared", [True, False])
def test_huge_frames_take_no_memory(declared: bool, tmp_path: Path) -> None:
    """One frame of this size is 226 MB; a new process has a peak memory of its own."""
    code = """
import resource, sys
from vswin_jax.data import open_video
from vswin_jax.errors import InputError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    with open_video(sys.argv[1]) as video:
        video.decode([0])
except InputError:
    print((peak() - before) // 1024)
"""
    path = _huge(tmp_path / "huge.webm", 12288, 12288, declared=declared)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert int(done.stdout) < 50


def test_a_long_file_takes_only_the_memory_of_its_index(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    """About 230 bytes a frame: 5 MB for the eleven minutes of 20,000 frames, 25 MB for an hour."""
    one = write_video("one.mp4", 1, height=32, width=32)
    count = 20_000
    with av.open(str(one)) as old, av.open(str(tmp_path / "long.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        first = next(packet for packet in old.demux(video=0) if packet.size)
        for number in range(count):
            packet = av.Packet(bytes(first))
            packet.stream, packet.time_base, packet.is_keyframe = stream, first.time_base, True
            packet.pts = packet.dts = number * first.duration
            new.mux(packet)
    tracemalloc.start()
    try:
        with open_video(tmp_path / "long.mp4") as video:
            assert video.num_frames == count
            video.decode(range(0, count, count // 31), lambda frame, _: frame[:1, :1])
        assert tracemalloc.get_traced_memory()[1] < 400 * count
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files on Linux")
def test_files_are_closed_after_success_and_errors(tmp_path: Path, write_video: WriteVideo) -> None:
    good = write_video("good.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:900])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with open_video(good) as video:
            video.decode([3])
        _error_message(cut)
        _error_message(tmp_path / "gone.mp4")
    assert len(os.listdir("/proc/self/fd")) == before


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_: ClassVar = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


def _allocated() -> int:
    """Return the bytes that C code has allocated and not freed, which tracemalloc does not see."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallocInfo
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def _is_glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallinfo2")


@pytest.mark.long
@pytest.mark.skipif(not _is_glibc(), reason="needs mallinfo2 of glibc 2.33 or later")
@pytest.mark.parametrize("max_cached", [0, 2**20], ids=["packets read again", "packets cached"])
@pytest.mark.parametrize("name", ["b-frames.mp4", "no-display-times.avi"])
def test_files_that_are_not_read_to_their_end_free_all_memory(
    name: str, max_cached: int, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV leaks about 150 bytes of each demuxing generator that is dropped half way."""
    monkeypatch.setattr(packets, "_MAX_CACHED_BYTES", max_cached)
    path = write_video(name, 12, **FILES[name])

    def read(times: int) -> int:
        for _ in range(times):
            with open_video(path) as video:
                video.decode([2])
                next(video.frames())
        gc.collect()
        return _allocated()

    allocated = [read(100) for _ in range(4)]
    # Memory that is allocated once for all falls into one of the rounds.
    assert min(np.diff(allocated)) / 100 < 50


def test_all_frames_in_presentation_order(write_video: WriteVideo, every_frame: EveryFrame) -> None:
    path = write_video(bf="2")
    with open_video(path) as video:
        np.testing.assert_array_equal(np.stack(list(video.frames())), every_frame(path))


def test_times_are_those_of_the_packets(tmp_path: Path, write_video: WriteVideo) -> None:
    with open_video(write_video(bf="2")) as video:
        np.testing.assert_allclose(video.times, np.arange(24) / 12)
    with open_video(write_video("x.avi")) as video:
        np.testing.assert_allclose(video.times, np.arange(24) / 12)
