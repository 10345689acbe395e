"""Streams of fields are written by hand, since the encoders in PyAV always store whole frames."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
import pytest
from coded_pictures import indices_shown, picture, read_index, write_pictures

from vswin_jax.data.decoding.h264_headers import field_detector
from vswin_jax.data.decoding.video_file import VideoFile

WIDTH, HEIGHT = 96, 64
_START, _DELIMITER = b"\0\0\0\1", b"\0\0\0\1\x09\xf0"


class _Writer:
    """Writes the syntax elements of the H.264 specification as bits."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def u(self, count: int, value: int) -> Self:
        self._bits += [value >> shift & 1 for shift in reversed(range(count))]
        return self

    def ue(self, *values: int) -> Self:
        for value in values:
            length = (value + 1).bit_length()
            self.u(2 * length - 1, value + 1)
        return self

    def pad(self) -> Self:
        return self.u(-len(self._bits) % 8, 0)

    def samples(self, values: np.ndarray) -> Self:
        self._bits += np.unpackbits(np.ascontiguousarray(values)).tolist()
        return self

    def unit(self, header: int) -> bytes:
        """Return a unit with its start code; the samples have no zeros that form another one."""
        payload = np.packbits(self.u(1, 1).pad()._bits).tobytes()
        return _START + bytes([header]) + payload.replace(b"\0\0\1", b"\0\0\3\1")


def _parameters(*, frames_only: bool = False) -> bytes:
    sequence = _Writer().u(8, 77).u(8, 0).u(8, 30)
    # Identifier, frame_num of 8 bits, order of output by frame_num, one reference frame.
    sequence.ue(0, 4, 2, 1).u(1, 0)
    sequence.ue(WIDTH // 16 - 1, HEIGHT // (16 if frames_only else 32) - 1).u(1, frames_only)
    sequence.u(1, 0) if not frames_only else None
    sequence.u(3, 0b100)
    picture_parameters = _Writer().ue(0, 0).u(2, 0).ue(0, 0, 0).u(3, 0).ue(0, 0, 0).u(3, 0)
    return sequence.unit(0x67) + picture_parameters.unit(0x68)


def _slice(frame_num: int, slice_type: int, parity: int | None, *, is_idr: bool) -> _Writer:
    """Write a slice's header; `parity` is None for a frame, 0 for its even lines, 1 for odd."""
    writer = _Writer().ue(0, slice_type, 0).u(8, frame_num)
    writer.u(1, 0) if parity is None else writer.u(1, 1).u(1, parity)
    if is_idr:
        writer.ue(0)
    if slice_type == 0:
        writer.u(2, 0)
    return writer.u(2 if is_idr else 1, 0).ue(0)


def _intra(planes: list[np.ndarray], frame_num: int, parity: int | None, *, is_idr: bool) -> bytes:
    """Store macroblocks as their samples, I_PCM."""
    writer = _slice(frame_num, 7, parity, is_idr=is_idr)
    luma, *chroma = planes
    for y, x in itertools.product(range(0, luma.shape[0], 16), range(0, WIDTH, 16)):
        writer.ue(25).pad().samples(luma[y : y + 16, x : x + 16])
        for plane in chroma:
            writer.samples(plane[y // 2 : y // 2 + 8, x // 2 : x // 2 + 8])
    return writer.unit(0x65 if is_idr else 0x61)


def _skipped(frame_num: int) -> bytes:
    """Copy the other field of the frame."""
    macroblocks = WIDTH * HEIGHT // 2 // 256
    return _slice(frame_num, 0, 1, is_idr=False).ue(macroblocks).unit(0x41)


def _planes(index: int) -> list[np.ndarray]:
    frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24").reformat(format="yuv420p")
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    ]


def _pictures(kinds: str) -> Iterator[list[bytes]]:
    """Yield the units of each frame: a pair of fields 'f', one that is copied 'c', a frame 'F'."""
    for index, kind in enumerate(kinds):
        is_idr, frame_num = index % 4 == 0, index % 4
        planes = _planes(index)
        even, odd = ([plane[parity::2] for plane in planes] for parity in (0, 1))
        if kind == "F":
            units = [_intra(planes, frame_num, None, is_idr=is_idr)]
        elif kind == "f":
            units = [
                _intra(even, frame_num, 0, is_idr=is_idr),
                _intra(odd, frame_num, 1, is_idr=False),
            ]
        else:
            units = [_intra(even, frame_num, 0, is_idr=is_idr), _skipped(frame_num)]
        units[0] = (_parameters() if is_idr else b"") + units[0]
        yield [_DELIMITER + unit for unit in units]


def _write(path: Path, kinds: str, *, is_paired: bool = False) -> Path:
    """Store each field as a packet, or both in one if `is_paired`."""
    raw = path.with_suffix(".h264")
    packets = [b"".join(units) if is_paired else units for units in _pictures(kinds)]
    packets = packets if is_paired else list(itertools.chain.from_iterable(packets))
    raw.write_bytes(b"".join(packets))
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for position, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = position
            packet.is_keyframe = b"\x65" in content[:40]
            new.mux(packet)
    return path


@pytest.mark.parametrize("kinds", ["ffffffff", "cccccccc", "fFcfFFcf"])
@pytest.mark.parametrize("container", ["ts", "mp4", "mkv"])
def test_frames_of_which_each_field_is_a_packet(container: str, kinds: str, tmp_path: Path) -> None:
    path = _write(tmp_path / f"fields.{container}", kinds)
    assert indices_shown(path) == list(range(8))
    with VideoFile(path) as video:
        assert video.num_frames == 8
        assert [read_index(frame) for frame in video.decode(range(8))] == list(range(8))
        assert read_index(video.decode([5])[0]) == 5


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_frames_of_which_both_fields_are_one_packet(container: str, tmp_path: Path) -> None:
    path = _write(tmp_path / f"fields.{container}", "fcfcfcfc", is_paired=True)
    shown = indices_shown(path)
    with VideoFile(path) as video:
        # The packets tell the frames: there is no need to decode them all.
        assert video._index is not None
        assert [read_index(frame) for frame in video.decode(range(len(shown)))] == shown


def _detect(path: Path) -> list[bool] | None:
    with av.open(str(path)) as container:
        is_field = field_detector(container.streams.video[0].codec_context.extradata)
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        return is_field and [is_field(packet) for packet in packets]


def test_fields_are_told_from_frames(tmp_path: Path) -> None:
    assert _detect(_write(tmp_path / "mixed.mkv", "fFcF")) == [True, True, False] * 2
    interlaced = write_pictures(tmp_path / "interlaced.ts", range(4), flags="+ildct+ilme")
    assert _detect(interlaced) == [False] * 4


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_streams_of_frames_need_no_look(pixel_format: str, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        # The high profiles of the last two have more parameters, and matrices among them.
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "cqm=jvt"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        frame = av.VideoFrame.from_ndarray(picture(3), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    assert _detect(path) is None


@pytest.mark.parametrize(
    "extradata", [None, b"", b"\x01", b"\x01\x4d\x00\x1e\xff\xe1\x00\x05", _START]
)
def test_headers_that_are_missing_or_cut(extradata: bytes | None) -> None:
    assert field_detector(extradata) is None


def test_damaged_headers_raise_no_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = _write(tmp_path / "fields.mkv", "ff")
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata
        packets = [bytes(packet)[:100] for packet in container.demux(video=0) if packet.size]
    for _ in range(300):
        damaged = bytearray(extradata)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        is_field = field_detector(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
        if is_field:
            for packet in packets:
                is_field(packet[: rng.integers(len(packet))])
