"""A video stream's table of contents: which packet holds which frame, without decoding any."""

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np

from vswin_jax.errors import InputError

# Packets of a file up to this size are kept when they are counted, and not read a second time.
_HELD_BYTES = 16 << 20


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a stream in decode order, and its frames in the order they are shown.

    pts, dts: int64 [P], the time stamps of every packet; dts is pts where the file has none.
    order: int64 [N], the packet that holds frame i.
    start: int64 [N], the keyframe's packet from which frame i can be decoded.
    packets: all P of them, or none where the file is too large to be held in memory.
    """

    pts: np.ndarray
    dts: np.ndarray
    order: np.ndarray
    start: np.ndarray
    packets: tuple[av.Packet, ...] = ()

    @property
    def num_frames(self) -> int:
        """How many frames the stream shows."""
        return len(self.order)


def index_packets(packets: Iterable[av.Packet], name: str) -> PacketIndex | None:
    """The index of all packets of the stream of video `name`.

    None when there are no packets or their time stamps do not order the frames. Packets that an
    edit list cuts off are decoded but never shown. Frames that are shown before the first keyframe
    cannot be decoded by anyone and are not counted.

    Raises:
        InputError: the file ends in the middle of a packet.
    """
    rows, held = _read(packets)
    if rows and rows[-1][-1]:
        raise InputError(
            f"{name!r} is cut short after {len(rows) - 1} frames: copy or download the file again."
        )
    if not rows or any(row[0] is None for row in rows):
        return None
    table = np.array(rows, np.int64)
    pts, dts, keyframe, hidden = table[:, 0], table[:, 1], table[:, 2] > 0, table[:, 3] > 0
    if len(np.unique(pts)) < len(pts) or not keyframe.any():
        return None
    return PacketIndex(pts, dts, *_display_order(pts, keyframe, ~hidden), held)


def _read(packets: Iterable[av.Packet]) -> tuple[list[tuple], tuple[av.Packet, ...]]:
    """(pts, dts, is keyframe, is hidden, is corrupt) of every packet, and the packets."""
    rows: list[tuple] = []
    held: list[av.Packet] = []
    room = _HELD_BYTES
    for p in packets:
        if not p.size:
            continue
        dts = p.pts if p.dts is None else p.dts
        rows.append((p.pts, dts, p.is_keyframe, p.is_discard, p.is_corrupt))
        room -= p.size
        if room >= 0:
            held.append(p)
    return rows, tuple(held) if room >= 0 else ()


def _display_order(
    pts: np.ndarray, keyframe: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    keys = np.flatnonzero(keyframe)
    keys = keys[np.argsort(pts[keys])]
    frames = np.flatnonzero(shown & (pts >= pts[keys[0]]))
    order = frames[np.argsort(pts[frames])]
    # The keyframe must be shown at or before the frame: frames that follow a keyframe in the file
    # but are shown before it (an open GOP) lean on the group before.
    start = keys[np.searchsorted(pts[keys], pts[order], side="right") - 1]
    return order, start


def decode_runs(index: PacketIndex, wanted: np.ndarray) -> list[tuple[int, int]]:
    """The stretches (first, last) of packets that must be decoded to show the frames `wanted`.

    `wanted` is sorted; each stretch begins at a keyframe, and packets between them can be skipped.
    """
    runs: list[tuple[int, int]] = []
    for frame in wanted.tolist():
        first, last = int(index.start[frame]), int(index.order[frame])
        if runs and first <= runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
        else:
            runs.append((first, last))
    return runs
