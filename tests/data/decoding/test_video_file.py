"""Files of users whose containers mislead about their frames: all show what `ffmpeg` shows."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from coded_pictures import VIDEOS, copy_packets, indices_shown, read_index, write_pictures

from vswin_jax.data.decoding import packets
from vswin_jax.data.decoding.video_file import VideoFile
from vswin_jax.errors import InputError

EveryFrame = Callable[[Path], np.ndarray]

# The indices that `ffmpeg -i FILE -map 0:V:0 -fps_mode passthrough` shows.
SHOWN = {
    "plain.mp4": range(40),
    "cut_editlist.mp4": range(17, 40),
    # Time stamps that ascend in the order of decoding although the codec reorders frames.
    "avi_remux_h264.mkv": range(40),
    "avi_remux_h264_nogen.mp4": range(40),
    # Packets of two MPEG-4 frames, and packets without any. The .mpg divides the former in two.
    "xvid_packed.avi": range(39),
    "xvid_packed.mp4": range(39),
    "packed_xvid.mpg": range(39),
    # Time stamps that begin again.
    "concat_shifted.ts": range(40),
    # Frames before the first key frame in presentation order, which can be decoded.
    "vvc.mp4": range(40),
    # Every packet is marked as a key frame, but only each twelfth is one.
    "h263_all_keys.mkv": range(40),
    # Frames that are not shown, in packets of their own.
    "vp9_split.mkv": range(40),
    "av1_split.ivf": range(40),
}


def check_indices(path: Path, expected: Sequence[int]) -> None:
    """Check what a file shows when its frames are decoded together, in order, and one by one."""
    with VideoFile(path) as video:
        count = video.num_frames
        assert [read_index(frame) for frame in video.decode(range(count))] == list(expected)
        assert [read_index(frame) for frame in video.frames()] == list(expected)
        single = [*range(count - 1, 0, -5), 0]
        assert [read_index(video.decode([i])[0]) for i in single] == [expected[i] for i in single]
        assert len(video.times) == count
        assert video.times[0] == 0
        assert (np.diff(video.times) > 0).all()


def is_indexed(path: Path) -> bool:
    """Return True if the file is opened without decoding it."""
    with VideoFile(path) as video:
        return video._index is not None


@pytest.mark.parametrize("name", SHOWN)
def test_files_of_users(name: str) -> None:
    check_indices(VIDEOS / name, SHOWN[name])


@pytest.mark.parametrize("name", ["concat_shifted.ts", "xvid_packed.mp4", "vp9_split.mkv"])
def test_files_of_users_that_are_too_large_to_cache(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets, "_MAX_CACHED_BYTES", 100)
    check_indices(VIDEOS / name, SHOWN[name])


@pytest.mark.parametrize("container", ["mpg", "vob", "ts", "m2v", "mkv"])
def test_every_frame_of_mpeg2_that_is_too_large_to_cache(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seek in MPEG-PS leads into the middle of a packet."""
    monkeypatch.setattr(packets, "_MAX_CACHED_BYTES", 0)
    path = write_pictures(
        tmp_path / f"video.{container}", range(48), "mpeg2video", bf="2", g="10", b="2M"
    )
    # Nothing is decoded from the start of the file.
    monkeypatch.setattr(VideoFile, "_decode_all", lambda _: ())
    with VideoFile(path) as video:
        assert [read_index(video.decode([i])[0]) for i in range(48)] == list(range(48))


@pytest.mark.parametrize("name", ["vp8_vpxenc.webm", "vp8_arf_2pass.webm"])
def test_frames_of_vp8_that_are_not_shown(name: str, every_frame: EveryFrame) -> None:
    frames = every_frame(VIDEOS / name)
    assert len(frames) == 100
    with VideoFile(VIDEOS / name) as video:
        assert video.num_frames == 100
        some = [99, 0, 41, 57, 60, 61]
        np.testing.assert_array_equal(video.decode(some), frames[some])
        np.testing.assert_array_equal(np.stack(list(video.frames())), frames)


