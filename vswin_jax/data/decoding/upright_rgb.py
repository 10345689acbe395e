"""Converts decoded frames to upright RGB arrays with the values that `ffmpeg` gives.

Most frames need neither cropping, mirroring, turning nor scaling, and libswscale only repeats their
chroma samples. PyAV's reformatter converts them. All others pass through a graph of filters.
"""

import functools
import math
import struct
from collections.abc import Callable

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter

from vswin_jax.data.decoding.filter_graphs import Conversion, Size, filter_graph

# libswscale repeats the chroma samples of these formats if the height is even. It interpolates
# those of others, at positions that the filter `scale` and PyAV's reformatter take differently.
_REPEATED_CHROMA = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"})
_UNSPECIFIED = 2  # of FFmpeg's enumerations of transfer characteristics and of primaries


class FrameConverter:
    """Converts the frames of one video to upright RGB arrays of one size.

    As in `ffmpeg`, the first frame determines the size, frames of another size are scaled to it,
    and a display matrix holds for the following frames that have none.
    """

    def __init__(
        self, decoder: VideoCodecContext, first_frame: Callable[[], av.VideoFrame]
    ) -> None:
        """Take the size and the cropping that the container states from an unused decoder.

        `first_frame` decodes the first frame. It is called if frames differ from each other or from
        what the container states.
        """
        self._first_frame = first_frame
        # PyAV 18 does not give it.
        side_data = getattr(decoder, "coded_side_data", {})
        self._cropping = side_data.get("frame_cropping", b"")
        self._matrix = b""
        # Until a frame differs, decoding the first one is saved.
        self._expected: tuple[int, int, bytes] | None = None
        self._stated_size = (decoder.width, decoder.height)
        self._are_alike = True
        self._reformatter = VideoReformatter()

    def observe(self, frame: av.VideoFrame) -> None:
        """Keep the display matrix of a frame that is not converted, for the frames after it."""
        self._matrix = _display_matrix(frame) or self._matrix

    def convert(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the upright picture of a frame, uint8 RGB [H, W, 3]; it may have padded rows."""
        self.observe(frame)
        if self._expected is None:
            self._expected = (*self._stated_size, self._matrix)
        self._are_alike &= (frame.width, frame.height, self._matrix) == self._expected
        if self._are_alike and not self._matrix and not self._cropping and _is_repeated(frame):
            # One thread: otherwise FFmpeg starts a thread pool for each conversion, which costs
            # more than the conversion.
            rgb = self._reformatter.reformat(
                frame, None, None, "rgb24", interpolation=Interpolation.BICUBIC, threads=1
            )
            return _pixels(rgb)
        return self._filter(frame, self._matrix, None if self._are_alike else self._output_size)

    @functools.cached_property
    def _output_size(self) -> Size:
        """The size of the first frame's upright picture."""
        first = self._first_frame()
        height, width = self._filter(first, _display_matrix(first), None).shape[:2]
        return width, height

    def _filter(self, frame: av.VideoFrame, matrix: bytes, size: Size | None) -> np.ndarray:
        """Return the picture that the filters give for a frame; without a size it keeps its own."""
        conversion = Conversion(
            pixel_format=frame.format.name,
            width=frame.width,
            height=frame.height,
            colorspace=int(frame.colorspace),
            color_range=int(frame.color_range),
            matrix=matrix,
            cropping=self._cropping,
            size=size,
        )
        # The filters use neither, but refuse reserved values.
        frame.color_trc = frame.color_primaries = _UNSPECIFIED
        graph = filter_graph(conversion)
        graph.push(frame)
        return _pixels(graph.pull())


def _display_matrix(frame: av.VideoFrame) -> bytes:
    try:
        side_data = frame.side_data
    except ValueError:
        # PyAV 18 refuses side data that it does not know, such as EXIF. A mirror image is lost.
        return _rotation_matrix(-frame.rotation)
    # Most frames have none. Looking a type up in vain takes longer than all other checks.
    if not len(side_data) or Type.DISPLAYMATRIX not in side_data:
        return b""
    return bytes(side_data[Type.DISPLAYMATRIX])


def _rotation_matrix(clockwise: float) -> bytes:
    """Return the display matrix that rotates by an angle in degrees."""
    sine, cosine = math.sin(math.radians(clockwise)), math.cos(math.radians(clockwise))
    rows = ((cosine, sine, 0), (-sine, cosine, 0), (0, 0, 1 << 14))
    return struct.pack("=9i", *(round(value * (1 << 16)) for row in rows for value in row))


def _is_repeated(frame: av.VideoFrame) -> bool:
    # The reformatter converts the two fields of an interlaced frame separately, unlike `scale`.
    return (
        frame.format.name in _REPEATED_CHROMA
        and frame.height % 2 == 0
        and not frame.interlaced_frame
    )


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """Return a view of an RGB frame's pixels, uint8 [H, W, 3]."""
    (plane,) = frame.planes
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, abs(plane.line_size))
    if plane.line_size < 0:
        # The rows are stored from the last to the first.
        rows = np.ascontiguousarray(rows[::-1])
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
