"""From an example to what is stored of it: an mp4 file, a JPEG image a frame, or its own bytes.

Frames come from the decoder that feeds the model, upright and in the order they are shown, so what
is stored is what the model would have seen. The same example and settings give the same bytes.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from vswin_jax.data.decoding.decode import Video, open_video, sample_frames
from vswin_jax.data.decoding.frames import EncodedFrames, FrameFolder
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.prepare.options import Settings

TICK = Fraction(1, 90000)  # seconds, of the time stamps in the files
UNKNOWN_RATE = 30.0  # frames a second, of images and of videos of one frame
_CLOSE = 1e-6  # seconds; far below any frame, far above an error of arithmetic

# A video is the work of one process.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Stored:
    """What is stored of a video.

    content: the bytes of a file, or of a JPEG image for each frame.
    times: when each frame is shown, seconds from the first, float64 [N].
    """

    content: bytes | list[bytes]
    times: np.ndarray
    width: int
    height: int

    @property
    def fps(self) -> float:
        """Frames a second on average."""
        return round(mean_rate(self.times), 6)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return sum(map(len, self._parts()))

    @property
    def sha256(self) -> str:
        """The digest of the content, the images one after another."""
        digest = hashlib.sha256()
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()

    def _parts(self) -> list[bytes]:
        return [self.content] if isinstance(self.content, bytes) else self.content


def store(example: Example, settings: Settings) -> Stored:
    """Reads the whole video and encodes it as the settings say.

    Raises:
        InputError: it cannot be read or encoded; says why.
    """
    if not settings.reencode:
        return _as_it_is(example)
    with open_video(example.video, example.name) as video:
        times, frames = shown_frames(video, settings.fps)
        resized = _resized(frames, settings.short_side, example.name)
        if settings.store == "jpeg":
            return _as_images(resized, times, settings.jpeg_quality)
        return _as_file(resized, times, settings, example.name)


def mean_rate(times: np.ndarray) -> float:
    """Frames a second of frames that are shown at `times` (seconds, float64 [N])."""
    return float((len(times) - 1) / times[-1]) if len(times) > 1 else UNKNOWN_RATE


def shown_frames(video: Video, fps: float) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Times (seconds, float64 [N]) and frames (uint8 RGB [H, W, 3]) of a video at `fps`.

    With 0 they are its own. Otherwise a frame is what was shown at its time: frames of a faster
    video are left out and those of a slower one repeated. Images without times are each shown.
    """
    times = video.times
    if times is None:
        return np.arange(video.num_frames) / (fps or UNKNOWN_RATE), video.frames()
    if not fps:
        return times, video.frames()
    counts = shown_counts(times, fps)
    frames = (
        frame for frame, count in zip(video.frames(), counts, strict=True) for _ in range(count)
    )
    return np.arange(sum(counts)) / fps, frames


def shown_counts(times: np.ndarray, fps: float) -> list[int]:
    """How often each frame that is shown at `times` is the one to see at 0, 1/fps, 2/fps, ..."""
    last = 1 / mean_rate(times)
    count = max(1, round((times[-1] + last) * fps))
    # A time that was rounded down must not show the frame before.
    seen = np.searchsorted(times, np.arange(count) / fps + _CLOSE, side="right") - 1
    return np.bincount(seen, minlength=len(times)).tolist()


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Even height and width of the stored frames; the short side is `short_side` or as it was."""
    scale = min(1.0, short_side / min(height, width)) if short_side else 1.0

    def even(side: int) -> int:
        return max(2, min(2 * round(side * scale / 2), side // 2 * 2))

    return even(height), even(width)


def _resized(frames: Iterable[np.ndarray], short_side: int, name: str) -> Iterator[np.ndarray]:
    first: tuple[int, ...] = ()
    for frame in frames:
        first = first or frame.shape
        if frame.shape != first:
            raise InputError(
                f"The frames of {name!r} are not of one size ({first[1]}x{first[0]} and "
                f"{frame.shape[1]}x{frame.shape[0]}): extract them again at one size."
            )
        height, width = target_size(*frame.shape[:2], short_side)
        if (height, width) != frame.shape[:2]:
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        yield frame


def _as_images(frames: Iterable[np.ndarray], times: np.ndarray, quality: int) -> Stored:
    images, height, width = [], 0, 0
    for frame in frames:
        height, width = frame.shape[:2]
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        _, image = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        images.append(image.tobytes())
    return Stored(images, times, width, height)


def _as_file(
    frames: Iterator[np.ndarray], times: np.ndarray, settings: Settings, name: str
) -> Stored:
    first = next(frames)
    height, width = first.shape[:2]
    try:
        content = encode_mp4(_chained(first, frames), (height, width), times, settings)
    except av.FFmpegError as error:
        raise InputError(
            f"{name!r} cannot be encoded at {width}x{height} ({error.strerror}): take it off the "
            "list."
        ) from error
    _check(content, times, name)
    return Stored(content, times, width, height)


def _chained(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def encode_mp4(
    frames: Iterable[np.ndarray], size: tuple[int, int], times: np.ndarray, settings: Settings
) -> bytes:
    """H.264 in mp4 of uint8 RGB frames of `size` (even height, width), shown at `times`.

    One thread, and neither dates nor library versions in the container. The colours are BT.601 in
    the narrow range, which is what a decoder assumes of a file that does not say.
    """
    file = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = _stream(container, size, mean_rate(times), settings)
        for frame, tick in zip(frames, to_ticks(times).tolist(), strict=True):
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            yuv = reformatter.reformat(rgb, format="yuv420p", threads=1)
            yuv.pts, yuv.time_base = tick, TICK
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())
    return file.getvalue()


def _stream(
    container: av.container.OutputContainer, size: tuple[int, int], rate: float, settings: Settings
) -> av.VideoStream:
    # x264's macroblock tree reads memory that nobody wrote: one in a hundred small videos came out
    # otherwise, and other processors gave other bytes. Without it files are as good for their size.
    options = {"preset": settings.preset, "crf": f"{settings.crf:g}", "mbtree": "0"}
    if settings.fastdecode:
        options["tune"] = "fastdecode"
    rate = Fraction(rate).limit_denominator(10000)
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = TICK
    codec = stream.codec_context
    codec.time_base = TICK
    codec.gop_size = settings.gop
    codec.max_b_frames = settings.bframes
    codec.thread_count = 1
    codec.flags |= Flags.bitexact
    codec.colorspace, codec.color_range = Colorspace.ITU601, ColorRange.MPEG
    return stream


def to_ticks(times: np.ndarray) -> np.ndarray:
    """Time stamps int64 [N] of seconds [N], each at least one later than the one before."""
    ticks = np.round(times * float(1 / TICK)).astype(np.int64)
    places = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - places) + places


def _check(content: bytes, times: np.ndarray, name: str) -> None:
    with open_video(content, name) as video:
        count = video.num_frames
        video.decode([0, count - 1])
    if count != len(times):
        raise InputError(
            f"{name!r} has {len(times)} frames but {count} after it was encoded: take it off the "
            "list."
        )


def _as_it_is(example: Example) -> Stored:
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
        return Stored(content, np.asarray(video.times), width, height)
