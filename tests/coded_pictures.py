"""Pictures that carry their frame's index: six blocks are its bits, dark for 0 and bright for 1."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

VIDEOS = Path(__file__).parent / "data" / "videos"


def picture(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Return the frame of `index` (0 to 63), uint8 RGB [height, width, 3]."""
    image = np.full((height, width, 3), 128, np.uint8)
    block = width // 6
    for bit in range(6):
        image[: height // 2, bit * block : (bit + 1) * block] = 235 if index >> bit & 1 else 20
    image[height // 2 :, : width // 4] = (200, 40, 40)
    image[height // 2 :, width // 4 : width // 2] = (40, 200, 40)
    return image


def read_index(image: np.ndarray) -> int:
    """Return the index that an upright frame, uint8 RGB [H, W, 3], carries."""
    height, width = image.shape[:2]
    block = width // 6
    index = 0
    for bit in range(6):
        left = bit * block + block // 4
        mean = image[height // 8 : 3 * height // 8, left : left + block // 2].mean()
        index |= int(mean > 128) << bit
    return index


def write_pictures(
    path: Path,
    indices: Iterable[int],
    codec: str = "libx264",
    times: Iterable[int] | None = None,
    **options: str,
) -> Path:
    """Encode the pictures of `indices` at `times`, by default 0, 1, ..., in 1/25 second."""
    times = itertools.count() if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, time in zip(indices, times, strict=False):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_packets(source: Path, target: Path, *, ascending: bool = False) -> Path:
    """Copy the packets of a video stream; `ascending` gives them stamps that count them."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = (packet for packet in old.demux(video=0) if packet.size)
        for position, packet in enumerate(packets):
            packet.stream = stream
            if ascending:
                packet.pts = packet.dts = position
                packet.duration, packet.time_base = 1, Fraction(1, 25)
            new.mux(packet)
    return target


def indices_shown(path: Path) -> list[int]:
    """Return the indices that the frames of a file carry, as a decoder shows one after another."""
    with av.open(str(path)) as container:
        return [read_index(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
