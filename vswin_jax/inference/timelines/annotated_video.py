"""Writes a video with the classes of its segments on the frames, and its sound."""

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vswin_jax.data.decoding.container import open_container
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.decoding.video_stream import video_stream
from vswin_jax.data.pipeline.frame_cursor import LongVideo, frame_times
from vswin_jax.inference.timelines.segments import (
    SegmentOptions,
    smooth_over_time,
    window_borders,
)
from vswin_jax.inference.timelines.timeline_files import Timeline
from vswin_jax.prepare.mp4 import TIME_BASE, to_pts
from vswin_jax.reporting.contact_sheet import enlarged_size, fit_frame
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.progress import Progress, WriteLine

_MOST_LINES = 3
# Pixels of the longer side, below which a frame is enlarged by a whole factor.
_LEAST_SIDE = 320
_TEXT_SHARE = 20  # the height of the frame over that of a line of text
_MIN_TEXT = 12  # pixels
# The sound is copied if mp4 files commonly have its codec.
_AUDIO_CODECS = ("aac", "mp3", "ac3", "opus", "flac")


def write_annotated(
    path: Path, source: LongVideo, timeline: Timeline, options: SegmentOptions, report: WriteLine
) -> None:
    """Write an mp4 of all frames at their times, with the classes of the segments at the top.

    Frames after the end of the timeline are left out.

    Raises:
      InputError: a frame cannot be decoded.
    """
    captions = Captions(timeline, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_video(source.video, source.name, source.threads) as video,
        atomic_write(path) as partial,
        av.open(os.fspath(partial), "w", format="mp4") as container,
        ExitStack() as stack,
    ):
        times = frame_times(video, source)
        times = times[times < timeline.end]
        progress = Progress(len(times), report, unit="frames")
        frames = video.frames()
        pictures = (_even(captions.draw(next(frames), time)) for time in times.tolist())
        first = next(pictures)
        stream = _add_video(container, first.shape)
        sound = _Sound(source, container, stack)
        for pts, picture in zip(to_pts(times).tolist(), chain([first], pictures), strict=True):
            container.mux(_encode(stream, picture, pts))
            sound.mux_until(float(pts * TIME_BASE))
            progress.add()
        container.mux(stream.encode())
        sound.mux_until(timeline.end)


class Captions:
    """The text of each moment: the classes of the segments that it is in, with probabilities."""

    def __init__(self, timeline: Timeline, options: SegmentOptions) -> None:
        self._timeline = timeline
        self._scores = smooth_over_time(timeline.probabilities, timeline.times, options.smooth)
        self._borders = window_borders(timeline.times, timeline.end)[1:-1]

    def lines(self, time: float) -> tuple[str, ...]:
        """Return the lines at a time in seconds, the most probable class first."""
        scores = self._scores[np.searchsorted(self._borders, time, "right")]
        names = self._timeline.label_names
        shown = {part.label for part in self._timeline.segments if part.start <= time < part.end}
        chosen = sorted((-scores[k], names[k]) for k in range(len(names)) if names[k] in shown)
        return tuple(f"{printable(name)}  {-score:.0%}" for score, name in chosen[:_MOST_LINES])

    def draw(self, frame: UInt8[np.ndarray, "H W 3"], time: float) -> UInt8[np.ndarray, "H W 3"]:
        """Return a copy of the frame with the text at its top left; small ones are enlarged."""
        longer = max(frame.shape[:2])
        frame = np.array(fit_frame(frame, enlarged_size(longer, _LEAST_SIDE)))
        lines = self.lines(time)
        if lines:
            text = _text_picture(lines, max(_MIN_TEXT, frame.shape[0] // _TEXT_SHARE))
            text = text[: frame.shape[0], : frame.shape[1]]
            frame[: text.shape[0], : text.shape[1]] = text
        return frame


@functools.lru_cache(maxsize=64)
def _text_picture(lines: tuple[str, ...], size: int) -> np.ndarray:
    """Draw lines of text, white on black, uint8 [height, width, 3]."""
    font = ImageFont.load_default(size)
    margin = size // 3
    width = math.ceil(max(map(font.getlength, lines))) + 2 * margin
    picture = Image.new("RGB", (width, len(lines) * (size + margin) + margin), "black")
    pen = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        pen.text((margin, margin // 2 + row * (size + margin)), line, fill="white", font=font)
    return np.asarray(picture)


def _even(picture: np.ndarray) -> np.ndarray:
    """Repeat the last row and column of odd sides: H.264 stores colour at half the resolution."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _add_video(container: av.container.OutputContainer, shape: tuple[int, ...]) -> av.VideoStream:
    stream = container.add_stream("libx264", options={"crf": "20", "preset": "veryfast"})
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = TIME_BASE
    return stream


def _encode(stream: av.VideoStream, picture: np.ndarray, pts: int) -> list[av.Packet]:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts, frame.time_base = pts, TIME_BASE
    return stream.encode(frame)


class _Sound:
    """The packets of a video's sound, which are copied as they are; none for images."""

    def __init__(
        self, source: LongVideo, container: av.container.OutputContainer, stack: ExitStack
    ) -> None:
        self._container = container
        self._packets: Iterator[tuple[float, av.Packet]] = iter(())
        self._waiting: tuple[float, av.Packet] | None = None
        if isinstance(source.video, FrameFolder):
            return
        opened = stack.enter_context(open_container(source.video, source.name))
        audio = next(iter(opened.streams.audio), None)
        # The file may have a codec that mp4 has no place for, or that has no name here.
        if audio is not None and audio.codec_context.name in _AUDIO_CODECS:
            self._packets = self._copies(opened, audio)
            self._waiting = next(self._packets, None)

    def mux_until(self, time: float) -> None:
        """Write the packets up to a time in seconds, so that the two streams alternate."""
        while self._waiting is not None and self._waiting[0] <= time:
            self._container.mux(self._waiting[1])
            self._waiting = next(self._packets, None)

    def _copies(
        self, opened: av.container.InputContainer, audio: av.AudioStream
    ) -> Iterator[tuple[float, av.Packet]]:
        """Yield each packet with its time after the first frame of the video."""
        target = self._container.add_stream_from_template(audio)
        film = video_stream(opened)
        start = (film.start_time or 0) * film.time_base if film else 0
        shift = round(start / audio.time_base)
        with contextlib.suppress(av.FFmpegError):
            for packet in opened.demux(audio):
                if packet.dts is None or packet.pts is None or packet.pts < shift:
                    continue
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                time = float(packet.pts * audio.time_base)
                packet.stream = target
                yield time, packet
