"""Data sets with bad files of every kind, through the real command line and the real script."""

import csv
import re
import runpy
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vswin_jax import main

pytestmark = pytest.mark.long
CHECK_VIDEOS = Path(__file__).parents[2] / "scripts" / "check_videos.py"
TOTAL = 200


def encode(
    path: Path, frames: int, *, codec: str = "libx264", side: int = 32, **muxer: str
) -> bytes:
    """Encode a video of one keyframe and predicted frames, whose shades show their positions."""
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for frame in range(frames):
            picture = np.full((side, side, 3), 20 * frame + 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def variable_frame_rate(path: Path) -> bytes:
    """Encode five frames between 30 and 670 ms apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in (0, 40, 200, 230, 900):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), time // 4, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def sound_alone(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path.read_bytes()


def no_frames(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        container.add_stream("libx264", rate=12, width=32, height=32, pix_fmt="yuv420p")
        container.start_encoding()
    return path.read_bytes()


def damaged(path: Path) -> bytes:
    """Overwrite the keyframe and leave the container intact."""
    data = bytearray(encode(path, 6))
    with av.open(str(path)) as container:
        packet = next(container.demux(video=0))
    data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    return bytes(data)


def huge(path: Path) -> bytes:
    """Declare 16,000x16,000 pixels in VP8 frames (little endian) and in the file's header."""
    data = encode(path, 3, codec="libvpx", side=256)
    data = data.replace(
        b"\x9d\x01\x2a\x00\x01\x00\x01", b"\x9d\x01\x2a" + struct.pack("<HH", *SIDES)
    )
    for tag, side in zip((b"\xb0\x82", b"\xba\x82"), SIDES, strict=True):
        data = data.replace(tag + b"\x01\x00", tag + struct.pack(">H", side))
    return data


SIDES = (16_000, 16_000)


def bad_files(folder: Path) -> dict[str, bytes | None]:
    """Return the content of each kind of bad file by its name; None is a missing file."""
    whole = encode(folder / "whole.mp4", 6)
    front = encode(folder / "front.mp4", 6, movflags="faststart")
    return {
        "truncated.mp4": whole[: len(whole) // 2],
        "truncated_in_a_picture.mp4": front[:-3],
        "no_frames.mkv": no_frames(folder / "no_frames.mkv"),
        "wrong_codec.mp4": whole.replace(b"avc1", b"zzzz"),
        "sound_alone.mp4": sound_alone(folder / "sound_alone.mp4"),
        "huge.webm": huge(folder / "huge.webm"),
        "missing.mp4": None,
        "damaged.mp4": damaged(folder / "damaged.mp4"),
        "empty.mp4": b"",
        "text.mp4": b"404 Not Found\n" * 100,
    }


def good_files(folder: Path) -> dict[str, bytes]:
    lengths = {f"{frames}_frames.mp4": frames for frames in (1, 2, 4, 7, 12)}
    files = {name: encode(folder / name, frames) for name, frames in lengths.items()}
    return files | {"uneven.mp4": variable_frame_rate(folder / "uneven.mp4")}


# The expected reason for a file; the reasons for the other files are FFmpeg's.
REASONS = {
    "truncated_in_a_picture.mp4": "cut short after 5 frames",
    "no_frames.mkv": "End of file",
    "wrong_codec.mp4": "codec that cannot be decoded",
    "sound_alone.mp4": "no video stream",
    "huge.webm": "16000x16000 pixels, past the limits",
    "missing.mp4": "No such file",
}


@dataclass(frozen=True)
class DataSet:
    """Annotation files of two hundred videos, and the names of the bad ones."""

    root: Path
    bad: dict[str, list[str]]

    def arguments(self, name: str) -> list[str]:
        return [
            "--config.data.kind=files",
            f"--config.data.train={self.root / name}",
            f"--config.data.eval={self.root / 'held_out.txt'}",
        ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Write few.txt with one bad file of each of ten kinds, and many.txt with twelve of each."""
    root, scratch = (tmp_path_factory.mktemp(name) for name in ("set", "scratch"))
    good = copies(root, good_files(scratch), 190)
    bad = copies(root, bad_files(scratch), 120)
    lists = {"few.txt": bad[:10], "many.txt": bad}
    for name, part in lists.items():
        write_list(root / name, [*good[: TOTAL - len(part)], *part])
    write_list(root / "held_out.txt", good[:4])
    return DataSet(root, lists)


def copies(root: Path, files: dict[str, bytes | None], count: int) -> list[str]:
    """Write `count` files in turn and return their names, also those of missing files."""
    names = []
    for index in range(count):
        name, content = list(files.items())[index % len(files)]
        names.append(f"{index // len(files)}_{name}")
        if content is not None:
            (root / names[-1]).write_bytes(content)
    return names


def write_list(path: Path, names: Sequence[str]) -> None:
    path.write_text("".join(f"{name} {index % 2}\n" for index, name in enumerate(names)))


@pytest.fixture(scope="module")
def settings(tiny_arguments: Sequence[str]) -> list[str]:
    """Return arguments for ten steps an epoch."""
    return [
        *(argument for argument in tiny_arguments if "shapes" not in argument),
        "--config.train.batch_size=20",
        "--config.train.duration=3 epochs",
        "--config.train.checkpoint_every=3 epochs",
    ]


def reasons(path: Path) -> dict[str, str]:
    """Read the reason for each video of a list of bad ones; no video may occur twice."""
    with path.open(newline="") as file:
        rows = [(row["path"], row["reason"]) for row in csv.DictReader(file)]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_training_continues_with_five_percent_of_bad_videos(
    data: DataSet, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    assert main.run([*settings, *data.arguments("few.txt"), f"--workdir={workdir}"]) == 0
    logged = capsys.readouterr().err
    assert "step 30/30" in logged
    assert reasons(workdir / "bad_videos.csv").keys() == set(data.bad["few.txt"])
    # In three epochs a bad file is read in its own turn and as a replacement of another bad file.
    share = re.search(r"(\d+) of (\d+) reads \(.*\) met a video .*bad_videos\.csv", logged)
    assert share
    bad, reads = map(int, share.groups())
    assert 30 <= bad < 45
    assert reads - bad >= 3 * TOTAL


def test_training_stops_with_sixty_percent_of_bad_videos(
    data: DataSet, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    assert main.run([*settings, *data.arguments("many.txt"), f"--workdir={workdir}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert re.match(r"error: \d+ of 2\d reads \(\d\d\.\d%\) met a video that cannot be read", last)
    assert "more than config.data.max_bad_fraction (0.05) allows" in last
    assert reasons(workdir / "bad_videos.csv").keys() <= set(data.bad["many.txt"])


def test_check_videos_finds_the_same_files(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Callable[[Sequence[str]], int] = runpy.run_path(str(CHECK_VIDEOS))["run"]
    found = tmp_path / "found.csv"
    paths = [str(data.root / name) for name in ("few.txt", "held_out.txt")]
    assert run([*paths, "--output", str(found), "--processes", "2"]) == 1
    found_reasons = reasons(found)
    assert list(found_reasons) == sorted(data.bad["few.txt"])
    wrong = {name for name, reason in REASONS.items() if reason not in found_reasons[f"0_{name}"]}
    assert wrong == set()
    assert f"10 of {TOTAL + 4} videos cannot be read" in capsys.readouterr().out
