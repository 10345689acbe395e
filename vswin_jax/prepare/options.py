"""What determines the bytes that preparing writes, apart from the source."""

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
_OF_MP4 = ("gop", "bframes", "crf", "preset", "fastdecode")
_OF_ENCODING = ("short_side", "fps")


@dataclass(frozen=True)
class Settings:
    """How videos are stored.

    to: `records`, shards of a TFDS directory, or `videos`, mp4 files and a list of them.
    store: what a record holds, an `mp4` file or a `jpeg` image for each frame.
    reencode: False packs the bytes of the files as they are.
    short_side: pixels, never upscaled; 0 keeps the size.
    fps: frames a second; 0 keeps the video's own times, and is 30 for images, which have none.
    gop: frames from one key frame to the next at most; bframes: of them in a row at most.
    crf, preset, fastdecode: x264's quality (lower is better), effort, and tuning.
    jpeg_quality: from 1 to 100.
    videos_per_shard: at most; also how many are finished together.
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


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The settings with the values that were given; refuses those that would do nothing.

    Raises:
        InputError: a value out of range, or one that has no effect beside the others.
    """
    settings = Settings(**given)
    if settings.to == "videos" and (settings.store != "mp4" or not settings.reencode):
        raise InputError(
            "Expected --to records with --store jpeg and with --no-reencode, which pack records, "
            "but --to videos came: leave out one of them."
        )
    if settings.store == "jpeg" and not settings.reencode:
        raise InputError(
            "Expected one of --store jpeg and --no-reencode but both came: leave out one of them."
        )
    for other, names in _without_effect(settings).items():
        for name in names:
            if name in given:
                raise InputError(f"{_flag(name)} has no effect {other}: leave it out.")
    return settings


def _without_effect(settings: Settings) -> dict[str, tuple[str, ...]]:
    if not settings.reencode:
        return {"with --no-reencode": (*_OF_ENCODING, *_OF_MP4, "jpeg_quality")}
    if settings.store == "jpeg":
        return {"with --store jpeg": _OF_MP4}
    return {"without --store jpeg": ("jpeg_quality",)}


def differing(ours: Settings, theirs: Mapping[str, Any]) -> list[str]:
    """Which of their settings are not ours, in words: `--crf 30.0 (not 23.0)`."""
    return [
        _difference(name, theirs.get(name), value)
        for name, value in dataclasses.asdict(ours).items()
        if theirs.get(name) != value
    ]


def _difference(name: str, theirs: Any, ours: Any) -> str:
    if name in _NEGATED:
        return f"{'without ' if theirs else ''}{_flag(name)}"
    return f"{_flag(name)} {theirs} (not {ours})"


_NEGATED = {"reencode": "--no-reencode", "fastdecode": "--no-fastdecode"}


def _flag(name: str) -> str:
    return _NEGATED.get(name, "--" + name.replace("_", "-"))
