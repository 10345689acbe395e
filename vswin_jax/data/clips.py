"""From an example to the uint8 clips that a model sees: sample, decode, resize, crop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vswin_jax.data import sampling, transforms
from vswin_jax.data.assembly import FrameTransform
from vswin_jax.data.decode import open_video
from vswin_jax.data.rand_augment import rand_augment
from vswin_jax.data.sources import Example
from vswin_jax.errors import InputError, unknown_name

SAMPLINGS = ("dense", "uniform")
CROPS = (1, 3, 5)


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut from videos; the defaults are the recipe of Kinetics.

    num_frames, frame_interval, sampling: frames of a clip, their distance in the video (`dense`
        only), and the rule (`dense` of Kinetics, `uniform` of Something-Something v2).
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


def train_clip(
    example: Example, spec: ClipSpec, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """A random clip uint8 RGB [1, T, size, size, 3], and whether to flip it horizontally.

    The flip is left to the device, except under RandAugment, which the reference applies after it.

    Raises:
        InputError: the video cannot be read.
    """
    with open_video(example.video, example.name) as video:
        indices = train_indices(video.num_frames, spec, rng)
        clip = video.decode(indices, _train_transform(spec, rng))
    flip = bool(rng.random() < spec.flip)
    if spec.rand_augment_n:
        clip = clip[:, :, ::-1] if flip else clip
        clip = rand_augment(
            np.ascontiguousarray(clip), rng, n=spec.rand_augment_n, m=spec.rand_augment_m
        )
        flip = False
    return clip[None], flip


def test_views(example: Example, spec: ClipSpec) -> np.ndarray:
    """All views of a video, uint8 RGB [crops * clips, T, size, size, 3], crop-major then clip.

    Raises:
        InputError: the video cannot be read.
    """
    with open_video(example.video, example.name) as video:
        indices = _test_indices(video.num_frames, spec)
        wanted, inverse = np.unique(indices, return_inverse=True)
        frames = video.decode(
            wanted, lambda frame: transforms.resize_short_side(frame, spec.eval_short_side)
        )
    crops = transforms.eval_crops(frames, spec.crops, spec.size)
    shape = (spec.views, spec.num_frames, spec.size, spec.size, 3)
    return np.stack([crop[inverse.reshape(indices.shape)] for crop in crops]).reshape(shape)


# pytest collects functions of this name from the test modules that import it.
test_views.__test__ = False


def train_indices(total: int, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    """Which of `total` frames a training clip has, int64 [T]."""
    if spec.sampling == "uniform":
        indices = sampling.uniform_train(total, spec.num_frames, rng)
    else:
        indices = sampling.dense_train(total, spec.num_frames, spec.frame_interval, rng)
    return _first_frame(indices) if spec.repeat_first_frame else indices


def _test_indices(total: int, spec: ClipSpec) -> np.ndarray:
    if spec.sampling == "uniform":
        indices = sampling.uniform_test(total, spec.num_frames)
    else:
        indices = sampling.dense_test(total, spec.num_frames, spec.frame_interval, spec.clips)
    return _first_frame(indices) if spec.repeat_first_frame else indices


def _first_frame(indices: np.ndarray) -> np.ndarray:
    return np.broadcast_to(indices[..., :1], indices.shape)


def _train_transform(spec: ClipSpec, rng: np.random.Generator) -> FrameTransform:
    """Resize, crop, resize; the box is drawn once, when the first frame tells the size."""
    box: transforms.Box | None = None

    def transform(frame: np.ndarray) -> np.ndarray:
        nonlocal box
        frame = transforms.resize_short_side(frame, spec.resize)
        if box is None:
            box = transforms.random_resized_crop_box(*frame.shape[:2], spec.area, spec.aspect, rng)
        return transforms.resize(transforms.crop(frame, box), spec.size, spec.size)

    return transform
