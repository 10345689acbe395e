"""Counts the frames that a packet shows, from a few bits of its headers.

Most packets show one frame. Encoders of VP8, VP9 and AV1 also store frames that are never shown and
to which others refer, in packets of their own in some files. H.264 packets may hold half of a
frame, and MPEG-4 packets of some encoders two frames or none.
"""

from collections.abc import Callable, Iterator

import av
from av.video.codeccontext import VideoCodecContext

from vswin_jax.data.decoding.h264_headers import field_detector

# The size up to which an MPEG-4 packet may be a placeholder, as in FFmpeg's mpeg4_unpack_bframes.
_MAX_PLACEHOLDER = 19
_MPEG4_FRAME_START = b"\x00\x00\x01\xb6"
_AV1_FRAMES = (3, 6)  # OBU_FRAME_HEADER, OBU_FRAME

Counter = Callable[[av.Packet], int | None]


def frame_counter(decoder: VideoCodecContext) -> Counter | None:
    """Return the function that counts the frames of a packet; None if each packet shows one frame.

    It returns None for a packet whose frames only the decoder can count.
    """
    codec = decoder.codec.canonical_name
    if codec == "h264":
        return _h264_counter(decoder.extradata)
    return _COUNTERS.get(codec)


def _h264_counter(extradata: bytes | None) -> Counter | None:
    is_field = field_detector(extradata)
    return is_field and (lambda packet: None if is_field(bytes(packet)) else 1)


def _count_vp8(packet: av.Packet) -> int:
    # RFC 6386, section 9.1: bit 4 of the frame tag is show_frame.
    return memoryview(packet)[0] >> 4 & 1


def _count_vp9(packet: av.Packet) -> int | None:
    shown = sum(map(_is_shown_vp9, _vp9_headers(bytes(packet))))
    return shown if shown < 2 else None


def _vp9_headers(data: bytes) -> Iterator[int]:
    """Yield the first byte of each frame: several are stored as one packet, a superframe.

    VP9 bitstream specification, annex B: the sizes of the frames are stored at the end of the
    packet, between two copies of a marker byte.
    """
    marker = data[-1]
    count, bytes_per_size = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index_size = 2 + count * bytes_per_size
    if marker & 0xE0 != 0xC0 or len(data) < index_size or data[-index_size] != marker:
        yield data[0]
        return
    start = 0
    for k in range(count):
        at = len(data) - index_size + 1 + k * bytes_per_size
        size = int.from_bytes(data[at : at + bytes_per_size], "little")
        yield data[start]
        start = min(start + size, len(data) - 1)


def _is_shown_vp9(header: int) -> bool:
    # VP9 bitstream specification, section 6.2: two bits that mark a frame, two bits of the profile
    # (and a reserved bit in profile 3), show_existing_frame, frame_type, show_frame.
    if header >> 4 & 3 == 3:
        header <<= 1
    return bool(header & 0b1010)


def _count_av1(packet: av.Packet) -> int:
    # Of layers of one picture, the decoder shows only the largest.
    return int(packet.is_keyframe or any(map(_is_shown_av1, _av1_headers(bytes(packet)))))


def _av1_headers(data: bytes) -> Iterator[int]:
    """Yield the first byte of each frame's header.

    AV1 bitstream specification, section 5.3: the header of a unit (OBU) has a bit of zero, four of
    its type, two for an extension and for a size, and a reserved one.
    """
    start = 0
    while start < len(data):
        header = data[start]
        start += 1 + (header >> 2 & 1)
        size = len(data)
        if header >> 1 & 1:
            size, start = _leb128(data, start)
        if header >> 3 & 15 in _AV1_FRAMES and start < len(data):
            yield data[start]
        start += size


def _leb128(data: bytes, start: int) -> tuple[int, int]:
    """Return the number at `start`, seven bits a byte, the lowest first, and where it ends."""
    last = start
    while last < start + 7 and data[last : last + 1] > b"\x7f":
        last += 1
    number = data[start : last + 1]
    return sum((byte & 127) << 7 * place for place, byte in enumerate(number)), last + 1


def _is_shown_av1(header: int) -> bool:
    # Section 5.9.2: show_existing_frame, two bits of the type, show_frame.
    return bool(header & 0b10010000)


def _count_mpeg4(packet: av.Packet) -> int | None:
    # In a packed bitstream, a packet holds a frame and the B-frame that follows it, and a small
    # packet without any frame takes the place of the B-frame.
    is_single = bytes(packet).count(_MPEG4_FRAME_START) == 1
    return 1 if is_single and packet.size > _MAX_PLACEHOLDER else None


_COUNTERS: dict[str, Counter] = {
    "vp8": _count_vp8,
    "vp9": _count_vp9,
    "av1": _count_av1,
    "mpeg4": _count_mpeg4,
    # FFmpeg's decoder shows other frames when it starts at a later key frame.
    "dirac": lambda _: None,
}
