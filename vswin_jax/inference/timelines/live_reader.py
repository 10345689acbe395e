"""Reads a live source in a thread, and keeps the frames of its last window."""

import collections
import threading
import time
from dataclasses import dataclass, field

import av
import numpy as np

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.decoding.container import open_live
from vswin_jax.data.decoding.upright_rgb import FrameConverter
from vswin_jax.data.decoding.video_stream import video_stream
from vswin_jax.errors import InputError

THREAD = "live source"
_DEFAULT_RATE = 30.0  # frames a second, where a source does not state its rate
# Frames to decode, from all to the fewest, as FFmpeg's skip_frame.
_SKIPS = ("DEFAULT", "NONREF", "NONKEY")
_BUSY, _IDLE = 0.9, 0.5  # shares of the time that decoding takes
_MEASURED_SECONDS = 2.0


@dataclass
class DecodingLoad:
    """Decides which frames to decode, so that decoding keeps up with the source.

    Attributes:
      level: 0 for all frames, 1 without those that no other frame needs, 2 for key frames alone.
    """

    level: int = 0
    _busy: float = field(default=0.0, init=False)
    _start: float | None = field(default=None, init=False)

    def add(self, stream_time: float, busy_seconds: float) -> int:
        """Count the seconds that decoding took up to a time of the stream; return the level."""
        if self._start is None or stream_time < self._start:
            self._start = stream_time
        self._busy += busy_seconds
        elapsed = stream_time - self._start
        if elapsed >= _MEASURED_SECONDS:
            share = self._busy / elapsed
            self.level += (share > _BUSY) - (share < _IDLE)
            self.level = min(max(self.level, 0), len(_SKIPS) - 1)
            self._busy, self._start = 0.0, stream_time
        return self.level


class LiveReader:
    """The last window of a live source, whose frames are decoded by a thread.

    A window has the frames that are shown at equal distances of time: `frame_interval` frames at
    the source's rate or at the model's own, or an equal part of `window` seconds.
    """

    def __init__(self, source: str, spec: ClipSpec, window: float | None, threads: int) -> None:
        """Open the source; see `open_live`."""
        self._name = source
        self._container = open_live(source, source, threads)
        self._stream = video_stream(self._container)
        self._spec = spec
        rate = spec.fps or float(self._stream.average_rate or _DEFAULT_RATE)
        self._step = spec.frame_interval / rate if window is None else window / spec.num_frames
        self._frames: collections.deque[np.ndarray] = collections.deque(maxlen=spec.num_frames)
        self._changed = threading.Condition()  # of the following and of `_frames`
        self._time = 0.0
        self._failure: str | None = None
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()

    def wait_until(self, seconds: float) -> tuple[float, list[np.ndarray]] | None:
        """Wait until the source has shown so many seconds and a whole window.

        Returns the time of the last frame, from the first one on, and the T frames of the window,
        uint8 [height, width, 3]; None if the source has ended.

        Raises:
          InputError: reading the source has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._is_due(seconds))
            if self._is_due(seconds):
                return self._time, [*self._frames]
        if self._failure:
            raise InputError(f"The live source {self._name!r} has ended: {self._failure}.")
        return None

    def close(self) -> None:
        """Let the thread end after its next packet."""
        with self._changed:
            self._is_open = False

    def _is_due(self, seconds: float) -> bool:
        return self._time >= seconds and len(self._frames) == self._spec.num_frames

    def _run(self) -> None:
        try:
            self._read()
        except (av.FFmpegError, OSError, InputError) as error:
            self._failure = getattr(error, "strerror", None) or str(error)
        finally:
            self._container.close()
            with self._changed:
                self._is_open = False
                self._changed.notify()

    def _read(self) -> None:
        decoder, load = self._stream.codec_context, DecodingLoad()
        for packet in self._container.demux(self._stream):
            if not self._is_open:
                return
            start = time.monotonic()
            try:
                for frame in decoder.decode(packet):
                    self._show(frame)
            except av.InvalidDataError:
                # A part of the stream was lost on its way.
                continue
            level = load.add(self._time, time.monotonic() - start)
            decoder.skip_frame = _SKIPS[level]

    def _show(self, frame: av.VideoFrame) -> None:
        """Keep a frame if one is due; a frame that is shown for longer counts several times."""
        now = frame.time if frame.time is not None else time.monotonic()
        if not self._frames:
            self._begin(frame, now)
        elapsed = now - self._first_time
        due = int(elapsed / self._step + 1e-6) + 1 - self._count
        pictures: list[np.ndarray] = []
        if due > 0:
            upright = self._converter.convert(frame)
            small = transforms.resize_short_side(upright, self._spec.eval_short_side)
            pictures = [np.array(small)] * min(due, self._spec.num_frames)
            self._count += due
        with self._changed:
            self._frames.extend(pictures)
            self._time = max(self._time, elapsed)
            self._changed.notify()

    def _begin(self, frame: av.VideoFrame, now: float) -> None:
        self._first_time, self._count = now, 0
        self._converter = FrameConverter(self._stream.codec_context, lambda: frame)