H264 = {"g": "12", "bf": "3"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("h264.mp4", "libx264", H264),
        ("h264.mkv", "libx264", H264),
        ("h264.ts", "libx264", H264),
        ("h264.flv", "libx264", H264),
        ("h264.mov", "libx264", {"bf": "0"}),
        ("intra.mp4", "libx264", {"g": "1"}),
        ("interlaced.ts", "libx264", {**H264, "flags": "+ildct+ilme"}),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("vp8.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
        ("mpeg4.mp4", "mpeg4", {"bf": "2", "qmin": "1", "qmax": "1"}),
        ("mpeg2.mpg", "mpeg2video", {"bf": "2"}),
        ("flv1.flv", "flv", {}),
        ("mjpeg.mov", "mjpeg", {"strict": "-1"}),
        ("wmv2.asf", "wmv2", {}),
    ],
)
def test_ordinary_files_are_opened_without_decoding_them(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = write_pictures(tmp_path / name, range(20), codec, **options)
    assert is_indexed(path)
    check_indices(path, range(20))


@pytest.mark.parametrize("name", ["plain.mp4", "cut_editlist.mp4", "vp8_vpxenc.webm"])
def test_right_files_of_users_are_opened_without_decoding_them(name: str) -> None:
    assert is_indexed(VIDEOS / name)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_time_stamps_that_count_packets(codec: str, container: str, tmp_path: Path) -> None:
    """As those of a stream from an AVI or a raw file, which have none for presentation."""
    good = write_pictures(tmp_path / "good.mkv", range(24), codec, bf="2", g="12")
    copy = copy_packets(good, tmp_path / f"copy.{container}", ascending=True)
    check_indices(copy, range(24))
    with VideoFile(copy) as video:
        np.testing.assert_allclose(video.times, np.arange(24) / 25, atol=0.001)


@pytest.mark.parametrize("start", [0, 3, 13, 26, 500])
def test_joined_transport_streams(start: int, tmp_path: Path) -> None:
    """The time stamps of the second part begin anew, within those of the first, or after them."""
    first = write_pictures(tmp_path / "1.ts", range(24), g="8", bf="3")
    times = itertools.count(start)
    second = write_pictures(tmp_path / "2.ts", range(24, 40), times=times, g="8", bf="3")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    check_indices(joined, range(40))


@pytest.mark.parametrize("container", ["mpg", "m2v", "h264"])
def test_joined_streams_without_time_stamps_that_go_on(container: str, tmp_path: Path) -> None:
    codec = "libx264" if container == "h264" else "mpeg2video"
    part = write_pictures(tmp_path / f"part.{container}", range(16), codec, bf="2", g="8")
    joined = tmp_path / f"joined.{container}"
    joined.write_bytes(part.read_bytes() * 2)
    check_indices(joined, [*range(16)] * 2)


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "8", "bf": "3"}),
        ("libx264", {"g": "8", "x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}),
        ("libx264", {"x264-params": "intra-refresh=1:keyint=8"}),
        ("mpeg2video", {"g": "8", "bf": "2"}),
    ],
)
def test_recordings_that_begin_between_two_key_frames(
    codec: str, options: dict[str, str], share: float, tmp_path: Path
) -> None:
    data = write_pictures(tmp_path / "whole.ts", range(40), codec, **options).read_bytes()
    packet = 188
    path = tmp_path / "recorded.ts"
    # The first three packets have the tables of the stream.
    path.write_bytes(data[: 3 * packet] + data[round(len(data) / packet * share) * packet :])
    expected = indices_shown(path)
    assert 4 < len(expected) < 40
    check_indices(path, expected)


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"g": "8", "bf": "3"}), ("mpeg4", {"g": "8", "bf": "0"})]
)
def test_mp4_without_a_table_of_key_frames(
    codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    """Every frame then counts as a key frame."""
    path = write_pictures(tmp_path / "video.mp4", range(24), codec, **options)
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    check_indices(path, range(24))


def test_avi_with_repeated_frames(tmp_path: Path) -> None:
    """The muxer fills a gap of time stamps with empty packets, which show nothing."""
    times = [*range(8), *range(15, 27)]
    path = write_pictures(tmp_path / "gap.avi", range(20), "mpeg4", times, g="4")
    chunks, _ = path.read_bytes().split(b"idx1")
    assert chunks.count(b"00dc\0\0\0\0") >= 7
    check_indices(path, range(20))
    with VideoFile(path) as video:
        np.testing.assert_allclose(video.times, np.array(times) / 25)


def test_the_film_is_decoded_and_no_picture_beside_it() -> None:
    for name in ("cover_stream0.mp4", "thumb_track_first.mov"):
        check_indices(VIDEOS / name, range(40))
        assert is_indexed(VIDEOS / name)


def test_a_song_with_a_cover_is_no_video() -> None:
    with pytest.raises(InputError, match=r"song_with_cover\.m4a' holds no video stream"):
        VideoFile(VIDEOS / "song_with_cover.m4a")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264.mp4", "libx264"),
        ("h264.avi", "libx264"),
        ("mpeg2.mpg", "mpeg2video"),
        ("mpeg4.mkv", "mpeg4"),
    ],
)
def test_videos_of_few_frames(name: str, codec: str, count: int, tmp_path: Path) -> None:
    indices = range(5, 5 + count)
    check_indices(write_pictures(tmp_path / name, indices, codec, bf="2"), indices)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_a_title_of_another_encoding_is_no_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"titled.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Caf#"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.metadata["title"] = "Caf#"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    encoded = path.read_bytes().replace(b"Caf#", "Café".encode("latin-1"))
    assert encoded != path.read_bytes()
    path.write_bytes(encoded)
    with VideoFile(path) as video:
        assert len(video.decode([0])) == 1
