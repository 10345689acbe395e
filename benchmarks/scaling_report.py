"""Report of linear_growth.py: cost per frame by clip length, a linear fit, a table and a figure.

A row is one program for clips of one length. It has the fields of `SERIES`, `frames`, and some of
`MEASURES`.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vswin_jax.reporting.any_backend import any_backend
from vswin_jax.reporting.plots import AMBER, BLUE, GREEN, INK, RED
from vswin_jax.runtime.atomic_write import atomic_write

with any_backend():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

# Measures and their units; "seconds" are measured on a CPU and a lower bound for other chips.
MEASURES = {"seconds": "s", "memory": "B", "traffic": "B", "flops": "FLOP"}
# Rows that agree in these fields differ in the length of the clip only.
SERIES = ("platform", "variant", "depths", "size", "clips", "program")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ScalingCurve:
    """One measure of a series by the number of frames, which ascends in `amounts`."""

    series: tuple[Any, ...]
    measure: str
    amounts: Mapping[int, float]

    @property
    def per_frame(self) -> dict[int, float]:
        """The amount of a clip divided by its frames."""
        return {frames: amount / frames for frames, amount in self.amounts.items()}

    @property
    def relative(self) -> dict[int, float]:
        """The amount per frame divided by that of the longest clip."""
        per_frame = self.per_frame
        return {frames: value / per_frame[max(per_frame)] for frames, value in per_frame.items()}

    @property
    def linear_fit(self) -> tuple[float, float]:
        """Slope and intercept of the line with the least squares of relative errors."""
        frames, amounts = np.array(list(self.amounts)), np.array(list(self.amounts.values()))
        slope, intercept = np.polyfit(frames, amounts, 1, w=1 / amounts)
        return float(slope), float(intercept)

    @property
    def without_intercept(self) -> dict[int, float]:
        """The amount per frame without the intercept, divided by the slope."""
        slope, intercept = self.linear_fit
        return {n: (amount - intercept) / (n * slope) for n, amount in self.amounts.items()}

    def __str__(self) -> str:
        value, unit = list(self.per_frame.values())[-1], MEASURES[self.measure]
        prefixes = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3))
        prefix, scale = next((p for p in prefixes if value >= p[1]), ("µ", 1e-6))
        return f"{value / scale:.3g} {prefix}{unit}"


def scaling_curves(rows: Iterable[Row]) -> list[ScalingCurve]:
    """Return every measure of every series that has at least two lengths."""
    series: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["frames"]):
        series.setdefault(_series(row), []).append(row)
    return [
        ScalingCurve(name, measure, {row["frames"]: row[measure] for row in members})
        for name, members in series.items()
        for measure in MEASURES
        if len(members) > 1 and measure in members[0]
    ]


def merge_rows(saved: Iterable[Row], new: Sequence[Row]) -> list[Row]:
    """Return all rows, with new ones in place of saved ones of the same case.

    On a CPU a new row replaces the whole series, since seconds of different calls do not compare.
    """
    replaced = {_case(row) for row in new}
    return [row for row in saved if _case(row) not in replaced] + list(new)


def _series(row: Row) -> tuple[Any, ...]:
    return tuple(tuple(row[name]) if name == "depths" else row[name] for name in SERIES)


def _case(row: Row) -> tuple[Any, ...]:
    return _series(row) + (() if row["platform"] == "cpu" else (row["frames"],))


def table(curves: Sequence[ScalingCurve]) -> str:
    """Return the amounts per frame, relative to the longest clip, and the linear fits as Markdown.

    The intercept is given in frames, as its ratio to the slope; "deviation" is the largest
    deviation of the amount per frame from the slope after the intercept is subtracted.
    """
    lengths = sorted({frames for curve in curves for frames in curve.amounts})
    header = [
        "platform",
        "model",
        "size",
        "clips",
        "program",
        "measure",
        "per frame of the longest",
    ]
    header += [*map(str, lengths), "intercept", "deviation"]
    lines = [header, ["---"] * len(header), *(_cells(curve, lengths) for curve in curves)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(curve: ScalingCurve, lengths: Sequence[int]) -> list[str]:
    platform, variant, _, size, clips, program = curve.series
    relative, (slope, intercept) = curve.relative, curve.linear_fit
    deviation = max(abs(ratio - 1) for ratio in curve.without_intercept.values())
    cells = [platform, variant, str(size), str(clips), program, curve.measure, str(curve)]
    cells += [f"{relative[n]:.3f}" if n in relative else "-" for n in lengths]
    cells += [f"{intercept / slope:.1f} frames"]
    # A line fits two points exactly.
    return [*cells, f"{deviation:.1%}" if len(relative) > 2 else "-"]


def save_figure(path: Path, curves: Sequence[ScalingCurve]) -> None:
    """Draw time and memory per frame, relative to the longest clip, with a band of 10 %."""
    figure = Figure(figsize=(11, 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, ("seconds", "memory"), strict=True):
        _draw(axes, [curve for curve in curves if curve.measure == measure])
        axes.set_title(f"{measure} per frame, relative to the longest clip", loc="left", color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw(axes: Axes, curves: Sequence[ScalingCurve]) -> None:
    """Draw the relative amounts as solid lines, and those without the intercept as dashed ones."""
    axes.axhspan(0.9, 1.1, color="#e4e7eb", linewidth=0)
    for curve, colour in zip(curves, itertools.cycle((BLUE, GREEN, AMBER, RED)), strict=False):
        platform, _, _, size, _, program = curve.series
        where = "CPU" if platform == "cpu" else f"{platform}, by the compiler"
        label = f"{where}, {size}², {program}: {curve} per frame"
        frames, style = list(curve.amounts), {"color": colour, "marker": "o", "markersize": 4}
        axes.plot(frames, list(curve.relative.values()), label=label, **style)
        axes.plot(frames, list(curve.without_intercept.values()), "--", color=colour, linewidth=1)
    axes.set_xscale("log", base=2)
    lengths = sorted({frames for curve in curves for frames in curve.amounts})
    axes.set_xticks(lengths, map(str, lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("frames of the clip (dashed: without the intercept of the linear fit)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if curves:
        axes.legend(frameon=False, fontsize=8.5)
