import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from drawn_videos import ORIENTATIONS, DrawnVideo, picture, write

from vswin_jax.data import open_video

EveryFrame = Callable[[Path], np.ndarray]


def _decode(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return video.decode(range(video.num_frames))


@pytest.mark.parametrize(("counterclockwise", "is_mirrored"), ORIENTATIONS)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le"])
def test_all_eight_orientations(
    counterclockwise: int,
    is_mirrored: bool,
    pixel_format: str,
    tmp_path: Path,
) -> None:
    """Chroma that is only repeated, or not at all, has no direction: the values are the same."""
    straight = DrawnVideo(pixel_format=pixel_format, count=3)
    turned = DrawnVideo(
        pixel_format=pixel_format, count=3, orientation=(counterclockwise, is_mirrored)
    )
    expected = _decode(write(straight, tmp_path / "straight"))
    expected = np.rot90(expected, counterclockwise // 90, axes=(1, 2))
    if is_mirrored:
        expected = expected[:, :, ::-1]
    np.testing.assert_array_equal(_decode(write(turned, tmp_path / "turned")), expected)


def test_angles_between_right_ones_turn_the_picture_within_its_frame(tmp_path: Path) -> None:
    straight = _decode(write(DrawnVideo(count=2), tmp_path / "straight"))
    turned = _decode(write(DrawnVideo(count=2, orientation=(45, False)), tmp_path / "turned"))
    assert turned.shape == straight.shape
    assert turned[:, :4, :4].max() == 0
    assert turned[:, 14:18, 22:26].mean() == pytest.approx(straight[:, 14:18, 22:26].mean(), abs=9)
    # One degree is no turn.
    almost = _decode(write(DrawnVideo(count=2, orientation=(-1, False)), tmp_path / "almost"))
    np.testing.assert_array_equal(almost, straight)


def _filter_packets(source: Path, target: Path, name: str) -> Path:
    """Copy a stream through a bitstream filter of FFmpeg."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        bitstream_filter = BitStreamFilterContext(name, template, stream)
        packets = [packet for packet in old.demux(template) if packet.size]
        for packet in [*packets, None]:
            for filtered in bitstream_filter.filter(packet):
                filtered.stream = stream
                new.mux(filtered)
    return target


def test_the_orientation_of_a_key_frame_holds_for_the_frames_after_it(tmp_path: Path) -> None:
    """H.264 streams state it in a message before key frames, without a container's help."""
    straight = write(DrawnVideo(container="ts", count=12, gop=6), tmp_path / "straight")
    message = "h264_metadata=display_orientation=insert:rotate=90"
    turned = _filter_packets(straight, tmp_path / "turned.ts", message)
    expected = np.rot90(_decode(straight), axes=(1, 2))
    np.testing.assert_array_equal(_decode(turned), expected)
    with open_video(turned) as video:
        np.testing.assert_array_equal(video.decode([9]), expected[[9]])
        np.testing.assert_array_equal(np.stack(list(video.frames())), expected)


def _join(paths: Sequence[Path], target: Path) -> Path:
    """Write the packets of several files into one stream."""
    with av.open(str(target), "w") as joined:
        stream, position = None, 0
        for path in paths:
            with av.open(str(path)) as part:
                stream = stream or joined.add_stream_from_template(part.streams.video[0])
                for packet in (packet for packet in part.demux(video=0) if packet.size):
                    packet.stream, packet.time_base = stream, Fraction(1, 25)
                    packet.pts = packet.dts = position
                    position += 1
                    joined.mux(packet)
    return target


@pytest.mark.parametrize(("codec", "container"), [("libvpx", "webm"), ("libx264", "ts")])
def test_frames_of_another_size_are_scaled_to_that_of_the_first(
    codec: str, container: str, tmp_path: Path
) -> None:
    sizes = ((48, 32), (64, 48))
    paths = [
        write(
            DrawnVideo(codec=codec, container=container, width=width, height=height, count=4),
            tmp_path / f"{width}",
        )
        for width, height in sizes
    ]
    frames = _decode(_join(paths, tmp_path / f"joined.{container}"))
    assert frames.shape == (8, 32, 48, 3)
    np.testing.assert_array_equal(frames[:4], _decode(paths[0]))
    scaled = [
        cv2.resize(frame, (48, 32), interpolation=cv2.INTER_AREA) for frame in _decode(paths[1])
    ]
    assert np.abs(frames[4:].astype(int) - scaled).mean() < 16


def _set_clean_aperture(path: Path, aperture: tuple[int, ...]) -> Path:
    """Add a `clap` box to the one track of an mp4 file, whose index is at its end.

    The aperture is the width, height, and offsets of its centre from the picture's, as fractions.
    """
    data = bytearray(path.read_bytes())
    start = data.index(b"moov")
    entry = data.index(b"avc1", data.index(b"stsd", start)) - 4
    (size,) = struct.unpack_from(">I", data, entry)
    data[entry + size : entry + size] = struct.pack(">I4s8i", 40, b"clap", *aperture)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.index(box, start) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + 40)
    path.write_bytes(data)
    return path


@pytest.mark.skipif(
    not hasattr(av.VideoCodecContext, "coded_side_data"), reason="PyAV 18 does not give it"
)
def test_the_container_crops(tmp_path: Path) -> None:
    path = write(DrawnVideo(count=3), tmp_path / "cropped")
    whole = _decode(path)
    # 40x24 of 48x32 pixels, from (4, 2) on: the centre is at (0, -2) from the picture's.
    cropped = _decode(_set_clean_aperture(path, (40, 1, 24, 1, 0, 1, -2, 1)))
    np.testing.assert_array_equal(cropped, whole[:, 2:26, 4:44])


def test_the_bitstream_crops_to_the_pixel(tmp_path: Path) -> None:
    whole = write(DrawnVideo(container="mkv", count=3), tmp_path / "whole")
    margins = "h264_metadata=crop_left=6:crop_top=4:crop_right=2:crop_bottom=10"
    cropped = _filter_packets(whole, tmp_path / "cropped.mkv", margins)
    np.testing.assert_array_equal(_decode(cropped), _decode(whole)[:, 4:22, 6:46])


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le", "yuv420p10le"])
@pytest.mark.parametrize("colorspace", [1, 5, 9])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colour_tags(pixel_format: str, colorspace: int, color_range: int, tmp_path: Path) -> None:
    """Colours return through the matrix and the range with which they were encoded."""
    colours = np.array([(200, 60, 30), (20, 180, 90), (128, 128, 128), (240, 240, 10)], np.uint8)
    video = DrawnVideo("ffv1", "mkv", pixel_format, width=64, height=32)
    stripes = colours.repeat(16, axis=0)[None].repeat(32, axis=0)
    path = tmp_path / "colours.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video.codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, pixel_format
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = color_range
        frame = av.VideoFrame.from_ndarray(stripes, format="rgb24").reformat(
            format=pixel_format, dst_colorspace=colorspace, dst_color_range=color_range
        )
        frame.pts, frame.colorspace, frame.color_range = 0, colorspace, color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    centres = _decode(path)[0, 16, 8::16].astype(int)
    assert np.abs(centres - colours).max() <= 3


def test_ten_bits_keep_their_chroma_sharp(tmp_path: Path) -> None:
    """The mean error of the whole picture is that of 4:2:0, with 8 bits as with 10."""
    errors = {}
    for pixel_format in ("yuv420p", "yuv420p10le"):
        video = DrawnVideo("ffv1", "mkv", pixel_format, count=1)
        frames = _decode(write(video, tmp_path / pixel_format))
        errors[pixel_format] = np.abs(frames[0].astype(int) - picture(0, 32, 48)).mean()
    assert errors["yuv420p10le"] < errors["yuv420p"] < 12
