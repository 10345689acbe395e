"""Decoding just the frames that a clip needs from a video file, through PyAV.

Frames are addressed by their index in the order they are shown, of the file's first video stream.
Opening reads the packets without decoding them: that counts the frames exactly, whatever the
container claims, and tells which packets each frame needs. One decoder is one thread, since many
clips are decoded side by side.
"""

import contextlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vswin_jax.data.decoding.assembly import FrameTransform, assemble, check_found
from vswin_jax.data.decoding.packets import PacketIndex, decode_runs, index_packets
from vswin_jax.errors import InputError

# Of a frame: 8K. A decoder of it takes hundreds of megabytes, and a damaged header says anything.
MAX_PIXELS = 8192 * 4320
# Longer over shorter side: frames are enlarged until the shorter one fits, whatever the other is.
MAX_ASPECT = 32
_LIMIT = {"max_pixels": str(MAX_PIXELS)}
_UNKNOWN_RATE = 30.0  # frames a second, where a file does not say


class VideoFile:
    """One open video file; use it in a `with` statement."""

    def __init__(self, video: str | os.PathLike[str] | bytes, name: str = "") -> None:
        is_bytes = isinstance(video, bytes)
        self.name = (name or "video bytes") if is_bytes else os.fspath(video)
        self._video = video
        self._index: PacketIndex | None = None
        self._container = self._open()
        try:
            self._index = self._read_index()
            self._count = self._index.num_frames if self._index else self._count_frames()
            if not self._count:
                raise InputError(f"{self.name!r} has no video frames: take it off the list.")
        except av.FFmpegError as error:
            self.close()
            raise self._unreadable(error) from error
        except InputError:
            self.close()
            raise

    @property
    def num_frames(self) -> int:
        """How many frames the first video stream shows."""
        return self._count

    def decode(
        self,
        indices: Sequence[int] | np.ndarray,
        transform: FrameTransform | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The upright frames at `indices` [T], uint8 RGB [T, H, W, 3]; only those are decoded.

        Indices may repeat and come in any order. `transform` maps each frame as it comes; the
        result is written to `out`, which is made if it is not given.
        """
        wanted = np.unique(indices)
        try:
            return assemble(
                self._frames(wanted), np.asarray(indices), self._count, self.name, transform, out
            )
        except av.FFmpegError as error:
            raise self._unreadable(error) from error

    def frames(self) -> Iterator[np.ndarray]:
        """All upright frames in the order they are shown, uint8 RGB [H, W, 3]; one at a time.

        Raises:
            InputError: one of them cannot be decoded.
        """
        reformatter = VideoReformatter()
        count = 0
        try:
            for index, frame in self._decode_all():
                if index >= 0:
                    count += 1
                    yield self._upright_rgb(frame, reformatter)
        except av.FFmpegError as error:
            raise self._unreadable(error) from error
        check_found(count, self._count, self.name)

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, in seconds from the first one, float64 [N].

        From the time stamps of the packets; evenly spaced at the stream's average rate where there
        are none.
        """
        index = self._index
        if index:
            shown = index.pts[index.order]
            return (shown - shown[0]) * float(self._stream.time_base)
        return np.arange(self._count) / float(self._stream.average_rate or _UNKNOWN_RATE)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> av.container.InputContainer:
        # "file:" keeps FFmpeg from taking a name such as "a:b.mp4" for a network protocol.
        source = io.BytesIO(self._video) if isinstance(self._video, bytes) else None
        try:
            # Without the limit, looking for the size of a frame takes memory for one.
            container = av.open(source or f"file:{os.fspath(self._video)}", options=_LIMIT)
        except (av.FFmpegError, OSError) as error:
            raise self._unreadable(error) from error
        # FFmpeg reads any text as "tty" art.
        if not container.streams.video or container.format.name == "tty":
            container.close()
            raise InputError(f"{self.name!r} holds no video stream: take it off the list.")
        self._stream = container.streams.video[0]
        self._decoder = self._stream.codec_context
        # PyAV has none for a codec that FFmpeg does not know.
        if self._decoder is None:
            container.close()
            raise InputError(
                f"{self.name!r} is stored with a codec that cannot be decoded here: encode the "
                f"file again."
            )
        self._decoder.thread_type = "NONE"
        self._decoder.thread_count = 1
        # Pictures may be larger than the file's header says.
        self._decoder.options = _LIMIT
        self._size = (self._decoder.width, self._decoder.height)
        try:
            self._check_size()
        except InputError:
            container.close()
            raise
        return container

    def _check_size(self) -> None:
        width, height = self._size
        if width * height > MAX_PIXELS or max(self._size) > MAX_ASPECT * max(1, min(self._size)):
            raise InputError(
                f"{self.name!r} has frames of {width}x{height} pixels, past the limits of "
                f"8192x4320 and of sides of {MAX_ASPECT} to 1: encode the file again, smaller."
            )

    def _unreadable(self, error: Exception) -> InputError:
        cause = getattr(error, "strerror", None) or str(error)
        return InputError(
            f"{self.name!r} cannot be read as a video ({cause}): check the path, or encode the "
            "file again."
        )

    def _read_index(self) -> PacketIndex | None:
        # AVI keeps no display times, and FFmpeg's guesses miss the order when there are B-frames.
        if self._container.format.name == "avi":
            return None
        return index_packets(self._packets(), self.name)

    def _count_frames(self) -> int:
        return sum(1 for _ in self._decode_all())

    def _frames(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(index, RGB frame) of every wanted frame that can be decoded."""
        missing = set(wanted.tolist())
        passes = [self._decode_all()]
        if self._index:
            # Some encoders mark keyframes from which decoding cannot start (intra refresh): what
            # the short way did not show, the long way does.
            passes.insert(0, self._decode_runs(self._index, wanted))
        reformatter = VideoReformatter()
        for index, frame in itertools.chain(*passes):
            if index in missing:
                yield index, self._upright_rgb(frame, reformatter)
                missing.remove(index)
            if not missing:
                return

    def _decode_runs(
        self, index: PacketIndex, wanted: np.ndarray
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode the packets that the wanted frames need, and none between them."""
        decoder = self._decoder
        frame_of = dict(zip(index.pts[index.order[wanted]].tolist(), wanted.tolist(), strict=True))
        runs = decode_runs(index, wanted)
        packets = self._packets_from(index, runs[0][0])
        for first, last in runs:
            decoder.flush_buffers()
            for position, packet in packets:
                if position < first:
                    continue
                # A frame that nobody wants and no other frame leans on need not be decoded.
                decoder.skip_frame = "DEFAULT" if packet.pts in frame_of else "NONREF"
                for frame in decoder.decode(packet):
                    yield frame_of.get(frame.pts, -1), frame
                if position >= last:
                    break
            for frame in decoder.decode(None):
                yield frame_of.get(frame.pts, -1), frame

    def _packets_from(self, index: PacketIndex, first: int) -> Iterator[tuple[int, av.Packet]]:
        """(place in decode order, packet), from the packet `first` or one before it on."""
        if index.packets:
            yield from enumerate(index.packets[first:], first)
            return
        position_of = {pts: position for position, pts in enumerate(index.pts.tolist())}
        self._container.seek(int(index.dts[first]), stream=self._stream, backward=True)
        for packet in self._packets():
            if packet.size:
                yield position_of.get(packet.pts, -1), packet

    def _packets(self) -> Iterator[av.Packet]:
        # PyAV 19 gives back what reading takes at the end or when closed, but not when forgotten.
        with contextlib.closing(self._container.demux(self._stream)) as packets:
            yield from packets

    def _decode_all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of every frame from the first one on."""
        self._container.close()
        self._container = self._open()
        index = self._index
        frame_of = {}
        if index:
            shown = index.pts[index.order].tolist()
            frame_of = {pts: frame for frame, pts in enumerate(shown)}
        frames = itertools.chain.from_iterable(packet.decode() for packet in self._packets())
        for count, frame in enumerate(frames):
            yield (frame_of.get(frame.pts, -1) if index else count), frame

    def _upright_rgb(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        width, height = self._size
        # One thread: FFmpeg starts a pool for every conversion otherwise, dearer than the work.
        rgb = _pixels(reformatter.reformat(frame, width, height, "rgb24", threads=1))
        turns = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """An RGB frame's own memory, uint8 [H, W, 3]; a copy only where its lines are padded."""
    (plane,) = frame.planes
    lines = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return lines[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
