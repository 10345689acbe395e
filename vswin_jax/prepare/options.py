"""The options that, with the source, determine every byte of a prepared data set."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vswin_jax.errors import InputError, unknown_name

TARGETS = ("records", "videos")
STORES = ("mp4", "jpeg")
PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
_MP4_OPTIONS = ("gop", "bframes", "crf", "preset", "fastdecode")
_FRAME_OPTIONS = ("short_side", "fps")


@dataclass(frozen=True)
class PrepareOptions:
    """The format of the prepared videos.

    Attributes:
      to: `records`, shards of a TFDS directory, or `videos`, mp4 files and a list of them.
      store: the content of a record, an `mp4` file or a `jpeg` image for each frame.
      reencode: False stores the bytes of the files unchanged.
      short_side: pixels, never upscaled; 0 keeps the size.
      fps: frames a second; 0 keeps the video's own times, or 30 for images, which have none.
      gop: the maximum distance between key frames, in frames.
      bframes: the maximum number of consecutive B-frames.
      crf: x264's constant rate factor; lower means better quality and larger files.
      preset: x264's preset.
      fastdecode: True for x264's tuning of this name.
      jpeg_quality: from 1 to 100.
      videos_per_shard: the maximum; for `videos`, the number of files that are finished together.
    """

    to: str = "records"
    store: str = "mp4"
    reencode: bool = True
    short_side: int = 256
    fps: float = 0.0
    gop: int = 16
    bframes: int = 0
    crf: float = 23.0
    preset: str = "medium"
    fastdecode: bool = True
    jpeg_quality: int = 85
    videos_per_shard: int = 256

    def __post_init__(self) -> None:
        for name, known in {"to": TARGETS, "store": STORES, "preset": PRESETS}.items():
            if getattr(self, name) not in known:
                raise unknown_name(_flag(name), getattr(self, name), known)
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"Expected {_flag(name)} from {low} to {high} but {getattr(self, name)} came: "
                    "correct it."
                )
        if self.short_side % 2:
            raise InputError(
                f"Expected --short-side to be even, as H.264 needs it, but {self.short_side} came: "
                "correct it."
            )


_RANGES = {
    "short_side": (0, 16384),
    "fps": (0, 1000),
    "gop": (1, 100000),
    "bframes": (0, 16),
    "crf": (0, 51),
    "jpeg_quality": (1, 100),
    "videos_per_shard": (1, 1000000),
}


def options_from_flags(given: Mapping[str, Any]) -> PrepareOptions:
    """Build the options from the flags that were given, and refuse flags without effect.

    Raises:
      InputError: a value is out of range, or has no effect in combination with the others.
    """
    options = PrepareOptions(**given)
    if options.to == "videos" and (options.store != "mp4" or not options.reencode):
        raise InputError(
            "Expected --to records with --store jpeg and with --no-reencode, which pack records, "
            "but --to videos came: leave out one of them."
        )
    if options.store == "jpeg" and not options.reencode:
        raise InputError(
            "Expected one of --store jpeg and --no-reencode but both came: leave out one of them."
        )
    condition, names = _ineffective_options(options)
    for name in filter(given.__contains__, names):
        raise InputError(f"{_flag(name)} has no effect {condition}: leave it out.")
    return options


def _ineffective_options(options: PrepareOptions) -> tuple[str, tuple[str, ...]]:
    """Return the names of the options without effect, and the condition that makes them so."""
    if not options.reencode:
        return "with --no-reencode", (*_FRAME_OPTIONS, *_MP4_OPTIONS, "jpeg_quality")
    if options.store == "jpeg":
        return "with --store jpeg", _MP4_OPTIONS
    return "without --store jpeg", ("jpeg_quality",)


def describe_differences(options: PrepareOptions, other: Mapping[str, Any]) -> list[str]:
    """Describe the `other` options that differ, such as `--crf 30.0 (not 23.0)`."""
    return [
        _describe_difference(name, other.get(name), value)
        for name, value in dataclasses.asdict(options).items()
        if other.get(name) != value
    ]


def _describe_difference(name: str, other: Any, value: Any) -> str:
    if name in _NEGATED:
        return f"{'without ' if other else ''}{_flag(name)}"
    return f"{_flag(name)} {other} (not {value})"


_NEGATED = {"reencode": "--no-reencode", "fastdecode": "--no-fastdecode"}


def _flag(name: str) -> str:
    return _NEGATED.get(name, "--" + name.replace("_", "-"))
