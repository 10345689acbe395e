"""Test views against an independent implementation of the reference's pipeline.

It follows the reference's test configs: decode every frame of the file, resize each with the
bilinear formula in floating point, crop, and select the clips last. The pipeline of vswin_jax
decodes a few frames and resizes in OpenCV's fixed point, which rounds some values differently: by
0.13 grey levels on average for every video and recipe here.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example
from vswin_jax.data.clips.clips import test_views as views_of

WriteVideo = Callable[..., Path]
EveryFrame = Callable[[Path], np.ndarray]

LIMIT = 0.2  # grey levels, the mean of a view


@dataclass(frozen=True)
class Recipe:
    """One of the reference's pipelines, and the `ClipSpec` of the same views."""

    spec: ClipSpec
    render: Callable[[np.ndarray], np.ndarray]


def kinetics_test(frames: np.ndarray) -> np.ndarray:
    """Apply SampleFrames(32, 2, num_clips=4, test_mode), Resize(-1, 224), ThreeCrop(224)."""
    clips = dense_clips(len(frames), num_clips=4)
    return crop_major(three_crops(resized(frames, 224), 224), clips)


def kinetics_validation(frames: np.ndarray) -> np.ndarray:
    """Apply SampleFrames(32, 2, num_clips=1, test_mode), Resize(-1, 256), CenterCrop(224)."""
    clips = dense_clips(len(frames), num_clips=1)
    return crop_major([centre_crop(resized(frames, 256), 224)], clips)


def ssv2_test(frames: np.ndarray) -> np.ndarray:
    """Apply SampleFrames(32, frame_uniform, test_mode), Resize(-1, 224), ThreeCrop(224)."""
    return crop_major(three_crops(resized(frames, 224), 224), [uniform_clip(len(frames))])


RECIPES = {
    "kinetics_test": Recipe(ClipSpec(num_clips=4, num_crops=3), kinetics_test),
    "kinetics_validation": Recipe(
        ClipSpec(num_clips=1, num_crops=1, eval_resize=256), kinetics_validation
    ),
    "ssv2_test": Recipe(ClipSpec(sampling="uniform", num_clips=1, num_crops=3), ssv2_test),
}


def dense_clips(total: int, num_clips: int) -> list[list[int]]:
    """Return clips of 32 frames, two apart; a clip beyond the end starts again (`loop`)."""
    length, interval = 32, 2
    between = (total - length * interval + 1) / num_clips
    clips = []
    for clip in range(num_clips):
        start = int(clip * between + between / 2) if total >= length * interval else 0
        clips.append([(start + interval * k) % total for k in range(length)])
    return clips


def uniform_clip(total: int) -> list[int]:
    """Return the middle of each of 32 segments; Python, like NumPy, rounds halves to even."""
    segment = (total - 1) / 32
    return [(round(segment * k) + round(segment * (k + 1))) // 2 for k in range(32)]


def resized(frames: np.ndarray, short: int) -> np.ndarray:
    """Resize frames [N, H, W, 3] to a short side of `short`, with sizes int(x * factor + 0.5)."""
    height, width = frames.shape[1:3]
    factor = short / min(height, width)
    new_height, new_width = int(height * factor + 0.5), int(width * factor + 0.5)
    return np.stack([bilinear(frame, new_height, new_width) for frame in frames])


def bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with half-pixel centres, repeated edges and no antialiasing; round to uint8."""
    top, bottom, down = neighbours(frame.shape[0], height)
    left, right, along = neighbours(frame.shape[1], width)
    image = frame.astype(np.float32)
    rows = image[top] + (image[bottom] - image[top]) * down[:, None, None]
    columns = rows[:, left] + (rows[:, right] - rows[:, left]) * along[:, None]
    return np.rint(columns).astype(np.uint8)


def neighbours(size: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    position = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    low = np.floor(position).astype(int)
    return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)


def centre_crop(frames: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in frames.shape[1:3])
    return frames[:, top : top + size, left : left + size]


def three_crops(frames: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the left (or top), right (bottom) and middle crop."""
    height, width = frames.shape[1:3]
    step = (max(height, width) - size) // 2
    if height == size:
        return [frames[:, :, x : x + size] for x in (0, 2 * step, step)]
    return [frames[:, y : y + size] for y in (0, 2 * step, step)]


def crop_major(crops: list[np.ndarray], clips: list[list[int]]) -> np.ndarray:
    """Return views [crops * clips, 32, size, size, 3]: all clips of the first crop come first."""
    return np.stack([crop[clip] for crop in crops for clip in clips])


def assert_same_views(path: Path, frames: np.ndarray, recipe: Recipe) -> None:
    actual = views_of(Example(str(path), 0, 0, path.name), recipe.spec)
    expected = recipe.render(frames)
    assert actual.shape == expected.shape
    # View by view: views in another order would differ by far more than rounding does.
    for number, (view, other) in enumerate(zip(actual, expected, strict=True)):
        difference = np.abs(view.astype(np.int16) - other).mean()
        assert difference < LIMIT, f"view {number}: {difference:.3f} grey levels"


# (frames, height, width): longer than a clip, as long, shorter, and a single frame.
GENERATED = {
    "landscape": (80, 240, 320),
    "portrait": (65, 320, 180),
    # H.264 in 4:2:0 needs even sides; the resized frames have odd ones.
    "odd when resized": (64, 226, 402),
    "smaller than a view": (40, 90, 122),
    "square": (1, 256, 256),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", GENERATED)
def test_generated_clips(kind: str, write_video: WriteVideo, every_frame: EveryFrame) -> None:
    path = write_video("clip.mp4", *GENERATED[kind], g="12", bf="2")
    frames = every_frame(path)
    for recipe in RECIPES.values():
        assert_same_views(path, frames, recipe)


def real_videos() -> list[Path]:
    default = Path(__file__).parents[4] / "shared" / "videos"
    folder = Path(os.environ.get("VSWIN_TEST_VIDEOS", default))
    return sorted(path for path in folder.glob("*") if path.is_file())


@pytest.mark.long
@pytest.mark.skipif(not real_videos(), reason="no real clips in VSWIN_TEST_VIDEOS")
@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.name)
def test_real_clips(path: Path, every_frame: EveryFrame) -> None:
    frames = every_frame(path)
    for recipe in RECIPES.values():
        assert_same_views(path, frames, recipe)
