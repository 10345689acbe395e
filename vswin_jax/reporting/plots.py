"""Plots of a run: curves, scores by class, and predictions beside their frames.

Figures are created without pyplot, so drawing needs no display and no backend, and leaves no global
state.
"""

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vswin_jax.reporting.any_backend import any_backend
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.printable import printable

with any_backend():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, GREY, BLUE, GREEN, RED = "#1f2933", "#9aa5b1", "#2563a8", "#2f855a", "#c0392b"
AMBER = "#c27803"
SHADES = LinearSegmentedColormap.from_list("share", ["#ffffff", "#bcd4ec", BLUE, "#0b2545"])
NAMED_CLASSES = 40  # with more classes, names on the axes are too small to read
HALF = NAMED_CLASSES // 2
COUNTED_CLASSES = 16  # with more classes, counts do not fit the cells
LISTED_CONFUSIONS = 20
FEW_POINTS = 30  # a curve of no more has a dot at each of them
LONGEST_NAME = 24  # characters
# Names of files and classes may contain dollar signs and backslashes, which are no formulas.
PLAIN_TEXT = {"text.parse_math": False, "text.usetex": False}

# Steps and values.
Series = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class PredictionRow:
    """A video in a plot of predictions.

    Attributes:
      frames: uint8 `[T, H, W, 3]`.
      labels: names of the most probable classes.
      probabilities: those of `labels`, largest first.
      name: the file.
      truth: names of the true classes, or None if they are unknown.
    """

    frames: np.ndarray
    labels: Sequence[str]
    probabilities: Sequence[float]
    name: str = ""
    truth: tuple[str, ...] | None = None


@rc_context(PLAIN_TEXT)
def save_confusion(path: str | os.PathLike, matrix: np.ndarray, label_names: Sequence[str]) -> None:
    """Draw `matrix` int `[K, K]` (row: true class, column: predicted class) as shares of its rows.

    Few classes get names and counts; of many classes the most frequent confusions are listed.
    """
    matrix = np.asarray(matrix)
    size = len(matrix)
    named = size <= NAMED_CLASSES
    side = min(4.0 + 0.28 * size, 11.0) if named else 8.0
    figure = new_figure(side + (1.2 if named else 4.6), side)
    grid = figure.add_gridspec(1, 1 if named else 2, width_ratios=[1] if named else [1.75, 1])
    axes = figure.add_subplot(grid[0, 0])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    _draw_matrix(figure, axes, shares)
    mean = shares.diagonal()[matrix.sum(axis=1) > 0].mean() if matrix.any() else 0.0
    axes.set_title(f"Confusion matrix, mean class accuracy {mean:.1%}", loc="left", color=INK)
    if named:
        _name_ticks(axes, [shorten(name) for name in label_names])
    else:
        _circle_confusions(axes, matrix)
        _list_confusions(figure.add_subplot(grid[0, 1]), matrix, label_names)
    if size <= COUNTED_CLASSES:
        _write_counts(axes, matrix, shares)
    save_figure(figure, path)


def _draw_matrix(figure: Figure, axes: Axes, shares: np.ndarray) -> None:
    image = axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, format=PercentFormatter(1.0, 0))
    bar.set_label("share of the true class's videos", color=INK)
    bar.outline.set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    if len(names) > COUNTED_CLASSES:
        axes.tick_params(labelsize=7)


def _write_counts(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[row, column] > 0.5 else INK
        count = str(matrix[row, column])
        axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=9)


