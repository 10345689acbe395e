"""Draws the windows of a block and their segments in 3D: `python scripts/draw_windows.py`.

    python scripts/draw_windows.py

docs/windows.svg shows a small grid of tokens, cut into windows by `attention.WindowGeometry`:
without a shift, after the cyclic shift, and the last of the shifted windows taken apart into its
segments. A test compares the picture with the output of this script.
"""

import colorsys
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from vswin_jax.attention import WindowGeometry
from vswin_jax.runtime.script_parser import script_parser
from vswin_jax.runtime.standard_streams import run_script

PICTURE = Path(__file__).parents[1] / "docs" / "windows.svg"
GRID, WINDOW = (4, 8, 8), (2, 4, 4)
SIDE = 20.0  # pixels of the edge of a token
ENLARGED = 1.5  # the window that is taken apart
GAPS = (1.4, 2.2, 1.4)  # tokens between its segments, along each axis
WIDTH, HEIGHT = 980, 430
TOP = 100.0  # pixels above the grids
# Lightness of the faces that look up, to the right and to the left.
LIGHT = (1.0, 0.88, 0.76)

Point = tuple[float, ...]  # (time, height, width) in tokens


def run(arguments: Sequence[str]) -> int:
    """Write the picture and return the exit status."""
    script_parser(__doc__).parse_args(arguments)
    PICTURE.write_text(picture(), encoding="utf-8")
    return 0


def picture() -> str:
    """Return the picture as SVG."""
    shift = tuple(extent // 2 for extent in WINDOW)
    regular = WindowGeometry.create(GRID, WINDOW, (0, 0, 0))
    shifted = WindowGeometry.create(GRID, WINDOW, shift)
    ids = shifted.segment_ids
    assert ids is not None
    segments = len({(window, int(i)) for window, row in enumerate(ids) for i in row})
    parts = [
        *_panel(160, "regular windows", f"{regular.num_windows} windows, each one segment"),
        *_grid(160, regular),
        *_panel(490, "shifted windows", f"{shifted.num_windows} windows, {segments} segments"),
        *_grid(490, shifted),
        *_panel(810, "the last shifted window", f"{len(set(ids[-1]))} segments, taken apart"),
        *_apart(790, shifted),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="14" text-anchor="middle">'
    )
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>'
    return "\n".join([head, paper, *parts, "</svg>", ""])


def _panel(x: float, title: str, text: str) -> Iterator[str]:
    yield f'<text x="{x}" y="34" font-weight="bold">{title}</text>'
    yield f'<text x="{x}" y="56" fill="#555">{text}</text>'


def _axes(x: float) -> Iterator[str]:
    for name, across, y in (("width", -30, 372), ("time", 118, 376), ("height", -98, 220)):
        yield f'<text x="{x + across}" y="{y}" fill="#555">{name}</text>'


def _grid(x: float, geometry: WindowGeometry) -> Iterator[str]:
    """Yield the faces of the tokens on the three sides of the grid that one sees."""
    yield from _axes(x)
    window_of, segment_of = _numbers(geometry)
    for axis in range(3):
        for cell in product(*map(range, GRID)):
            if cell[axis] == GRID[axis] - 1:
                colour = _colour(int(window_of[cell]), int(segment_of[cell]), axis)
                yield _face(x, cell, (1, 1, 1), axis, colour)


def _apart(x: float, geometry: WindowGeometry) -> Iterator[str]:
    """Yield the segments of the last window as boxes, from the farthest to the nearest."""
    _, segment_of = _numbers(geometry)
    size = tuple(ENLARGED * extent / 2 for extent in WINDOW)
    for half in product((0, 1), repeat=3):
        # The first token of this half of the last window, along each axis.
        segment = int(
            segment_of[tuple((h - 2) * n // 2 for h, n in zip(half, WINDOW, strict=True))]
        )
        corner = tuple(h * (s + gap) for h, s, gap in zip(half, size, GAPS, strict=True))
        for axis in range(3):
            colour = _colour(geometry.num_windows - 1, segment, axis)
            yield _face(x, corner, size, axis, colour)
        middle = (corner[0] + size[0] / 2, corner[1] + size[1], corner[2] + size[2] / 2)
        across, down = _project(middle)
        yield f'<text x="{x + across:.1f}" y="{down + 5:.1f}" fill="#fff">{segment}</text>'


def _numbers(geometry: WindowGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the window and the segment of each place of the (shifted) grid, each [D, H, W]."""
    shape = (geometry.num_windows, geometry.tokens)
    segments = np.zeros(shape, int) if geometry.segment_ids is None else geometry.segment_ids
    windows = np.broadcast_to(np.arange(geometry.num_windows)[:, None], shape)
    # The inverse of the partition alone: places after the cyclic shift.
    unshifted = WindowGeometry.create(GRID, WINDOW, (0, 0, 0))
    in_place = (unshifted.merge(values[None, ..., None]) for values in (windows, segments))
    window_of, segment_of = (values[0, ..., 0] for values in in_place)
    return window_of, segment_of


def _face(x: float, corner: Point, size: Point, axis: int, colour: str) -> str:
    """Return the far face along `axis` of a box as a polygon: what a viewer at the far end sees."""
    a, b = (other for other in range(3) if other != axis)
    points = []
    for along_a, along_b in ((0, 0), (1, 0), (1, 1), (0, 1)):
        point = list(corner)
        point[axis] += size[axis]
        point[a] += along_a * size[a]
        point[b] += along_b * size[b]
        across, down = _project(tuple(point))
        points.append(f"{x + across:.1f},{down:.1f}")
    return (
        f'<polygon points="{" ".join(points)}" fill="{colour}" stroke="#fff" stroke-width="0.8"/>'
    )


def _project(point: Point) -> tuple[float, float]:
    """Return pixels (to the right, down) of a point (time, height, width) in tokens."""
    time, height, width = point
    across = (width - time) * math.cos(math.pi / 6)
    down = (width + time) * math.sin(math.pi / 6) - height
    return SIDE * across, TOP + SIDE * (down + GRID[1])


def _colour(window: int, segment: int, axis: int) -> str:
    """Return the colour of a face: a hue for each window, a shade for each segment of it."""
    lightness = (0.86 - 0.065 * segment) * LIGHT[(2, 0, 1)[axis]]
    red, green, blue = colorsys.hls_to_rgb(window / 8, lightness, 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


if __name__ == "__main__":
    sys.exit(run_script(run))
