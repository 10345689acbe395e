"""Decodes only the frames that a clip needs from a video file, with PyAV.

Frames are addressed by their index in the order in which FFmpeg shows them. Opening a file reads
its packets without decoding them: this counts the frames exactly, whatever the container's header
states, and finds the packets that each frame needs. Where the packets alone do not tell the frames
or their order, opening decodes the file to count its frames.
"""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator

import av
import numpy as np
from av.video.frame import PictureType

from vswin_jax.data.decoding.assembly import check_decoded
from vswin_jax.data.decoding.container import open_container, unreadable
from vswin_jax.data.decoding.packets import PacketIndex, index_packets, packet_ranges
from vswin_jax.data.decoding.untrusted_file import FileSource
from vswin_jax.data.decoding.upright_rgb import FrameConverter
from vswin_jax.data.decoding.video import Video
from vswin_jax.data.decoding.video_stream import decode_stream, read_packets, video_stream
from vswin_jax.errors import InputError

_DEFAULT_RATE = 30.0  # frames a second, where a file does not state its rate
_UNKNOWN = -1  # the index of a frame that is not shown or not requested


class VideoFile(Video):
    """An open video file; use it in a `with` statement."""

    def __init__(self, video: FileSource, name: str = "", threads: int = 1) -> None:
        has_path = isinstance(video, str | os.PathLike)
        self.name = os.fspath(video) if has_path else name or "video bytes"
        self._video = video
        self._threads = threads
        self._index: PacketIndex | None = None
        self._container = self._open()
        self._converter = FrameConverter(self._decoder, self._first_frame)
        try:
            self._index = index = self._read_index()
            self._pts = index.pts[index.packet_of_frame] if index else None
            self._num_frames = index.num_frames if index else self._count_frames()
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
        """The number of frames that the video stream shows."""
        return self._num_frames

    @property
    def times(self) -> np.ndarray:
        """The presentation times, seconds from the first frame, float64 [N].

        They are the pts of the frames, or evenly spaced at the stream's average frame rate where
        frames have no usable pts.
        """
        if self._pts is not None:
            # A stream's first pts need not be 0.
            return (self._pts - self._pts[0]) * float(self._stream.time_base)
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
        return np.arange(self._num_frames) / float(rate)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all upright frames in presentation order, uint8 RGB [H, W, 3], one at a time.

        Raises:
          InputError: a frame cannot be decoded.
        """
        count = 0
        try:
            for index, frame in self._decode_all():
                if index == _UNKNOWN:
                    self._converter.observe(frame)
                else:
                    count += 1
                    yield self._converter.convert(frame)
        except av.FFmpegError as error:
            raise unreadable(self.name, error) from error
        check_decoded(count, self._num_frames, self.name)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _open(self) -> av.container.InputContainer:
        container = open_container(self._video, self.name, self._threads)
        self._stream = video_stream(container)
        self._decoder = self._stream.codec_context
        return container

    def _read_index(self) -> PacketIndex | None:
        # AVI stores no pts. FFmpeg derives them from the decode order, which is not the
        # presentation order of a stream with B-frames.
        if self._container.format.name == "avi":
            return None
        return index_packets(read_packets(self._container, self._stream), self.name)

    def _count_frames(self) -> int:
        """Decode all frames to count them; keep their pts if these ascend."""
        stamps = [frame.pts for _, frame in self._decode_all()]
        if None not in stamps and all(a < b for a, b in itertools.pairwise(stamps)):
            self._pts = np.array(stamps)
        return len(stamps)

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
            # Decoding cannot start from every packet that is marked as a key frame: encoders with
            # intra refresh and some containers mark others too. Frames that decoding from the
            # nearest key frame does not give come from a second pass over the whole file.
            passes.insert(0, self._decode_ranges(self._index, indices))
        for index, frame in itertools.chain(*passes):
            if index in missing:
                yield index, self._converter.convert(frame)
                missing.remove(index)
            else:
                self._converter.observe(frame)
            if not missing:
                return

    def _decode_ranges(
        self, index: PacketIndex, indices: np.ndarray
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) from the ranges of packets that the requested frames need.

        Ends early where a range does not begin with a key frame or cannot be decoded.
        """
        pts = index.pts[index.packet_of_frame[indices]]
        # The decoder copies the pts of a packet to its frame, which identifies the frame: frames
        # leave the decoder later than their packets enter it, and in another order.
        frame_of_pts = dict(zip(pts.tolist(), indices.tolist(), strict=True))
        ranges = packet_ranges(index, indices)
        packets = self._packets_from(index, ranges[0][0])
        with contextlib.suppress(av.FFmpegError):
            for first, last in ranges:
                first_pts = int(index.pts[first])
                for frame in self._decode_range(first, last, packets, frame_of_pts.keys()):
                    if frame.pts == first_pts and not _is_keyframe(frame):
                        return
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
            is_needed = position == first or packet.pts in requested_pts
            decoder.skip_frame = "DEFAULT" if is_needed else "NONREF"
            yield from decoder.decode(packet)
            if position >= last:
                break
        # Drains the frames that the decoder holds back to reorder them.
        yield from decoder.decode(None)

    def _packets_from(self, index: PacketIndex, first: int) -> Iterator[tuple[int, av.Packet]]:
        """Yield (position in decode order, packet), from packet `first` on; maybe nothing."""
        if index.packets:
            yield from enumerate(index.packets[first:], first)
            return
        for target in index.seek_targets(first):
            packets = self._packets_after_seek(index, target, first)
            for packet in packets:
                yield packet
                yield from packets
                return

    def _packets_after_seek(
        self, index: PacketIndex, target: int, first: int
    ) -> Iterator[tuple[int, av.Packet]]:
        """Yield (position, packet) from `first` on, while packets are those of the index."""
        # MPEG-PS begins with the end of another packet, whose time stamps and those of the next
        # one are then wrong. Therefore packets are known by both their size and their unique pts.
        positions = {packet: place for place, packet in enumerate(index.stamps_and_sizes())}
        # Most demuxers seek by dts, in units of the stream's time base, and may stop at an earlier
        # key frame than the target.
        self._container.seek(int(index.dts[target]), stream=self._stream, backward=True)
        packets = read_packets(self._container, self._stream)
        found = ((positions.get((p.pts, p.size), _UNKNOWN), p) for p in packets)
        following = itertools.dropwhile(lambda packet: packet[0] < first, found)
        for expected, (position, packet) in enumerate(following, first):
            if position != expected:
                return
            yield position, packet

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
        for count, frame in enumerate(decode_stream(self._container, self._stream)):
            yield (frame_of_pts.get(frame.pts, _UNKNOWN) if index else count), frame

    def _first_frame(self) -> av.VideoFrame:
        """Decode the first frame with a decoder of its own, since the other one may be in use."""
        container = open_container(self._video, self.name)
        frames = decode_stream(container, video_stream(container))
        with contextlib.closing(container), contextlib.closing(frames):
            first = next(frames, None)
        if first is None:
            check_decoded(0, self._num_frames, self.name)
        return first


def _is_keyframe(frame: av.VideoFrame) -> bool:
    """Return True if the decoder found that a frame refers to no other."""
    return frame.key_frame or frame.pict_type == PictureType.I
