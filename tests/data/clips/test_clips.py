from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example
from vswin_jax.data.clips import sampling, transforms
from vswin_jax.data.clips.clips import test_views as views_of
from vswin_jax.data.clips.clips import train_clip, train_clips
from vswin_jax.data.clips.rand_augment import rand_augment
from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.pipeline.sampler import example_rng, rng_streams
from vswin_jax.errors import InputError

WriteVideo = Callable[..., Path]
EveryFrame = Callable[[Path], np.ndarray]

SPEC = ClipSpec(num_frames=4, frame_interval=3, resize=40, size=32, num_clips=2, num_crops=3)


def _example(path: Path) -> Example:
    return Example(str(path), 0, 0, path.name)


def _small(frames: np.ndarray, short: int) -> np.ndarray:
    return np.stack([transforms.resize_short_side(frame, short) for frame in frames])


def _expected_clip(frames: np.ndarray, box: transforms.Box) -> np.ndarray:
    crops = transforms.crop(_small(frames, 40), box)
    return np.stack([transforms.resize(frame, 32, 32) for frame in crops])


def _expected_box(rng: np.random.Generator) -> transforms.Box:
    """Sample the box of a 64x48 frame, which is 53x40 at a short side of 40."""
    return transforms.random_resized_crop_box(40, 53, SPEC.scale, SPEC.ratio, rng)


