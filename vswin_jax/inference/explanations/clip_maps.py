"""Scales maps of tokens to the frames of their clip, and measures their mass."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from vswin_jax.attention import Size


def token_extent(patch_size: Size, stage: int) -> Size:
    """Return the frames and pixels (time, height, width) that a token of a stage covers."""
    time, height, width = patch_size
    return time, height * 2**stage, width * 2**stage


def scale_to_clip(
    tokens: Float32[np.ndarray, "D H W"], extent: Size, size: Size, *, smooth: bool
) -> Float32[np.ndarray, "T height width"]:
    """Scale a map of tokens to the `size` of the clip.

    A token covers `extent`; the last ones may reach beyond the clip, which the model pads. With
    `smooth` the values are interpolated linearly between the centres of tokens.
    """
    method = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    _, height, width = (count * cells for count, cells in zip(tokens.shape, extent, strict=True))
    planes = np.stack([cv2.resize(p, (width, height), interpolation=method) for p in tokens])
    frames = _stretch(planes[:, : size[1], : size[2]], extent[0], size[0], smooth)
    return np.ascontiguousarray(frames, np.float32)


def _stretch(planes: np.ndarray, extent: int, num_frames: int, smooth: bool) -> np.ndarray:
    """Return a plane for each frame, of planes that each cover `extent` frames."""
    places = (np.arange(num_frames) + 0.5) / extent
    if not smooth:
        return planes[places.astype(int)]
    places = np.clip(places - 0.5, 0, len(planes) - 1)
    before = places.astype(int)
    after = np.minimum(before + 1, len(planes) - 1)
    share = (places - before)[:, None, None]
    return planes[before] * (1 - share) + planes[after] * share


def mass_inside(
    values: Float32[np.ndarray, "T height width"], mask: Bool[np.ndarray, "T height width"]
) -> float:
    """Return the share of the sum of a map that lies inside `mask`; NaN for a map of zeros."""
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else float("nan")
