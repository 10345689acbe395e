from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

WriteVideo = Callable[..., Path]


def _frames(count: int, height: int, width: int) -> np.ndarray:
    """Draw smooth moving waves: the encoder uses B-frames for them, and no two frames are equal."""
    y, x = np.mgrid[:height, :width]
    waves = [
        np.stack([127 + 120 * np.sin((x * (c + 1) + y + 4 * t) / 9 + c) for c in range(3)], -1)
        for t in range(count)
    ]
    return np.array(waves).astype(np.uint8)


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Return a function that writes a small H.264 file.

    `x264` are options of the encoder, `muxer` of the container.
    """

    def write(
        name: str = "video.mp4",
        count: int = 24,
        height: int = 48,
        width: int = 64,
        muxer: dict[str, str] | None = None,
        **x264: str,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=muxer or {}) as container:
            stream = container.add_stream("libx264", rate=12)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "20", **x264}
            for frame in _frames(count, height, width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


def decode_every_frame(path: Path) -> np.ndarray:
    """Decode all frames of the first video stream in order, as a reference."""
    with av.open(str(path)) as container:
        frames = [
            np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            for frame in container.decode(video=0)
        ]
    return np.stack(frames)


@pytest.fixture
def every_frame() -> Callable[[Path], np.ndarray]:
    return decode_every_frame
