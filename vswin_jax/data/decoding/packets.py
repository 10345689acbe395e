"""Index of a video stream: the packet that holds each frame, found without decoding.

A file stores packets in decode order, by increasing dts (decoding time stamp). Frames are shown in
presentation order, by increasing pts (presentation time stamp). The orders differ where there are
B-frames: a B-frame refers to a frame that is shown after it and is stored before it. Time stamps
count units of the stream's time base.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np

from vswin_jax.errors import InputError

# Packets of a stream up to this size stay in memory once indexed, which saves reading them again.
_MAX_CACHED_BYTES = 16 << 20


@dataclass(frozen=True)
class PacketIndex:
    """The P packets of a stream in decode order, and its N frames in presentation order.

    Attributes:
      pts: int64 [P], the presentation time stamp of every packet.
      dts: int64 [P], the decoding time stamp of every packet, or its pts where the file has none.
      packet_of_frame: int64 [N], the packet that holds each frame.
      keyframe_of_frame: int64 [N], the key frame's packet from which to decode each frame.
      packets: all P packets, or none where the stream is too large to cache.
    """

    pts: np.ndarray
    dts: np.ndarray
    packet_of_frame: np.ndarray
    keyframe_of_frame: np.ndarray
    packets: tuple[av.Packet, ...] = ()

    @property
    def num_frames(self) -> int:
        """The number of frames that the stream shows."""
        return len(self.packet_of_frame)


def index_packets(packets: Iterable[av.Packet], name: str) -> PacketIndex | None:
    """Index all packets of the stream of the video `name`.

    Returns None if there are no packets, no key frame, or no unique pts to order the frames by.

    Raises:
      InputError: the file ends in the middle of a packet.
    """
    rows, cached = _read(packets)
    # The demuxer marks a packet as corrupt when the file ends before the packet does.
    if rows and rows[-1][-1]:
        raise InputError(
            f"{name!r} is cut short after {len(rows) - 1} frames: copy or download the file again."
        )
    if not rows or any(row[0] is None for row in rows):
        return None
    table = np.array(rows, np.int64)
    pts, dts, is_keyframe, is_discarded = table[:, 0], table[:, 1], table[:, 2] > 0, table[:, 3] > 0
    # Decoded frames are matched with packets by their pts, so it has to be unique.
    if len(np.unique(pts)) < len(pts) or not is_keyframe.any():
        return None
    return PacketIndex(pts, dts, *_presentation_order(pts, is_keyframe, ~is_discarded), cached)


def _read(packets: Iterable[av.Packet]) -> tuple[list[tuple], tuple[av.Packet, ...]]:
    """Return (pts, dts, is key frame, is discarded, is corrupt) of each packet, and the packets."""
    rows: list[tuple] = []
    cached: list[av.Packet] = []
    bytes_left = _MAX_CACHED_BYTES
    for packet in packets:
        # PyAV ends the stream with an empty packet, which only flushes the decoder.
        if not packet.size:
            continue
        dts = packet.pts if packet.dts is None else packet.dts
        rows.append((packet.pts, dts, packet.is_keyframe, packet.is_discard, packet.is_corrupt))
        bytes_left -= packet.size
        if bytes_left >= 0:
            cached.append(packet)
    return rows, tuple(cached) if bytes_left >= 0 else ()


def _presentation_order(
    pts: np.ndarray, is_keyframe: np.ndarray, is_shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the packet and the key frame's packet of each frame, int64 [N], sorted by pts.

    Packets that an edit list cuts off (`is_shown` is False) are decoded but never shown. Frames
    with a pts before the first key frame's refer to frames that the file lacks, so no decoder can
    show them, and they are not counted.
    """
    keyframes = np.flatnonzero(is_keyframe)
    keyframes = keyframes[np.argsort(pts[keyframes])]
    frames = np.flatnonzero(is_shown & (pts >= pts[keyframes[0]]))
    packet_of_frame = frames[np.argsort(pts[frames])]
    # Decoding has to start at the last key frame in presentation order, not in decode order: in an
    # open GOP, B-frames that are stored after a key frame but shown before it refer to the group
    # of pictures before that key frame.
    place = np.searchsorted(pts[keyframes], pts[packet_of_frame], side="right") - 1
    return packet_of_frame, keyframes[place]


def packet_ranges(index: PacketIndex, frames: np.ndarray) -> list[tuple[int, int]]:
    """Return the ranges (first, last) of packets to decode in order to show the sorted `frames`.

    Each range begins at a key frame, and the packets between two ranges can be skipped. Ranges that
    touch or overlap are merged, so that no packet is decoded twice.
    """
    ranges: list[tuple[int, int]] = []
    for frame in frames.tolist():
        first, last = int(index.keyframe_of_frame[frame]), int(index.packet_of_frame[frame])
        if ranges and first <= ranges[-1][1] + 1:
            # A B-frame's packet comes after that of the later frame to which it refers.
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges
