"""Index of a video stream: the packet that holds each frame, found without decoding.

A file stores packets in decode order, by increasing dts (decoding time stamp). Frames are shown in
presentation order, by increasing pts (presentation time stamp). The orders differ where there are
B-frames: a B-frame refers to a frame that is shown after it and is stored before it. Time stamps
count units of the stream's time base.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from vswin_jax.data.decoding.b_frames import b_frame_detector
from vswin_jax.data.decoding.shown_frames import frame_counter
from vswin_jax.data.decoding.time_stamps import is_presentation_order
from vswin_jax.errors import InputError

# Packets of a stream up to this size stay in memory once indexed, which saves reading them again.
_MAX_CACHED_BYTES = 16 << 20


@dataclass(frozen=True)
class PacketIndex:
    """The P packets of a stream in decode order, and its N frames in presentation order.

    Attributes:
      pts: int64 [P], the presentation time stamp of every packet.
      dts: int64 [P], the decoding time stamp of every packet, or its pts where the file has none.
      sizes: int64 [P], the bytes of every packet.
      packet_of_frame: int64 [N], the packet that holds each frame.
      keyframe_of_frame: int64 [N], the key frame's packet from which to decode each frame.
      packets: all P packets, or none where the stream is too large to cache.
    """

    pts: np.ndarray
    dts: np.ndarray
    sizes: np.ndarray
    packet_of_frame: np.ndarray
    keyframe_of_frame: np.ndarray
    packets: tuple[av.Packet, ...] = ()

    @property
    def num_frames(self) -> int:
        """The number of frames that the stream shows."""
        return len(self.packet_of_frame)

    def stamps_and_sizes(self) -> list[tuple[int, int]]:
        """Return the pts and the size of every packet, which identify it."""
        return list(zip(self.pts.tolist(), self.sizes.tolist(), strict=True))

    def seek_targets(self, packet: int) -> list[int]:
        """Return the packets to whose dts to seek in order to read `packet`, the best one first."""
        earlier = self.keyframe_of_frame[self.keyframe_of_frame < packet]
        return [packet, *np.unique(earlier)[-1:].tolist()]


@dataclass
class _PacketTable:
    """The properties of a stream's packets as they are read, most of them one value a packet.

    Attributes:
      pts: None where the file has none.
      dts: None where the file has none.
      sizes: in bytes.
      is_keyframe: the container marks the packet as a key frame.
      is_discarded: an edit list cuts the packet off.
      shown_frames: the number of frames; None where only the decoder can count them.
      is_cut_short: the file ends before the last packet does.
      has_new_headers: headers that decoding needs change within the stream.
      has_b_frames: there may be B-frames.
    """

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    is_keyframe: list[bool] = field(default_factory=list)
    is_discarded: list[bool] = field(default_factory=list)
    shown_frames: list[int | None] = field(default_factory=list)
    is_cut_short: bool = False
    has_new_headers: bool = False
    has_b_frames: bool = False

    def add(self, packet: av.Packet, shown_frames: int | None) -> None:
        """Append a packet that shows so many frames."""
        is_keyframe = packet.is_keyframe
        if is_keyframe and self.pts and packet.has_sidedata("new_extradata"):
            self.has_new_headers = True
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.sizes.append(packet.size)
        self.is_keyframe.append(is_keyframe)
        self.is_discarded.append(packet.is_discard)
        self.shown_frames.append(shown_frames)
        # The demuxer marks a packet as corrupt when the file ends before the packet does.
        self.is_cut_short = packet.is_corrupt

    def index(self, packets: tuple[av.Packet, ...], reorder_depth: int) -> PacketIndex | None:
        """Return the index of the stream, or None if its frames have to be decoded."""
        if self.needs_decoding:
            return None
        pts, is_keyframe = np.array(self.pts, np.int64), np.array(self.is_keyframe)
        is_shown = (np.array(self.shown_frames) > 0) & ~np.array(self.is_discarded)
        known_dts = np.array([dts for dts in self.dts if dts is not None], np.int64)
        depth = reorder_depth if self.has_b_frames else 0
        if not is_presentation_order(pts, known_dts, is_keyframe, is_shown, reorder_depth=depth):
            return None
        dts = np.array([p if d is None else d for p, d in zip(self.pts, self.dts, strict=True)])
        order = _presentation_order(pts, is_keyframe, is_shown)
        return PacketIndex(pts, dts, np.array(self.sizes), *order, packets)

    @property
    def needs_decoding(self) -> bool:
        """True if only decoding finds the frames of the packets."""
        # Decoded frames are matched with packets by their pts, so it has to be unique.
        return (
            not self.pts
            or self.has_new_headers
            or None in self.pts
            or None in self.shown_frames
            or len(set(self.pts)) < len(self.pts)
        )


def index_packets(packets: Iterable[av.Packet], name: str) -> PacketIndex | None:
    """Index all packets of the stream of the video `name`, none of which is empty.

    Returns None if only decoding finds the frames or their order: there are no packets, no unique
    pts, no key frame to begin with, or signs that the pts are wrong.

    Raises:
      InputError: the file ends in the middle of a packet.
    """
    packets = iter(packets)
    first = next(packets, None)
    if first is None:
        return None
    decoder = first.stream.codec_context
    table, cached = _read(itertools.chain([first], packets), decoder)
    if table.is_cut_short:
        raise InputError(
            f"{name!r} is cut short after {len(table.pts) - 1} frames: copy or download the file "
            "again."
        )
    return table.index(cached, decoder.reorder_depth)


def _read(
    packets: Iterable[av.Packet], decoder: VideoCodecContext
) -> tuple[_PacketTable, tuple[av.Packet, ...]]:
    """Return a table of the packets, and the packets themselves if they are not too large."""
    table = _PacketTable()
    count_frames = frame_counter(decoder)
    # Most files have a B-frame among their first packets, or a codec that reorders none.
    is_b_frame = b_frame_detector(decoder) if decoder.reorder_depth else None
    cached: list[av.Packet] = []
    bytes_left = _MAX_CACHED_BYTES
    for packet in packets:
        table.add(packet, count_frames(packet) if count_frames else 1)
        if is_b_frame and not table.has_b_frames:
            table.has_b_frames = is_b_frame(bytes(packet))
        bytes_left -= packet.size
        if bytes_left >= 0:
            cached.append(packet)
    return table, tuple(cached) if bytes_left >= 0 else ()


def _presentation_order(
    pts: np.ndarray, is_keyframe: np.ndarray, is_shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the packet and the key frame's packet of each frame, int64 [N], sorted by pts.

    Packets that an edit list cuts off, or to which only other frames refer (`is_shown` is False),
    are decoded but never shown.
    """
    keyframes = np.flatnonzero(is_keyframe)
    keyframes = keyframes[np.argsort(pts[keyframes])]
    frames = np.flatnonzero(is_shown)
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
