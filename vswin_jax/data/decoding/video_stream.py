"""Chooses the video stream of an open file, and reads its packets and its frames in order."""

import contextlib
from collections.abc import Iterator

import av
from av.stream import Disposition


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the stream that FFmpeg ranks best, or None if the file holds no video.

    Among streams of equal disposition, FFmpeg prefers films to single images. Attached pictures,
    such as the cover of a song or of a film, are not videos.
    """
    streams = container.streams.video
    pictures = [stream for stream in streams if stream.disposition & Disposition.attached_pic]
    for picture in pictures:
        # The rank is highest for default streams, and lowest for those for the hearing-impaired.
        picture.disposition = Disposition.attached_pic | Disposition.hearing_impaired
    films = [stream for stream in streams if stream not in pictures]
    best = container.streams.best("video")
    return best if best in films else next(iter(films), None)


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """Yield the packets of a stream that are not empty, from the container's position on."""
    # PyAV 19 frees the memory of a demuxing generator when it ends or is closed, but not when it is
    # garbage-collected half way.
    with contextlib.closing(container.demux(stream)) as packets:
        for packet in packets:
            # AVI stores an empty packet where a frame is repeated. A decoder would take it for the
            # end of the stream; `ffmpeg` leaves it out, and so is PyAV's own last packet.
            if packet.size:
                yield packet


def decode_stream(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Yield all frames of a newly opened stream in the order in which the decoder shows them.

    Packets before the first frame may be undecodable, as in recordings that begin between two key
    frames.
    """
    decoder = stream.codec_context
    # Otherwise a decoder that cannot be opened would only fail at its second packet for good.
    decoder.open(strict=False)
    error, is_shown = None, False
    for packet in read_packets(container, stream):
        try:
            frames = decoder.decode(packet)
        except av.InvalidDataError as invalid:
            if is_shown:
                raise
            error, frames = invalid, []
        is_shown |= bool(frames)
        yield from frames
    # Drains the frames that the decoder holds back to reorder them.
    frames = decoder.decode(None)
    if error and not is_shown and not frames:
        raise error
    yield from frames