def _worst_pairs(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return the (true, predicted) classes with the most wrong predictions, the worst first."""
    wrong = matrix - np.diag(matrix.diagonal())
    cells = np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]
    pairs = (divmod(int(cell), len(wrong)) for cell in cells)
    return [pair for pair in pairs if wrong[pair]]


def _list_confusions(axes: Axes, matrix: np.ndarray, names: Sequence[str]) -> None:
    axes.axis("off")
    axes.set_title("Most frequent confusions", loc="left", color=INK)
    for position, (true, predicted) in enumerate(_worst_pairs(matrix)):
        y = 1 - (position + 0.5) / LISTED_CONFUSIONS
        count = f"{matrix[true, predicted]}"
        axes.text(0.06, y, count, ha="right", va="center", color=RED, transform=axes.transAxes)
        text = f"{shorten(names[true])}\n   predicted as {shorten(names[predicted])}"
        axes.text(0.1, y, text, va="center", fontsize=7.5, color=INK, transform=axes.transAxes)


def _circle_confusions(axes: Axes, matrix: np.ndarray) -> None:
    for true, predicted in _worst_pairs(matrix):
        axes.plot(predicted, true, "o", markersize=7, markerfacecolor="none", color=RED)


@rc_context(PLAIN_TEXT)
def save_average_precisions(
    path: str | os.PathLike,
    precisions: np.ndarray,
    videos: Sequence[int],
    label_names: Sequence[str],
) -> None:
    """Draw the average precision `[K]` of each class as a bar, the best at the top.

    `videos` are the numbers of videos of the classes; a class without any has NaN and no bar. Of
    many classes the best are drawn on the left and the worst on the right.
    """
    ranked = np.argsort(-precisions, kind="stable")[: np.isfinite(precisions).sum()]
    parts = {f"all {len(ranked)} classes (videos)": ranked}
    if len(ranked) > NAMED_CLASSES:
        best = f"the best {HALF} of {len(ranked)} classes (videos)"
        parts = {best: ranked[:HALF], f"the worst {HALF}": ranked[-HALF:]}
    mean = precisions[ranked].mean() if len(ranked) else 0.0
    figure = new_figure(7.5 * len(parts), 1.4 + 0.24 * max(len(part) for part in parts.values()))
    heading = f"Average precision, mean (dashed) {mean:.1%}"
    figure.suptitle(heading, x=0.01, ha="left", color=INK)
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, (title, part) in zip(panels, parts.items(), strict=True):
        names = [f"{shorten(label_names[k], 40)}  ({videos[k]})" for k in part]
        _draw_shares(axes, names, precisions[part], [BLUE] * len(part))
        axes.set_ylim(len(part) - 0.4, -0.6)
        axes.axvline(mean, color=GREY, linewidth=1, linestyle="--", zorder=0)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    save_figure(figure, path)


@rc_context(PLAIN_TEXT)
def save_curves(
    path: str | os.PathLike,
    losses: Mapping[str, Series],
    accuracies: Mapping[str, Series],
    title: str = "top-1",
) -> None:
    """Draw series by name: losses on the left, and accuracies (0 to 1) under `title` on the right.

    A series whose name begins with "training" is noisy: it is drawn thin, with its moving mean on
    top.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    _draw_series(left, losses)
    _draw_series(right, accuracies)
    left.set(xlabel="step", title="loss")
    left.set_ylim(bottom=0)
    right.set(xlabel="step", title=title, ylim=(0, 1.01))
    right.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    save_figure(figure, path)


def _draw_series(axes: Axes, series: Mapping[str, Series]) -> None:
    colours = itertools.cycle((GREEN, AMBER))
    for name, (steps, values) in series.items():
        if name.startswith("training"):
            # The line through few points is short, or even a single point, which no line shows.
            marker = "o" if len(values) <= FEW_POINTS else ""
            axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
            axes.plot(
                steps,
                _moving_mean(values),
                color=BLUE,
                linewidth=1.8,
                marker=marker,
                markersize=4,
                label=name,
            )
        else:
            axes.plot(steps, values, color=next(colours), marker="o", markersize=4, label=name)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if series:
        axes.legend(frameon=False)


def _moving_mean(values: Sequence[float]) -> np.ndarray:
    """Return the mean of each value and its predecessors, over a twentieth of the series."""
    values = np.asarray(values, np.float64)
    width = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


@rc_context(PLAIN_TEXT)
def save_predictions(
    path: str | os.PathLike, rows: Sequence[PredictionRow], *, frames_shown: int = 6
) -> None:
    """Draw each video as a row: frames spread over its clip, and bars of its top classes."""
    figure = new_figure(13, 0.5 + 2.0 * len(rows))
    grid = figure.add_gridspec(len(rows), 2, width_ratios=[2.4, 1])
    for position, row in enumerate(rows):
        _draw_frames(figure.add_subplot(grid[position, 0]), row, frames_shown)
        _draw_bars(figure.add_subplot(grid[position, 1]), row)
    save_figure(figure, path)


def _draw_frames(axes: Axes, row: PredictionRow, frames_shown: int) -> None:
    count = min(frames_shown, len(row.frames))
    chosen = row.frames[np.linspace(0, len(row.frames) - 1, count).round().astype(int)]
    gap = max(1, chosen.shape[2] // 40)
    padded = np.pad(chosen, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    axes.imshow(np.concatenate(padded, axis=1)[:, :-gap])
    axes.axis("off")
    truth = f"   ({' + '.join(row.truth) or 'no class'})" if row.truth is not None else ""
    title = f"{shorten(row.name, 60)}{printable(truth)}"
    axes.set_title(title, loc="left", fontsize=10, color=INK)


def _draw_bars(axes: Axes, row: PredictionRow) -> None:
    colours = [_bar_colour(label, row.truth) for label in row.labels]
    _draw_shares(axes, list(map(shorten, row.labels)), row.probabilities, colours)
    axes.set_ylim(max(len(colours), 5) - 0.4, -0.6)


def _draw_shares(
    axes: Axes,
    names: Sequence[str],
    shares: Sequence[float] | np.ndarray,
    colours: Sequence[str],
) -> None:
    """Draw horizontal bars from 0 to 1, the first at the top, with their values."""
    positions = np.arange(len(names))
    bars = axes.barh(positions, shares, color=colours, height=0.72)
    axes.bar_label(bars, fmt="{:.1%}", padding=3, fontsize=8.5, color=INK)
    axes.set_yticks(positions, names, fontsize=9)
    axes.set_xlim(0, 1.18)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)


def _bar_colour(label: str, truth: tuple[str, ...] | None) -> str:
    if truth is None:
        return BLUE
    return GREEN if label in truth else GREY


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a printable name of at most `longest` characters."""
    name = printable(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; the sizes are in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG, atomically."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, warnings.catch_warnings():
        # Names may have characters that the font lacks; a box is drawn for each.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(partial, format="png", dpi=110)
