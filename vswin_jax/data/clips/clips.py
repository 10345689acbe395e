"""Loading of training clips and test views: sample, decode, resize, crop, augment."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int64, UInt8

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.frame_indices import eval_indices, train_indices
from vswin_jax.data.clips.rand_augment import rand_augment
from vswin_jax.data.decoding.assembly import FrameTransform, check_same_size
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.sampler import rng_streams


@dataclass(frozen=True)
class TrainClip:
    """One random clip and its random draws.

    Attributes:
      clip: RGB, with a leading axis of one view.
      flip: True if the device still has to flip the clip.
      mirrored: True if the clip is then a mirror image of the video, with the flips of RandAugment
        and of registered augmentations taken into account.
      frames: the index in the video of every frame.
      box: the crop (left, top, width, height) in pixels of the upright frame after its short side
        was resized to `resize`; RandAugment's operations are applied after the crop.
    """

    clip: UInt8[np.ndarray, "1 T size size 3"]
    flip: bool
    mirrored: bool
    frames: Int64[np.ndarray, " T"]
    box: transforms.Box


def train_clip(example: Example, spec: ClipSpec, rng: np.random.Generator) -> TrainClip:
    """Load a random clip of a video.

    The flip is left to the device, unless RandAugment or registered augmentations, which have to
    come after the flip, are on.

    Raises:
      InputError: the video cannot be read, or has no presentation times for `spec.fps`.
    """
    return train_clips(example, spec, rng, count=1)[0]


def train_clips(
    example: Example,
    spec: ClipSpec,
    rng: np.random.Generator,
    count: int,
    out: UInt8[np.ndarray, "count T size size 3"] | None = None,
) -> list[TrainClip]:
    """Load `count` random clips of the same frames, decoded once and augmented independently.

    Clip `k` uses the k-th of `rng_streams(rng, count)`, so the first clip is that of `train_clip`.
    The clips are views of `out`, which is allocated if it is not given.
    """
    if out is None:
        out = np.empty((count, spec.num_frames, spec.size, spec.size, 3), np.uint8)
    rngs = rng_streams(rng, count)
    boxes: list[transforms.Box] = []
    with open_video(example.video, example.name) as video:
        indices = train_indices(video, spec, rng)
        transform = _train_transform(spec, rngs, boxes, video.name)
        video.decode(indices, transform, out=out.swapaxes(0, 1))
    return [
        _augment(clip, indices, box, spec, clip_rng)
        for clip, box, clip_rng in zip(out, boxes, rngs, strict=True)
    ]


def _augment(
    clip: np.ndarray,
    indices: np.ndarray,
    box: transforms.Box,
    spec: ClipSpec,
    rng: np.random.Generator,
) -> TrainClip:
    flip = bool(rng.random() < spec.flip)
    if not (spec.rand_augment_n or spec.augmentations):
        return TrainClip(clip=clip[None], flip=flip, mirrored=flip, frames=indices, box=box)
    augmented, mirrored = np.ascontiguousarray(clip[:, :, ::-1] if flip else clip), flip
    for augment in _steps_after_flip(spec):
        augmented, flipped = augment(augmented, rng)
        mirrored ^= flipped
    clip[:] = augmented
    return TrainClip(clip=clip[None], flip=False, mirrored=mirrored, frames=indices, box=box)


def _steps_after_flip(
    spec: ClipSpec,
) -> Iterator[Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, bool]]]:
    if spec.rand_augment_n:
        yield partial(rand_augment, n=spec.rand_augment_n, m=spec.rand_augment_m)
    yield from spec.augmentations


def _train_transform(
    spec: ClipSpec, rngs: Sequence[np.random.Generator], boxes: list[transforms.Box], name: str
) -> FrameTransform:
    """Return a function that resizes, crops and resizes a frame, with one crop for each of `rngs`.

    The function maps [H, W, 3] to [crops, size, size, 3]. The boxes depend on the size of the
    frames, so they are drawn with the first frame; they are stored in `boxes`. A later frame of
    another size is an error about the video `name`.
    """
    expected: list[tuple[int, ...]] = []

    def transform(frame: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        frame = transforms.resize_short_side(frame, spec.resize)
        if not boxes:
            expected.append(frame.shape)
            boxes.extend(_draw_box(frame, spec, rng) for rng in rngs)
        check_same_size(expected[0], frame.shape, name)
        if out is None:
            out = np.empty((len(boxes), spec.size, spec.size, 3), np.uint8)
        for box, clip in zip(boxes, out, strict=True):
            transforms.resize(transforms.crop(frame, box), spec.size, spec.size, clip)
        return out

    return transform


def _draw_box(frame: np.ndarray, spec: ClipSpec, rng: np.random.Generator) -> transforms.Box:
    height, width = frame.shape[:2]
    return transforms.random_resized_crop_box(height, width, spec.scale, spec.ratio, rng)


def test_views(
    example: Example,
    spec: ClipSpec,
    out: UInt8[np.ndarray, "V T size size 3"] | None = None,  # noqa: PT028 - no test, see below
) -> UInt8[np.ndarray, "V T size size 3"]:
    """Load all V = num_crops * num_clips RGB views of a video, those of one crop after another.

    The views are written to `out`, which is allocated if it is not given.

    Raises:
      InputError: the video cannot be read, or has no presentation times for `spec.fps`.
    """
    with open_video(example.video, example.name) as video:
        indices = eval_indices(video, spec)
        unique, inverse = np.unique(indices, return_inverse=True)
        frames = video.decode(
            unique, lambda frame, _: transforms.resize_short_side(frame, spec.eval_short_side)
        )
    if out is None:
        out = np.empty((spec.views, spec.num_frames, spec.size, spec.size, 3), np.uint8)
    views_of_crops = out.reshape(spec.num_crops, spec.num_clips, *out.shape[1:])
    crops = transforms.eval_crops(frames, spec.num_crops, spec.size)
    for views, crop in zip(views_of_crops, crops, strict=True):
        views[:] = crop[inverse.reshape(indices.shape)]
    return out


# The name would make pytest collect the function in test modules that import it.
test_views.__test__ = False
