"""Opening of video files with FFmpeg, with limits on the size of their frames."""

import io
import os
from typing import Any

import av
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from vswin_jax.data.decoding.untrusted_file import (
    UNTRUSTED_OPTIONS,
    FileSource,
    UntrustedFile,
)
from vswin_jax.data.decoding.video_stream import video_stream
from vswin_jax.errors import InputError

# 8K. Decoding one frame of this size takes hundreds of megabytes, and a damaged header may state
# any size.
MAX_PIXELS = 8192 * 4320
# Longer over shorter side. Frames are resized by their shorter side, so this bounds the longer one.
MAX_ASPECT = 32
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
# To open a network source, and to wait for its next packet.
_NETWORK_SECONDS = (20.0, 60.0)
# PyAV before 19 refuses files whose titles are not UTF-8, unless it is told otherwise.
_METADATA: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def open_container(video: FileSource, name: str, threads: int = 1) -> av.container.InputContainer:
    """Open a file, or a file's bytes, and set up a decoder of some threads for `video_stream`.

    Raises:
      InputError: it is not a video, cannot be decoded here, or has frames that are too large.
    """
    return _prepare(_open(video, name), name, threads)


def open_live(source: str, name: str, threads: int) -> av.container.InputContainer:
    """Open a camera device such as /dev/video0, an address of FFmpeg, or "-" for stdin.

    Raises:
      InputError: there is no such source, or it has no video that can be decoded here.
    """
    is_camera = source.startswith("/dev/video")
    # A network source that has ended without a word would be waited for.
    timeout = _NETWORK_SECONDS if "://" in source else None
    options = {**_LIMITS, "fflags": "nobuffer"}
    try:
        container = av.open(
            "pipe:0" if source == "-" else source,
            format="v4l2" if is_camera else None,
            options=options,
            timeout=timeout,
            **_METADATA,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"The live source {name!r} cannot be opened ({cause}): check that `ffmpeg -i {source}` "
            f"opens it."
        ) from error
    return _prepare(container, name, threads)


def _prepare(
    container: av.container.InputContainer, name: str, threads: int
) -> av.container.InputContainer:
    try:
        decoder = _video_decoder(container, name)
        # Where many clips are decoded side by side, threads within a decoder would only compete.
        decoder.thread_type = "NONE" if threads == 1 else "AUTO"
        decoder.thread_count = threads
        # Pictures are cropped at their left and top to the pixel, not to a multiple of 32.
        decoder.flags |= Flags.unaligned
        # The bitstream may state a larger size than the container's header.
        decoder.options = _LIMITS
        _check_size(decoder, name)
    except InputError:
        container.close()
        raise
    return container


def unreadable(name: str, error: Exception) -> InputError:
    """Return the error for a video that FFmpeg cannot read."""
    cause = getattr(error, "strerror", None) or str(error)
    return InputError(
        f"{name!r} cannot be read as a video ({cause}): check the path, or encode the file again."
    )


def _open(video: FileSource, name: str) -> av.container.InputContainer:
    is_untrusted = isinstance(video, UntrustedFile)
    path = video.path if is_untrusted else video
    # "file:" keeps FFmpeg from taking a name such as "a:b.mp4" for a network protocol.
    source = io.BytesIO(path) if isinstance(path, bytes) else f"file:{os.fspath(path)}"
    # FFmpeg decodes a frame here if the header lacks its size; the limit applies to that too.
    options = {**_LIMITS, **(UNTRUSTED_OPTIONS if is_untrusted else {})}
    try:
        return av.open(source, options=options, **_METADATA)
    except (av.FFmpegError, OSError) as error:
        raise unreadable(name, error) from error


def _video_decoder(container: av.container.InputContainer, name: str) -> VideoCodecContext:
    # FFmpeg's "tty" demuxer accepts any text file as a video of ANSI art.
    stream = video_stream(container)
    if stream is None or container.format.name == "tty":
        raise InputError(f"{name!r} holds no video stream: take it off the list.")
    decoder = stream.codec_context
    # PyAV has no codec context for a codec that this build of FFmpeg lacks.
    if decoder is None:
        raise InputError(
            f"{name!r} is stored with a codec that cannot be decoded here: encode the file again."
        )
    return decoder


def _check_size(decoder: VideoCodecContext, name: str) -> None:
    width, height = decoder.width, decoder.height
    short_side, long_side = sorted((width, height))
    if width * height > MAX_PIXELS or long_side > MAX_ASPECT * max(1, short_side):
        raise InputError(
            f"{name!r} has frames of {width}x{height} pixels, past the limits of 8192x4320 and of "
            f"sides of {MAX_ASPECT} to 1: encode the file again, smaller."
        )
