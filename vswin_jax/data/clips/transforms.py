"""Resizing and cropping of uint8 RGB frames, exactly as the reference does it.

Source: `Resize`, `RandomResizedCrop`, `CenterCrop` and `ThreeCrop` of the reference's
`mmaction/datasets/pipelines/augmentations.py`, which call mmcv's `imresize`.

Boxes are (left, top, width, height) in pixels. All resizing is OpenCV's bilinear interpolation
without antialiasing, frame by frame.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

Box = tuple[int, int, int, int]
_ATTEMPTS = 10


def resize(
    frame: UInt8[np.ndarray, "H W 3"],
    height: int,
    width: int,
    out: UInt8[np.ndarray, "height width 3"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize a frame, into `out` if given; otherwise a frame of that size is returned as it is."""
    if frame.shape[:2] != (height, width):
        return cv2.resize(frame, (width, height), out, interpolation=cv2.INTER_LINEAR)
    if out is None:
        return frame
    out[:] = frame
    return out


def resize_short_side(
    frame: UInt8[np.ndarray, "H W 3"], short: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize a frame to a shorter side of `short` pixels, keeping its shape; halves round up."""
    return resize(frame, *short_side_size(*frame.shape[:2], short))


def short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Return the height and width of a frame after `resize_short_side`."""
    factor = short / min(height, width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def crop(
    frames: UInt8[np.ndarray, "*batch H W 3"], box: Box
) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Return the view of `frames` inside `box`."""
    left, top, width, height = box
    return frames[..., top : top + height, left : left + width, :]


def random_resized_crop_box(
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    rng: np.random.Generator,
) -> Box:
    """Sample a box with a uniform share of the area and a log-uniform width / height.

    `scale` and `ratio` are the ranges of the two. Ten boxes are sampled at once, and the first that
    fits gets a random position. If none fits, the box is the largest square in the centre.
    """
    ratios = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), _ATTEMPTS))
    areas = rng.uniform(scale[0], scale[1], _ATTEMPTS) * (height * width)
    widths = np.round(np.sqrt(areas * ratios)).astype(int).tolist()
    heights = np.round(np.sqrt(areas / ratios)).astype(int).tolist()
    for w, h in zip(widths, heights, strict=True):
        if w <= width and h <= height:
            left = int(rng.integers(width - w, endpoint=True))
            top = int(rng.integers(height - h, endpoint=True))
            return left, top, w, h
    return centre_box(height, width, min(height, width))


def centre_box(height: int, width: int, size: int) -> Box:
    """Return the square of `size` pixels in the centre."""
    return (width - size) // 2, (height - size) // 2, size, size


def three_boxes(height: int, width: int, size: int) -> list[Box]:
    """Return three squares along the longer side: left or top, right or bottom, middle.

    The shorter side must be `size` already.
    """
    if min(height, width) != size:
        raise ValueError(f"three crops of {size} need a shorter side of {size}: {height}x{width}")
    step = (max(height, width) - size) // 2
    offsets = [(step * k, 0) if height == size else (0, step * k) for k in (0, 2, 1)]
    return [(left, top, size, size) for left, top in offsets]


def eval_crops(
    frames: UInt8[np.ndarray, "T H W 3"], num_crops: int, size: int
) -> list[UInt8[np.ndarray, "T size size 3"]]:
    """Return the 1, 3 or 5 spatial views of an evaluation.

    1 is the centre, 3 are `three_boxes`. 5 adds to these the whole frame, resized to a square
    without keeping its shape, and the centre, as the 384 recipe of Swin-L does.
    """
    height, width = frames.shape[1:3]
    centre = crop(frames, centre_box(height, width, size))
    if num_crops == 1:
        return [centre]
    three = [crop(frames, box) for box in three_boxes(height, width, size)]
    if num_crops == 3:
        return three
    return [*three, np.stack([resize(frame, size, size) for frame in frames]), centre]
