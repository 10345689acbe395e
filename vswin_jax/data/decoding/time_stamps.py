"""Checks whether the time stamps of a file give the order in which its frames are shown.

Programs that copy a stream into another container often make up time stamps, and joined files
hold the time stamps of each part. A decoder orders frames by what the stream itself holds.
"""

import heapq
import math

import numpy as np


def is_presentation_order(
    pts: np.ndarray,
    dts: np.ndarray,
    is_keyframe: np.ndarray,
    is_shown: np.ndarray,
    *,
    reorder_depth: int,
) -> bool:
    """Return True if the frames of packets, in decode order, are shown in the order of `pts`.

    Args:
      pts: int64 [P], unique presentation time stamps.
      dts: int64 [at most P], the decoding time stamps of the packets that have one.
      is_keyframe: bool [P].
      is_shown: bool [P], False for packets that show no frame.
      reorder_depth: the number of frames that the decoder holds back to reorder them.
    """
    shown = pts[is_shown]
    # Frames that refer to no other have no reason to be stored in another order.
    depth = 0 if is_keyframe.all() else reorder_depth
    return (
        (depth == 0 or bool(np.any(np.diff(shown) < 0)))
        and _are_sorted_by_buffer(shown.tolist(), depth)
        and bool(np.all(np.diff(dts) >= 0))
        and bool(is_keyframe[0])
        and shown.min(initial=pts[0]) >= pts[0]
        and _keyframes_divide(pts, is_keyframe)
    )


def _are_sorted_by_buffer(pts: list[int], size: int) -> bool:
    """Return True if a buffer that holds back up to `size` frames can show them in order."""
    held: list[int] = []
    last = -math.inf
    for stamp in pts:
        if len(held) < size:
            heapq.heappush(held, stamp)
            continue
        first = heapq.heappushpop(held, stamp)
        if first < last:
            return False
        last = first
    return True


def _keyframes_divide(pts: np.ndarray, is_keyframe: np.ndarray) -> bool:
    """Return True if all that is stored before a key frame is also shown before it."""
    keyframes = np.flatnonzero(is_keyframe)[1:]
    return bool(np.all(np.maximum.accumulate(pts)[keyframes - 1] < pts[keyframes]))
