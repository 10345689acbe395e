"""Encodes frames as H.264 in mp4, with the same bytes each time."""

import io
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from vswin_jax.prepare.frame_rate import mean_frame_rate
from vswin_jax.prepare.options import PrepareOptions

TIME_BASE = Fraction(1, 90000)  # seconds, the unit of the time stamps in the files


def encode_mp4(
    frames: Iterable[np.ndarray], size: tuple[int, int], times: np.ndarray, options: PrepareOptions
) -> bytes:
    """Encode uint8 RGB frames of `size` (even height, width), shown at `times`, as H.264 in mp4.

    The bytes are reproducible: one thread, and neither dates nor library versions in the container.
    Colours are BT.601 in the narrow range, which decoders assume for files without colour tags.
    """
    file = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = _add_stream(container, size, mean_frame_rate(times), options)
        for frame, pts in zip(frames, to_pts(times).tolist(), strict=True):
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            yuv = reformatter.reformat(rgb, format="yuv420p", threads=1)
            yuv.pts, yuv.time_base = pts, TIME_BASE
            container.mux(stream.encode(yuv))
        # Flushes the frames that the encoder holds back.
        container.mux(stream.encode())
    return file.getvalue()


def _add_stream(
    container: av.container.OutputContainer,
    size: tuple[int, int],
    rate: float,
    options: PrepareOptions,
) -> av.VideoStream:
    # x264's macroblock tree reads uninitialised memory: the bytes of one in a hundred small videos
    # differed between runs, and between processors. Without it the quality at a size is the same.
    x264 = {"preset": options.preset, "crf": f"{options.crf:g}", "mbtree": "0"}
    if options.fastdecode:
        x264["tune"] = "fastdecode"
    rate = Fraction(rate).limit_denominator(10000)
    stream = container.add_stream("libx264", rate=rate, options=x264)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = TIME_BASE
    codec = stream.codec_context
    codec.time_base = TIME_BASE
    codec.gop_size = options.gop
    codec.max_b_frames = options.bframes
    codec.thread_count = 1
    codec.flags |= Flags.bitexact
    codec.colorspace, codec.color_range = Colorspace.ITU601, ColorRange.MPEG
    return stream


def to_pts(times: np.ndarray) -> np.ndarray:
    """Convert seconds [N] to strictly increasing time stamps int64 [N] in units of `TIME_BASE`."""
    pts = np.round(times * float(1 / TIME_BASE)).astype(np.int64)
    # Minus its position, each time stamp has to be at least as large as all before it.
    positions = np.arange(len(pts))
    return np.maximum.accumulate(pts - positions) + positions
