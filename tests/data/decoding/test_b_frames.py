from pathlib import Path

import av
import numpy as np
import pytest
from coded_pictures import copy_packets, read_index, write_pictures

from vswin_jax.data.decoding.b_frames import b_frame_detector
from vswin_jax.data.decoding.video_file import VideoFile


def _types(path: Path) -> tuple[list[bool], list[bool]]:
    """Return True for each B-frame, as the headers of the packets tell, and as the decoder does.

    Both are sorted: the decoder shows frames in another order.
    """
    with av.open(str(path)) as container:
        is_b_frame = b_frame_detector(container.streams.video[0].codec_context)
        told = [is_b_frame(bytes(packet)) for packet in container.demux(video=0) if packet.size]
    with av.open(str(path)) as container:
        decoded = [frame.pict_type == 3 for frame in container.decode(video=0)]
    return sorted(told), sorted(decoded)


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264.mp4", "libx264"),
        ("h264.ts", "libx264"),
        ("mpeg1.mpg", "mpeg1video"),
        ("mpeg2.mkv", "mpeg2video"),
        ("mpeg4.mp4", "mpeg4"),
    ],
)
def test_b_frames_are_those_of_the_decoder(
    name: str, codec: str, b_frames: str, tmp_path: Path
) -> None:
    path = write_pictures(tmp_path / name, range(20), codec, bf=b_frames, g="10")
    told, decoded = _types(path)
    assert told == decoded
    assert any(told) == (b_frames == "2")


def test_packets_that_cannot_be_read_may_hold_b_frames() -> None:
    for codec in ("h264", "mpeg2video", "mpeg4", "hevc", "vc1"):
        is_b_frame = b_frame_detector(av.CodecContext.create(codec, "r"))
        assert all(is_b_frame(packet) for packet in (b"", b"\x00\x00\x01", b"garbage"))


@pytest.mark.parametrize("container", ["mpg", "ts", "mkv", "mp4"])
def test_files_without_b_frames_are_not_decoded_to_open_them(
    container: str, tmp_path: Path
) -> None:
    """MPEG-2 decoders hold a frame back in case there are B-frames."""
    path = write_pictures(tmp_path / f"video.{container}", range(20), "mpeg2video", bf="0")
    with VideoFile(path) as video:
        assert video._index is not None
        assert [read_index(frame) for frame in video.decode(range(20))] == list(range(20))


def test_stamps_in_another_order_than_frames_that_are_not_reordered(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "good.mp4", range(20), "mpeg2video", bf="0")
    shuffled = tmp_path / "shuffled.mp4"
    with av.open(str(path)) as old, av.open(str(shuffled), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for position, packet in enumerate(packets):
            packet.stream = stream
            step = packet.duration
            packet.dts = position * step
            packet.pts = (position + (3 if position % 4 == 1 else 2)) * step + position % 4
            new.mux(packet)
    with VideoFile(shuffled) as video:
        assert [read_index(frame) for frame in video.decode(range(20))] == list(range(20))
    ascending = copy_packets(path, tmp_path / "ascending.mp4", ascending=True)
    with VideoFile(ascending) as video:
        np.testing.assert_allclose(video.times, np.arange(20) / 25, atol=0.001)
