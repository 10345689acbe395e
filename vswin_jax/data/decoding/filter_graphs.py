"""Filter graphs that convert decoded frames to RGB as the command `ffmpeg` does.

The command crops a frame as its container asks, mirrors and turns it by its display matrix, scales
it to the size of the first frame, and converts it to RGB with bicubic interpolation of its chroma.
The graphs here consist of the same filters of libavfilter, in the same order.
"""

import functools
import gc
import math
import struct
import threading
from typing import NamedTuple

from av.filter import Graph

_CACHED_GRAPHS = 2  # in each thread
_PIXELS_PER_COLLECTION = 8 << 20  # a graph keeps about 10 bytes for each pixel of a frame

Size = tuple[int, int]  # width, height


class Conversion(NamedTuple):
    """The properties of a frame, and the size of its picture, that determine a filter graph.

    Attributes:
      pixel_format: the format's name in FFmpeg.
      width: of the decoded frame.
      height: of the decoded frame.
      colorspace: the value of FFmpeg's enumeration.
      color_range: the value of FFmpeg's enumeration.
      matrix: the display matrix, nine int32 values, or empty.
      cropping: the margins that the container cuts off, four uint32 values, or empty.
      size: the size to which the upright picture is scaled; None keeps its own.
    """

    pixel_format: str
    width: int
    height: int
    colorspace: int
    color_range: int
    matrix: bytes
    cropping: bytes
    size: Size | None


def filter_graph(conversion: Conversion) -> Graph:
    """Return a graph into which frames of a kind are pushed and from which RGB is pulled.

    The graph belongs to the calling thread, and may be one that was returned before.
    """
    return _graphs.get(conversion)


class _Graphs(threading.local):
    """The filter graphs of the latest conversions, for each thread its own."""

    def __init__(self) -> None:
        self.get = functools.lru_cache(_CACHED_GRAPHS)(self._build)
        self._pixels = 0

    def _build(self, conversion: Conversion) -> Graph:
        # A graph keeps memory for frames. In PyAV 19 it is also a reference cycle, which is left to
        # the garbage collector, and that does not know how large it is.
        self._pixels += conversion.width * conversion.height
        if self._pixels > _PIXELS_PER_COLLECTION:
            gc.collect()
            self._pixels = 0
        graph = Graph()
        graph.threads = 1
        nodes = [graph.add(name, arguments or None) for name, arguments in _filters(conversion)]
        graph.link_nodes(*nodes).configure()
        return graph


_graphs = _Graphs()


def _filters(conversion: Conversion) -> list[tuple[str, str]]:
    """Return the filters (name, arguments) that `ffmpeg` inserts for `-pix_fmt rgb24`."""
    source = (
        f"video_size={conversion.width}x{conversion.height}:pix_fmt={conversion.pixel_format}:"
        f"colorspace={conversion.colorspace}:range={conversion.color_range}:"
        "time_base=1/90000:pixel_aspect=1/1"
    )
    scale = [("scale", "{}:{}:flags=bicubic".format(*conversion.size))] if conversion.size else []
    return [
        ("buffer", source),
        *_crop(conversion.cropping),
        *_orientation(conversion.matrix),
        *scale,
        # Another `scale`, whose default is bicubic too, is inserted where it is needed.
        ("format", "pix_fmts=rgb24"),
        ("buffersink", ""),
    ]


def _crop(cropping: bytes) -> list[tuple[str, str]]:
    if not any(cropping):
        return []
    top, bottom, left, right = struct.unpack_from("<4I", cropping)
    return [("crop", f"w=iw-{left}-{right}:h=ih-{top}-{bottom}:x={left}:y={top}")]


def _orientation(matrix: bytes) -> list[tuple[str, str]]:
    """Return the filters (name, arguments) that make a picture upright, by the rules of `ffmpeg`.

    The matrix [[a, b, u], [c, d, v], [x, y, w]] maps a point (p, q, 1) of the decoded picture to
    the display.
    """
    if not matrix:
        return []
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    if not (a or c) or not (b or d):
        return []
    clockwise = math.atan2(b / math.hypot(b, d), a / math.hypot(a, c))
    degrees = round(math.degrees(clockwise)) % 360
    if degrees == 90:
        return [("transpose", "cclock_flip" if c > 0 else "clock")]
    if degrees == 270:
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    if degrees in (0, 180):
        mirrors = [("hflip", a < 0 and degrees == 180), ("vflip", d < 0)]
        return [(name, "") for name, is_mirrored in mirrors if is_mirrored]
    # Turns the picture within its frame, whose size stays; corners become black.
    return [("rotate", f"{degrees}*PI/180")] if degrees > 1 else []
