"""Opens every kind of video: a file, a file's bytes, or frames that are images."""

import numpy as np

from vswin_jax.data.decoding.frames import EncodedFrames, EncodedReader, FrameFolder, FrameReader
from vswin_jax.data.decoding.untrusted_file import FileSource
from vswin_jax.data.decoding.video import Video
from vswin_jax.runtime.lazy_module import LazyModule

# PyAV, which is not needed where other processes decode.
video_file = LazyModule("vswin_jax.data.decoding.video_file")


def open_video(
    video: FileSource | FrameFolder | EncodedFrames,
    name: str = "",
    threads: int = 1,
) -> Video:
    """Open a video file, a folder of frames, or a video in memory, which errors call `name`.

    The decoder of a file has so many `threads`.

    Raises:
      InputError: it is missing, not a video, cut short, or has no frames.
    """
    if isinstance(video, FrameFolder):
        return FrameReader(video)
    if isinstance(video, EncodedFrames):
        return EncodedReader(video, name)
    return video_file.VideoFile(video, name, threads)


def three_frames(video: Video) -> np.ndarray:
    """Return the indices of the first, the middle and the last frame, each once."""
    last = video.num_frames - 1
    return np.unique([0, last // 2, last])


def sample_frames(video: Video) -> np.ndarray:
    """Decode the first, the middle and the last frame, as a test that the video is readable.

    Raises:
      InputError: one of them cannot be decoded.
    """
    return video.decode(three_frames(video))
