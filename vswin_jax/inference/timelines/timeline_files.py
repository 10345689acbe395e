"""A timeline, and the files that are written of it."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vswin_jax.inference.timelines.segments import Segment, window_borders
from vswin_jax.reporting.timeline_plot import TimelinePicture, save_timeline
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.printable import encodable

_TOP_CLASSES = 10  # rows of the picture
_DIGITS = 6


@dataclass(frozen=True)
class Timeline:
    """The probabilities of the classes over the time of a video, and its segments.

    Attributes:
      video: the path.
      duration: in seconds.
      starts: the time at which each of the W windows begins, in seconds.
      ends: the time at which each window ends.
      probabilities: of each window, not smoothed.
      label_names: of the K classes.
      segments: the parts of the video in which a class is probable, by their start.
      failure: the reason why windows after the last one could not be read, or "".
    """

    video: str
    duration: float
    starts: Float64[np.ndarray, " W"] = field(repr=False)
    ends: Float64[np.ndarray, " W"] = field(repr=False)
    probabilities: Float32[np.ndarray, "W K"] = field(repr=False)
    label_names: tuple[str, ...] = field(repr=False)
    segments: tuple[Segment, ...]
    failure: str = ""

    @property
    def times(self) -> Float64[np.ndarray, " W"]:
        """The middle of each window, in seconds."""
        return (self.starts + self.ends) / 2

    @property
    def end(self) -> float:
        """The time up to which the video could be read, in seconds."""
        return float(self.ends[-1]) if self.failure else self.duration

    def top_classes(self, window: int, count: int) -> list[tuple[str, float]]:
        """Return the most probable classes of a window, with their probabilities."""
        row = self.probabilities[window]
        best = np.argsort(-row, kind="stable")[:count]
        return [(self.label_names[k], round(float(row[k]), _DIGITS)) for k in best]

    def main_classes(self, count: int) -> Int64[np.ndarray, " R"]:
        """Return the indices of at most `count` classes to show.

        Those with the longest segments come first, then those with the highest probabilities.
        """
        seconds = dict.fromkeys(self.label_names, 0.0)
        for part in self.segments:
            seconds[part.label] += part.end - part.start
        total = np.array([seconds[name] for name in self.label_names])
        return np.lexsort((-self.probabilities.max(axis=0), -total))[:count]


def write_timeline(
    directory: Path, timeline: Timeline, topk: int, thumbnails: UInt8[np.ndarray, "n h w 3"]
) -> None:
    """Write timeline.json, timeline.csv, segments.csv and timeline.png, each atomically."""
    _write_text(directory / "timeline.json", _json(timeline, topk))
    _write_text(directory / "timeline.csv", _windows_csv(timeline, topk))
    _write_text(directory / "segments.csv", _segments_csv(timeline))
    save_timeline(directory / "timeline.png", _picture(timeline, thumbnails))


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def _json(timeline: Timeline, topk: int) -> str:
    content = {
        "video": encodable(timeline.video),
        "duration": rounded(timeline.duration),
        "error": encodable(timeline.failure) or None,
        "segments": [*map(segment_json, timeline.segments)],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # A line a window.
    windows = ",\n    ".join(
        json.dumps(_window(timeline, index, topk), ensure_ascii=False)
        for index in range(len(timeline.starts))
    )
    return f'{text.removesuffix("}").rstrip()},\n  "windows": [\n    {windows}\n  ]\n}}\n'


def segment_json(part: Segment) -> dict[str, object]:
    """Return a segment as it is written in JSON; a name that is not UTF-8 has escapes."""
    return {
        "start": rounded(part.start),
        "end": rounded(part.end),
        "class": encodable(part.label),
        "score": rounded(part.score),
    }


def _window(timeline: Timeline, index: int, topk: int) -> dict[str, object]:
    top = timeline.top_classes(index, topk)
    return {
        "start": rounded(timeline.starts[index]),
        "end": rounded(timeline.ends[index]),
        "classes": [encodable(name) for name, _ in top],
        "probabilities": [share for _, share in top],
    }


def _windows_csv(timeline: Timeline, topk: int) -> str:
    count = min(topk, len(timeline.label_names))
    columns = [f"{kind}_{k + 1}" for k in range(count) for kind in ("class", "probability")]
    rows: list[list[object]] = [["start", "end", *columns]]
    for index in range(len(timeline.starts)):
        top = [value for pair in timeline.top_classes(index, topk) for value in pair]
        rows.append([rounded(timeline.starts[index]), rounded(timeline.ends[index]), *top])
    return _csv(rows)


def _segments_csv(timeline: Timeline) -> str:
    parts = [[*segment_json(part).values()] for part in timeline.segments]
    return _csv([["start", "end", "class", "score"], *parts])


def _csv(rows: list[list[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return encodable(text.getvalue())


def rounded(value: float) -> float:
    """Round seconds or a probability to the digits that files have."""
    return round(float(value), _DIGITS)


def _picture(timeline: Timeline, thumbnails: np.ndarray) -> TimelinePicture:
    scores, chosen = timeline.probabilities, timeline.main_classes(_TOP_CLASSES)
    names = [timeline.label_names[k] for k in chosen]
    return TimelinePicture(
        video=timeline.video,
        duration=timeline.duration,
        borders=window_borders(timeline.times, timeline.end),
        probabilities=scores[:, chosen],
        label_names=names,
        spans=[
            (names.index(part.label), part.start, part.end)
            for part in timeline.segments
            if part.label in names
        ],
        thumbnails=thumbnails,
    )
