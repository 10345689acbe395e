"""From an example to the uint8 clips that a model sees: sample, decode, resize, crop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vswin_jax.data.clips import sampling, transforms
from vswin_jax.data.clips.rand_augment import rand_augment
from vswin_jax.data.decoding.assembly import FrameTransform
from vswin_jax.data.decoding.decode import Video, open_video
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.sampler import siblings
from vswin_jax.errors import InputError, unknown_name

SAMPLINGS = ("dense", "uniform")
CROPS = (1, 3, 5)


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut from videos; the defaults are the recipe of Kinetics.

    num_frames, frame_interval, sampling: frames of a clip, their distance in the video (`dense`
        only), and the rule (`dense` of Kinetics, `uniform` of Something-Something v2).
    fps: frames a second of the timeline that clips are sampled from; 0 is the video's own frames.
    resize, size: short side in pixels before the random crop, and side of the clip.
    area, aspect: ranges of the random crop's share of the frame and of its width / height.
    flip: probability of a horizontal flip.
    clips, crops: views in time (`uniform`: 1) and in space (1, 3 or 5) of an evaluation.
    eval_resize: short side in pixels before the crops of an evaluation; 0 is `size`.
    repeat_first_frame: every frame of a clip is its first one, to see what motion is worth.
    rand_augment_n, rand_augment_m: operations and magnitude of RandAugment; 0 operations is off.
    """

    num_frames: int = 32
    frame_interval: int = 2
    sampling: str = "dense"
    fps: float = 0.0
    resize: int = 256
    size: int = 224
    area: Sequence[float] = (0.08, 1.0)
    aspect: Sequence[float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    clips: int = 4
    crops: int = 3
    eval_resize: int = 0
    repeat_first_frame: bool = False
    rand_augment_n: int = 0
    rand_augment_m: int = 7

    @property
    def eval_short_side(self) -> int:
        """The short side in pixels before the crops of an evaluation."""
        return self.eval_resize or self.size

    @property
    def views(self) -> int:
        """How many views one video has in an evaluation."""
        return self.clips * self.crops

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise unknown_name("frame sampling", self.sampling, SAMPLINGS)
        for name in ("num_frames", "frame_interval", "resize", "size", "clips"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 but is {getattr(self, name)}.")
        self._check_crops()
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise InputError(f"area must be a range within (0, 1] but is {tuple(self.area)}.")
        low, high = self.aspect
        if not 0 < low <= high:
            raise InputError(f"aspect must be a range above 0 but is {tuple(self.aspect)}.")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is a probability from 0 to 1 but is {self.flip}.")
        if not 0 <= self.fps < float("inf"):
            raise InputError(f"fps is a number of frames a second, or 0, but is {self.fps}.")

    def _check_crops(self) -> None:
        if self.crops not in CROPS:
            raise InputError(f"crops must be 1, 3 or 5 but is {self.crops}.")
        if self.sampling == "uniform" and self.clips != 1:
            raise InputError(
                f"Uniform sampling spans the whole video, so clips must be 1 but is {self.clips}."
            )
        if self.size > self.resize:
            raise InputError(
                f"Clips of {self.size} pixels cannot be cut from frames whose short side is "
                f"{self.resize}: make resize at least {self.size}."
            )
        if self.eval_short_side < self.size:
            raise InputError(
                f"Views of {self.size} pixels cannot be cut from frames whose short side is "
                f"{self.eval_resize}: make eval_resize at least {self.size}, or 0."
            )
        if self.crops > 1 and self.eval_short_side != self.size:
            raise InputError(
                f"{self.crops} crops lie along the longer side, so eval_resize must equal size "
                f"({self.size}) but is {self.eval_resize}."
            )


@dataclass(frozen=True)
class TrainClip:
    """One random clip and what was drawn for it.

    clip: uint8 RGB [1, T, size, size, 3].
    flip: whether the device has still to flip it.
    mirrored: whether it is then the mirror image of the video, RandAugment's own flip included.
    frames: int64 [T], the index in the video of every frame.
    box: the crop (left, top, width, height) in pixels of the upright frame after its short side was
        resized to `resize`; RandAugment's operations come after it.
    """

    clip: np.ndarray
    flip: bool
    mirrored: bool
    frames: np.ndarray
    box: transforms.Box


def train_clip(example: Example, spec: ClipSpec, rng: np.random.Generator) -> TrainClip:
    """A random clip of a video.

    The flip is left to the device, except under RandAugment, which the reference applies after it.

    Raises:
        InputError: the video cannot be read, or has no times for `spec.fps`.
    """
    return train_clips(example, spec, rng, 1)[0]


def train_clips(
    example: Example,
    spec: ClipSpec,
    rng: np.random.Generator,
    count: int,
    out: np.ndarray | None = None,
) -> list[TrainClip]:
    """`count` random clips of the same frames, decoded once, each augmented on its own.

    Their draws are those of `siblings(rng, count)`, so the first clip is that of `train_clip`. The
    clips are views of `out`, uint8 [count, T, size, size, 3], which is made if it is not given.
    """
    if out is None:
        out = np.empty((count, spec.num_frames, spec.size, spec.size, 3), np.uint8)
    draws = siblings(rng, count)
    boxes: list[transforms.Box] = []
    with open_video(example.video, example.name) as video:
        indices = train_indices(video, spec, rng)
        transform = _train_transform(spec, draws, boxes)
        video.decode(indices, transform, out=out.swapaxes(0, 1))
    return [
        _augmented(clip, indices, box, spec, own)
        for clip, box, own in zip(out, boxes, draws, strict=True)
    ]


def _augmented(
    clip: np.ndarray,
    indices: np.ndarray,
    box: transforms.Box,
    spec: ClipSpec,
    rng: np.random.Generator,
) -> TrainClip:
    flip = bool(rng.random() < spec.flip)
    if not spec.rand_augment_n:
        return TrainClip(clip[None], flip, flip, indices, box)
    upright = np.ascontiguousarray(clip[:, :, ::-1] if flip else clip)
    clip[:], again = rand_augment(upright, rng, n=spec.rand_augment_n, m=spec.rand_augment_m)
    return TrainClip(clip[None], False, flip != again, indices, box)


def test_views(
    example: Example,
    spec: ClipSpec,
    out: np.ndarray | None = None,  # noqa: PT028 - no test, see below
) -> np.ndarray:
    """All views of a video, uint8 RGB [crops * clips, T, size, size, 3], crop-major then clip.

    They are written to `out`, which is made if it is not given.

    Raises:
        InputError: the video cannot be read, or has no times for `spec.fps`.
    """
    with open_video(example.video, example.name) as video:
        indices = _sample(video, spec, lambda total: _test_indices(total, spec))
        wanted, inverse = np.unique(indices, return_inverse=True)
        frames = video.decode(
            wanted, lambda frame, _: transforms.resize_short_side(frame, spec.eval_short_side)
        )
    if out is None:
        out = np.empty((spec.views, spec.num_frames, spec.size, spec.size, 3), np.uint8)
    crops = transforms.eval_crops(frames, spec.crops, spec.size)
    for crop, views in zip(crops, out.reshape(spec.crops, spec.clips, *out.shape[1:]), strict=True):
        views[:] = crop[inverse.reshape(indices.shape)]
    return out


# pytest collects functions of this name from the test modules that import it.
test_views.__test__ = False


def train_indices(video: Video, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    """Which frames of a video a training clip has, int64 [T].

    Raises:
        InputError: the video has no times for `spec.fps`.
    """
    return _sample(video, spec, lambda total: _train_indices(total, spec, rng))


def _sample(video: Video, spec: ClipSpec, sample: Callable[[int], np.ndarray]) -> np.ndarray:
    """What `sample` takes of so many frames, as indices of the video's own frames."""
    if spec.fps:
        times = video.times
        if times is None:
            raise no_times(video.name, spec)
        frames = sample(sampling.resampled_length(times, spec.fps))
        indices = sampling.on_screen(times, spec.fps, frames)
    else:
        indices = sample(video.num_frames)
    if spec.repeat_first_frame:
        return np.broadcast_to(indices[..., :1], indices.shape)
    return indices


def no_times(name: str, spec: ClipSpec) -> InputError:
    """The error for a video that does not say when its frames are shown, which `fps` needs."""
    return InputError(
        f"Expected {name!r} to say when its frames are shown, since config.data.fps is "
        f"{spec.fps:g}, but images do not: give videos, or set config.data.fps to 0, which takes "
        f"the frames as they are."
    )


def _train_indices(total: int, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    if spec.sampling == "uniform":
        return sampling.uniform_train(total, spec.num_frames, rng)
    return sampling.dense_train(total, spec.num_frames, spec.frame_interval, rng)


def _test_indices(total: int, spec: ClipSpec) -> np.ndarray:
    if spec.sampling == "uniform":
        return sampling.uniform_test(total, spec.num_frames)
    return sampling.dense_test(total, spec.num_frames, spec.frame_interval, spec.clips)


def _train_transform(
    spec: ClipSpec, draws: Sequence[np.random.Generator], boxes: list[transforms.Box]
) -> FrameTransform:
    """Resize, crop, resize: [H, W, 3] -> [clips, size, size, 3], one clip for each of `draws`.

    The boxes are drawn once, when the first frame tells the size, and left in `boxes`.
    """

    def transform(frame: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        frame = transforms.resize_short_side(frame, spec.resize)
        if not boxes:
            height, width = frame.shape[:2]
            area, aspect = spec.area, spec.aspect
            boxes.extend(
                transforms.random_resized_crop_box(height, width, area, aspect, rng)
                for rng in draws
            )
        if out is None:
            out = np.empty((len(boxes), spec.size, spec.size, 3), np.uint8)
        for box, clip in zip(boxes, out, strict=True):
            transforms.resize(transforms.crop(frame, box), spec.size, spec.size, clip)
        return out

    return transform
