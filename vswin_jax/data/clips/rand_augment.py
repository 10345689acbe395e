"""RandAugment as the Something-Something recipe of Video Swin applies it: one draw per clip.

The recipe calls `RandAugment(n=4, m=7)` of imgaug 0.4.0, with one draw for all frames. A flip and a
crop always come first, then `n` of the 18 operations below in random order. The ranges are those of
imgaug, which differ from the paper's (Cubuk et al. 2020) in the enhancements, in the translations,
and in the tanh of the shears. Magnitudes m are from 0 to 30.

All frames share the random draws, but autocontrast and equalize use the histogram of each frame,
and contrast uses the mean of each frame, so colours may change within a clip. imgaug does the same,
since the recipe calls it frame by frame.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vswin_jax.errors import InputError

MAX_MAGNITUDE = 30
GREY = 128

Operation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
Enhancer = Callable[[Image.Image], Any]


def rand_augment(
    clip: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator, n: int = 4, m: int = 7
) -> tuple[UInt8[np.ndarray, "T H W 3"], bool]:
    """Flip at random, crop each side, apply `n` distinct random operations of magnitude `m`.

    Returns the clip and True if it was flipped. All frames get the same random draws.

    Raises:
      InputError: `n` or `m` is out of range.
    """
    if not (0 <= n <= len(OPERATIONS) and 0 <= m <= MAX_MAGNITUDE):
        raise InputError(
            f"RandAugment takes 0 to {len(OPERATIONS)} operations n and a magnitude m of 0 to "
            f"{MAX_MAGNITUDE}, but n={n} and m={m} came: change them."
        )
    flip = rng.random() < 0.5
    clip = crop_sides(np.ascontiguousarray(clip[:, :, ::-1]) if flip else clip, m, rng)
    for name in rng.permutation(list(OPERATIONS))[:n]:
        clip = OPERATIONS[name](clip, m, rng)
    return clip, flip


def crop_sides(
    clip: UInt8[np.ndarray, "T H W 3"], m: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Crop U(0, m)/224 of the length off each side, the same for all frames, and resize back."""
    height, width = clip.shape[1:3]
    lengths = np.array([height, width, height, width])
    top, right, bottom, left = np.rint(lengths * rng.uniform(0, m, 4) / 224).astype(int)
    cropped = clip[:, top : height - bottom, left : width - right]
    return np.stack([cv2.resize(f, (width, height)) for f in cropped])


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _per_frame(clip: np.ndarray, function: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(function(Image.fromarray(frame))) for frame in clip])


def _identity(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    return clip


def _autocontrast(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    return _per_frame(clip, ImageOps.autocontrast)


def _equalize(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    def lookup_table(channel: np.ndarray) -> np.ndarray:
        counts = np.bincount(channel.ravel(), minlength=256)
        # imgaug leaves out the value 255 here; Pillow leaves out the brightest value that occurs.
        step = counts[:-1].sum() // 255
        if step == 0 or np.count_nonzero(counts) == 1:
            return np.arange(256)
        return np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255)

    def equalize_frame(frame: np.ndarray) -> np.ndarray:
        tables = [lookup_table(frame[..., channel]) for channel in range(3)]
        return cv2.LUT(frame, np.stack(tables, axis=-1)[None].astype(np.uint8))

    return np.stack([equalize_frame(frame) for frame in clip])


def _invert(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    return 255 - clip


def _posterize(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Keep the highest bits: 8 at `m` = 0, 2 at `m` = 30."""
    dropped = int(m * 6 / MAX_MAGNITUDE)
    return clip & np.uint8(256 - 2**dropped)


def _solarize(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Invert the values that reach a threshold; it falls from 256 to 0 as `m` grows."""
    threshold = 256 - int(m * 256 / MAX_MAGNITUDE)
    return np.where(clip >= threshold, 255 - clip, clip)


def _enhance(enhancer: Enhancer, clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Enhance by a factor of 1 plus or minus up to 0.9."""
    factor = 1 + _sign(rng) * m * 0.9 / MAX_MAGNITUDE
    return _per_frame(clip, lambda frame: enhancer(frame).enhance(factor))


def _filter(
    kernel: type[ImageFilter.BuiltinFilter], clip: np.ndarray, m: int, rng: np.random.Generator
) -> np.ndarray:
    return _per_frame(clip, lambda frame: frame.filter(kernel))


def _affine(clip: np.ndarray, *inverse: float) -> np.ndarray:
    """Take pixel (x, y) from the nearest one to (a x + b y + c, d x + e y + f), or make it grey."""

    def warp(frame: Image.Image) -> Image.Image:
        affine = Image.Transform.AFFINE
        return frame.transform(frame.size, affine, inverse, fillcolor=(GREY, GREY, GREY))

    return _per_frame(clip, warp)


def _rotate(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Rotate by 0 to 30 degrees about the centre."""
    angle = np.deg2rad(_sign(rng) * m)
    cos, sin = np.cos(angle), np.sin(angle)
    y, x = np.array(clip.shape[1:3]) / 2
    return _affine(clip, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def _shear_x(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Shear horizontally by 0 to 0.3 radians; imgaug takes the hyperbolic tangent of the angle."""
    return _affine(clip, 1, -np.tanh(_sign(rng) * m * 0.3 / MAX_MAGNITUDE), 0, 0, 1, 0)


def _shear_y(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Shear vertically, otherwise as `_shear_x`."""
    return _affine(clip, 1, 0, 0, -np.tanh(_sign(rng) * m * 0.3 / MAX_MAGNITUDE), 1, 0)


def _translate_x(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Translate by 0 to 33 % of the width."""
    return _affine(clip, 1, 0, _sign(rng) * m * 0.33 / MAX_MAGNITUDE * clip.shape[2], 0, 1, 0)


def _translate_y(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Translate by 0 to 33 % of the height."""
    return _affine(clip, 1, 0, 0, 0, 1, _sign(rng) * m * 0.33 / MAX_MAGNITUDE * clip.shape[1])


def _cutout(clip: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Paint a grey square of 0 to 20/32 of the height.

    Its centre is uniform over the frame, so the square may extend beyond the edges.
    """
    height, width = clip.shape[1:3]
    half = m * (20 / 32) / MAX_MAGNITUDE * height / 2
    x, y = rng.uniform(0, 1, 2) * (width, height)
    left, top = max(int(x - half), 0), max(int(y - half), 0)
    clip = clip.copy()
    clip[:, top : int(y + half), left : int(x + half)] = GREY
    return clip


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": partial(_enhance, ImageEnhance.Color),
    "contrast": partial(_enhance, ImageEnhance.Contrast),
    "brightness": partial(_enhance, ImageEnhance.Brightness),
    "sharpness": partial(_enhance, ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "cutout": _cutout,
    "blur": partial(_filter, ImageFilter.BLUR),
    "smooth": partial(_filter, ImageFilter.SMOOTH),
}
