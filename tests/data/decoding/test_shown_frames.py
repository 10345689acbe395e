import av
import pytest
from coded_pictures import VIDEOS

from vswin_jax.data.decoding.shown_frames import frame_counter


def _count(codec: str, *packets: bytes) -> list[int | None]:
    count_frames = frame_counter(av.CodecContext.create(codec, "r"))
    assert count_frames
    return [count_frames(av.Packet(packet)) for packet in packets]


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2video", "mjpeg"])
def test_packets_of_other_codecs_need_no_look(codec: str) -> None:
    assert frame_counter(av.CodecContext.create(codec, "r")) is None


def test_show_frame_of_vp8() -> None:
    assert _count("vp8", b"\x10\x02\x00\x9d", b"\x00\x02\x00", b"\x31\x04\x00") == [1, 0, 1]


def test_packets_of_a_vp8_file() -> None:
    with av.open(str(VIDEOS / "vp8_vpxenc.webm")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    counts = _count("vp8", *packets)
    assert len(counts) == 106
    assert sum(counts) == 100


# 2 bits 10, 2 of the profile, show_existing_frame, frame_type, show_frame, error_resilient_mode.
SHOWN, HIDDEN, EXISTING = b"\x86....", b"\x84....", b"\x88"
SHOWN_PROFILE_3, HIDDEN_PROFILE_3 = b"\xb1....", b"\xb2...."


def _superframe(*frames: bytes) -> bytes:
    """Join frames as annex B of the VP9 specification has it, with sizes of two bytes."""
    marker = bytes([0b110_01_000 + len(frames) - 1])
    sizes = b"".join(len(frame).to_bytes(2, "little") for frame in frames)
    return b"".join(frames) + marker + sizes + marker


def test_frames_of_vp9() -> None:
    single = (SHOWN, HIDDEN, EXISTING, SHOWN_PROFILE_3, HIDDEN_PROFILE_3)
    assert _count("vp9", *single) == [1, 0, 1, 1, 0]
    assert _count("vp9", _superframe(HIDDEN, SHOWN), _superframe(HIDDEN, HIDDEN)) == [1, 0]
    # Layers of one picture, of which the decoder chooses.
    assert _count("vp9", _superframe(SHOWN, SHOWN)) == [None]


def test_damaged_superframes_of_vp9_are_read_within_their_bytes() -> None:
    whole = _superframe(HIDDEN, SHOWN)
    # Without the last byte there is no index of frames; the first frame counts.
    assert _count("vp9", whole[:-1]) == [0]
    too_large = whole[:-5] + b"\xff\xff\xff\xff" + whole[-1:]
    assert all(count in (0, 1, None) for count in _count("vp9", too_large, whole[-6:], whole[-1:]))


def _obu(kind: int, content: bytes, *, has_size: bool = True) -> bytes:
    size = bytes([len(content)]) if has_size else b""
    return bytes([kind << 3 | has_size << 1]) + size + content


DELIMITER, METADATA, FRAME_HEADER, FRAME = 2, 5, 3, 6
AV1_SHOWN, AV1_HIDDEN, AV1_EXISTING = b"\x30....", b"\x20....", b"\x80"


def test_frames_of_av1() -> None:
    packets = {
        _obu(DELIMITER, b"") + _obu(FRAME, AV1_SHOWN): 1,
        _obu(FRAME, AV1_HIDDEN) + _obu(FRAME, AV1_SHOWN, has_size=False): 1,
        _obu(METADATA, b"\xff" * 100) + _obu(FRAME, AV1_HIDDEN): 0,
        _obu(FRAME_HEADER, AV1_EXISTING): 1,
        _obu(FRAME, AV1_SHOWN) + _obu(FRAME, AV1_SHOWN): 1,
        # Cut off within a header, and within a size.
        _obu(FRAME, AV1_HIDDEN) + bytes([FRAME << 3 | 2]): 0,
        bytes([FRAME << 3 | 6]): 0,
        b"\x32\xff\xff": 0,
    }
    assert _count("av1", *packets) == list(packets.values())


def test_frames_of_mpeg4() -> None:
    frame = b"\x00\x00\x01\xb6" + b"\x55" * 30
    assert _count("mpeg4", frame, frame + frame, frame[:7]) == [1, None, None]


def test_packets_of_a_packed_bitstream() -> None:
    with av.open(str(VIDEOS / "xvid_packed.mp4")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert None in _count("mpeg4", *packets)


def test_packets_of_dirac_are_decoded_to_count_them() -> None:
    assert _count("dirac", b"BBCD\x08") == [None]