@pytest.mark.parametrize("rule", ["dense", "uniform"])
def test_training_clip_matches_its_steps(
    rule: str, write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    frames = every_frame(path)
    flips = []
    for draw in range(8):
        loaded = train_clip(
            _example(path), replace(SPEC, sampling=rule, num_clips=1), example_rng(0, 0, draw)
        )
        rng = example_rng(0, 0, draw)
        if rule == "dense":
            indices = sampling.dense_train(20, 4, 3, rng)
        else:
            indices = sampling.uniform_train(20, 4, rng)
        np.testing.assert_array_equal(loaded.frames, indices)
        assert loaded.box == _expected_box(rng)
        expected = _expected_clip(frames[indices], loaded.box)[None]
        np.testing.assert_array_equal(loaded.clip, expected)
        assert loaded.flip == loaded.mirrored == (rng.random() < 0.5)
        flips.append(loaded.flip)
    assert 0 < sum(flips) < 8


def test_clips_of_a_video_share_only_their_frames(
    write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    frames = every_frame(path)
    three = train_clips(_example(path), SPEC, example_rng(0, 0, 5), 3)
    single = train_clip(_example(path), SPEC, example_rng(0, 0, 5))
    np.testing.assert_array_equal(three[0].clip, single.clip)
    assert (three[0].box, three[0].flip) == (single.box, single.flip)
    rngs = rng_streams(example_rng(0, 0, 5), 3)
    sampling.dense_train(20, 4, 3, rngs[0])
    for loaded, rng in zip(three, rngs, strict=True):
        np.testing.assert_array_equal(loaded.frames, single.frames)
        assert loaded.box == _expected_box(rng)
        expected = _expected_clip(frames[loaded.frames], loaded.box)
        np.testing.assert_array_equal(loaded.clip[0], expected)
        assert loaded.flip == (rng.random() < 0.5)
    assert len({loaded.box for loaded in three}) == 3


def test_flip_is_a_probability(write_video: WriteVideo) -> None:
    example = _example(write_video(count=6))
    for probability in (0.0, 1.0):
        spec = replace(SPEC, flip=probability)
        flips = {train_clip(example, spec, example_rng(0, 0, i)).flip for i in range(4)}
        assert flips == {bool(probability)}


def test_rand_augment_comes_after_the_flip(write_video: WriteVideo) -> None:
    example = _example(write_video(count=20))
    seen = set()
    for probability in (0.0, 1.0):
        for draw in range(6):
            plain = replace(SPEC, flip=probability)
            rng = example_rng(0, 0, draw)
            loaded = train_clip(example, plain, rng)
            flipped = loaded.clip[0, :, :, ::-1] if loaded.flip else loaded.clip[0]
            expected, second_flip = rand_augment(flipped, rng, n=2, m=5)
            spec = replace(plain, rand_augment_n=2, rand_augment_m=5)
            augmented = train_clip(example, spec, example_rng(0, 0, draw))
            np.testing.assert_array_equal(augmented.clip[0], expected)
            assert not augmented.flip
            assert augmented.mirrored == ((loaded.flip + second_flip) % 2 == 1)
            assert augmented.box == loaded.box
            seen.add((loaded.flip, second_flip))
    assert len(seen) == 4


@pytest.mark.parametrize(("fps", "middle"), [(6.0, [0, 2, 4, 6]), (24.0, [3, 3, 4, 4])])
def test_clips_at_another_frame_rate(
    fps: float, middle: list[int], write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    """Eight frames at 12 fps are 4 frames at 6 fps, and 16 at 24 fps with the clip from 6 to 9."""
    path = write_video(count=8)
    spec = replace(SPEC, frame_interval=1, fps=fps, num_clips=1, num_crops=1)
    expected = _small(every_frame(path)[middle], 32)[:, :, 5:37]
    np.testing.assert_array_equal(views_of(_example(path), spec), expected[None])
    clips = [train_clip(_example(path), spec, example_rng(0, 0, draw)) for draw in range(9)]
    drawn = {tuple(clip.frames) for clip in clips}
    whole = np.arange(8).repeat(2) if fps == 24 else np.arange(0, 8, 2)
    assert drawn <= {tuple(whole[start : start + 4]) for start in range(len(whole) - 3)}
    assert len(drawn) == 1 if fps == 6 else len(drawn) > 4
    resized = _small(every_frame(path)[clips[0].frames], 40)
    crops = transforms.crop(resized, clips[0].box)
    expected_clip = np.stack([transforms.resize(frame, 32, 32) for frame in crops])
    np.testing.assert_array_equal(clips[0].clip[0], expected_clip)


def test_uneven_frame_times_at_an_even_rate(tmp_path: Path) -> None:
    """Take the frames displayed at 0, 100, 200, ... milliseconds; the last one lasts 100."""
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in (0, 40, 200, 230, 900):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time // 4, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    spec = replace(SPEC, num_frames=10, frame_interval=1, fps=10.0)
    loaded = train_clip(_example(path), spec, example_rng(0, 0, 0))
    assert loaded.frames.tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3, 4]
    (view,) = views_of(_example(path), replace(spec, num_clips=1, num_crops=1))
    grey = view[:, 16, 16, 0].astype(int)
    np.testing.assert_allclose(grey, np.take([0, 10, 50, 57, 225], loaded.frames), atol=3)


def test_images_have_no_frame_rate(tmp_path: Path, write_video: WriteVideo) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"img_{number}.png"), np.zeros((48, 64, 3), np.uint8))
    example = Example(FrameFolder(str(tmp_path)), 0, 0, "images")
    assert views_of(example, SPEC).shape[0] == 6
    for read in (views_of, lambda example, spec: train_clip(example, spec, example_rng(0, 0, 0))):
        with pytest.raises(InputError, match=r"data\.fps is 25, but images do not: give videos"):
            read(example, replace(SPEC, fps=25.0))


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("crops", [1, 3, 5])
def test_views_are_crop_major(
    clips: int, crops: int, write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    spec = replace(SPEC, num_clips=clips, num_crops=crops)
    views = views_of(_example(path), spec)
    assert views.shape == (clips * crops, 4, 32, 32, 3) == (spec.views, *views.shape[1:])
    # 64x48 at a short side of 32 is 43x32; the centre crop starts at (43 - 32) // 2 = 5 pixels.
    resized = _small(every_frame(path), 32)
    squashed = np.stack([transforms.resize(frame, 32, 32) for frame in resized])
    left, right, middle = (resized[:, :, x : x + 32] for x in (0, 10, 5))
    expected_crops = [middle] if crops == 1 else [left, right, middle, squashed, middle][:crops]
    # The clips span 12 of 20 frames, (20 - 12 + 1) / 2 = 4.5 apart from 2.25 on; one starts at 4.5.
    starts = [4] if clips == 1 else [2, 6]
    expected = [crop[start : start + 12 : 3] for crop in expected_crops for start in starts]
    np.testing.assert_array_equal(views, np.stack(expected))


def test_a_validation_view_is_the_centre_of_a_larger_frame(
    write_video: WriteVideo, every_frame: EveryFrame
) -> None:
    path = write_video(count=20)
    spec = replace(SPEC, num_clips=1, num_crops=1, eval_resize=36)
    resized = _small(every_frame(path), 36)  # 48x36
    expected = resized[4:16:3, 2:34, 8:40]
    np.testing.assert_array_equal(views_of(_example(path), spec), expected[None])


def test_uniform_views_span_the_video(write_video: WriteVideo, every_frame: EveryFrame) -> None:
    path = write_video(count=10)
    spec = replace(SPEC, sampling="uniform", num_clips=1, num_crops=1)
    expected = _small(every_frame(path), 32)[[1, 3, 5, 8], :, 5:37]
    np.testing.assert_array_equal(views_of(_example(path), spec), expected[None])


def test_repeating_the_first_frame(write_video: WriteVideo) -> None:
    example = _example(write_video(count=20))
    still = replace(SPEC, repeat_first_frame=True)
    moving, repeated = views_of(example, SPEC), views_of(example, still)
    np.testing.assert_array_equal(repeated, np.repeat(moving[:, :1], 4, axis=1))
    clips = [train_clip(example, spec, example_rng(0, 0, 1)).clip for spec in (SPEC, still)]
    np.testing.assert_array_equal(clips[1], np.repeat(clips[0][:, :1], 4, axis=1))
    assert (clips[0][:, 0] != clips[0][:, 1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 300}, "make resize at least 300"),
        ({"num_crops": 2}, "num_crops must be 1, 3 or 5 but is 2"),
        ({"num_crops": 3, "eval_resize": 256}, "eval_resize must equal size"),
        ({"num_crops": 1, "eval_resize": 200}, "make eval_resize at least 224"),
        ({"sampling": "uniform"}, "clips must be 1 but is 4"),
        ({"sampling": "dance"}, "Unknown frame sampling 'dance'"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"scale": (0.5, 1.5)}, "scale must be a range"),
        ({"ratio": (0, 1)}, "ratio must be a range"),
        ({"flip": 2}, "flip is a probability"),
        ({"fps": -1.0}, "fps is a number of frames a second, or 0, but is -1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipSpec(**options)


def test_errors_name_the_example() -> None:
    with pytest.raises(InputError, match=r"'kitchen/7\.mp4'"):
        views_of(Example(b"junk", 0, 0, "kitchen/7.mp4"), SPEC)
