"""Generated videos, and the script run in this process."""

import importlib.util
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
WriteVideo = Callable[..., Path]


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Draw smooth coloured waves that move with `number`, uint8 RGB [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin((x * (c + 1) + 2 * y + 5 * number) / 17 + c) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Return a function that writes an H.264 file with B-frames.

    `times` are in seconds, `audio` adds a silent track, `shift` selects other pictures.
    """

    def write(
        name: str = "video.mp4",
        count: int = 24,
        size: tuple[int, int] = (48, 64),
        times: Sequence[float] = (),
        audio: bool = False,
        shift: int = 0,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time_base = Fraction(1, 12000)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=12, options={"crf": "12"})
            stream.height, stream.width = size
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", time_base
            if audio:
                _add_silence(container)
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(picture(number + shift, *size), format="rgb24")
                seconds = times[number] if times else number / 12
                frame.pts, frame.time_base = round(seconds / time_base), time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


def _add_silence(container: av.container.OutputContainer) -> None:
    stream = container.add_stream("aac", rate=16000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.rate, frame.pts = 16000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


@pytest.fixture(scope="session")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script: ModuleType, at_once: type) -> Callable[..., int]:
    """Return a function that runs the command line in this process and returns its exit status."""

    def run(*arguments: object) -> int:
        return script.run([*map(str, arguments)])

    return run


def content_of(folder: Path) -> dict[str, bytes]:
    """Read every file under a folder, by its relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
