"""The door to every kind of video: a file, a file's bytes, or frames that are images."""

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from vswin_jax.data.decoding.assembly import FrameTransform
from vswin_jax.data.decoding.frames import EncodedFrames, EncodedReader, FrameFolder, FrameReader
from vswin_jax.data.decoding.video_file import VideoFile


class Video(Protocol):
    """What every kind of video offers; a context manager that closes it."""

    name: str

    @property
    def num_frames(self) -> int:
        """How many frames there are, exactly."""
        ...

    def decode(
        self,
        indices: Sequence[int] | np.ndarray,
        transform: FrameTransform | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The upright frames at `indices` [T] after `transform`, uint8 RGB [T, H, W, 3].

        They are written to `out`, which is made if it is not given.
        """
        ...

    def frames(self) -> Iterator[np.ndarray]:
        """All upright frames in the order they are shown, uint8 RGB [H, W, 3]; one at a time."""
        ...

    @property
    def times(self) -> np.ndarray | None:
        """When each frame is shown, seconds from the first, float64 [N]; None if nobody knows."""
        ...

    def close(self) -> None:
        """Give back what is held open."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...


def open_video(
    video: str | os.PathLike[str] | bytes | FrameFolder | EncodedFrames, name: str = ""
) -> Video:
    """Open a video file, a folder of frames, or what is in memory, which errors call `name`.

    Raises:
        InputError: it is missing, not a video, cut short, or has no frames.
    """
    if isinstance(video, FrameFolder):
        return FrameReader(video)
    if isinstance(video, EncodedFrames):
        return EncodedReader(video, name)
    return VideoFile(video, name)


def sample_frames(video: Video) -> np.ndarray:
    """The first, the middle and the last frame, to see that a video can be decoded: as `decode`.

    Raises:
        InputError: one of them cannot be decoded.
    """
    last = video.num_frames - 1
    return video.decode(sorted({0, last // 2, last}))
