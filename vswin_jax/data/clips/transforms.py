"""Resizing and cropping of uint8 RGB frames, exactly as the reference does it.

Frames are [H, W, 3], boxes (left, top, width, height) in pixels. All resizing is OpenCV's bilinear
one without antialiasing, frame by frame. Source: reference facts, section 5.2.
"""

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[int, int, int, int]
_ATTEMPTS = 10


def resize(frame: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
    """`frame` at [height, width, 3]: in `out` if given, else the very same array if it fits."""
    if frame.shape[:2] != (height, width):
        return cv2.resize(frame, (width, height), out, interpolation=cv2.INTER_LINEAR)
    if out is None:
        return frame
    out[:] = frame
    return out


def resize_short_side(frame: np.ndarray, short: int) -> np.ndarray:
    """`frame` with its shorter side at `short` pixels and its shape kept; a half rounds up."""
    height, width = frame.shape[:2]
    factor = short / min(height, width)
    return resize(frame, int(height * factor + 0.5), int(width * factor + 0.5))


def crop(frames: np.ndarray, box: Box) -> np.ndarray:
    """The view [..., height, width, 3] of `frames` [..., H, W, 3] inside `box`."""
    left, top, width, height = box
    return frames[..., top : top + height, left : left + width, :]


def random_resized_crop_box(
    height: int,
    width: int,
    area: Sequence[float],
    aspect: Sequence[float],
    rng: np.random.Generator,
) -> Box:
    """A random box of an `area` share and a log-uniform `aspect` (width / height).

    Ten candidates are drawn at once and the first that fits is placed at random; when none fits,
    it is the largest square in the centre.
    """
    aspects = np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1]), _ATTEMPTS))
    areas = rng.uniform(area[0], area[1], _ATTEMPTS) * (height * width)
    widths = np.round(np.sqrt(areas * aspects)).astype(int).tolist()
    heights = np.round(np.sqrt(areas / aspects)).astype(int).tolist()
    for w, h in zip(widths, heights, strict=True):
        if w <= width and h <= height:
            left = int(rng.integers(width - w, endpoint=True))
            top = int(rng.integers(height - h, endpoint=True))
            return left, top, w, h
    return centre_box(height, width, min(height, width))


def centre_box(height: int, width: int, size: int) -> Box:
    """The square of `size` pixels in the centre."""
    return (width - size) // 2, (height - size) // 2, size, size


def three_boxes(height: int, width: int, size: int) -> list[Box]:
    """Three squares along the longer side: left or top, right or bottom, middle, in this order.

    The shorter side must be `size` already.
    """
    if min(height, width) != size:
        raise ValueError(f"three crops of {size} need a shorter side of {size}: {height}x{width}")
    step = (max(height, width) - size) // 2
    offsets = [(step * k, 0) if height == size else (0, step * k) for k in (0, 2, 1)]
    return [(left, top, size, size) for left, top in offsets]


def eval_crops(frames: np.ndarray, crops: int, size: int) -> list[np.ndarray]:
    """The spatial views of an evaluation: [T, H, W, 3] -> `crops` x [T, size, size, 3].

    1 is the centre, 3 are `three_boxes`, and 5 adds the whole frame squashed to a square and the
    centre to those three, which is what the 384 recipe of Swin-L tests with.
    """
    height, width = frames.shape[1:3]
    centre = crop(frames, centre_box(height, width, size))
    if crops == 1:
        return [centre]
    three = [crop(frames, box) for box in three_boxes(height, width, size)]
    if crops == 3:
        return three
    return [*three, np.stack([resize(frame, size, size) for frame in frames]), centre]
