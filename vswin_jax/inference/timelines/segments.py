"""Segments of a video in which a class is probable, from the probabilities over time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from vswin_jax.errors import InputError

# With windows a second apart, a change of class is then found within a second; see the benchmark
# of long videos.
THRESHOLD = 0.3
SMOOTH = 2.0  # seconds


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
      start: in seconds.
      end: in seconds.
      label: the class.
      score: the mean probability of the class.
    """

    start: float
    end: float
    label: str
    score: float


@dataclass(frozen=True)
class SegmentOptions:
    """The rules of segments.

    Attributes:
      threshold: the least probability of a class.
      smooth: the length in seconds over which probabilities are averaged; 0 leaves them.
      shortest: segments of fewer seconds are left out.
    """

    threshold: float = THRESHOLD
    smooth: float = SMOOTH
    shortest: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(
                f"Expected a threshold between 0 and 1 but {self.threshold} came: change it.",
                ["threshold"],
            )
        for name, seconds in (("smooth", self.smooth), ("shortest", self.shortest)):
            if not 0 <= seconds < float("inf"):
                raise InputError(
                    f"Expected seconds from 0 up but {seconds} came: change it.", [name]
                )


def smooth_over_time(
    probabilities: Float[np.ndarray, "W K"], centres: Float64[np.ndarray, " W"], seconds: float
) -> Float64[np.ndarray, "W K"]:
    """Average each window with those whose centres are at most half of `seconds` away."""
    half = seconds / 2 + 1e-9
    low = np.searchsorted(centres, centres - half, "left")
    high = np.searchsorted(centres, centres + half, "right")
    sums = np.cumsum(np.vstack([np.zeros_like(probabilities[:1]), probabilities]), 0, np.float64)
    return (sums[high] - sums[low]) / (high - low)[:, None]


def window_borders(
    centres: Float64[np.ndarray, " W"], end: float
) -> Float64[np.ndarray, " borders"]:
    """Return the times half-way between windows, with 0 before and `end` after them, W + 1."""
    return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [end]])


def find_segments(
    probabilities: Float[np.ndarray, "W K"],
    centres: Float64[np.ndarray, " W"],
    end: float,
    label_names: Sequence[str],
    options: SegmentOptions,
    *,
    independent: bool,
) -> list[Segment]:
    """Return the segments in which the smoothed probability of a class reaches the threshold.

    Unless the classes are `independent` of each other, it is the most probable one too, and
    segments do not overlap. A window counts for the time that is nearest to its centre, from 0 to
    `end` seconds, so that a change of class lies within half a stride of the place where most of a
    window is of the new one. Segments are ordered by their start.
    """
    smoothed = smooth_over_time(probabilities, centres, options.smooth)
    is_high = smoothed >= options.threshold
    if not independent:
        is_high &= smoothed == smoothed.max(axis=1, keepdims=True)
    borders = window_borders(centres, end)
    found = [
        Segment(
            start=float(borders[first]),
            end=float(borders[last]),
            label=label_names[k],
            score=float(smoothed[first:last, k].mean()),
        )
        for k in np.flatnonzero(is_high.any(axis=0))
        for first, last in _runs(is_high[:, k])
    ]
    long = (part for part in found if part.end - part.start >= options.shortest)
    return sorted(long, key=lambda part: (part.start, part.end, part.label))


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return (first, last + 1) of each run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], values, [0]])))
    return zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)
