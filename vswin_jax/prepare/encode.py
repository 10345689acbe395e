"""Encodes an example as it is stored: an mp4 file, a JPEG image for each frame, or its own bytes.

Frames come from the decoder that also feeds the model, upright and in presentation order, so the
stored frames are those that the model would get from the original video. The same example and
options give the same bytes.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from vswin_jax.data.decoding.assembly import check_same_size
from vswin_jax.data.decoding.decode import open_video, sample_frames
from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.prepare.frame_rate import mean_frame_rate, resample_frames
from vswin_jax.prepare.mp4 import encode_mp4
from vswin_jax.prepare.options import PrepareOptions

# Videos are prepared in parallel processes, one at a time in each.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class StoredVideo:
    """A video as it is stored.

    Attributes:
      content: the bytes of a file, or of a JPEG image for each frame.
      times: the presentation times, seconds from the first frame, float64 [N].
      width: of the frames, in pixels.
      height: of the frames, in pixels.
    """

    content: bytes | list[bytes]
    times: np.ndarray
    width: int
    height: int

    @property
    def fps(self) -> float:
        """The mean number of frames a second."""
        return round(mean_frame_rate(self.times), 6)

    @property
    def size(self) -> int:
        """The size of the content in bytes."""
        return sum(map(len, self._parts()))

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content; images are concatenated."""
        digest = hashlib.sha256()
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()

    def _parts(self) -> list[bytes]:
        return [self.content] if isinstance(self.content, bytes) else self.content


def store_video(example: Example, options: PrepareOptions) -> StoredVideo:
    """Read a whole video and encode it.

    Raises:
      InputError: the video cannot be read or encoded.
    """
    if not options.reencode:
        return _copy_file(example)
    with open_video(example.video, example.name) as video:
        times, frames = resample_frames(video, options.fps)
        resized = _resize(frames, options.short_side, example.name)
        if options.store == "jpeg":
            return _encode_images(resized, times, options.jpeg_quality)
        return _encode_file(resized, times, options, example.name)


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the even height and width of stored frames; `short_side` 0 keeps the size.

    Sides are even because 4:2:0 chroma has half the resolution. Frames are never upscaled.
    """
    scale = min(1.0, short_side / min(height, width)) if short_side else 1.0

    def even(side: int) -> int:
        return max(2, min(2 * round(side * scale / 2), side // 2 * 2))

    return even(height), even(width)


def _resize(frames: Iterable[np.ndarray], short_side: int, name: str) -> Iterator[np.ndarray]:
    first_shape: tuple[int, ...] = ()
    for frame in frames:
        first_shape = first_shape or frame.shape
        check_same_size(first_shape, frame.shape, name)
        height, width = target_size(*frame.shape[:2], short_side)
        if (height, width) != frame.shape[:2]:
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        yield frame


def _encode_images(frames: Iterable[np.ndarray], times: np.ndarray, quality: int) -> StoredVideo:
    images, height, width = [], 0, 0
    for frame in frames:
        height, width = frame.shape[:2]
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        _, image = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        images.append(image.tobytes())
    return StoredVideo(content=images, times=times, width=width, height=height)


def _encode_file(
    frames: Iterator[np.ndarray], times: np.ndarray, options: PrepareOptions, name: str
) -> StoredVideo:
    # The encoder needs the size before the first frame.
    first = next(frames)
    height, width = first.shape[:2]
    frames = itertools.chain([first], frames)
    try:
        content = encode_mp4(frames, (height, width), times, options)
    except av.FFmpegError as error:
        raise InputError(
            f"{name!r} cannot be encoded at {width}x{height} ({error.strerror}): take it off the "
            "list."
        ) from error
    _check_frame_count(content, len(times), name)
    return StoredVideo(content=content, times=times, width=width, height=height)


def _check_frame_count(content: bytes, expected: int, name: str) -> None:
    """Raise an InputError unless an encoded file has the expected number of frames."""
    with open_video(content, name) as video:
        count = video.num_frames
        video.decode([0, count - 1])
    if count != expected:
        raise InputError(
            f"{name!r} has {expected} frames but {count} after it was encoded: take it off the "
            "list."
        )


def _copy_file(example: Example) -> StoredVideo:
    """Return the unchanged bytes of a video file that can be decoded."""
    if isinstance(example.video, FrameFolder | EncodedFrames):
        raise InputError(
            f"{example.name!r} is not a video file but images: leave out --no-reencode."
        )
    content = example.video
    if not isinstance(content, bytes):
        try:
            content = Path(content).read_bytes()
        except OSError as error:
            raise InputError(f"{example.name!r} cannot be read: {error.strerror}.") from error
    with open_video(content, example.name) as video:
        height, width = sample_frames(video).shape[1:3]
        return StoredVideo(content, np.asarray(video.times), width=width, height=height)
