"""Decodes only the frames that a clip needs from a video file, with PyAV.

Frames are addressed by their index in presentation order, in the file's first video stream.
Opening a file reads its packets without decoding them: this counts the frames exactly, whatever the
container's header states, and finds the packets that each frame needs.
"""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vswin_jax.data.decoding.assembly import check_decoded
from vswin_jax.data.decoding.container import open_container, unreadable
from vswin_jax.data.decoding.packets import PacketIndex, index_packets, packet_ranges
from vswin_jax.data.decoding.video import Video
from vswin_jax.errors import InputError

_DEFAULT_RATE = 30.0  # frames a second, where a file does not state its rate
_UNKNOWN = -1  # the index of a frame that is not shown or not requested


class VideoFile(Video):
    """An open video file; use it in a `with` statement."""

    def __init__(self, video: str | os.PathLike[str] | bytes, name: str = "") -> None:
        is_bytes = isinstance(video, bytes)
        self.name = (name or "video bytes") if is_bytes else os.fspath(video)
        self._video = video
        self._index: PacketIndex | None = None
        self._container = self._open()
        try:
            self._index = self._read_index()
            self._num_frames = self._index.num_frames if self._index else self._count_frames()
            if not self._num_frames:
                raise InputError(f"{self.name!r} has no video frames: take it off the list.")
        except av.FFmpegError as error:
            self.close()
            raise unreadable(self.name, error) from error
        except InputError:
            self.close()
            raise

    @property
    def num_frames(self) -> int:
        """The number of frames that the first video stream shows."""
        return self._num_frames

    @property
    def times(self) -> np.ndarray:
        """The presentation times, seconds from the first frame, float64 [N].

        They are the pts of the packets, or evenly spaced at the stream's average frame rate where
        packets have no usable pts.
        """
        index = self._index
        if index:
            # A stream's first pts need not be 0.
            pts = index.pts[index.packet_of_frame]
            return (pts - pts[0]) * float(self._stream.time_base)
        return np.arange(self._num_frames) / float(self._stream.average_rate or _DEFAULT_RATE)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all upright frames in presentation order, uint8 RGB [H, W, 3], one at a time.

        Raises:
          InputError: a frame cannot be decoded.
        """
        reformatter = VideoReformatter()
        count = 0
        try:
            for index, frame in self._decode_all():
                if index != _UNKNOWN:
                    count += 1
                    yield self._upright_rgb(frame, reformatter)
        except av.FFmpegError as error:
            raise unreadable(self.name, error) from error
        check_decoded(count, self._num_frames, self.name)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _open(self) -> av.container.InputContainer:
        container = open_container(self._video, self.name)
        self._stream = container.streams.video[0]
        self._decoder = self._stream.codec_context
        self._size = (self._decoder.width, self._decoder.height)
        return container

    def _read_index(self) -> PacketIndex | None:
        # AVI stores no pts. FFmpeg derives them from the decode order, which is not the
        # presentation order of a stream with B-frames.
        if self._container.format.name == "avi":
            return None
        return index_packets(self._packets(), self.name)

    def _count_frames(self) -> int:
        return sum(1 for _ in self._decode_all())

    def _decode_unique(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        try:
            yield from self._rgb_frames(indices)
        except av.FFmpegError as error:
            raise unreadable(self.name, error) from error

    def _rgb_frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, RGB frame) of those requested frames that can be decoded."""
        missing = set(indices.tolist())
        passes = [self._decode_all()]
        if self._index:
            # Encoders with intra refresh mark key frames from which decoding cannot start. Frames
            # that decoding from the nearest key frame does not give come from a second pass over
            # the whole file.
            passes.insert(0, self._decode_ranges(self._index, indices))
        reformatter = VideoReformatter()
        for index, frame in itertools.chain(*passes):
            if index in missing:
                yield index, self._upright_rgb(frame, reformatter)
                missing.remove(index)
            if not missing:
                return

    def _decode_ranges(
        self, index: PacketIndex, indices: np.ndarray
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) from the ranges of packets that the requested frames need."""
        pts = index.pts[index.packet_of_frame[indices]]
        # The decoder copies the pts of a packet to its frame, which identifies the frame: frames
        # leave the decoder later than their packets enter it, and in another order.
        frame_of_pts = dict(zip(pts.tolist(), indices.tolist(), strict=True))
        ranges = packet_ranges(index, indices)
        packets = self._packets_from(index, ranges[0][0])
        for first, last in ranges:
            for frame in self._decode_range(first, last, packets, frame_of_pts.keys()):
                yield frame_of_pts.get(frame.pts, _UNKNOWN), frame

    def _decode_range(
        self,
        first: int,
        last: int,
        packets: Iterator[tuple[int, av.Packet]],
        requested_pts: Collection[int],
    ) -> Iterator[av.VideoFrame]:
        """Decode the packets `first` to `last`; earlier ones of `packets` are skipped."""
        decoder = self._decoder
        # Drops the reference frames and the end-of-stream state of the range before.
        decoder.flush_buffers()
        for position, packet in packets:
            if position < first:
                continue
            # Frames that are neither requested nor referred to by others need not be decoded.
            decoder.skip_frame = "DEFAULT" if packet.pts in requested_pts else "NONREF"
            yield from decoder.decode(packet)
            if position >= last:
                break
        # Drains the frames that the decoder holds back to reorder them.
        yield from decoder.decode(None)

    def _packets_from(self, index: PacketIndex, first: int) -> Iterator[tuple[int, av.Packet]]:
        """Yield (position in decode order, packet), from packet `first` or an earlier one on."""
        if index.packets:
            yield from enumerate(index.packets[first:], first)
            return
        # Most demuxers seek by dts, in units of the stream's time base, and may stop at an earlier
        # key frame than the target. Positions are therefore looked up by the unique pts.
        position_of_pts = {pts: position for position, pts in enumerate(index.pts.tolist())}
        self._container.seek(int(index.dts[first]), stream=self._stream, backward=True)
        for packet in self._packets():
            # The last packet is empty: it flushes the decoder, which `_decode_ranges` does itself.
            if packet.size:
                yield position_of_pts.get(packet.pts, _UNKNOWN), packet

    def _packets(self) -> Iterator[av.Packet]:
        # PyAV 19 frees the memory of a demuxing generator when it ends or is closed, but not when
        # it is garbage-collected half way.
        with contextlib.closing(self._container.demux(self._stream)) as packets:
            yield from packets

    def _decode_all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) of every frame from the start of the file."""
        # Opened anew instead of seeking: not every format can seek to its first packet, and the
        # decoder starts without any state.
        self._container.close()
        self._container = self._open()
        index = self._index
        frame_of_pts = {}
        if index:
            pts = index.pts[index.packet_of_frame].tolist()
            frame_of_pts = {stamp: frame for frame, stamp in enumerate(pts)}
        # Packets are decoded up to the empty last one, which drains the decoder.
        frames = itertools.chain.from_iterable(packet.decode() for packet in self._packets())
        for count, frame in enumerate(frames):
            yield (frame_of_pts.get(frame.pts, _UNKNOWN) if index else count), frame

    def _upright_rgb(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        width, height = self._size
        # One thread: otherwise FFmpeg starts a thread pool for each conversion, which costs more
        # than the conversion.
        rgb = _pixels(reformatter.reformat(frame, width, height, "rgb24", threads=1))
        quarter_turns = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """Return an RGB frame's pixels, uint8 [H, W, 3]: a view, or a copy if its rows are padded."""
    (plane,) = frame.planes
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
