from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example, sampling, transforms
from vswin_jax.data.clips import test_views as views_of
from vswin_jax.data.clips import train_clip
from vswin_jax.data.order import example_rng
from vswin_jax.data.rand_augment import rand_augment
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]
EveryFrame = Callable[[Path], np.ndarray]

SPEC = ClipSpec(num_frames=4, frame_interval=3, resize=40, size=32, clips=2, crops=3)


def _example(path: Path) -> Example:
    return Example(str(path), 0, 0, path.name)


def _small(frames: np.ndarray, short: int) -> np.ndarray:
    return np.stack([transforms.resize_short_side(frame, short) for frame in frames])


def _train_by_hand(frames: np.ndarray, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    resized = _small(frames[indices], 40)
    box = transforms.random_resized_crop_box(*resized.shape[1:3], SPEC.area, SPEC.aspect, rng)
    crops = transforms.crop(resized, box)
    return np.stack([transforms.resize(frame, 32, 32) for frame in crops])


@pytest.mark.parametrize("rule", ["dense", "uniform"])
def test_training_clip_step_by_step(
    rule: str, write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    frames = every_frame(path)
    flips = []
    for draw in range(8):
        clip, flip = train_clip(
            _example(path), replace(SPEC, sampling=rule, clips=1), example_rng(0, 0, draw)
        )
        rng = example_rng(0, 0, draw)
        if rule == "dense":
            indices = sampling.dense_train(20, 4, 3, rng)
        else:
            indices = sampling.uniform_train(20, 4, rng)
        np.testing.assert_array_equal(clip, _train_by_hand(frames, indices, rng)[None])
        assert flip == (rng.random() < 0.5)
        flips.append(flip)
    assert 0 < sum(flips) < 8


def test_flip_is_a_probability(write_video: WriteVideo) -> None:
    example = _example(write_video(count=6))
    for probability in (0.0, 1.0):
        spec = replace(SPEC, flip=probability)
        flips = {train_clip(example, spec, example_rng(0, 0, i))[1] for i in range(4)}
        assert flips == {bool(probability)}


def test_rand_augment_comes_after_the_flip(write_video: WriteVideo) -> None:
    example = _example(write_video(count=20))
    for probability in (0.0, 1.0):
        plain = replace(SPEC, flip=probability)
        rng = example_rng(0, 0, 3)
        clip, flip = train_clip(example, plain, rng)
        expected = rand_augment(clip[0, :, :, ::-1] if flip else clip[0], rng, n=2, m=5)
        spec = replace(plain, rand_augment_n=2, rand_augment_m=5)
        augmented, still_to_flip = train_clip(example, spec, example_rng(0, 0, 3))
        np.testing.assert_array_equal(augmented[0], expected)
        assert not still_to_flip


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("crops", [1, 3, 5])
def test_views_are_crop_major(
    clips: int, crops: int, write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    spec = replace(SPEC, clips=clips, crops=crops)
    views = views_of(_example(path), spec)
    assert views.shape == (clips * crops, 4, 32, 32, 3) == (spec.views, *views.shape[1:])
    # 64x48 at a short side of 32 is 43x32: (43 - 32) // 2 = 5 pixels to the middle.
    resized = _small(every_frame(path), 32)
    squashed = np.stack([transforms.resize(frame, 32, 32) for frame in resized])
    left, right, middle = (resized[:, :, x : x + 32] for x in (0, 10, 5))
    crops_by_hand = [middle] if crops == 1 else [left, right, middle, squashed, middle][:crops]
    # The clips span 12 of 20 frames, (20 - 12 + 1) / 2 = 4.5 apart from 2.25 on; one starts at 4.5.
    starts = [4] if clips == 1 else [2, 6]
    expected = [crop[start : start + 12 : 3] for crop in crops_by_hand for start in starts]
    np.testing.assert_array_equal(views, np.stack(expected))


def test_validation_view_is_the_centre_of_a_larger_frame(
    write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    spec = replace(SPEC, clips=1, crops=1, eval_resize=36)
    resized = _small(every_frame(path), 36)  # 48x36
    expected = resized[4:16:3, 2:34, 8:40]
    np.testing.assert_array_equal(views_of(_example(path), spec), expected[None])


def test_uniform_views_span_the_video(write_video: WriteVideo, every_frame: EveryFrame) -> None:
    path = write_video(count=10)
    spec = replace(SPEC, sampling="uniform", clips=1, crops=1)
    expected = _small(every_frame(path), 32)[[1, 3, 5, 8], :, 5:37]
    np.testing.assert_array_equal(views_of(_example(path), spec), expected[None])


def test_repeating_the_first_frame(write_video: WriteVideo) -> None:
    example = _example(write_video(count=20))
    still = replace(SPEC, repeat_first_frame=True)
    moving, standing = views_of(example, SPEC), views_of(example, still)
    np.testing.assert_array_equal(standing, np.repeat(moving[:, :1], 4, axis=1))
    clips = [train_clip(example, spec, example_rng(0, 0, 1))[0] for spec in (SPEC, still)]
    np.testing.assert_array_equal(clips[1], np.repeat(clips[0][:, :1], 4, axis=1))
    assert (clips[0][:, 0] != clips[0][:, 1]).any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 300}, "make resize at least 300"),
        ({"crops": 2}, "crops must be 1, 3 or 5 but is 2"),
        ({"crops": 3, "eval_resize": 256}, "eval_resize must equal size"),
        ({"crops": 1, "eval_resize": 200}, "make eval_resize at least 224"),
        ({"sampling": "uniform"}, "clips must be 1 but is 4"),
        ({"sampling": "dance"}, "Unknown frame sampling 'dance'"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"area": (0.5, 1.5)}, "area must be a range"),
        ({"aspect": (0, 1)}, "aspect must be a range"),
        ({"flip": 2}, "flip is a probability"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ClipSpec(**wrong)


def test_errors_name_the_example() -> None:
    with pytest.raises(InputError, match=r"'kitchen/7\.mp4'"):
        views_of(Example(b"junk", 0, 0, "kitchen/7.mp4"), SPEC)
