"""Reads the frames of a long video one after another, in a process that keeps the video open."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.clips.window_plan import WindowPlan, plan_windows
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.data.decoding.video import Video
from vswin_jax.errors import InputError

# Frames that may arrive before an earlier one: decoders reorder fewer.
_MAX_HELD = 64


@dataclass(frozen=True)
class LongVideo:
    """A video and its windows, as a decoding process needs them.

    Attributes:
      video: the path, a `FrameFolder`, or the bytes of a file.
      name: for messages.
      spec: the sampling and the sizes of the clips.
      stride: seconds from the start of a window to that of the next one.
      window: seconds of a window, for uniform sampling.
      frame_rate: frames a second, for images.
      threads: of the decoder.
      most_windows: the stride of a long video is larger, so that it has at most so many windows.
    """

    video: Any
    name: str
    spec: ClipSpec
    stride: float
    window: float | None = None
    frame_rate: float | None = None
    threads: int = 1
    most_windows: int | None = None


@dataclass(frozen=True)
class OpenedVideo:
    """The result of opening a long video.

    Attributes:
      plan: its windows.
      shape: (height, width) of a frame whose short side is that of the evaluation.
    """

    plan: WindowPlan
    shape: tuple[int, int]


class FrameCursor:
    """An open video with the position of the next frame among those that its windows need.

    Attributes:
      opened: the windows and the size of the frames.
      position: of the next frame.
    """

    def __init__(self, source: LongVideo, position: int = 0) -> None:
        self.source, self.position = source, position
        self._video = open_video(source.video, source.name, source.threads)
        try:
            times = frame_times(self._video, source)
            plan = plan_windows(
                times, source.spec, source.stride, source.window, source.most_windows
            )
            self._needed = np.unique(plan.indices)
            self._frames = frames_in_order(self._video, self._needed[position:])
            first = next(self._frames, None)
            shape = (0, 0) if first is None else self._resize(first).shape[:2]
        except BaseException:
            self._video.close()
            raise
        if first is not None:
            self._frames = itertools.chain([first], self._frames)
        self.opened = OpenedVideo(plan, shape)

    def read(self, out: UInt8[np.ndarray, "n height width 3"]) -> tuple[int, str]:
        """Write the next frames to `out`; return their number, and the error that ended them.

        Frames before a damaged part of the video count.
        """
        count = 0
        try:
            for frame, target in zip(itertools.islice(self._frames, len(out)), out, strict=False):
                target[:] = self._resize(frame)
                count += 1
                self.position += 1
        except InputError as error:
            return count, str(error)
        return count, ""

    def read_at(
        self, indices: Int64[np.ndarray, " n"], out: UInt8[np.ndarray, "n height width 3"]
    ) -> None:
        """Write single frames of the video to `out`; the position stays."""
        out[:] = self._video.decode(indices, lambda frame, _: self._resize(frame))

    def close(self) -> None:
        """Close the video."""
        self._video.close()

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        return transforms.resize_short_side(frame, self.source.spec.eval_short_side)


def frames_in_order(video: Video, indices: Int64[np.ndarray, " n"]) -> Iterator[np.ndarray]:
    """Yield the frames at sorted distinct `indices`, in this order, each decoded once.

    If decoding from key frames leaves one out, the rest comes from a pass over the whole file.

    Raises:
      InputError: a frame cannot be decoded; those before it were yielded.
    """
    held: dict[int, np.ndarray] = {}
    position = 0
    for index, frame in video.decode_each(indices):
        held[index] = frame
        while position < len(indices) and indices[position] in held:
            yield held.pop(indices[position])
            position += 1
        if len(held) > _MAX_HELD:
            held.clear()
            yield from _sequential_frames(video, indices[position:])
            return
    if position < len(indices):
        raise InputError(
            f"Frame {indices[position]} of {video.num_frames} in {video.name!r} cannot be decoded: "
            f"the file is damaged; encode it again or take it off the list."
        )


def _sequential_frames(video: Video, indices: np.ndarray) -> Iterator[np.ndarray]:
    needed = set(indices.tolist())
    return (frame for index, frame in enumerate(video.frames()) if index in needed)


def frame_times(video: Video, source: LongVideo) -> Float64[np.ndarray, " N"]:
    """Return the times at which frames are shown, in seconds from the first one.

    Raises:
      InputError: the video is images, and the source has no frame rate for them.
    """
    if video.times is not None:
        return video.times
    if source.frame_rate is None:
        raise InputError(
            f"Expected {source.name!r} to have the times at which its frames are shown, but images "
            f"do not: give their number in a second, such as --frame-rate 30.",
            ["frame_rate"],
        )
    return np.arange(video.num_frames) / source.frame_rate


# The one video that this process keeps open from a call to the next one; none at first.
_kept: list[FrameCursor] = []


def open_cursor(source: LongVideo) -> OpenedVideo:
    """Open a video, keep it open, and return its windows.

    Raises:
      InputError: it cannot be read, or has no times.
    """
    return _cursor_at(source, 0).opened


def read_frames(source: LongVideo, position: int, out: np.ndarray) -> tuple[int, str]:
    """Run `FrameCursor.read` from `position` on, in the video that is open if it is this one."""
    return _cursor_at(source, position).read(out)


def read_frames_at(source: LongVideo, indices: np.ndarray, out: np.ndarray) -> None:
    """Run `FrameCursor.read_at`, in the video that is open if it is this one."""
    is_open = _kept and _kept[0].source == source
    (_kept[0] if is_open else _cursor_at(source, 0)).read_at(indices, out)


def close_cursor() -> None:
    """Close the video that is open, if there is one."""
    while _kept:
        _kept.pop().close()


def _cursor_at(source: LongVideo, position: int) -> FrameCursor:
    if _kept and (_kept[0].source, _kept[0].position) == (source, position):
        return _kept[0]
    close_cursor()
    _kept.append(FrameCursor(source, position))
    return _kept[0]
