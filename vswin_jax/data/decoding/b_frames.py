"""Detects B-frames from the headers of packets.

A codec that may reorder frames need not do so: without B-frames, all are stored in the order in
which they are shown.
"""

from collections.abc import Callable

from av.video.codeccontext import VideoCodecContext

from vswin_jax.data.decoding.h264_headers import slice_type_reader


def b_frame_detector(decoder: VideoCodecContext) -> Callable[[bytes], bool]:
    """Return a function that returns False for packets that certainly hold no B-frame."""
    codec = decoder.codec.canonical_name
    if codec == "h264":
        slice_type = slice_type_reader(decoder.extradata)
        return lambda packet: slice_type(packet) in (None, "B")
    return {
        "mpeg1video": _is_b_frame_mpeg2,
        "mpeg2video": _is_b_frame_mpeg2,
        "mpeg4": _is_b_frame_mpeg4,
    }.get(codec, lambda _: True)


def _is_b_frame_mpeg2(packet: bytes) -> bool:
    # ISO/IEC 13818-2, section 6.2.3: a start code, ten bits of temporal_reference, three of
    # picture_coding_type, of which 3 is B.
    header = packet.partition(b"\x00\x00\x01\x00")[2][:2]
    return len(header) < 2 or header[1] >> 3 & 7 == 3


def _is_b_frame_mpeg4(packet: bytes) -> bool:
    # ISO/IEC 14496-2, section 6.2.5: a start code, two bits of vop_coding_type, of which 2 is B.
    header = packet.partition(b"\x00\x00\x01\xb6")[2][:1]
    return not header or header[0] >> 6 == 2
