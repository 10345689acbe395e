"""Plot of a timeline: frames of a video above a heat map of its most probable classes over time."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vswin_jax.reporting.any_backend import any_backend
from vswin_jax.reporting.plots import (
    GREY,
    INK,
    PLAIN_TEXT,
    SHADES,
    new_figure,
    save_figure,
    shorten,
)
from vswin_jax.runtime.clock_time import clock_time

with any_backend():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

_WIDTH = 13.0  # inches
_SEGMENT = "#c0392b"
# Columns of the heat map; of more windows the largest probability is drawn.
_MAX_COLUMNS = 2000


@dataclass(frozen=True)
class TimelinePicture:
    """The content of the plot.

    Attributes:
      video: the path.
      duration: in seconds.
      borders: the times between the windows, from 0 on, in seconds.
      probabilities: of each window for the R classes that are drawn.
      label_names: of these classes, the first at the top.
      spans: the segments as (row, start, end), in seconds.
      thumbnails: frames spread evenly over the video; there may be none.
    """

    video: str
    duration: float
    borders: Float64[np.ndarray, " borders"]
    probabilities: Float32[np.ndarray, "W R"]
    label_names: Sequence[str]
    spans: Sequence[tuple[int, float, float]]
    thumbnails: UInt8[np.ndarray, "n height width 3"]


@rc_context(PLAIN_TEXT)
def save_timeline(path: str | os.PathLike, picture: TimelinePicture) -> None:
    """Draw a timeline as PNG, atomically."""
    rows = len(picture.label_names)
    heights = [1.1, 0.26 * rows + 0.3]
    figure = new_figure(_WIDTH, sum(heights) + 0.9)
    top, bottom = figure.subplots(2, 1, height_ratios=heights, sharex=True)
    name = os.path.join(*Path(os.path.normpath(picture.video)).parts[-2:])
    top.set_title(shorten(name, 100), loc="left", fontsize=10, color=INK)
    _draw_thumbnails(top, picture)
    _draw_heat_map(bottom, picture)
    _draw_spans(bottom, picture)
    bar = figure.colorbar(
        bottom.collections[0], ax=bottom, fraction=0.02, pad=0.01, format=PercentFormatter(1.0, 0)
    )
    bar.outline.set_visible(False)
    bottom.set_xlim(0, picture.duration)
    bottom.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 3, 6, 10]))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock_time(seconds)))
    save_figure(figure, path)


def _draw_thumbnails(axes: Axes, picture: TimelinePicture) -> None:
    axes.set_ylim(0, 1)
    axes.axis("off")
    count = len(picture.thumbnails)
    if not count:
        return
    height, width = picture.thumbnails.shape[1:3]
    # The thumbnails fill the width; each is cut to the shape of its place.
    shape = _WIDTH * 0.8 / count / 1.1
    kept_height, kept_width = min(height, round(width / shape)), min(width, round(height * shape))
    y, x = (height - kept_height) // 2, (width - kept_width) // 2
    cut = picture.thumbnails[:, y : y + kept_height, x : x + kept_width]
    gap = max(1, cut.shape[2] // 40)
    padded = np.pad(cut, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    strip = np.concatenate(padded, axis=1)
    axes.imshow(strip, extent=(0, picture.duration, 0, 1), aspect="auto")


def _draw_heat_map(axes: Axes, picture: TimelinePicture) -> None:
    scores = picture.probabilities
    merged = max(1, math.ceil(len(scores) / _MAX_COLUMNS))
    firsts = np.arange(0, len(scores), merged)
    scores = np.maximum.reduceat(scores, firsts, axis=0)
    edges = np.append(picture.borders[firsts], picture.borders[-1])
    rows = np.arange(scores.shape[1] + 1) - 0.5
    axes.pcolormesh(edges, rows, scores.T, cmap=SHADES, vmin=0, vmax=1, rasterized=True)
    axes.set_yticks(range(scores.shape[1]), [shorten(name) for name in picture.label_names])
    axes.set_ylim(scores.shape[1] - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", colors=INK)
    for row in range(1, scores.shape[1]):
        axes.axhline(row - 0.5, color=GREY, linewidth=0.3)


def _draw_spans(axes: Axes, picture: TimelinePicture) -> None:
    """Draw a line below each segment."""
    for row, start, end in picture.spans:
        axes.hlines(row + 0.4, start, end, color=_SEGMENT, linewidth=2)
