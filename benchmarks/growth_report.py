"""How what a clip costs grows with its frames: by the frame, as a line, as a table and a picture.

A row is one program for clips of one length: the names of `SERIES`, `frames`, and of `MEASURES`
those that it has.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from vswin_jax.reporting.plots import AMBER, BLUE, GREEN, INK, RED
from vswin_jax.runtime.atomic_write import whole_file

# With their units; "seconds" are measured on a CPU, and for a TPU the least that its peaks allow.
MEASURES = {"seconds": "s", "memory": "B", "traffic": "B", "flops": "FLOP"}
# Rows that agree in these differ in the length of the clip alone.
SERIES = ("platform", "variant", "depths", "size", "clips", "program")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Growth:
    """How one measure of a series grows. amounts: by the frames of the clip, in ascending order."""

    name: tuple[Any, ...]
    measure: str
    amounts: Mapping[int, float]

    @property
    def a_frame(self) -> dict[int, float]:
        """The amount of a clip over its frames, by the frames."""
        return {frames: amount / frames for frames, amount in self.amounts.items()}

    @property
    def relative(self) -> dict[int, float]:
        """`a_frame` over that of the longest clip."""
        a_frame = self.a_frame
        return {frames: value / a_frame[max(a_frame)] for frames, value in a_frame.items()}

    @property
    def line(self) -> tuple[float, float]:
        """(amount of a frame, fixed amount) of the line that misses the amounts least, in parts."""
        frames, amounts = np.array(list(self.amounts)), np.array(list(self.amounts.values()))
        slope, fixed = np.polyfit(frames, amounts, 1, w=1 / amounts)
        return float(slope), float(fixed)

    @property
    def beyond_fixed(self) -> dict[int, float]:
        """What a frame takes beside the fixed amount, over the line's amount of a frame."""
        slope, fixed = self.line
        return {n: (amount - fixed) / (n * slope) for n, amount in self.amounts.items()}

    def __str__(self) -> str:
        value, unit = list(self.a_frame.values())[-1], MEASURES[self.measure]
        prefixes = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3))
        prefix, scale = next((p for p in prefixes if value >= p[1]), ("µ", 1e-6))
        return f"{value / scale:.3g} {prefix}{unit}"


def growths(rows: Iterable[Row]) -> list[Growth]:
    """Every measure of every series of at least two lengths."""
    series: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["frames"]):
        series.setdefault(_series(row), []).append(row)
    return [
        Growth(name, measure, {row["frames"]: row[measure] for row in found})
        for name, found in series.items()
        for measure in MEASURES
        if len(found) > 1 and measure in found[0]
    ]


def kept(saved: Iterable[Row], new: Sequence[Row]) -> list[Row]:
    """All rows, the new ones in place of saved ones of the same case.

    Seconds on a CPU compare within one call alone, so there the whole series is replaced.
    """
    replaced = {_case(row) for row in new}
    return [row for row in saved if _case(row) not in replaced] + list(new)


def _series(row: Row) -> tuple[Any, ...]:
    return tuple(tuple(row[name]) if name == "depths" else row[name] for name in SERIES)


def _case(row: Row) -> tuple[Any, ...]:
    return _series(row) + (() if row["platform"] == "cpu" else (row["frames"],))


def table(found: Sequence[Growth]) -> str:
    """Markdown: each measure a frame, over that of the longest clip, and the line through it.

    "fixed part" is in frames that take as much; "else off by" is how far a frame is at most from
    the same amount everywhere, once that part is taken off.
    """
    lengths = sorted({frames for growth in found for frames in growth.amounts})
    head = ("platform", "model", "size", "clips", "program", "measure", "a frame of the longest")
    head += (*map(str, lengths), "fixed part", "else off by")
    lines = [head, ("---",) * len(head), *(_cells(growth, lengths) for growth in found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(growth: Growth, lengths: Sequence[int]) -> Sequence[str]:
    platform, variant, _, size, clips, program = growth.name
    relative, (slope, fixed) = growth.relative, growth.line
    off = max(abs(share - 1) for share in growth.beyond_fixed.values())
    return (
        *(platform, variant, str(size), str(clips), program, growth.measure, str(growth)),
        *(f"{relative[n]:.3f}" if n in relative else "-" for n in lengths),
        f"{fixed / slope:.1f} frames",
        # Through two points there is always a line.
        f"{off:.1%}" if len(relative) > 2 else "-",
    )


def save_growth(path: Path, found: Sequence[Growth]) -> None:
    """Draws time and memory a frame over those of the longest clip, with 10 % on either side."""
    figure = Figure(figsize=(11, 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, ("seconds", "memory"), strict=True):
        _draw(axes, [growth for growth in found if growth.measure == measure])
        axes.set_title(f"{measure} a frame, over those of the longest clip", loc="left", color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw(axes: Axes, found: Sequence[Growth]) -> None:
    """Solid: as it is; dashed: without the fixed part."""
    axes.axhspan(0.9, 1.1, color="#e4e7eb", linewidth=0)
    for growth, colour in zip(found, itertools.cycle((BLUE, GREEN, AMBER, RED)), strict=False):
        platform, _, _, size, _, program = growth.name
        where = "CPU" if platform == "cpu" else f"{platform}, by the compiler"
        label = f"{where}, {size}², {program}: {growth} a frame"
        frames, style = list(growth.amounts), {"color": colour, "marker": "o", "markersize": 4}
        axes.plot(frames, list(growth.relative.values()), label=label, **style)
        axes.plot(frames, list(growth.beyond_fixed.values()), "--", color=colour, linewidth=1)
    axes.set_xscale("log", base=2)
    lengths = sorted({frames for growth in found for frames in growth.amounts})
    axes.set_xticks(lengths, map(str, lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("frames of a clip (dashed: without what a clip of any length takes)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if found:
        axes.legend(frameon=False, fontsize=8.5)
