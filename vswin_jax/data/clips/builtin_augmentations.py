"""The registered augmentations that come with the package; see `clip_augmentations`."""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from vswin_jax.data.clips import rand_augment as randaug
from vswin_jax.data.clips.clip_augmentations import register_augmentation

# Weights of red, green and blue in the brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@register_augmentation("color_jitter")
@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and saturation by up to `strength`, and the hue by `hue`.

    The factors are uniform in 1 - strength to 1 + strength and the turn of the hue in -hue to hue,
    where 1 is the whole circle of colours. The order is that of the names.
    """

    strength: float = 0.4
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0 <= self.strength <= 1 and 0 <= self.hue <= 0.5):
            raise ValueError("strength is from 0 to 1 and hue from 0 to 0.5")

    def __call__(
        self, clip: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """Apply the same factors to all frames; the contrast is around each frame's mean."""
        factors = rng.uniform(1 - self.strength, 1 + self.strength, 3)
        turn = rng.uniform(-self.hue, self.hue)
        return np.stack([self._jitter(frame, factors, turn) for frame in clip])

    def _jitter(self, frame: np.ndarray, factors: np.ndarray, turn: float) -> np.ndarray:
        image = Image.fromarray(frame)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, factor in zip(enhancers, factors, strict=True):
            image = enhancer(image).enhance(factor)
        return _turn_hue(np.asarray(image), turn) if self.hue else np.asarray(image)


def _turn_hue(frame: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by a fraction of the circle; OpenCV's full range has 256 values of it."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


@register_augmentation("grayscale")
def grayscale(
    clip: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Replace the colours by their brightness."""
    grey = np.rint(clip.astype(np.float32) @ _LUMA).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


@register_augmentation("gaussian_blur")
def gaussian_blur(
    clip: UInt8[np.ndarray, "T H W 3"],
    rng: np.random.Generator,
    sigma: tuple[float, float] = (0.1, 2.0),
) -> UInt8[np.ndarray, "T H W 3"]:
    """Blur by a Gaussian whose standard deviation in pixels is uniform in `sigma`."""
    blur = partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=rng.uniform(*sigma))
    return np.stack([blur(frame) for frame in clip])


@register_augmentation("horizontal_flip")
def horizontal_flip(
    clip: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "T H W 3"], bool]:
    """Mirror the clip; with `p=0.5` as `config.data.flip`, at another place in the list."""
    return np.ascontiguousarray(clip[:, :, ::-1]), True


@register_augmentation("reverse_time")
def reverse_time(
    clip: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Play the clip backwards."""
    return clip[::-1].copy()


@register_augmentation("rand_augment")
def rand_augment(
    clip: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator, n: int = 4, m: int = 7
) -> tuple[UInt8[np.ndarray, "T H W 3"], bool]:
    """Apply RandAugment as `config.data.rand_augment`, at another place in the list."""
    return randaug.rand_augment(clip, rng, n=n, m=m)
