"""The options for cutting training clips and test views from videos."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vswin_jax.data.clips.clip_augmentations import AugmentationStep
from vswin_jax.errors import InputError, unknown_name

SAMPLINGS = ("dense", "uniform")
CROPS = (1, 3, 5)


@dataclass(frozen=True)
class ClipSpec:
    """Options for cutting clips from videos; the defaults are the Kinetics recipe.

    Attributes:
      num_frames: frames of a clip.
      frame_interval: distance of a clip's frames in the video, for `dense` sampling only.
      sampling: `dense` as for Kinetics, or `uniform` as for Something-Something v2.
      fps: frame rate at which clips are sampled; 0 samples the video's own frames.
      resize: short side in pixels before the random crop.
      size: side of the clip in pixels.
      scale: range of the random crop's share of the frame's area.
      ratio: range of the random crop's width / height.
      flip: probability of a horizontal flip.
      num_clips: temporal views of an evaluation; 1 for `uniform` sampling.
      num_crops: spatial views of an evaluation, 1, 3 or 5.
      eval_resize: short side in pixels before the crops of an evaluation; 0 means `size`.
      repeat_first_frame: replaces every frame of a clip by its first one, to measure the value of
        motion.
      rand_augment_n: number of RandAugment operations; 0 for none.
      rand_augment_m: magnitude of RandAugment.
      augmentations: registered augmentations of training clips, after all others.
    """

    num_frames: int = 32
    frame_interval: int = 2
    sampling: str = "dense"
    fps: float = 0.0
    resize: int = 256
    size: int = 224
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    num_clips: int = 4
    num_crops: int = 3
    eval_resize: int = 0
    repeat_first_frame: bool = False
    rand_augment_n: int = 0
    rand_augment_m: int = 7
    augmentations: tuple[AugmentationStep, ...] = field(default=(), repr=False)

    @property
    def eval_short_side(self) -> int:
        """The short side in pixels before the crops of an evaluation."""
        return self.eval_resize or self.size

    @property
    def views(self) -> int:
        """The number of views of one video in an evaluation."""
        return self.num_clips * self.num_crops

    @property
    def middle_view(self) -> int:
        """The index of the view to show for all: the middle crop of the middle clip."""
        # The middle crop is the third one (`transforms.three_boxes`).
        crop = 2 if self.num_crops > 1 else 0
        return crop * self.num_clips + self.num_clips // 2

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise unknown_name("frame sampling", self.sampling, SAMPLINGS, "sampling")
        for name in ("num_frames", "frame_interval", "resize", "size", "num_clips"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise InputError(f"{name} must be at least 1 but is {value}.", [name])
        self._check_views()
        self._check_sizes()
        self._check_ranges()

    def _check_views(self) -> None:
        if self.num_crops not in CROPS:
            raise InputError(f"num_crops must be 1, 3 or 5 but is {self.num_crops}.", ["num_crops"])
        if self.sampling == "uniform" and self.num_clips != 1:
            raise InputError(
                f"Uniform sampling spans the whole video, so num_clips must be 1 but is "
                f"{self.num_clips}: set it to 1, or sampling to dense.",
                ["num_clips", "sampling"],
            )

    def _check_sizes(self) -> None:
        if self.size > self.resize:
            raise InputError(
                f"Clips of {self.size} pixels cannot be cut from frames whose short side is "
                f"{self.resize}: make resize at least {self.size}, or lower size.",
                ["resize", "size"],
            )
        if self.eval_short_side < self.size:
            raise InputError(
                f"Views of {self.size} pixels cannot be cut from frames whose short side is "
                f"{self.eval_resize}: make eval_resize at least {self.size}, or lower size.",
                ["eval_resize", "size"],
            )
        if self.num_crops > 1 and self.eval_short_side != self.size:
            raise InputError(
                f"{self.num_crops} crops are spread along the longer side, so eval_resize must "
                f"equal size ({self.size}) but is {self.eval_resize}: change one of them, or set "
                f"num_crops to 1.",
                ["eval_resize", "size", "num_crops"],
            )

    def _check_ranges(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            scale = tuple(self.scale)
            raise InputError(f"scale must be a range within (0, 1] but is {scale}.", ["scale"])
        low, high = self.ratio
        if not 0 < low <= high:
            ratio = tuple(self.ratio)
            raise InputError(f"ratio must be a range above 0 but is {ratio}.", ["ratio"])
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is a probability from 0 to 1 but is {self.flip}.", ["flip"])
        if not 0 <= self.fps < float("inf"):
            raise InputError(
                f"fps is a number of frames a second, or 0, but is {self.fps}.", ["fps"]
            )
