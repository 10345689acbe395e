import math

import numpy as np
import pytest

from vswin_jax.data.clips import transforms
from vswin_jax.data.pipeline.sampler import example_rng


def _bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with half-pixel centres, repeated edges and no antialiasing."""

    def axis(size: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, size - 1), position - low

    top, bottom, down = axis(frame.shape[0], height)
    left, right, along = axis(frame.shape[1], width)
    image = frame.astype(np.float64)
    rows = image[top] * (1 - down)[:, None, None] + image[bottom] * down[:, None, None]
    return rows[:, left] * (1 - along)[:, None] + rows[:, right] * along[:, None]


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 43, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(30, 43), (61, 43), (17, 20), (8, 90)])
def test_resize_is_bilinear(frame: np.ndarray, height: int, width: int) -> None:
    resized = transforms.resize(frame, height, width)
    assert resized.shape == (height, width, 3)
    assert resized.dtype == np.uint8
    np.testing.assert_allclose(resized, _bilinear(frame, height, width), atol=1.01)


@pytest.mark.parametrize(
    ("before", "short", "after"),
    [
        ((240, 426), 256, (256, 454)),  # 426 * 256 / 240 = 454.4
        ((256, 341), 128, (128, 171)),  # 170.5 goes up
        ((426, 240), 224, (398, 224)),  # 397.6
        ((256, 340), 256, (256, 340)),
    ],
)
def test_short_side(before: tuple[int, int], short: int, after: tuple[int, int]) -> None:
    blank = np.zeros((*before, 3), np.uint8)
    assert transforms.resize_short_side(blank, short).shape == (*after, 3)


def test_crop_takes_left_top_width_height(frame: np.ndarray) -> None:
    np.testing.assert_array_equal(
        transforms.crop(frame[None], (5, 2, 7, 4)), frame[None, 2:6, 5:12]
    )


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(256, 340, (58, 16, 224, 224)), (225, 230, (3, 0, 224, 224)), (224, 224, (0, 0, 224, 224))],
)
def test_centre_box(height: int, width: int, box: transforms.Box) -> None:
    assert transforms.centre_box(height, width, 224) == box


def test_three_boxes_are_the_ends_then_the_middle() -> None:
    # (301 - 224) // 2 = 38, and the far crop starts at 2 * 38 = 76, not at 77.
    wide = transforms.three_boxes(224, 301, 224)
    assert wide == [(0, 0, 224, 224), (76, 0, 224, 224), (38, 0, 224, 224)]
    tall = transforms.three_boxes(301, 224, 224)
    assert tall == [(0, 0, 224, 224), (0, 76, 224, 224), (0, 38, 224, 224)]


def test_three_boxes_need_a_short_side_of_their_size() -> None:
    with pytest.raises(ValueError, match="shorter side of 224"):
        transforms.three_boxes(256, 340, 224)


def test_eval_crops(frame: np.ndarray) -> None:
    frames = frame[None]
    (centre,) = transforms.eval_crops(frames, 1, 20)
    np.testing.assert_array_equal(centre, frames[:, 5:25, 11:31])
    five = transforms.eval_crops(frames, 5, 30)  # step (43 - 30) // 2 = 6
    for view, left in zip(five[:3], (0, 12, 6), strict=True):
        np.testing.assert_array_equal(view, frames[:, :, left : left + 30])
    np.testing.assert_array_equal(five[3][0], transforms.resize(frame, 30, 30))
    np.testing.assert_array_equal(five[4], frames[:, :, 6:36])
    assert len(transforms.eval_crops(frames, 3, 30)) == 3


def _reference_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> transforms.Box:
    """Sample a box by the rule of the reference, one candidate at a time."""
    logs = [rng.uniform(math.log(3 / 4), math.log(4 / 3)) for _ in range(10)]
    areas = [rng.uniform(*scale) * height * width for _ in range(10)]
    for log_aspect, pixels in zip(logs, areas, strict=True):
        w = round(math.sqrt(pixels * math.exp(log_aspect)))
        h = round(math.sqrt(pixels / math.exp(log_aspect)))
        if w <= width and h <= height:
            x = int(rng.integers(0, width - w + 1))
            return x, int(rng.integers(0, height - h + 1)), w, h
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_random_resized_crop_follows_the_reference(scale: tuple[float, float]) -> None:
    for draw in range(200):
        box = transforms.random_resized_crop_box(
            60, 80, scale, (3 / 4, 4 / 3), example_rng(0, 0, draw)
        )
        assert box == _reference_box(60, 80, scale, example_rng(0, 0, draw))
        left, top, width, height = box
        assert left >= 0
        assert top >= 0
        assert left + width <= 80
        assert top + height <= 60


def test_random_resized_crop_falls_back_to_the_centre_square() -> None:
    # A square of all 1000 pixels would be 32 high: it never fits into 10 rows.
    box = transforms.random_resized_crop_box(10, 100, (1, 1), (1, 1), example_rng(0, 0, 0))
    assert box == (45, 0, 10, 10)
